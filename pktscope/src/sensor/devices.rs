//! The programs at the devices of the agent's network namespace, as they come and go, and what it counts there.
//!
//! It hangs where packets go out of the network namespace, so that each is counted once: not at bridges, bonds and VLANs,
//! whose packets come by at the device below. A device that refuses it is named, and not asked again. What arrives is
//! looked at only while there are tunnels.

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
    sys::{self, Way},
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
    arrivals: Hold,
}

/// The programs, loaded.
pub(super) struct DevicePrograms {
    /// For what leaves.
    pub(super) out: OwnedFd,
    /// For what arrives, where the kernel takes it.
    pub(super) arrivals: Option<OwnedFd>,
    /// [`tunnels`](pktscope_common::knobs::tunnels) whose packets can be told from a process's.
    pub(super) known_tunnels: u32,
}

/// See the module.
pub(super) struct Devices {
    programs: DevicePrograms,
    mode: TrafficControl,
    counts: PerCpuHashMap<MapData, u32, DeviceState>,
    monitor: Option<LinkMonitor>,
    known: BTreeMap<u32, Known>,
    tunnels: u32,
}

/// What hangs where, for `doctor` and `status`.
pub(super) struct DevicesStatus {
    pub(super) attach_point: &'static str,
    pub(super) refusals: Option<String>,
    /// Where what arrives is looked at, if anywhere.
    pub(super) arrivals: Option<&'static str>,
}

impl Devices {
    /// Attaches the program to the devices that there are.
    pub(super) fn new(
        programs: DevicePrograms,
        mode: TrafficControl,
        counts: PerCpuHashMap<MapData, u32, DeviceState>,
    ) -> Self {
        // Listening before listing, so that no change falls in between.
        let monitor = LinkMonitor::new().ok();
        let mut devices = Self { programs, mode, counts, monitor, known: BTreeMap::new(), tunnels: 0 };
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

    /// [`tunnels`](pktscope_common::knobs::tunnels) whose packets may arrive.
    pub(super) fn tunnels(&self) -> u32 {
        self.tunnels
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
        self.follow_tunnels(list.iter().fold(0, |all, one| all | one.tunnels) & self.programs.known_tunnels);
    }

    /// Looks at what arrives where packets come into the network namespace, while there are tunnels.
    fn follow_tunnels(&mut self, tunnels: u32) {
        self.tunnels = tunnels;
        let Some(program) = &self.programs.arrivals else { return };
        for (&index, known) in &mut self.known {
            let is_wanted = tunnels != 0 && known.place == Place::Edge;
            if is_wanted == matches!(known.arrivals, Hold::Nothing(None)) {
                known.arrivals =
                    if is_wanted { hang(program.as_fd(), self.mode, index, Way::In) } else { Hold::Nothing(None) };
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
        self.known
            .insert(one.index, Known { name: one.name.clone(), place: one.place, hold, arrivals: Hold::Nothing(None) });
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
        hang(self.programs.out.as_fd(), self.mode, one.index, Way::Out)
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
        let arrivals = self.known.values().find_map(|known| match known.arrivals {
            Hold::Tcx { .. } => Some("tcx/ingress"),
            Hold::Clsact { .. } => Some("clsact/ingress"),
            Hold::Nothing(_) => None,
        });
        let refusal = |known: &Known| match (&known.hold, &known.arrivals) {
            (Hold::Nothing(Some(reason)), _) | (_, Hold::Nothing(Some(reason))) => {
                Some(format!("{}: {reason}", known.name))
            }
            _ => None,
        };
        let refusals: Vec<String> = self.known.values().filter_map(refusal).collect();
        DevicesStatus {
            attach_point: if has_filter { "clsact/egress" } else { "tcx/egress" },
            refusals: (!refusals.is_empty()).then(|| refusals.join("; ")),
            arrivals,
        }
    }
}

/// Hangs a program at a device.
fn hang(program: BorrowedFd<'_>, mode: TrafficControl, index: u32, way: Way) -> Hold {
    match sys::link_tcx(program, index, way) {
        Ok(link) => Hold::Tcx { _link: link },
        Err(error) if is_no_tcx(&error) => hang_filter(program, mode, index, way),
        Err(error) => Hold::Nothing(Some(error.to_string())),
    }
}

fn hang_filter(program: BorrowedFd<'_>, mode: TrafficControl, index: u32, way: Way) -> Hold {
    if mode == TrafficControl::Trial {
        return Hold::Clsact { _filter: None };
    }
    match Filter::attach(program, index, way) {
        Ok(filter) => Hold::Clsact { _filter: Some(filter) },
        Err(error) => {
            let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            Hold::Nothing(Some(format!("{error}{source}")))
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
