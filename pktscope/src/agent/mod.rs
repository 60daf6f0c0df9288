//! The agent: threads, channels, shutdown; wiring only.
//!
//! One thread, "core", owns the sensor and the pipeline and takes turns: read, step, hand out. Others write the store,
//! look processes up, answer the control socket; the main thread waits for signals.

mod answer;
mod command;
mod control;
mod desk;
mod host;
mod memory;
mod notify;
mod outputs;
mod replay;
mod restore;
mod run;
mod schedule;
mod settings;
mod signals;
mod status;
mod suppress;
mod turn;

pub use replay::{ReplayError, ReplayInput, ReplayOptions, ReplayReport, ReplayWatcher, replay};
pub use run::{Reload, RunError, RunOptions, run};
