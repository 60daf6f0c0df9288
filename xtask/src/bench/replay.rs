//! `bench replay`: how fast the agent replays a capture, whole pipeline, on one core, and what memory it takes.
//!
//! Captures are made for it and read once before, so that they lie in the page cache. The agent is held on one core; its
//! own CPU time is what counts, so that other work on the machine counts little.

use std::{
    fs, io,
    mem::MaybeUninit,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;

mod traffic;

use super::quantile::Spread;
use crate::{command, workspace};
use traffic::{Traffic, Written};

/// Arguments of `bench replay`.
#[derive(Args)]
pub struct ReplayArguments {
    /// Mebibytes of each capture; memory is compared with captures of a quarter of this
    #[arg(long, default_value_t = 1024)]
    mebibytes: u64,
    /// Replays of each capture
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// Name, whether it is to be judged by packets (else by bytes), what is in it. Flows come and go at the pace of a busy host,
/// with more open at once of a busier one; with 1,000 open, a quarter of a capture already lasts longer than any time-out
/// that a closed flow has.
const CAPTURES: [(&str, bool, Traffic); 4] = [
    ("web, 1,000 open", false, Traffic { open: 1_000, segments: 40, segment_bytes: 800, spacing: 200_000 }),
    ("web, 50,000 open", false, Traffic { open: 50_000, segments: 40, segment_bytes: 800, spacing: 20_000 }),
    ("small frames, 1,000 open", true, Traffic { open: 1_000, segments: 200, segment_bytes: 6, spacing: 30_000 }),
    ("small frames, 50,000 open", true, Traffic { open: 50_000, segments: 200, segment_bytes: 6, spacing: 30_000 }),
];

/// What one replay took.
struct Taken {
    cpu: Duration,
    resident_bytes: u64,
}

/// Measures and prints.
pub fn measure(agent: &Path, arguments: &ReplayArguments) -> Result<()> {
    let folder = workspace::target().join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    let path = folder.join(format!("replay-{}.pcap", std::process::id()));
    let outcome = CAPTURES.iter().try_for_each(|capture| show(agent, &path, capture, arguments));
    let _ = fs::remove_file(&path);
    outcome
}

#[expect(clippy::cast_precision_loss, reason = "figures to three places")]
fn show(agent: &Path, path: &Path, capture: &(&str, bool, Traffic), arguments: &ReplayArguments) -> Result<()> {
    let (name, is_by_packets, traffic) = *capture;
    let small = replays(agent, path, traffic, arguments.mebibytes << 18, 1)?;
    let (written, taken) = replays(agent, path, traffic, arguments.mebibytes << 20, arguments.rounds)?;
    let rate = |total: u64| Spread::of(taken.iter().map(|taken| total as f64 / taken.cpu.as_secs_f64()).collect());
    let (bytes, packets) = (rate(written.bytes).median / 1e9, rate(written.frames).median / 1e6);
    let (verdict, bar) = if is_by_packets { (packets, 3.0) } else { (bytes, 1.0) };
    println!(
        "{name:<26} {:>5.0} B/frame {:>6.1} frames/flow {bytes:>6.2} GB/s {packets:>6.2} M packets/s {}",
        written.bytes as f64 / written.frames as f64 - 16.0,
        written.frames as f64 / written.flows as f64,
        if verdict < bar { "  below the bar" } else { "" },
    );
    let most = |taken: &[Taken]| taken.iter().map(|taken| taken.resident_bytes).max().unwrap_or(0) as f64 / 1048576.0;
    println!("{:<26} {:.1} MiB resident at most; {:.1} MiB with a quarter of it", "", most(&taken), most(&small.1));
    Ok(())
}

/// Writes a capture and replays it.
fn replays(agent: &Path, path: &Path, traffic: Traffic, bytes: u64, rounds: usize) -> Result<(Written, Vec<Taken>)> {
    let written =
        traffic::write(path, traffic, bytes).with_context(|| format!("failed to write {}", path.display()))?;
    let taken = (0..rounds).map(|_| replay(agent, path)).collect::<Result<_>>()?;
    Ok((written, taken))
}

fn replay(agent: &Path, path: &Path) -> Result<Taken> {
    let mut replay = Command::new(agent);
    replay.arg("replay").arg(path).arg("--json").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and exec only a system call is made.
    unsafe { replay.pre_exec(hold_on_one_core) };
    let child = replay.spawn().with_context(|| format!("failed to start {}", command::shown(&replay)))?;
    let (status, taken) = wait(child).context("failed to wait for the replay")?;
    if status != 0 {
        bail!("{} failed with status {status}", command::shown(&replay));
    }
    Ok(taken)
}

/// Holds this process on the last of the cores that it may use.
fn hold_on_one_core() -> io::Result<()> {
    // SAFETY: the set is a plain bit field, of which all zeros is the empty one; both calls get its size.
    unsafe {
        let mut cores: libc::cpu_set_t = MaybeUninit::zeroed().assume_init();
        if libc::sched_getaffinity(0, size_of_val(&cores), &raw mut cores) != 0 {
            return Err(io::Error::last_os_error());
        }
        let last = (0..libc::CPU_SETSIZE as usize).rev().find(|core| libc::CPU_ISSET(*core, &cores));
        libc::CPU_ZERO(&mut cores);
        libc::CPU_SET(last.unwrap_or(0), &mut cores);
        match libc::sched_setaffinity(0, size_of_val(&cores), &raw const cores) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Waits for a child, with what it took.
#[expect(clippy::needless_pass_by_value, reason = "nobody else is to wait for it")]
fn wait(child: Child) -> io::Result<(i32, Taken)> {
    let (mut status, mut usage) = (0, MaybeUninit::<libc::rusage>::zeroed());
    // SAFETY: both pointers are to live values; the child has not been waited for. All zeros is a valid rusage.
    let usage = unsafe {
        if libc::wait4(child.id().cast_signed(), &raw mut status, 0, usage.as_mut_ptr()) < 0 {
            return Err(io::Error::last_os_error());
        }
        usage.assume_init()
    };
    let duration = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs()) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    let resident_bytes = usage.ru_maxrss.unsigned_abs() * 1024;
    Ok((status, Taken { cpu: duration(usage.ru_utime) + duration(usage.ru_stime), resident_bytes }))
}
