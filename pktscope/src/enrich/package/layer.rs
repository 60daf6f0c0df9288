//! Which layer of a container image a file comes from.
//!
//! In: the mounts of a process whose root is an overlay (Documentation/filesystems/overlayfs.rst). Out: the layer that
//! has the file, and whether it is the container's own layer rather than one of the image.

use std::path::{Path, PathBuf};

/// Layers that are looked at; overlayfs takes at most 500 (fs/overlayfs/params.h, OVL_MAX_STACK).
const MAX_LAYERS: usize = 500;

/// A layer that has a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The layer's folder, as the runtime names it.
    pub name: String,
    /// Whether it is one of the image: the file is not, where the container wrote it.
    pub is_of_image: bool,
}

/// The first layer that has `path`, from `/proc/PID/mountinfo` and the host's root directory.
///
/// `None` where the path lies on no overlay, or no layer can be reached from the host's root.
pub fn find_layer(mounts: &str, host_root: &Path, path: &str) -> Option<Layer> {
    let (below, options) = overlay_of(mounts, path)?;
    let option = |name: &str| options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
    let has_file = |layer: &Path| std::fs::symlink_metadata(layer.join(below)).is_ok();
    if let Some(upper) = option("upperdir").map(|folder| on_host(host_root, folder)).filter(|folder| has_file(folder)) {
        return Some(Layer { name: layer_name(&upper), is_of_image: false });
    }
    let lower = option("lowerdir").or_else(|| option("lowerdir+"))?;
    let layers = lower.split(':').filter(|folder| !folder.is_empty()).take(MAX_LAYERS);
    let layer = layers.map(|folder| on_host(host_root, folder)).find(|folder| has_file(folder))?;
    Some(Layer { name: layer_name(&layer), is_of_image: true })
}

/// The path below its overlay's mount point, and that overlay's options.
///
/// Lines are `id parent device root point options… - type source options` (proc_pid_mountinfo(5)); the last of the longest
/// mount points is the one on top.
fn overlay_of<'a>(mounts: &'a str, path: &'a str) -> Option<(&'a str, String)> {
    let below = |point: &str| {
        let rest = path.strip_prefix(if point == "/" { "" } else { point })?;
        rest.strip_prefix('/').map(|rest| (point.len(), rest))
    };
    let rows = mounts.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let point = unescape(mount.split(' ').nth(4)?);
        Some((below(&point)?, kind))
    });
    let ((_, rest), kind) = rows.max_by_key(|((length, _), _)| *length)?;
    let mut words = kind.split(' ');
    let is_overlay = words.next() == Some("overlay");
    is_overlay.then(|| words.nth(1).map(|options| (rest, unescape(options)))).flatten()
}

/// Blanks, tabs, newlines and backslashes stand there in octal (fs/proc_namespace.c, mangle).
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, letter)| text.replace(code, letter))
}

/// Docker and Podman name layers by short links to keep the options short.
fn on_host(host_root: &Path, folder: &str) -> PathBuf {
    let path = host_root.join(folder.trim_start_matches('/'));
    path.canonicalize().unwrap_or(path)
}

/// `…/overlay2/NAME/diff` (Docker), `…/overlay/NAME/diff` (Podman, CRI-O), `…/snapshots/NUMBER/fs` (containerd).
fn layer_name(folder: &Path) -> String {
    let last = folder.file_name().unwrap_or_default();
    let is_content = last == "diff" || last == "fs";
    let named = if is_content { folder.parent().and_then(Path::file_name) } else { None };
    named.unwrap_or(last).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn write(root: &Path, path: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    #[test]
    fn the_topmost_layer_that_has_the_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        let store = "var/lib/docker/overlay2";
        write(root.path(), &format!("{store}/base/diff/usr/bin/curl"));
        write(root.path(), &format!("{store}/app/diff/usr/bin/app"));
        write(root.path(), &format!("{store}/own/diff/tmp/dropped"));
        fs::create_dir_all(root.path().join(store).join("l")).unwrap();
        symlink("../app/diff", root.path().join(store).join("l/AAA")).unwrap();
        symlink("../base/diff", root.path().join(store).join("l/BBB")).unwrap();
        let mounts = format!(
            "700 600 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/{store}/l/AAA:/{store}/l/BBB,\
             upperdir=/{store}/own/diff,workdir=/{store}/own/work\n\
             701 700 0:51 / /proc rw - proc proc rw\n702 700 8:1 /data /data rw - ext4 /dev/sda1 rw\n"
        );
        let check = |path, expected: Option<(&str, bool)>| {
            let layer = find_layer(&mounts, root.path(), path);
            let layer = layer.as_ref().map(|layer| (layer.name.as_str(), layer.is_of_image));
            assert_eq!(layer, expected, "{path}");
        };
        check("/usr/bin/app", Some(("app", true)));
        check("/usr/bin/curl", Some(("base", true)));
        check("/tmp/dropped", Some(("own", false)));
        check("/data/tool", None);
        check("/nowhere", None);
        check("relative", None);
    }

    #[test]
    fn containerds_snapshots_go_by_their_number() {
        assert_eq!(layer_name(Path::new("/var/lib/containerd/x/snapshots/42/fs")), "42");
        assert_eq!(layer_name(Path::new("/layers/one")), "one");
    }

    #[test]
    fn odd_mounts_are_read_as_they_are_written() {
        let mounts = "1 0 0:1 / / rw - ext4 x rw\n2 1 0:2 / /a\\040b rw - overlay o rw,lowerdir=/l\\040x\n";
        assert_eq!(overlay_of(mounts, "/a b/c"), Some(("c", "rw,lowerdir=/l x".to_owned())));
        assert_eq!(overlay_of(mounts, "/other"), None);
        assert_eq!(overlay_of("garbage\n- - -\n", "/x"), None);
    }
}
