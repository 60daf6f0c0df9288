//! End-to-end tests: the real agent on the real kernel, in network namespaces of their own.
#![expect(clippy::unwrap_used, reason = "a test ends where a fact is not as it should be")]

mod bytes;
mod contacts;
mod containers;
mod detectors;
mod devices;
mod durable;
mod harness;
mod ledger;
mod lifecycle;
mod names;
mod older;
mod ownership;
mod pressure;
mod programs;
mod resolver;
mod slots;
mod spine;
mod standing;
mod verdicts;
mod watch;
