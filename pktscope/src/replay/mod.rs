//! Captures and recordings, read as events in their own time.

pub mod recording;
