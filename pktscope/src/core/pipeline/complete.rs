//! A tracker's change made whole: owner, name, country and AS, ClientHello.

use std::{net::IpAddr, num::NonZeroUsize, sync::Arc};

use lru::LruCache;

use super::{Change, PipelineSettings};
use crate::core::{
    address::is_public,
    attribute,
    effect::{Effect, Lookup},
    event::{FlowRef, ServerName},
    flow::{Attribution, Domain, FlowAction, FlowChange, FlowId, FlowSnapshot, Geo, Ownership, UnknownReason},
    hold::{Hold, Wait},
    names::NameTable,
    process::{ProcessKey, ProcessTable},
    seed,
    time::{BootTime, Moment},
};

/// Addresses whose country and AS are remembered; a look-up answers within microseconds, so this only spares those.
const MAX_GEO: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");
/// Server names that wait for the first report of their socket.
const MAX_EARLY_NAMES: NonZeroUsize = NonZeroUsize::new(16_384).expect("not zero");

/// What completion gave up, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompletionCounters {
    /// Flows told before their program's facts were known.
    pub facts_timed_out: u64,
    /// Changes not held because too many were.
    pub hold_refused: u64,
    /// Server names forgotten before their socket was reported.
    pub names_forgotten: u64,
}

/// See the module.
pub(super) struct Completion {
    pub(super) hold: Hold<FlowId, Change>,
    pub(super) names: NameTable,
    has_geo: bool,
    geo: LruCache<IpAddr, Geo, ahash::RandomState>,
    early_names: LruCache<FlowRef, Arc<ServerName>, ahash::RandomState>,
    names_forgotten: u64,
}

impl Completion {
    pub(super) fn new(settings: &PipelineSettings) -> Self {
        let hasher = || seed::hasher(settings.flow.hash_seed);
        Self {
            hold: Hold::new(settings.hold_flows, settings.hold_timeout),
            names: NameTable::new(settings.names),
            has_geo: settings.has_geo,
            geo: LruCache::with_hasher(MAX_GEO, hasher()),
            early_names: LruCache::with_hasher(MAX_EARLY_NAMES, hasher()),
            names_forgotten: 0,
        }
    }

    pub(super) fn counters(&self) -> CompletionCounters {
        CompletionCounters {
            facts_timed_out: self.hold.timed_out(),
            hold_refused: self.hold.refused(),
            names_forgotten: self.names_forgotten,
        }
    }

    pub(super) fn remember_geo(&mut self, addr: IpAddr, geo: Geo) {
        self.geo.put(addr, geo);
    }

    pub(super) fn forget_geo(&mut self) {
        self.geo.clear();
    }

    /// Keeps a server name until its socket's first report.
    pub(super) fn remember_server_name(&mut self, name: Arc<ServerName>) {
        let is_full = self.early_names.len() == MAX_EARLY_NAMES.get();
        if self.early_names.push(name.flow, name).is_some() && is_full {
            self.names_forgotten += 1;
        }
    }

    /// Makes a change whole; `None` where it is held back until a look-up is answered.
    pub(super) fn complete(
        &mut self,
        mut change: Change,
        processes: &mut ProcessTable,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) -> Option<FlowChange> {
        let attribution = attribution_of(&change.snapshot, processes, now.boot, effects);
        if matches!(change.action, FlowAction::Started | FlowAction::Whole) {
            let wait = self.what_to_wait_for(&change.snapshot, &attribution, processes, effects);
            if let Some(wait) = wait {
                change = self.hold.hold(change.snapshot.id, wait, change, now.boot)?;
            }
        }
        Some(self.make_flow(change, attribution))
    }

    fn what_to_wait_for(
        &mut self,
        snapshot: &FlowSnapshot,
        attribution: &Attribution,
        processes: &ProcessTable,
        effects: &mut Vec<Effect>,
    ) -> Option<Wait> {
        if let Attribution::Process(owner) = attribution
            && !processes.is_settled(owner.process.key)
        {
            return Some(Wait::Process(owner.process.key.rounded()));
        }
        let addr = snapshot.destination.addr;
        if !self.has_geo || !is_public(addr) || self.geo.contains(&addr) {
            return None;
        }
        effects.push(Effect::Lookup(Lookup::Geo(addr)));
        Some(Wait::Geo(addr))
    }

    fn make_flow(&mut self, change: Change, attribution: Attribution) -> FlowChange {
        let reference = flow_ref(&change.snapshot);
        let server_name = change.server_name.clone().or_else(|| self.early_names.get(&reference).cloned());
        let domain = self.domain(&change, &attribution, server_name.as_deref());
        let Change { action, at, snapshot, .. } = change;
        let geo = self.geo.get(&snapshot.destination.addr).cloned().unwrap_or_default();
        if matches!(action, FlowAction::Ended | FlowAction::Whole) && !self.early_names.is_empty() {
            self.early_names.pop(&reference);
        }
        let tls = server_name.and_then(|name| name.hello.clone());
        FlowChange { action, at, flow: Arc::new(snapshot.into_flow(attribution, domain, geo, tls)) }
    }

    /// The name the flow was told with, else the one its address was asked for by when it started; with what its first
    /// bytes say.
    fn domain(&self, change: &Change, attribution: &Attribution, server_name: Option<&ServerName>) -> Option<Domain> {
        let askers = askers_of(attribution);
        let current = match &change.domain {
            Some(domain) => Some(domain.as_ref().clone()),
            None => self.names.lookup(&askers, change.snapshot.destination.addr, change.snapshot.started_at),
        };
        match server_name {
            Some(found) => self.names.join_server_name(current.as_ref(), found, &askers),
            None => current,
        }
    }
}

/// The process, and its parent: a shell resolves for what it starts, a launcher for its workers.
fn askers_of(attribution: &Attribution) -> Vec<ProcessKey> {
    let Attribution::Process(owner) = attribution else { return Vec::new() };
    std::iter::once(owner.process.key).chain(owner.process.parent).collect()
}

fn attribution_of(
    snapshot: &FlowSnapshot,
    processes: &mut ProcessTable,
    now: BootTime,
    effects: &mut Vec<Effect>,
) -> Attribution {
    match &snapshot.ownership {
        Ownership::Socket(owner) => attribute::attribute(owner, snapshot.started_at, processes, now, effects),
        Ownership::Kernel => Attribution::Kernel,
        Ownership::Capture => Attribution::Unknown(UnknownReason::Capture),
    }
}

/// The flow as its client's packets name it.
fn flow_ref(snapshot: &FlowSnapshot) -> FlowRef {
    let cookie = match &snapshot.ownership {
        Ownership::Socket(owner) => owner.cookie,
        Ownership::Kernel | Ownership::Capture => 0,
    };
    FlowRef { cookie, transport: snapshot.transport, source: snapshot.source, destination: snapshot.destination }
}
