//! SHA-256 of files, remembered by what their content depends on.

use std::{
    io::{self, Read},
    num::NonZeroUsize,
    sync::Arc,
};

use lru::LruCache;
use sha2::{Digest, Sha256};

use super::file::{FileStamp, OpenFile};
use crate::core::process::{FileId, ImageHash, hexadecimal};

/// Files whose hash is remembered.
const MAX_HASHES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// Read at once: large enough that the calls cost nothing beside the hashing.
const CHUNK_BYTES: usize = 128 * 1024;

/// Files above this are not read: no program is as large, and reading them would hold up all others.
const MAX_FILE_BYTES: u64 = 4 << 30;

/// Device, inode, change time and size.
type Key = (FileId, i128, u64);

/// Hashes files, each once until it changes.
pub struct Hasher {
    known: LruCache<Key, Arc<str>>,
    buffer: Box<[u8]>,
}

impl Default for Hasher {
    fn default() -> Self {
        Self { known: LruCache::new(MAX_HASHES), buffer: vec![0; CHUNK_BYTES].into() }
    }
}

impl Hasher {
    /// The hash of a file where it is remembered.
    pub fn known(&mut self, stamp: &FileStamp) -> Option<ImageHash> {
        self.known.get(&key_of(stamp)).map(|hash| ImageHash::Sha256(hash.clone()))
    }

    /// The hash of a file's whole content.
    pub fn hash(&mut self, file: &OpenFile) -> ImageHash {
        let stamp = file.stamp_now().unwrap_or(file.stamp);
        if let Some(known) = self.known(&stamp) {
            return known;
        }
        match self.digest::<Sha256>(file) {
            Ok(hash) => {
                let hash: Arc<str> = hexadecimal(&hash).into();
                self.known.put(key_of(&stamp), hash.clone());
                ImageHash::Sha256(hash)
            }
            Err(error) => ImageHash::Unreadable(error.to_string().into()),
        }
    }

    /// A digest of a file's whole content.
    ///
    /// # Errors
    /// Where it cannot be read, is too large, or changed while it was read.
    pub fn digest<D: Digest>(&mut self, file: &OpenFile) -> io::Result<Vec<u8>> {
        let before = file.stamp_now()?;
        if MAX_FILE_BYTES < before.size {
            return Err(io::Error::other(format!("larger than {MAX_FILE_BYTES} bytes")));
        }
        let mut reader = file.reader()?.take(before.size);
        let mut digest = D::new();
        let mut length = 0;
        loop {
            match reader.read(&mut self.buffer)? {
                0 => break,
                read => {
                    digest.update(&self.buffer[..read]);
                    length += read as u64;
                }
            }
        }
        let after = file.stamp_now()?;
        if (after.size, after.modified_at, length) != (before.size, before.modified_at, before.size) {
            return Err(io::Error::other("changed while it was read"));
        }
        Ok(digest.finalize().to_vec())
    }
}

fn key_of(stamp: &FileStamp) -> Key {
    (stamp.id, stamp.changed_at, stamp.size)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, process::Command};

    use super::*;
    use crate::enrich::file::open_folder;

    fn open(path: &Path) -> OpenFile {
        OpenFile::open_in_root(open_folder(Path::new("/")).unwrap(), path.to_str().unwrap()).unwrap()
    }

    /// As coreutils' sha256sum says.
    fn expected(path: &Path) -> ImageHash {
        let output = Command::new("sha256sum").arg(path).output().unwrap();
        ImageHash::Sha256(String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().into())
    }

    #[test]
    fn hashes_are_those_of_sha256sum() {
        let folder = tempfile::tempdir().unwrap();
        let mut hasher = Hasher::default();
        for size in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 20 << 20] {
            let path = folder.path().join("file");
            fs::write(&path, vec![b'x'; size]).unwrap();
            assert_eq!(hasher.hash(&open(&path)), expected(&path), "{size} bytes");
        }
    }

    #[test]
    fn a_changed_file_is_read_again_and_an_unchanged_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut hasher = Hasher::default();
        fs::write(&path, "first").unwrap();
        let file = open(&path);
        let first = hasher.hash(&file);
        assert_eq!(hasher.known(&file.stamp), Some(first.clone()));
        fs::remove_file(&path).unwrap();
        fs::write(&path, "other").unwrap();
        assert_eq!(hasher.hash(&open(&path)), expected(&path));
        assert_eq!(hasher.hash(&file), first, "the first file is still what it was");
    }

    #[test]
    fn a_file_that_is_too_large_is_unreadable_and_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse");
        fs::File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        let hash = Hasher::default().hash(&open(&path));
        assert!(matches!(&hash, ImageHash::Unreadable(reason) if reason.contains("larger")), "{hash:?}");
    }

    #[test]
    fn remembered_hashes_are_bounded() {
        let mut hasher = Hasher::default();
        for inode in 0..10_000 {
            hasher.known.put((FileId { device: 1, inode }, 0, 0), "x".into());
        }
        assert_eq!(hasher.known.len(), MAX_HASHES.get());
    }
}
