//! Where effects go: the store, the event file, syslog and webhook.

use std::time::Duration;

use crate::{
    api::SinkReport,
    clock,
    core::{effect::Effect, names::NameRow, time::Moment},
    sink::{AlertSinks, SinkCounts, ecs::Exporter, jsonl::Jsonl},
    store::{Batch, DispositionRow, StateRow, Store, StoreError, StoreHandle, StoreStats},
};

/// Everything that effects are handed to; none of it waits but [`Self::let_write`].
pub(super) struct Outputs {
    exporter: Exporter,
    store: Option<(Store, StoreHandle)>,
    events: Option<Jsonl>,
    alerts: AlertSinks,
    line: Vec<u8>,
}

impl Outputs {
    /// Without a store, for a replay that keeps nothing.
    pub(super) fn new(exporter: Exporter, store: Option<Store>, events: Option<Jsonl>, alerts: AlertSinks) -> Self {
        let store = store.map(|store| {
            let handle = store.handle();
            (store, handle)
        });
        Self { exporter, store, events, alerts, line: Vec::new() }
    }

    /// Whether anything is stored.
    pub(super) fn has_store(&self) -> bool {
        self.store.is_some()
    }

    /// Hands effects and changed state out; an alert is stored with the state that came with it.
    pub(super) fn tell(&mut self, effects: &[Effect], state: Vec<StateRow>, now: Moment) {
        if effects.is_empty() && state.is_empty() {
            return;
        }
        if let Some((_, handle)) = &self.store {
            handle.push(Batch { effects, state, now, ..Batch::default() });
        }
        if self.events.is_some() {
            effects.iter().for_each(|effect| self.write_event(effect, now));
        }
        for effect in effects {
            if let Effect::Alert(alert) = effect {
                self.alerts.send(alert, now);
            }
        }
    }

    /// Lets the store write, for so long at most, where it is behind; gives how long it took.
    pub(super) fn let_write(&self, patience: Duration) -> Duration {
        let Some((_, handle)) = self.store.as_ref().filter(|_| !patience.is_zero()) else { return Duration::ZERO };
        let before = clock::now().boot;
        handle.let_write(patience);
        clock::now().boot.since(before)
    }

    /// Stores names of addresses, which nothing depends on in the same transaction.
    pub(super) fn keep_names(&self, names: Vec<NameRow>, now: Moment) {
        if let Some((_, handle)) = self.store.as_ref().filter(|_| !names.is_empty()) {
            handle.push(Batch { names, now, ..Batch::default() });
        }
    }

    /// Stores verdicts and what they changed; returns when both are written, or why they are not yet.
    pub(super) fn record(
        &mut self,
        dispositions: Vec<DispositionRow>,
        state: Vec<StateRow>,
        now: Moment,
    ) -> Result<(), String> {
        let Some((_, handle)) = &self.store else { return Ok(()) };
        handle.push(Batch { state, dispositions, now, ..Batch::default() });
        handle.flush()
    }

    fn write_event(&mut self, effect: &Effect, now: Moment) {
        let Some(events) = &self.events else { return };
        self.line.clear();
        if self.exporter.line(effect, now, &mut self.line) {
            self.line.split_inclusive(|byte| *byte == b'\n').for_each(|line| events.add(line));
        }
    }

    /// Sends the event file what waits for it.
    pub(super) fn flush(&self) {
        if let Some(events) = &self.events {
            events.flush();
        }
    }

    /// Opens the event file again, for a log rotation.
    pub(super) fn reopen(&self) {
        if let Some(events) = &self.events {
            events.reopen();
        }
    }

    pub(super) fn store_stats(&self) -> StoreStats {
        self.store.as_ref().map(|(_, handle)| handle.stats()).unwrap_or_default()
    }

    /// The sinks besides the store.
    pub(super) fn sinks(&self) -> Vec<SinkReport> {
        self.sink_counts().into_iter().map(|(name, target, counts)| sink_report(name, target, counts)).collect()
    }

    fn sink_counts(&self) -> Vec<(&'static str, String, SinkCounts)> {
        let events = self.events.as_ref().map(|events| ("events", events.target().to_owned(), events.counts()));
        events.into_iter().chain(self.alerts.counts()).collect()
    }

    /// What found no room, by place.
    pub(super) fn losses(&self) -> Vec<(&'static str, u64)> {
        let mut losses = self.store_stats().lost;
        losses.extend(self.sink_counts().into_iter().map(|(name, _, counts)| (place(name), counts.lost)));
        losses
    }

    /// Writes what waits and closes the store.
    pub(super) fn close(self) -> Result<(), StoreError> {
        self.store.map_or(Ok(()), |(store, _)| store.close())
    }
}

fn sink_report(name: &str, target: String, counts: SinkCounts) -> SinkReport {
    let SinkCounts { sent, waiting, lost, error, .. } = counts;
    SinkReport { name: name.to_owned(), target, sent, waiting, lost, error }
}

/// The name under which the ledger counts a sink's losses.
fn place(sink: &str) -> &'static str {
    match sink {
        "events" => "event_file",
        "syslog" => "syslog_messages",
        _ => "webhook_messages",
    }
}
