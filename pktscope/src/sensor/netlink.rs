//! rtnetlink conversations: a dump's rows, and changes that the kernel confirms.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Room for one netlink datagram of a dump (net/core/rtnetlink.c asks for at most 32 KiB).
const DATAGRAM_BYTES: usize = 32 * 1024;
/// `RTNLGRP_LINK` of include/uapi/linux/rtnetlink.h.
const LINK_GROUP: u32 = 1;

/// Why the kernel was not understood, or refused.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The conversation failed, or the kernel refused what was asked for.
    #[error("failed to {operation} over netlink")]
    Netlink {
        /// What was being done.
        operation: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer could not be parsed.
    #[error("failed to parse the kernel's answer: {0}")]
    Malformed(String),
}

fn failed(operation: &'static str) -> impl FnOnce(io::Error) -> NetlinkError {
    move |source| NetlinkError::Netlink { operation, source }
}

/// Asks for all of something and hands on each row.
///
/// # Errors
/// [`NetlinkError`]; rows handed on before it are real.
pub(super) fn dump(
    request: RouteNetlinkMessage,
    operation: &'static str,
    mut hand_on: impl FnMut(RouteNetlinkMessage),
) -> Result<(), NetlinkError> {
    converse(request, NLM_F_DUMP, operation, &mut hand_on)
}

/// Asks for one change; `flags` say how, beside that it is to be confirmed.
///
/// # Errors
/// [`NetlinkError::Netlink`] where the kernel refuses it.
pub(super) fn change(request: RouteNetlinkMessage, flags: u16, operation: &'static str) -> Result<(), NetlinkError> {
    converse(request, NLM_F_ACK | flags, operation, &mut |_| {})
}

fn converse(
    request: RouteNetlinkMessage,
    flags: u16,
    operation: &'static str,
    hand_on: &mut impl FnMut(RouteNetlinkMessage),
) -> Result<(), NetlinkError> {
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed(operation))?;
    socket.bind_auto().map_err(failed(operation))?;
    socket.connect(&SocketAddr::new(0, 0)).map_err(failed(operation))?;
    socket.send(&to_bytes(request, flags), 0).map_err(failed(operation))?;
    let mut buffer = Vec::with_capacity(DATAGRAM_BYTES);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0).map_err(failed(operation))?;
        if take_datagram(&buffer, operation, hand_on)? {
            return Ok(());
        }
    }
}

fn to_bytes(request: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(request));
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = 1;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// Hands on one datagram's rows; true at the end of a dump, or where a change is confirmed.
fn take_datagram(
    mut bytes: &[u8],
    operation: &'static str,
    hand_on: &mut impl FnMut(RouteNetlinkMessage),
) -> Result<bool, NetlinkError> {
    while !bytes.is_empty() {
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
            .map_err(|error| NetlinkError::Malformed(error.to_string()))?;
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
            NetlinkPayload::Error(error) => return Err(failed(operation)(error.to_io())),
            NetlinkPayload::InnerMessage(row) => hand_on(row),
            _ => {}
        }
        let length = usize::try_from(message.header.length).unwrap_or(0).max(1).next_multiple_of(4);
        bytes = bytes.get(length..).unwrap_or_default();
    }
    Ok(false)
}

/// Tells when devices come, go or change.
pub(super) struct LinkMonitor(Socket);

impl LinkMonitor {
    /// Listens in the calling thread's network namespace.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.add_membership(LINK_GROUP)?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Whether anything has changed since the last call. Never blocks.
    pub(super) fn has_changed(&self) -> bool {
        let mut has_changed = false;
        let mut buffer = Vec::with_capacity(DATAGRAM_BYTES);
        loop {
            buffer.clear();
            match self.0.recv(&mut buffer, 0) {
                Ok(_) => has_changed = true,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                // Where messages were lost (ENOBUFS) something has changed; the next call reads on.
                Err(error) => return has_changed || error.kind() != io::ErrorKind::WouldBlock,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_changes_by_itself_while_nobody_changes_it() {
        let monitor = LinkMonitor::new().expect("rtnetlink listens without privileges");
        // What changed before the monitor listened is not told.
        assert!(!LinkMonitor::new().expect("rtnetlink").has_changed() || monitor.has_changed());
    }

    #[test]
    fn garbage_is_an_error_and_no_panic() {
        for bytes in [&[0u8; 3][..], &[0xff; 40], &[16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert!(take_datagram(bytes, "test", &mut |_| {}).is_err(), "{bytes:?}");
        }
    }
}
