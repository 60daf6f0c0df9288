//! Many first contacts of a program fail.
//!
//! - **Sign**: a threshold random walk over first contacts with a host and port. A refused or unanswered connection
//!   speaks for a scanner, one that carries data against; one that opens and carries nothing says nothing, because that
//!   is what a scanner's hit looks like too.
//! - **Data needed**: five hosts or five ports; about as many failures more than answers. The share of first contacts
//!   that answer is learned for each program, so that a peer-to-peer client is judged by its own.
//! - **Blind spots**: fewer than five targets; a scan slower than its half-life; a scan inside a program whose first
//!   contacts usually fail; datagram scans count half.
//! - **Benign causes**: authorised scans, discovery of printers and peers, a network outage (several programs failing
//!   at once are told apart).
//! - **Reference**: Jung, Paxson, Berger, Balakrishnan, "Fast Portscan Detection Using Sequential Hypothesis Testing",
//!   IEEE S&P 2004; parameters as in Zeek's `trw-impl`.

use std::{collections::VecDeque, net::IpAddr, sync::Arc};

use ahash::{AHashMap, AHashSet};

use super::{
    DetectionSettings, Detector, Finding, Sight, Verdict,
    finding::program_words,
    settings::ScanSettings,
    sight::{Actor, Outcome, target_key},
    standing::is_new_program,
};
use crate::core::{
    alert::{RuleId, Severity},
    baseline::{Baseline, BaselineRow, ProgramId, Steady, rows::ContactsRow},
    flow::{Flow, Transport},
};

/// Actors followed; the one idle longest gives way.
const MAX_WALKERS: usize = 8_192;
/// Targets remembered for each actor; older ones are taken for new again.
const MAX_TARGETS: usize = 4_096;
/// Different failed hosts and ports counted for each actor.
const MAX_FAILED: usize = 512;
/// Hosts and ports named in the evidence.
const MAX_SHOWN: usize = 8;
/// Weight with which a program that came after learning learns its own share: half, so that a scanner alarms first.
const OWN_WEIGHT: f32 = 0.5;
/// One actor's walk.
#[derive(Debug, Default)]
struct Walk {
    likelihood: f64,
    updated: Steady,
    targets: AHashSet<u64>,
    order: VecDeque<u64>,
    hosts: AHashSet<IpAddr>,
    ports: AHashSet<u16>,
    failed: u64,
    answered: u64,
    first: Steady,
}

/// First contacts of a program: all, and answered ones; of TCP, and of datagrams.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    tcp: [f32; 2],
    datagrams: [f32; 2],
    is_dirty: bool,
}

/// A first contact's weight, and the share of the program's first contacts that answer.
#[derive(Clone, Copy, Debug)]
struct Step {
    step: f64,
    share: f64,
}

/// Decides `port_scan`.
#[derive(Debug, Default)]
pub struct PortScan {
    walks: AHashMap<Actor, Walk>,
    records: AHashMap<ProgramId, Record>,
    failing: VecDeque<(u32, ProgramId)>,
    last_answer: u32,
    evicted: u64,
}

impl Detector for PortScan {
    fn rule(&self) -> RuleId {
        RuleId::PortScan
    }

    fn see_flow(&mut self, sight: &Sight<'_>, normal: &Baseline, settings: &DetectionSettings) -> Verdict {
        if !sight.is_decided || !sight.is_owned || sight.destination.is_resolver || !is_opened_here(sight.flow()) {
            return Verdict::Normal;
        }
        if sight.outcome == Outcome::Opened && sight.flow().ended.is_none() {
            return Verdict::NeedMoreData;
        }
        let is_learning = normal.learning.is_learning();
        let is_outage = self.note_failure(sight, &settings.scan);
        if !self.is_first_contact(sight) {
            return Verdict::Normal;
        }
        let weight = match (is_learning, is_new_program(normal, sight.actor.program)) {
            (true, _) => 1.0,
            (false, true) if sight.actor.pid == 0 => OWN_WEIGHT,
            (false, _) => 0.0,
        };
        let Some(step) = self.step(sight, &settings.scan, weight) else { return Verdict::NeedMoreData };
        if is_learning || is_outage {
            return Verdict::Normal;
        }
        self.walk(sight, step, normal, &settings.scan)
    }

    fn forget(&mut self, program: ProgramId) {
        self.walks.retain(|actor, _| actor.program != program);
        self.records.remove(&program);
    }

    fn take_dirty(&mut self, normal: &Baseline) -> Vec<BaselineRow> {
        let mut dirty: Vec<_> = self.records.iter_mut().filter(|(_, record)| record.is_dirty).collect();
        dirty.sort_by_key(|(id, _)| **id);
        dirty
            .into_iter()
            .filter_map(|(id, record)| {
                record.is_dirty = false;
                record.row(*id, normal)
            })
            .collect()
    }

    fn rows(&self, normal: &Baseline) -> Vec<BaselineRow> {
        let mut records: Vec<_> = self.records.iter().collect();
        records.sort_by_key(|(id, _)| **id);
        records.into_iter().filter_map(|(id, record)| record.row(*id, normal)).collect()
    }

    fn restore(&mut self, row: &BaselineRow, normal: &Baseline) {
        if let BaselineRow::Contacts(row) = row
            && let Some(id) = normal.by_key(&row.program)
        {
            self.records.insert(id, Record { tcp: row.tcp, datagrams: row.datagrams, is_dirty: false });
        }
    }

    fn evicted(&self) -> u64 {
        self.evicted
    }
}

impl Record {
    fn row(&self, id: ProgramId, normal: &Baseline) -> Option<BaselineRow> {
        let program = normal.program(id)?.row.key.clone();
        Some(BaselineRow::Contacts(ContactsRow { program, tcp: self.tcp, datagrams: self.datagrams }))
    }
}

impl PortScan {
    /// Notes a failure; whether so many programs fail at once that the network is to blame.
    fn note_failure(&mut self, sight: &Sight<'_>, settings: &ScanSettings) -> bool {
        let together = u32::try_from(settings.outage_window.as_secs()).unwrap_or(u32::MAX);
        let now = sight.now.seconds();
        while self.failing.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= together) {
            self.failing.pop_front();
        }
        let program = sight.actor.program;
        if sight.outcome == Outcome::Answered && !sight.destination.is_private {
            self.last_answer = now;
        }
        if sight.outcome == Outcome::Failed && !self.failing.iter().any(|(_, known)| *known == program) {
            self.failing.push_back((now, program));
        }
        self.failing.len() >= settings.outage_programs && now.saturating_sub(self.last_answer) >= together
    }

    fn is_first_contact(&mut self, sight: &Sight<'_>) -> bool {
        if self.walks.len() >= MAX_WALKERS && !self.walks.contains_key(&sight.actor) {
            self.evict();
        }
        let walk = self.walks.entry(sight.actor).or_default();
        let end = sight.flow().destination;
        let target = if sight.destination.is_named { sight.destination.key } else { target_key(end.addr, end.port) };
        if !walk.targets.insert(target) {
            return false;
        }
        walk.order.push_back(target);
        if walk.order.len() > MAX_TARGETS
            && let Some(oldest) = walk.order.pop_front()
        {
            walk.targets.remove(&oldest);
        }
        true
    }

    fn evict(&mut self) {
        let mut by_age: Vec<_> = self.walks.iter().map(|(actor, walk)| (walk.updated, *actor)).collect();
        by_age.sort_unstable();
        for (_, actor) in by_age.into_iter().take(MAX_WALKERS / 16) {
            self.walks.remove(&actor);
            self.evicted += 1;
        }
    }

    /// What a first contact adds to the walk, and the share of the program's that answer; `None` where it says nothing.
    fn step(&mut self, sight: &Sight<'_>, settings: &ScanSettings, weight: f32) -> Option<Step> {
        let record = self.records.entry(sight.actor.program).or_default();
        let is_tcp = sight.flow().transport == Transport::TCP;
        let [contacts, answered] = if is_tcp { &mut record.tcp } else { &mut record.datagrams };
        let (prior_contacts, prior_answered) = settings.prior;
        let share = (f64::from(*answered) + prior_answered) / (f64::from(*contacts) + prior_contacts);
        let share = share.clamp(settings.answered_bounds.0, settings.answered_bounds.1);
        let scanner = settings.scanner_answered.min(share / 2.0);
        let (step, is_answer) = match sight.outcome {
            Outcome::Answered => ((scanner / share).ln(), true),
            Outcome::Failed => (((1.0 - scanner) / (1.0 - share)).ln(), false),
            Outcome::Silent => (settings.silent_weight * ((1.0 - scanner) / (1.0 - share)).ln(), false),
            Outcome::Pending | Outcome::Opened => return None,
        };
        if weight > 0.0 {
            *contacts += weight;
            *answered += weight * f32::from(u8::from(is_answer));
            record.is_dirty = true;
        }
        let step = if sight.destination.is_named && step > 0.0 { step * settings.named_weight } else { step };
        Some(Step { step, share })
    }

    fn walk(
        &mut self,
        sight: &Sight<'_>,
        Step { step, share }: Step,
        normal: &Baseline,
        settings: &ScanSettings,
    ) -> Verdict {
        let Some(walk) = self.walks.get_mut(&sight.actor) else { return Verdict::Normal };
        let age = sight.now.since(walk.updated).as_secs_f64() / settings.half_life.as_secs_f64();
        walk.likelihood = (walk.likelihood * 0.5_f64.powf(age) + step).max(-settings.alarm);
        walk.updated = sight.now;
        let end = sight.flow().destination;
        if step <= 0.0 {
            walk.answered += 1;
            return Verdict::Normal;
        }
        if walk.failed == 0 {
            walk.first = sight.now;
        }
        walk.failed += 1;
        if walk.hosts.len() < MAX_FAILED {
            walk.hosts.insert(end.addr);
        }
        if walk.ports.len() < MAX_FAILED {
            walk.ports.insert(end.port);
        }
        let targets = walk.hosts.len().max(walk.ports.len());
        let is_mixed = walk.answered > 0 || share < settings.mixed_share;
        let alarm = if is_mixed { 2.0 * settings.alarm } else { settings.alarm };
        if walk.likelihood < alarm || targets < settings.min_targets as usize {
            return Verdict::NeedMoreData;
        }
        let verdict = finding(sight, walk, normal);
        walk.reset();
        Verdict::Suspicious(Box::new(verdict))
    }
}

impl Walk {
    /// Starts anew after an alarm; the targets stay known.
    fn reset(&mut self) {
        self.likelihood = 0.0;
        self.hosts.clear();
        self.ports.clear();
        (self.failed, self.answered) = (0, 0);
    }
}

/// Whether this host opened the connection: an answer to somebody else's packet is no probe.
fn is_opened_here(flow: &Flow) -> bool {
    match &flow.tcp {
        Some(tcp) if flow.transport == Transport::TCP => tcp.history.is_empty() || tcp.history.starts_with('S'),
        _ => flow.transport == Transport::TCP || flow.transport == Transport::UDP,
    }
}

fn finding(sight: &Sight<'_>, walk: &Walk, normal: &Baseline) -> Finding {
    let name = program_words(normal, sight.actor.program);
    let (hosts, ports) = (walk.hosts.len() as u64, walk.ports.len() as u64);
    let seconds = sight.now.since(walk.first).as_secs();
    let mut finding = Finding::about(RuleId::PortScan, Severity::Critical, sight);
    finding.subject = String::new();
    let message = format!(
        "{name} probes: {} of its first contacts failed within {seconds} s, {hosts} host(s) and {ports} port(s), {} answered",
        walk.failed, walk.answered
    );
    let mut shown_hosts: Vec<_> = walk.hosts.iter().copied().collect();
    shown_hosts.sort_unstable();
    let mut shown_ports: Vec<_> = walk.ports.iter().copied().collect();
    shown_ports.sort_unstable();
    let list = |texts: Vec<String>| texts.into_iter().take(MAX_SHOWN).map(Arc::from).collect();
    finding
        .say(message)
        .number("failed", walk.failed)
        .number("answered", walk.answered)
        .number("hosts", hosts)
        .number("ports", ports)
        .number("seconds", seconds)
        .real("log_likelihood", walk.likelihood)
        .list("failed_hosts", list(shown_hosts.iter().map(ToString::to_string).collect()))
        .list("failed_ports", list(shown_ports.iter().map(ToString::to_string).collect()))
        .with_normal(normal)
}
