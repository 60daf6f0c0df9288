//! Effects as events in Elastic Common Schema names: what the NDJSON export, syslog and webhook send.
//!
//! In comes an [`Effect`] and the moment it is exported at, out goes one JSON object. It never fails and never changes
//! what it is given.

mod build;
pub(crate) mod document;
mod time_text;

pub(crate) use build::has_ports;
pub(crate) use time_text::rfc3339;

use std::sync::Arc;

use self::document::{Document, Time};
use crate::core::{
    alert::Alert,
    effect::Effect,
    flow::{Flow, FlowAction, FlowChange},
    time::Moment,
};

/// Turns effects into lines.
#[derive(Clone, Debug, Default)]
pub struct Exporter {
    /// `host.name` of every event; left out where it is empty.
    pub host_name: String,
}

impl Exporter {
    /// Appends `effect` as a line of JSON to `out`, a whole flow as two; `false` where the effect is nothing to export.
    ///
    /// `now` gives the offset between boot time and wall time.
    pub fn line(&self, effect: &Effect, now: Moment, out: &mut Vec<u8>) -> bool {
        if let Effect::Flow(change) = effect
            && change.action == FlowAction::Whole
        {
            self.write_new(build::flow_change(&start_of(change), now), now, out);
            out.push(b'\n');
        }
        let is_written = self.object(effect, now, out);
        if is_written {
            out.push(b'\n');
        }
        is_written
    }

    /// Appends `effect` as a JSON object to `out`, without a line end; of a whole flow its end.
    pub fn object(&self, effect: &Effect, now: Moment, out: &mut Vec<u8>) -> bool {
        match effect {
            Effect::Flow(change) => self.write_new(build::flow_change(change, now), now, out),
            Effect::ProcessStarted(process) => self.write_new(build::process_started(process, now), now, out),
            Effect::ProcessChanged(process) => self.write_new(build::process_changed(process, now), now, out),
            Effect::ProcessEnded(process, at, status) => {
                self.write_new(build::process_ended(process, *at, *status, now), now, out);
            }
            Effect::Dns(message) => self.write_new(build::dns(message, now), now, out),
            Effect::Alert(alert) => self.write_new(build::alert(alert, now), now, out),
            Effect::Ledger(ledger) => self.write_new(build::ledger(ledger, now), now, out),
            _ => return false,
        }
        true
    }

    /// An alert as JSON text, as it is kept in the store.
    pub fn alert_text(&self, alert: &Alert, now: Moment) -> String {
        let mut out = Vec::new();
        self.write_new(build::alert(alert, now), now, &mut out);
        String::from_utf8(out).unwrap_or_default()
    }

    /// Appends a document that is made now.
    fn write_new<'a>(&'a self, mut document: Document<'a>, now: Moment, out: &mut Vec<u8>) {
        if let Some(event) = &mut document.event {
            event.created = Some(Time(now.wall));
        }
        self.write(document, out);
    }

    /// Appends a document as a JSON object.
    pub(crate) fn write<'a>(&'a self, mut document: Document<'a>, out: &mut Vec<u8>) {
        let start = out.len();
        document.host = (!self.host_name.is_empty()).then(|| document::Host { name: Some(&self.host_name) });
        if serde_json::to_writer(&mut *out, &document).is_err() {
            out.truncate(start);
        }
    }
}

/// What was told of a whole flow's start, had it been told apart.
fn start_of(change: &FlowChange) -> FlowChange {
    let flow = Arc::new(Flow { ended: None, ..Flow::clone(&change.flow) });
    FlowChange { action: FlowAction::Started, at: change.at, flow }
}

#[cfg(test)]
mod tests;
