//! What the store keeps of the baseline: plain values, one struct a table.

use std::{sync::Arc, time::Duration};

use super::{identity::ProgramKey, profile::PairState, steady::Steady};

/// One stored row.
#[derive(Clone, Debug, PartialEq)]
pub enum BaselineRow {
    /// The host itself; there is one.
    Host(HostRow),
    /// A program.
    Program(ProgramRow),
    /// A program and a destination.
    Pair(PairRow),
    /// A program's volumes.
    Volume(VolumeRow),
    /// How a program's first contacts went.
    Contacts(ContactsRow),
    /// A registrable domain that names were asked under.
    DnsParent(DnsParentRow),
    /// The row with this key is gone.
    Forgotten(RowKey),
}

/// What makes a row unique.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    /// The host.
    Host,
    /// A program.
    Program(ProgramKey),
    /// A program and a destination label.
    Pair(ProgramKey, Arc<str>),
    /// A program's volumes.
    Volume(ProgramKey),
    /// A program's first contacts.
    Contacts(ProgramKey),
    /// A registrable domain.
    DnsParent(Arc<str>),
}

impl BaselineRow {
    /// The key under which the row replaces an older one.
    pub fn key(&self) -> RowKey {
        match self {
            Self::Host(_) => RowKey::Host,
            Self::Program(row) => RowKey::Program(row.key.clone()),
            Self::Pair(row) => RowKey::Pair(row.program.clone(), row.label.clone()),
            Self::Volume(row) => RowKey::Volume(row.program.clone()),
            Self::Contacts(row) => RowKey::Contacts(row.program.clone()),
            Self::DnsParent(row) => RowKey::DnsParent(row.parent.clone()),
            Self::Forgotten(key) => key.clone(),
        }
    }
}

/// What happens rarely and is therefore known or not yet known to the baseline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// A start of the machine.
    pub has_seen_reboot: bool,
    /// A run of a package manager.
    pub has_seen_update: bool,
    /// A Saturday or Sunday, UTC.
    pub has_seen_weekend: bool,
}

/// The host's own state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostRow {
    /// Latest time seen: the clock never falls below it.
    pub clock: Steady,
    /// When learning began.
    pub started: Steady,
    /// Time observed while learning.
    pub observed: Duration,
    /// Whether learning is over; stays so until a reset.
    pub is_active: bool,
    /// Boot clock at the last save: a lower one later means a reboot.
    pub boot_nanos: u64,
    /// What the baseline has seen.
    pub coverage: Coverage,
    /// Id of the next alert.
    pub next_alert_id: u64,
    /// AS numbers and contacts while learning, by number.
    pub as_contacts: Vec<(u32, u64)>,
}

/// A program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProgramRow {
    /// Which.
    pub key: ProgramKey,
    /// Executable, as a path.
    pub executable: Arc<str>,
    /// SHA-256 of the images it has run, oldest first, at most [`super::profile::MAX_IMAGES`].
    pub images: Vec<Arc<str>>,
    /// Package that owns it, `manager:name`, and the version last seen.
    pub package: Option<(Arc<str>, Arc<str>)>,
    /// First egress.
    pub first_seen: Steady,
    /// Last egress.
    pub last_seen: Steady,
    /// Whether it was learned in the host's learning window.
    pub is_learned: bool,
    /// End of its own learning window, where it came later.
    pub learns_until: Option<Steady>,
    /// Until when an alert about it is open.
    pub alert_open_until: Option<Steady>,
    /// Destinations first met late in learning: a program that always meets new ones.
    pub late_labels: u32,
    /// Countries met by egress.
    pub countries: Vec<[u8; 2]>,
    /// AS numbers met by egress.
    pub as_numbers: Vec<u32>,
    /// Destinations learned.
    pub labels: u32,
}

/// A program and a destination.
#[derive(Clone, Debug, PartialEq)]
pub struct PairRow {
    /// Which program.
    pub program: ProgramKey,
    /// Registrable domain, else address.
    pub label: Arc<str>,
    /// Where it stands.
    pub state: PairState,
    /// First contact.
    pub first_seen: Steady,
    /// Last contact.
    pub last_seen: Steady,
    /// Flows.
    pub contacts: u32,
    /// Whether an analyst found that its regularity is normal.
    pub is_periodic: bool,
}

/// A program's volumes, in bytes sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VolumeRow {
    /// Which program.
    pub program: ProgramKey,
    /// Moving mean and variance of one interval, and the intervals they rest on.
    pub average: (f64, f64, u32),
    /// Of each window: the most sent, and how many windows fell into each half-step of the natural logarithm.
    pub windows: Vec<(u64, Vec<(u8, u32)>)>,
    /// Most sent in an hour, by hour of the week.
    pub weekly: Vec<(u8, u64)>,
    /// The last spike that nobody called normal yet: its window by number, bytes, and hour of the week.
    pub spike: Option<(u8, u64, u8)>,
    /// When the program was reported last.
    pub reported: Option<Steady>,
}

/// How a program's first contacts went while it was learned.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContactsRow {
    /// Which program.
    pub program: ProgramKey,
    /// TCP: first contacts with a host and port that said something, and those that answered with data; weighted.
    pub tcp: [f32; 2],
    /// The same of datagrams.
    pub datagrams: [f32; 2],
}

/// A registrable domain that names were asked under.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsParentRow {
    /// Which.
    pub parent: Arc<str>,
    /// Last asked.
    pub last_seen: Steady,
    /// Learned maxima of bytes of new names, for each window.
    pub name_bytes: [u64; 3],
    /// Learned maxima of questions, for each window.
    pub questions: [u64; 3],
    /// Learned maxima of answer bytes of the types that carry data, for each window.
    pub answer_bytes: [u64; 3],
}
