//! The pure core: what the kernel or a capture reported goes in, flows, findings and alerts come out.
//!
//! No I/O, no clock, no tokio, no serde, no unsafe: time is an argument, a look-up is an [`effect::Effect`] whose
//! answer comes back as an [`event::Event`]. The same inputs at the same times give the same effects.

pub mod address;
pub mod alert;
pub mod attribute;
pub mod baseline;
pub mod community_id;
pub mod decode;
pub mod detect;
pub mod dissect;
pub mod dns_analytics;
pub mod dns_words;
pub mod domain;
pub mod effect;
pub mod event;
pub mod flow;
pub mod hold;
pub mod ledger;
pub mod names;
pub mod packet;
pub mod pipeline;
pub mod process;
pub mod reassembly;
pub mod seed;
pub mod time;
