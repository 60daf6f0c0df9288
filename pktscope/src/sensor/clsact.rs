//! The programs as filters of a device's clsact qdisc: for kernels without TCX.
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

use super::{
    netlink::{self, NetlinkError},
    sys::Way,
};

/// Our priority where there is no other filter.
const PRIORITY: u16 = 100;
/// `ETH_P_ALL` of include/uapi/linux/if_ether.h, in network order.
const ALL_PROTOCOLS: u16 = 3_u16.to_be();
const HANDLE: u32 = 1;

/// A filter of ours; dropping it deletes it.
#[derive(Debug)]
pub(super) struct Filter {
    place: Place,
    priority: u16,
}

/// Where filters hang.
#[derive(Clone, Copy, Debug)]
struct Place {
    device: i32,
    way: Way,
}

impl Place {
    fn parent(self) -> TcHandle {
        let minor = match self.way {
            Way::Out => TcHandle::MIN_EGRESS,
            Way::In => TcHandle::MIN_INGRESS,
        };
        TcHandle { major: TcHandle::CLSACT.major, minor }
    }

    /// The name by which a filter is known as ours, also one that a killed agent left behind.
    fn name(self) -> &'static str {
        match self.way {
            Way::Out => "pktscope_tc_egress",
            Way::In => "pktscope_tc_ingress",
        }
    }
}

/// A filter of a device, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    priority: u16,
    handle: u32,
    is_ours: bool,
}

impl Filter {
    /// Adds the program to what leaves by a device, or arrives.
    ///
    /// # Errors
    /// [`NetlinkError`], with which nothing is attached.
    pub(super) fn attach(program: BorrowedFd<'_>, interface: u32, way: Way) -> Result<Self, NetlinkError> {
        let place = Place { device: i32::try_from(interface).unwrap_or(0), way };
        add_qdisc(place.device)?;
        let mut found = filters(place)?;
        for left in found.extract_if(.., |filter| filter.is_ours) {
            delete(place, left.priority)?;
        }
        let priority = free_priority(&found.iter().map(|filter| filter.priority).collect::<Vec<_>>());
        let mut message = message(place, priority);
        let options = vec![
            TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd() as u32)),
            TcOption::Bpf(TcFilterBpfOption::ProgName(place.name().into())),
            TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        ];
        message.attributes.push(TcAttribute::Options(options));
        let request = RouteNetlinkMessage::NewTrafficFilter(message);
        netlink::change(request, NLM_F_CREATE | NLM_F_EXCL, "add a filter")?;
        Ok(Self { place, priority })
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        // Where the device is gone, or its qdisc, so is the filter.
        let found = filters(self.place).unwrap_or_default();
        if found.iter().any(|filter| filter.is_ours && filter.priority == self.priority) {
            let _ = delete(self.place, self.priority);
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

/// The filters of a device's way.
fn filters(place: Place) -> Result<Vec<Found>, NetlinkError> {
    let header = TcHeader { index: place.device, parent: place.parent(), ..TcHeader::default() };
    let mut found = Vec::new();
    let request = RouteNetlinkMessage::GetTrafficFilter(TcMessage::from_parts(header, Vec::new()));
    netlink::dump(request, "read the filters", |row| {
        if let RouteNetlinkMessage::NewTrafficFilter(filter) = row {
            found.push(to_found(&filter, place.name()));
        }
    })?;
    Ok(found)
}

fn to_found(filter: &TcMessage, ours: &str) -> Found {
    let has_name =
        |option: &TcOption| matches!(option, TcOption::Bpf(TcFilterBpfOption::ProgName(name)) if name == ours);
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

fn delete(place: Place, priority: u16) -> Result<(), NetlinkError> {
    netlink::change(RouteNetlinkMessage::DelTrafficFilter(message(place, priority)), 0, "delete our filter")
}

/// What names our filter: its device, priority, handle and kind.
fn message(place: Place, priority: u16) -> TcMessage {
    let header = TcHeader {
        index: place.device,
        handle: HANDLE.into(),
        parent: place.parent(),
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
