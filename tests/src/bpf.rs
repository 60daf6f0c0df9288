//! Somebody else's traffic control programs, by plain system calls: what the agent must leave alone.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;

// Numbers of include/uapi/linux/bpf.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_EGRESS: u32 = 47;
/// `r0 = 0; exit`: `TC_ACT_OK`, which is the last word on a packet.
const LET_PASS: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
/// More programs than anybody hangs on a test's interface.
const PROGRAMS: usize = 16;

/// The first fields of the `BPF_PROG_LOAD` part of `union bpf_attr`; the kernel takes the rest as zero.
#[repr(C)]
struct Load {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The `BPF_LINK_CREATE` part, as TCX has it.
#[repr(C)]
struct Link {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
    relative: u64,
    revision: u64,
}

/// The `BPF_PROG_QUERY` part, as TCX has it.
#[repr(C)]
#[derive(Default)]
struct Query {
    interface: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    reserved: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// A program that lets every packet pass and has the last word on it, at an interface's way out until dropped.
#[derive(Debug)]
pub struct Foreign {
    _link: OwnedFd,
}

impl Foreign {
    /// Attaches it by TCX, behind whatever is there.
    ///
    /// # Errors
    /// Where the kernel has no TCX or refuses.
    pub fn attach(namespace: &Namespace, device: &str) -> Result<Self> {
        let load = Load {
            program_type: BPF_PROG_TYPE_SCHED_CLS,
            instruction_count: 2,
            instructions: LET_PASS.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
        };
        let program = bpf(BPF_PROG_LOAD, &load).map(own).context("failed to load a foreign program")?;
        let link = Link {
            program: program.as_raw_fd().unsigned_abs(),
            interface: index(namespace, device)?,
            attach_type: BPF_TCX_EGRESS,
            flags: 0,
            relative: 0,
            revision: 0,
        };
        // TCX looks the interface up in the caller's network namespace.
        let link = namespace.run(|| bpf(BPF_LINK_CREATE, &link)).map(own);
        Ok(Self { _link: link.context("failed to attach a foreign program")? })
    }
}

/// Ids of the TCX programs on an interface's way out, in the order in which they run; none where the kernel has no TCX.
///
/// # Errors
/// Where the interface is not there.
pub fn tcx_programs(namespace: &Namespace, device: &str) -> Result<Vec<u32>> {
    let mut ids = [0_u32; PROGRAMS];
    let query = Query {
        interface: index(namespace, device)?,
        attach_type: BPF_TCX_EGRESS,
        program_ids: ids.as_mut_ptr() as u64,
        count: PROGRAMS as u32,
        ..Query::default()
    };
    match namespace.run(|| bpf(BPF_PROG_QUERY, &query)) {
        Ok(_) => Ok(ids.into_iter().take_while(|id| *id != 0).collect()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(Vec::new()),
        Err(error) => Err(error).context("failed to ask after an interface's programs"),
    }
}

/// An interface's index.
///
/// # Errors
/// Where it is not there.
fn index(namespace: &Namespace, device: &str) -> Result<u32> {
    let name = CString::new(device)?;
    // SAFETY: the name is a C string.
    let index = namespace.run(|| unsafe { libc::if_nametoindex(name.as_ptr()) });
    ensure!(index > 0, "no interface {device}");
    Ok(index)
}

fn own(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just given this descriptor to this process alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn bpf<T>(number: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attributes live through the call and their size is theirs; buffers they name outlive it too.
    let given = unsafe { libc::syscall(libc::SYS_bpf, number, std::ptr::from_ref(attributes), size_of::<T>()) };
    i32::try_from(given).ok().filter(|given| 0 <= *given).ok_or_else(io::Error::last_os_error)
}
