//! What is normal for a program: learned, persisted, aged.
//!
//! In: egress flows and DNS answers, each with its program. Out: what was known before, and rows to store. Only egress
//! teaches, and nothing that an open alert is about is learned.
//!
//! # Rows
//! The baseline lives in memory and is handed to the store as changed rows ([`rows::BaselineRow`]): `take_dirty` gives
//! each changed row once, in a fixed order, and a row replaces whatever was stored under the same
//! [`rows::BaselineRow::key`]; [`rows::BaselineRow::Forgotten`] deletes it. `restore` takes all rows back in any order.
//! Rows that came with an alert belong into the alert's transaction: novelty and alert are stored together or not at
//! all. Every time in a row is a [`steady::Steady`]: nanoseconds since 1970, kept from stepping back, so that rows of
//! one host mean the same on another.
//!
//! | row | key | size |
//! |---|---|---|
//! | `Host` | one | counters, learning state, common AS numbers |
//! | `Program` | program name and generation | images, countries, AS numbers, scan counters |
//! | `Pair` | program, destination label | 40 bytes and the label |
//! | `Volume` | program | four windows of histogram, a moving average, maxima by hour of the week |
//! | `Contacts` | program | two numbers |
//! | `DnsParent` | registrable domain | maxima of three windows |

pub mod context;
pub mod identity;
pub mod learn;
pub mod profile;
pub mod restore;
pub mod rows;
pub mod steady;
pub mod volume;

pub use identity::{Location, ProgramKey};
pub use profile::{Baseline, LabelId, PairState, ProgramId};
pub use rows::{BaselineRow, RowKey};
pub use steady::{Steady, SteadyClock};
