//! Where effects go: the store, the event file, syslog and webhook.

use std::error::Error as _;

use tracing::error;

use crate::{
    api::SinkReport,
    core::{effect::Effect, time::Moment},
    sink::{
        ecs::Exporter,
        jsonl::{Jsonl, JsonlError},
    },
    store::{Batch, DispositionRow, StateRow, Store, StoreError, StoreHandle, StoreStats},
};

/// Everything that effects are handed to; none of it ever waits.
pub(super) struct Outputs {
    exporter: Exporter,
    store: Option<(Store, StoreHandle)>,
    events: Option<Jsonl>,
    events_target: String,
    line: Vec<u8>,
}

impl Outputs {
    /// Without a store, for a replay that keeps nothing.
    pub(super) fn new(exporter: Exporter, store: Option<Store>, events: Option<(Jsonl, String)>) -> Self {
        let store = store.map(|store| {
            let handle = store.handle();
            (store, handle)
        });
        let (events, events_target) = events.unzip();
        let events_target = events_target.unwrap_or_default();
        Self { exporter, store, events, events_target, line: Vec::new() }
    }

    /// Hands effects and changed state out; an alert is stored with the state that came with it.
    pub(super) fn tell(&mut self, effects: &[Effect], state: Vec<StateRow>, now: Moment) {
        if effects.is_empty() && state.is_empty() {
            return;
        }
        if let Some((_, handle)) = &self.store {
            handle.push(Batch { effects, state, dispositions: Vec::new(), now });
        }
        if self.events.is_some() {
            effects.iter().for_each(|effect| self.write_event(effect, now));
        }
    }

    /// Stores a verdict.
    pub(super) fn record(&mut self, disposition: DispositionRow, now: Moment) {
        if let Some((_, handle)) = &self.store {
            handle.push(Batch { effects: &[], state: Vec::new(), dispositions: vec![disposition], now });
        }
    }

    fn write_event(&mut self, effect: &Effect, now: Moment) {
        let Some(events) = &mut self.events else { return };
        self.line.clear();
        if self.exporter.line(effect, now, &mut self.line) {
            report(events.add(&self.line, now.boot));
        }
    }

    /// Sends the event file what waits for it.
    pub(super) fn flush(&mut self, now: Moment) {
        if let Some(events) = &mut self.events {
            report(events.flush(now.boot));
        }
    }

    /// Opens the event file again, for a log rotation.
    pub(super) fn reopen(&mut self) {
        if let Some(events) = &mut self.events {
            report(events.reopen());
        }
    }

    pub(super) fn store_stats(&self) -> StoreStats {
        self.store.as_ref().map(|(_, handle)| handle.stats()).unwrap_or_default()
    }

    /// The sinks besides the store.
    pub(super) fn sinks(&self) -> Vec<SinkReport> {
        let events = self.events.as_ref().map(|events| {
            let counts = events.counts();
            SinkReport {
                name: "events".to_owned(),
                target: self.events_target.clone(),
                sent: counts.written,
                lost: counts.lost,
                ..SinkReport::default()
            }
        });
        events.into_iter().collect()
    }

    /// What found no room, by place.
    pub(super) fn losses(&self) -> Vec<(&'static str, u64)> {
        let mut losses = self.store_stats().lost;
        losses.extend(self.events.as_ref().map(|events| ("event_file", events.counts().lost)));
        losses
    }

    /// Writes what waits and closes the store.
    pub(super) fn close(self) -> Result<(), StoreError> {
        self.store.map_or(Ok(()), |(store, _)| store.close())
    }
}

fn report(result: Result<(), JsonlError>) {
    if let Err(fault) = result {
        let cause = fault.source().map(ToString::to_string).unwrap_or_default();
        error!("{fault}: {cause}");
    }
}
