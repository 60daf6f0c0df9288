//! A guest's root file system: busybox, programs of this machine with their libraries, and what is to be tested.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use super::{
    image::{Image, collect_files},
    userland,
};
use crate::command;

/// Mounts, runs `/command`, reports its status, powers off.
const INIT: &str = include_str!("guest_init.sh");

/// A root file system being put together.
pub struct Initramfs<'a> {
    root: PathBuf,
    busybox: &'a Path,
}

impl<'a> Initramfs<'a> {
    /// Starts with busybox and this machine's programs.
    pub fn new(root: PathBuf, busybox: &'a Path) -> Result<Self> {
        if root.exists() {
            fs::remove_dir_all(&root).with_context(|| format!("failed to remove {}", root.display()))?;
        }
        let initramfs = Self { root, busybox };
        for folder in ["bin", "dev", "proc", "sys", "tmp", "run", "root", "usr/bin", "modules"] {
            initramfs.add_folder(folder)?;
        }
        initramfs.write("init", INIT)?;
        initramfs.add_program(busybox, Path::new("bin/busybox"))?;
        userland::add(&initramfs)?;
        Ok(initramfs)
    }

    /// Makes an empty folder.
    pub fn add_folder(&self, path: &str) -> Result<()> {
        let path = self.root.join(path);
        fs::create_dir_all(&path).with_context(|| format!("failed to create {}", path.display()))
    }

    /// Writes an executable text file.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.root.join(path);
        create_parent(&path)?;
        fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).context("failed to make a file executable")
    }

    /// Adds a program without its symbols, and the libraries it is linked with.
    pub fn add_program(&self, program: &Path, at: &Path) -> Result<()> {
        let into = self.root.join(at);
        create_parent(&into)?;
        command::run_quietly(Command::new("strip").arg("-o").arg(&into).arg(program))?;
        self.add_libraries_of(program)
    }

    /// Adds a file where it is here.
    pub fn add_file(&self, file: &Path) -> Result<()> {
        let into = self.inside(file);
        create_parent(&into)?;
        fs::copy(file, &into).map(drop).with_context(|| format!("failed to copy {}", file.display()))
    }

    /// Adds another name of what is at an absolute path, unless that is the name.
    pub fn add_name(&self, name: &Path, of: &Path) -> Result<()> {
        let name = self.root.join(name);
        if name == self.inside(of) { Ok(()) } else { symlink(of, &name).context("failed to link a program") }
    }

    /// Adds a folder where it is here, without what matches a pattern, and the libraries that its own are linked with.
    pub fn add_tree(&self, folder: &Path, without: &[&str]) -> Result<()> {
        let mut shell = Command::new("sh");
        shell.args(["-c", "from=$0 into=$1; shift; tar -cf - -C / \"$@\" \"$from\" | tar -xf - -C \"$into\""]);
        shell.arg(folder.strip_prefix("/")?).arg(&self.root);
        command::run_quietly(shell.args(without.iter().map(|pattern| format!("--exclude={pattern}"))))?;
        let mut files = Vec::new();
        collect_files(&self.inside(folder), &mut files);
        let mut libraries = files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "so"));
        libraries.try_for_each(|library| self.add_libraries_of(library))
    }

    fn add_libraries_of(&self, program: &Path) -> Result<()> {
        let libraries = command::output(Command::new("ldd").arg(program)).unwrap_or_default();
        let mut missing = parse_libraries(&libraries).map(Path::new).filter(|library| !self.inside(library).exists());
        missing.try_for_each(|library| self.add_file(library))
    }

    /// Where the guest will have what is at this absolute path here.
    fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Packs what is there for every kernel.
    pub fn pack(&self, into: &Path) -> Result<()> {
        let into = File::create(into).with_context(|| format!("failed to create {}", into.display()))?;
        pack(self.busybox, &self.root, ".", &into)
    }
}

/// Copies a packed file system and appends one kernel's modules: the kernel unpacks both.
pub fn with_modules(packed: &Path, image: &Image, folder: &Path, busybox: &Path) -> Result<PathBuf> {
    let modules = folder.join("modules");
    fs::create_dir_all(&modules).with_context(|| format!("failed to create {}", modules.display()))?;
    let mut order = String::new();
    for (at, module) in image.modules.iter().enumerate() {
        fs::copy(module, modules.join(format!("{at}.ko"))).context("failed to copy a module")?;
        order.push_str(&format!("{at}.ko\n"));
    }
    fs::write(modules.join("order"), order).context("failed to write the order of modules")?;
    let into = folder.join("initramfs");
    fs::copy(packed, &into).context("failed to copy a guest's file system")?;
    let end = File::options().append(true).open(&into).context("failed to extend a guest's file system")?;
    let only = folder.join("only");
    fs::create_dir_all(&only).context("failed to create a folder")?;
    if !only.join("modules").exists() {
        symlink(&modules, only.join("modules")).context("failed to link a folder")?;
    }
    // The trailing slash makes find enter the link.
    pack(busybox, &only, "modules/", &end)?;
    Ok(into)
}

fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).with_context(|| format!("failed to create {}", parent.display()))
}

/// Packs what is below `start` in the only format that kernels unpack.
fn pack(busybox: &Path, folder: &Path, start: &str, into: &File) -> Result<()> {
    let into = into.try_clone().context("failed to share a file")?;
    let mut shell = Command::new("sh");
    shell.args(["-c", "find \"$1\" | \"$0\" cpio -o -H newc"]).arg(busybox).arg(start);
    command::run_quietly(shell.current_dir(folder).stdin(Stdio::null()).stdout(into))
}

/// Paths of the libraries in what ldd prints.
fn parse_libraries(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_paths_that_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert!(parse_libraries(text).eq(expected));
        assert_eq!(parse_libraries("\tnot a dynamic executable").count(), 0);
    }
}
