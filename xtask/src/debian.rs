//! Installing Debian's packages.

use anyhow::{Context, Result};

use crate::{command, root::Root, workspace};

/// Whether this machine has apt.
pub fn is_here() -> bool {
    workspace::find_program("apt-get").is_some()
}

/// Installs the named packages as root, in one go so that root is asked for once; removes nothing for them.
pub fn install_packages(packages: &str) -> Result<()> {
    let root = Root::acquire(&format!("install Debian packages ({packages})"))?;
    let variables = [("DEBIAN_FRONTEND", "noninteractive".to_owned())];
    let mut shell = root.command("sh", &variables);
    // Another installation may be under way, at a machine's first minutes above all.
    let apt = "apt-get --quiet -o DPkg::Lock::Timeout=300";
    let install = format!("{apt} install --yes --no-install-recommends --no-remove {packages}");
    shell.arg("-c").arg(format!("{apt} update && {install}"));
    command::run(&mut shell).with_context(|| format!("failed to install Debian packages {packages}"))
}
