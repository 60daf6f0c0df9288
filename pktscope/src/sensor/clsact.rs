//! The egress program as a filter of a device's clsact qdisc: for kernels without TCX.
//!
//! Filters of others are never touched: ours has a priority of its own, in front of theirs where there is room, and is
//! deleted only where it is seen to be ours. The qdisc stays behind, empty: others may have come to rely on it.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcHeader, TcMessage, TcOption},
};

use super::netlink::{self, NetlinkError};

/// The name by which a filter is known as ours, also one that a killed agent left behind.
const NAME: &str = "pktscope_tc_egress";
/// Where filters on the way out hang.
const EGRESS: TcHandle = TcHandle { major: TcHandle::CLSACT.major, minor: TcHandle::MIN_EGRESS };
/// Our priority where there is no other filter.
const PRIORITY: u16 = 100;
/// `ETH_P_ALL` of include/uapi/linux/if_ether.h, in network order.
const ALL_PROTOCOLS: u16 = 3_u16.to_be();
const HANDLE: u32 = 1;

/// A filter of ours; dropping it deletes it.
#[derive(Debug)]
pub(super) struct Filter {
    device: i32,
    priority: u16,
}

/// A filter of a device, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    priority: u16,
    handle: u32,
    is_ours: bool,
}

impl Filter {
    /// Adds the program to what leaves by a device.
    ///
    /// # Errors
    /// [`NetlinkError`], with which nothing is attached.
    pub(super) fn attach(program: BorrowedFd<'_>, interface: u32) -> Result<Self, NetlinkError> {
        let device = i32::try_from(interface).unwrap_or(0);
        add_qdisc(device)?;
        let mut found = filters(device)?;
        for left in found.extract_if(.., |filter| filter.is_ours) {
            delete(device, left.priority)?;
        }
        let priority = free_priority(&found.iter().map(|filter| filter.priority).collect::<Vec<_>>());
        let mut message = message(device, priority);
        let options = vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32)),
            TcOption::Bpf(TcFilterBpfOption::ProgName(NAME.into())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ];
        message.attributes.push(TcAttribute::Options(options));
        let request = RouteNetlinkMessage::NewTrafficFilter(message);
        netlink::change(request, NLM_F_CREATE | NLM_F_EXCL, "add a filter")?;
        Ok(Self { device, priority })
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // Where the device is gone, or its qdisc, so is the filter.
        let found = filters(self.device).unwrap_or_default();
        if found.iter().any(|filter| filter.is_ours && filter.priority == self.priority) {
            let _ = delete(self.device, self.priority);
        }
    }
}

/// Makes the clsact qdisc where there is none.
fn add_qdisc(device: i32) -> Result<(), NetlinkError> {
    let mut message = TcMessage::with_index(device);
    message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    message.header.parent = TcHandle::CLSACT;
    message.attributes.push(TcAttribute::Kind("clsact".into()));
    let request = RouteNetlinkMessage::NewQueueDiscipline(message);
    match netlink::change(request, NLM_F_CREATE | NLM_F_EXCL, "add the clsact qdisc") {
        Err(NetlinkError::Netlink { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// The filters on a device's way out.
fn filters(device: i32) -> Result<Vec<Found>, NetlinkError> {
    let header = TcHeader { index: device, parent: EGRESS, ..TcHeader::default() };
    let mut found = Vec::new();
    let request = RouteNetlinkMessage::GetTrafficFilter(TcMessage::from_parts(header, Vec::new()));
    netlink::dump(request, "read the filters", |row| {
        if let RouteNetlinkMessage::NewTrafficFilter(filter) = row {
            found.push(to_found(&filter));
        }
    })?;
    Ok(found)
}

fn to_found(filter: &TcMessage) -> Found {
    let has_name =
        |option: &TcOption| matches!(option, TcOption::Bpf(TcFilterBpfOption::ProgName(name)) if name == NAME);
    let is_ours = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Options(all) if all.iter().any(has_name));
    Found {
        priority: (filter.header.info >> 16) as u16,
        handle: filter.header.handle.into(),
        is_ours: filter.attributes.iter().any(is_ours),
    }
}

/// A priority that nobody has: before everybody else's where there is room, because a filter of lower number may have the
/// last word.
fn free_priority(taken: &[u16]) -> u16 {
    match taken.iter().filter(|priority| **priority != 0).min() {
        None => PRIORITY,
        Some(&first) if first > PRIORITY => PRIORITY,
        Some(&first) if first > 1 => first - 1,
        Some(_) => (2..=u16::MAX).find(|priority| !taken.contains(priority)).unwrap_or(u16::MAX),
    }
}

fn delete(device: i32, priority: u16) -> Result<(), NetlinkError> {
    netlink::change(RouteNetlinkMessage::DelTrafficFilter(message(device, priority)), 0, "delete our filter")
}

/// What names our filter: its device, priority, handle and kind.
fn message(device: i32, priority: u16) -> TcMessage {
    let header = TcHeader {
        index: device,
        handle: HANDLE.into(),
        parent: EGRESS,
        info: u32::from(priority) << 16 | u32::from(ALL_PROTOCOLS),
        ..TcHeader::default()
    };
    TcMessage::from_parts(header, vec![TcAttribute::Kind(TcFilterBpf::KIND.into())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_comes_first_and_never_in_anybody_s_place() {
        for (taken, expected) in [
            (&[][..], 100),
            (&[49_152], 100),
            (&[100, 200], 99),
            (&[50], 49),
            (&[1], 2),
            (&[1, 2, 3, 7], 4),
            (&[0, 49_152], 100),
        ] {
            let priority = free_priority(taken);
            assert_eq!(priority, expected, "{taken:?}");
            assert!(!taken.contains(&priority) && priority != 0);
        }
    }
}
