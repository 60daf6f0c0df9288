//! Marks the map keys and values that the agent reads and writes as plain bytes.

use crate::{
    record::{KeptKey, KeptRecord},
    state::{Counts, DeviceState, PeerKey, PeerState, SocketState, Stamp},
};

// SAFETY: repr(C), integers only, no padding (the sizes are asserted in `state`), every bit pattern valid.
unsafe impl aya::Pod for SocketState {}
// SAFETY: as above.
unsafe impl aya::Pod for PeerKey {}
// SAFETY: as above.
unsafe impl aya::Pod for PeerState {}
// SAFETY: as above.
unsafe impl aya::Pod for Counts {}
// SAFETY: as above.
unsafe impl aya::Pod for DeviceState {}
// SAFETY: as above.
unsafe impl aya::Pod for Stamp {}
// SAFETY: as above.
unsafe impl aya::Pod for KeptKey {}
// SAFETY: repr(C), integers only, no padding (the size is asserted in `record`), every bit pattern valid.
unsafe impl aya::Pod for KeptRecord {}
