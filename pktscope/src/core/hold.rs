//! Flows' changes and DNS answers that wait, for a moment, until what names their program or destination is known.
//!
//! In: changes with what they wait for. Out: the same changes, in order for each subject, once it is known or the
//! deadline passed. It never reorders the changes of one subject and never holds more subjects than its limit.

use std::{
    collections::{BTreeMap, VecDeque},
    net::IpAddr,
    time::Duration,
};

use super::{process::ProcessKey, time::BootTime};

/// What a change waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    /// The facts about a process.
    Process(ProcessKey),
    /// Country and AS of an address.
    Geo(IpAddr),
}

#[derive(Debug)]
struct Held<T> {
    wait: Wait,
    changes: Vec<T>,
}

/// See the module; `K` names a subject, `T` is its change. Cost: logarithmic in held subjects for each change; a release
/// is linear in what it releases.
#[derive(Debug)]
pub struct Hold<K, T> {
    limit: usize,
    timeout: Duration,
    subjects: BTreeMap<K, Held<T>>,
    by_wait: BTreeMap<Wait, Vec<K>>,
    arrivals: VecDeque<(BootTime, K)>,
    timed_out: u64,
    refused: u64,
}

impl<K: Copy + Ord, T> Hold<K, T> {
    /// Holds up to `limit` subjects, each for at most `timeout`.
    pub fn new(limit: usize, timeout: Duration) -> Self {
        Self {
            limit,
            timeout,
            subjects: BTreeMap::new(),
            by_wait: BTreeMap::new(),
            arrivals: VecDeque::new(),
            timed_out: 0,
            refused: 0,
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.subjects.is_empty()
    }

    /// Queues a change behind the held ones of its subject; gives it back where none is held.
    pub fn join(&mut self, id: K, change: T) -> Option<T> {
        match self.subjects.get_mut(&id) {
            Some(held) => {
                held.changes.push(change);
                None
            }
            None => Some(change),
        }
    }

    /// Holds a subject's change; gives it back, counted, where too many are held.
    pub fn hold(&mut self, id: K, wait: Wait, change: T, now: BootTime) -> Option<T> {
        if self.limit <= self.subjects.len() {
            self.refused += 1;
            return Some(change);
        }
        self.subjects.insert(id, Held { wait, changes: vec![change] });
        self.by_wait.entry(wait).or_default().push(id);
        self.arrivals.push_back((now, id));
        None
    }

    /// Releases what waited for this.
    pub fn release(&mut self, wait: Wait) -> Vec<T> {
        let ids = self.by_wait.remove(&wait).unwrap_or_default();
        ids.into_iter().filter_map(|id| self.subjects.remove(&id)).flat_map(|held| held.changes).collect()
    }

    /// Releases what waited longer than the time-out, counted.
    pub fn release_overdue(&mut self, now: BootTime) -> Vec<T> {
        let mut released = Vec::new();
        while let Some(&(since, id)) = self.arrivals.front() {
            if self.subjects.contains_key(&id) && now.since(since) < self.timeout {
                break;
            }
            self.arrivals.pop_front();
            self.timed_out += u64::from(self.take(id, &mut released));
        }
        released
    }

    /// Releases everything, for the end.
    pub fn release_all(&mut self) -> Vec<T> {
        self.by_wait.clear();
        self.arrivals.clear();
        std::mem::take(&mut self.subjects).into_values().flat_map(|held| held.changes).collect()
    }

    fn take(&mut self, id: K, released: &mut Vec<T>) -> bool {
        let Some(held) = self.subjects.remove(&id) else { return false };
        if let Some(ids) = self.by_wait.get_mut(&held.wait) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_wait.remove(&held.wait);
            }
        }
        released.extend(held.changes);
        true
    }

    /// Subjects that went on without the facts they waited for.
    pub fn timed_out(&self) -> u64 {
        self.timed_out
    }

    /// Changes that were not held because too many were.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::flow::FlowId;

    const FLOW: FlowId = FlowId(1);
    const OTHER: FlowId = FlowId(2);

    fn process(pid: u32) -> Wait {
        Wait::Process(ProcessKey { pid, started_at: BootTime(1) })
    }

    #[test]
    fn a_flow_keeps_its_order() {
        let mut hold = Hold::new(8, Duration::from_secs(1));
        assert_eq!(hold.join(FLOW, "started"), Some("started"));
        assert_eq!(hold.hold(FLOW, process(7), "started", BootTime(0)), None);
        assert_eq!(hold.join(FLOW, "ended"), None);
        assert_eq!(hold.release(process(8)), Vec::<&str>::new());
        assert_eq!(hold.release(process(7)), ["started", "ended"]);
        assert_eq!(hold.join(FLOW, "late"), Some("late"));
    }

    #[test]
    fn nothing_waits_for_ever() {
        let mut hold = Hold::new(8, Duration::from_secs(1));
        hold.hold(FLOW, process(7), "early", BootTime(0));
        hold.hold(OTHER, process(7), "late", BootTime(900_000_000));
        assert_eq!(hold.release_overdue(BootTime(1_000_000_000)), ["early"]);
        assert_eq!(hold.timed_out(), 1);
        assert_eq!(hold.release(process(7)), ["late"]);
        assert_eq!(hold.release_overdue(BootTime(9_000_000_000)), Vec::<&str>::new());
        assert_eq!(hold.timed_out(), 1);
    }

    #[test]
    fn a_full_hold_refuses_aloud() {
        let mut hold = Hold::new(1, Duration::from_secs(1));
        hold.hold(FLOW, process(7), 1, BootTime(0));
        assert_eq!(hold.hold(OTHER, process(7), 2, BootTime(0)), Some(2));
        assert_eq!(hold.refused(), 1);
        assert_eq!(hold.release_all(), [1]);
    }
}
