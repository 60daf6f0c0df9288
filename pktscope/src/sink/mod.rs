//! Where events go besides the store: NDJSON, syslog, webhook.
//!
//! Every sink has threads of its own behind a bounded queue: one that is slow or dead costs its own messages, counted,
//! and never the pipeline's time.

mod alerts;
mod backoff;
mod counts;
pub mod ecs;
pub mod jsonl;
mod queue;
mod spool;
mod syslog;
mod webhook;

pub use alerts::AlertSinks;
pub use counts::SinkCounts;
pub use spool::SpoolError;
pub use syslog::Syslog;
pub use webhook::{Webhook, WebhookError};
