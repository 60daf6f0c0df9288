//! Processes of a real container, where Podman can run one: id, image, layer, files seen in the container's own tree.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

use std::{
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    process::Command,
};

use pktscope::{
    core::{
        effect::{LookupDepth, ProcessLookup},
        event::ProcessFacts,
        process::{ImageHash, ProcessKey},
    },
    enrich::{EnrichSettings, Enricher, procfs::Proc},
};

const BUSYBOX: &str = "/bin/busybox";
const IMAGE: &str = "localhost/pktscope-test:1";

/// Starts a program that the container wrote, and a script, and says when they run.
const JOB: &str = "cp /bin/busybox /tmp/cat; mkfifo /tmp/never; /tmp/cat /tmp/never & cd /tmp; \
                   echo 'read line < /tmp/never' > job.sh; ln -s /tmp/job.sh link.sh; sh link.sh & echo running; wait";

fn podman(arguments: &[&str]) -> Option<String> {
    let output = Command::new("podman").args(["--cgroup-manager", "cgroupfs"]).args(arguments).output().ok()?;
    if !output.status.success() {
        println!("podman {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

/// A container, removed with its image when it is dropped.
struct Container(String);

impl Container {
    /// `None` where this machine has no Podman that can run one, or no static busybox.
    fn start() -> Option<Self> {
        let root = tempfile::tempdir().unwrap();
        for folder in ["bin", "tmp", "proc", "dev", "sys", "etc"] {
            std::fs::create_dir(root.path().join(folder)).unwrap();
        }
        std::fs::copy(BUSYBOX, root.path().join("bin/busybox")).ok()?;
        for name in ["sh", "cp", "mkfifo", "echo", "ln"] {
            symlink("busybox", root.path().join("bin").join(name)).unwrap();
        }
        let archive = root.path().join("tmp/image.tar");
        Command::new("tar")
            .args(["--exclude=./tmp/*", "-cf"])
            .arg(&archive)
            .arg("-C")
            .arg(root.path())
            .arg(".")
            .status()
            .ok()?;
        podman(&["import", archive.to_str()?, IMAGE])?;
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];
        let run = [&["run", "-d", "--network", "none"], &limits[..], &[IMAGE, "/bin/sh", "-c", JOB]].concat();
        let container = Self(podman(&run)?);
        // Each question takes Podman about a tenth of a second.
        let is_running = (0..100).any(|_| podman(&["logs", &container.0]).as_deref() == Some("running"));
        assert!(is_running, "the container's job did not start");
        Some(container)
    }

    /// The newest process of the container with this name, which may be about to start.
    fn process(&self, comm: &str) -> ProcessKey {
        let is_inside = |key: &ProcessKey| {
            let cgroups = std::fs::read_to_string(format!("/proc/{}/cgroup", key.pid)).unwrap_or_default();
            cgroups.contains(&self.0)
        };
        let newest = |_| {
            let rows = Proc::new().running().into_iter().filter(|row| &*row.comm == comm).map(|row| row.key);
            rows.filter(is_inside).max_by_key(|key| (key.started_at, key.pid))
        };
        (0..1000).find_map(newest).unwrap_or_else(|| panic!("no {comm} in the container"))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        podman(&["rm", "-f", "-t", "0", &self.0]);
        podman(&["rmi", "-f", IMAGE]);
    }
}

struct Bench {
    enricher: Enricher,
    answers: tokio::sync::mpsc::Receiver<ProcessFacts>,
}

impl Bench {
    fn ask(&mut self, question: ProcessLookup) -> [ProcessFacts; 2] {
        self.enricher.submit(ProcessLookup { depth: LookupDepth::Full, ..question });
        [self.answers.blocking_recv().unwrap(), self.answers.blocking_recv().unwrap()]
    }
}

fn sha256sum(path: &str) -> Option<ImageHash> {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    Some(ImageHash::Sha256(String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().into()))
}

fn cgroup_id(container: &str) -> u64 {
    let name = format!("*{container}*");
    let found = Command::new("find").args(["/sys/fs/cgroup", "-name", &name, "-fstype", "cgroup2"]).output().unwrap();
    let path = String::from_utf8(found.stdout).unwrap();
    path.lines().next().map_or(0, |path| std::fs::metadata(Path::new(path)).unwrap().ino())
}

#[test]
fn a_containers_processes_are_named_by_container_image_and_layer() {
    let Some(container) = Container::start() else {
        println!("skipped: Podman cannot run a container here");
        return;
    };
    let (enricher, answers) = Enricher::spawn(EnrichSettings::default()).unwrap();
    let mut bench = Bench { enricher, answers };
    let cgroup_id = cgroup_id(&container.0);

    let shell = container.process("sh");
    let [quick, files] = bench.ask(ProcessLookup { key: shell, cgroup_id, ..Default::default() });
    assert_eq!(quick.container_id.as_deref(), Some(&*container.0));
    assert_eq!(quick.container_image.as_deref(), Some(IMAGE));
    assert_eq!(quick.executable.as_deref(), Some(BUSYBOX));
    assert_eq!(quick.script.unwrap().path.as_ref(), "/tmp/job.sh", "resolved in the container's tree");
    assert_eq!(files.hash, sha256sum(BUSYBOX));
    assert!(matches!(files.script.unwrap().hash, ImageHash::Sha256(_)));
    let package = files.package.unwrap();
    assert_eq!((package.manager, &*package.name, package.is_unmodified), ("image", IMAGE, Some(true)));

    let dropped = container.process("cat");
    let [quick, files] = bench.ask(ProcessLookup { key: dropped, ..Default::default() });
    assert_eq!(quick.executable.as_deref(), Some("/tmp/cat"));
    let package = files.package.unwrap();
    assert_eq!((package.manager, package.is_unmodified), ("image", Some(false)), "the container wrote it itself");

    let id = container.0.clone();
    drop(container);
    if cgroup_id != 0 {
        let [quick, _] = bench.ask(ProcessLookup { key: shell, cgroup_id, ..Default::default() });
        assert_eq!(quick.container_id.as_deref(), Some(&*id), "its cgroup is remembered");
    }
}
