//! Processes: what identifies one, and the table of those that own sockets and their ancestors.

use std::sync::Arc;

use super::time::BootTime;

/// What tells one process from every other of this boot: pids are reused, so the start time is part of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessKey {
    /// The process (kernel tgid), in the agent's pid namespace.
    pub pid: u32,
    /// When its first thread started.
    pub started_at: BootTime,
}

/// The file a process runs, as the kernel opened it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileId {
    /// Device number as in `stat.st_dev`.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
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

/// The package that owns an executable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Package {
    /// Package manager: `dpkg`, `rpm` or `apk`.
    pub manager: &'static str,
    /// Package name.
    pub name: Arc<str>,
    /// Installed version.
    pub version: Arc<str>,
    /// Whether the file still has the package's checksum; `None` where the package records none.
    pub is_unmodified: Option<bool>,
}

/// The script that an interpreter runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Script {
    /// Path of the script, absolute where it could be resolved.
    pub path: Arc<str>,
    /// Its hash, like an image's.
    pub hash: ImageHash,
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
}
