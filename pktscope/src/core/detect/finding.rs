//! What a detector found, before it is known whether it becomes an alert.

use std::{fmt::Write as _, net::SocketAddr, sync::Arc};

use super::sight::{Actor, Sight};
use crate::core::{
    alert::grouping::About,
    alert::{Evidence, Fact, RuleId, Severity},
    baseline::{Baseline, ProgramId, Steady},
    flow::{Endpoint, Flow},
    process::Process,
};

/// A sign, with evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The rule.
    pub rule: RuleId,
    /// How much it matters.
    pub severity: Severity,
    /// When.
    pub at: Steady,
    /// Whom it is about; `None` where it is about the host.
    pub actor: Option<Actor>,
    /// The destination it is about: a label's name.
    pub label: Option<Arc<str>>,
    /// What makes it the same incident as an earlier one, besides rule and actor.
    pub subject: String,
    /// One sentence.
    pub message: String,
    /// The same as data.
    pub evidence: Evidence,
    /// The flow that completed it.
    pub flow: Option<Arc<Flow>>,
    /// The process it is about.
    pub process: Option<Arc<Process>>,
    /// The registrable domain, where it is about a DNS name.
    pub domain: Option<Arc<str>>,
    /// Whether the program behind it is no longer the one that was learned.
    pub is_stranger: bool,
}

impl Finding {
    /// A finding of a rule, to be filled in.
    pub fn new(rule: RuleId, severity: Severity, at: Steady) -> Self {
        Self {
            rule,
            severity,
            at,
            actor: None,
            label: None,
            subject: String::new(),
            message: String::new(),
            evidence: Evidence::default(),
            flow: None,
            process: None,
            domain: None,
            is_stranger: false,
        }
    }

    /// A finding about a flow's program and destination.
    pub fn about(rule: RuleId, severity: Severity, sight: &Sight<'_>) -> Self {
        Self {
            actor: Some(sight.actor),
            label: Some(sight.destination.name.clone()),
            subject: sight.destination.name.to_string(),
            flow: Some(sight.flow().clone()),
            process: sight.flow().process().cloned(),
            ..Self::new(rule, severity, sight.now)
        }
    }

    /// Whom and what it is about, for the grouping of incidents.
    pub(super) fn about_whom(&self, actor: Actor) -> About {
        let process = self.process.as_ref().or_else(|| self.flow.as_ref()?.process());
        let pid = process.map_or(0, |process| process.key.pid);
        About { rule: self.rule, actor, label: self.label.clone(), pid, at: self.at }
    }

    /// Adds a number.
    pub fn number(mut self, name: &'static str, value: u64) -> Self {
        self.evidence.0.push((name, Fact::Number(value)));
        self
    }

    /// Adds a ratio, score or mean.
    pub fn real(mut self, name: &'static str, value: f64) -> Self {
        self.evidence.0.push((name, Fact::Real(value)));
        self
    }

    /// Adds a name.
    pub fn text(mut self, name: &'static str, value: impl Into<Arc<str>>) -> Self {
        self.evidence.0.push((name, Fact::Text(value.into())));
        self
    }

    /// Adds a yes or no.
    pub fn flag(mut self, name: &'static str, value: bool) -> Self {
        self.evidence.0.push((name, Fact::Flag(value)));
        self
    }

    /// Adds several names.
    pub fn list(mut self, name: &'static str, values: Vec<Arc<str>>) -> Self {
        self.evidence.0.push((name, Fact::List(values)));
        self
    }

    /// Sets the sentence.
    pub fn say(mut self, message: String) -> Self {
        self.message = message;
        self
    }

    /// Adds what is normal for the program, and since when, to the sentence and the evidence.
    pub fn with_normal(mut self, normal: &Baseline) -> Self {
        if let Some(program) = self.actor.and_then(|actor| normal.program(actor.program)) {
            let (count, examples) = (program.row.labels, normal.examples(program));
            let since = normal.learning.started().map(Steady::date).unwrap_or_default();
            let _ = match (count, examples.first()) {
                (0, _) | (_, None) => write!(self.message, "; no egress of it was known before"),
                (_, Some(first)) => write!(self.message, "; normal for it are {count} destination(s) such as {first}"),
            };
            // A program whose first egress this is has not been seen before.
            let is_known = program.row.first_seen != Steady::default();
            let first_seen = if is_known { program.row.first_seen } else { self.at }.date();
            let is_learned = program.row.is_learned;
            let _ = write!(self.message, ", since {}", if is_learned { &since } else { &first_seen });
            self = self.number("normal_destinations", u64::from(count)).list("normal_examples", examples);
            self = self.text("known_since", first_seen).flag("is_learned", is_learned);
        }
        self.with_coverage(normal)
    }

    /// Adds since when the host's baseline holds and what it has not yet seen.
    pub fn with_coverage(mut self, normal: &Baseline) -> Self {
        let since = normal.learning.started().map(Steady::date).unwrap_or_default();
        let unseen = normal.learning.unseen();
        if !unseen.is_empty() {
            let _ = write!(self.message, " (not yet in the baseline: {})", unseen.join(", "));
        }
        self.text("baseline_since", since).list("baseline_unseen", unseen.into_iter().map(Into::into).collect())
    }
}

/// How a sentence names a program: its executable, else what else is known.
pub fn program_words(normal: &Baseline, id: ProgramId) -> Arc<str> {
    let name = normal.program(id).map(|program| program.row.key.name.clone()).unwrap_or_default();
    if name.is_empty() { "a program without a path".into() } else { name }
}

/// How a sentence names a flow's destination.
pub fn destination_words(flow: &Flow) -> String {
    let Endpoint { addr, port } = flow.destination;
    let place = if port == 0 { addr.to_string() } else { SocketAddr::new(addr, port).to_string() };
    match &flow.domain {
        Some(domain) => format!("{} ({place})", domain.name),
        None => place,
    }
}

/// Bytes in words: `4.2 MB`.
#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
pub fn bytes_words(bytes: u64) -> String {
    const UNITS: [(&str, f64); 4] = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0)];
    let value = bytes as f64;
    let (unit, size) = UNITS.into_iter().find(|(_, size)| value >= *size).unwrap_or(("B", 1.0));
    if unit == "B" { format!("{bytes} B") } else { format!("{:.1} {unit}", value / size) }
}
