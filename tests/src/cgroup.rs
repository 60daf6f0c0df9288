//! A cgroup2 folder for a test's own processes.

use std::{
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};

/// A cgroup2 folder, removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes a folder at the root of the cgroup2 mount; `name` may have several parts.
    ///
    /// # Errors
    /// Where cgroup2 is not mounted or the folder can't be made.
    pub fn new(name: &str) -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let unique = format!("pktscope-e2e-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = mount()?.join(unique).join(name);
        fs::create_dir_all(&path).with_context(|| format!("failed to make {}", path.display()))?;
        Ok(Self { path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes `command` run inside.
    pub fn adopt(&self, command: &mut Command) {
        let file = self.path.join("cgroup.procs");
        // SAFETY: writing "0" to an existing file needs no lock that a forked child could find held; the path was
        // allocated before.
        unsafe { command.pre_exec(move || fs::write(&file, "0")) };
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let is_ours = |path: &&Path| path.to_string_lossy().contains("pktscope-e2e-");
        for folder in self.path.ancestors().take_while(is_ours) {
            // A process that is still ending keeps its folder busy; the folder is empty and harmless then.
            let _removed: io::Result<()> = fs::remove_dir(folder);
        }
    }
}

/// Where cgroup2 is mounted.
fn mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("failed to read /proc/self/mounts")?;
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let found = lines.find(|words| words.get(2) == Some(&"cgroup2"));
    found.map(|words| PathBuf::from(words[1])).context("no cgroup2 mount in /proc/self/mounts")
}
