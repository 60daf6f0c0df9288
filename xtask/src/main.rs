//! pktscope's automation: `cargo xtask build`, `run`, `test`, `e2e`, `bench`, `tidy`.
//!
//! Arguments in, commands of cargo and the system out. Whatever needs root is announced, then done through `sudo`.

mod bench;
mod build_ebpf;
mod ci;
mod clock;
mod command;
mod debian;
mod e2e;
mod kernels;
mod root;
mod run;
mod tidy;
mod toolchain;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// pktscope's automation
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the agent with its kernel programs, setting up their tool chain where it is missing
    Build(run::BuildArguments),
    /// Build the agent and run it as root, with its state below target/
    Run(run::RunArguments),
    /// Run every check: format, lints, rules, licences, tests, kernels
    Test(ci::TestArguments),
    /// Run what CI runs: `test` with the oldest and the newest kernel
    Ci,
    /// Run the end-to-end tests as root, in network namespaces of their own
    E2e(e2e::E2eArguments),
    /// Measure what the agent costs, each figure against a reference in the same run
    Bench(bench::BenchArguments),
    /// Boot other kernels with the agent and its end-to-end tests inside
    Kernels(kernels::KernelArguments),
    /// Check the source against the project's rules
    Tidy,
    /// Find the tool chain of the kernel programs, or set it up
    Toolchain,
}

fn main() -> ExitCode {
    match take(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            command::say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn take(task: Task) -> Result<ExitCode> {
    match task {
        Task::Build(arguments) => run::build(&arguments)?,
        Task::Run(arguments) => run::run(&arguments)?,
        Task::Test(arguments) => return ci::test(&arguments),
        Task::Ci => return ci::test(&ci::TestArguments::default()),
        Task::E2e(arguments) => e2e::run(&arguments)?,
        Task::Bench(arguments) => bench::run(&arguments)?,
        Task::Kernels(arguments) => return kernels::run(&arguments),
        Task::Tidy => tidy::run()?,
        Task::Toolchain => toolchain::show()?,
    }
    Ok(ExitCode::SUCCESS)
}
