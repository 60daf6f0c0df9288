//! The running sensor: what the agent polls.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, MapError, PerCpuArray, RingBuf},
};
use pktscope_common::{
    counters::{COUNTER_NAMES, Counter},
    knobs::{features, settings, tunnels},
    limits::{KEPT_ENTRIES, PEER_ENTRIES, RING_BYTES, SLOT_ENTRIES},
};

use super::{
    attach,
    devices::{DevicePrograms, Devices},
    error::SensorError,
    hooks::{HookStatus, TC_EGRESS, TC_INGRESS, TCP_DESTROY},
    kept::Kept,
    linger::Lingering,
    load::{self, KernelFacts},
    mtu::Mtus,
    netns::{self, Sockets},
    peers::Peers,
    privilege::{is_in_initial_pid_namespace, missing_capabilities},
    ring::{self, RingCounts},
    statistics::{self, ProgramStatistics},
    sys,
    walks::Walks,
};
use crate::core::{
    event::{Event, UnownedReading},
    time::BootTime,
};

/// What the kernel programs count that is no loss: reports that were kept or repeated, copies that belong to others.
const NO_LOSSES: [Counter; 3] = [Counter::Kept, Counter::SweepRingFull, Counter::RawCopies];

/// Calls that a kernel may have and still refuse to the programs that are required: better without than not at all.
const UNCERTAIN: [u64; 2] = [features::MPTCP, features::PROBE_READ];

/// What the sensor can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SensorSettings {
    /// The cgroup2 folder to watch; `None` is the root of the cgroup2 mount in `/proc/self/mounts`.
    pub cgroup: Option<PathBuf>,
    /// Bytes of the ring buffer: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    /// Peers of unconnected sockets that are counted apart at a time.
    pub peer_entries: u32,
    /// Sockets' last records that are kept where the ring buffer is full.
    pub kept_entries: u32,
    /// TCP sockets whose state needs no memory of its own: a power of two, or 0.
    pub slot_entries: u32,
    /// Whether first bytes of flows are read for server names, and DNS.
    pub inspect_payload: bool,
    /// Whether what passes no inet socket is counted where it leaves by a device.
    pub traffic_control: TrafficControl,
    /// Whether an empty program runs beside the egress program, as a measure for what it costs.
    pub has_reference: bool,
}

impl Default for SensorSettings {
    fn default() -> Self {
        Self {
            cgroup: None,
            ring_bytes: RING_BYTES,
            peer_entries: PEER_ENTRIES,
            kept_entries: KEPT_ENTRIES,
            slot_entries: SLOT_ENTRIES,
            inspect_payload: true,
            traffic_control: TrafficControl::On,
            has_reference: false,
        }
    }
}

/// Use of the devices' traffic control hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficControl {
    /// Not at all.
    Off,
    /// To see what this kernel lets us do: nothing is left behind, not even an empty qdisc.
    Trial,
    /// At every device, as they come and go.
    On,
}

/// What a sweep reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SweepKind {
    /// Sockets that have seen packets since their last report.
    Changed,
    /// Every socket that has ever seen a packet, and at its end [`Event::SweepDone`], where the walks come by every socket and
    /// not so many were reported that one had to pause: then it may have missed some, and the next one tells.
    Full,
    /// As [`SweepKind::Full`], and whatever is held back for more to come: the agent is stopping.
    Final,
}

/// The kernel programs, attached; dropping it detaches them.
pub struct Sensor {
    /// Keeps programs and links alive.
    ebpf: Ebpf,
    ring: RingBuf<MapData>,
    ring_counts: RingCounts,
    kept: Kept,
    lingering: Lingering,
    counters: PerCpuArray<MapData, u64>,
    settings: Array<MapData, u32>,
    walks: Walks,
    /// Sweeps so far.
    sweeps: u32,
    devices: Option<Devices>,
    peers: Peers,
    sockets: Sockets<MapData>,
    mtus: Mtus,
    /// Packets whose fragments had to be assumed when the MTUs were last read.
    assumed_mtus: u64,
    hooks: Vec<HookStatus>,
    cgroup: PathBuf,
    map_fds: Vec<OwnedFd>,
}

impl Sensor {
    /// Whether this process on this machine can have a sensor at all; loads nothing.
    ///
    /// # Errors
    /// What is missing: the kernel programs, a privilege, type information or the cgroup.
    pub fn check(settings: &SensorSettings) -> Result<(), SensorError> {
        if !missing_capabilities().is_empty() {
            return Err(SensorError::Privilege);
        }
        if !is_in_initial_pid_namespace() {
            return Err(SensorError::PidNamespace);
        }
        KernelFacts::read(settings)?;
        open_cgroup(settings.cgroup.as_deref()).map(drop)
    }

    /// Loads and attaches everything that this kernel lets us, and stamps the holders of the sockets that exist.
    ///
    /// # Errors
    /// [`SensorError`] where nothing could be counted.
    pub fn attach(settings: &SensorSettings) -> Result<Self, SensorError> {
        let mut facts = KernelFacts::read(settings)?;
        let mut attached = Self::attach_with(settings, &facts);
        for feature in UNCERTAIN {
            if matches!(attached, Err(SensorError::Required { .. })) && facts.features & feature != 0 {
                facts.features &= !feature;
                attached = Self::attach_with(settings, &facts);
            }
        }
        attached
    }

    fn attach_with(settings: &SensorSettings, facts: &KernelFacts) -> Result<Self, SensorError> {
        let (cgroup, folder) = open_cgroup(settings.cgroup.as_deref())?;
        let mut ebpf = load::load(settings, facts)?;
        let map_fds = map_fds(&ebpf);
        let attached = attach::attach(&mut ebpf, settings, facts, &folder)?;
        let devices = match attached.device_egress {
            Some(out) => {
                let programs =
                    DevicePrograms { out, arrivals: attached.device_ingress, known_tunnels: known_tunnels(&cgroup) };
                Some(Devices::new(programs, settings.traffic_control, take(&mut ebpf, "DEVICES")?))
            }
            None => None,
        };
        let sockets = take(&mut ebpf, "SOCKETS")?;
        let mut mtus = Mtus::new(take(&mut ebpf, "MTUS")?);
        mtus.refresh(&sockets);
        let mut sensor = Self {
            ring: take(&mut ebpf, "RECORDS")?,
            ring_counts: RingCounts::default(),
            kept: Kept::new(take(&mut ebpf, "KEPT")?),
            lingering: Lingering::default(),
            counters: take(&mut ebpf, "COUNTERS")?,
            settings: take(&mut ebpf, "SETTINGS")?,
            peers: Peers::new(
                take(&mut ebpf, "PEERS")?,
                take(&mut ebpf, "OVERFLOW")?,
                take(&mut ebpf, "SENDERS")?,
                take(&mut ebpf, "FRAME_SOCKETS")?,
                facts.features & features::SLOTS != 0,
            ),
            sweeps: 0,
            sockets,
            mtus,
            assumed_mtus: 0,
            walks: attached.walks,
            hooks: attached.statuses,
            cgroup,
            map_fds,
            devices,
            ebpf,
        };
        sensor.note_devices();
        if facts.features & features::SLOTS != 0 {
            sensor.give_slots();
        }
        Ok(sensor)
    }

    /// Lets new sockets have slots, where everything that they need is attached.
    fn give_slots(&mut self) {
        let is_end_told = self.hooks.iter().any(|hook| hook.program == TCP_DESTROY && hook.is_attached);
        if !is_end_told || self.walks.held.is_none() {
            return self.walks.leave_slots();
        }
        // Settings that are there cannot be refused.
        let _ = self.settings.set(settings::SWEEP_SLOTS_ONLY, u32::from(self.walks.stored.is_some()), 0);
        let _ = self.settings.set(settings::GIVE_SLOTS, 1, 0);
    }

    /// Takes up devices that came since, and says what became of the program there.
    fn follow_devices(&mut self) {
        if self.devices.as_mut().is_some_and(Devices::follow) {
            self.note_devices();
        }
    }

    fn note_devices(&mut self) {
        let Some(devices) = &self.devices else { return };
        // A slot that is there cannot be refused.
        let _ = self.settings.set(settings::HAS_TUNNELS, u32::from(devices.has_tunnels()), 0);
        let _ = self.settings.set(settings::TUNNELS, devices.tunnels(), 0);
        let status = devices.status();
        if let Some(hook) = self.hooks.iter_mut().find(|hook| hook.program == TC_INGRESS) {
            note_arrivals(hook, status.arrivals);
        }
        if let Some(hook) = self.hooks.iter_mut().find(|hook| hook.program == TC_EGRESS) {
            hook.attach_point = status.attach_point;
            hook.is_attached = status.refusals.is_none();
            hook.reason = status.refusals;
        }
    }

    /// What left by devices and no inet socket of this host sent, in all.
    pub fn unowned(&self) -> Vec<UnownedReading> {
        self.devices.as_ref().map(Devices::read).unwrap_or_default()
    }

    /// Moves the records that wait in the ring to `events`; gives how many there were. Never blocks.
    pub fn poll(&mut self, events: &mut Vec<Event>) -> usize {
        self.follow_devices();
        let first = events.len();
        let read = ring::drain(&mut self.ring, &mut self.ring_counts, &mut self.lingering, events);
        self.peers.note_ends(&events[first..]);
        read
    }

    /// Asks every socket and every peer for its totals. Reports of sockets arrive in the order of the ring, before or
    /// after their end as it happened. `take` is handed what was read so far, some thousands at a time; the rest stays in
    /// `events`.
    ///
    /// # Errors
    /// [`SensorError::System`]; the next sweep repeats what this one did not report.
    pub fn sweep(
        &mut self,
        kind: SweepKind,
        at: BootTime,
        events: &mut Vec<Event>,
        take: &mut dyn FnMut(&mut Vec<Event>),
    ) -> Result<(), SensorError> {
        let fault = |operation| move |source| SensorError::System { operation, source };
        let pauses = self.walk(kind, events, take).map_err(fault("sweep the sockets' counters"))?;
        self.empty_ring(events, take);
        self.read_kept(kind, events).map_err(fault("read the kept records"))?;
        match kind {
            SweepKind::Changed => self.lingering.expire(at, events),
            SweepKind::Full => {
                self.lingering.expire(at, events);
                self.lingering.tell_totals(events);
            }
            SweepKind::Final => self.lingering.flush(events),
        }
        self.refresh_mtus();
        self.peers.note_ends(events);
        // A walk that paused may have missed some.
        let whole_sweep = (pauses == 0 && !self.walks.is_empty()).then_some(self.sweeps);
        let Self { peers, lingering, .. } = self;
        let mut take_with_ends = |events: &mut Vec<Event>| {
            lingering.report_answered(events);
            take(events);
        };
        let swept = peers.sweep(kind, whole_sweep, at, events, &mut take_with_ends);
        lingering.report_answered(events);
        swept.map_err(fault("read the peers' counters"))?;
        if kind != SweepKind::Changed && pauses == 0 && self.walks.is_complete() {
            events.push(Event::SweepDone(at));
        }
        Ok(())
    }

    /// Reads what the ring had no room for.
    fn read_kept(&mut self, kind: SweepKind, events: &mut Vec<Event>) -> io::Result<()> {
        let told = self.counter(Counter::Kept as usize);
        let is_due = kind != SweepKind::Changed;
        self.kept.read(told, is_due, &mut self.ring_counts, &mut self.lingering, events)
    }

    /// Has every socket report itself; gives how often it had to pause for the ring to be read.
    fn walk(
        &mut self,
        kind: SweepKind,
        events: &mut Vec<Event>,
        take: &mut dyn FnMut(&mut Vec<Event>),
    ) -> io::Result<u64> {
        self.empty_ring(events, take);
        if self.walks.is_empty() {
            return Ok(0);
        }
        self.sweeps = self.sweeps.wrapping_add(1);
        self.settings.set(settings::SWEEP, self.sweeps, 0).map_err(io::Error::other)?;
        let mut pauses = 0;
        for walk in self.walks.open(kind)? {
            self.settings.set(settings::FULL_SWEEP, u32::from(walk.tells_all), 0).map_err(io::Error::other)?;
            sys::read_iterator(walk.iterator, || {
                pauses += 1;
                self.empty_ring(events, take);
            })?;
        }
        Ok(pauses)
    }

    /// Reads what waits in the ring.
    fn empty_ring(&mut self, events: &mut Vec<Event>, take: &mut dyn FnMut(&mut Vec<Event>)) {
        while self.poll(events) == ring::MAX_RECORDS {
            take(events);
        }
        take(events);
    }

    /// Reads the MTUs again where the programs met an interface that they did not know.
    fn refresh_mtus(&mut self) {
        let assumed = self.counter(Counter::AssumedMtu as usize);
        if assumed != self.assumed_mtus {
            self.assumed_mtus = assumed;
            self.mtus.refresh(&self.sockets);
        }
    }

    /// What was lost since the sensor was attached, by reason; only reasons that occurred.
    pub fn losses(&self) -> Vec<(&'static str, u64)> {
        let is_loss = |slot: &usize| !NO_LOSSES.iter().any(|counter| *counter as usize == *slot);
        let slots = (0..COUNTER_NAMES.len()).filter(is_loss);
        let kernel = slots.map(|slot| (COUNTER_NAMES[slot], self.counter(slot)));
        let user = [
            ("torn_records", self.ring_counts.torn),
            ("unknown_records", self.ring_counts.unknown),
            ("missed_program_runs", statistics::missed_runs(&self.ebpf)),
        ];
        kernel.chain(user).filter(|(_, count)| *count != 0).collect()
    }

    fn counter(&self, slot: usize) -> u64 {
        let slot = u32::try_from(slot).unwrap_or(u32::MAX);
        self.counters.get(&slot, 0).map_or(0, |values| values.iter().sum())
    }

    /// Records read so far.
    pub fn records(&self) -> u64 {
        self.ring_counts.read
    }

    /// Every hook: attached, or why not.
    pub fn hooks(&self) -> &[HookStatus] {
        &self.hooks
    }

    /// What each loaded program has cost since statistics were enabled (`BPF_ENABLE_STATS` or the sysctl
    /// `kernel.bpf_stats_enabled`).
    pub fn statistics(&self) -> Vec<ProgramStatistics> {
        statistics::read(&self.ebpf)
    }

    /// The cookie of the agent's network namespace; 0 where the kernel gives none.
    pub fn own_netns(&self) -> u64 {
        netns::own_cookie(&self.sockets).unwrap_or(0)
    }

    /// The cgroup folder that is watched.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// Bytes of kernel memory that the maps hold, by the kernel's own account; 0 where it gives none.
    pub fn kernel_memory(&self) -> u64 {
        self.map_fds.iter().map(sys::memory_of).sum()
    }
}

/// What is looked at as it arrives only while there are tunnels, where it was loaded.
fn note_arrivals(hook: &mut HookStatus, attach_point: Option<&'static str>) {
    const NO_TUNNEL: &str = "not needed while there is no tunnel";
    if !hook.is_attached && hook.reason.as_deref() != Some(NO_TUNNEL) {
        return;
    }
    hook.is_attached = attach_point.is_some();
    hook.reason = attach_point.is_none().then(|| NO_TUNNEL.into());
    hook.attach_point = attach_point.unwrap_or(hook.attach_point);
}

/// Which tunnels' packets can be told from those of processes: datagrams only where every process's sockets have a state.
fn known_tunnels(cgroup: &Path) -> u32 {
    if cgroup_mount().as_deref() == Some(cgroup) { u32::MAX } else { !tunnels::UDP }
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, SensorError> {
    let map = ebpf.take_map(name).ok_or_else(|| MapError::InvalidName { name: name.to_owned() });
    map.and_then(T::try_from).map_err(|source| SensorError::Map { name, source: Box::new(source) })
}

fn map_fds(ebpf: &Ebpf) -> Vec<OwnedFd> {
    ebpf.maps().filter_map(|(_, map)| attach::map_fd(map)).collect()
}

fn open_cgroup(wanted: Option<&Path>) -> Result<(PathBuf, File), SensorError> {
    match wanted {
        Some(path) => open_cgroup_at(path.to_owned()),
        // One that cannot be opened from here, as the first process's, is as none: nobody named it.
        None => open_cgroup_at(cgroup_mount().ok_or(SensorError::NoCgroup)?).map_err(|_| SensorError::NoCgroup),
    }
}

fn open_cgroup_at(path: PathBuf) -> Result<(PathBuf, File), SensorError> {
    let refuse = |source| SensorError::Cgroup { path: path.clone(), source };
    let folder = File::open(&path).map_err(refuse)?;
    // Another file system's folder would be refused as a bad descriptor only when the first program is attached, a file
    // of this one too.
    let kind = rustix::fs::fstatfs(&folder).map_err(io::Error::from).map_err(refuse)?.f_type;
    if kind != libc::CGROUP2_SUPER_MAGIC || !folder.metadata().map_err(refuse)?.is_dir() {
        return Err(refuse(io::Error::other("it is something else")));
    }
    Ok((path, folder))
}

/// The cgroup2 mount that shows the root of the hierarchy.
pub(super) fn cgroup_mount() -> Option<PathBuf> {
    let find = |mounts: &str| {
        let mounts = fs::read_to_string(mounts).ok()?;
        mounts.lines().find_map(cgroup_of_mount)
    };
    // `ip netns exec` hides the mounts below /sys; those of the first process can still be reached by way of it.
    let of_init = || find("/proc/1/mounts").map(|folder| format!("/proc/1/root{folder}"));
    find("/proc/self/mounts").or_else(of_init).map(PathBuf::from)
}

/// The folder of a line of `/proc/self/mounts` that mounts cgroup2 (proc_pid_mounts(5)).
fn cgroup_of_mount(line: &str) -> Option<String> {
    let mut fields = line.split(' ');
    let (folder, kind) = (fields.nth(1)?, fields.next()?);
    (kind == "cgroup2").then(|| folder.replace("\\040", " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_on_pure_and_hybrid_hosts() {
        let find = |text: &str| text.lines().find_map(cgroup_of_mount);
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0";
        assert_eq!(find(hybrid).as_deref(), Some("/sys/fs/cgroup/unified"));
        assert_eq!(find("none /mnt/a\\040b cgroup2 rw 0 0").as_deref(), Some("/mnt/a b"));
        assert_eq!(find("tmpfs /sys/fs/cgroup tmpfs rw 0 0"), None);
    }
}
