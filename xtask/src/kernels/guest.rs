//! One guest: boots, runs its command, gives what it printed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{emulator::Emulator, image::Image};
use crate::{command, workspace};

/// The test program keeps every event of 20,000 flows; what a guest does not touch takes no memory.
const MEMORY_MEGABYTES: u32 = 2048;

/// What a guest did.
pub struct Report {
    /// What its command printed.
    pub output: String,
    /// Its command's exit status.
    pub status: i32,
}

/// Boots the kernel with this file system, hands on what its command prints as it comes, and waits for its end.
///
/// # Errors
///
/// With the end of the kernel's console where the guest gave no status: it crashed, or took longer than `limit`.
pub fn boot(guest: &Guest<'_>, limit: Duration, on_line: impl Fn(&str)) -> Result<Report> {
    for name in ["console", "status"] {
        let path = guest.folder.join(name);
        fs::write(&path, "").with_context(|| format!("failed to write {}", path.display()))?;
    }
    let mut output = String::new();
    let ended = command::follow(&mut guest.emulation(), limit, |line| {
        on_line(line);
        output.push_str(line);
        output.push('\n');
    })?;
    let read = |name: &str| fs::read(guest.folder.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let status = read("status").context("failed to read a guest's status")?;
    match parse_status(&status) {
        Some(status) => Ok(Report { output, status }),
        None => bail!("the guest ended without a status ({ended}):\n{}{}", tail(&output), tail(&read("console")?)),
    }
}

/// What a guest is made of.
pub struct Guest<'a> {
    /// What emulates its processor.
    pub emulator: &'a Emulator,
    /// Its kernel.
    pub image: &'a Image,
    /// Its file system.
    pub initramfs: &'a Path,
    /// Where its console and its status go.
    pub folder: &'a Path,
}

impl Guest<'_> {
    /// Its first serial line is the kernel's console, the second what its command prints, the third its status.
    fn emulation(&self) -> Command {
        let mut qemu = self.emulator.command();
        qemu.args(["-machine", "pc,usb=off,vmport=off", "-smp", "1", "-nodefaults", "-no-user-config"]);
        qemu.args(accelerator()).args(["-m", &MEMORY_MEGABYTES.to_string()]);
        qemu.args(["-display", "none", "-monitor", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(&self.image.kernel).arg("-initrd").arg(self.initramfs);
        qemu.args(["-append", &kernel_arguments()]);
        qemu.arg("-serial").arg(format!("file:{}", self.folder.join("console").display()));
        qemu.args(["-chardev", "stdio,id=output,signal=off", "-serial", "chardev:output"]);
        qemu.arg("-serial").arg(format!("file:{}", self.folder.join("status").display()));
        qemu
    }
}

/// A /dev/kvm that opens is not enough: without the processor's flag it cannot run a stock kernel.
fn accelerator() -> [&'static str; 4] {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has_flag = processor.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    let is_open = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
    if has_flag && is_open {
        return ["-accel", "kvm", "-cpu", "host"];
    }
    // Told that strings are moved fast (erms, fsrm), kernels copy byte by byte with one instruction, which the emulator takes
    // a step for each: the agent starts in 6.7 s without it and in 10.3 s with it, on 5.10.
    ["-accel", "tcg,thread=multi", "-cpu", "max,-erms,-fsrm"]
}

fn kernel_arguments() -> String {
    let fixed = "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off edd=off no_timer_check nokaslr \
                 random.trust_cpu=on nmi_watchdog=0 8250.nr_uarts=4";
    // Calibrated on a busy host, the guest's clock runs up to twice too fast: hand it the host's rate.
    let log = command::output(&mut Command::new("dmesg")).unwrap_or_default();
    parse_tsc_rate(&log).map_or(fixed.to_owned(), |khz| format!("{fixed} tsc_early_khz={khz}"))
}

/// The rate in kHz from the kernel's line `tsc: Detected 2445.406 MHz processor`.
fn parse_tsc_rate(log: &str) -> Option<u64> {
    let rate = log.split("tsc: Detected ").nth(1)?.split(" MHz").next()?;
    let (whole, thousandths) = rate.split_once('.')?;
    format!("{whole}{thousandths}").parse().ok().filter(|_| thousandths.len() == 3)
}

fn parse_status(text: &str) -> Option<i32> {
    text.lines().rev().find_map(|line| line.trim().strip_prefix("status=")?.parse().ok())
}

fn tail(text: &str) -> String {
    const LINES: usize = 25;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].iter().map(|line| format!("    {line}\n")).collect()
}

/// The folder of one guest's files.
pub fn folder(series: &str) -> Result<PathBuf> {
    let folder = workspace::target().join("kernels/guests").join(series);
    fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_rate_is_read_from_the_log() {
        assert_eq!(parse_tsc_rate("[    0.000000] tsc: Detected 2445.406 MHz processor\n"), Some(2_445_406));
        assert_eq!(parse_tsc_rate("no such line"), None);
    }

    #[test]
    fn only_a_status_line_is_a_status() {
        assert_eq!(parse_status("noise\nstatus=101\n"), Some(101));
        assert_eq!(parse_status("status=\n"), None);
        assert_eq!(parse_status(""), None);
    }
}
