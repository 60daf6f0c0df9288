//! `pktscope alerts verdicts`: dispositions out and in as NDJSON, in the words of rsigma and its recipes.
//!
//! A record that is read again counts once: it has a key, its own or one made of what it says.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{exit::UsageError, output::print, place::Place};
use crate::{
    api::{self, ApiError, Request, VerdictRecord},
    clock,
    config::Config,
    core::{alert::RuleId, time::WallTime},
    sink::ecs::rfc3339,
    store::{Batch, DispositionRow, Query, Reader, Store, StoreOptions, disposition_key, is_disposition_key},
};

const VERDICTS: [&str; 3] = ["true_positive", "false_positive", "benign_true_positive"];
const NOTE_BYTES_MAX: usize = 2048;
const ROWS_AT_ONCE: usize = 1_000;

#[derive(Debug, Subcommand)]
pub(super) enum VerdictsCommand {
    /// Print every verdict as a line of JSON
    Export,
    /// Add verdicts; those that are there already change nothing
    Import {
        /// A line of JSON each: verdict and rule_id or incident_id (an alert's dedup_key), and optionally timestamp,
        /// analyst, note, alert_id, fingerprint; - is standard input
        file: PathBuf,
    },
}

/// A line.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    rule_id: Option<String>,
    verdict: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    incident_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    analyst: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
}

impl VerdictsCommand {
    pub(super) fn run(&self, place: &Place) -> anyhow::Result<()> {
        let config = place.config()?;
        match self {
            Self::Export => export(&config),
            Self::Import { file } => import(&config, file),
        }
    }
}

fn export(config: &Config) -> anyhow::Result<()> {
    let mut out = Vec::new();
    for row in Reader::open(&config.agent.state_dir)?.dispositions()? {
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let line = Line {
            rule_id: Some(row.rule),
            verdict: row.verdict,
            incident_id: None,
            alert_id: row.alert_id,
            timestamp: Some(rfc3339(row.at).as_str().to_owned()),
            analyst: some(row.analyst),
            note: some(row.note),
            fingerprint: Some(row.key),
        };
        serde_json::to_writer(&mut out, &line)?;
        out.push(b'\n');
    }
    Ok(print(&out)?)
}

fn import(config: &Config, path: &Path) -> anyhow::Result<()> {
    let reader = Reader::open(&config.agent.state_dir)?;
    let now = clock::now().wall;
    let window = i64::try_from(config.disposition.window.as_nanos()).unwrap_or(i64::MAX);
    let (records, mistakes) = read(path, &reader, [WallTime(now.0.saturating_sub(window)), now])?;
    let known: BTreeSet<String> = reader.dispositions()?.into_iter().map(|row| row.key).collect();
    let mut seen = known.clone();
    let new: Vec<VerdictRecord> = records.iter().filter(|record| seen.insert(record.key.clone())).cloned().collect();
    for chunk in new.chunks(ROWS_AT_ONCE) {
        match api::call(&config.agent.runtime_dir, &Request::Record { verdicts: chunk.to_vec() }) {
            Err(ApiError::NotRunning { .. }) => store(config, chunk)?,
            answer => drop(answer?),
        }
    }
    let again = records.len() - new.len();
    print(format!("{} verdicts are new, {again} were known, {} are wrong\n", new.len(), mistakes.len()).as_bytes())?;
    match mistakes.is_empty() {
        true => Ok(()),
        false => Err(UsageError(mistakes.join("\n")).into()),
    }
}

/// Without an agent nobody else writes: the lock makes sure of it.
fn store(config: &Config, records: &[VerdictRecord]) -> anyhow::Result<()> {
    let options = StoreOptions::new(&config.store, Box::new(|_, _| String::new()));
    let store = Store::open(&config.agent.state_dir, options)?;
    let row = |record: &VerdictRecord| DispositionRow {
        key: record.key.clone(),
        at: WallTime(record.at),
        alert_id: record.alert_id,
        rule: record.rule.clone(),
        verdict: record.verdict.clone(),
        analyst: record.analyst.clone(),
        note: record.note.clone(),
    };
    let batch = Batch { dispositions: records.iter().map(row).collect(), now: clock::now(), ..Batch::default() };
    store.handle().push(batch);
    Ok(store.close()?)
}

/// Every line that is right, and what is wrong with the others.
fn read(path: &Path, reader: &Reader, window: [WallTime; 2]) -> anyhow::Result<(Vec<VerdictRecord>, Vec<String>)> {
    let name = path.display();
    let lines: Box<dyn BufRead> = match path == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => Box::new(BufReader::new(File::open(path).with_context(|| format!("failed to open {name}"))?)),
    };
    // The newest alert first, as the listing has them.
    let alerts = reader.alerts(&Query::default())?.into_iter();
    let incidents: Vec<Known> =
        alerts.map(|row| Known { incident: row.dedup_key, rule: row.rule_id, alert: row.id }).collect();
    let (mut records, mut mistakes) = (Vec::new(), Vec::new());
    for (text, number) in lines.lines().zip(1_u64..) {
        let text = text.with_context(|| format!("failed to read {name}"))?;
        if text.trim().is_empty() {
            continue;
        }
        match check(&text, &incidents, window) {
            Ok(more) => records.extend(more),
            Err(what) => mistakes.push(format!("{name}, line {number}: {what}")),
        }
    }
    Ok((records, mistakes))
}

/// A stored alert, as far as a line can be about it.
struct Known {
    incident: String,
    rule: String,
    alert: u64,
}

/// A line's records: one, or one a rule of its incident.
fn check(text: &str, incidents: &[Known], [oldest, now]: [WallTime; 2]) -> Result<Vec<VerdictRecord>, String> {
    let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if !VERDICTS.contains(&line.verdict.as_str()) {
        return Err(format!("field 'verdict': \"{}\" is none of {}", line.verdict, VERDICTS.join(", ")));
    }
    let note = line.note.clone().unwrap_or_default();
    if NOTE_BYTES_MAX < note.len() {
        return Err(format!("field 'note': at most {NOTE_BYTES_MAX} bytes are kept"));
    }
    let at = match line.timestamp.as_deref().filter(|text| !text.is_empty()) {
        Some(text) => parse_time(text)?.min(now),
        None => now,
    };
    if at < oldest {
        return Err("field 'timestamp': older than disposition.window, so that it would count for nothing".to_owned());
    }
    let rules = rules(&line, incidents)?;
    let record = |rule: String| VerdictRecord {
        key: key(&line, &rule),
        at: at.0,
        alert_id: line.alert_id.or_else(|| newest_alert(&line, &rule, incidents)),
        rule,
        verdict: line.verdict.clone(),
        analyst: line.analyst.clone().unwrap_or_default(),
        note: note.clone(),
    };
    Ok(rules.into_iter().map(record).collect())
}

/// The newest alert of the incident that a line names, by its key or as its fingerprint.
fn newest_alert(line: &Line, rule: &str, incidents: &[Known]) -> Option<u64> {
    let named = line.incident_id.as_ref().or(line.fingerprint.as_ref())?;
    incidents.iter().filter(|known| known.incident == *named && known.rule == rule).map(|known| known.alert).max()
}

fn parse_time(text: &str) -> Result<WallTime, String> {
    let at = text.parse::<jiff::Timestamp>().ok().map(|at| i64::try_from(at.as_nanosecond()).unwrap_or(i64::MAX));
    at.map(WallTime).ok_or_else(|| format!("field 'timestamp': \"{text}\" is no RFC 3339 time"))
}

/// The line's rule, or those of its incident's alerts.
fn rules(line: &Line, incidents: &[Known]) -> Result<Vec<String>, String> {
    let known = || RuleId::ALL.map(RuleId::id).join(", ");
    match (line.rule_id.as_deref().filter(|rule| !rule.is_empty()), &line.incident_id) {
        (Some(rule), _) if RuleId::from_id(rule).is_some() => Ok(vec![rule.to_owned()]),
        (Some(rule), _) => Err(format!("field 'rule_id': there is no rule \"{rule}\"; there are: {}", known())),
        (None, Some(incident)) => {
            let found: BTreeSet<_> =
                incidents.iter().filter(|known| known.incident == *incident).map(|known| known.rule.clone()).collect();
            match found.is_empty() {
                true => Err(format!(
                    "field 'incident_id': there is no alert with the dedup_key \"{incident}\"; name a rule_id"
                )),
                false => Ok(found.into_iter().collect()),
            }
        }
        (None, None) => Err("field 'rule_id': a rule or an incident_id is needed".to_owned()),
    }
}

/// What the line is about, then its time and verdict: read again it is the same record, with another verdict it is another
/// record about the same. A fingerprint of an export is such a key already.
fn key(line: &Line, rule: &str) -> String {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let own = line.fingerprint.as_deref().filter(|fingerprint| !fingerprint.is_empty());
    let about = match own {
        Some(exported) if is_disposition_key(exported) => return exported.to_owned(),
        Some(fingerprint) => format!("{fingerprint} {rule}"),
        None => {
            let alert = line.alert_id.map_or_else(String::new, |id| id.to_string());
            json!([rule, alert, text(&line.incident_id), text(&line.analyst), text(&line.note)]).to_string()
        }
    };
    disposition_key(&about, &text(&line.timestamp), &line.verdict)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::subject_of_key;

    const NOW: WallTime = WallTime(1_795_132_900_000_000_000);
    const DAY: i64 = 86_400_000_000_000;

    fn checked(text: &str) -> Result<Vec<VerdictRecord>, String> {
        let known = |alert| Known { incident: "beaconing|curl|x".to_owned(), rule: "beaconing".to_owned(), alert };
        check(text, &[known(9), known(7)], [WallTime(NOW.0 - 30 * DAY), NOW])
    }

    fn one(text: &str) -> VerdictRecord {
        checked(text).unwrap().remove(0)
    }

    #[test]
    fn a_record_read_again_is_the_same_also_without_fingerprint_and_time() {
        let text = r#"{"rule_id": "beaconing", "verdict": "false_positive", "analyst": "ada"}"#;
        assert_eq!(one(text), one(text));
        let changed = one(&text.replace("false_", "true_"));
        assert_ne!(one(text).key, changed.key);
        assert_eq!(subject_of_key(&one(text).key), subject_of_key(&changed.key), "it is about the same");
    }

    #[test]
    fn a_fingerprint_is_what_a_record_is_about_and_an_exported_one_is_its_key() {
        let line = |fingerprint: &str, verdict: &str| {
            let text = json!({"rule_id": "beaconing", "verdict": verdict, "fingerprint": fingerprint});
            one(&text.to_string())
        };
        let (first, changed) = (line("ticket 7", "false_positive"), line("ticket 7", "true_positive"));
        assert!(first.key != changed.key && subject_of_key(&first.key) == subject_of_key(&changed.key));
        assert_eq!(line(&first.key, "false_positive").key, first.key);
        assert_eq!(line("beaconing|curl|x", "false_positive").alert_id, Some(9), "an incident's newest alert");
    }

    #[test]
    fn a_time_in_the_future_is_held_at_now() {
        let at = |time: &str| {
            one(&format!(r#"{{"rule_id":"beaconing","verdict":"true_positive","timestamp":"{time}"}}"#)).at
        };
        let yesterday = WallTime(NOW.0 - DAY);
        assert_eq!((at("2999-01-01T00:00:00Z"), at(rfc3339(yesterday).as_str())), (NOW.0, yesterday.0));
    }

    #[test]
    fn an_incident_stands_for_its_rules() {
        let record = one(r#"{"incident_id": "beaconing|curl|x", "verdict": "true_positive"}"#);
        assert_eq!((record.rule.as_str(), record.alert_id), ("beaconing", Some(9)));
    }

    #[test]
    fn what_is_wrong_is_said_by_field() {
        for (text, field) in [
            ("[", "EOF"),
            (r#"{"rule_id": "beaconing"}"#, "verdict"),
            (r#"{"rule_id": "beakoning", "verdict": "true_positive"}"#, "rule_id"),
            (r#"{"verdict": "true_positive"}"#, "rule_id"),
            (r#"{"incident_id": "none", "verdict": "true_positive"}"#, "incident_id"),
            (r#"{"rule_id": "beaconing", "verdict": "true_positive", "timestamp": "today"}"#, "timestamp"),
            (r#"{"rule_id":"beaconing","verdict":"true_positive","timestamp":"1970-01-01T00:00:01Z"}"#, "window"),
        ] {
            let error = checked(text).unwrap_err();
            assert!(error.contains(field), "{text}: {error}");
        }
        let long = format!(r#"{{"rule_id":"beaconing","verdict":"true_positive","note":"{}"}}"#, "x".repeat(2_049));
        assert!(checked(&long).unwrap_err().contains("note"));
    }
}
