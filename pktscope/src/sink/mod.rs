//! Where events go besides the store: NDJSON, syslog, webhook.

pub mod ecs;
pub mod jsonl;
