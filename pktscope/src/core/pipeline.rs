//! The core's one entry: an event and the time go in, effects come out. Read this first.
//!
//! ```text
//! Exec, Fork, Exit, Running, Answer ──> processes ─┐
//! Payload ──> dissector ──> Dns, ServerName ──> names ─┤
//! Socket ──> socket tracker ──> changes ──> hold ──> complete ──> detection ──> Effect::Flow, Effect::Alert
//! Ledger ──> ledger ──────────────────────────────────────────────^
//! ```
//!
//! A change of a flow waits in [`super::hold`] until its program's facts are known or a moment has passed; then it gets
//! its owner, name and place, and goes to detection and out. A DNS answer waits likewise, but names at once. Nothing here reads a clock or does I/O.

mod complete;
mod dns;
mod packets;
mod settings;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{
    detect::{Detection, DetectionInput, DetectionSettings},
    dissect::flows::FlowDissector,
    dns_analytics::DnsAnalytics,
    effect::Effect,
    event::{Answer, Event, FlowRef, ServerName, SocketReport, SocketScope},
    flow::{
        Domain, EndReason, FlowAction, FlowChange, FlowId, FlowSettings, FlowSnapshot, FlowStatistics, Observer,
        SocketTracker, Tracker,
    },
    hold::Wait,
    ledger::LedgerBook,
    names::NameRow,
    process::ProcessTable,
    time::{BootTime, Moment},
};

use complete::Completion;
pub use complete::CompletionCounters;
use dns::AnswersHeld;
pub use packets::PacketBatch;
use packets::{CaptureNotes, Captured};
pub use settings::PipelineSettings;

/// What a tracker keeps for the pipeline with each flow.
#[derive(Clone, Debug, Default)]
pub struct FlowNotes {
    /// The server name found in its first bytes.
    server_name: Option<Arc<ServerName>>,
    /// The destination's name, which stays once the flow has been told with it.
    domain: Option<Arc<Domain>>,
    /// Whether its start has been told.
    is_told: bool,
}

/// A change on its way from a tracker.
#[derive(Clone, Debug)]
struct Change {
    action: FlowAction,
    at: BootTime,
    snapshot: FlowSnapshot,
    server_name: Option<Arc<ServerName>>,
    domain: Option<Arc<Domain>>,
}

impl Change {
    fn new(action: FlowAction, at: BootTime, snapshot: FlowSnapshot, notes: &mut FlowNotes) -> Self {
        notes.is_told = true;
        Self { action, at, snapshot, server_name: notes.server_name.clone(), domain: notes.domain.clone() }
    }
}

/// Collects what a tracker finds out during one call.
#[derive(Debug, Default)]
struct Changes {
    list: Vec<Change>,
    /// Whether the program behind the report is known, so that nothing has to be found out while its flow lasts.
    is_program_known: bool,
}

impl Observer<FlowNotes> for Changes {
    fn change(&mut self, action: FlowAction, at: BootTime, snapshot: FlowSnapshot, notes: &mut FlowNotes) {
        self.list.push(Change::new(action, at, snapshot, notes));
    }

    fn takes_whole(&self) -> bool {
        self.is_program_known
    }
}

/// Counts of the whole pipeline, for `status` and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PipelineCounters {
    /// Flows of sockets.
    pub flows: FlowStatistics,
    /// Flows open now.
    pub open_flows: u64,
    /// Processes known now.
    pub processes: u64,
    /// What completion gave up.
    pub completion: CompletionCounters,
    /// DNS answers told before their asker's facts were known.
    pub hasty_dns_answers: u64,
}

/// See the module.
pub struct Pipeline {
    settings: PipelineSettings,
    sockets: SocketTracker<FlowNotes>,
    packets: Tracker<CaptureNotes>,
    processes: ProcessTable,
    dissector: FlowDissector,
    completion: Completion,
    detection: Detection,
    ledger: LedgerBook,
    own_addresses: BTreeSet<IpAddr>,
    dns: DnsAnalytics,
    dns_answers: AnswersHeld,
    changes: Changes,
    captured: Captured,
    dissected: Vec<Event>,
}

impl Pipeline {
    /// An empty pipeline; `detection` comes with what the store remembers, flows are numbered from `first_id`.
    pub fn new(settings: PipelineSettings, detection: Detection, first_id: FlowId) -> Self {
        Self {
            sockets: SocketTracker::new(settings.flow.clone(), first_id),
            packets: Tracker::new(settings.flow.clone(), first_id),
            processes: ProcessTable::new(&settings.boot_id, settings.processes),
            dissector: FlowDissector::new(settings.dissect),
            completion: Completion::new(&settings),
            detection,
            ledger: LedgerBook::default(),
            own_addresses: BTreeSet::new(),
            dns: DnsAnalytics::default(),
            dns_answers: AnswersHeld::new(&settings),
            changes: Changes::default(),
            captured: Captured::default(),
            dissected: Vec::new(),
            settings,
        }
    }

    /// Takes one event; what follows from it is appended to `effects`, in order.
    pub fn step(&mut self, event: Event, now: Moment, effects: &mut Vec<Effect>) {
        match event {
            Event::Running(running) => self.processes.on_running(&running, now.boot, effects),
            Event::Exec(exec) => self.processes.on_exec(&exec, effects),
            Event::Fork(fork) => self.processes.on_fork(&fork, effects),
            Event::Exit(exit) => self.processes.on_exit(&exit, effects),
            Event::Socket(report) => self.on_socket(&report, now, effects),
            Event::Payload(payload) => self.on_payload(&payload, now, effects),
            Event::Dns(message) => self.on_dns(message, now, effects),
            Event::ServerName(name) => self.on_server_name(name, now, effects),
            Event::Answer(answer) => self.on_answer(answer, now, effects),
            Event::RecordedFlow(change) => {
                self.detect(DetectionInput::Flow(&change), now, effects);
                effects.push(Effect::Flow(change));
            }
            Event::RecordedProcess(process) => self.detect(DetectionInput::Process(&process), now, effects),
            Event::RecordedDns(message) => self.tell_dns(message, now, effects),
            Event::RecordedLedger(ledger) => {
                self.detect(DetectionInput::Ledger(&ledger), now, effects);
                effects.push(Effect::Ledger(Arc::new(ledger)));
            }
            Event::OwnAddresses(addresses) => self.own_addresses = addresses.into_iter().collect(),
            Event::SweepDone(at) => {
                self.sockets.sweep_done(at, &mut self.changes);
                self.complete_changes(now, effects);
            }
            Event::Ledger(reading) => {
                let closed = self.ledger.close(&reading);
                if let Some(ledger) = closed.map(Arc::new) {
                    self.detect(DetectionInput::Ledger(&ledger), now, effects);
                    effects.push(Effect::Ledger(ledger));
                }
            }
        }
    }

    /// Lets time pass: time-outs, waits and windows that are over. To be called about once a second. Gives whether more
    /// flows are due than are told at once: the next call tells of them, once the effects are handed on.
    pub fn tick(&mut self, now: Moment, effects: &mut Vec<Effect>) -> bool {
        self.processes.tick(now.boot, effects);
        let has_more = self.sockets.tick(now.boot, &mut self.changes);
        self.complete_changes(now, effects);
        self.packets.tick(now.boot, &mut self.captured);
        self.complete_captured(now, effects);
        self.tell_overdue_dns(now, effects);
        let overdue = self.completion.hold.release_overdue(now.boot);
        self.complete_all(overdue, now, effects);
        let alerts = self.detection.tick(now);
        effects.extend(alerts.into_iter().map(|alert| Effect::Alert(Arc::new(alert))));
        has_more
    }

    /// Ends some of the open flows of sockets; gives whether there are more.
    pub fn finish_some_sockets(&mut self, now: Moment, effects: &mut Vec<Effect>) -> bool {
        let has_more = self.sockets.finish(now.boot, EndReason::ForcedEnd, &mut self.changes);
        self.complete_changes(now, effects);
        has_more
    }

    /// Ends every open flow, tells of all that is held, and judges what is open as it stands.
    pub fn finish(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        while self.finish_some_sockets(now, effects) {}
        while self.finish_some_captured(now, effects) {}
        self.tell_all_dns(now, effects);
        let held = self.completion.hold.release_all();
        self.complete_all(held, now, effects);
        let alerts = self.detection.finish(now);
        effects.extend(alerts.into_iter().map(|alert| Effect::Alert(Arc::new(alert))));
    }

    /// Takes other time-outs and thresholds.
    pub fn set_settings(&mut self, flow: FlowSettings, detection: DetectionSettings) {
        self.sockets.set_settings(flow);
        self.detection.set_settings(detection);
    }

    /// The baseline, alerts' memory and dispositions.
    pub fn detection(&mut self) -> &mut Detection {
        &mut self.detection
    }

    /// Takes back what is known of addresses' names; changes are noted from now on, for [`Self::take_names`].
    pub fn restore_names(&mut self, rows: &[NameRow], now: Moment) {
        self.completion.names.restore(rows, &self.settings.boot_id, now);
        self.completion.names.note_changes();
    }

    /// Up to `most` names of addresses that were learned or renewed since they were taken, to be stored.
    pub fn take_names(&mut self, most: usize, now: Moment) -> Vec<NameRow> {
        let boot_id = self.settings.boot_id.as_str().into();
        self.completion.names.take_changed(most, &boot_id, now)
    }

    /// What found no room in a table of the core, by place.
    pub fn losses(&self) -> Vec<(&'static str, u64)> {
        let flows = self.sockets.statistics();
        let processes = self.processes.counters();
        vec![
            ("flow_table", flows.evicted_unconfirmed + flows.evicted_confirmed),
            ("process_table", processes.evicted_live + processes.evicted_owners),
            ("name_table", self.completion.names.counters().evicted_names),
            ("unasked_dns_answers", self.completion.names.counters().unasked_answers),
            ("dns_questions", self.completion.names.counters().evicted_questions),
            ("malformed_dns", self.dissector.counters().dns_malformed),
            ("early_server_names", self.completion.counters().names_forgotten),
        ]
    }

    /// Asks anew for country and AS of every address: the databases changed.
    pub fn forget_geo(&mut self) {
        self.completion.forget_geo();
    }

    /// Figures of the DNS seen so far.
    pub fn dns(&self) -> &DnsAnalytics {
        &self.dns
    }

    /// Counts of the whole pipeline.
    pub fn counters(&self) -> PipelineCounters {
        PipelineCounters {
            flows: self.sockets.statistics(),
            open_flows: self.sockets.len() as u64,
            processes: self.processes.len() as u64,
            completion: self.completion.counters(),
            hasty_dns_answers: self.dns_answers.hasty(),
        }
    }

    fn on_socket(&mut self, report: &SocketReport, now: Moment, effects: &mut Vec<Effect>) {
        if report.scope == SocketScope::NotIp {
            return self.ledger.grow_frames(report);
        }
        if report.is_closed {
            self.dissector.forget(&flow_ref(report));
        }
        let user = report.user.or(report.creator);
        self.changes.is_program_known = user.is_none_or(|user| self.processes.is_told(user.key));
        let counted = self.sockets.report(report, &mut self.changes);
        if let Some(class) = counted.class.filter(|_| self.is_in_ledger(report)) {
            self.ledger.grow(report.interface, class, &counted.growth);
        }
        self.complete_changes(now, effects);
    }

    /// Whether a report is of the agent's network namespace. Of the kernel's own sockets, and of those that are older than
    /// the agent and no process held, only their addresses tell where their packets cannot be asked.
    fn is_in_ledger(&self, report: &SocketReport) -> bool {
        match report.netns {
            0 => self.own_addresses.contains(&report.local.addr),
            netns => self.settings.netns == 0 || self.settings.netns == netns,
        }
    }

    fn on_server_name(&mut self, name: ServerName, now: Moment, effects: &mut Vec<Effect>) {
        let name = Arc::new(name);
        let Some((id, notes)) = self.sockets.find_mut(&name.flow) else {
            self.completion.remember_server_name(name);
            return;
        };
        notes.server_name = Some(name);
        if notes.is_told {
            self.sockets.touch(id, now.boot, &mut self.changes);
            self.complete_changes(now, effects);
        }
    }

    fn on_answer(&mut self, answer: Answer, now: Moment, effects: &mut Vec<Effect>) {
        let released = match answer {
            Answer::Process(facts) => {
                let process = self.processes.on_facts(&facts, now.boot, effects);
                if let Some(process) = process {
                    self.detect(DetectionInput::Process(&process), now, effects);
                }
                let known = Wait::Process(facts.key.rounded());
                self.tell_dns_of(known, now, effects);
                self.completion.hold.release(known)
            }
            Answer::Geo(addr, geo) => {
                self.completion.remember_geo(addr, geo);
                self.completion.hold.release(Wait::Geo(addr))
            }
        };
        self.complete_all(released, now, effects);
    }

    fn complete_changes(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.changes.list.is_empty() {
            return;
        }
        let mut changes = std::mem::take(&mut self.changes.list);
        for change in changes.drain(..) {
            if self.completion.hold.is_empty() {
                self.complete(change, now, effects);
            } else if let Some(change) = self.completion.hold.join(change.snapshot.id, change) {
                self.complete(change, now, effects);
            }
        }
        self.changes.list = changes;
    }

    /// Completes changes that were held; one may be held again for something else.
    fn complete_all(&mut self, changes: Vec<Change>, now: Moment, effects: &mut Vec<Effect>) {
        for change in changes {
            if let Some(change) = self.completion.hold.join(change.snapshot.id, change) {
                self.complete(change, now, effects);
            }
        }
    }

    fn complete(&mut self, change: Change, now: Moment, effects: &mut Vec<Effect>) {
        if let Some(change) = self.completion.complete(change, &mut self.processes, now, effects) {
            self.keep_domain(&change);
            self.detect(DetectionInput::Flow(&change), now, effects);
            effects.push(Effect::Flow(change));
        }
    }

    /// A flow that was told with a name keeps it, whatever else its address is asked for by later.
    fn keep_domain(&mut self, change: &FlowChange) {
        if matches!(change.action, FlowAction::Ended | FlowAction::Whole) {
            return;
        }
        let Some(domain) = &change.flow.domain else { return };
        if let Some(notes) = self.sockets.get_mut(change.flow.id)
            && notes.domain.as_deref() != Some(domain)
        {
            notes.domain = Some(Arc::new(domain.clone()));
        }
    }

    fn detect(&mut self, input: DetectionInput<'_>, now: Moment, effects: &mut Vec<Effect>) {
        let alerts = self.detection.step(input, now);
        effects.extend(alerts.into_iter().map(|alert| Effect::Alert(Arc::new(alert))));
    }
}

/// A socket's flow, as its payloads name it.
fn flow_ref(report: &SocketReport) -> FlowRef {
    let SocketReport { cookie, transport, local, remote, .. } = *report;
    FlowRef { cookie, transport, source: local, destination: remote }
}
