//! Bytes of application protocols, read: DNS, TLS, QUIC, HTTP. Pure; every function takes untrusted bytes.
//!
//! [`super::event::Payload`] comes in through [`flows::FlowDissector`], [`super::event::DnsMessage`] and
//! [`super::event::ServerName`] go out. Nothing here panics, and every buffer has a bound.

pub mod dns;
pub mod flows;
pub mod http;
pub mod ja4;
pub mod quic;
pub mod reader;
pub mod stream;
pub mod tls;
pub mod upgrade;

#[cfg(test)]
mod truth;
