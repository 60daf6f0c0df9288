//! Two network namespaces joined by a veth; gone with their last holder.

use std::{
    fs::{self, File},
    io,
    net::{IpAddr, Ipv4Addr},
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::Command,
    thread,
};

use anyhow::{Context, Result};

use crate::command;

/// A network namespace, held by a descriptor.
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// An empty one with its loopback up.
    pub fn new() -> Result<Self> {
        let make = || -> io::Result<File> {
            // SAFETY: unshare takes flags only and changes the calling thread, which ends here.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net")
        };
        let file = thread::spawn(make).join().expect("making a namespace does not panic");
        let namespace = Self { file: file.context("failed to make a network namespace")? };
        namespace.ip("link set lo up")?;
        // Else connect takes 3 ms once the ports stand in TIME_WAIT.
        namespace.set("net.ipv4.tcp_max_tw_buckets", "4000")?;
        namespace.set("net.ipv4.ip_local_port_range", "1024 65000")?;
        Ok(namespace)
    }

    /// Runs `work` on a thread inside; sockets made there stay there.
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

    /// Moves the calling thread inside.
    pub fn enter(&self) -> io::Result<()> {
        enter(self.file.as_raw_fd())
    }

    /// A command that will run inside.
    pub fn command(&self, program: &std::ffi::OsStr) -> Command {
        let fd = self.file.as_raw_fd();
        let mut command = Command::new(program);
        // SAFETY: setns is async-signal-safe; the descriptor outlives the fork.
        unsafe { command.pre_exec(move || enter(fd)) };
        command
    }

    fn ip(&self, arguments: &str) -> Result<()> {
        command::output(self.command("ip".as_ref()).args(arguments.split_whitespace())).map(drop)
    }

    /// Sets what `sysctl` calls by this name.
    fn set(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.run(|| fs::write(&path, value)).with_context(|| format!("failed to set {name} to {value}"))
    }
}

fn enter(fd: i32) -> io::Result<()> {
    // SAFETY: setns takes a descriptor and a flag and changes the calling thread only.
    if unsafe { libc::setns(fd, libc::CLONE_NEWNET) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Two namespaces and the addresses that they know each other by.
pub struct Pair {
    /// Where connections start.
    pub near: Namespace,
    /// Where they end.
    pub far: Namespace,
}

impl Pair {
    /// The address of the far side.
    pub const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 213, 7, 2));

    /// Index of the near side's interface.
    pub fn near_interface(&self) -> Result<u32> {
        // SAFETY: the name is a C string.
        let index = self.near.run(|| unsafe { libc::if_nametoindex(c"bench0".as_ptr()) });
        if index == 0 { Err(io::Error::last_os_error()).context("failed to find bench0") } else { Ok(index) }
    }

    /// Both, joined.
    pub fn new() -> Result<Self> {
        let pair = Self { near: Namespace::new()?, far: Namespace::new()? };
        let far = format!("/proc/{}/fd/{}", std::process::id(), pair.far.file.as_raw_fd());
        pair.near.ip(&format!("link add bench0 type veth peer name bench1 netns {far}"))?;
        for (namespace, device, address) in [(&pair.near, "bench0", "10.213.7.1"), (&pair.far, "bench1", "10.213.7.2")]
        {
            namespace.ip(&format!("address add {address}/24 dev {device}"))?;
            namespace.ip(&format!("link set {device} up"))?;
        }
        Ok(pair)
    }
}
