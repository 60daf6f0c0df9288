//! A kernel to boot: its image and the few modules that the tests need, unpacked from Debian's packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{Kernel, archive::Archive};
use crate::{command, workspace};

/// What cloud kernels have as modules and the tests use, each after what it needs: virtual interfaces, socket
/// diagnostics, the traffic control hooks of kernels without TCX, tunnels, SCTP with the checksum it asks for, and a packet
/// filter that loses packets.
const MODULES: [&str; 26] = [
    "veth",
    "dummy",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "raw_diag",
    "af_packet",
    "sch_ingress",
    "cls_bpf",
    "udp_tunnel",
    "ip6_udp_tunnel",
    "vxlan",
    "ip_tunnel",
    "tunnel4",
    "ipip",
    "gre",
    "ip_gre",
    "macvlan",
    "ipvlan",
    "crc32c_generic",
    "libcrc32c",
    "sctp",
    "nfnetlink",
    "nf_tables",
    "nft_counter",
    "nft_numgen",
];

/// A kernel on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// As `uname -r` has it.
    pub version: String,
    /// The compressed kernel.
    pub kernel: PathBuf,
    /// Uncompressed modules, in the order to load them.
    pub modules: Vec<PathBuf>,
}

impl Image {
    /// The kernel from an earlier run, else from the archive.
    pub fn obtain(kernel: Kernel, busybox: &Path) -> Result<Self> {
        let folder = workspace::target().join("kernels").join(kernel.series);
        if let Some(image) = Self::load(&folder) {
            return Ok(image);
        }
        let archive = Archive::open(kernel)?;
        let version = archive.current_kernel()?;
        if !kernel.is_version(&version) {
            bail!("{} has {version} now, not a {} kernel", kernel.suite, kernel.series);
        }
        let packages = folder.join("packages");
        fs::create_dir_all(&packages).with_context(|| format!("failed to create {}", packages.display()))?;
        download(&archive, &version, &packages)?;
        unpack(&packages, &folder, busybox)?;
        fs::write(folder.join("version"), &version).context("failed to note a kernel's version")?;
        fs::write(folder.join("modules"), MODULES.join(" ")).context("failed to note a kernel's modules")?;
        fs::remove_dir_all(&packages).context("failed to remove unpacked packages")?;
        Self::load(&folder).context("the packages hold no kernel")
    }

    fn load(folder: &Path) -> Option<Self> {
        let version = fs::read_to_string(folder.join("version")).ok()?;
        // One that was unpacked for other tests may lack modules.
        fs::read_to_string(folder.join("modules")).ok().filter(|names| *names == MODULES.join(" "))?;
        let kernel = folder.join("vmlinuz");
        let modules = MODULES.iter().map(|name| folder.join(format!("{name}.ko"))).filter(|path| path.is_file());
        kernel.is_file().then(|| Self { version, modules: modules.collect(), kernel })
    }
}

/// Debian's kernels up to 6.18 are one package; from 6.19 on image and modules are apart.
fn download(archive: &Archive, version: &str, packages: &Path) -> Result<()> {
    archive.download(&[format!("linux-image-{version}")], packages)?;
    let depends = fields(packages)?;
    let parts = ["linux-binary-", "linux-modules-"].map(|part| format!("{part}{version}"));
    if depends.contains("linux-binary-") { archive.download(&parts, packages) } else { Ok(()) }
}

fn fields(packages: &Path) -> Result<String> {
    let texts = debs(packages)?.into_iter().map(|deb| command::output(Command::new("dpkg-deb").arg("-f").arg(deb)));
    texts.collect::<Result<Vec<_>>>().map(|texts| texts.concat())
}

fn debs(packages: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(packages).with_context(|| format!("failed to list {}", packages.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect())
}

fn unpack(packages: &Path, folder: &Path, busybox: &Path) -> Result<()> {
    let tree = packages.join("tree");
    for deb in debs(packages)? {
        command::output(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&tree))?;
    }
    let mut files = Vec::new();
    collect_files(&tree, &mut files);
    for file in files {
        let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("vmlinuz") {
            fs::copy(&file, folder.join("vmlinuz")).context("failed to copy a kernel")?;
        } else if let Some(module) = MODULES.into_iter().find(|module| name.starts_with(&format!("{module}.ko"))) {
            decompress(busybox, &file, &folder.join(format!("{module}.ko")))?;
        }
    }
    Ok(())
}

/// Every file below a folder.
pub fn collect_files(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect_files(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => (),
        }
    }
}

/// Debian compresses modules from trixie on, with xz; the small user space of a guest may not read that.
fn decompress(busybox: &Path, file: &Path, into: &Path) -> Result<()> {
    if file.extension().is_some_and(|extension| extension == "ko") {
        return fs::copy(file, into).map(drop).context("failed to copy a module");
    }
    let target = fs::File::create(into).with_context(|| format!("failed to create {}", into.display()))?;
    let mut xz = Command::new(busybox);
    xz.args(["xz", "-dc"]).arg(file).stdin(Stdio::null()).stdout(target);
    command::run_quietly(&mut xz)
}
