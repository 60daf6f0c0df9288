//! The harness of pktscope's end-to-end tests: network namespaces, the agent's process, waiting for facts.
//!
//! Every end-to-end test is `#[ignore]`d, so that a plain `cargo test` needs no privileges; `cargo xtask e2e` runs them
//! as root with `--include-ignored`. A test that meets a machine without what it needs says `SKIPPED: reason` on
//! standard output and passes. No test waits for a time to pass: it waits for a fact, up to a deadline.

pub mod agent;
pub mod cgroup;
pub mod event;
pub mod machine;
pub mod namespace;
pub mod offload;
pub mod server;
pub mod traffic;
pub mod wait;
