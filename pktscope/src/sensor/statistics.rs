//! What each program costs: for `bench kernel`, so that a regression is seen before a user sees it.

use std::{
    fs,
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use aya::{Ebpf, programs::Program};

/// One program's size and what its runs have cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramStatistics {
    /// The program's name in the object.
    pub program: String,
    /// Instructions that the verifier walked; 0 below Linux 5.16.
    pub verified_instructions: u32,
    /// Bytes of machine code.
    pub machine_code_bytes: u32,
    /// Runs while statistics were enabled.
    pub runs: u64,
    /// Time that those took together.
    pub run_time: Duration,
}

impl ProgramStatistics {
    /// Nanoseconds a run; 0 where there was none.
    pub fn nanoseconds_per_run(&self) -> f64 {
        if self.runs == 0 { 0.0 } else { self.run_time.as_nanos() as f64 / self.runs as f64 }
    }
}

/// Programs of which one is run where the kernel skips the other.
const TWINS: [&str; 2] = ["tcp_destroy_sock", "tcp_destroy_again"];

/// How often programs were not run because an earlier run on the same processor was interrupted
/// (kernel/trace/bpf_trace.c, `__bpf_trace_run`), and no other was in their stead. The kernel counts that since Linux 5.12;
/// 0 below.
pub(super) fn missed_runs(ebpf: &Ebpf) -> u64 {
    let is_loaded = |name: &&str| ebpf.program(name).is_some_and(|program| program.fd().is_ok());
    let has_twins = TWINS.iter().all(is_loaded);
    let missed = |program: &Program| {
        let fd = program.fd().ok()?.as_fd().as_raw_fd();
        Some(number(&fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?, "recursion_misses:"))
    };
    let alone = ebpf.programs().filter(|(name, _)| !has_twins || !TWINS.contains(name));
    alone.filter_map(|(_, program)| missed(program)).sum()
}

/// Reads the statistics of every program that is loaded.
pub(super) fn read(ebpf: &Ebpf) -> Vec<ProgramStatistics> {
    ebpf.programs().filter_map(|(name, program)| read_one(name, program)).collect()
}

fn read_one(name: &str, program: &Program) -> Option<ProgramStatistics> {
    let info = program.info().ok()?;
    let fd = program.fd().ok()?.as_fd().as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
    Some(ProgramStatistics {
        program: name.to_owned(),
        verified_instructions: info.verified_instruction_count().unwrap_or(0),
        machine_code_bytes: info.size_jitted(),
        runs: number(&text, "run_cnt:"),
        run_time: Duration::from_nanos(number(&text, "run_time_ns:")),
    })
}

fn number(text: &str, label: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}
