//! One agent a state directory: an advisory lock that the kernel drops with the process.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use super::StoreError;

const LOCK_NAME: &str = "pktscope.lock";
const OWNER_ONLY_DIRECTORY: u32 = 0o700;
pub(super) const OWNER_ONLY_FILE: u32 = 0o600;

/// Holds the directory for as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

/// Given up for whoever shares the open file, too: a child that was forked but has not run its program yet.
impl Drop for Lock {
    fn drop(&mut self) {
        // Where that fails the lock goes with its last descriptor.
        let _ = self.file.unlock();
    }
}

impl Lock {
    /// Makes the directory where there is none, and takes its lock.
    pub(super) fn take(directory: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Directory { directory: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(OWNER_ONLY_DIRECTORY).create(directory).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(OWNER_ONLY_FILE);
        let mut file = options.open(directory.join(LOCK_NAME)).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Locked { directory: directory.to_owned(), pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // The pid only serves the message above: a disk too full for it is no reason not to start.
        let _ = write_pid(&mut file);
        Ok(Self { file })
    }
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: &mut File) -> Option<u32> {
    const LONGEST: u64 = 16;
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
