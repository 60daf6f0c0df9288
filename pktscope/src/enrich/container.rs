//! Containers, by the cgroup of a process.
//!
//! In: `/proc/PID/cgroup`, or a cgroup2 id where the process has ended. Out: the container's id, and the cgroup2 path.

use std::{
    fs::File,
    io,
    mem::size_of,
    num::NonZeroUsize,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use lru::LruCache;

/// cgroups that are remembered after their last process.
const MAX_CGROUPS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// Hexadecimal digits of a container id: 32 random bytes (moby's stringid, containers/storage's stringid, CRI runtimes').
const ID_DIGITS: usize = 64;

/// Handle of a cgroup: its 64-bit id (include/linux/exportfs.h, FILEID_KERNFS; fs/kernfs/mount.c).
const KERNFS_HANDLE: i32 = 0xfe;

/// Where a process is confined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// cgroup2 path below its mount; `None` on a host without cgroup2.
    pub path: Option<Arc<str>>,
    /// Id of the innermost container.
    pub container_id: Option<Arc<str>>,
}

impl Cgroup {
    /// From `/proc/PID/cgroup` (cgroups(7)): lines `hierarchy:controllers:path`, 0 and no controllers for cgroup2.
    ///
    /// Where the cgroup2 path names no container the older hierarchies are asked: on a hybrid host a runtime may only
    /// use those.
    pub fn parse(text: &str) -> Self {
        let rows = || text.lines().filter_map(|line| line.splitn(3, ':').nth(2).map(|path| (line, path)));
        let unified = rows().find(|(line, _)| line.starts_with("0::")).map(|(_, path)| path);
        let id = unified.and_then(container_id).or_else(|| rows().find_map(|(_, path)| container_id(path)));
        Self { path: unified.map(Arc::from), container_id: id.map(Arc::from) }
    }

    fn from_path(path: &str) -> Self {
        Self { path: Some(path.into()), container_id: container_id(path).map(Arc::from) }
    }
}

/// The id of the innermost container that a cgroup path lies in.
///
/// Every layout ends in the id, alone or behind a prefix, and most are followed by cgroups that the container made
/// itself:
/// - cgroupfs driver: `/docker/ID`, `/kubepods/burstable/podUID/ID`, `/libpod_parent/libpod-ID`, `/kubepods/podUID/crio-ID`
///   (CRI-O: pull request 812)
/// - systemd driver: `/system.slice/docker-ID.scope`, `…-podUID.slice/cri-containerd-ID.scope`, `…/crio-ID.scope`,
///   `/machine.slice/libpod-ID.scope/container` (the last step is crun's own: podman's pull request 8290)
/// - a systemd name given to the cgroupfs driver: `…-podUID.slice:cri-containerd:ID`
///
/// A monitor beside the container (`libpod-conmon-ID.scope`, `crio-conmon-ID.scope`) is not in it.
pub fn container_id(path: &str) -> Option<&str> {
    path.rsplit('/').find_map(|step| {
        let name = step.strip_suffix(".scope").unwrap_or(step);
        let (prefix, id) = name.split_at_checked(name.len().checked_sub(ID_DIGITS)?)?;
        let is_id = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_prefix = prefix.is_empty() || prefix.ends_with(['-', ':']) && !prefix.ends_with("conmon-");
        (is_id && is_prefix).then_some(id)
    })
}

/// Finds cgroups by id, also just after their last process ended.
pub struct Cgroups {
    /// The cgroup2 mount, and where it lies.
    mount: Option<(File, PathBuf)>,
    known: LruCache<u64, Cgroup>,
}

impl Default for Cgroups {
    fn default() -> Self {
        Self { mount: find_mount(), known: LruCache::new(MAX_CGROUPS) }
    }
}

impl Cgroups {
    /// Remembers what a living process showed of its cgroup, unless it was moved to another one since it had this id: a
    /// runtime moves a container's first process.
    pub fn learn(&mut self, id: u64, cgroup: &Cgroup) {
        let is_told_by_path = cgroup.path.as_deref().and_then(container_id) == cgroup.container_id.as_deref();
        if is_told_by_path && self.is_id_of(id, cgroup.path.as_deref()) {
            self.known.put(id, cgroup.clone());
        }
    }

    /// A cgroup's id is its folder's inode number.
    fn is_id_of(&self, id: u64, path: Option<&str>) -> bool {
        let (Some((_, root)), Some(path)) = (&self.mount, path) else { return false };
        std::fs::metadata(root.join(path.trim_start_matches('/'))).is_ok_and(|folder| folder.ino() == id)
    }

    /// The cgroup with this id, where it still exists or is remembered.
    pub fn find(&mut self, id: u64) -> Option<Cgroup> {
        if let Some(known) = self.known.get(&id) {
            return Some(known.clone());
        }
        let (mount, root) = self.mount.as_ref()?;
        let folder = open_by_id(mount, id).ok()?;
        let path = std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd())).ok()?;
        let below = path.strip_prefix(root).ok()?.to_str()?;
        let cgroup = Cgroup::from_path(&format!("/{below}"));
        self.known.put(id, cgroup.clone());
        Some(cgroup)
    }
}

fn find_mount() -> Option<(File, PathBuf)> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let fields = |line: &str| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
    let row = mounts.lines().map(fields).find(|fields| fields.get(2).is_some_and(|kind| kind == "cgroup2"))?;
    let path = Path::new(row.get(1)?).to_path_buf();
    Some((File::open(&path).ok()?, path))
}

#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    id: [u8; 8],
}

/// Opens a cgroup by its id (open_by_handle_at(2)); needs CAP_DAC_READ_SEARCH.
fn open_by_id(mount: &File, id: u64) -> io::Result<OwnedFd> {
    let mut handle = FileHandle { bytes: size_of::<u64>() as u32, kind: KERNFS_HANDLE, id: id.to_ne_bytes() };
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the handle is a `struct file_handle` of the stated length and lives through the call.
    let opened =
        unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount.as_raw_fd(), (&raw mut handle).cast::<u8>(), flags) };
    match i32::try_from(opened) {
        // SAFETY: the call just gave this descriptor, and nobody else has it.
        Ok(number) if 0 <= number => Ok(unsafe { OwnedFd::from_raw_fd(number) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "8d2ad5a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d";
    const OUTER: &str = "4f797c539e6c745de61a93ca3ff892358ecbcaccd8414d5db545c38428142970";
    const POD: &str = "poda5c1f8d5_1919_434d_add7_4afaafdaef89";

    fn check(path: &str, expected: Option<&str>) {
        let path = path.replace("ID", ID).replace("OUTER", OUTER).replace("POD", POD);
        assert_eq!(container_id(&path), expected, "{path}");
    }

    #[test]
    fn every_runtimes_layout_gives_the_id() {
        for path in [
            // Docker, cgroupfs and systemd drivers.
            "/docker/ID",
            "/system.slice/docker-ID.scope",
            "/system.slice/docker-ID.scope/init",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-POD.slice/docker-ID.scope",
            // containerd below the kubelet, nerdctl, and a systemd name given to the cgroupfs driver.
            "/kubepods/burstable/POD/ID",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-POD.slice/cri-containerd-ID.scope",
            "/system.slice/containerd.service/kubepods-burstable-POD.slice:cri-containerd:ID",
            "/system.slice/nerdctl-ID.scope",
            "/default/ID",
            // CRI-O.
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-POD.slice/crio-ID.scope",
            "/kubepods/besteffort/POD/crio-ID",
            // Podman: root, rootless, with crun's own step, cgroupfs.
            "/machine.slice/libpod-ID.scope",
            "/machine.slice/libpod-ID.scope/container",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container/app.slice",
            "/libpod_parent/libpod-ID",
            // ECS on EC2, and a container that lies in another (kind, docker in docker).
            "/ecs/task-name/ID",
            "/docker/OUTER/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-POD.slice/cri-containerd-ID.scope",
            "/docker/OUTER/docker/ID",
            // Seen from another cgroup namespace.
            "/../../system.slice/docker-ID.scope",
        ] {
            check(path, Some(ID));
        }
    }

    #[test]
    fn other_cgroups_are_no_container() {
        for path in [
            "/",
            "/init.scope",
            "/system.slice/ssh.service",
            "/user.slice/user-1000.slice/session-3.scope",
            "/machine.slice/libpod-conmon-ID.scope",
            "/kubepods.slice/kubepods-POD.slice/crio-conmon-ID.scope",
            "/system.slice/xID.scope",
            "/kubepods.slice/kubepods-POD.slice",
        ] {
            check(path, None);
        }
        check("/docker/OUTER/machine.slice/libpod-conmon-ID.scope", Some(OUTER));
    }

    #[test]
    fn a_hybrid_hosts_older_hierarchies_are_asked_too() {
        let v2 = Cgroup::parse("0::/system.slice/cron.service\n");
        assert_eq!(v2, Cgroup { path: Some("/system.slice/cron.service".into()), container_id: None });
        let hybrid = format!("12:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/\n");
        let cgroup = Cgroup::parse(&hybrid);
        assert_eq!((cgroup.path.as_deref(), cgroup.container_id.as_deref()), (Some("/"), Some(ID)));
        let v1 = format!("4:memory:/kubepods/besteffort/{POD}/{ID}\n1:name=systemd:/\n");
        let cgroup = Cgroup::parse(&v1);
        assert_eq!((cgroup.path, cgroup.container_id.as_deref()), (None, Some(ID)));
        assert_eq!(Cgroup::parse("garbage\n:::\n"), Cgroup::default());
    }

    #[test]
    fn a_cgroup_is_found_by_its_id_and_remembered_after_its_end() {
        let mut cgroups = Cgroups::default();
        let Some((_, root)) = &cgroups.mount else { return };
        let folder = root.join(format!("pktscope-test-{}", std::process::id()));
        let container = folder.join(format!("docker-{ID}.scope"));
        if std::fs::create_dir_all(&container).is_err() {
            return;
        }
        let id = std::fs::metadata(&container).unwrap().ino();
        let found = cgroups.find(id);
        std::fs::remove_dir(&container).unwrap();
        std::fs::remove_dir(&folder).unwrap();
        let found = found.unwrap();
        assert_eq!(found.container_id.as_deref(), Some(ID));
        assert!(found.path.as_deref().unwrap().ends_with(".scope"));
        assert_eq!(cgroups.find(id), Some(found));
        assert_eq!(Cgroups::default().find(id), None, "the cgroup is gone");
    }

    #[test]
    fn a_process_that_was_moved_since_teaches_nothing() {
        let root = tempfile::tempdir().unwrap();
        let path = format!("/docker/{ID}");
        let inside = root.path().join(path.trim_start_matches('/'));
        std::fs::create_dir_all(&inside).unwrap();
        let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
        let mount = Some((File::open(root.path()).unwrap(), root.path().to_path_buf()));
        let mut cgroups = Cgroups { mount, known: LruCache::new(MAX_CGROUPS) };
        let cgroup = Cgroup::from_path(&path);
        cgroups.learn(inode(root.path()), &cgroup);
        assert_eq!(cgroups.find(inode(root.path())), None, "the id is that of the cgroup it started in");
        cgroups.learn(inode(&inside), &cgroup);
        assert_eq!(cgroups.find(inode(&inside)), Some(cgroup));
    }

    #[test]
    fn a_hybrid_hosts_shared_path_is_not_remembered_for_one_container() {
        let mut cgroups = Cgroups { mount: None, known: LruCache::new(MAX_CGROUPS) };
        cgroups.learn(1, &Cgroup { path: Some("/".into()), container_id: Some(ID.into()) });
        assert_eq!(cgroups.find(1), None);
    }
}
