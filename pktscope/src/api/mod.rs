//! The control socket of a running agent: one request a line, one answer a line, JSON.
//!
//! Only root and the agent's own user get an answer. A slow or silent client costs a thread of a bounded number, never
//! the agent.

mod client;
mod connections;
mod error;
mod protocol;
mod server;
mod status;

pub use client::call;
pub use error::ApiError;
pub use protocol::{DestinationWord, Mark, Request, Response, SOCKET_NAME, Suppress, VerdictRecord};
pub use server::{Handler, Server};
pub use status::{
    BaselineReport, DnsReport, HookReport, LedgerReport, LedgerSideReport, MemoryReport, ProgramReport, ProposalReport,
    ProposedReport, SinkReport, StatusReport, StoreReport, SuppressionReport,
};

#[cfg(test)]
mod tests;
