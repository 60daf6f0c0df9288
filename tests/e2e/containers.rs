//! Containers, by the cgroups that their runtimes make.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use crate::standing::{AGENT, pair};
use pktscope_tests::{
    cgroup::Cgroup,
    event::Event,
    flow::{DEADLINE, end_of},
    machine::{copy_program, missing_privilege, missing_program, output_of},
    skip_if,
    traffic::{Traffic, built},
};
use tempfile::TempDir;

const ID: &str = "4d1f7c0b6a3e5f8291b0c7d6e5a4938271605f4e3d2c1b0a9f8e7d6c5b4a3921";

fn check_layout(folder: &str, expected: &str) {
    skip_if!(missing_privilege());
    let (pair, cgroup) = (pair(), Cgroup::new(folder).unwrap());
    let mut traffic = Traffic::new(&pair.near.namespace, &format!("udp --to {}:9 --pause", pair.far.v4));
    cgroup.adopt(traffic.command());
    let mut running = traffic.start().unwrap();
    running.report().unwrap();
    running.go_on().unwrap();
    let end = end_of(&AGENT, &running.finish().unwrap().pop().unwrap());
    assert_eq!(end.text("container.id"), expected, "{folder}: {end}");
    let path = end.text("pktscope.cgroup.path");
    assert!(cgroup.path().ends_with(path.trim_start_matches('/')), "{path} is {}", cgroup.path().display());
}

#[test]
fn docker_s_layouts_are_read() {
    check_layout(&format!("system.slice/docker-{ID}.scope"), ID);
    check_layout(&format!("docker/{ID}"), ID);
}

#[test]
fn podman_s_layout_is_read() {
    check_layout(&format!("machine.slice/libpod-{ID}.scope/container"), ID);
}

#[test]
fn containerd_s_and_cri_o_s_layouts_are_read() {
    let pod = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice";
    check_layout(&format!("{pod}/cri-containerd-{ID}.scope"), ID);
    check_layout(&format!("{pod}/crio-{ID}.scope"), ID);
    check_layout(&format!("kubepods/burstable/pod1/{ID}"), ID);
}

#[test]
fn a_service_is_no_container() {
    check_layout("system.slice/ssh.service", "");
}

/// A root file system with nothing but the generator and what it links to.
fn image(folder: &Path) -> String {
    let root = folder.join("root");
    fs::create_dir_all(&root).unwrap();
    copy_program(&built("traffic"), &root.join("traffic"));
    let linked = output_of(Command::new("ldd").arg(built("traffic")));
    for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
        let to = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(library, to).unwrap();
    }
    let tar = folder.join("image.tar");
    output_of(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("."));
    let name = format!("localhost/pktscope-e2e-{}", std::process::id());
    output_of(Command::new("podman").args(["import", "--quiet"]).arg(&tar).arg(&name));
    name
}

#[test]
fn a_real_container_is_named_by_its_id() {
    skip_if!(missing_privilege());
    for program in ["podman", "runc", "ldd", "tar"] {
        skip_if!(missing_program(program));
    }
    let (_pair, folder) = (pair(), TempDir::new().unwrap());
    let (image, id_file) = (image(folder.path()), folder.path().join("id"));
    let mut podman = Command::new("podman");
    // RLIMITs and the cgroup manager as an unprivileged virtual machine allows them.
    podman.args(["--runtime", "runc", "--cgroup-manager=cgroupfs", "run", "--rm", "--interactive", "--network=none"]);
    podman.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--cidfile"]).arg(&id_file);
    podman.args([&image, "/traffic", "udp", "--to", "127.0.0.1:9", "--linger"]);
    let mut running = podman.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It has sent once it says so, and stays until its input ends: a busy machine looks at its cgroup some time later.
    let has_sent = BufReader::new(running.stdout.as_mut().unwrap()).lines().any(|line| line.unwrap().contains("sent"));
    let id = fs::read_to_string(&id_file).unwrap_or_default();
    let of_container = |event: &Event| event.is("flow") && event.text("container.id") == id.trim();
    if has_sent {
        AGENT.expect(DEADLINE, "the container's flow", of_container);
    }
    let output = running.wait_with_output().unwrap();
    output_of(Command::new("podman").args(["rmi", "--force", &image]));
    let refused = String::from_utf8_lossy(&output.stderr).into_owned();
    skip_if!((!output.status.success()).then_some(format!("podman cannot run a container here: {refused}")));
    let end = AGENT.expect(DEADLINE, "its end", |event| event.is_flow_end() && of_container(event));
    assert_eq!((end.text("process.executable"), end.number("source.packets")), ("/traffic", 10), "{end}");
}
