//! CPU time, counted two ways.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

/// CPU time used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// All that the machine's processors did, from `/proc/stat`: sampled at ticks of 10 ms, other programs included.
    pub machine: Duration,
    /// The load generators and the kernel's softirq threads, to the nanosecond, other programs left out.
    pub tasks: Duration,
    /// The agent's part of both.
    pub agent: Duration,
}

impl Reading {
    /// Now.
    pub fn take() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("failed to read /proc/stat")?;
        let machine = parse_machine(&stat).context("/proc/stat has no line of all processors")?;
        Ok(Self { machine, tasks: own_time() + softirq_time(), agent: Duration::ZERO })
    }

    /// What was used since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            machine: self.machine.saturating_sub(earlier.machine),
            tasks: self.tasks.saturating_sub(earlier.tasks),
            agent: self.agent.saturating_sub(earlier.agent),
        }
    }
}

/// user, nice, system, irq and softirq of the first line; idle, iowait and time stolen by the hypervisor are not work.
fn parse_machine(stat: &str) -> Option<Duration> {
    /// USER_HZ, which Linux fixes for user space on every architecture that matters here.
    const TICK: Duration = Duration::from_millis(10);
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u32> = line.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let work: u32 = [0, 1, 2, 5, 6].iter().filter_map(|at| fields.get(*at)).sum();
    Some(TICK * work)
}

/// CPU time of every thread that this process has or had.
fn own_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    let seconds = Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0));
    seconds + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// CPU time of the kernel's ksoftirqd threads, which take over packets when there are many.
fn softirq_time() -> Duration {
    let Ok(processes) = fs::read_dir("/proc") else { return Duration::ZERO };
    let folders = processes.flatten().map(|entry| entry.path());
    let is_softirq = |folder: &std::path::PathBuf| {
        fs::read_to_string(folder.join("comm")).is_ok_and(|name| name.starts_with("ksoftirqd/"))
    };
    folders.filter(is_softirq).filter_map(|folder| run_time(&folder.join("schedstat"))).sum()
}

/// CPU time of all threads of a process.
pub fn process_time(pid: u32) -> Duration {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    threads.flatten().filter_map(|thread| run_time(&thread.path().join("schedstat"))).sum()
}

/// The first field of a `schedstat` file: nanoseconds on a processor.
fn run_time(path: &std::path::Path) -> Option<Duration> {
    let text = fs::read_to_string(path).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_and_stolen_time_are_not_work() {
        let stat = "cpu  100 20 30 9999 888 4 5 777 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(parse_machine(stat), Some(Duration::from_millis(1590)));
        assert_eq!(parse_machine("intr 1"), None);
    }

    #[test]
    fn work_of_this_process_is_counted() {
        let before = Reading::take().unwrap();
        let until = own_time() + Duration::from_millis(20);
        while own_time() < until {}
        let used = Reading::take().unwrap().since(before);
        assert!(Duration::from_millis(15) < used.tasks, "{used:?}");
    }
}
