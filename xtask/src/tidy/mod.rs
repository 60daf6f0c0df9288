//! `cargo xtask tidy`: the project's own rules, those that rustc and Clippy do not know.
//!
//! Source in, violations with file, line and reason out. Nothing is changed.

mod check;
mod layers;
mod layout;
mod paths;
mod purity;
mod size;
mod source;
mod strings;
mod tests_wait;
mod unwraps;

pub use check::{run, step};
