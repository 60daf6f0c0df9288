//! What became of a sink's messages.

use std::sync::{Mutex, PoisonError};

/// What became of the messages handed to a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkCounts {
    /// Delivered.
    pub sent: u64,
    /// Waiting for delivery.
    pub waiting: u64,
    /// Dropped, the oldest first, because too many waited; or refused for good by the other side.
    pub lost: u64,
    /// Deliveries that failed and were tried again.
    pub failures: u64,
    /// Why the last delivery failed; `None` since one succeeded.
    pub error: Option<String>,
}

/// The counts, shared between a sink's threads and who asks.
#[derive(Debug, Default)]
pub(super) struct Counter(Mutex<SinkCounts>);

impl Counter {
    pub(super) fn read(&self) -> SinkCounts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut SinkCounts)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A message arrived. The sink named by `name` is told to work again where it did not.
    pub(super) fn succeed(&self, name: &str) {
        self.update(|counts| {
            counts.sent += 1;
            if counts.error.take().is_some() {
                tracing::info!("{name} takes messages again");
            }
        });
    }

    /// A delivery failed. Told in the log once, until one succeeds.
    pub(super) fn fail(&self, name: &str, error: String) {
        self.update(|counts| {
            counts.failures += 1;
            if counts.error.replace(error.clone()).is_none() {
                tracing::warn!("{name} takes no messages: {error}; they wait and are sent later");
            }
        });
    }
}
