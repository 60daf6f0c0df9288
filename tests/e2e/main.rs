//! End-to-end tests: the real agent on the real kernel, in network namespaces of their own.
#![expect(clippy::unwrap_used, reason = "a test ends where a fact is not as it should be")]

mod bytes;
mod harness;
mod lifecycle;
mod ownership;
mod spine;
mod standing;
