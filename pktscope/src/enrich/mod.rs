//! Look-ups that need I/O: /proc, files, packages, containers, MaxMind databases.
//!
//! In: the core's questions. Out: its [`crate::core::event::Answer`]s. A look-up that fails says why; none ever blocks the
//! packet path, and every queue and cache here is bounded.

mod container;
mod container_image;
mod enricher;
mod file;
pub mod geoip;
mod hash;
mod image;
pub mod package;
pub mod procfs;
mod script;
mod seen;
mod user;

pub use enricher::{EnrichCounters, EnrichSettings, Enricher};
