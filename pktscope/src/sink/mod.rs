//! Where events go besides the store: NDJSON, syslog, webhook.
