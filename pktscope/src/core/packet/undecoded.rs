//! Why a frame gave no packet, for counters.

/// Why a frame gave no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Undecoded {
    /// Not IP: ARP, LLDP, spanning tree …
    NotIp,
    /// The capture kept too few bytes to tell the flow.
    Truncated,
    /// A header contradicts itself.
    Malformed,
    /// Encapsulated more deeply than [`super::MAX_LAYERS`].
    TooDeep,
    /// A link type that is not read.
    UnknownLink,
}

impl Undecoded {
    /// Every reason, in the order of [`Self::index`].
    pub const ALL: [Self; 5] = [Self::NotIp, Self::Truncated, Self::Malformed, Self::TooDeep, Self::UnknownLink];

    /// Position in [`Self::ALL`], for counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// A word for statistics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotIp => "not_ip",
            Self::Truncated => "truncated",
            Self::Malformed => "malformed",
            Self::TooDeep => "too_deep",
            Self::UnknownLink => "unknown_link",
        }
    }
}
