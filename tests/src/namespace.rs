//! Network namespaces that nobody else uses: each is held by a file descriptor alone, so it is gone when its guard is
//! dropped, and also when the test is killed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::PathBuf,
    process::Command,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{offload, wait::wait_until};

/// The kernel's work queue is seconds late on a busy machine.
const ADDRESS_DEADLINE: Duration = Duration::from_secs(20);
/// Bytes of an Ethernet header, which interfaces count and the IP layer does not.
const ETHERNET_HEADER: u64 = 14;

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes an empty namespace with its loopback interface up.
    ///
    /// # Errors
    /// Without the privilege to make one.
    pub fn new() -> Result<Self> {
        let file = thread::spawn(|| -> io::Result<File> {
            // SAFETY: unshare takes flags only; it changes this thread, which ends here.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net")
        })
        .join()
        .expect("the thread does not panic")
        .context("failed to make a network namespace")?;
        let namespace = Self { file };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Runs `work` on a thread inside the namespace. Sockets made there stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let fd = self.file.as_raw_fd();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                enter(fd).expect("a namespace that is held can be entered");
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that will run inside the namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        self.adopt(&mut command);
        command
    }

    /// Makes `command` run inside the namespace.
    pub fn adopt(&self, command: &mut Command) {
        let fd = self.file.as_raw_fd();
        // SAFETY: setns is async-signal-safe; the descriptor is closed on exec only.
        unsafe { command.pre_exec(move || enter(fd)) };
    }

    /// A path by which other processes can name the namespace while this one lives.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()))
    }

    /// Runs iproute2's `ip` with these arguments, separated by blanks.
    ///
    /// # Errors
    /// Where it fails, with what it said.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        let output = self.command("ip").args(arguments.split_whitespace()).output().context("failed to run ip")?;
        ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Writes a setting below `/proc/sys/net` of the namespace.
    ///
    /// # Errors
    /// Where the kernel has no such setting or refuses the value.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.run(|| fs::write(&path, value)).with_context(|| format!("failed to write {value} to {path}"))
    }

    /// An interface's counters, as IP-layer bytes where `has_ethernet_header`.
    fn counters(&self, device: &str, has_ethernet_header: bool) -> Counters {
        let table = self.run(|| fs::read_to_string("/proc/thread-self/net/dev")).expect("/proc has net/dev");
        let raw = Counters::parse(&table, device).unwrap_or_else(|| panic!("no interface {device} in {table}"));
        if has_ethernet_header { raw.without_ethernet() } else { raw }
    }
}

fn enter(fd: i32) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and a flag; it changes the calling thread only.
    if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What an interface has counted, in IP-layer bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets received.
    pub received_packets: u64,
    /// Packets dropped, either way.
    pub dropped: u64,
}

impl Counters {
    /// Reads one interface's line of `/proc/net/dev` (net/core/net-procfs.c, dev_seq_printf_stats).
    fn parse(table: &str, device: &str) -> Option<Self> {
        let line = table.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        Some(Self {
            received_bytes: *numbers.first()?,
            received_packets: *numbers.get(1)?,
            sent_bytes: *numbers.get(8)?,
            sent_packets: *numbers.get(9)?,
            dropped: numbers.get(3)? + numbers.get(11)?,
        })
    }

    fn without_ethernet(self) -> Self {
        Self {
            sent_bytes: self.sent_bytes - ETHERNET_HEADER * self.sent_packets,
            received_bytes: self.received_bytes - ETHERNET_HEADER * self.received_packets,
            ..self
        }
    }

    /// What was counted since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            sent_bytes: self.sent_bytes - earlier.sent_bytes,
            sent_packets: self.sent_packets - earlier.sent_packets,
            received_bytes: self.received_bytes - earlier.received_bytes,
            received_packets: self.received_packets - earlier.received_packets,
            dropped: self.dropped - earlier.dropped,
        }
    }
}

/// One end of a [`Pair`]: a namespace with one interface.
#[derive(Debug)]
pub struct Host {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its interface.
    pub device: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Host {
    /// What its interface has counted since it was made, in IP-layer bytes.
    pub fn counters(&self) -> Counters {
        self.namespace.counters(&self.device, true)
    }

    /// What its interface has counted where it receives in NAPI mode, as it does with receive offload: then both ends
    /// count what the receiver takes in, without Ethernet headers (drivers/net/veth.c, veth_xdp_rcv).
    pub fn receiving_counters(&self) -> Counters {
        let raw = self.namespace.counters(&self.device, false);
        Counters { received_bytes: raw.received_bytes, received_packets: raw.received_packets, ..self.counters() }
    }

    /// What its loopback interface has counted since it was made; it counts no Ethernet headers (drivers/net/loopback.c,
    /// loopback_xmit).
    pub fn loopback_counters(&self) -> Counters {
        self.namespace.counters("lo", false)
    }

    /// The address of the family wanted.
    pub fn addr(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// Gives the interface one more address, reachable from the other end.
    ///
    /// # Errors
    /// Where the kernel refuses it.
    pub fn add_address(&self, addr: IpAddr) -> Result<()> {
        let (length, nodad) = if addr.is_ipv4() { (32, "") } else { (128, "nodad") };
        self.namespace.ip(&format!("addr add {addr}/{length} dev {} {nodad}", self.device))?;
        match addr {
            IpAddr::V4(_) => Ok(()),
            IpAddr::V6(addr) => self.await_local(addr),
        }
    }

    /// Waits until packets to an address are taken for this host's: the kernel adds the route of an IPv6 address from a
    /// work queue (net/ipv6/addrconf.c, `addrconf_dad_work`), also where it is told not to look for duplicates.
    fn await_local(&self, addr: Ipv6Addr) -> Result<()> {
        let route = format!("{:032x} 80 ", u128::from(addr));
        let routes = || self.namespace.run(|| fs::read_to_string("/proc/thread-self/net/ipv6_route"));
        let is_there = || routes().is_ok_and(|routes| routes.lines().any(|line| line.starts_with(&route)));
        wait_until(ADDRESS_DEADLINE, || is_there().then_some(())).with_context(|| format!("{addr} never became local"))
    }
}

/// Version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Both.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Two namespaces joined by a veth on which nothing runs but what the test sends: no neighbour discovery, no router
/// solicitations, no multicast reports, no segmentation or receive offload. So the interfaces count exactly the wire.
#[derive(Debug)]
pub struct Pair {
    /// The watched machine's end.
    pub near: Host,
    /// The other end.
    pub far: Host,
}

impl Pair {
    /// Makes the pair, with addresses that no other pair of this machine is likely to have.
    ///
    /// # Errors
    /// Where a namespace or the veth can't be made.
    pub fn new() -> Result<Self> {
        Self::of(Subnet::next())
    }

    /// Makes another pair with this one's addresses.
    ///
    /// # Errors
    /// As [`Pair::new`].
    pub fn twin(&self) -> Result<Self> {
        let [_, high, low, _] = self.near.v4.octets();
        Self::of(Subnet(u32::from_be_bytes([0, 0, high - SUBNETS_START, low])))
    }

    fn of(subnet: Subnet) -> Result<Self> {
        let near = subnet.host(1, "near0")?;
        let far = subnet.host(2, "far0")?;
        let peer = far.namespace.path();
        near.namespace.ip(&format!("link add near0 type veth peer name far0 netns {}", peer.display()))?;
        for host in [&near, &far] {
            quieten(host).with_context(|| format!("failed to set up {}", host.device))?;
        }
        for host in [&near, &far] {
            host.await_local(host.v6)?;
        }
        near.namespace.ip(&format!("route add default via {} dev near0 onlink", far.v4))?;
        near.namespace.ip(&format!("-6 route add default via {} dev near0 onlink", far.v6))?;
        Ok(Self { near, far })
    }
}

struct Subnet(u32);

/// Subnets are 10.128.0.0/24 and on.
const SUBNETS_START: u8 = 128;
/// The first group of a subnet's IPv6 addresses, as fd50:0:0:1::/64.
const PREFIX_V6: u16 = 0xfd50;

impl Subnet {
    fn next() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number =
            std::process::id().wrapping_mul(97).wrapping_add(MADE.fetch_add(1, Ordering::Relaxed)) % (96 * 256);
        claimed().insert(number);
        Self(number)
    }

    fn host(&self, number: u8, device: &str) -> Result<Host> {
        let [_, _, high, low] = self.0.to_be_bytes();
        Ok(Host {
            namespace: Namespace::new()?,
            device: device.into(),
            v4: Ipv4Addr::new(10, SUBNETS_START + high, low, number),
            v6: Ipv6Addr::new(PREFIX_V6, 0, 0, self.0 as u16, 0, 0, 0, number.into()),
        })
    }
}

/// The subnets that this process gave out.
fn claimed() -> MutexGuard<'static, BTreeSet<u32>> {
    static CLAIMED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());
    CLAIMED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An address of a subnet that counts as given out.
#[cfg(test)]
pub(crate) fn claimed_for_test() -> IpAddr {
    claimed().insert(0);
    Ipv4Addr::new(10, SUBNETS_START, 0, 1).into()
}

/// Whether a test of this process may use an address: of a [`Pair`]'s subnets, for documentation, or not routed.
pub fn may_be_a_tests(addr: IpAddr) -> bool {
    let subnet = match addr {
        IpAddr::V4(addr) => match addr.octets() {
            [10, high, low, _] if high >= SUBNETS_START => u32::from_be_bytes([0, 0, high - SUBNETS_START, low]),
            _ => return !is_routed(addr),
        },
        IpAddr::V6(addr) => match addr.segments() {
            [PREFIX_V6, 0, 0, subnet, ..] => subnet.into(),
            segments => return segments[0] >> 13 != 0b001,
        },
    };
    claimed().contains(&subnet)
}

/// Whether an address is one that the internet or a private network routes.
fn is_routed(addr: Ipv4Addr) -> bool {
    let is_local = addr.is_loopback() || addr.is_link_local() || addr.is_unspecified();
    !(is_local || addr.is_multicast() || addr.is_broadcast() || addr.is_documentation())
}

/// Both ends have the same hardware address: with ARP off that is the address frames are sent to
/// (net/ipv4/arp.c, arp_constructor).
const HARDWARE_ADDRESS: &str = "02:70:6b:74:73:01";

fn quieten(host: &Host) -> Result<()> {
    let Host { namespace, device, v4, v6 } = host;
    for (name, value) in [("accept_ra", "0"), ("router_solicitations", "0"), ("addr_gen_mode", "1")] {
        namespace.set(&format!("ipv6/conf/{device}/{name}"), value)?;
    }
    namespace.ip(&format!("link set {device} address {HARDWARE_ADDRESS} arp off"))?;
    namespace.ip(&format!("addr add {v4}/24 dev {device}"))?;
    namespace.ip(&format!("addr add {v6}/64 dev {device} nodad"))?;
    namespace.run(|| offload::turn_off(device))?;
    namespace.ip(&format!("link set {device} up"))
}
