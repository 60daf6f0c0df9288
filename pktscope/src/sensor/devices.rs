//! The egress program at the devices of the agent's network namespace, as they come and go, and what it counts there.
//!
//! It hangs where packets go out of the network namespace, so that each is counted once: not at bridges, bonds and VLANs,
//! whose packets come by at the device below. A device that refuses it is named, and not asked again.

use std::{
    collections::BTreeMap,
    error::Error as _,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use aya::{
    maps::{MapData, PerCpuHashMap, PerCpuValues},
    util::nr_cpus,
};
use pktscope_common::state::{Counts, DeviceState, class, device};

use super::{
    clsact::Filter,
    interfaces::{self, Device, Place},
    netlink::LinkMonitor,
    session::TrafficControl,
    sys,
};
use crate::core::{
    event::UnownedReading,
    ledger::{Growth, LedgerClass},
};

/// Whose packets each class of counters is.
const CLASSES: [(usize, LedgerClass); class::COUNT] = [
    (class::FORWARDED, LedgerClass::Forwarded),
    (class::KERNEL, LedgerClass::Kernel),
    (class::OTHER, LedgerClass::OtherSockets),
];

/// How the program hangs at a device; dropping it takes it off.
enum Hold {
    /// A TCX link.
    Tcx {
        /// Held for its drop.
        _link: OwnedFd,
    },
    /// A filter of the clsact qdisc.
    Clsact {
        /// Held for its drop; `None` in a trial.
        _filter: Option<Filter>,
    },
    /// Not at all: its packets come by elsewhere, or it refused, for this reason.
    Nothing(Option<String>),
}

/// A device that was seen.
struct Known {
    name: String,
    place: Place,
    hold: Hold,
}

/// See the module.
pub(super) struct Devices {
    program: OwnedFd,
    mode: TrafficControl,
    counts: PerCpuHashMap<MapData, u32, DeviceState>,
    monitor: Option<LinkMonitor>,
    known: BTreeMap<u32, Known>,
}

/// What hangs where, for `doctor` and `status`.
pub(super) struct DevicesStatus {
    pub(super) attach_point: &'static str,
    pub(super) refusals: Option<String>,
}

impl Devices {
    /// Attaches the program to the devices that there are.
    pub(super) fn new(
        program: OwnedFd,
        mode: TrafficControl,
        counts: PerCpuHashMap<MapData, u32, DeviceState>,
    ) -> Self {
        // Listening before listing, so that no change falls in between.
        let monitor = LinkMonitor::new().ok();
        let mut devices = Self { program, mode, counts, monitor, known: BTreeMap::new() };
        devices.refresh();
        devices
    }

    /// Takes up devices that came and lets go of those that went, where any did; whether it looked. Never blocks.
    pub(super) fn follow(&mut self) -> bool {
        // Without a monitor the ledger's own look at the interfaces is what is left.
        let has_changed = self.monitor.as_ref().is_some_and(LinkMonitor::has_changed);
        if has_changed {
            self.refresh();
        }
        has_changed
    }

    /// Whether packets may leave in packets of the kernel's own.
    pub(super) fn has_tunnels(&self) -> bool {
        self.known.values().any(|known| known.place == Place::Tunnel)
    }

    /// Makes what is attached fit the devices that there are.
    pub(super) fn refresh(&mut self) {
        let Ok(list) = interfaces::list() else { return };
        let gone = self.known.extract_if(.., |index, _| !list.iter().any(|one| one.index == *index));
        for (index, _) in gone {
            // What was never put there is not there.
            let _ = self.counts.remove(&index);
        }
        for one in &list {
            match self.known.get(&one.index) {
                Some(known) if known.place == one.place => {}
                Some(_) => self.change(one),
                None => self.take_up(one),
            }
        }
    }

    /// Counts first, so that the first packet finds where.
    fn take_up(&mut self, one: &Device) {
        let state =
            DeviceState { link_header_bytes: one.link_header_bytes, flags: flags(one), ..DeviceState::default() };
        let inserted =
            values(|_| state).and_then(|values| self.counts.insert(one.index, values, 0).map_err(io::Error::other));
        let hold = match inserted {
            Ok(()) => self.attach(one),
            Err(fault) => Hold::Nothing(Some(format!("no room for its counters: {fault}"))),
        };
        self.known.insert(one.index, Known { name: one.name.clone(), place: one.place, hold });
    }

    /// A device came to a bridge, or left it: the same counters, for something else. What is counted during the change
    /// is lost to the ledger's unknown.
    fn change(&mut self, one: &Device) {
        if let Ok(old) = self.counts.get(&one.index, 0)
            && let Ok(new) =
                values(|cpu| DeviceState { flags: flags(one), ..old.get(cpu).copied().unwrap_or_default() })
        {
            // The entry is there; writing it again takes no room.
            let _ = self.counts.insert(one.index, new, 0);
        }
        let is_held = self.known.get(&one.index).is_some_and(|known| !matches!(known.hold, Hold::Nothing(_)));
        let hold = (is_held != (one.place != Place::Upper)).then(|| self.attach(one));
        if let Some(known) = self.known.get_mut(&one.index) {
            known.place = one.place;
            known.hold = hold.unwrap_or_else(|| std::mem::replace(&mut known.hold, Hold::Nothing(None)));
        }
    }

    fn attach(&self, one: &Device) -> Hold {
        if one.place == Place::Upper {
            return Hold::Nothing(None);
        }
        match sys::link_tcx_egress(self.program.as_fd(), one.index) {
            Ok(link) => Hold::Tcx { _link: link },
            Err(error) if is_no_tcx(&error) => self.attach_filter(self.program.as_fd(), one.index),
            Err(error) => Hold::Nothing(Some(error.to_string())),
        }
    }

    fn attach_filter(&self, program: BorrowedFd<'_>, index: u32) -> Hold {
        if self.mode == TrafficControl::Trial {
            return Hold::Clsact { _filter: None };
        }
        match Filter::attach(program, index) {
            Ok(filter) => Hold::Clsact { _filter: Some(filter) },
            Err(error) => {
                let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
                Hold::Nothing(Some(format!("{error}{source}")))
            }
        }
    }

    /// Totals since each device was taken up.
    pub(super) fn read(&self) -> Vec<UnownedReading> {
        let sums = |index: &u32| {
            let values = self.counts.get(index, 0).ok()?;
            Some(CLASSES.map(|(slot, class)| UnownedReading {
                interface: *index,
                class,
                total: total(values.iter().map(|state| &state.counts[slot])),
            }))
        };
        let has_any = |reading: &UnownedReading| reading.total != Growth::default();
        self.known.keys().filter_map(sums).flatten().filter(has_any).collect()
    }

    /// What became of the program.
    pub(super) fn status(&self) -> DevicesStatus {
        let has_filter = self.known.values().any(|known| matches!(known.hold, Hold::Clsact { .. }));
        let refusal = |known: &Known| match &known.hold {
            Hold::Nothing(Some(reason)) => Some(format!("{}: {reason}", known.name)),
            _ => None,
        };
        let refusals: Vec<String> = self.known.values().filter_map(refusal).collect();
        DevicesStatus {
            attach_point: if has_filter { "clsact/egress" } else { "tcx/egress" },
            refusals: (!refusals.is_empty()).then(|| refusals.join("; ")),
        }
    }
}

/// What a kernel without TCX says: it does not know the attach type, or was built without it.
fn is_no_tcx(error: &io::Error) -> bool {
    /// `ENOTSUPP` of include/linux/errno.h, which has no name in user space.
    const NOT_SUPPORTED: i32 = 524;
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | NOT_SUPPORTED))
}

fn flags(one: &Device) -> u32 {
    match one.place {
        Place::Edge => device::FRAMES,
        Place::Tunnel => device::FRAMES | device::TUNNEL,
        Place::Port | Place::Upper => 0,
    }
}

fn values(make: impl FnMut(usize) -> DeviceState) -> io::Result<PerCpuValues<DeviceState>> {
    let cpus = nr_cpus().map_err(|(_, error)| error)?;
    PerCpuValues::try_from((0..cpus).map(make).collect::<Vec<_>>())
}

fn total<'a>(counts: impl Iterator<Item = &'a Counts>) -> Growth {
    counts.fold(Growth::default(), |mut sum, one| {
        let wire = [one.sent_bytes, one.received_bytes];
        let headers = [one.sent_header_bytes, one.received_header_bytes];
        for way in [0, 1] {
            sum.wire_bytes[way] += wire[way];
            sum.segment_header_bytes[way] += headers[way];
        }
        sum
    })
}
