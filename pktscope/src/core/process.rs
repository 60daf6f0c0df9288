//! Processes: what identifies one, and the table of those that own sockets and their ancestors.
//!
//! Execs, forks and exits go into a [`ProcessTable`]; a socket's stamp comes out as an [`Arc<Process>`]. What only
//! `/proc` and the file system know is asked for with [`super::effect::Lookup::Process`].

use std::{
    cmp::Ordering,
    hash::{Hash, Hasher},
    sync::Arc,
};

use sha2::{Digest, Sha256};

use super::time::BootTime;

mod entry;
mod image;
pub mod interpreter;
mod lineage;
mod strings;
mod table;

pub use table::{ProcessCounters, ProcessLimits, ProcessTable};

/// Nanoseconds of the tick that `/proc/PID/stat` gives start times in: `USER_HZ` is 100 on every architecture that
/// runs this agent (include/asm-generic/param.h).
pub const START_TICK_NANOS: u64 = 10_000_000;

/// What tells one process from every other of this boot: pids are reused, so the start time is part of it.
///
/// Keys are equal where they name one process, however exact their start times are: see [`Self::rounded`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessKey {
    /// The process (kernel tgid), in the agent's pid namespace.
    pub pid: u32,
    /// When its first thread started.
    pub started_at: BootTime,
}

impl PartialEq for ProcessKey {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for ProcessKey {}

impl PartialOrd for ProcessKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ProcessKey {
    fn cmp(&self, other: &Self) -> Ordering {
        self.identity().cmp(&other.identity())
    }
}

impl Hash for ProcessKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl ProcessKey {
    /// Pid and start tick.
    fn identity(self) -> (u32, u64) {
        (self.pid, self.started_at.0 / START_TICK_NANOS)
    }

    /// The same key with its start time cut to the tick that `/proc` gives, so that both sources agree.
    ///
    /// `/proc` divides the same nanoseconds by the tick and drops the rest (kernel/time/time.c, nsec_to_clock_t); a pid
    /// cannot be used twice within one tick, as pids are given out in a circle.
    pub fn rounded(self) -> Self {
        let (pid, tick) = self.identity();
        Self { pid, started_at: BootTime(tick * START_TICK_NANOS) }
    }

    /// An id that stays the same over restarts of the agent: 32 hexadecimal digits of a SHA-256 over boot id, pid and
    /// start tick.
    pub fn entity_id(self, boot_id: &str) -> Arc<str> {
        let (pid, tick) = self.identity();
        let mut hasher = Sha256::new();
        hasher.update(boot_id.as_bytes());
        hasher.update(pid.to_le_bytes());
        hasher.update(tick.to_le_bytes());
        hexadecimal(&hasher.finalize()[..16]).into()
    }
}

/// Lower-case hexadecimal of bytes.
pub fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// The file a process runs, as the kernel opened it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device number as in `stat.st_dev`.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
}

impl FileId {
    /// From a superblock's `s_dev`, whose low 20 bits are the minor number (include/linux/kdev_t.h), to the number that
    /// `stat` shows (glibc's sysmacros.h, gnu_dev_makedev).
    pub fn from_kernel(s_dev: u32, inode: u64) -> Self {
        let (major, minor) = (u64::from(s_dev >> 20), u64::from(s_dev & 0xf_ffff));
        let device = (major & 0xfff) << 8 | (major & !0xfff) << 32 | minor & 0xff | (minor & !0xff) << 12;
        Self { device, inode }
    }
}

/// The hash of an image, or why there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum ImageHash {
    /// Nobody asked yet, or the answer is on its way.
    #[default]
    Pending,
    /// SHA-256 of the image that ran, lower-case hexadecimal.
    Sha256(Arc<str>),
    /// The image could not be read; never takes the place of a known hash.
    Unreadable(Arc<str>),
}

impl ImageHash {
    /// Takes a later answer; a known hash never gives way to a failure to read it.
    #[must_use]
    pub fn updated(&self, later: &Self) -> Self {
        match (self, later) {
            (known, Self::Pending) | (known @ Self::Sha256(_), Self::Unreadable(_)) => known.clone(),
            (_, answer) => answer.clone(),
        }
    }
}

/// The package that owns an executable, or the layer of a container image that it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Package {
    /// Package manager: `dpkg`, `rpm` or `apk`; `image` for a container image.
    pub manager: &'static str,
    /// Package name; of an image, its name where it is known, else `container image`.
    pub name: Arc<str>,
    /// Installed version; of an image, the layer's folder.
    pub version: Arc<str>,
    /// Whether the file still has the package's checksum, or still is the image's; `None` where the package records none.
    pub is_unmodified: Option<bool>,
}

/// The script that an interpreter runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Script {
    /// Path of the script, absolute where it could be resolved.
    pub path: Arc<str>,
    /// Its hash, like an image's.
    pub hash: ImageHash,
    /// Its owning package, which may be another than the interpreter's.
    pub package: Option<Arc<Package>>,
}

impl Script {
    /// What stands for a path where the code came with the call and no option led it in.
    pub const INLINE: &str = "(inline)";

    /// Whether it is a file, and not an option such as `-c` or `-m MODULE`.
    pub fn is_file(&self) -> bool {
        !self.path.starts_with('-') && &*self.path != Self::INLINE
    }
}

/// What is known of a process; a changed fact makes a new value, shared by reference.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Process {
    /// Identity within this boot.
    pub key: ProcessKey,
    /// Stable over restarts of the agent: derived from boot id, pid and start time.
    pub entity_id: Arc<str>,
    /// The kernel's 16-byte name.
    pub comm: Arc<str>,
    /// Absolute path of the image; empty where it could not be taken, see `missing`.
    pub executable: Arc<str>,
    /// Device and inode of the image.
    pub file: Option<FileId>,
    /// Hash of the image.
    pub hash: ImageHash,
    /// Owning package.
    pub package: Option<Arc<Package>>,
    /// Script, where the executable is an interpreter.
    pub script: Option<Arc<Script>>,
    /// Arguments joined by a space.
    pub command_line: Arc<str>,
    /// User id at exec or fork.
    pub uid: Option<u32>,
    /// Name of the user, where the user database has one.
    pub user: Option<Arc<str>>,
    /// The parent's key.
    pub parent: Option<ProcessKey>,
    /// The parent's executable, kept so that a flow can name it when the parent is gone.
    pub parent_executable: Option<Arc<str>>,
    /// Container id, from the cgroup.
    pub container_id: Option<Arc<str>>,
    /// Container image name or digest, where it is known.
    pub container_image: Option<Arc<str>>,
    /// cgroup2 id.
    pub cgroup_id: Option<u64>,
    /// cgroup2 path below its mount.
    pub cgroup_path: Option<Arc<str>>,
    /// What could not be taken and why, for example `executable: process ended first`.
    pub missing: Option<Arc<str>>,
    /// Whether it is the agent itself.
    pub is_agent: bool,
}

impl Process {
    /// The package that vouches for what runs: the script's where a script file runs, and never its interpreter's.
    pub fn vouching_package(&self) -> Option<&Package> {
        match self.script.as_deref() {
            Some(script) if script.is_file() => script.package.as_deref(),
            _ => self.package.as_deref(),
        }
    }
}
