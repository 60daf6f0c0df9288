//! Programs that were seen running: their paths, and for a moment the files themselves.
//!
//! A program may delete its own file and end at once. Its file is held open from the first look at it for some seconds, so
//! that it can still be hashed when a socket of it is reported.

use std::{collections::VecDeque, num::NonZeroUsize, sync::Arc, time::Duration};

use lru::LruCache;

use super::file::OpenFile;
use crate::core::{process::FileId, time::BootTime};

/// Files whose path is remembered.
const MAX_PATHS: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");

/// Folders from which scripts were run that are remembered.
const MAX_FOLDERS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// Files held open, of programs that were not known before.
const MAX_HELD: usize = 64;

/// How long a file is held: sockets are reported once a second, and an open file keeps its file system from being
/// unmounted.
const HOLD: Duration = Duration::from_secs(5);

/// See the module.
pub struct SeenFiles {
    paths: LruCache<FileId, Arc<str>>,
    folders: LruCache<FileId, String>,
    held: VecDeque<(BootTime, FileId, OpenFile)>,
    memory_device: Option<u64>,
}

impl Default for SeenFiles {
    fn default() -> Self {
        Self {
            paths: LruCache::new(MAX_PATHS),
            folders: LruCache::new(MAX_FOLDERS),
            held: VecDeque::new(),
            memory_device: memory_device(),
        }
    }
}

impl SeenFiles {
    /// Remembers a file by the numbers that the kernel has for it; one that is new is held open for a moment.
    pub fn remember(&mut self, id: FileId, file: &OpenFile, now: BootTime) {
        let is_new = self.paths.put(id, file.path.clone()).is_none();
        if let Some(again) = is_new.then(|| file.open_again().ok()).flatten() {
            self.held.push_back((now, id, again));
            self.held.drain(..self.held.len().saturating_sub(MAX_HELD));
        }
    }

    /// The device of files in memory (`memfd_create`), which lie on a mount of the kernel's own (mm/shmem.c, shm_mnt).
    pub fn memory_device(&self) -> Option<u64> {
        self.memory_device
    }

    /// The path that a file was last seen at.
    pub fn path(&mut self, file: FileId) -> Option<Arc<str>> {
        self.paths.get(&file).cloned()
    }

    /// Remembers a folder by the numbers that the kernel has for it.
    pub fn remember_folder(&mut self, id: FileId, path: String) {
        self.folders.put(id, path);
    }

    /// The path that a folder was last seen at.
    pub fn folder(&mut self, id: FileId) -> Option<&str> {
        self.folders.get(&id).map(String::as_str)
    }

    /// A file that is still held open.
    pub fn open_again(&self, file: FileId) -> Option<OpenFile> {
        self.held.iter().find(|(_, id, _)| *id == file)?.2.open_again().ok()
    }

    /// Lets go of files that were held long enough.
    pub fn release(&mut self, now: BootTime) {
        while self.held.front().is_some_and(|(since, ..)| HOLD <= now.since(*since)) {
            self.held.pop_front();
        }
    }

    /// Whether a file is held open.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }
}

fn memory_device() -> Option<u64> {
    let file = rustix::fs::memfd_create("device", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    Some(rustix::fs::fstat(&file).ok()?.st_dev)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::enrich::file::open_folder;

    #[test]
    fn files_are_held_for_a_moment_and_never_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let root = open_folder(folder.path()).unwrap();
        let mut seen = SeenFiles::default();
        let mut first = None;
        for n in 0..2 * MAX_HELD {
            let name = format!("file-{n}");
            fs::write(folder.path().join(&name), "x").unwrap();
            let file = OpenFile::open_in_folder(&root, &name).unwrap();
            seen.remember(file.stamp.id, &file, BootTime(0));
            seen.remember(file.stamp.id, &file, BootTime(0));
            first.get_or_insert(file.stamp.id);
        }
        assert_eq!(seen.held.len(), MAX_HELD);
        assert!(seen.open_again(first.unwrap()).is_none() && seen.path(first.unwrap()).is_some());
        seen.release(BootTime(0).plus(HOLD));
        assert!(!seen.is_holding());
    }
}
