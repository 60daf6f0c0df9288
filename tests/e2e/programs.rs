//! What a program is: its package and version, whether it still is the package's, the script it runs.

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use crate::standing::{AGENT, pair};
use pktscope_tests::{
    event::Event,
    flow::{DEADLINE, Side, end_of},
    machine::{copy_program, missing_privilege, missing_program, output_of},
    namespace::Pair,
    server::{HttpServer, UdpServer},
    skip_if,
    traffic::{Traffic, built},
    wait::wait_until,
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
    let server = udp_server(&pair);
    let _installed = Installed::install("1.0");
    expect_package(&send(&pair, &server), "1.0", true);
    let _upgraded = Installed::install("2.0");
    expect_package(&send(&pair, &server), "2.0", true);
    OpenOptions::new().append(true).open(PROGRAM).unwrap().write_all(b"changed").unwrap();
    expect_package(&send(&pair, &server), "2.0", false);
}

/// Sends a datagram and tells its process id; stays until its input ends where it is told to.
const BEACON: &str = "#!/usr/bin/env python3
import os, socket, sys
socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', (sys.argv[1], int(sys.argv[2])))
print(os.getpid(), flush=True)
if sys.argv[3] == 'stay':
    sys.stdin.read()
";

fn udp_server(pair: &Pair) -> UdpServer {
    UdpServer::start(&pair.far.namespace, pair.far.v4.into(), false).unwrap()
}

/// Writes the script to a folder; gives its path.
fn write_beacon(folder: &Path) -> PathBuf {
    let script = folder.join("beacon");
    fs::write(&script, BEACON).unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    script
}

/// Runs the script by a relative path from its own folder.
fn beacon(pair: &Pair, folder: &Path, to: SocketAddr, how: &str) -> Child {
    let mut run = pair.near.namespace.command("./beacon");
    run.current_dir(folder).args([to.ip().to_string(), to.port().to_string(), how.to_owned()]);
    run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// The script's process id, and the first of its flow's events that tells the script's hash or why there is none.
fn expect_script(child: &mut Child) -> Event {
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let pid: u32 = line.trim().parse().unwrap();
    AGENT.expect(pktscope_tests::flow::DEADLINE, "the script's flow", |event| {
        let script = event.get("pktscope.process.script");
        event.pid() == pid && script.is_some_and(|script| script.get("sha256").or(script.get("hash_error")).is_some())
    })
}

#[test]
fn a_script_behind_a_first_line_is_seen_with_its_hash() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("python3"));
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let (server, script) = (udp_server(&pair), write_beacon(folder.path()));
    let hash = output_of(Command::new("sha256sum").arg(&script));
    let hash = hash.split(' ').next();
    let mut staying = beacon(&pair, folder.path(), server.addr, "stay");
    let told = expect_script(&mut staying);
    drop(staying.stdin.take());
    assert!(staying.wait().unwrap().success());
    assert!(told.text("process.executable").contains("python3"), "{told}");
    let expect_found = |told: Event| {
        assert_eq!(told.text("pktscope.process.script.path"), script.to_str().unwrap(), "{told}");
        assert_eq!(Some(told.text("pktscope.process.script.sha256")), hash, "{told}");
    };
    expect_found(told);
    // One that ends at once ran in the same folder.
    let mut ending = beacon(&pair, folder.path(), server.addr, "end");
    let told = expect_script(&mut ending);
    assert!(ending.wait().unwrap().success());
    expect_found(told);
}

#[test]
fn a_script_that_ended_at_once_is_found_in_its_parent_s_folder() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("python3"));
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let (server, script) = (udp_server(&pair), write_beacon(folder.path()));
    let mut shell = pair.near.namespace.command("sh");
    shell.args(["-c", &format!("./beacon {} {} end; read line", server.addr.ip(), server.addr.port())]);
    let mut shell = shell.current_dir(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let told = expect_script(&mut shell);
    drop(shell.stdin.take());
    shell.wait().unwrap();
    assert_eq!(told.text("pktscope.process.script.path"), script.to_str().unwrap(), "{told}");
}

/// A copy of curl where nobody else sees it: it waits for its configuration, fetches, and ends at once.
const ON_A_MOUNT_OF_ITS_OWN: &str = r#"mount -t tmpfs none "$0" && cp "$(command -v curl)" "$0/private" &&
exec "$0/private" --silent --config -"#;

#[test]
fn a_program_on_a_mount_of_its_own_that_ended_at_once_has_its_whole_path() {
    skip_if!(missing_privilege());
    for program in ["curl", "unshare"] {
        skip_if!(missing_program(program));
    }
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let server = HttpServer::start(&pair.far.namespace, pair.far.v4.into(), 10).unwrap();
    let mut run = pair.near.namespace.command("unshare");
    run.args(["--mount", "sh", "-c", ON_A_MOUNT_OF_ITS_OWN]).arg(folder.path());
    let mut private = run.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let comm = format!("/proc/{}/comm", private.id());
    wait_until(DEADLINE, || (fs::read_to_string(&comm).unwrap() == "private\n").then_some(())).unwrap();
    // Programs are looked at in the order in which they were run: once a later one is known, so is this one.
    let (later, other) = (folder.path().join("later"), udp_server(&pair));
    copy_program(&built("traffic"), &later);
    let report = Traffic::of(&later, &pair.near.namespace, &format!("udp --to {}", other.addr)).run().unwrap();
    assert_eq!(end_of(&AGENT, &report).text("process.executable"), later.to_str().unwrap());
    writeln!(private.stdin.take().unwrap(), "url = http://{}/", server.addr).unwrap();
    assert!(private.wait().unwrap().success());
    let flow = AGENT.expect(DEADLINE, "the flow's end", |event| {
        event.is_flow_end() && Side::Opener.is_of(event) && event.endpoint("destination") == Some(server.addr)
    });
    assert_eq!(flow.text("process.executable"), folder.path().join("private").to_str().unwrap(), "{flow}");
}

/// The kernel's bytes of a path lead to the file, its text does not.
#[test]
fn a_program_whose_path_is_no_text_has_its_hash_though_it_ends_at_once() {
    skip_if!(missing_privilege());
    let (pair, folder) = (pair(), TempDir::new().unwrap());
    let program = folder.path().join(OsStr::from_bytes(b"odd-\xff\xfe"));
    copy_program(&built("brief"), &program);
    let listener = pair.far.namespace.run(|| TcpListener::bind((pair.far.v4, 0))).unwrap();
    let server = listener.local_addr().unwrap();
    let accepting = thread::spawn(move || listener.accept().map(|(mut stream, _)| stream.read_to_end(&mut Vec::new())));
    let status = pair.near.namespace.run(|| Command::new(&program).arg0("odd").arg(server.to_string()).status());
    assert!(status.unwrap().success());
    accepting.join().unwrap().unwrap().unwrap();
    let flow = AGENT.expect(DEADLINE, "the flow's end", |event| {
        event.is_flow_end() && Side::Opener.is_of(event) && event.endpoint("destination") == Some(server)
    });
    let sum = Command::new("sha256sum").stdin(fs::File::open(&program).unwrap()).output().unwrap();
    assert_eq!(flow.text("process.hash.sha256"), String::from_utf8_lossy(&sum.stdout[..64]), "{flow}");
    assert_eq!(flow.text("process.executable"), program.to_string_lossy(), "{flow}");
}
