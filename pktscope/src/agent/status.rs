//! How the agent is doing, put together when somebody asks.

use std::{collections::BTreeMap, path::Path, sync::atomic::Ordering, time::Duration};

use super::turn::Turns;
use crate::{
    api::{
        BaselineReport, DnsReport, HookReport, LedgerReport, LedgerSideReport, MemoryReport, ProposalReport,
        StatusReport, StoreReport,
    },
    core::{
        dns_analytics::DnsAnalytics,
        effect::{Ledger, LedgerSide},
        pipeline::PipelineCounters,
        time::{BootTime, Moment, WallTime},
    },
    enrich::Enricher,
    sensor::HookStatus,
    store::Reader,
};

/// Rates are means over at least this long.
const RATE_INTERVAL: Duration = Duration::from_secs(10);

/// What happens a second.
#[derive(Debug, Default)]
pub(super) struct Rates {
    since: Option<(BootTime, [u64; 3])>,
    per_second: [f64; 3],
}

const RATE_NAMES: [&str; 3] = ["flows_started", "flows_ended", "records_read"];

impl Rates {
    /// Notes the totals at a time; the rates are new every [`RATE_INTERVAL`].
    pub(super) fn note(&mut self, now: BootTime, counters: &PipelineCounters, records: u64) {
        let totals = [counters.flows.started, counters.flows.ended, records];
        let Some((since, before)) = self.since else {
            self.since = Some((now, totals));
            return;
        };
        let elapsed = now.since(since);
        if RATE_INTERVAL <= elapsed {
            self.per_second =
                [0, 1, 2].map(|index| totals[index].saturating_sub(before[index]) as f64 / elapsed.as_secs_f64());
            self.since = Some((now, totals));
        }
    }

    fn report(&self) -> BTreeMap<String, f64> {
        RATE_NAMES.iter().zip(self.per_second).map(|(name, rate)| ((*name).to_owned(), rate)).collect()
    }
}

/// What the threads that look processes up could not take.
pub(super) fn enricher_losses(enricher: &Enricher) -> [(&'static str, u64); 2] {
    let counters = enricher.counters();
    [
        ("process_questions", counters.questions_dropped.load(Ordering::Relaxed)),
        ("file_questions", counters.files_dropped.load(Ordering::Relaxed)),
    ]
}

/// Facts that do not change while the agent runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Identity {
    pub(super) started_at: WallTime,
    pub(super) state_dir: String,
}

/// Everything `status` shows.
pub(super) fn report(turns: &mut Turns, now: Moment) -> StatusReport {
    let identity = turns.identity.clone();
    StatusReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        started_at: text_of(identity.started_at),
        uptime_seconds: now.wall.since(identity.started_at).as_secs(),
        state_dir: identity.state_dir,
        cgroup: turns.sensor.cgroup().display().to_string(),
        hooks: turns.sensor.hooks().iter().map(hook).collect(),
        rates: turns.rates.report(),
        counters: counters(turns),
        lost: turns.losses().into_iter().map(|(place, count)| (place.to_owned(), count)).collect(),
        ledger: turns.desk.ledger.as_deref().map(|ledger| ledger_report(ledger, now)),
        baseline: baseline(turns, now),
        memory: MemoryReport { resident_bytes: resident_bytes(), kernel_bytes: turns.sensor.kernel_memory() },
        store: store(turns),
        sinks: turns.desk.outputs.sinks(),
        dns: Some(dns(turns.desk.pipeline.dns())),
        proposals: proposals(turns, now),
    }
}

/// What the verdicts propose; nothing where the database cannot be read, which `store` tells.
fn proposals(turns: &Turns, now: Moment) -> Vec<ProposalReport> {
    let settings = &turns.verdicts;
    let judgement = Reader::open(Path::new(&turns.identity.state_dir))
        .and_then(|reader| reader.judgement(&settings.dispositions, &settings.tuning, now.wall));
    judgement.map(|judgement| judgement.proposals.iter().map(ProposalReport::from).collect()).unwrap_or_default()
}

fn hook(status: &HookStatus) -> HookReport {
    HookReport {
        program: status.program.to_owned(),
        attach_point: status.attach_point.to_owned(),
        is_attached: status.is_attached,
        reason: status.reason.clone(),
        lost_without: status.lost_without.to_owned(),
    }
}

fn counters(turns: &mut Turns) -> BTreeMap<String, u64> {
    let counters = turns.desk.pipeline.counters();
    let detection = turns.desk.pipeline.detection().counts();
    let named = [
        ("flows_open", counters.open_flows),
        ("flows_started", counters.flows.started),
        ("flows_ended", counters.flows.ended),
        ("flows_evicted", counters.flows.evicted_unconfirmed + counters.flows.evicted_confirmed),
        ("packets_inferred", counters.flows.packets_inferred),
        ("processes_known", counters.processes),
        ("flows_told_without_facts", counters.completion.facts_timed_out + counters.completion.hold_refused),
        ("dns_answers_told_without_facts", counters.hasty_dns_answers),
        ("records_read", turns.sensor.records()),
        ("alerts_raised", detection.raised),
        ("findings_while_learning", detection.learning),
        ("findings_suppressed", detection.suppressed),
        ("findings_cooling_down", detection.cooling),
    ];
    named.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

fn ledger_report(ledger: &Ledger, now: Moment) -> LedgerReport {
    LedgerReport {
        started_at: text_of(now.wall_at(ledger.started_at)),
        ended_at: text_of(now.wall_at(ledger.ended_at)),
        tx: side(&ledger.tx),
        rx: side(&ledger.rx),
    }
}

fn side(side: &LedgerSide) -> LedgerSideReport {
    LedgerSideReport {
        interface_bytes: side.interface_bytes,
        attributed_bytes: side.attributed_bytes,
        kernel_bytes: side.kernel_bytes,
        forwarded_bytes: side.forwarded_bytes,
        unknown_bytes: side.unknown_bytes,
        by_reason: side.by_reason.iter().map(|(reason, bytes)| ((*reason).to_owned(), *bytes)).collect(),
    }
}

fn store(turns: &Turns) -> StoreReport {
    let stats = turns.desk.outputs.store_stats();
    StoreReport {
        batches: stats.batches,
        rows: stats.rows,
        waiting: stats.waiting as u64,
        rolled_up_flows: stats.rolled_up_flows,
        failed_batches: stats.failed_batches,
        error: stats.error,
    }
}

fn baseline(turns: &mut Turns, now: Moment) -> BaselineReport {
    let steady = turns.desk.pipeline.detection().steady(now);
    let baseline = turns.desk.pipeline.detection().baseline();
    let learning = baseline.all_programs().filter(|(id, _)| baseline.is_learning(*id, steady)).count();
    let (programs, pairs, _) = baseline.size();
    let (observed, window) = baseline.learning.progress();
    let until = baseline.learning.is_learning().then(|| text_of(now.wall.plus(window.saturating_sub(observed))));
    BaselineReport {
        state: if baseline.learning.is_learning() { "learning" } else { "active" }.to_owned(),
        learning_until: until,
        programs: programs as u64,
        programs_learning: learning as u64,
        destinations: pairs as u64,
        not_yet_seen: baseline.learning.unseen().into_iter().map(str::to_owned).collect(),
    }
}

/// Domains that `status` names.
const TOP_DOMAINS: usize = 20;

fn dns(analytics: &DnsAnalytics) -> DnsReport {
    let top = analytics.top_domains(TOP_DOMAINS);
    DnsReport {
        queries: analytics.queries,
        responses: analytics.responses,
        nxdomain: analytics.nxdomain,
        latency_buckets: analytics.latency_buckets,
        top_domains: top.into_iter().map(|(name, count)| (name.to_string(), count)).collect(),
    }
}

/// RFC 3339.
pub(super) fn text_of(at: WallTime) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(at.0)).unwrap_or_default().to_string()
}

/// The second number of `/proc/self/statm` is the resident set in pages (proc_pid_statm(5)).
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages.saturating_mul(rustix::param::page_size() as u64)
}
