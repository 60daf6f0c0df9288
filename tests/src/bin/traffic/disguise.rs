//! What makes a process hard to name.

use std::{
    env,
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, FromRawFd},
        unix::ffi::OsStringExt,
    },
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

#[derive(Debug, Args)]
pub struct Disguise {
    /// Change the kernel's name for this process.
    #[arg(long)]
    comm: Option<String>,
    /// Delete the executable first.
    #[arg(long)]
    unlink: bool,
    /// Give up root for this user first.
    #[arg(long)]
    user: Option<u32>,
    /// Work on a second thread.
    #[arg(long)]
    pub thread: bool,
    /// Work in a forked child with this process id.
    #[arg(long)]
    pub as_pid: Option<i32>,
    /// Copy the executable to memory and run from there.
    #[arg(long)]
    pub memfd: bool,
}

impl Disguise {
    /// Applies what was asked for, but for `thread` and `memfd`.
    pub fn put_on(&self) -> Result<()> {
        if let Some(comm) = &self.comm {
            fs::write("/proc/self/comm", comm).context("failed to change comm")?;
        }
        if self.unlink {
            let path = env::current_exe()?;
            fs::remove_file(&path).with_context(|| format!("failed to delete {}", path.display()))?;
        }
        if let Some(user) = self.user {
            // SAFETY: setuid takes an integer.
            ensure!(unsafe { libc::setuid(user) } == 0, "failed to become {user}: {}", io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Forks a child with a process id of choice (clone3(2), `set_tid`), which must be free; gives 0 in the child.
pub fn fork_as(pid: i32) -> Result<i32> {
    // SAFETY: clone_args is plain data, valid when zeroed.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    (arguments.set_tid, arguments.set_tid_size) = ((&raw const pid) as u64, 1);
    // SAFETY: without CLONE_VM this is a fork of a process with one thread; the structure outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) };
    ensure!(result >= 0, "clone3 as {pid}: {}", io::Error::last_os_error());
    Ok(i32::try_from(result)?)
}

/// Replaces this process with a copy of its own image that has no file.
pub fn run_from_memory() -> Result<()> {
    // SAFETY: the name is a C string; the result is checked below.
    let fd = unsafe { libc::memfd_create(c"traffic-in-memory".as_ptr(), libc::MFD_CLOEXEC) };
    ensure!(fd >= 0, "memfd_create: {}", io::Error::last_os_error());
    // SAFETY: the descriptor was just opened and has no other owner.
    let mut memory = unsafe { File::from_raw_fd(fd) };
    io::copy(&mut File::open("/proc/self/exe")?, &mut memory).context("failed to copy the image")?;
    let arguments = env::args_os().filter(|argument| argument != "--memfd");
    let arguments = arguments.map(|argument| CString::new(argument.into_vec())).collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<_> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    pointers.push(std::ptr::null());
    let environment = [std::ptr::null()];
    // SAFETY: both arrays end with a null pointer and outlive the call; it only returns where it failed.
    unsafe { libc::fexecve(memory.as_raw_fd(), pointers.as_ptr(), environment.as_ptr()) };
    bail!("fexecve: {}", io::Error::last_os_error())
}
