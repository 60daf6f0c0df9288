//! Asks every package manager that a host has, and remembers the answers.

use std::{
    io,
    num::NonZeroUsize,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use lru::LruCache;
use md5::Md5;
use sha1::Sha1;
use sha2::{Sha256, Sha512};

use super::{apk, dpkg::Dpkg, rpm::Rpm};
use crate::{
    core::process::{FileId, Package, hexadecimal},
    enrich::{
        file::{OpenFile, open_folder},
        hash::Hasher,
    },
};

/// Files whose package is remembered.
const MAX_KNOWN: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// Folders that are links below `/usr` where `/usr` is merged; packages may still name files by the old path
/// (systemd's file-hierarchy(7)).
const MERGED: [&str; 6] = ["/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/"];

/// What a package manager says of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The package's name.
    pub name: String,
    /// Its version as the manager writes it, with epoch and release.
    pub version: String,
    /// What the file's content was, where the manager says it.
    pub checksum: Option<Checksum>,
}

/// A checksum of a whole file, lower-case hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// MD5.
    Md5(String),
    /// SHA-1.
    Sha1(String),
    /// SHA-256.
    Sha256(String),
    /// SHA-512.
    Sha512(String),
}

impl Checksum {
    fn is_of(&self, file: &OpenFile, hasher: &mut Hasher) -> io::Result<bool> {
        let (wanted, found) = match self {
            Self::Md5(wanted) => (wanted, hasher.digest::<Md5>(file)?),
            Self::Sha1(wanted) => (wanted, hasher.digest::<Sha1>(file)?),
            Self::Sha256(wanted) => (wanted, hasher.digest::<Sha256>(file)?),
            Self::Sha512(wanted) => (wanted, hasher.digest::<Sha512>(file)?),
        };
        Ok(*wanted == hexadecimal(&found))
    }
}

/// What a file of a database depended on when it was read: inode, change time, size.
pub(super) type DatabaseStamp = Option<(u64, i64, i64, u64)>;

pub(super) fn stamp_of(path: &Path) -> DatabaseStamp {
    let stat = std::fs::metadata(path).ok()?;
    Some((stat.ino(), stat.ctime(), stat.ctime_nsec(), stat.size()))
}

/// The paths that a package may know a file by: its own, and that of before `/usr` was merged.
pub(super) fn aliases(path: &str) -> impl Iterator<Item = &str> {
    let old = path.strip_prefix("/usr").filter(|rest| MERGED.iter().any(|folder| rest.starts_with(folder)));
    std::iter::once(path).chain(old)
}

/// The packages of a host.
pub struct Packages {
    root: PathBuf,
    root_folder: OwnedFd,
    dpkg: Dpkg,
    rpm: Rpm,
    databases: [DatabaseStamp; 3],
    known: LruCache<(FileId, i128, u64), Option<Arc<Package>>>,
}

impl Packages {
    /// The packages below a root directory.
    ///
    /// # Errors
    /// Where that directory cannot be opened.
    pub fn new(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: root.to_owned(),
            root_folder: open_folder(root)?,
            dpkg: Dpkg::new(root),
            rpm: Rpm::new(root),
            databases: [None; 3],
            known: LruCache::new(MAX_KNOWN),
        })
    }

    /// Whether a file is the one that lies at its path below the root: the packages know no other.
    pub fn is_installed(&self, file: &OpenFile) -> bool {
        let in_place = OpenFile::open_in_root(&self.root_folder, self.inner_path(file));
        !file.is_deleted && in_place.is_ok_and(|there| there.stamp.id == file.stamp.id)
    }

    /// The package that a file belongs to; `None` where there is none.
    ///
    /// # Errors
    /// Where a database is there but cannot be read, with a sentence for the user.
    pub fn find(&mut self, file: &OpenFile, hasher: &mut Hasher) -> Result<Option<Arc<Package>>, String> {
        self.reload();
        let stamp = file.stamp_now().unwrap_or(file.stamp);
        let key = (stamp.id, stamp.changed_at, stamp.size);
        if let Some(known) = self.known.get(&key) {
            return Ok(known.clone());
        }
        if !self.is_installed(file) {
            return Ok(None);
        }
        let found = self.ask(&self.inner_path(file))?;
        let package = found.map(|(manager, owner)| Arc::new(package(manager, owner, file, hasher)));
        self.known.put(key, package.clone());
        Ok(package)
    }

    fn ask(&mut self, path: &str) -> Result<Option<(&'static str, Owner)>, String> {
        if let Some(owner) = self.dpkg.owner(path).map_err(|error| format!("the dpkg database: {error}"))? {
            return Ok(Some(("dpkg", owner)));
        }
        if let Some(owner) = apk::owner(&self.root, path).map_err(|error| format!("the apk database: {error}"))? {
            return Ok(Some(("apk", owner)));
        }
        let owner = self.rpm.owner(path).map_err(|error| format!("the rpm database: {error}"))?;
        Ok(owner.map(|owner| ("rpm", owner)))
    }

    /// A file's path below the root.
    fn inner_path(&self, file: &OpenFile) -> String {
        let below = match self.root.to_str() {
            Some("/" | "/proc/1/root") | None => None,
            Some(root) => file.path.strip_prefix(root),
        };
        below.unwrap_or(&file.path).to_owned()
    }

    /// Forgets what was read from a database that has changed.
    fn reload(&mut self) {
        let databases = [self.dpkg.stamp(), apk::stamp(&self.root), self.rpm.stamp()];
        if self.databases != databases {
            self.databases = databases;
            self.known.clear();
        }
    }
}

fn package(manager: &'static str, owner: Owner, file: &OpenFile, hasher: &mut Hasher) -> Package {
    let is_unmodified = owner.checksum.and_then(|checksum| checksum.is_of(file, hasher).ok());
    Package { manager, name: owner.name.into(), version: owner.version.into(), is_unmodified }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merged_usr_gives_two_names() {
        let names = |path| aliases(path).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(names("/usr/bin/ls"), ["/usr/bin/ls", "/bin/ls"]);
        assert_eq!(names("/usr/lib64/ld.so"), ["/usr/lib64/ld.so", "/lib64/ld.so"]);
        assert_eq!(names("/usr/share/x"), ["/usr/share/x"]);
        assert_eq!(names("/opt/usr/bin/x"), ["/opt/usr/bin/x"]);
    }
}
