//! `cargo xtask bench detection`: what detection costs, and how well it does.
//!
//! First rates, write calls and memory, by a bench target of the agent's package: flow updates through all detectors with
//! the store on disk, fifty thousand programs and destinations, verdicts. Then precision, recall, F1 and false alerts a
//! day of each rule, on made-up days with known attacks, beside what the systems it replaces and a prototype of the same
//! methods reached on the same days.
//!
//! The suite makes events, turns them into a recording, and scores; in between, `pktscope replay` does what it always
//! does. Skipped, aloud, where the suite or Python is not there.

mod table;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use crate::{command, workspace};
use table::Pool;

/// Where the suite stands, seen from the workspace.
const SUITE: &str = "../shared/detection";

/// Arguments of `bench detection`.
#[derive(Args)]
pub struct DetectionArguments {
    /// Folder of the suite: gen_bench.py, recording.py, score.py
    #[arg(long, default_value = SUITE, value_name = "DIR")]
    suite: PathBuf,
    /// Seeds of the listed scenarios
    #[arg(long, value_delimiter = ',', default_value = "1,2,3", value_name = "SEEDS")]
    grid: Vec<u32>,
    /// Seeds of the scenarios with drawn parameters
    #[arg(long, value_delimiter = ',', default_value = "101,102,103", value_name = "SEEDS")]
    random: Vec<u32>,
    /// Keep recordings and alerts below target/bench-detection
    #[arg(long)]
    keep: bool,
}

/// Rates, write calls and memory of detection; needs no suite.
pub fn measure_cost() -> Result<()> {
    command::run(Command::new("cargo").args(["bench", "--package", "pktscope", "--bench", "detect"]))
}

/// The suite, or `None` where it cannot run here; says why.
pub fn suite(arguments: &DetectionArguments) -> Option<PathBuf> {
    let suite = workspace::root().join(&arguments.suite);
    if !suite.join("gen_bench.py").is_file() {
        command::say(&format!("SKIPPED bench detection: there is no suite in {}", suite.display()));
        return None;
    }
    if workspace::find_program("python3").is_none() {
        command::say("SKIPPED bench detection: python3 is not on PATH; install it");
        return None;
    }
    Some(suite)
}

/// Runs every seed, prints a table for each mode, and fails where a bar is missed.
pub fn measure(agent: &Path, suite: &Path, arguments: &DetectionArguments) -> Result<()> {
    let mut missed = Vec::new();
    for (mode, seeds) in [("grid", &arguments.grid), ("random", &arguments.random)] {
        let mut pool = Pool::default();
        for seed in seeds {
            let day = Day { agent, suite, mode, seed: *seed, is_kept: arguments.keep };
            pool.add(&day.score()?)?;
        }
        if !seeds.is_empty() {
            missed.extend(pool.print(mode));
        }
    }
    if !missed.is_empty() {
        bail!("below the bar: {}", missed.join(", "));
    }
    Ok(())
}

/// One seed of one mode.
struct Day<'a> {
    agent: &'a Path,
    suite: &'a Path,
    mode: &'a str,
    seed: u32,
    is_kept: bool,
}

impl Day<'_> {
    /// Makes the day, replays it, scores it.
    fn score(&self) -> Result<Value> {
        let folder = workspace::target().join("bench-detection").join(format!("{}-{}", self.mode, self.seed));
        fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
        command::say(&format!("day {} of {}", self.seed, self.mode));
        let at = |name: &str| folder.join(name);
        let seed = self.seed.to_string();
        self.python(
            "gen_bench.py",
            &[
                "--out".as_ref(),
                folder.as_os_str(),
                "--seed".as_ref(),
                seed.as_ref(),
                "--mode".as_ref(),
                self.mode.as_ref(),
            ],
            &at("made.txt"),
        )?;
        self.python("recording.py", &["to".as_ref(), at("events.jsonl").as_os_str()], &at("recording.ndjson"))?;
        self.replay(&at("recording.ndjson"), &at("alerts.ndjson"))?;
        self.python("recording.py", &["from".as_ref(), at("alerts.ndjson").as_os_str()], &at("alerts.jsonl"))?;
        let score = at("score.json");
        self.python(
            "score.py",
            &[at("labels.json").as_os_str(), at("alerts.jsonl").as_os_str(), "--json".as_ref(), score.as_os_str()],
            &at("score.txt"),
        )?;
        let text = fs::read_to_string(&score).with_context(|| format!("failed to read {}", score.display()))?;
        if !self.is_kept {
            fs::remove_dir_all(&folder).with_context(|| format!("failed to remove {}", folder.display()))?;
        }
        serde_json::from_str(&text).with_context(|| format!("failed to read {}", score.display()))
    }

    /// The suite is read only, and Python is not to leave anything in it.
    fn python(&self, script: &str, arguments: &[&std::ffi::OsStr], output: &Path) -> Result<()> {
        let mut python = Command::new("python3");
        python.args(["-I", "-B"]).arg(self.suite.join(script)).args(arguments);
        command::run_quietly(python.stdout(create(output)?))
    }

    fn replay(&self, recording: &Path, alerts: &Path) -> Result<()> {
        let mut replay = Command::new(self.agent);
        replay.arg("replay").arg(recording).args(["--learning-window", "1d", "--json"]);
        command::run_quietly(replay.stdout(create(alerts)?))
    }
}

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("failed to make {}", path.display()))
}
