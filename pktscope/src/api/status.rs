//! How the agent is, as it tells it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::core::alert::{suppression::DestinationClass, tuning::Proposal};

/// Everything `status` shows. Counters are totals since the agent started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusReport {
    /// Version of the running agent.
    pub version: String,
    /// Its pid.
    pub pid: u32,
    /// When it started, RFC 3339.
    pub started_at: String,
    /// How long ago that was.
    pub uptime_seconds: u64,
    /// Its state directory.
    pub state_dir: String,
    /// The cgroup2 folder that it watches.
    pub cgroup: String,
    /// Every kernel program.
    pub hooks: Vec<HookReport>,
    /// What happens a second, by name; means over the last seconds.
    pub rates: BTreeMap<String, f64>,
    /// What was counted, by name.
    pub counters: BTreeMap<String, u64>,
    /// Records lost, by place; all zero where nothing was lost.
    pub lost: BTreeMap<String, u64>,
    /// The last closed interval of the ledger.
    pub ledger: Option<LedgerReport>,
    /// What is learned.
    pub baseline: BaselineReport,
    /// Bytes in memory.
    pub memory: MemoryReport,
    /// The database.
    pub store: StoreReport,
    /// Sinks besides the store.
    pub sinks: Vec<SinkReport>,
    /// DNS seen on the wire.
    pub dns: Option<DnsReport>,
    /// What rules with too many false positives propose; nothing of it is done by itself.
    #[serde(default)]
    pub proposals: Vec<ProposalReport>,
}

/// What a rule proposes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProposalReport {
    /// Which rule.
    pub rule: String,
    /// Share of its verdicts that say false.
    pub false_positive_ratio: f64,
    /// Suppressions that would have hidden false positives and no confirmed alert, the most useful first; empty where
    /// the false positives have nothing in common.
    pub suppressions: Vec<ProposedReport>,
}

/// A suppression that would have helped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposedReport {
    /// An alert that it would have hidden: what `pktscope alerts suppress` takes.
    pub alert_id: u64,
    /// The program.
    pub program: String,
    /// Its destination; `None` for every one.
    pub destination: Option<String>,
    /// False positives that it would have hidden.
    pub hides: u64,
}

impl From<&Proposal> for ProposalReport {
    fn from(proposal: &Proposal) -> Self {
        let suppressions = proposal.suppressions.iter().map(|one| ProposedReport {
            alert_id: one.alert,
            program: one.program.to_string(),
            destination: match &one.destination {
                DestinationClass::Label(label) => Some(label.to_string()),
                _ => None,
            },
            hides: u64::try_from(one.hides).unwrap_or(u64::MAX),
        });
        Self {
            rule: proposal.rule.id().to_owned(),
            false_positive_ratio: proposal.ratio,
            suppressions: suppressions.collect(),
        }
    }
}

/// A kernel program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookReport {
    /// The program's name.
    pub program: String,
    /// Where it is attached.
    pub attach_point: String,
    /// Whether it runs.
    pub is_attached: bool,
    /// Why not.
    pub reason: Option<String>,
    /// What is lost without it.
    pub lost_without: String,
}

/// One interval of the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerReport {
    /// Start of the interval, RFC 3339.
    pub started_at: String,
    /// End of the interval, RFC 3339.
    pub ended_at: String,
    /// Sent.
    pub tx: LedgerSideReport,
    /// Received.
    pub rx: LedgerSideReport,
}

/// One direction of a ledger interval, in IP-layer bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerSideReport {
    /// What the interfaces counted.
    pub interface_bytes: u64,
    /// What processes own.
    pub attributed_bytes: u64,
    /// The kernel's own.
    pub kernel_bytes: u64,
    /// What passed through.
    pub forwarded_bytes: u64,
    /// What nobody explains.
    pub unknown_bytes: u64,
    /// `unknown_bytes` by reason.
    pub by_reason: BTreeMap<String, u64>,
}

/// What is learned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineReport {
    /// `learning` or `active`.
    pub state: String,
    /// When learning ends, RFC 3339.
    pub learning_until: Option<String>,
    /// Programs known.
    pub programs: u64,
    /// Of them, programs that are still learned.
    pub programs_learning: u64,
    /// Pairs of program and destination known.
    pub destinations: u64,
    /// What the baseline has not seen yet, for example a reboot.
    pub not_yet_seen: Vec<String>,
}

/// Bytes in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryReport {
    /// Of the agent: resident set.
    pub resident_bytes: u64,
    /// Of its kernel programs and maps.
    pub kernel_bytes: u64,
}

/// The database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreReport {
    /// Batches written.
    pub batches: u64,
    /// Rows written.
    pub rows: u64,
    /// Rows that wait.
    pub waiting: u64,
    /// Flows that went into shared rows.
    pub rolled_up_flows: u64,
    /// Batches that could not be written at once.
    pub failed_batches: u64,
    /// Why nothing can be written now.
    pub error: Option<String>,
}

/// A sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkReport {
    /// `events`, `syslog` or `webhook`.
    pub name: String,
    /// Where it goes.
    pub target: String,
    /// Messages delivered.
    pub sent: u64,
    /// Messages that wait.
    pub waiting: u64,
    /// Messages dropped because too many waited.
    pub lost: u64,
    /// Why the last delivery failed; `None` since one succeeded.
    pub error: Option<String>,
}

/// DNS seen on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsReport {
    /// Questions.
    pub queries: u64,
    /// Answers.
    pub responses: u64,
    /// Answers that the name does not exist.
    pub nxdomain: u64,
    /// Answers by time to answer: below 5, 10, 25, 50, 100, 250, 500 ms, and slower.
    pub latency_buckets: [u64; 8],
    /// Names asked for most, with their number.
    pub top_domains: Vec<(String, u64)>,
}

/// What is learned of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgramReport {
    /// The program's name in the baseline: its path, its script or its image.
    pub program: String,
    /// `learning` or `active`.
    pub state: String,
    /// Destinations known.
    pub destinations: u64,
    /// RFC 3339.
    pub first_seen: String,
    /// RFC 3339.
    pub last_seen: String,
}

/// A suppression.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SuppressionReport {
    /// Its number; 0 of one that is only shown.
    pub id: u64,
    /// `active`, `ended`, `revoked` or `proposed`.
    pub state: String,
    /// The rule it hides alerts of.
    pub rule: String,
    /// The program.
    pub program: String,
    /// The destinations, as a person reads them.
    pub destination: String,
    /// RFC 3339.
    pub created: String,
    /// RFC 3339.
    pub expires: String,
    /// Who made it.
    pub analyst: String,
    /// Why.
    pub note: String,
    /// Who revoked it.
    pub revoked_by: Option<String>,
    /// Findings hidden so far.
    pub hidden: u64,
    /// Of the last 30 days' alerts, those that it would have hidden.
    pub would_have_hidden: Vec<u64>,
    /// How many alerts it was compared with.
    pub compared_with: u64,
}
