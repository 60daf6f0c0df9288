//! QEMU and busybox: this machine's, else Debian's packages unpacked below the target folder.
//!
//! Nothing is installed for them: no root is needed, and no package of the machine gives way to them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{command, debian, workspace};

const QEMU: &str = "qemu-system-x86_64";
/// The packages that have both programs.
const PACKAGES: [&str; 2] = ["qemu-system-x86", "busybox-static"];
/// Where the packages of one architecture keep their libraries.
const LIBRARY_FOLDERS: [&str; 2] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];

/// What boots guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emulator {
    /// A static busybox, for the guest and to pack it.
    pub busybox: PathBuf,
    qemu: PathBuf,
    library_path: Option<String>,
}

impl Emulator {
    /// The machine's own, an earlier run's, or unpacked now.
    pub fn obtain() -> Result<Self> {
        if let (Some(qemu), Some(busybox)) = (workspace::find_program(QEMU), workspace::find_program("busybox")) {
            return Ok(Self { busybox, qemu, library_path: None });
        }
        let folder = workspace::tools().join("emulator");
        if let Some(unpacked) = Self::unpacked(&folder) {
            return Ok(unpacked);
        }
        if !debian::is_here() {
            bail!("there is no {QEMU} or no busybox, and no apt to fetch them with");
        }
        fetch(&folder)?;
        Self::unpacked(&folder).context("Debian's packages hold no emulator")
    }

    /// A command of the emulator.
    pub fn command(&self) -> Command {
        let mut qemu = Command::new(&self.qemu);
        if let Some(path) = &self.library_path {
            qemu.env("LD_LIBRARY_PATH", path);
        }
        qemu
    }

    fn unpacked(folder: &Path) -> Option<Self> {
        let qemu = folder.join("usr/bin").join(QEMU);
        let busybox = workspace::find_program("busybox");
        let busybox = busybox.or_else(|| Some(folder.join("bin/busybox")).filter(|path| path.is_file()))?;
        let libraries = LIBRARY_FOLDERS.map(|name| folder.join(name).display().to_string()).join(":");
        qemu.is_file().then_some(Self { busybox, qemu, library_path: Some(libraries) })
    }
}

/// Downloads the packages, and those that they need and this machine lacks, and unpacks them.
fn fetch(folder: &Path) -> Result<()> {
    let packages = PACKAGES.join(" ");
    let place = folder.display();
    command::say(&format!("will unpack Debian packages into {place} (about 20 MB, nothing is installed): {packages}"));
    let cache = folder.join("cache");
    for name in ["archives/partial", "lists/partial"] {
        fs::create_dir_all(cache.join(name)).with_context(|| format!("failed to create {}", cache.display()))?;
    }
    command::output(apt(&cache).arg("update"))?;
    command::output(
        apt(&cache).args(["install", "--download-only", "--yes", "--no-install-recommends"]).args(PACKAGES),
    )?;
    let archives = cache.join("archives");
    let entries = fs::read_dir(&archives).with_context(|| format!("failed to list {}", archives.display()))?;
    let debs = entries.flatten().map(|entry| entry.path());
    for deb in debs.filter(|path| path.extension().is_some_and(|extension| extension == "deb")) {
        command::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(folder))?;
    }
    fs::remove_dir_all(&cache).with_context(|| format!("failed to remove {}", cache.display()))
}

/// apt with the machine's sources and list of installed packages, but lists and downloads of its own.
fn apt(cache: &Path) -> Command {
    let mut apt = Command::new("apt-get");
    apt.arg("--quiet").args(["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"]);
    apt.args(["-o", "Acquire::Languages=none", "-o", "Acquire::Retries=2"]);
    apt.arg("-o").arg(format!("Dir::State::lists={}", cache.join("lists").display()));
    apt.arg("-o").arg(format!("Dir::Cache={}", cache.display()));
    apt.arg("-o").arg(format!("Dir::Cache::archives={}", cache.join("archives").display()));
    apt
}
