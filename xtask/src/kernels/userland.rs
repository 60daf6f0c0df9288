//! What of this machine's user space the tests run in a guest. What this machine lacks, a guest lacks, and the tests that
//! need it say so.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use super::initramfs::Initramfs;
use crate::{command, workspace};

/// The shell: busybox's takes its own programs before those of the path, and they know fewer options.
const SHELL: &str = "sh";
/// Programs that the tests run and busybox lacks, or has with fewer options.
const PROGRAMS: [&str; 20] = [
    "awk",
    "curl",
    "dnsmasq",
    "dpkg",
    "dpkg-deb",
    "dpkg-split",
    "env",
    "gtlsclient",
    "ip",
    "ldconfig",
    "mount",
    "nft",
    "openssl",
    "ping",
    "setpriv",
    "start-stop-daemon",
    "tar",
    "tc",
    "umount",
    "unshare",
];
/// Files that these programs read, from this machine.
const FILES: [&str; 1] = ["/usr/lib/ssl/openssl.cnf"];
/// Files that a system has, and what the guest's have in them.
const TEXTS: [(&str, &str); 6] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n"),
    ("etc/nsswitch.conf", "hosts: files dns\n"),
    ("etc/resolv.conf", ""),
    // Enough for dpkg to install a package.
    ("var/lib/dpkg/status", ""),
];
/// Empty folders that the programs expect.
const FOLDERS: [&str; 2] = ["var/lib/dpkg/info", "var/lib/dpkg/updates"];
/// Of Python's standard library nothing that a test imports.
const PYTHON_WITHOUT: [&str; 10] = [
    "config-*",
    "dist-packages",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "*.opt-?.pyc",
];

/// Adds everything to a guest's file system.
pub fn add(initramfs: &Initramfs) -> Result<()> {
    for (path, text) in TEXTS {
        initramfs.write(path, text)?;
    }
    FOLDERS.iter().try_for_each(|folder| initramfs.add_folder(folder))?;
    if let Some(shell) = workspace::find_program(SHELL) {
        initramfs.add_program(&shell, &Path::new("bin").join(SHELL))?;
    }
    for (name, program) in PROGRAMS.iter().filter_map(|name| Some((name, workspace::find_program(name)?))) {
        initramfs.add_program(&program, &Path::new("usr/bin").join(name))?;
    }
    for file in FILES.iter().map(Path::new).filter(|file| file.is_file()) {
        initramfs.add_file(file)?;
    }
    python().map_or(Ok(()), |python| add_python(initramfs, &python))
}

/// Python as it calls itself: the one on the path may be a script that chooses another.
struct Python {
    program: PathBuf,
    library: PathBuf,
}

fn python() -> Option<Python> {
    let ask = "import sys, sysconfig; print(sys.executable); print(sysconfig.get_path('stdlib'))";
    parse_python(&command::output(Command::new("python3").args(["-c", ask])).ok()?)
}

fn parse_python(said: &str) -> Option<Python> {
    let mut lines = said.lines().map(PathBuf::from).filter(|path| path.is_absolute());
    Some(Python { program: lines.next()?, library: lines.next()? })
}

/// Python and its standard library, where they are here, and its name on the path.
fn add_python(initramfs: &Initramfs, python: &Python) -> Result<()> {
    initramfs.add_program(&python.program, python.program.strip_prefix("/")?)?;
    initramfs.add_tree(&python.library, &PYTHON_WITHOUT)?;
    initramfs.add_name(Path::new("usr/bin/python3"), &python.program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_says_where_it_is() {
        let python = parse_python("/opt/python/bin/python3\n/opt/python/lib/python3.11\n").unwrap();
        assert_eq!(python.program, Path::new("/opt/python/bin/python3"));
        assert_eq!(python.library, Path::new("/opt/python/lib/python3.11"));
        assert!(parse_python("/opt/python/bin/python3\n").is_none());
        assert!(parse_python("python3\nlib\n").is_none());
    }
}
