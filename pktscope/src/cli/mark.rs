//! `pktscope alerts mark`: a verdict goes to the running agent, or, without one, to the database.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use super::{exit::UsageError, output::print, place::Place};
use crate::{
    api::{self, ApiError, Mark, Request},
    clock,
    config::Config,
    store::{AlertRow, Batch, DispositionRow, Reader, Store, StoreOptions},
};

/// Longest note, in bytes.
const NOTE_BYTES_MAX: usize = 2048;

/// What an alert turned out to be.
#[derive(Args, Debug)]
pub(super) struct MarkArguments {
    /// The alert's number
    #[arg(value_name = "ID")]
    id: u64,
    /// What it turned out to be
    #[arg(long, value_enum)]
    verdict: Verdict,
    /// Why, in a sentence
    #[arg(long, default_value = "")]
    note: String,
    /// Who decided [default: the user who runs this]
    #[arg(long)]
    analyst: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
#[expect(clippy::enum_variant_names, reason = "the words are the field's")]
enum Verdict {
    /// It was what the rule looks for
    TruePositive,
    /// It was not
    FalsePositive,
    /// It was, and it was allowed
    BenignTruePositive,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::TruePositive => "true_positive",
            Self::FalsePositive => "false_positive",
            Self::BenignTruePositive => "benign_true_positive",
        }
    }
}

impl MarkArguments {
    pub(super) fn run(&self, place: &Place) -> anyhow::Result<()> {
        if NOTE_BYTES_MAX < self.note.len() {
            let what = format!("the note has {} bytes; at most {NOTE_BYTES_MAX} are kept", self.note.len());
            return Err(UsageError(what).into());
        }
        let config = place.config()?;
        let directory = &config.agent.state_dir;
        let alert = Reader::open(directory)?.alert(self.id)?;
        let alert = alert.with_context(|| {
            format!("there is no alert {} in {}; `pktscope alerts` lists them", self.id, directory.display())
        })?;
        let mark = Mark {
            alert_id: self.id,
            verdict: self.verdict.word().to_owned(),
            analyst: self.analyst.clone().unwrap_or_else(user),
            note: self.note.clone(),
        };
        match api::call(&config.agent.runtime_dir, &Request::Mark(mark.clone())) {
            Err(ApiError::NotRunning { .. }) => store(&config, &alert, &mark)?,
            answer => {
                answer?;
                wait_until_stored(&config, &mark)?;
            }
        }
        let line = format!("alert {} ({}) is marked {}\n", alert.id, alert.rule_id, mark.verdict);
        Ok(print(line.as_bytes())?)
    }
}

/// Waits for the agent's next batch, so that the next command sees the verdict. An agent whose database cannot be written
/// keeps it and writes it later.
fn wait_until_stored(config: &Config, mark: &Mark) -> anyhow::Result<()> {
    const TRIES: u32 = 100;
    const PAUSE: Duration = Duration::from_millis(50);
    let reader = Reader::open(&config.agent.state_dir)?;
    for _ in 0..TRIES {
        let alert = reader.alert(mark.alert_id)?;
        if alert.is_some_and(|alert| alert.verdict.as_ref() == Some(&mark.verdict)) {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    tracing::warn!("the agent has the verdict, its database not yet; `pktscope status` says why");
    Ok(())
}

/// Without an agent nobody else writes: the lock makes sure of it.
fn store(config: &Config, alert: &AlertRow, mark: &Mark) -> anyhow::Result<()> {
    let options = StoreOptions::new(&config.store, Box::new(|_, _| String::new()));
    let store = Store::open(&config.agent.state_dir, options)?;
    let now = clock::now();
    let row = DispositionRow::on_alert(alert, &mark.verdict, &mark.analyst, &mark.note, now.wall);
    store.handle().push(Batch { dispositions: vec![row], now, ..Batch::default() });
    Ok(store.close()?)
}

/// The person behind sudo, else the user.
pub(super) fn user() -> String {
    let named = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    named.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()))
}
