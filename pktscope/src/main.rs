//! pktscope: arguments, run, exit code.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use clap::Parser as _;
use pktscope::cli::{Arguments, Exit};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    start_log();
    match Arguments::parse().run() {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            let exit = Exit::of(&error);
            if exit != Exit::Done {
                eprintln!("pktscope: {error:#}");
            }
            exit.into()
        }
    }
}

/// Logs go to standard error; `PKTSCOPE_LOG` chooses what is logged, for example `debug` or `pktscope::sensor=trace`.
fn start_log() {
    let filter = EnvFilter::try_from_env("PKTSCOPE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false)
        .init();
}
