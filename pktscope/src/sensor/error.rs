//! Why the sensor cannot run: each message names the object and what to do.

use std::{io, path::PathBuf};

use aya::{EbpfError, maps::MapError};

/// A reason for which no sensor can run at all.
#[derive(Debug, thiserror::Error)]
pub enum SensorError {
    /// The binary holds no kernel programs.
    #[error("this pktscope was built without its kernel programs; build it with `cargo xtask build`")]
    NotBuilt,
    /// Not privileged.
    #[error("no privilege to load kernel programs; run as root, or give CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    Privilege,
    /// The kernel names processes by other pids than this process sees.
    #[error(
        "the agent runs in a pid namespace of its own, where it would see wrong pids; start it on the host, with `--pid=host`, or with `hostPID: true`"
    )]
    PidNamespace,
    /// No BTF.
    #[error("the kernel has no type information at {path}; it needs a kernel built with CONFIG_DEBUG_INFO_BTF=y")]
    NoBtf {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// BTF that cannot be read.
    #[error("the kernel's type information at {path} cannot be read ({reason}); please report the kernel's version")]
    BadBtf {
        /// Where it was read.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// No cgroup2 file system.
    #[error(
        "no cgroup2 file system is mounted; mount one (`mount -t cgroup2 none /sys/fs/cgroup/unified`) or name a folder with --cgroup"
    )]
    NoCgroup,
    /// A cgroup folder that cannot be opened or is not of cgroup2.
    #[error("{path} is not a folder of a cgroup2 file system; name one with --cgroup")]
    Cgroup {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The object was refused as a whole.
    #[error("the kernel refused the sensor's maps")]
    Load {
        /// Why.
        #[source]
        source: Box<EbpfError>,
    },
    /// A program without which nothing can be counted was refused.
    #[error(
        "the kernel refused the program {program}, without which no byte can be counted: {reason}; `pktscope doctor` says more"
    )]
    Required {
        /// The program's name.
        program: &'static str,
        /// Errno or the verifier's last line.
        reason: String,
    },
    /// A map that the object should have.
    #[error("failed to open the map {name}")]
    Map {
        /// The map's name.
        name: &'static str,
        /// Why.
        #[source]
        source: Box<MapError>,
    },
    /// A system call on a loaded sensor.
    #[error("failed to {operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}
