//! Which file a process runs, as one that can be opened.
//!
//! A living process is asked itself. Of one that has ended the names that are known are tried in every place where they
//! may mean something, and only the file whose device and inode the kernel recorded at the exec is taken.

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::{fd::OwnedFd, unix::ffi::OsStrExt as _},
    path::Path,
    sync::Arc,
};

use super::{
    file::{Match, OpenFile, open_folder},
    procfs::ProcessFolder,
    seen::SeenFiles,
};
use crate::core::{
    effect::ProcessLookup,
    time::{BootTime, Moment},
};

/// Where the kernel's names for files in memory start (mm/memfd.c).
const MEMFD: &str = "/memfd:";

/// The start of a `#!` line is at most this long (include/uapi/linux/binfmts.h, BINPRM_BUF_SIZE).
const SCRIPT_HEAD_BYTES: u64 = 256;

/// Where to look: a process that may have ended, and those around it.
pub struct Surroundings<'a> {
    /// The process itself, where it still runs.
    pub own: Option<&'a ProcessFolder>,
    /// Its parent, where that still runs.
    pub parent: Option<&'a ProcessFolder>,
    /// The host's root directory.
    pub host_root: &'a OwnedFd,
}

/// A file found, or why none was.
#[derive(Debug, Default)]
pub struct Found {
    /// Absolute path.
    pub path: Option<Arc<str>>,
    /// The file, where it is sure to be the one that ran.
    pub file: Option<OpenFile>,
    /// What could not be found out and why, or what is odd about it.
    pub missing: Option<String>,
}

/// Finds the image of a process; `now` is the moment of asking.
pub fn find(question: &ProcessLookup, around: &Surroundings<'_>, seen: &mut SeenFiles, now: Moment) -> Found {
    let found = match around.own.map(|own| living(question, own)) {
        Some(Ok(found)) => found,
        Some(Err(failure)) => ended(question, around, seen, &failure, now),
        None => ended(question, around, seen, "the process ended before it could be looked at", now),
    };
    if let Some(file) = &found.file {
        seen.remember(question.file.unwrap_or(file.stamp.id), file, now.boot);
    }
    found
}

fn living(question: &ProcessLookup, own: &ProcessFolder) -> Result<Found, String> {
    let mut file = own.image().map_err(|error| describe_failure(&error))?;
    if question.file.is_some_and(|wanted| file.compare(wanted) == Match::Different) {
        return Err("the process ran another program before it could be looked at".to_owned());
    }
    if let Some(path) = path_before_unmounting(&file, question, own) {
        file.path = path;
    }
    let missing = match (file.is_deleted, file.path.starts_with(MEMFD)) {
        (true, true) => Some("executable: a file in memory (memfd) that no path leads to".to_owned()),
        (true, false) => Some("executable: deleted since the process started".to_owned()),
        (false, _) => None,
    };
    Ok(Found { path: Some(file.path.clone()), file: Some(file), missing })
}

/// The path of a running file whose mount was taken away (`umount -l`): what is left of it is the end of the one that was
/// known before or that exec was given, and leads to another file or none.
fn path_before_unmounting(file: &OpenFile, question: &ProcessLookup, own: &ProcessFolder) -> Option<Arc<str>> {
    let is_longer =
        |path: &&Arc<str>| path.starts_with('/') && path.len() > file.path.len() && path.ends_with(&*file.path);
    let whole = [&question.executable, &question.filename].into_iter().find(is_longer)?;
    let is_whole = own.open(&*file.path).is_ok_and(|found| found.stamp.id == file.stamp.id);
    (!is_whole).then(|| whole.clone())
}

fn describe_failure(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "/proc/PID/exe may not be read (CAP_SYS_PTRACE is missing)".to_owned(),
        _ => "the process ended before it could be looked at".to_owned(),
    }
}

fn ended(
    question: &ProcessLookup,
    around: &Surroundings<'_>,
    seen: &mut SeenFiles,
    failure: &str,
    now: Moment,
) -> Found {
    if let Some(file) = question.file.and_then(|wanted| seen.open_again(wanted)) {
        return unless_changed(file, question, now);
    }
    let mut by_name = None;
    for file in candidates(question, around, seen) {
        match question.file.map_or(Match::NotComparable, |wanted| file.compare(wanted)) {
            Match::Same => return unless_changed(file, question, now),
            Match::NotComparable => by_name = by_name.or(Some(file)),
            Match::Different => {}
        }
    }
    if let Some(name) = memory_name(question, seen) {
        return Found {
            path: Some(name),
            missing: Some(format!("executable: a file in memory (memfd): {failure}")),
            file: None,
        };
    }
    match by_name {
        Some(file) => Found {
            missing: Some(format!("executable: {} by its name only: {failure}", file.path)),
            path: Some(file.path.clone()),
            file: None,
        },
        None => Found { missing: Some(format!("executable: {failure}")), ..Found::default() },
    }
}

/// The name of a file in memory that went with its process: its directory entry's, or the process's own, which newer kernels
/// take from it and cut to 15 bytes (fs/exec.c, begin_new_exec).
fn memory_name(question: &ProcessLookup, seen: &SeenFiles) -> Option<Arc<str>> {
    let is_in_memory = question.file.is_some_and(|file| Some(file.device) == seen.memory_device());
    let names = [&question.image_name, &question.comm];
    let name = names.into_iter().find_map(|name| name.strip_prefix("memfd:")).unwrap_or("");
    is_in_memory.then(|| format!("{MEMFD}{name}").into())
}

/// Whether a file was changed after a process ran its image.
pub fn is_changed_since(file: &OpenFile, question: &ProcessLookup, now: Moment) -> bool {
    let ran_at = i128::from(now.wall_at(question.image_at).0);
    // Deleting a file counts as a change of it too, but not of its content.
    let changed_at = if file.is_deleted { file.stamp.modified_at } else { file.stamp.changed_at };
    question.image_at != BootTime(0) && ran_at < changed_at
}

/// A file that was written after it ran still has its path, but what ran is gone.
fn unless_changed(file: OpenFile, question: &ProcessLookup, now: Moment) -> Found {
    let is_changed = is_changed_since(&file, question, now);
    Found {
        path: Some(file.path.clone()),
        missing: is_changed.then(|| "executable: its file was changed after it ran".to_owned()),
        file: (!is_changed).then_some(file),
    }
}

/// Files that the known names lead to, best first.
fn candidates<'a>(
    question: &'a ProcessLookup,
    around: &'a Surroundings<'_>,
    seen: &mut SeenFiles,
) -> impl Iterator<Item = OpenFile> + 'a {
    let known = question.file.and_then(|file| seen.path(file));
    let interpreter = question.arguments.split('\0').next().unwrap_or("").into();
    let names = [known, Some(question.executable.clone()), Some(question.filename.clone()), Some(interpreter)];
    let raw = question.raw_filename.iter().flat_map(|name| open_everywhere(OsStr::from_bytes(name), around));
    let named = names.into_iter().flatten().flat_map(|name| open_everywhere(OsStr::new(&*name), around));
    let files = raw.chain(named);
    // A script's own name leads to the script; what ran is the interpreter in its first line.
    files.flat_map(|file| {
        let interpreter = interpreter_of(&file);
        let behind = interpreter.map(|name| open_everywhere(OsStr::new(&name), around)).unwrap_or_default();
        std::iter::once(file).chain(behind)
    })
}

/// Every file that a name may mean: on the host and in the parent's own tree, or from the parent's working directory.
fn open_everywhere(name: &OsStr, around: &Surroundings<'_>) -> Vec<OpenFile> {
    if name.is_empty() {
        return Vec::new();
    }
    if !name.as_bytes().starts_with(b"/") {
        return around.parent.and_then(|parent| parent.open_relative(name).ok()).into_iter().collect();
    }
    let in_parents = || around.parent.and_then(|parent| parent.open(name).ok());
    let on_host = OpenFile::open_in_root(around.host_root, name).ok();
    on_host.into_iter().chain(in_parents()).collect()
}

/// The interpreter in a `#!` line (fs/binfmt_script.c, load_script).
fn interpreter_of(file: &OpenFile) -> Option<String> {
    let mut head = Vec::new();
    file.reader().ok()?.take(SCRIPT_HEAD_BYTES).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    line.trim().split([' ', '\t']).next().map(str::to_owned)
}

/// The host's root directory: that of init, which a container with the host's pid namespace sees too, else the agent's own.
pub fn host_root() -> &'static Path {
    let init = Path::new("/proc/1/root");
    if open_folder(init).is_ok() { init } else { Path::new("/") }
}
