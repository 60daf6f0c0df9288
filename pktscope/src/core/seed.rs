//! Hashes of keys that others choose: addresses, ports, names.
//!
//! The seed comes in with the settings. Where it is not known to those who choose the keys, they can't make them collide;
//! no table is walked in its hashes' order, so that nothing else depends on it.

use ahash::RandomState;

/// The seed where none is given, as in replay: the golden ratio's bits.
pub const DEFAULT_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// A hasher of this seed.
pub fn hasher(seed: u64) -> RandomState {
    RandomState::with_seeds(seed, seed.rotate_left(19), !seed, seed.rotate_left(43))
}
