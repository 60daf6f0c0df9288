//! A flow as a table row.

use std::{net::IpAddr, time::Duration};

use super::{Cell, Clock, Column, Style, bytes, count, span};
use crate::core::time::WallTime;

/// What is shown of a flow.
#[derive(Clone, Debug)]
pub struct FlowLine<'a> {
    /// Last packet.
    pub last_seen: WallTime,
    /// First packet.
    pub started_at: WallTime,
    /// The owner's name and pid; else whose it is, or why nobody is named.
    pub owner: String,
    /// Whether a process is named.
    pub has_process: bool,
    /// Whether this host opened it.
    pub is_egress: bool,
    /// Name or address of the other side, with its port.
    pub peer: String,
    /// Protocol.
    pub transport: &'a str,
    /// IP-layer bytes that left this host.
    pub bytes_out: u64,
    /// IP-layer bytes that arrived.
    pub bytes_in: u64,
    /// Zeek's state of a TCP connection, or how the flow ended; `None` of an open one.
    pub state: Option<&'a str>,
    /// How many flows the row stands for.
    pub flows: u64,
}

/// The columns of [`flow_cells`].
pub fn flow_columns() -> [Column; 9] {
    [
        Column::text("TIME"),
        Column::long("PROCESS"),
        Column::text(""),
        Column::long("PEER"),
        Column::text("PROTO"),
        Column::number("SENT"),
        Column::number("RECEIVED"),
        Column::number("LASTED"),
        Column::text("STATE"),
    ]
}

/// A flow's cells.
pub fn flow_cells(line: &FlowLine<'_>, clock: &Clock) -> Vec<Cell> {
    let owner_style = if line.has_process { Style::Plain } else { Style::Dim };
    let state = match (line.state, line.flows) {
        (None, _) => Cell::new("open").style(Style::Good),
        (Some(state), 1) => Cell::new(state),
        (Some(state), flows) => Cell::new(format!("{state} ×{}", count(flows))),
    };
    vec![
        clock.time(line.last_seen).into(),
        Cell::new(&line.owner).style(owner_style),
        Cell::new(if line.is_egress { "→" } else { "←" }),
        Cell::new(&line.peer),
        line.transport.into(),
        bytes(line.bytes_out).into(),
        bytes(line.bytes_in).into(),
        span(lasted(line)).into(),
        state,
    ]
}

fn lasted(line: &FlowLine<'_>) -> Duration {
    line.last_seen.since(line.started_at)
}

/// `www.example.com:443`, `192.0.2.1:53`, `[2001:db8::1]:53`, `192.0.2.1` without a port.
pub fn peer(domain: Option<&str>, addr: IpAddr, port: Option<u16>) -> String {
    match (domain, addr, port) {
        (Some(domain), _, Some(port)) => format!("{domain}:{port}"),
        (Some(domain), _, None) => domain.to_owned(),
        (None, addr, Some(port)) => std::net::SocketAddr::new(addr, port).to_string(),
        (None, addr, None) => addr.to_string(),
    }
}
