//! The contract between the kernel programs and the agent: record layouts, limits, counter slots, knobs.
//!
//! Kernel programs write these records; the agent parses their bytes. Nothing here does I/O.
#![no_std]

pub mod counters;
pub mod knobs;
pub mod limits;
pub mod record;
pub mod state;
#[cfg(feature = "user")]
mod user;
