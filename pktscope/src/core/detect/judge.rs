//! A flow's change, made a sight; and what is learned of it once the detectors have spoken.

use std::{fmt::Write as _, net::IpAddr};

use super::{
    Detection,
    engine::Reported,
    flows::Memo,
    sight::{Actor, Novelty, Outcome, Sight},
};
use crate::core::{
    alert::{Alert, RuleId},
    baseline::{Location, PairState, ProgramId, Steady, rows::ProgramRow},
    flow::{Attribution, Direction, Flow, FlowAction, FlowChange, Transport, UnknownReason},
    process::Process,
    time::Moment,
};

/// How far a program's last egress may lie behind in the table.
const LAST_SEEN_GRAIN_SECONDS: u32 = 60;

/// Whether a process's program is known at all. Where it ended before anybody could look and the record of its start was
/// lost, it is some program: what it does is judged once more is known, or not at all, rather than as a program's first
/// egress.
pub(super) fn is_identified(process: &Process) -> bool {
    !process.executable.is_empty()
}

impl Detection {
    pub(super) fn see_flow(&mut self, change: &FlowChange, at: Steady, now: Moment, alerts: &mut Vec<Alert>) {
        let flow = &change.flow;
        if flow.direction != Direction::Egress {
            return;
        }
        let actor = match &flow.attribution {
            Attribution::Process(owner) => {
                if owner.process.is_agent {
                    return;
                }
                let process = self.programs.latest(&owner.process);
                if !is_identified(&process) {
                    return self.weigh(change, self.host_actor(), at, now, alerts);
                }
                if matches!(change.action, FlowAction::Started | FlowAction::Whole) {
                    self.note_update_run(&process);
                }
                self.actor(&process, at, now, alerts)
            }
            Attribution::Unknown(UnknownReason::Capture) => self.capture_host(flow.source.addr, at),
            Attribution::Unknown(_) | Attribution::Kernel => self.host_actor(),
        };
        self.weigh(change, actor, at, now, alerts);
    }

    /// Who acts where no program is known to: nothing that a program alone is judged by is asked.
    fn host_actor(&self) -> Actor {
        Actor { program: self.host, pid: 0 }
    }

    /// The program that stands for a host of a capture, which has no processes.
    fn capture_host(&mut self, addr: IpAddr, at: Steady) -> Actor {
        self.host_name.clear();
        // Writing to a String cannot fail.
        let _ = write!(self.host_name, "host {addr}");
        let known = self.baseline.named(&self.host_name).last().copied();
        let program = known.unwrap_or_else(|| {
            let row = ProgramRow { last_seen: at, ..ProgramRow::default() };
            self.baseline.add_program(&self.host_name.as_str().into(), row, Location::Vendor)
        });
        Actor { program, pid: 0 }
    }

    fn weigh(&mut self, change: &FlowChange, actor: Actor, at: Steady, now: Moment, alerts: &mut Vec<Alert>) {
        let flow = &change.flow;
        let started = self.clock.at(flow.started_at);
        let (mut memo, delta, before) = self.flows.take(flow, started, at);
        let outcome = Outcome::of(flow);
        let is_decided = outcome != memo.outcome && outcome != Outcome::Pending;
        memo.outcome = outcome;
        let is_owned = actor.program != self.host;
        let novelty = if is_owned { self.novelty(flow, &mut memo, actor, started, at) } else { None };
        let labelled = memo.labelled(delta);
        let destination = memo.destination.clone();
        let seen = self.clock.at(flow.last_seen).max(started).min(at);
        let label = memo.label;
        let sight = Sight {
            change,
            now: at,
            seen,
            before,
            actor,
            is_owned,
            destination: &destination,
            label,
            delta,
            labelled,
            outcome,
            is_decided,
            novelty,
        };
        let reported =
            self.ask(now, alerts, |detector, baseline, settings| detector.see_flow(&sight, baseline, settings));
        if let Some(novelty) = novelty {
            self.learn(flow, &memo, actor, at, novelty, reported);
        }
        if is_owned && !memo.is_judged && flow.ended.is_none() {
            self.wait_for_name(change, at);
        }
        if flow.ended.is_none() {
            self.flows.keep(flow.id, memo);
        }
    }

    /// What a flow is the first of, at the moment when that can be told.
    fn novelty(&mut self, flow: &Flow, memo: &mut Memo, actor: Actor, started: Steady, at: Steady) -> Option<Novelty> {
        let is_contact = if flow.transport == Transport::TCP { memo.outcome.is_contact() } else { true };
        if memo.is_judged || !is_contact {
            return None;
        }
        let may_get_name = !memo.destination.is_named && !memo.destination.is_resolver && flow.ended.is_none();
        if may_get_name && at.since(started) < self.settings.name_wait {
            return None;
        }
        memo.is_judged = true;
        let program = if memo.destination.is_resolver { self.host } else { actor.program };
        let label = self.known_label(program, flow, memo);
        let is_new_label = label.is_none();
        memo.label = Some(label.unwrap_or_else(|| self.baseline.label_id(&memo.destination.name)));
        let known = self.baseline.program(actor.program)?;
        let predecessor = known.predecessor.filter(|_| is_new_label);
        let is_new = |places: &[[u8; 2]]| flow.geo.country.is_some_and(|country| !places.contains(&country));
        Some(Novelty {
            is_first_egress: known.row.first_seen == Steady::default(),
            is_new_label,
            is_predecessors: predecessor.is_some_and(|id| self.known_label(id, flow, memo).is_some()),
            is_learning: self.baseline.is_learning(actor.program, at),
            is_new_country: is_new(&known.row.countries),
            is_new_as: flow.geo.as_number.is_some_and(|number| !known.row.as_numbers.contains(&number)),
        })
    }

    /// The label under which a program knows a flow's destination: its name, or the address it had before its name.
    fn known_label(&self, program: ProgramId, flow: &Flow, memo: &Memo) -> Option<crate::core::baseline::LabelId> {
        let known = |name: &str| {
            let label = self.baseline.known_label(name)?;
            self.baseline.pair(program, label).map(|_| label)
        };
        let by_address = || memo.destination.is_named.then(|| known(&flow.destination.addr.to_string())).flatten();
        known(&memo.destination.name).or_else(by_address)
    }

    /// Learns what no open alert is about.
    fn learn(&mut self, flow: &Flow, memo: &Memo, actor: Actor, at: Steady, novelty: Novelty, reported: Reported) {
        let is_resolver = memo.destination.is_resolver;
        if novelty.is_first_egress && (!is_resolver || self.baseline.learning.is_learning()) {
            self.begin(actor.program, at, reported.has(RuleId::NewProcessEgress));
        }
        let program = if is_resolver { self.host } else { actor.program };
        let is_reported = [RuleId::NewProcessDest, RuleId::NewProcessEgress].into_iter().any(|rule| reported.has(rule));
        let is_open = self
            .baseline
            .program(program)
            .is_some_and(|known| known.row.alert_open_until.is_some_and(|until| at < until));
        let state = match () {
            () if self.baseline.learning.is_learning() => PairState::Learned,
            () if is_reported || (is_open && novelty.is_new_label) => PairState::Alerted,
            () => PairState::Accepted,
        };
        let Some(label) = memo.label else { return };
        self.baseline.meet(program, label, at, state);
        self.close_old_alert(program, label, at);
        if state == PairState::Learned {
            flow.geo.as_number.into_iter().for_each(|number| self.baseline.context.count(number));
        }
        if state != PairState::Alerted && !reported.has(RuleId::NewGeo) {
            self.baseline.meet_place(actor.program, flow.geo.country, flow.geo.as_number);
        }
        self.touch(actor.program, at);
    }

    /// A program's first egress: it learns for itself from now on, or once its alert is closed.
    pub(super) fn begin(&mut self, program: ProgramId, at: Steady, is_reported: bool) {
        self.baseline.start_own_window(program, at);
        if !is_reported {
            return;
        }
        let until = at.plus(self.settings.open_alert);
        let learns_until = until.plus(self.settings.program_learning_window);
        if let Some(known) = self.baseline.program_mut(program) {
            known.row.alert_open_until = Some(until);
            known.row.learns_until = Some(learns_until);
        }
    }

    /// A reported destination that nobody disposed of becomes ordinary once its alert is no longer open.
    fn close_old_alert(&mut self, program: ProgramId, label: crate::core::baseline::LabelId, at: Steady) {
        let is_over = |first_seen: u32| at.since(Steady::from_seconds(first_seen)) >= self.settings.open_alert;
        let Some(pair) = self.baseline.pair(program, label) else { return };
        if pair.state == PairState::Alerted && is_over(pair.first_seen) {
            self.baseline.set_pair(program, label, |pair| pair.state = PairState::Accepted);
        }
    }

    fn touch(&mut self, program: ProgramId, at: Steady) {
        let is_recent = |last: Steady| at.seconds().saturating_sub(last.seconds()) < LAST_SEEN_GRAIN_SECONDS;
        if self.baseline.program(program).is_some_and(|known| !is_recent(known.row.last_seen))
            && let Some(known) = self.baseline.program_mut(program)
        {
            known.row.last_seen = at;
        }
    }

    /// Keeps a flow for a second look, so that one that is never reported again is judged all the same.
    fn wait_for_name(&mut self, change: &FlowChange, at: Steady) {
        if !Outcome::of(&change.flow).is_contact() && change.flow.transport == Transport::TCP {
            return;
        }
        if self.waiting.len() >= self.settings.limits.waiting {
            self.counts.unnamed_flows += 1;
            return;
        }
        self.waiting.push_back((at.plus(self.settings.name_wait), at, change.clone()));
    }

    /// Judges the flows that have waited long enough for a name.
    pub(super) fn judge_waiting(&mut self, at: Steady, now: Moment, alerts: &mut Vec<Alert>) {
        while self.waiting.front().is_some_and(|(due, ..)| *due <= at) {
            let Some((due, reported, change)) = self.waiting.pop_front() else { return };
            if self.flows.is_waiting(change.flow.id, reported) {
                self.see_flow(&change, due, now, alerts);
            }
        }
    }
}
