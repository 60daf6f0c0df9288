//! Files opened once and then only used through that opening, so that what was checked is what is read.
//!
//! Opening never reads, waits or triggers a device: the file is first opened as a mere place (`O_PATH`), looked at, and
//! opened for reading only where it is a regular file.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    sync::Arc,
};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, fstatfs, openat, openat2, readlinkat};

use crate::core::process::FileId;

/// `statfs.f_type` of file systems whose `stat` shows other device or inode numbers than the kernel's own
/// (include/uapi/linux/magic.h; bcachefs: fs/bcachefs/bcachefs_format.h).
const BTRFS: u64 = 0x9123_683e;
const OVERLAYFS: u64 = 0x794c_7630;
const BCACHEFS: u64 = 0xca45_1a4e;

const PLACE: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const DELETED: &str = " (deleted)";

/// What a file's content depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileStamp {
    /// Device and inode.
    pub id: FileId,
    /// Last change of content or inode, nanoseconds since 1970.
    pub changed_at: i128,
    /// Last change of content, nanoseconds since 1970.
    pub modified_at: i128,
    /// Size in bytes.
    pub size: u64,
}

/// Whether an opened file is the one that the kernel told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Device and inode are equal.
    Same,
    /// The file system shows other numbers than the kernel's, so that it can neither be shown nor ruled out.
    NotComparable,
    /// Another file.
    Different,
}

/// A regular file, opened but not yet for reading.
#[derive(Debug)]
pub struct OpenFile {
    place: OwnedFd,
    /// What its content depended on when it was opened.
    pub stamp: FileStamp,
    /// Its path when it was opened first, without the mark of a deleted file.
    pub path: Arc<str>,
    /// Whether no name in a folder leads to it any more.
    pub is_deleted: bool,
}

impl OpenFile {
    /// Opens `path` below a folder; links inside that lead to the root end at that folder.
    pub fn open_in_root(root: impl AsFd, path: impl AsRef<Path>) -> io::Result<Self> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        Self::from_place(openat2(root, path.as_ref(), PLACE, Mode::empty(), resolve)?)
    }

    /// Opens a path relative to a folder.
    pub fn open_in_folder(folder: impl AsFd, path: impl AsRef<Path>) -> io::Result<Self> {
        Self::from_place(openat2(folder, path.as_ref(), PLACE, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?)
    }

    /// Takes a file that was opened with `O_PATH`; its path is read, which is whole only while its mount is one of a mount
    /// namespace: else it starts at that mount's own root (fs/d_path.c, prepend_path).
    pub fn from_place(place: OwnedFd) -> io::Result<Self> {
        let stat = fstat(&place)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(io::ErrorKind::IsADirectory.into()),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
        let link = readlinkat(CWD, own_path(&place), Vec::new())?;
        let link = link.to_string_lossy();
        let is_deleted = stat.st_nlink == 0;
        let path = if is_deleted { link.strip_suffix(DELETED).unwrap_or(&link) } else { &link };
        Ok(Self { stamp: stamp_of(&stat), path: path.into(), is_deleted, place })
    }

    /// Another opening of the same file, as it is now but for its path: its mount may be gone.
    pub fn open_again(&self) -> io::Result<Self> {
        let place = self.place.try_clone()?;
        let stat = fstat(&place)?;
        Ok(Self { stamp: stamp_of(&stat), path: self.path.clone(), is_deleted: stat.st_nlink == 0, place })
    }

    /// Opens it for reading.
    pub fn reader(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        Ok(openat(CWD, own_path(&self.place), flags, Mode::empty())?.into())
    }

    /// Its stamp as it is now.
    pub fn stamp_now(&self) -> io::Result<FileStamp> {
        Ok(stamp_of(&fstat(&self.place)?))
    }

    /// Whether it is the file that the kernel told of.
    pub fn compare(&self, wanted: FileId) -> Match {
        compare(&self.place, self.stamp.id, wanted)
    }

    /// Whether it lies on an overlay, as the files of containers do.
    pub fn is_on_overlay(&self) -> bool {
        self.file_system() == Some(OVERLAYFS)
    }

    fn file_system(&self) -> Option<u64> {
        file_system(&self.place)
    }
}

fn file_system(place: &OwnedFd) -> Option<u64> {
    // The width and sign of `f_type` differ between architectures; magic numbers have 32 bits.
    fstatfs(place).ok().map(|stat| stat.f_type as u64 & 0xffff_ffff)
}

fn compare(place: &OwnedFd, id: FileId, wanted: FileId) -> Match {
    if id == wanted {
        return Match::Same;
    }
    let is_same_inode = id.inode == wanted.inode;
    match file_system(place) {
        // Each subvolume shows a device number of its own; inode numbers are the kernel's.
        Some(BTRFS | BCACHEFS) if is_same_inode => Match::Same,
        Some(OVERLAYFS) if is_same_inode => Match::Same,
        Some(OVERLAYFS) => Match::NotComparable,
        _ => Match::Different,
    }
}

/// Whether an open folder is the one that the kernel told of.
pub fn is_folder(folder: &OwnedFd, wanted: FileId) -> bool {
    fstat(folder).is_ok_and(|stat| compare(folder, stamp_of(&stat).id, wanted) == Match::Same)
}

/// Opens the folder at an absolute path as a process would whose root directory is `root`.
pub fn open_folder_in_root(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, path, PLACE | OFlags::DIRECTORY, Mode::empty(), resolve)?)
}

/// Opens a folder as a starting point.
pub fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, PLACE | OFlags::DIRECTORY, Mode::empty())?)
}

fn own_path(place: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", place.as_raw_fd())
}

#[allow(
    clippy::unnecessary_cast,
    clippy::useless_conversion,
    reason = "the fields' types differ between architectures"
)]
fn stamp_of(stat: &rustix::fs::Stat) -> FileStamp {
    let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    FileStamp {
        id: FileId { device: stat.st_dev as u64, inode: stat.st_ino as u64 },
        changed_at: nanos(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        modified_at: nanos(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
        size: u64::try_from(stat.st_size).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn links_end_at_the_given_root() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("usr/bin")).unwrap();
        fs::write(root.path().join("usr/bin/tool"), "x").unwrap();
        symlink("/usr/bin/tool", root.path().join("alias")).unwrap();
        symlink("usr/bin", root.path().join("bin")).unwrap();
        symlink("/proc/self/fd/0", root.path().join("magic")).unwrap();
        let folder = open_folder(root.path()).unwrap();
        for path in ["/alias", "/bin/tool", "/../../usr/bin/tool"] {
            let file = OpenFile::open_in_root(&folder, path).unwrap();
            assert_eq!(Path::new(&*file.path), root.path().join("usr/bin/tool"), "{path}");
        }
        assert!(OpenFile::open_in_root(&folder, "/magic").is_err());
        assert!(OpenFile::open_in_root(&folder, "/usr").is_err(), "a folder is no file");
    }

    #[test]
    fn a_deleted_file_keeps_its_path_and_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("odd (deleted)");
        fs::write(&path, "content").unwrap();
        let place = open_folder(folder.path()).unwrap();
        let file = OpenFile::open_in_folder(&place, "odd (deleted)").unwrap();
        assert_eq!((Path::new(&*file.path), file.is_deleted), (&*path, false));
        let again = OpenFile::open_in_folder(&place, "odd (deleted)").unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(io::read_to_string(again.reader().unwrap()).unwrap(), "content");
        let place = openat(CWD, own_path(&file.place), PLACE, Mode::empty()).unwrap();
        let gone = OpenFile::from_place(place).unwrap();
        assert_eq!((Path::new(&*gone.path), gone.is_deleted), (&*path, true));
    }

    #[test]
    fn a_pipe_is_never_opened_for_reading() {
        let folder = tempfile::tempdir().unwrap();
        rustix::fs::mknodat(CWD, folder.path().join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        let place = open_folder(folder.path()).unwrap();
        assert!(OpenFile::open_in_folder(&place, "fifo").is_err());
    }
}
