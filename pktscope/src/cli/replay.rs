//! `pktscope replay`: what a capture or a recording would have raised.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::bail;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{exit::UsageError, place::Place, run::DetectionArguments};
use crate::{
    agent::{self, ReplayInput, ReplayOptions, ReplayReport, ReplayWatcher},
    clock,
    config::{self, Config},
    core::{
        alert::Alert,
        packet::{Tunnels, Undecoded},
    },
    replay::packets::ReplayStatistics,
    sink::ecs::Exporter,
    view,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  pktscope replay capture.pcapng --learning-window 0s       what a capture would have raised
  pktscope replay events.ndjson --json                      the alerts of a recording, as lines of JSON
  pktscope replay events.ndjson --compare stricter.toml     what another configuration would have changed

The input's own time counts; nothing is sent or attached, and no privilege is needed. Exit 1 where part of the input could
not be read: what could be is replayed first.";

/// What to replay, and what to do with what it raises.
#[derive(Args, Clone, Debug)]
pub struct ReplayArguments {
    /// A capture (pcap, pcapng) or a recording (what `run --events` wrote); - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    detection: DetectionArguments,
    /// Append every event to this file as a line of JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// Print alerts as lines of JSON, in the names of the exported events
    #[arg(long)]
    json: bool,
    /// Also replay with this configuration, and print only the alerts that differ
    #[arg(long, value_name = "CONFIG", conflicts_with_all = ["events", "state_dir"])]
    compare: Option<PathBuf>,
    /// See into these tunnels (vxlan, gre, ipip, all): the packets inside are counted instead of those outside
    #[arg(long, value_name = "KIND,…", value_parser = parse_tunnels)]
    tunnels: Option<Tunnels>,
}

fn parse_tunnels(text: &str) -> Result<Tunnels, String> {
    config::tunnels_named(text.split(','))
}

impl ReplayArguments {
    pub(super) fn run(&self, place: &Place) -> anyhow::Result<()> {
        let mut config = place.config()?;
        self.apply(&mut config);
        match &self.compare {
            Some(other) => self.compare_with(config, other.clone(), place),
            None => self.show(config, place),
        }
    }

    /// Lets flags win.
    fn apply(&self, config: &mut Config) {
        self.detection.apply(config);
        if let Some(tunnels) = self.tunnels {
            config.replay.tunnels = tunnels;
        }
    }

    fn show(&self, config: Config, place: &Place) -> anyhow::Result<()> {
        let mut printer = Printer::new(self.json, self.writes_to_stdout());
        let started = clock::now().boot;
        let report = agent::replay(&self.options(config, place), &mut printer)?;
        printer.bar.finish_and_clear();
        printer.outcome?;
        let took = clock::now().boot.since(started);
        summarise(&report, took);
        complain(self, &report)
    }

    fn compare_with(&self, config: Config, other: PathBuf, place: &Place) -> anyhow::Result<()> {
        if self.file.as_os_str() == "-" {
            return Err(
                UsageError("standard input can be replayed once only; --compare needs a file".to_owned()).into()
            );
        }
        let other_place = Place { config: Some(other), ..place.clone() };
        let mut other_config = other_place.config()?;
        self.apply(&mut other_config);
        let mut before = Collector::default();
        let report = agent::replay(&self.options(config, place), &mut before)?;
        let mut after = Collector::default();
        agent::replay(&self.options(other_config, place), &mut after)?;
        print_difference(&before.0, &after.0)?;
        complain(self, &report)
    }

    fn options(&self, config: Config, place: &Place) -> ReplayOptions {
        ReplayOptions {
            file: self.file.clone(),
            config,
            state_dir: place.state_dir.clone(),
            events: self.events.clone(),
        }
    }

    fn writes_to_stdout(&self) -> bool {
        self.events.as_deref().is_some_and(|path| path.as_os_str() == "-")
    }
}

/// Exit 1 where part of the input could not be read.
fn complain(arguments: &ReplayArguments, report: &ReplayReport) -> anyhow::Result<()> {
    if report.is_complete() {
        return Ok(());
    }
    let path = arguments.file.display();
    let why = report.fault.clone().unwrap_or_else(|| unread(&report.input));
    bail!("{path} could be read only in part ({why}); what could be read was replayed")
}

fn unread(input: &ReplayInput) -> String {
    match input {
        ReplayInput::Capture(statistics) => {
            let (capture, unknown) = (&statistics.capture, statistics.undecoded[Undecoded::UnknownLink.index()]);
            let links =
                if unknown == 0 { String::new() } else { format!(", {unknown} frames of an unknown link type") };
            format!("{} bad blocks skipped, {} bytes unread{links}", capture.bad_blocks, capture.unread_bytes)
        }
        ReplayInput::Recording(stats) => {
            let lines = stats.torn + stats.incomplete + stats.too_long;
            format!("{lines} of {} lines are no events of pktscope", stats.lines)
        }
    }
}

/// Prints alerts as they come, and how far the replay is.
struct Printer {
    is_json: bool,
    is_silent: bool,
    exporter: Exporter,
    bar: ProgressBar,
    outcome: io::Result<()>,
}

impl Printer {
    /// `is_silent` where standard output already carries every event.
    fn new(is_json: bool, is_silent: bool) -> Self {
        let target = match io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let style = ProgressStyle::with_template("{bar:40} {percent}% {binary_bytes_per_sec} eta {eta}");
        let bar = ProgressBar::with_draw_target(None, target);
        let bar = bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { is_json, is_silent, exporter: Exporter::default(), bar, outcome: Ok(()) }
    }

    fn line(&self, alert: &Alert) -> String {
        if self.is_json {
            return self.exporter.alert_text(alert, alert.at);
        }
        let at = jiff::Timestamp::from_nanosecond(i128::from(alert.at.wall.0)).unwrap_or_default();
        format!(
            "{}  {:8}  {:18}  {}",
            at.strftime("%F %T"),
            alert.severity.name(),
            alert.rule.id(),
            view::printable(&alert.message)
        )
    }
}

impl ReplayWatcher for Printer {
    fn alert(&mut self, alert: &Alert) {
        if self.is_silent || self.outcome.is_err() {
            return;
        }
        let line = self.line(alert);
        self.outcome = self.bar.suspend(|| writeln!(io::stdout().lock(), "{line}"));
    }

    fn progress(&mut self, read: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(read);
    }
}

fn summarise(report: &ReplayReport, took: Duration) {
    let seconds = took.as_secs_f64().max(1e-9);
    let rate = view::bytes((report.bytes as f64 / seconds) as u64);
    let what = match &report.input {
        ReplayInput::Capture(statistics) => {
            format!("{} frames{}", view::count(statistics.capture.frames), undecoded(statistics))
        }
        ReplayInput::Recording(stats) => format!("{} lines", view::count(stats.lines)),
    };
    eprintln!(
        "{what}, {} flows, {} alerts; {} in {} ({rate}/s)",
        view::count(report.flows),
        view::count(report.alerts),
        view::bytes(report.bytes),
        view::span(took),
    );
}

/// Frames that ought to hold a packet, and of which none could be made.
fn undecoded(statistics: &ReplayStatistics) -> String {
    let words = |(reason, frames): (&str, u64)| format!("{} {}", view::count(frames), reason.replace('_', " "));
    let is_fault = |(reason, frames): &(&str, u64)| *frames != 0 && *reason != Undecoded::NotIp.name();
    let faults: Vec<String> = statistics.undecoded_by_reason().filter(is_fault).map(words).collect();
    if faults.is_empty() { String::new() } else { format!(" ({})", faults.join(", ")) }
}

/// What a replay raised: rule and incident, in order.
#[derive(Default)]
struct Collector(Vec<(String, String)>);

impl ReplayWatcher for Collector {
    fn alert(&mut self, alert: &Alert) {
        self.0.push((alert.dedup_key.clone(), format!("{:18}  {}", alert.rule.id(), view::printable(&alert.message))));
    }

    fn progress(&mut self, _read: u64, _total: u64) {}
}

/// A line for each alert that only one of the two raised: `-` the first, `+` the second.
fn print_difference(before: &[(String, String)], after: &[(String, String)]) -> io::Result<()> {
    let mut surplus: BTreeMap<&str, i64> = BTreeMap::new();
    before.iter().for_each(|(key, _)| *surplus.entry(key).or_default() -= 1);
    after.iter().for_each(|(key, _)| *surplus.entry(key).or_default() += 1);
    let mut stdout = io::stdout().lock();
    for (sign, alerts, direction) in [('-', before, -1), ('+', after, 1)] {
        for (key, text) in alerts {
            if let Some(count) = surplus.get_mut(key.as_str()).filter(|count| direction * **count > 0) {
                *count -= direction;
                writeln!(stdout, "{sign} {text}")?;
            }
        }
    }
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        alert::{Evidence, RuleId, Severity},
        time::Moment,
    };

    #[test]
    fn a_programs_name_moves_no_cursor_and_begins_no_line() {
        let alert = Alert {
            id: 1,
            rule: RuleId::NewProcessEgress,
            severity: Severity::Warning,
            at: Moment::default(),
            message: "/tmp/a\u{1b}[2J\nb\u{202e}c made its first egress".to_owned(),
            dedup_key: "key".to_owned(),
            evidence: Evidence::default(),
            flow: None,
            process: None,
            domain: None,
        };
        let line = Printer::new(false, false).line(&alert);
        assert!(line.ends_with("/tmp/a\\u{1b}[2J\\nb\\u{202e}c made its first egress"), "{line}");
        let mut compared = Collector::default();
        compared.alert(&alert);
        assert!(compared.0[0].1.ends_with(&line[line.len() - 30..]), "{compared:?}", compared = compared.0);
    }

    #[test]
    fn frames_that_are_no_packets_are_counted_unless_they_are_none_on_purpose() {
        let mut statistics = ReplayStatistics::default();
        statistics.undecoded[Undecoded::NotIp.index()] = 9;
        assert_eq!(undecoded(&statistics), "");
        statistics.undecoded[Undecoded::UnknownLink.index()] = 2;
        assert_eq!(undecoded(&statistics), " (2 unknown link)");
    }
}
