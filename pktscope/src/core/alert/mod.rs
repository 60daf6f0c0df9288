//! Alerts: what a finding becomes once it is new, not cooling down and not disposed of.
//!
//! # Rows
//! [`cooldown::IncidentRow`] keeps an incident (dedup key, last raised, last found, the alert and what it is about), so
//! that a restart neither repeats an alert nor forgets that one is open; [`disposition`] and [`suppression`] keep
//! theirs. A row replaces the one stored under the same key; each module names the key.

pub mod cooldown;
pub mod disposition;
pub mod grouping;
pub mod suppression;
pub mod tuning;

use std::sync::Arc;

use super::{flow::Flow, process::Process, time::Moment};

/// The rules there are; nothing else is ever a rule id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleId {
    /// A program's first egress.
    NewProcessEgress,
    /// A program's first contact with a destination.
    NewProcessDest,
    /// A program's first contact with a country or AS.
    NewGeo,
    /// Far more sent than is normal.
    VolumeSpike,
    /// The program's image changed.
    IdentityChange,
    /// Many failed first contacts.
    PortScan,
    /// Regular call-backs.
    Beaconing,
    /// Data inside DNS names or answers.
    DnsTunnel,
    /// An interface or process over its bandwidth.
    Bandwidth,
    /// Bytes left that nobody owns.
    UnattributedEgress,
}

impl RuleId {
    /// Every rule, in the order they are listed.
    pub const ALL: [Self; 10] = [
        Self::NewProcessEgress,
        Self::NewProcessDest,
        Self::NewGeo,
        Self::VolumeSpike,
        Self::IdentityChange,
        Self::PortScan,
        Self::Beaconing,
        Self::DnsTunnel,
        Self::Bandwidth,
        Self::UnattributedEgress,
    ];

    /// `rule.id`.
    pub fn id(self) -> &'static str {
        match self {
            Self::NewProcessEgress => "new_process_egress",
            Self::NewProcessDest => "new_process_dest",
            Self::NewGeo => "new_geo",
            Self::VolumeSpike => "volume_spike",
            Self::IdentityChange => "identity_change",
            Self::PortScan => "port_scan",
            Self::Beaconing => "beaconing",
            Self::DnsTunnel => "dns_tunnel",
            Self::Bandwidth => "bandwidth",
            Self::UnattributedEgress => "unattributed_egress",
        }
    }

    /// `rule.name`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NewProcessEgress => "First egress of a program",
            Self::NewProcessDest => "New destination of a program",
            Self::NewGeo => "New country or AS of a program",
            Self::VolumeSpike => "Volume spike",
            Self::IdentityChange => "Program modification",
            Self::PortScan => "Port scan",
            Self::Beaconing => "Beaconing",
            Self::DnsTunnel => "DNS tunnel",
            Self::Bandwidth => "Bandwidth",
            Self::UnattributedEgress => "Unattributed egress",
        }
    }

    /// The rule with this id.
    pub fn from_id(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.id() == id)
    }
}

/// How much an alert matters; the numbers are `event.severity`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// 0
    Info,
    /// 1
    Notice,
    /// 2
    Warning,
    /// 3
    Critical,
}

impl Severity {
    /// Every severity, rising.
    pub const ALL: [Self; 4] = [Self::Info, Self::Notice, Self::Warning, Self::Critical];

    /// `event.severity`.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// `pktscope.alert.severity`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// A value of evidence.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A count or an amount.
    Number(u64),
    /// A ratio, score or mean.
    Real(f64),
    /// A name.
    Text(Arc<str>),
    /// A yes or no.
    Flag(bool),
    /// Several names.
    List(Vec<Arc<str>>),
}

/// What was seen, what is normal, since when: names and values, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evidence(pub Vec<(&'static str, Fact)>);

/// An alert as it is stored and sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// Unique within a state directory.
    pub id: u64,
    /// The rule that raised it.
    pub rule: RuleId,
    /// How much it matters.
    pub severity: Severity,
    /// When.
    pub at: Moment,
    /// One sentence: what happened, what is normal for this program, since when.
    pub message: String,
    /// Alerts with the same key are one incident.
    pub dedup_key: String,
    /// The evidence as data.
    pub evidence: Evidence,
    /// The flow that completed it.
    pub flow: Option<Arc<Flow>>,
    /// The program it is about.
    pub process: Option<Arc<Process>>,
    /// The registrable domain it is about, where it is about a DNS name rather than a flow.
    pub domain: Option<Arc<str>>,
}
