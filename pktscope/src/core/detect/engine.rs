//! The one entry of detection: changes and the time in, alerts and rows to store out.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    DetectionSettings, Detector, Finding, Verdict,
    flows::Flows,
    judge::is_identified,
    programs::Programs,
    registry,
    sight::{Actor, DnsSight, LedgerSight},
};
use crate::core::{
    alert::{
        Alert, RuleId,
        cooldown::{Incidents, Pace},
        grouping::{GroupSettings, Groups},
        suppression::{Subject, Suppressions},
    },
    baseline::{
        Baseline, BaselineRow, Location, ProgramId, Steady, SteadyClock, learn::Learning, profile::HOST,
        rows::ProgramRow,
    },
    effect::Ledger,
    event::DnsMessage,
    flow::FlowChange,
    process::Process,
    time::Moment,
};

/// A gap longer than this is not walked through minute by minute: every window is empty by then.
const LONGEST_WALK: Duration = Duration::from_secs(86_400);

/// What detection is told.
#[derive(Clone, Copy, Debug)]
pub enum DetectionInput<'a> {
    /// A flow started, grew or ended; its process's facts are as known as they will be.
    Flow(&'a FlowChange),
    /// A DNS message; only answers count.
    Dns(&'a DnsMessage),
    /// More is known of a process.
    Process(&'a Arc<Process>),
    /// A closed interval of the ledger.
    Ledger(&'a Ledger),
}

/// What became of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Raised,
    Learning,
    Disabled,
    Suppressed,
    Covered,
    Cooling,
}

impl Fate {
    /// Whether what was found is normal from now on.
    pub(super) fn is_learned(self) -> bool {
        matches!(self, Self::Learning | Self::Disabled | Self::Suppressed)
    }

    /// Whether the finding is part of an incident that is open.
    pub(super) fn is_reported(self) -> bool {
        matches!(self, Self::Raised | Self::Covered | Self::Cooling)
    }
}

/// What detection counted, for `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DetectionCounts {
    /// Alerts raised.
    pub raised: u64,
    /// Findings while the host learned.
    pub learning: u64,
    /// Findings of a disabled rule.
    pub disabled: u64,
    /// Findings hidden by an analyst's suppression.
    pub suppressed: u64,
    /// Findings explained by another incident.
    pub covered: u64,
    /// Findings of an incident that cools down.
    pub cooling: u64,
    /// Open flows thrown out of the table.
    pub evicted_flows: u64,
    /// Flows that waited for their name when the queue was full, and were judged without.
    pub unnamed_flows: u64,
    /// Programs thrown out of the baseline.
    pub evicted_programs: u64,
    /// Destinations thrown out of the baseline.
    pub evicted_pairs: u64,
    /// Incidents whose cooldown was forgotten.
    pub evicted_incidents: u64,
    /// What the detectors threw out.
    pub evicted_states: u64,
}

/// Baseline, detectors and alerts of one host.
pub struct Detection {
    pub(super) settings: DetectionSettings,
    pub(super) clock: SteadyClock,
    pub(super) baseline: Baseline,
    pub(super) detectors: Vec<Box<dyn Detector>>,
    pub(super) flows: Flows,
    pub(super) programs: Programs,
    pub(super) incidents: Incidents,
    pub(super) groups: Groups,
    pub(super) suppressions: Suppressions,
    pub(super) waiting: VecDeque<(Steady, Steady, FlowChange)>,
    pub(super) host: ProgramId,
    /// Room for the name of a capture's host.
    pub(super) host_name: String,
    pub(super) next_alert_id: u64,
    pub(super) last_boot: u64,
    pub(super) counts: DetectionCounts,
    pub(super) is_host_dirty: bool,
    /// Rows of another host, still to be stored.
    pub(super) imported: Vec<BaselineRow>,
    second: u32,
    minute: Option<u32>,
}

impl std::fmt::Debug for Detection {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Detection").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Detection {
    /// An empty baseline and every detector.
    pub fn new(settings: DetectionSettings) -> Self {
        let limits = settings.limits;
        let learning = Learning::new(settings.learning_window);
        let mut baseline = Baseline::new(learning, settings.program_learning_window, limits.baseline);
        baseline.explorer_labels = settings.novelty.explorer_labels;
        let host = baseline.add_program(
            &HOST.into(),
            ProgramRow { is_learned: true, ..ProgramRow::default() },
            Location::System,
        );
        Self {
            clock: SteadyClock::default(),
            baseline,
            detectors: registry(),
            flows: Flows::new(limits.flows),
            programs: Programs::default(),
            incidents: Incidents::new(limits.incidents),
            groups: Groups::new(group_settings(&settings)),
            suppressions: Suppressions::default(),
            waiting: VecDeque::new(),
            host,
            host_name: String::new(),
            next_alert_id: 1,
            last_boot: 0,
            counts: DetectionCounts::default(),
            is_host_dirty: true,
            imported: Vec::new(),
            second: 0,
            minute: None,
            settings,
        }
    }

    /// Takes one input; gives the alerts it completes, and those that time completed before it.
    pub fn step(&mut self, input: DetectionInput<'_>, now: Moment) -> Vec<Alert> {
        let mut alerts = self.tick(now);
        let at = self.clock.read(now);
        match input {
            DetectionInput::Flow(change) => self.see_flow(change, at, now, &mut alerts),
            DetectionInput::Dns(message) => self.see_dns(message, at, now, &mut alerts),
            DetectionInput::Process(process) => self.see_process(process, at, now, &mut alerts),
            DetectionInput::Ledger(ledger) => {
                let sight = LedgerSight { ledger, now: at };
                self.ask(now, &mut alerts, |detector, baseline, settings| {
                    detector.see_ledger(&sight, baseline, settings)
                });
            }
        }
        alerts
    }

    /// Closes the seconds and minutes that are over, as of the beginning of this second: whenever in it this is called
    /// first, what is due and its order among the alerts are the same, in a live run and in the replay of its recording.
    pub fn tick(&mut self, now: Moment) -> Vec<Alert> {
        let at = Steady::from_seconds(self.clock.read(now).seconds());
        if at.seconds() == self.second {
            return Vec::new();
        }
        self.second = at.seconds();
        self.last_boot = now.boot.0;
        self.baseline.learning.observe(at);
        let mut alerts = Vec::new();
        self.close_minutes(at, now, &mut alerts);
        self.judge_waiting(at, now, &mut alerts);
        self.close_each(at, now, &mut alerts, |detector, baseline, settings| {
            detector.close_second(at, baseline, settings)
        });
        alerts
    }

    /// The agent stops: what is open is judged as it stands.
    pub fn finish(&mut self, now: Moment) -> Vec<Alert> {
        let mut alerts = self.tick(now);
        let at = self.clock.read(now);
        self.judge_waiting(Steady(i64::MAX), now, &mut alerts);
        self.close_each(at, now, &mut alerts, |detector, baseline, settings| detector.finish(at, baseline, settings));
        alerts
    }

    /// Seconds of the last tick.
    pub(super) fn last_second(&self) -> u32 {
        self.second
    }

    /// The learned baseline.
    pub fn baseline(&self) -> &Baseline {
        &self.baseline
    }

    /// What was counted so far.
    pub fn counts(&self) -> DetectionCounts {
        let (_, _, evictions) = self.baseline.size();
        DetectionCounts {
            evicted_flows: self.flows.evicted(),
            evicted_programs: evictions.programs,
            evicted_pairs: evictions.pairs,
            evicted_incidents: self.incidents.size().1,
            evicted_states: self.detectors.iter().map(|detector| detector.evicted()).sum(),
            ..self.counts
        }
    }

    /// Open flows followed.
    pub fn open_flows(&self) -> usize {
        self.flows.len()
    }

    /// The suppressions, to be shown.
    pub fn suppressions(&self) -> &Suppressions {
        &self.suppressions
    }

    /// The suppressions, to be added to or revoked.
    pub fn suppressions_mut(&mut self) -> &mut Suppressions {
        &mut self.suppressions
    }

    /// The steady time of a moment.
    pub fn steady(&mut self, now: Moment) -> Steady {
        self.clock.read(now)
    }

    /// Takes changed thresholds; the tables keep their sizes and the learning window its length.
    pub fn set_settings(&mut self, settings: DetectionSettings) {
        self.baseline.explorer_labels = settings.novelty.explorer_labels;
        self.groups.set_settings(group_settings(&settings));
        self.settings = settings;
    }

    fn close_minutes(&mut self, at: Steady, now: Moment, alerts: &mut Vec<Alert>) {
        let current = at.minute();
        let earliest = at.minus(LONGEST_WALK).minute();
        let first = self.minute.map_or(current, |minute| minute.max(earliest));
        for minute in first..current {
            let end = Steady::from_seconds((minute + 1).saturating_mul(60));
            self.close_each(end, now, alerts, |detector, baseline, settings| {
                detector.close_minute(end, baseline, settings)
            });
        }
        if self.minute.is_some_and(|minute| minute != current) {
            self.housekeeping(at);
        }
        self.minute = Some(current.max(self.minute.unwrap_or(0)));
    }

    /// Once a minute: forgets what is old.
    fn housekeeping(&mut self, at: Steady) {
        self.is_host_dirty = true;
        self.groups.expire(at);
        if at.minute().is_multiple_of(1_440) {
            self.baseline.forget_older(at, self.settings.forget_after);
        }
        for program in self.baseline.take_forgotten() {
            self.programs.drop_program(program);
            self.detectors.iter_mut().for_each(|detector| detector.forget(program));
        }
    }

    fn see_dns(&mut self, message: &DnsMessage, at: Steady, now: Moment, alerts: &mut Vec<Alert>) {
        let is_agent = message.process.as_ref().is_some_and(|process| process.is_agent);
        if !message.is_response || is_agent {
            return;
        }
        let known = message.process.as_ref().filter(|process| is_identified(process));
        let actor = known.map(|process| self.actor(process, at, now, alerts));
        let sight = DnsSight { message, now: at, actor };
        self.ask(now, alerts, |detector, baseline, settings| detector.see_dns(&sight, baseline, settings));
    }

    /// More is known of a process: asked at once where its program has egress, else at its first flow.
    fn see_process(&mut self, process: &Arc<Process>, at: Steady, now: Moment, alerts: &mut Vec<Alert>) {
        if self.programs.is_known(process) {
            self.actor(process, at, now, alerts);
        }
    }

    /// Puts a question to every detector and raises what it finds; which rules were reported.
    pub(super) fn ask(
        &mut self,
        now: Moment,
        alerts: &mut Vec<Alert>,
        mut question: impl FnMut(&mut dyn Detector, &Baseline, &DetectionSettings) -> Verdict,
    ) -> Reported {
        let mut reported = Reported::default();
        for index in 0..self.detectors.len() {
            if let Verdict::Suspicious(finding) = question(&mut *self.detectors[index], &self.baseline, &self.settings)
            {
                let rule = finding.rule;
                let fate = self.raise(*finding, now, alerts);
                reported.0 |= u16::from(fate.is_reported()) << (rule as u16);
            }
        }
        reported
    }

    fn close_each(
        &mut self,
        at: Steady,
        now: Moment,
        alerts: &mut Vec<Alert>,
        mut close: impl FnMut(&mut dyn Detector, &Baseline, &DetectionSettings) -> Vec<Finding>,
    ) {
        for index in 0..self.detectors.len() {
            for finding in close(&mut *self.detectors[index], &self.baseline, &self.settings) {
                self.raise_late(finding, at, now, alerts);
            }
        }
    }

    /// Raises a finding that time completed; a program found to be another one becomes another one.
    fn raise_late(&mut self, finding: Finding, at: Steady, now: Moment, alerts: &mut Vec<Alert>) {
        let stranger = finding.process.clone().filter(|_| finding.is_stranger).zip(finding.actor);
        let first = finding.actor.filter(|_| finding.rule == RuleId::NewProcessEgress);
        let fate = self.raise(finding, now, alerts);
        if let Some(actor) = first {
            self.begin(actor.program, at, fate.is_reported());
        }
        let Some((process, actor)) = stranger else { return };
        if fate.is_learned() {
            self.learn_image(actor.program, &process);
        } else if let Some(name) = self.baseline.program(actor.program).map(|program| program.row.key.name.clone()) {
            self.stranger(&name, &process, at);
            self.programs.drop_program(actor.program);
        }
    }

    /// Makes an alert of a finding, unless something is against it.
    pub(super) fn raise(&mut self, finding: Finding, now: Moment, alerts: &mut Vec<Alert>) -> Fate {
        let key = self.dedup_key(&finding);
        let fate = self.fate(&finding, &key);
        *self.counts.of(fate) += 1;
        if fate == Fate::Raised {
            let alert = self.alert(finding, key, now);
            alerts.push(alert);
        }
        fate
    }

    fn fate(&mut self, finding: &Finding, key: &str) -> Fate {
        if self.baseline.learning.is_learning() {
            return Fate::Learning;
        }
        if self.settings.disabled.contains(&finding.rule) {
            return Fate::Disabled;
        }
        let subject = self.subject(finding);
        if self.suppressions.hides(&subject, finding.at).is_some() {
            return Fate::Suppressed;
        }
        let cause = finding.actor.and_then(|actor| self.groups.cause(&finding.about_whom(actor)));
        if cause.is_some() {
            return Fate::Covered;
        }
        let pace = self.pace(finding.rule);
        if self.incidents.is_due(key, finding.at, pace) { Fate::Raised } else { Fate::Cooling }
    }

    /// How long an incident of a rule lasts.
    pub(super) fn pace(&self, rule: RuleId) -> Pace {
        let settings = &self.settings;
        match rule {
            RuleId::Beaconing | RuleId::DnsTunnel | RuleId::PortScan | RuleId::VolumeSpike => {
                Pace { quiet: settings.lasting_cooldown, reminder: settings.reminder }
            }
            // What is new is said once while its alert is open.
            RuleId::NewProcessEgress | RuleId::NewGeo | RuleId::IdentityChange => {
                Pace { quiet: settings.open_alert, reminder: settings.open_alert }
            }
            _ => Pace { quiet: settings.cooldown, reminder: settings.reminder },
        }
    }

    fn dedup_key(&self, finding: &Finding) -> String {
        let program = finding.actor.and_then(|actor| Some((actor, self.baseline.program(actor.program)?)));
        let rule = finding.rule.id();
        match program {
            Some((Actor { pid: 0, .. }, program)) => format!("{rule}|{}|{}", program.row.key.name, finding.subject),
            Some((actor, program)) => format!("{rule}|{}#{}|{}", program.row.key.name, actor.pid, finding.subject),
            None => format!("{rule}||{}", finding.subject),
        }
    }

    fn subject(&self, finding: &Finding) -> Subject {
        let program = finding.actor.and_then(|actor| self.baseline.program(actor.program));
        let flow = finding.flow.as_ref();
        Subject {
            rule: finding.rule,
            program: program.map(|program| program.row.key.name.clone()).unwrap_or_default(),
            label: finding.label.clone().or_else(|| finding.domain.clone()),
            as_number: flow.and_then(|flow| flow.geo.as_number),
            is_private: flow.is_some_and(|flow| super::sight::is_private(flow.destination.addr)),
        }
    }
}

fn group_settings(settings: &DetectionSettings) -> GroupSettings {
    GroupSettings { first_contacts: settings.first_contacts, program_window: settings.program_learning_window }
}

/// The rules that reported something about a flow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Reported(u16);

impl Reported {
    pub(super) fn has(self, rule: RuleId) -> bool {
        self.0 & (1 << (rule as u16)) != 0
    }
}

impl DetectionCounts {
    fn of(&mut self, fate: Fate) -> &mut u64 {
        match fate {
            Fate::Raised => &mut self.raised,
            Fate::Learning => &mut self.learning,
            Fate::Disabled => &mut self.disabled,
            Fate::Suppressed => &mut self.suppressed,
            Fate::Covered => &mut self.covered,
            Fate::Cooling => &mut self.cooling,
        }
    }
}
