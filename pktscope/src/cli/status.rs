//! `pktscope status`

use anyhow::Context as _;

use super::{
    output::{Format, paper, print},
    place::Place,
};
use crate::{
    api::{
        self, DnsReport, HookReport, LedgerReport, LedgerSideReport, ProposalReport, Request, SinkReport, StatusReport,
    },
    view::{Cell, StatusSection, Style, bytes, count, rate, span, status_text},
};

pub(super) fn run(place: &Place, format: Format) -> anyhow::Result<()> {
    let answer = api::call(&place.config()?.agent.runtime_dir, &Request::Status)?;
    if format.json {
        return Ok(print(format!("{answer}\n").as_bytes())?);
    }
    let report: StatusReport = serde_json::from_value(answer).context("failed to read the agent's answer")?;
    Ok(print(status_text(&sections(&report), paper().has_colour).as_bytes())?)
}

/// Everything that is told, the most important first.
pub(super) fn sections(report: &StatusReport) -> Vec<StatusSection> {
    let mut sections = vec![agent(report), hooks(&report.hooks), lost(report), rates(report)];
    sections.extend(report.ledger.as_ref().map(ledger));
    sections.extend([baseline(report), store(report), sinks(&report.sinks)]);
    sections.extend(report.dns.as_ref().map(dns));
    sections.extend((!report.proposals.is_empty()).then(|| proposals(&report.proposals)));
    sections.push(counters(report));
    sections
}

fn agent(report: &StatusReport) -> StatusSection {
    let mut section = StatusSection::new("Agent");
    section
        .add("version", &report.version)
        .add("pid", report.pid.to_string())
        .add("running for", span(std::time::Duration::from_secs(report.uptime_seconds)))
        .add("watching", &report.cgroup)
        .add("state directory", &report.state_dir)
        .add(
            "memory",
            format!("{} and {} in the kernel", bytes(report.memory.resident_bytes), bytes(report.memory.kernel_bytes)),
        );
    section
}

/// Attached hooks in one line; each other one with its reason.
fn hooks(hooks: &[HookReport]) -> StatusSection {
    let mut section = StatusSection::new("Hooks");
    let attached = hooks.iter().filter(|hook| hook.is_attached).count();
    let style = if attached == hooks.len() { Style::Good } else { Style::Plain };
    section.add("attached", Cell::new(format!("{attached} of {}", hooks.len())).style(style));
    for hook in hooks.iter().filter(|hook| !hook.is_attached) {
        section.add(&hook.program, Cell::new(missing(hook)).style(Style::Warning));
    }
    section
}

/// Why a hook is not attached, and what that costs.
pub(super) fn missing(hook: &HookReport) -> String {
    let reason = hook.reason.as_deref().unwrap_or("not attached");
    if hook.lost_without.is_empty() {
        reason.to_owned()
    } else {
        format!("{reason}; without it: {}", hook.lost_without)
    }
}

fn lost(report: &StatusReport) -> StatusSection {
    let mut section = StatusSection::new("Lost records");
    let mut lost = report.lost.iter().filter(|(_, count)| **count != 0).peekable();
    if lost.peek().is_none() {
        section.add("none", Cell::new("every record was counted").style(Style::Good));
    }
    for (place, number) in lost {
        section.add(place, Cell::new(count(*number)).style(Style::Bad));
    }
    section
}

fn rates(report: &StatusReport) -> StatusSection {
    let mut section = StatusSection::new("A second");
    for (name, per_second) in &report.rates {
        section.add(spaced(name), rate(*per_second));
    }
    section
}

fn ledger(ledger: &LedgerReport) -> StatusSection {
    let mut section = StatusSection::new("Ledger, last interval");
    let row = |tx: u64, rx: u64| format!("{} sent, {} received", bytes(tx), bytes(rx));
    let (tx, rx) = (&ledger.tx, &ledger.rx);
    section
        .add("interfaces", row(tx.interface_bytes, rx.interface_bytes))
        .add("processes", format!("{}{}", row(tx.attributed_bytes, rx.attributed_bytes), share(tx, rx)))
        .add("kernel", row(tx.kernel_bytes, rx.kernel_bytes))
        .add("forwarded", row(tx.forwarded_bytes, rx.forwarded_bytes))
        .add("unknown", row(tx.unknown_bytes, rx.unknown_bytes));
    for (way, side) in [("sent", tx), ("received", rx)] {
        for (reason, amount) in side.by_reason.iter().filter(|(_, amount)| **amount != 0) {
            section.add(format!("  {}", spaced(reason)), format!("{} {way}", bytes(*amount)));
        }
    }
    section
}

/// How much of the interfaces' bytes is explained.
fn share(tx: &LedgerSideReport, rx: &LedgerSideReport) -> String {
    let carried = tx.interface_bytes.saturating_add(rx.interface_bytes);
    if carried == 0 {
        return String::new();
    }
    let unknown = tx.unknown_bytes.saturating_add(rx.unknown_bytes);
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let explained = 100.0 * (1.0 - unknown as f64 / carried as f64);
    format!(" ({explained:.2} % of all bytes explained)")
}

fn baseline(report: &StatusReport) -> StatusSection {
    let mut section = StatusSection::new("Baseline");
    let baseline = &report.baseline;
    let state = match &baseline.learning_until {
        Some(until) => format!("{} until {until}", baseline.state),
        None => baseline.state.clone(),
    };
    section
        .add("state", state)
        .add(
            "programs",
            format!("{}, {} of them learning", count(baseline.programs), count(baseline.programs_learning)),
        )
        .add("destinations", count(baseline.destinations));
    if !baseline.not_yet_seen.is_empty() {
        section.add("not yet seen", baseline.not_yet_seen.join(", "));
    }
    section
}

fn store(report: &StatusReport) -> StatusSection {
    let mut section = StatusSection::new("Store");
    let store = &report.store;
    section.add("rows written", format!("{} in {} batches", count(store.rows), count(store.batches)));
    section.add("waiting", count(store.waiting));
    if store.rolled_up_flows != 0 {
        section.add("flows in shared rows", count(store.rolled_up_flows));
    }
    if let Some(error) = &store.error {
        section.add("cannot write", Cell::new(error).style(Style::Bad));
    }
    section
}

fn sinks(sinks: &[SinkReport]) -> StatusSection {
    let mut section = StatusSection::new("Sinks");
    for sink in sinks {
        let counts = format!(
            "{}: {} sent, {} waiting, {} lost",
            sink.target,
            count(sink.sent),
            count(sink.waiting),
            count(sink.lost)
        );
        let style = if sink.lost == 0 { Style::Plain } else { Style::Bad };
        section.add(&sink.name, Cell::new(counts).style(style));
        if let Some(error) = &sink.error {
            section.add("", Cell::new(error).style(Style::Bad));
        }
    }
    section
}

fn dns(dns: &DnsReport) -> StatusSection {
    const BUCKETS: [&str; 8] =
        ["< 5 ms", "< 10 ms", "< 25 ms", "< 50 ms", "< 100 ms", "< 250 ms", "< 500 ms", "slower"];
    const DOMAINS_SHOWN: usize = 5;
    let mut section = StatusSection::new("DNS");
    section.add("questions", count(dns.queries)).add("answers", count(dns.responses));
    section.add("no such name", count(dns.nxdomain));
    let times = BUCKETS.iter().zip(dns.latency_buckets).filter(|(_, answers)| *answers != 0);
    let times: Vec<String> = times.map(|(bucket, answers)| format!("{} {bucket}", count(answers))).collect();
    if !times.is_empty() {
        section.add("answer times", times.join(", "));
    }
    for (domain, questions) in dns.top_domains.iter().take(DOMAINS_SHOWN) {
        section.add(format!("  {domain}"), count(*questions));
    }
    section
}

/// A line a rule and a line a suppression; what to do with them is in `pktscope rules`.
fn proposals(proposals: &[ProposalReport]) -> StatusSection {
    let mut section = StatusSection::new("Proposed tunings, see pktscope rules");
    for proposal in proposals {
        let ratio = format!("{:.2} of its verdicts say false", proposal.false_positive_ratio);
        section.add(&proposal.rule, Cell::new(ratio).style(Style::Warning));
    }
    section
}

fn counters(report: &StatusReport) -> StatusSection {
    let mut section = StatusSection::new("Since the start");
    for (name, number) in &report.counters {
        section.add(spaced(name), count(*number));
    }
    section
}

fn spaced(name: &str) -> String {
    name.replace('_', " ")
}
