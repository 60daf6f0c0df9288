//! Which script an interpreter runs, as a file that can be opened.
//!
//! In: the interpreter's path and arguments, and the process or what is left around it. Out: the script's path and the
//! file, or why there is none.

use std::{io, sync::Arc};

use sha2::{Digest, Sha256};

use super::{
    file::{OpenFile, is_folder, open_folder_in_root},
    image::{Surroundings, is_changed_since},
    procfs::ProcessFolder,
    seen::SeenFiles,
};
use crate::core::{
    effect::ProcessLookup,
    process::{
        ImageHash, Script, hexadecimal,
        interpreter::{self, Program},
    },
    time::Moment,
};

/// A script, before its file is hashed.
#[derive(Debug)]
pub struct FoundScript {
    /// Absolute where it could be resolved, else as written; `-m MODULE` or `-c` where it is no file.
    pub path: Arc<str>,
    /// The file to hash.
    pub file: Option<OpenFile>,
    /// Its hash as far as it is known without reading a file.
    pub hash: ImageHash,
}

/// Where a script is looked for.
pub struct Search<'a> {
    /// The process.
    pub question: &'a ProcessLookup,
    /// It and those around it.
    pub around: &'a Surroundings<'a>,
    /// Folders of processes that were seen alive.
    pub seen: &'a mut SeenFiles,
    /// The moment of asking.
    pub now: Moment,
}

impl Search<'_> {
    /// The script that `executable` runs, where it is an interpreter; arguments are each ended by a NUL.
    pub fn find(&mut self, executable: &str, arguments: &str) -> Option<FoundScript> {
        let arguments: Vec<&str> = arguments.split_terminator('\0').collect();
        match interpreter::program_of(executable, &arguments) {
            Some(Program::File(path)) => Some(self.open(path)),
            Some(Program::Module { option, name }) => Some(FoundScript {
                path: module_path(option, name).into(),
                file: None,
                hash: ImageHash::Unreadable("a module, which the interpreter looks for by itself".into()),
            }),
            Some(Program::Inline { option, code }) => Some(FoundScript {
                path: if option.is_empty() { Script::INLINE.into() } else { option.into() },
                file: None,
                hash: ImageHash::Sha256(hexadecimal(&Sha256::digest(code.as_bytes())).into()),
            }),
            None if interpreter::is_script_run(&self.question.filename, &arguments) => {
                Some(self.open(&self.question.filename))
            }
            None => None,
        }
    }

    fn open(&mut self, path: &str) -> FoundScript {
        match self.open_as_the_process(path) {
            Ok(file) if self.around.own.is_none() && is_changed_since(&file, self.question, self.now) => FoundScript {
                path: file.path,
                file: None,
                hash: ImageHash::Unreadable("its file was changed after it ran".into()),
            },
            Ok(file) => FoundScript { path: file.path.clone(), file: Some(file), hash: ImageHash::Pending },
            Err(error) => {
                FoundScript { path: path.into(), file: None, hash: ImageHash::Unreadable(error.to_string().into()) }
            }
        }
    }

    /// Opens a path as the process would; an absolute one as its parent would where it has ended.
    fn open_as_the_process(&mut self, path: &str) -> io::Result<OpenFile> {
        if let Some(number) = descriptor_of(path) {
            let ended = || io::Error::other("an open file of a process that has ended");
            return self.around.own.ok_or_else(ended)?.descriptor(number);
        }
        if path.starts_with('/') {
            return self.open_absolute(path);
        }
        match self.around.own {
            Some(own) => self.open_in_working_directory(path, own),
            None if !self.question.script.is_empty() => self.open_absolute(&self.question.script),
            None => self.open_where_it_was(path),
        }
    }

    fn open_absolute(&self, path: &str) -> io::Result<OpenFile> {
        let process = self.around.own.or(self.around.parent).filter(|process| process.root().is_ok());
        match process {
            Some(process) => process.open(path),
            None => OpenFile::open_in_root(self.around.host_root, path),
        }
    }

    /// Opens a relative path; links in it that lead to the root end at the process's own root, where its folder's path can
    /// be followed from there.
    fn open_in_working_directory(&mut self, path: &str, process: &ProcessFolder) -> io::Result<OpenFile> {
        let from_root = || process.open(format!("{}/{path}", process.working_directory_path()?));
        let folder = process.working_directory();
        if let (Some(id), Ok(folder), Ok(path)) = (self.question.folder, &folder, process.working_directory_path())
            && is_folder(folder, id)
        {
            self.seen.remember_folder(id, path);
        }
        from_root().or_else(|_| process.open_relative(path))
    }

    /// Opens a relative path of a process that has ended, from the folder that the kernel says it was run from: its
    /// parent's, or one that another process was seen in. Any other folder may hold another script of that name.
    fn open_where_it_was(&mut self, path: &str) -> io::Result<OpenFile> {
        let ended = || io::Error::other("the process ended before its working directory could be read");
        let wanted = self.question.folder.ok_or_else(ended)?;
        if let Some(parent) = self.around.parent
            && let Some(folder) = parent.working_directory().ok().filter(|folder| is_folder(folder, wanted))
        {
            return parent.if_there(OpenFile::open_in_folder(folder, path)?);
        }
        let seen = self.seen.folder(wanted).and_then(|path| open_folder_in_root(self.around.host_root, path).ok());
        OpenFile::open_in_folder(seen.filter(|folder| is_folder(folder, wanted)).ok_or_else(ended)?, path)
    }
}

fn module_path(option: &str, name: &str) -> String {
    let option = option.strip_suffix(name).filter(|rest| !rest.is_empty()).unwrap_or(option);
    format!("{option} {name}").trim_start().to_owned()
}

/// The number of an open file that a path stands for: these links lead to whoever follows them.
fn descriptor_of(path: &str) -> Option<u32> {
    if path == "/dev/stdin" {
        return Some(0);
    }
    let number = path.strip_prefix("/dev/fd/").or_else(|| path.strip_prefix("/proc/self/fd/"))?;
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        os::unix::fs::MetadataExt,
        process::Command,
    };

    use super::*;
    use crate::{core::process::FileId, enrich::procfs::Proc};

    #[test]
    fn a_folder_that_was_seen_before_needs_no_parent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        fs::write(path.join("job.sh"), "true\n").unwrap();
        let stat = fs::metadata(&path).unwrap();
        let id = FileId { device: stat.dev(), inode: stat.ino() };
        let mut seen = SeenFiles::default();
        seen.remember_folder(id, path.to_str().unwrap().to_owned());
        let mut process = Command::new("sleep").arg("60").current_dir("/").spawn().unwrap();
        let parent = Proc::new().open_pid(process.id()).unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        let host_root = File::open("/").unwrap().into();
        let around = Surroundings { own: None, parent: Some(&parent), host_root: &host_root };
        let question = ProcessLookup { folder: Some(id), ..ProcessLookup::default() };
        let mut search = Search { question: &question, around: &around, seen: &mut seen, now: Moment::default() };
        let found = search.find("/bin/sh", "sh\0job.sh\0").unwrap();
        assert_eq!((&*found.path, found.file.is_some()), (path.join("job.sh").to_str().unwrap(), true), "{found:?}");
    }
}
