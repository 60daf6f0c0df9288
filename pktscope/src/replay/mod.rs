//! Captures and recordings, read as events in their own time.

pub mod capture;
pub mod packets;
pub mod recording;

#[cfg(test)]
mod truth;
