//! `cargo xtask bench`: what the agent costs, each figure against a reference in the same run.
//!
//! Rates vary with the machine; CPU for a fixed amount of work hardly does. So work is fixed, runs are paired and
//! interleaved, medians are printed with their quartiles.

mod agent;
mod arguments;
mod bpf;
mod cpu;
mod detection;
mod flow_tracker;
mod flows;
mod idle;
mod kernel;
mod load;
mod netns;
mod overhead;
mod quantile;
mod replay;

pub use arguments::{BenchArguments, run};
