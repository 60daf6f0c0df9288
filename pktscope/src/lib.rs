//! pktscope: for every byte that leaves a Linux host, which program sent it, where to, and is that normal for it.
//!
//! Modules in the order of the data path; `core` is pure, everything else is its shell.

pub mod core;

pub mod sensor;

pub mod enrich;
pub mod replay;
pub mod sink;
pub mod store;
pub mod view;

pub mod agent;
pub mod api;
pub mod cli;

pub mod clock;
pub mod config;

#[cfg(test)]
mod captures;

#[cfg(test)]
mod fixtures;
