//! The kernels as steps of a test run.

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    Kernel,
    emulator::Emulator,
    guest::{self, Guest},
    image::Image,
    initramfs::{self, Initramfs},
};
use crate::{
    ci::{Counts, Outcome, Verdict},
    clock::Stopwatch,
    command, e2e, workspace,
};

/// Which tests a guest runs, as arguments of the test program, and how long that may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    filters: Vec<String>,
    limit: Duration,
}

/// What every run of CI has time for: the path from a socket to an alert, a hash and a recording, sockets older than the
/// agent, ownership in every way that sockets change hands, bytes against the interface's counters, sockets with and without
/// a slot, and the ledger where it depends on how the kernel's sockets are swept.
const COMMON: [&str; 9] = [
    "spine::",
    "older::",
    "ownership::",
    "bytes::",
    "slots::",
    "ledger::connections",
    "ledger::ordinary",
    "--skip",
    "spine::a_thousand",
];
/// The tests bound themselves; these bound a hang of the guest. Two emulated machines side by side on two
/// processors take [`COMMON`] five minutes; all tests were never timed in one guest.
const COMMON_LIMIT: Duration = Duration::from_secs(20 * 60);
const WHOLE_LIMIT: Duration = Duration::from_secs(120 * 60);

impl Selection {
    /// What every run of CI has time for.
    pub fn common() -> Self {
        Self { filters: COMMON.map(str::to_owned).to_vec(), limit: COMMON_LIMIT }
    }

    /// What these arguments of the test program choose; every test where there are none.
    pub fn of(filters: &[String]) -> Self {
        Self { filters: filters.to_vec(), limit: WHOLE_LIMIT }
    }
}

/// Emulation makes computing 5 to 7 times slower, a busy host more; the tests' deadlines are stretched by this.
const PATIENCE: u32 = 8;

/// The guest's command. What it prints after `guest:` is read below.
fn guest_command(filters: &[String]) -> String {
    let quoted: Vec<String> = filters.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    let tests = format!("/test/deps/e2e --test-threads 1 {}", quoted.join(" "));
    format!(
        "export PKTSCOPE_BIN=/test/pktscope PKTSCOPE_TEST_PATIENCE={PATIENCE} RUST_BACKTRACE=1\n\
         uname -r\n\
         /test/pktscope doctor\n\
         echo \"guest: doctor $?\"\n\
         {tests}\n\
         echo \"guest: e2e $?\"\n"
    )
}

/// Boots each kernel, some at a time, with the agent and its tests inside; what cannot be had is skipped aloud.
pub fn steps(kernels: &[Kernel], tests: &e2e::Programs, selection: &Selection) -> Vec<Outcome> {
    match Equipment::prepare(tests, selection) {
        Ok(equipment) => boot_all(kernels, &equipment),
        Err(reason) => kernels.iter().map(|kernel| skipped(*kernel, &reason)).collect(),
    }
}

fn name_of(kernel: Kernel) -> String {
    format!("kernel {}", kernel.series)
}

fn skipped(kernel: Kernel, reason: &anyhow::Error) -> Outcome {
    Outcome::single(&name_of(kernel), Verdict::Skipped(format!("NOT TESTED: {reason:#}")))
}

/// What every guest shares.
struct Equipment {
    emulator: Emulator,
    packed: PathBuf,
    limit: Duration,
}

impl Equipment {
    /// Gets the emulator, and packs what every guest has.
    fn prepare(tests: &e2e::Programs, selection: &Selection) -> Result<Self> {
        if !cfg!(target_arch = "x86_64") {
            bail!("only x86-64 kernels are booted");
        }
        let emulator = Emulator::obtain()?;
        let guests = workspace::target().join("kernels/guests");
        let root = Initramfs::new(guests.join("root"), &emulator.busybox)?;
        root.write("command", &guest_command(&selection.filters))?;
        root.add_program(&tests.agent, Path::new("test/pktscope"))?;
        root.add_program(&tests.e2e, Path::new("test/deps/e2e"))?;
        for program in &tests.beside {
            let name = program.file_name().context("a program has a name")?;
            root.add_program(program, &Path::new("test").join(name))?;
        }
        let packed = guests.join("initramfs");
        root.pack(&packed)?;
        Ok(Self { packed, emulator, limit: selection.limit })
    }
}

/// As many guests at a time as there are processors: each is one busy thread.
fn boot_all(kernels: &[Kernel], equipment: &Equipment) -> Vec<Outcome> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(kernels.len());
    let waiting = Mutex::new(kernels.iter().copied().enumerate().rev().collect::<Vec<_>>());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let next = || waiting.lock().expect("no guest panics").pop();
                while let Some((at, kernel)) = next() {
                    let outcome = boot(kernel, equipment);
                    done.lock().expect("no guest panics").push((at, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no guest panics");
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, outcome)| outcome).collect()
}

fn boot(kernel: Kernel, equipment: &Equipment) -> Outcome {
    let watch = Stopwatch::start();
    let outcome = match Image::obtain(kernel, &equipment.emulator.busybox) {
        Ok(image) => run(kernel, &image, equipment)
            .unwrap_or_else(|reason| Outcome::single(&name_of(kernel), Verdict::Failed(format!("{reason:#}")))),
        Err(reason) => skipped(kernel, &reason),
    };
    Outcome { took: watch.elapsed(), ..outcome }
}

fn run(kernel: Kernel, image: &Image, equipment: &Equipment) -> Result<Outcome> {
    let folder = guest::folder(kernel.series)?;
    let initramfs = initramfs::with_modules(&equipment.packed, image, &folder, &equipment.emulator.busybox)?;
    let guest = Guest { emulator: &equipment.emulator, image, initramfs: &initramfs, folder: &folder };
    let report = guest::boot(&guest, equipment.limit, |line| command::show(&format!("[{}] {line}", kernel.series)))?;
    Ok(judge(kernel, &image.version, &report))
}

/// The doctor is one case, the tests are as many as they say.
fn judge(kernel: Kernel, version: &str, report: &guest::Report) -> Outcome {
    let mut counts = Counts::default();
    report.output.lines().for_each(|line| counts.take_line(line));
    let status = |name: &str| parse_status(&report.output, name);
    let is_well = report.status == 0 && status("doctor") == Some(0);
    if is_well {
        counts.passed += 1
    } else {
        counts.failed += 1
    }
    let verdict = match (is_well, status("e2e")) {
        (true, Some(0)) => Verdict::Passed,
        (false, _) => Verdict::Failed(format!("{version}: doctor gave {:?}", status("doctor"))),
        (_, code) => Verdict::Failed(format!("{version}: the tests gave {code:?}")),
    };
    Outcome::of_cases(&name_of(kernel), verdict, counts)
}

fn parse_status(output: &str, name: &str) -> Option<i32> {
    let line = output.lines().find_map(|line| line.strip_prefix("guest: ")?.strip_prefix(name))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(output: &str, is_passed: bool, passed: u64, failed: u64) {
        let report = guest::Report { output: output.into(), status: 0 };
        let outcome = judge(Kernel::extremes()[0], "5.10.0", &report);
        assert_eq!(outcome.verdict == Verdict::Passed, is_passed, "{outcome:?}");
        assert_eq!((outcome.counts.passed, outcome.counts.failed), (passed, failed));
    }

    #[test]
    fn filters_reach_the_tests_as_they_are() {
        let command = guest_command(&["a b".into(), "it's".into()]);
        assert!(command.contains("--test-threads 1 'a b' 'it'\\''s'\n"), "{command}");
    }

    #[test]
    fn a_guest_passes_where_doctor_and_every_test_do() {
        check("guest: doctor 0\ntest result: ok. 4 passed; 0 failed; 0 ignored\nguest: e2e 0\n", true, 5, 0);
        check("guest: doctor 3\ntest result: ok. 4 passed; 0 failed; 0 ignored\nguest: e2e 0\n", false, 4, 1);
        check("guest: doctor 0\ntest result: FAILED. 3 passed; 1 failed; 0 ignored\nguest: e2e 101\n", false, 4, 1);
        check("guest: doctor 0\n", false, 1, 1);
        check("", false, 0, 1);
    }
}
