//! Dependencies: licences, bans and sources, and known vulnerabilities where their database can be had.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Result, bail};

use super::{Counts, Outcome, Verdict};
use crate::{command, workspace};

/// The version that is built where there is none.
const VERSION: &str = "0.20.2";
/// Building it takes two to four minutes on two cores.
const BUILD_LIMIT: Duration = Duration::from_secs(15 * 60);
const CHECK_LIMIT: Duration = Duration::from_secs(5 * 60);

/// What cargo-deny checks with nothing but this repository.
const LOCAL_CHECKS: [&str; 3] = ["licenses", "bans", "sources"];

/// Runs cargo-deny by `deny.toml`, each check a case; skipped aloud where it cannot be had.
pub fn step() -> Result<Outcome> {
    let program = match ensure() {
        Ok(program) => program,
        Err(reason) => return Ok(Outcome::single("deny", Verdict::Skipped(format!("{reason:#}")))),
    };
    let mut counts = Counts::default();
    let mut failed = Vec::new();
    for check in LOCAL_CHECKS {
        if is_clean(&program, check, &mut |_| ())? {
            counts.passed += 1;
        } else {
            failed.push(check);
        }
    }
    check_advisories(&program, &mut counts, &mut failed)?;
    counts.failed = u64::try_from(failed.len()).unwrap_or(u64::MAX);
    let verdict = if failed.is_empty() { Verdict::Passed } else { Verdict::Failed(failed.join(", ")) };
    Ok(Outcome::of_cases("deny", verdict, counts))
}

/// Known vulnerabilities; an unreachable database is not a failure of this source, so it is skipped, and said.
fn check_advisories(program: &PathBuf, counts: &mut Counts, failed: &mut Vec<&str>) -> Result<()> {
    let mut is_unreachable = false;
    let mut look = |line: &str| is_unreachable |= line.contains("failed to fetch advisory database");
    if is_clean(program, "advisories", &mut look)? {
        counts.passed += 1;
    } else if is_unreachable {
        // Settling the counts moves a case with such a reason from passed to skipped.
        counts.passed += 1;
        counts
            .skip_reasons
            .push("advisories: their database cannot be reached; vulnerabilities are NOT checked".into());
    } else {
        failed.push("advisories");
    }
    Ok(())
}

fn is_clean(program: &PathBuf, check: &str, on_line: &mut dyn FnMut(&str)) -> Result<bool> {
    let mut deny = Command::new(program);
    deny.current_dir(workspace::root()).args(["--workspace", "check", "--hide-inclusion-graph", check]);
    Ok(command::watch(&mut deny, CHECK_LIMIT, on_line)?.is_success())
}

fn ensure() -> Result<PathBuf> {
    let own = workspace::tools().join("bin/cargo-deny");
    if let Some(found) = workspace::find_program("cargo-deny").or_else(|| own.is_file().then(|| own.clone())) {
        return Ok(found);
    }
    let place = workspace::tools();
    command::say(&format!("will build cargo-deny {VERSION} into {} (some minutes, once)", place.display()));
    let mut cargo = Command::new("cargo");
    cargo.args(["install", "cargo-deny", "--version", VERSION, "--locked", "--root"]).arg(&place);
    cargo.arg("--target-dir").arg(place.join("build"));
    let ended = command::watch(&mut cargo, BUILD_LIMIT, |_| ())?;
    if !ended.is_success() {
        bail!("cargo-deny is not installed and could not be built: {ended}");
    }
    Ok(own)
}
