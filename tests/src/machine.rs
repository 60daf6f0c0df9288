//! What this machine can do, and skipping aloud what it can't.

use std::{fs, io::Write, path::Path, process::Command};

/// Returns from the test, aloud, where `$reason` (an `Option<String>`) is given.
#[macro_export]
macro_rules! skip_if {
    ($reason:expr) => {
        if let Some(reason) = $reason {
            $crate::machine::skip(&reason);
            return;
        }
    };
}

/// Says that the calling test is skipped, past libtest's capture, on a line of its own.
pub fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("\nskipped: {}: {reason}\n", thread.name().unwrap_or("main"));
    std::io::stdout().write_all(line.as_bytes()).expect("standard output takes a line");
}

/// Why no end-to-end test can run here.
pub fn missing_privilege() -> Option<String> {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return Some("needs root: run `cargo xtask e2e`".into());
    }
    if !fs::exists("/sys/kernel/btf/vmlinux").unwrap_or(false) {
        return Some("the kernel has no BTF (/sys/kernel/btf/vmlinux)".into());
    }
    missing_program("ip")
}

/// Why a test that needs `program` can't run here.
pub fn missing_program(program: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    (!found).then(|| format!("`{program}` is not installed"))
}

/// Why a test that needs iproute2's `tc` can't run here: busybox has one that knows little.
pub fn missing_tc() -> Option<String> {
    let version = Command::new("tc").arg("-V").output().map(|output| output.stdout).unwrap_or_default();
    (!String::from_utf8_lossy(&version).contains("iproute2")).then(|| "iproute2's `tc` is not installed".into())
}

/// Why a test that needs this kind of socket can't run here.
pub fn missing_socket(name: &str, domain: i32, kind: i32, protocol: i32) -> Option<String> {
    // SAFETY: socket takes three integers.
    let fd = unsafe { libc::socket(domain, kind, protocol) };
    if fd < 0 {
        return Some(format!("this kernel has no {name} sockets: {}", std::io::Error::last_os_error()));
    }
    // SAFETY: the descriptor was opened above and is used nowhere else.
    unsafe { libc::close(fd) };
    None
}

/// Why a test that needs a kernel of at least this version can't run here.
pub fn older_than(major: u32, minor: u32) -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut parts = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let running = (parts.next()?, parts.next()?);
    (running < (major, minor)).then(|| format!("needs Linux {major}.{minor}, this is {}", release.trim()))
}

/// Copies a program by another process: a descriptor of this one, open for writing while another test forks, would keep
/// the copy busy (`ETXTBSY`) until that child's exec.
pub fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").args(["--dereference", "--"]).args([from, to]).status();
    assert!(copied.is_ok_and(|status| status.success()), "failed to copy {} to {}", from.display(), to.display());
}

/// Runs a command to its end and gives its standard output.
///
/// # Panics
/// Where it can't be run or fails, with its standard error.
pub fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("failed to run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
