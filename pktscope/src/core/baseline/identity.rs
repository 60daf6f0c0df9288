//! What makes two processes the same program, and where on the disk a program lives.

use std::sync::Arc;

use crate::core::process::{ImageHash, Process};

/// A program: what its processes share over restarts and upgrades.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProgramKey {
    /// `[image:<container image>]<executable>[ <script>]`.
    pub name: Arc<str>,
    /// Counts the strangers that ran under the same name: 0 is the first that was seen.
    pub generation: u32,
}

/// Where an image lives, by who can have put it there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Location {
    /// Owned by a package and unmodified.
    Packaged,
    /// A folder that packages fill and only root writes: `/usr`, `/bin`, `/lib`, `/snap`, `/nix`.
    #[default]
    System,
    /// A folder that vendors and administrators fill: `/opt`, `/usr/local`, `/srv`, `/var/lib`.
    Vendor,
    /// A user's own folder.
    Home,
    /// World-writable, in memory, hidden, deleted or without a path.
    Volatile,
}

impl Location {
    /// How little the place vouches for the program: 0, 1 or 2.
    pub fn suspicion(self) -> u8 {
        match self {
            Self::Packaged | Self::System => 0,
            Self::Vendor => 1,
            Self::Home | Self::Volatile => 2,
        }
    }

    /// A word for evidence.
    pub fn word(self) -> &'static str {
        match self {
            Self::Packaged => "packaged",
            Self::System => "system folder",
            Self::Vendor => "vendor folder",
            Self::Home => "user folder",
            Self::Volatile => "volatile or hidden folder",
        }
    }

    /// The same for a sentence.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Packaged => "from a package",
            Self::System => "in a system folder",
            Self::Vendor => "in a vendor folder",
            Self::Home => "in a user folder",
            Self::Volatile => "in a volatile or hidden folder",
        }
    }

    /// Where a process's image, or the script that it runs, lives.
    pub fn of(process: &Process) -> Self {
        match process.vouching_package().map(|package| package.is_unmodified) {
            Some(Some(false)) => Self::Volatile,
            Some(_) => Self::Packaged,
            None => Self::of_path(process.script.as_deref().map_or(&process.executable, |script| &script.path)),
        }
    }

    fn of_path(path: &str) -> Self {
        let is_hidden = path.split('/').any(|part| part.len() > 1 && part.starts_with('.'));
        let is_deleted = path.ends_with(" (deleted)") || path.starts_with("/memfd:");
        if path.is_empty() || is_hidden || is_deleted || starts_with_any(path, VOLATILE_FOLDERS) {
            return Self::Volatile;
        }
        if starts_with_any(path, HOME_FOLDERS) {
            return Self::Home;
        }
        if starts_with_any(path, VENDOR_FOLDERS) {
            return Self::Vendor;
        }
        if starts_with_any(path, SYSTEM_FOLDERS) { Self::System } else { Self::Vendor }
    }
}

/// World-writable by the Filesystem Hierarchy Standard, or lost at a reboot.
const VOLATILE_FOLDERS: &[&str] = &["/tmp/", "/var/tmp/", "/dev/", "/run/", "/proc/"];
const HOME_FOLDERS: &[&str] = &["/home/", "/root/"];
const VENDOR_FOLDERS: &[&str] = &["/usr/local/", "/opt/", "/srv/", "/var/"];
const SYSTEM_FOLDERS: &[&str] = &["/usr/", "/bin/", "/sbin/", "/lib", "/snap/", "/nix/", "/gnu/", "/etc/"];

fn starts_with_any(path: &str, folders: &[&str]) -> bool {
    folders.iter().any(|folder| path.starts_with(folder))
}

/// Programs that run other people's programs: the script is the identity, and without one the process.
const INTERPRETERS: &[&str] = &[
    "python",
    "perl",
    "ruby",
    "node",
    "nodejs",
    "bash",
    "sh",
    "dash",
    "zsh",
    "ksh",
    "fish",
    "busybox",
    "php",
    "lua",
    "java",
    "pwsh",
    "powershell",
    "deno",
    "bun",
    "tclsh",
    "Rscript",
    "awk",
    "gawk",
    "socat",
];

/// Programs that install packages, by file name.
const PACKAGE_MANAGERS: &[&str] = &[
    "apt",
    "apt-get",
    "aptitude",
    "dpkg",
    "unattended-upgrade",
    "dnf",
    "dnf5",
    "yum",
    "rpm",
    "zypper",
    "pacman",
    "apk",
    "snapd",
    "snap",
    "flatpak",
    "fwupdmgr",
    "packagekitd",
    "microdnf",
    "transactional-update",
];

/// The file name of a path.
pub fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Whether an executable is an interpreter, whatever its version suffix.
pub fn is_interpreter(executable: &str) -> bool {
    let name = file_name(executable);
    INTERPRETERS.iter().any(|known| {
        name.strip_prefix(known)
            .is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'-'))
    })
}

/// Whether an executable installs packages.
pub fn is_package_manager(executable: &str) -> bool {
    executable.starts_with("/usr/lib/apt/") || PACKAGE_MANAGERS.contains(&file_name(executable))
}

/// The name under which a process's program is known.
///
/// Facts that come late (hash, package) are not part of it: they decide whether the program is still the same one.
pub fn program_name(process: &Process) -> Arc<str> {
    let script = process.script.as_deref();
    match (image_name(process), script) {
        (None, None) => process.executable.clone(),
        (image, script) => {
            let image = image.map(|image| format!("image:{image}")).unwrap_or_default();
            let script = script.map(|script| format!(" {}", script.path)).unwrap_or_default();
            format!("{image}{}{script}", process.executable).into()
        }
    }
}

/// The container image without its tag or digest, so that a newer image of the same name keeps the baseline.
fn image_name(process: &Process) -> Option<&str> {
    let image = process.container_image.as_deref()?;
    let image = image.split('@').next().unwrap_or(image);
    let last_slash = image.rfind('/').map_or(0, |at| at + 1);
    Some(image[last_slash..].find(':').map_or(image, |colon| &image[..last_slash + colon]))
}

/// The hash that tells two versions of a program apart: the script's where it is a file, else the image's. Code on the
/// command line is another with nearly every run, and no version of anything.
pub fn identity_hash(process: &Process) -> &ImageHash {
    let script = process.script.as_deref().filter(|script| script.is_file());
    script.map_or(&process.hash, |script| &script.hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::process::{Package, Script};

    fn process(executable: &str) -> Process {
        Process { executable: executable.into(), ..Process::default() }
    }

    #[test]
    fn the_place_tells_who_can_have_put_it_there() {
        let table = [
            ("/usr/bin/curl", Location::System),
            ("/usr/local/bin/updatesvc", Location::Vendor),
            ("/opt/chat/chat-desktop", Location::Vendor),
            ("/home/user/Downloads/invoice.elf", Location::Home),
            ("/home/user/.config/pulse/pa-sync", Location::Volatile),
            ("/tmp/.X11-unix/Xorgd", Location::Volatile),
            ("/dev/shm/a", Location::Volatile),
            ("/usr/bin/curl (deleted)", Location::Volatile),
            ("", Location::Volatile),
        ];
        for (path, expected) in table {
            assert_eq!(Location::of(&process(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_package_vouches_only_while_unmodified() {
        let owned = |is_unmodified| Process {
            package: Some(Arc::new(Package { manager: "dpkg", name: "x".into(), version: "1".into(), is_unmodified })),
            ..process("/opt/x/x")
        };
        assert_eq!(Location::of(&owned(Some(true))), Location::Packaged);
        assert_eq!(Location::of(&owned(Some(false))), Location::Volatile);
    }

    #[test]
    fn scripts_and_images_are_part_of_the_name_and_versions_are_not() {
        let script = Script { path: "/srv/job.py".into(), hash: ImageHash::Pending, package: None };
        let scripted = Process { script: Some(Arc::new(script)), ..process("/usr/bin/python3.11") };
        assert_eq!(&*program_name(&scripted), "/usr/bin/python3.11 /srv/job.py");
        let contained = |image: &str| Process { container_image: Some(image.into()), ..process("/app") };
        assert_eq!(program_name(&contained("reg:5000/a/b:1.2")), program_name(&contained("reg:5000/a/b@sha256:00")));
        assert_eq!(&*program_name(&contained("reg:5000/a/b:1.2")), "image:reg:5000/a/b/app");
    }

    #[test]
    fn versions_of_interpreters_are_interpreters_and_look_alikes_are_not() {
        assert!(is_interpreter("/usr/bin/python3.11") && is_interpreter("/bin/sh") && is_interpreter("/usr/bin/perl"));
        assert!(
            !is_interpreter("/usr/bin/shred")
                && !is_interpreter("/usr/bin/node-uptime")
                && !is_interpreter("/usr/bin/pythonic")
        );
        assert!(is_package_manager("/usr/lib/apt/methods/https") && !is_package_manager("/tmp/aptx"));
    }
}
