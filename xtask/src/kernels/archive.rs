//! Debian's archive through an apt of our own: lists, cache and status apart, the machine's mirror and keys.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::Kernel;
use crate::{command, workspace};

/// The key ring of Debian's archive, from the package debian-archive-keyring.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The package that depends on a suite's current cloud kernel.
const META_PACKAGE: &str = "linux-image-cloud-amd64";

/// One suite of the archive.
pub struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// Fetches the suite's list of packages, about half a megabyte.
    pub fn open(kernel: Kernel) -> Result<Self> {
        let folder = workspace::target().join("kernels/apt").join(kernel.suite);
        for name in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(name)).with_context(|| format!("failed to create {}", folder.display()))?;
        }
        let mirror = mirror(kernel.is_security())?;
        let source = format!("deb [signed-by={KEYRING}] {mirror} {} main\n", kernel.suite);
        fs::write(folder.join("sources.list"), source).context("failed to write a list of sources")?;
        fs::write(folder.join("status"), "").context("failed to write an empty status")?;
        let archive = Self { folder };
        command::output(archive.apt("apt-get").arg("update"))?;
        Ok(archive)
    }

    /// The version of the suite's current cloud kernel, as `uname -r` will have it.
    pub fn current_kernel(&self) -> Result<String> {
        let depends = command::output(self.apt("apt-cache").args(["depends", META_PACKAGE]))?;
        parse_current(&depends).with_context(|| format!("{META_PACKAGE} depends on no cloud kernel"))
    }

    /// Downloads packages into a folder.
    pub fn download(&self, packages: &[String], into: &Path) -> Result<()> {
        command::output(self.apt("apt-get").arg("download").args(packages).current_dir(into)).map(drop)
    }

    fn apt(&self, program: &str) -> Command {
        let at = |name: &str| self.folder.join(name).display().to_string();
        let options = [
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".into(),
            "Dir::Etc::preferencesparts=/dev/null".into(),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::Cache={}", at("cache")),
            format!("Dir::Cache::archives={}", at("cache/archives")),
            "APT::Sandbox::User=root".into(),
            "APT::Update::Error-Mode=any".into(),
            "Acquire::Languages=none".into(),
            // A suite past its support stays as it is; its signature is still checked.
            "Acquire::Check-Valid-Until=false".into(),
            "Acquire::Retries=2".into(),
        ];
        let mut apt = Command::new(program);
        apt.arg("--quiet").args(options.iter().flat_map(|option| ["-o", option]));
        apt
    }
}

fn parse_current(depends: &str) -> Option<String> {
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    names.into_iter().find(|name| name.ends_with("cloud-amd64")).map(Into::into)
}

/// The mirror that the machine's own apt uses.
fn mirror(is_security: bool) -> Result<String> {
    let mut apt = Command::new("apt-get");
    apt.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let targets = command::output(&mut apt).context("the machine's apt names no mirror")?;
    match parse_mirror(&targets, is_security) {
        Some(mirror) => Ok(mirror),
        None => bail!("the machine's apt has no mirror of Debian's archive"),
    }
}

fn parse_mirror(targets: &str, is_security: bool) -> Option<String> {
    let ends_with = |name: &str| {
        let mut mirrors = targets.lines().map(|line| line.trim().trim_end_matches('/'));
        mirrors.find(|mirror| mirror.rsplit('/').next() == Some(name)).map(str::to_owned)
    };
    let main = ends_with("debian");
    if !is_security {
        return main;
    }
    ends_with("debian-security").or_else(|| main.map(|mirror| format!("{mirror}-security")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_mirror(targets: &str, is_security: bool, expected: Option<&str>) {
        assert_eq!(parse_mirror(targets, is_security).as_deref(), expected);
    }

    #[test]
    fn mirrors_are_the_machines_own() {
        let targets =
            "https://packages.example/node\nhttp://mirror.example/debian/\nhttp://mirror.example/debian-security/";
        check_mirror(targets, false, Some("http://mirror.example/debian"));
        check_mirror(targets, true, Some("http://mirror.example/debian-security"));
        check_mirror("http://mirror.example/debian", true, Some("http://mirror.example/debian-security"));
        check_mirror("http://mirror.example/ubuntu", false, None);
    }

    #[test]
    fn the_current_kernel_is_what_the_meta_package_depends_on() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n  Suggests: x\n";
        assert_eq!(parse_current(depends).as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(parse_current("linux-image-cloud-amd64\n"), None);
    }
}
