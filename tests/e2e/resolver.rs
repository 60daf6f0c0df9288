//! A real resolver on a pair's far end, and programs on its near end that ask it.

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
};

use pktscope_tests::{
    flow::DEADLINE,
    namespace::{Host, Pair},
    wait::wait_until,
};

/// The name that the resolver knows, and one that is an alias of it.
pub const NAME: &str = "www.example.test";
pub const ALIAS: &str = "alias.example.test";

/// A domain whose every name has an address.
pub const WILDCARD: &str = "tunnel-example.com";

/// A child that is killed when dropped.
pub struct Daemon(pub Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        self.0.kill().unwrap_or_default();
        self.0.wait().map(drop).unwrap_or_default();
    }
}

/// A dnsmasq on the far end that knows [`NAME`] and [`ALIAS`], and waits until it answers.
pub fn resolver(far: &Host) -> Daemon {
    let records = [
        format!("--listen-address={}", far.v4),
        format!("--host-record={NAME},{},{}", far.v4, far.v6),
        format!("--cname={ALIAS},{NAME}"),
        // Not the resolver's own address, which whoever asks is in contact with.
        format!("--address=/{WILDCARD}/192.0.2.9"),
    ];
    dnsmasq(far, &records)
}

/// A dnsmasq on the near end's loopback that knows nothing and asks the far end's.
pub fn forwarder(pair: &Pair) -> Daemon {
    dnsmasq(&pair.near, &["--listen-address=127.0.0.1".into(), format!("--server={}", pair.far.v4)])
}

fn dnsmasq(host: &Host, arguments: &[String]) -> Daemon {
    let mut dnsmasq = host.namespace.command("dnsmasq");
    dnsmasq.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--pid-file="]);
    dnsmasq.args(["--user=root", "--bind-interfaces", "--local-ttl=60"]).args(arguments);
    let daemon = Daemon(dnsmasq.stderr(Stdio::null()).spawn().unwrap());
    let is_bound = || host.namespace.run(|| fs::read_to_string("/proc/thread-self/net/udp")).unwrap();
    // Port 53, as /proc/net/udp writes it.
    wait_until(DEADLINE, || is_bound().contains(":0035 ").then_some(())).expect("dnsmasq listens");
    daemon
}

/// A command in the near end that asks the far end's resolver; it keeps its process id through the wrapping shell.
pub fn asking(pair: &Pair, folder: &Path, program: &str) -> Command {
    asking_at(pair, pair.far.v4, folder, program)
}

/// [`asking`], with another resolver.
pub fn asking_at(pair: &Pair, resolver: Ipv4Addr, folder: &Path, program: &str) -> Command {
    let file = folder.join("resolv.conf");
    fs::write(&file, format!("nameserver {resolver}\noptions timeout:2 attempts:2\n")).unwrap();
    with_file(pair, &file, "/etc/resolv.conf", program)
}

/// A command in the near end that knows the far end by this name without asking anybody.
pub fn knowing(pair: &Pair, folder: &Path, name: &str, program: &str) -> Command {
    let file = folder.join("hosts");
    fs::write(&file, format!("{} {name}\n", pair.far.v4)).unwrap();
    with_file(pair, &file, "/etc/hosts", program)
}

/// A command in the near end that sees `file` in the place of another.
fn with_file(pair: &Pair, file: &Path, place: &str, program: &str) -> Command {
    let script = format!("mount --bind {} {place} && exec \"$0\" \"$@\"", file.display());
    let mut command = pair.near.namespace.command("unshare");
    command.args(["--mount", "sh", "-c", &script, program]);
    command
}
