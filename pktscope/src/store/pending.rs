//! What waits to be written: the newest state of each flow and process, and what happened once.

use std::sync::Arc;

use ahash::HashMap;

use super::{
    DispositionRow, StateRow, StateTable,
    names::{self, NewestNames},
};
use crate::core::{
    alert::Alert,
    effect::{Effect, Ledger},
    event::DnsMessage,
    flow::{Flow, FlowAction, FlowChange, FlowId},
    names::NameRow,
    process::{Process, ProcessKey},
    time::{BootTime, Moment},
};

/// Names that wait at most, while the database cannot be written.
const MAX_NAMES: usize = 16_384;

/// What is stored together or not at all: an alert with the novelty it reports, a disposition with what it changes.
#[derive(Debug, Default)]
pub struct Batch<'a> {
    /// What the core told; look-ups are skipped.
    pub effects: &'a [Effect],
    /// The core's own state.
    pub state: Vec<StateRow>,
    /// Names of addresses that were learned or renewed.
    pub names: Vec<NameRow>,
    /// Verdicts.
    pub dispositions: Vec<DispositionRow>,
    /// When; gives the offset between boot time and wall time.
    pub now: Moment,
}

/// A flow and whether the database has seen it.
#[derive(Debug)]
pub(super) struct PendingFlow {
    pub(super) flow: Arc<Flow>,
    /// Whether it started in this batch.
    pub(super) is_new: bool,
}

/// A process and how it ended.
#[derive(Debug)]
pub(super) struct PendingProcess {
    pub(super) process: Arc<Process>,
    pub(super) ended: Option<(BootTime, i32)>,
}

/// Rows that found no room, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) flows: u64,
    pub(super) processes: u64,
    pub(super) dns: u64,
    pub(super) alerts: u64,
    pub(super) ledgers: u64,
    pub(super) names: u64,
}

/// The rows of the next transaction.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Flows of which more may come, or came before.
    pub(super) flows: HashMap<FlowId, PendingFlow>,
    /// Flows that were told once and whole.
    pub(super) whole: Vec<Arc<Flow>>,
    pub(super) processes: HashMap<ProcessKey, PendingProcess>,
    pub(super) dns: Vec<Arc<DnsMessage>>,
    pub(super) alerts: Vec<Arc<Alert>>,
    pub(super) ledgers: Vec<Arc<Ledger>>,
    pub(super) dispositions: Vec<DispositionRow>,
    /// Newest value a key: as many as the core's own bounds allow, so without a bound here.
    pub(super) state: HashMap<(StateTable, Arc<str>), Option<Vec<u8>>>,
    /// Newest row a name; new ones count against a bound of their own.
    pub(super) names: NewestNames,
    /// When the first of these rows came.
    pub(super) since: BootTime,
    pub(super) now: Moment,
}

impl Pending {
    /// Rows that count against the bound.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
            + self.whole.len()
            + self.processes.len()
            + self.dns.len()
            + self.alerts.len()
            + self.ledgers.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0 && self.dispositions.is_empty() && self.state.is_empty() && self.names.is_empty()
    }

    /// Takes a batch; rows beyond `room` more than there are now are refused and counted.
    pub(super) fn add(&mut self, batch: Batch<'_>, room: usize, refused: &mut Refused) {
        let bound = self.len().saturating_add(room);
        if self.is_empty() {
            self.since = batch.now.boot;
        }
        self.now = batch.now;
        for effect in batch.effects {
            self.add_effect(effect, bound, refused);
        }
        self.dispositions.extend(batch.dispositions);
        for row in batch.state {
            self.state.insert((row.table, row.key), row.value);
        }
        for row in batch.names {
            self.add_name(row, refused);
        }
    }

    fn add_name(&mut self, row: NameRow, refused: &mut Refused) {
        let key = names::key_of(&row);
        if self.names.len() < MAX_NAMES || self.names.contains_key(&key) {
            self.names.insert(key, row);
        } else {
            refused.names += 1;
        }
    }

    fn add_effect(&mut self, effect: &Effect, bound: usize, refused: &mut Refused) {
        let has_room = self.len() < bound;
        match effect {
            Effect::Flow(change) => self.add_flow(change, has_room, refused),
            Effect::ProcessStarted(process) | Effect::ProcessChanged(process) => {
                self.add_process(process, None, has_room, refused);
            }
            Effect::ProcessEnded(process, at, status) => {
                self.add_process(process, Some((*at, *status)), has_room, refused);
            }
            Effect::Dns(message) if message.is_response => push(&mut self.dns, message, has_room, &mut refused.dns),
            Effect::Alert(alert) => push(&mut self.alerts, alert, has_room, &mut refused.alerts),
            Effect::Ledger(ledger) => push(&mut self.ledgers, ledger, has_room, &mut refused.ledgers),
            _ => {}
        }
    }

    fn add_flow(&mut self, change: &FlowChange, has_room: bool, refused: &mut Refused) {
        if change.action == FlowAction::Whole {
            return push(&mut self.whole, &change.flow, has_room, &mut refused.flows);
        }
        if let Some(known) = self.flows.get_mut(&change.flow.id) {
            known.flow = Arc::clone(&change.flow);
        } else if has_room {
            let is_new = change.action == FlowAction::Started;
            self.flows.insert(change.flow.id, PendingFlow { flow: Arc::clone(&change.flow), is_new });
        } else {
            refused.flows += 1;
        }
    }

    fn add_process(
        &mut self,
        process: &Arc<Process>,
        ended: Option<(BootTime, i32)>,
        has_room: bool,
        refused: &mut Refused,
    ) {
        if let Some(known) = self.processes.get_mut(&process.key) {
            known.process = Arc::clone(process);
            known.ended = ended.or(known.ended);
        } else if has_room {
            self.processes.insert(process.key, PendingProcess { process: Arc::clone(process), ended });
        } else {
            refused.processes += 1;
        }
    }

    /// Takes over what was collected later; the bound was kept when it was collected.
    pub(super) fn absorb(&mut self, newer: Self) {
        if self.is_empty() {
            *self = newer;
            return;
        }
        self.whole.extend(newer.whole);
        for (id, flow) in newer.flows {
            let is_new = flow.is_new || self.flows.get(&id).is_some_and(|older| older.is_new);
            self.flows.insert(id, PendingFlow { is_new, ..flow });
        }
        for (key, process) in newer.processes {
            let ended = process.ended.or_else(|| self.processes.get(&key).and_then(|older| older.ended));
            self.processes.insert(key, PendingProcess { ended, ..process });
        }
        self.dns.extend(newer.dns);
        self.alerts.extend(newer.alerts);
        self.ledgers.extend(newer.ledgers);
        self.dispositions.extend(newer.dispositions);
        self.state.extend(newer.state);
        self.names.extend(newer.names);
        self.now = newer.now;
    }
}

fn push<T>(rows: &mut Vec<Arc<T>>, row: &Arc<T>, has_room: bool, refused: &mut u64) {
    if has_room {
        rows.push(Arc::clone(row));
    } else {
        *refused += 1;
    }
}
