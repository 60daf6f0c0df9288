//! Loads and attaches the kernel programs, reads their records.
pub mod interfaces;
