//! Bytes of application protocols, read: DNS, TLS, QUIC, HTTP. Pure; every function takes untrusted bytes.
//!
//! A flow's first bytes come in as [`super::event::Payload`], [`super::event::DnsMessage`] and
//! [`super::event::ServerName`] go out. Nothing here panics, and every buffer has a bound.

pub mod dns;
pub mod ja4;
pub mod reader;
pub mod tls;

#[cfg(test)]
mod truth;
