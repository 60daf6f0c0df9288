//! What the core wants done: everything it tells the shell.

use std::{net::IpAddr, sync::Arc};

use super::{
    alert::Alert,
    event::DnsMessage,
    flow::FlowChange,
    process::{FileId, Process, ProcessKey},
    time::BootTime,
};

/// One thing for the shell to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// A flow started, grew or ended: store it, show it.
    Flow(FlowChange),
    /// A process that owns a socket, or an ancestor of one, was first needed.
    ProcessStarted(Arc<Process>),
    /// Such a process ended, with its wait status.
    ProcessEnded(Arc<Process>, BootTime, i32),
    /// More is known of such a process.
    ProcessChanged(Arc<Process>),
    /// A DNS answer.
    Dns(Arc<DnsMessage>),
    /// An alert: stored in one transaction with the novelty it reports.
    Alert(Arc<Alert>),
    /// An interval of the ledger is closed.
    Ledger(Arc<Ledger>),
    /// Something to find out; the answer comes back as an [`super::event::Event::Answer`].
    Lookup(Lookup),
}

/// Something the core cannot know by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// All that `/proc` and the file system say of a process; apart, because other effects are many and small.
    Process(Box<ProcessLookup>),
    /// Country and AS of an address.
    Geo(IpAddr),
}

/// How much to find out about a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LookupDepth {
    /// Which file it runs, while it can be seen.
    #[default]
    Image,
    /// That, and the file's hash and package, the script's hash, the user's name and the container.
    Full,
}

/// A question about a process, with what the kernel told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProcessLookup {
    /// Who.
    pub key: ProcessKey,
    /// Which of its images, counted from 0; handed back in the answer.
    pub image: u32,
    /// When that image was run; 0 where not known.
    pub image_at: BootTime,
    /// How much is asked.
    pub depth: LookupDepth,
    /// Absolute path of the image where an earlier answer gave it, else empty.
    pub executable: Arc<str>,
    /// The kernel's name for it, empty where not known.
    pub comm: Arc<str>,
    /// The path given to `execve`, empty where not known.
    pub filename: Arc<str>,
    /// The same as the kernel has it, where it is not UTF-8: no text leads to that file.
    pub raw_filename: Option<Arc<[u8]>>,
    /// Device and inode of its image, where known.
    pub file: Option<FileId>,
    /// Device and inode of its working directory when that image was run, where known.
    pub folder: Option<FileId>,
    /// Absolute path of the script that the image runs, where an earlier answer gave it, else empty.
    pub script: Arc<str>,
    /// The last part of the image's own path, or what a file in memory is called; empty where not known.
    pub image_name: Arc<str>,
    /// Arguments, each ended by a NUL as in `/proc/PID/cmdline`; empty where not known.
    pub arguments: Arc<str>,
    /// The parent, where known.
    pub parent: Option<ProcessKey>,
    /// cgroup2 id, 0 where not known.
    pub cgroup_id: u64,
    /// User, where known.
    pub uid: Option<u32>,
}

/// One direction of a closed ledger interval, in IP-layer bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerSide {
    /// What the interfaces counted.
    pub interface_bytes: u64,
    /// What processes own.
    pub attributed_bytes: u64,
    /// What the kernel sent or received itself.
    pub kernel_bytes: u64,
    /// What passed through.
    pub forwarded_bytes: u64,
    /// What nobody explains.
    pub unknown_bytes: u64,
    /// `unknown_bytes` by reason.
    pub by_reason: Vec<(&'static str, u64)>,
    /// Left out of all of these because sockets counted more than the interfaces carried: for example a packet that two
    /// raw sockets received.
    pub counted_twice_bytes: u64,
}

/// A closed ledger interval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Start of the interval.
    pub started_at: BootTime,
    /// End of the interval.
    pub ended_at: BootTime,
    /// Sent.
    pub tx: LedgerSide,
    /// Received.
    pub rx: LedgerSide,
    /// Records lost in the interval, by place.
    pub lost: Vec<(&'static str, u64)>,
}
