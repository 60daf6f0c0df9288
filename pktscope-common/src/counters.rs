//! Slots of the per-CPU counter array: what was lost in the kernel, by reason.

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// One slot of the counter array.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Counter { $($(#[$doc])* $variant,)* }

        /// The slots' names in the order of [`Counter`]: the words that `status` and the ledger use.
        pub const COUNTER_NAMES: &[&str] = &[$($name,)*];
    };
}

counters! {
    /// Reports of a socket's end that found the ring full, and no room to be kept.
    EndRingFull = "ring_full_socket_end",
    /// Bytes sent that such a report would have told.
    EndRingFullSentBytes = "ring_full_socket_end_sent_bytes",
    /// Bytes received that such a report would have told.
    EndRingFullReceivedBytes = "ring_full_socket_end_received_bytes",
    /// Sockets' last records that found the ring full, kept or lost.
    Kept = "records_kept_or_lost",
    /// Reports of an open socket that found the ring full, and were repeated: pauses, not losses.
    SweepRingFull = "sweep_pauses",
    /// Execs that found the ring full.
    ExecRingFull = "ring_full_exec",
    /// Forks that found the ring full.
    ForkRingFull = "ring_full_fork",
    /// Exits that found the ring full.
    ExitRingFull = "ring_full_exit",
    /// Payloads that found the ring half full: the rest is for what must not be lost.
    PayloadRingFull = "ring_full_payload",
    /// Sockets for which the kernel had no memory for the state.
    StorageFailed = "socket_state_allocation",
    /// Packets that found the peer table full.
    PeersFull = "peers_full_packets",
    /// Bytes sent that neither the peer table nor the overflow table had room for.
    PeersFullSentBytes = "peers_full_sent_bytes",
    /// Bytes received that neither the peer table nor the overflow table had room for.
    PeersFullReceivedBytes = "peers_full_received_bytes",
    /// Packets whose headers could not be read.
    Unparsed = "unparsed_packets",
    /// Bytes of such packets.
    UnparsedBytes = "unparsed_bytes",
    /// Packets taken to be fragmented as Ethernet does, on an interface whose MTU was not known yet.
    AssumedMtu = "assumed_mtu_packets",
    /// Packets that a raw socket got a copy of without having asked its sender anything.
    RawCopies = "raw_copies_packets",
    /// Reports of what TIME_WAIT sent that found the ring full, and no room to be kept.
    LingerRingFull = "ring_full_linger",
}

/// Number of slots.
pub const COUNTER_SLOTS: u32 = COUNTER_NAMES.len() as u32;
