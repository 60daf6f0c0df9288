//! `pktscope baseline`: what is learned of each program, of the running agent.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::{
    exit::UsageError,
    output::{Format, Json, local_clock, paper, print},
    place::Place,
};
use crate::{
    api::{self, ProgramReport, Request},
    core::time::WallTime,
    store,
    view::{Cell, Clock, Column, Style, Table, ago, count},
};

/// Rows sent in one request.
const IMPORT_ROWS: usize = 4_000;

const EXAMPLES: &str = "\
Examples:
  pktscope baseline status                        what is learned, a line a program
  pktscope baseline reset --program /usr/bin/curl learn curl anew
  pktscope baseline export > role.ndjson          on one host, and on another of the same role:
  pktscope baseline import role.ndjson";

/// Shows, forgets, exports or imports what is learned.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct BaselineArguments {
    #[command(subcommand)]
    command: BaselineCommand,
}

#[derive(Debug, Subcommand)]
enum BaselineCommand {
    /// Show what is learned, a line a program
    Status {
        /// Only this program
        #[arg(long)]
        program: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Forget what is learned, so that it is learned anew
    Reset {
        /// Only this program
        #[arg(long, required_unless_present = "all")]
        program: Option<String>,
        /// Every program
        #[arg(long, conflicts_with = "program")]
        all: bool,
    },
    /// Print what is learned as lines of JSON
    Export(Json),
    /// Add what another host's export says
    Import {
        /// The export; - is standard input
        file: PathBuf,
    },
}

impl BaselineArguments {
    pub(super) fn run(&self, place: &Place) -> anyhow::Result<()> {
        let runtime_dir = place.config()?.agent.runtime_dir;
        match &self.command {
            BaselineCommand::Status { program, format } => status(&runtime_dir, program.clone(), *format),
            BaselineCommand::Reset { program, .. } => reset(&runtime_dir, program.clone()),
            BaselineCommand::Export(_) => export(&runtime_dir),
            BaselineCommand::Import { file } => import(&runtime_dir, file),
        }
    }
}

fn status(runtime_dir: &Path, program: Option<String>, format: Format) -> anyhow::Result<()> {
    let answer = api::call(runtime_dir, &Request::BaselineStatus { program })?;
    if format.json {
        return print_lines(&answer);
    }
    let programs: Vec<ProgramReport> = serde_json::from_value(answer).context("failed to read the agent's answer")?;
    Ok(print(table(&programs, &local_clock()).as_bytes())?)
}

fn table(programs: &[ProgramReport], clock: &Clock) -> String {
    let mut table = Table::new(&[
        Column::text("STATE"),
        Column::number("DESTINATIONS"),
        Column::text("FIRST SEEN"),
        Column::text("LAST SEEN"),
        Column::long("PROGRAM"),
    ]);
    let when = |text: &str| {
        let at = text.parse::<jiff::Timestamp>().ok().and_then(|at| i64::try_from(at.as_nanosecond()).ok());
        at.filter(|at| *at != 0).map_or_else(|| "-".to_owned(), |at| ago(WallTime(at), clock.now))
    };
    for program in programs {
        let style = if program.state == "learning" { Style::Warning } else { Style::Good };
        table.add(vec![
            Cell::new(&program.state).style(style),
            count(program.destinations).into(),
            when(&program.first_seen).into(),
            when(&program.last_seen).into(),
            Cell::new(&program.program),
        ]);
    }
    table.heading(paper()) + &table.take_rows(paper())
}

fn reset(runtime_dir: &Path, program: Option<String>) -> anyhow::Result<()> {
    let what = program.clone().unwrap_or_else(|| "every program".to_owned());
    api::call(runtime_dir, &Request::BaselineReset { program })?;
    Ok(print(format!("{what} is learned anew\n").as_bytes())?)
}

fn export(runtime_dir: &Path) -> anyhow::Result<()> {
    print_lines(&api::call(runtime_dir, &Request::BaselineExport)?)
}

fn print_lines(rows: &Value) -> anyhow::Result<()> {
    let mut out = Vec::new();
    for row in rows.as_array().map(Vec::as_slice).unwrap_or_default() {
        writeln!(out, "{row}")?;
    }
    Ok(print(&out)?)
}

fn import(runtime_dir: &Path, path: &Path) -> anyhow::Result<()> {
    let rows = read_rows(path)?;
    for chunk in rows.chunks(IMPORT_ROWS) {
        api::call(runtime_dir, &Request::BaselineImport { rows: chunk.to_vec() })?;
    }
    Ok(print(format!("{} rows are imported\n", rows.len()).as_bytes())?)
}

/// All rows, before any is sent: a mistake in the file imports nothing.
fn read_rows(path: &Path) -> anyhow::Result<Vec<Value>> {
    let name = path.display();
    let reader: Box<dyn BufRead> = match path == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => Box::new(BufReader::new(File::open(path).with_context(|| format!("failed to open {name}"))?)),
    };
    let mut rows = Vec::new();
    for (line, number) in reader.lines().zip(1_u64..) {
        let line = line.with_context(|| format!("failed to read {name}"))?;
        if line.trim().is_empty() {
            continue;
        }
        rows.push(read_row(&line).map_err(|error| UsageError(format!("{name}, line {number}: {error}")))?);
    }
    Ok(rows)
}

/// A line, where it is a row that the agent will take.
fn read_row(line: &str) -> Result<Value, String> {
    let row: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    store::import_row(row.clone()).map(|_| row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Exit;

    #[test]
    fn a_bad_line_is_named_and_imports_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("export.ndjson");
        let good = r#"{"kind":"dns_parent","parent":"a.example","last_seen":1,"name_bytes":[0,0,0],
            "questions":[0,0,0],"answer_bytes":[0,0,0]}"#;
        let good = good.replace('\n', " ");
        for (bad, says) in [(r#"{"label":"a"}"#, "kind"), (r#"{"kind":"pair"}"#, "program"), ("{", "EOF")] {
            std::fs::write(&path, format!("{good}\n\n{bad}\n")).unwrap();
            let error = read_rows(&path).unwrap_err();
            assert_eq!(Exit::of(&error), Exit::Usage);
            let text = error.to_string();
            assert!(text.contains("export.ndjson, line 3: ") && text.contains(says), "{text}");
        }
        std::fs::write(&path, format!("{good}\n")).unwrap();
        assert_eq!(read_rows(&path).unwrap().len(), 1);
    }
}
