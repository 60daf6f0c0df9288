//! The command line: one file per command.
//!
//! A command takes its arguments, reads the store or asks the agent, prints rows. It never prints half a row and never
//! panics on a closed pipe.

mod alerts;
mod arguments;
mod baseline;
mod config;
mod destinations;
mod dns;
mod doctor;
mod exit;
mod flows;
mod json;
mod listing;
mod mark;
mod output;
mod place;
mod processes;
mod replay;
mod rules;
mod run;
mod snapshot;
mod status;
mod suppress;
mod verdicts;

pub use arguments::{Arguments, Command};
pub use exit::Exit;

#[cfg(test)]
mod tests;
