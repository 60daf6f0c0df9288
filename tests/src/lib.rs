//! The harness of pktscope's end-to-end tests: network namespaces, the agent's process, waiting for facts.
//!
//! `cargo xtask e2e` runs the end-to-end tests as root. A test that meets a machine without what it needs says
//! `skipped: <test>: <reason>` on standard output and passes. No test waits for a time to pass: it waits for a fact, up
//! to a deadline.

pub mod agent;
pub mod bpf;
pub mod cgroup;
pub mod event;
pub mod event_log;
pub mod flow;
pub mod machine;
pub mod mmdb;
pub mod namespace;
pub mod offload;
pub mod server;
pub mod traffic;
pub mod wait;
