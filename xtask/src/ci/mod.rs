//! `cargo xtask test` and `cargo xtask ci`: every check, one after another, and a summary that a program can read.

mod count;
mod deny;
mod format;
mod outcome;
mod suite;
mod test;

pub use count::Counts;
pub use outcome::{Outcome, Verdict, conclude};
pub use suite::{TestArguments, test};
