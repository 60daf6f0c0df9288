//! What is remembered of each open flow, so that totals become differences and a flow is judged once.

use std::{net::IpAddr, sync::Arc};

use ahash::AHashMap;

use super::sight::{Delta, Destination, Outcome};
use crate::core::{
    baseline::{LabelId, Steady},
    flow::{Flow, FlowId, Transport},
};

/// Destinations without a name that are remembered; at this many the table starts anew.
const MAX_UNNAMED: usize = 4_096;

/// An open flow.
#[derive(Clone, Debug)]
pub(super) struct Memo {
    pub sent: u64,
    pub received: u64,
    pub packets: u64,
    pub payload: u64,
    pub reported: Steady,
    pub destination: Arc<Destination>,
    pub label: Option<LabelId>,
    pub unlabelled: Delta,
    pub outcome: Outcome,
    pub is_judged: bool,
}

/// The open flows.
#[derive(Debug)]
pub(super) struct Flows {
    memos: AHashMap<FlowId, Memo>,
    /// Destinations without a name, by address, port and whether it is ICMP.
    unnamed: AHashMap<(IpAddr, u16, bool), Arc<Destination>>,
    capacity: usize,
    evicted: u64,
    last_eviction: Option<Steady>,
}

impl Flows {
    pub(super) fn new(capacity: usize) -> Self {
        Self { memos: AHashMap::new(), unnamed: AHashMap::new(), capacity, evicted: 0, last_eviction: None }
    }

    /// Takes a flow's memo out, with what was carried since; the flag tells whether it was known.
    ///
    /// A flow older than the last eviction may have been counted before: its totals are not counted again.
    pub(super) fn take(&mut self, flow: &Flow, started: Steady, now: Steady) -> (Memo, Delta, Option<Steady>) {
        let packets = flow.sent.packets + flow.received.packets;
        let payload = if flow.sent.payload_bytes > 0 { flow.sent.payload_bytes } else { flow.sent.ip_bytes };
        let Some(mut memo) = self.memos.remove(&flow.id) else {
            let is_counted = self.last_eviction.is_some_and(|eviction| started <= eviction);
            let memo = Memo {
                sent: flow.sent.ip_bytes,
                received: flow.received.ip_bytes,
                packets,
                payload,
                reported: now,
                destination: self.destination(flow),
                label: None,
                unlabelled: Delta::default(),
                outcome: Outcome::Pending,
                is_judged: false,
            };
            let delta = Delta { sent: memo.sent, received: memo.received, packets, payload };
            return (memo, if is_counted { Delta::default() } else { delta }, None);
        };
        let delta = Delta {
            sent: flow.sent.ip_bytes.saturating_sub(memo.sent),
            received: flow.received.ip_bytes.saturating_sub(memo.received),
            packets: packets.saturating_sub(memo.packets),
            payload: payload.saturating_sub(memo.payload),
        };
        let before = memo.reported;
        memo.sent = memo.sent.max(flow.sent.ip_bytes);
        memo.received = memo.received.max(flow.received.ip_bytes);
        (memo.packets, memo.payload) = (memo.packets.max(packets), memo.payload.max(payload));
        memo.reported = now;
        memo.rename(flow);
        (memo, delta, Some(before))
    }

    /// Whom a flow goes to; of an address without a name it is remembered, as short flows come in numbers.
    fn destination(&mut self, flow: &Flow) -> Arc<Destination> {
        if flow.domain.is_some() {
            return Arc::new(Destination::of(flow));
        }
        if self.unnamed.len() >= MAX_UNNAMED {
            self.unnamed.clear();
        }
        let key = (flow.destination.addr, flow.destination.port, flow.transport == Transport::ICMP);
        self.unnamed.entry(key).or_insert_with(|| Arc::new(Destination::of(flow))).clone()
    }

    /// Puts an open flow's memo back.
    pub(super) fn keep(&mut self, id: FlowId, memo: Memo) {
        if self.memos.len() >= self.capacity {
            self.evict(memo.reported);
        }
        self.memos.insert(id, memo);
    }

    /// Throws out the sixteenth of the flows that were silent longest.
    fn evict(&mut self, now: Steady) {
        let mut by_age: Vec<_> = self.memos.iter().map(|(id, memo)| (memo.reported, *id)).collect();
        by_age.sort_unstable();
        for (_, id) in by_age.into_iter().take((self.capacity / 16).max(1)) {
            self.memos.remove(&id);
            self.evicted += 1;
        }
        self.last_eviction = Some(now);
    }

    /// Whether a flow has neither been judged nor reported since a time.
    pub(super) fn is_waiting(&self, id: FlowId, reported: Steady) -> bool {
        self.memos.get(&id).is_some_and(|memo| !memo.is_judged && memo.reported == reported)
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(super) fn len(&self) -> usize {
        self.memos.len()
    }
}

impl Memo {
    /// What counts for the label: held back until there is one.
    pub(super) fn labelled(&mut self, delta: Delta) -> Delta {
        self.unlabelled.add(delta);
        if self.label.is_some() { std::mem::take(&mut self.unlabelled) } else { Delta::default() }
    }

    /// Takes over a name that the flow got, or changed, since.
    fn rename(&mut self, flow: &Flow) {
        let is_same = match &flow.domain {
            Some(domain) => self.destination.is_resolver || *domain.registrable == *self.destination.name,
            None => true,
        };
        if !is_same {
            self.destination = Arc::new(Destination::of(flow));
        }
    }
}
