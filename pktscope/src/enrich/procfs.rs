//! Processes as `/proc` shows them.
//!
//! Every reading goes through one opening of `/proc/PID`, which dies with its process: a pid that is used again cannot be
//! taken for the one before it.

use std::{
    io::{self, Read},
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
};

use ahash::AHashMap;
use procfs::process::{Process as Folder, Stat, StatFlags};
use rustix::fs::OFlags;

use super::file::OpenFile;
use crate::core::{
    event::Running,
    process::{ProcessKey, START_TICK_NANOS},
    time::BootTime,
};

/// The most that is read of a command line; more is kept nowhere.
const MAX_ARGUMENT_BYTES: u64 = 4096;

/// The id of this boot, which is part of every process's identity.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// The view on `/proc`.
#[derive(Clone, Copy, Debug)]
pub struct Proc {
    /// What the agent's time namespace adds to start times in `/proc`, in nanoseconds (fs/proc/array.c, do_task_stat).
    offset_nanos: i64,
}

/// One process, opened.
pub struct ProcessFolder {
    folder: Folder,
    stat: Stat,
    /// Who; the start time is exact to a tick.
    pub key: ProcessKey,
}

impl Default for Proc {
    fn default() -> Self {
        Self::new()
    }
}

impl Proc {
    /// The view of this process.
    pub fn new() -> Self {
        let offsets = std::fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        Self { offset_nanos: boot_offset_nanos(&offsets) }
    }

    /// All processes there are, parents before or after their children.
    pub fn running(&self) -> Vec<Running> {
        let folders: Vec<ProcessFolder> = match procfs::process::all_processes() {
            Ok(all) => all.filter_map(|folder| self.checked(folder.ok()?)).collect(),
            Err(error) => {
                tracing::warn!(%error, "cannot list /proc: processes older than the agent stay unknown");
                Vec::new()
            }
        };
        let keys: AHashMap<u32, ProcessKey> = folders.iter().map(|folder| (folder.key.pid, folder.key)).collect();
        folders.iter().map(|folder| folder.running(keys.get(&folder.parent_pid()).copied())).collect()
    }

    /// Opens the process of a key; `None` where it has ended, also where its pid is in use again.
    pub fn open(&self, key: ProcessKey) -> Option<ProcessFolder> {
        self.open_pid(key.pid).filter(|folder| folder.key == key)
    }

    /// Opens whatever process has this pid now.
    pub fn open_pid(&self, pid: u32) -> Option<ProcessFolder> {
        self.checked(Folder::new(i32::try_from(pid).ok()?).ok()?)
    }

    fn checked(&self, folder: Folder) -> Option<ProcessFolder> {
        let stat = folder.stat().ok()?;
        let since_boot = i128::from(stat.starttime) * i128::from(START_TICK_NANOS) - i128::from(self.offset_nanos);
        let started_at = BootTime(u64::try_from(since_boot.max(0)).ok()?);
        let pid = u32::try_from(stat.pid).ok()?;
        Some(ProcessFolder { folder, stat, key: ProcessKey { pid, started_at } })
    }
}

impl ProcessFolder {
    /// The kernel's 16-byte name.
    pub fn comm(&self) -> Arc<str> {
        self.stat.comm.as_str().into()
    }

    /// The present parent, 0 where there is none in this pid namespace.
    pub fn parent_pid(&self) -> u32 {
        u32::try_from(self.stat.ppid).unwrap_or(0)
    }

    /// Whether it is a thread of the kernel.
    pub fn is_kernel_thread(&self) -> bool {
        self.stat.flags & StatFlags::PF_KTHREAD.bits() != 0
    }

    /// Whether it has ended and only waits for its parent to notice.
    pub fn is_zombie(&self) -> bool {
        matches!(self.stat.state, 'Z' | 'X')
    }

    /// Effective user.
    pub fn uid(&self) -> Option<u32> {
        self.folder.status().ok().map(|status| status.euid)
    }

    /// Its image.
    pub fn image(&self) -> io::Result<OpenFile> {
        self.if_there(OpenFile::from_place(self.place("exe")?)?)
    }

    /// One of its open files.
    pub fn descriptor(&self, number: u32) -> io::Result<OpenFile> {
        self.if_there(OpenFile::from_place(self.place(&format!("fd/{number}"))?)?)
    }

    /// Opens a path as it would whose root directory is its own.
    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<OpenFile> {
        self.if_there(OpenFile::open_in_root(self.root()?, path)?)
    }

    /// Opens a path relative to its working directory.
    pub fn open_relative(&self, path: impl AsRef<Path>) -> io::Result<OpenFile> {
        self.if_there(OpenFile::open_in_folder(self.working_directory()?, path)?)
    }

    /// A file that was opened through it, where its path is whole: a process lets go of its root before it leaves its mount
    /// namespace (kernel/exit.c, do_exit), so that namespace was there as long as the root can be opened.
    pub fn if_there(&self, file: OpenFile) -> io::Result<OpenFile> {
        let ended = |_| io::Error::other("the process ended while it was looked at");
        self.root().map(|_| file).map_err(ended)
    }

    /// Its working directory.
    pub fn working_directory(&self) -> io::Result<OwnedFd> {
        self.place("cwd")
    }

    /// The path of its working directory.
    pub fn working_directory_path(&self) -> io::Result<String> {
        Ok(self.folder.cwd().map_err(io_error)?.to_string_lossy().into_owned())
    }

    /// Its root directory.
    pub fn root(&self) -> io::Result<OwnedFd> {
        self.place("root")
    }

    /// Its arguments, each ended by a NUL; bytes that are no UTF-8 are replaced.
    pub fn arguments(&self) -> io::Result<String> {
        let mut bytes = Vec::new();
        self.folder.open_relative("cmdline").map_err(io_error)?.take(MAX_ARGUMENT_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// `/proc/PID/cgroup`.
    pub fn cgroups(&self) -> io::Result<String> {
        self.read("cgroup")
    }

    /// `/proc/PID/mountinfo`.
    pub fn mounts(&self) -> io::Result<String> {
        self.read("mountinfo")
    }

    fn read(&self, name: &str) -> io::Result<String> {
        io::read_to_string(self.folder.open_relative(name).map_err(io_error)?)
    }

    fn place(&self, name: &str) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        Ok(self.folder.open_relative_flags(name, flags).map_err(io_error)?.into())
    }

    fn running(&self, parent: Option<ProcessKey>) -> Running {
        let image = self.image();
        let link = |image: &OpenFile| image.path.clone();
        Running {
            key: self.key,
            parent,
            uid: self.uid(),
            comm: self.comm(),
            executable: image.as_ref().map_or_else(|_| "".into(), link),
            file: image.as_ref().ok().map(|image| image.stamp.id),
            arguments: self.arguments().unwrap_or_default().split_terminator('\0').map(Arc::from).collect(),
            is_kernel_thread: self.is_kernel_thread(),
        }
    }
}

fn io_error(error: procfs::ProcError) -> io::Error {
    match error {
        procfs::ProcError::NotFound(_) => io::ErrorKind::NotFound.into(),
        procfs::ProcError::PermissionDenied(_) => io::ErrorKind::PermissionDenied.into(),
        procfs::ProcError::Io(error, _) => error,
        other => io::Error::other(other),
    }
}

/// From `/proc/self/timens_offsets`: the line `boottime SECONDS NANOSECONDS` (kernel/time/namespace.c).
fn boot_offset_nanos(offsets: &str) -> i64 {
    let parse = |line: &str| {
        let mut words = line.split_whitespace().skip_while(|word| !matches!(*word, "boottime" | "7")).skip(1);
        let seconds: i64 = words.next()?.parse().ok()?;
        let nanos: i64 = words.next()?.parse().ok()?;
        Some(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    };
    offsets.lines().find_map(parse).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::{clock, core::process::FileId};

    fn own_key() -> ProcessKey {
        Proc::new().open_pid(std::process::id()).unwrap().key
    }

    #[test]
    fn this_process_is_among_the_running_ones_with_its_parent() {
        let running = Proc::new().running();
        let own = running.iter().find(|row| row.key.pid == std::process::id()).unwrap();
        assert_eq!(&*own.executable, std::env::current_exe().unwrap().to_str().unwrap());
        assert_eq!(own.arguments.len(), std::env::args().count());
        assert_eq!(own.parent.unwrap().pid, std::os::unix::process::parent_id());
        assert!(own.key.started_at <= clock::now().boot);
        assert!(running.iter().any(|row| row.is_kernel_thread && row.executable.is_empty()) || own.key.pid < 100);
    }

    #[test]
    fn a_key_with_another_start_time_opens_nothing() {
        let key = own_key();
        assert!(Proc::new().open(key).is_some());
        let exact = ProcessKey { started_at: BootTime(key.started_at.0 + START_TICK_NANOS - 1), ..key };
        assert!(Proc::new().open(exact).is_some(), "the kernel's nanoseconds fall into the same tick");
        let former = ProcessKey { started_at: BootTime(key.started_at.0 - 1), ..key };
        assert!(Proc::new().open(former).is_none());
    }

    #[test]
    fn an_opened_process_that_ended_is_not_read_from_its_successor() {
        let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).spawn().unwrap();
        let folder = Proc::new().open_pid(child.id()).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(folder.image().is_err() && folder.arguments().is_err() && folder.cgroups().is_err());
    }

    #[test]
    fn the_image_is_the_file_that_stat_shows() {
        use std::os::unix::fs::MetadataExt;
        let image = Proc::new().open(own_key()).unwrap().image().unwrap();
        let stat = std::fs::metadata(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(image.stamp.id, FileId { device: stat.dev(), inode: stat.ino() });
        assert_eq!(image.stamp.size, stat.len());
    }

    #[test]
    fn a_time_namespaces_offset_is_read() {
        assert_eq!(
            boot_offset_nanos("monotonic           0         0\nboottime        -100 500000000\n"),
            -99_500_000_000
        );
        assert_eq!(boot_offset_nanos(""), 0);
    }
}
