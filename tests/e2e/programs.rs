//! What a program is: its package and version, whether it still is the package's, the script it runs.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
};

use crate::standing::{AGENT, pair};
use pktscope_tests::{
    event::Event,
    flow::end_of,
    machine::{missing_privilege, missing_program, output_of},
    namespace::Pair,
    server::UdpServer,
    skip_if,
    traffic::{Traffic, built},
};
use tempfile::TempDir;

const PACKAGE: &str = "pktscope-e2e-program";
const FOLDER: &str = "/opt/pktscope-e2e";
const PROGRAM: &str = "/opt/pktscope-e2e/program";

/// A package of the host, taken away when it is dropped.
struct Installed;

impl Installed {
    /// Builds a version of the package, with the generator as its program, and installs it with dpkg.
    fn install(version: &str) -> Self {
        let build = TempDir::new().unwrap();
        let root = build.path().join("root");
        let inside = root.join(FOLDER.trim_start_matches('/'));
        fs::create_dir_all(&inside).unwrap();
        fs::create_dir(root.join("DEBIAN")).unwrap();
        // A few bytes after an ELF image make another file of it, and change nothing of what it does.
        let mut image = fs::read(built("traffic")).unwrap();
        image.extend(version.bytes());
        let program = inside.join("program");
        fs::write(&program, image).unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let sum = output_of(Command::new("md5sum").arg(&program));
        let sum = sum.split(' ').next().unwrap();
        fs::write(root.join("DEBIAN/md5sums"), format!("{sum}  {}\n", PROGRAM.trim_start_matches('/'))).unwrap();
        let control = format!(
            "Package: {PACKAGE}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n\
             Description: program of a test\n"
        );
        fs::write(root.join("DEBIAN/control"), control).unwrap();
        let package = build.path().join("package.deb");
        output_of(Command::new("dpkg-deb").args(["-Znone", "--root-owner-group", "-b"]).arg(&root).arg(&package));
        output_of(Command::new("dpkg").arg("-i").arg(&package));
        Self
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        // Where that fails the next installation says so.
        let _ = Command::new("dpkg").args(["--purge", PACKAGE]).output();
    }
}

/// The end of a flow that the package's program sent.
///
/// The first flow after dpkg's database changed may be told before its index is read anew: an unoptimised build takes
/// longer for it than a flow waits. The second one finds it read.
fn send(pair: &Pair, server: &UdpServer) -> Event {
    let run = format!("udp --to {}", server.addr);
    let once = || {
        let report = Traffic::of(Path::new(PROGRAM), &pair.near.namespace, &run).run().unwrap();
        end_of(&AGENT, &report)
    };
    once();
    once()
}

fn expect_package(end: &Event, version: &str, is_unmodified: bool) {
    assert_eq!(end.text("process.executable"), PROGRAM, "{end}");
    let name = (end.text("package.type"), end.text("package.name"), end.text("package.version"));
    assert_eq!(name, ("dpkg", PACKAGE, version), "{end}");
    assert_eq!(end.get("pktscope.process.package_is_unmodified"), Some(&is_unmodified.into()), "{end}");
    let hash = output_of(Command::new("sha256sum").arg(PROGRAM));
    assert_eq!(Some(end.text("process.hash.sha256")), hash.split(' ').next(), "{end}");
}

#[test]
fn an_upgraded_and_a_changed_package_s_program_are_told_apart() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("dpkg-deb"));
    let pair = pair();
    let server = UdpServer::start(&pair.far.namespace, pair.far.v4.into(), false).unwrap();
    let _installed = Installed::install("1.0");
    expect_package(&send(&pair, &server), "1.0", true);
    let _upgraded = Installed::install("2.0");
    expect_package(&send(&pair, &server), "2.0", true);
    OpenOptions::new().append(true).open(PROGRAM).unwrap().write_all(b"changed").unwrap();
    expect_package(&send(&pair, &server), "2.0", false);
}

#[test]
#[ignore = "a relative path stays relative where the process ends before its folder can be looked up"]
fn a_script_behind_a_first_line_is_seen_with_its_hash() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("python3"));
    let pair = pair();
    let server = UdpServer::start(&pair.far.namespace, pair.far.v4.into(), false).unwrap();
    let folder = TempDir::new().unwrap();
    let script = folder.path().join("beacon");
    let code = "#!/usr/bin/env python3\nimport os, socket, sys\n\
                socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], int(sys.argv[2])))\nprint(os.getpid())\n";
    fs::write(&script, code).unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let mut run = pair.near.namespace.command("./beacon");
    run.current_dir(folder.path()).args([server.addr.ip().to_string(), server.addr.port().to_string()]);
    let pid = output_of(&mut run).trim().to_owned();
    let end = AGENT.expect(pktscope_tests::flow::DEADLINE, "the script's flow", |event| {
        event.is_flow_end() && event.pid().to_string() == pid
    });
    assert!(end.text("process.executable").contains("python3"), "{end}");
    assert_eq!(end.text("pktscope.process.script.path"), script.to_str().unwrap(), "{end}");
    let hash = output_of(Command::new("sha256sum").arg(&script));
    assert_eq!(Some(end.text("pktscope.process.script.sha256")), hash.split(' ').next(), "{end}");
}
