//! An empty pair of `cgroup_skb` programs, the reference that costs whatever any program there costs; and what the
//! kernel knows of any program.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::PathBuf,
};

use anyhow::{Context, Result};

// Numbers of include/uapi/linux/bpf.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_ENABLE_STATS: libc::c_long = 32;
const BPF_STATS_RUN_TIME: u32 = 0;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
const BPF_CGROUP_INET_INGRESS: u32 = 0;
const BPF_CGROUP_INET_EGRESS: u32 = 1;
const BPF_TCX_EGRESS: u32 = 47;
/// `r0 = 1; exit`: let the packet pass.
const LET_PASS: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];
/// `r0 = -1; exit`: `TCX_NEXT`, go on with the next program.
const GO_ON: [u64; 2] = [0xffff_ffff_0000_00b7, 0x0000_0000_0000_0095];

/// The first fields of the `BPF_PROG_LOAD` part of `union bpf_attr`; the kernel takes the rest as zero.
#[repr(C)]
#[derive(Default)]
struct ProgramAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface_index: u32,
    expected_attach_type: u32,
}

/// The first fields of the `BPF_LINK_CREATE` part.
#[repr(C)]
#[derive(Default)]
struct LinkAttributes {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    relative: u64,
    revision: u64,
}

/// Both programs, attached to the root of the cgroup2 hierarchy until dropped.
pub struct EmptyPair {
    /// The egress program.
    pub egress: OwnedFd,
    /// The ingress program.
    pub ingress: OwnedFd,
    _links: [OwnedFd; 2],
}

impl EmptyPair {
    /// Loads and attaches both.
    pub fn attach() -> Result<Self> {
        let path = cgroup_root()?;
        let cgroup = File::open(&path).with_context(|| format!("failed to open {}", path.display()))?;
        let attach = |way, name: &[u8]| -> Result<(OwnedFd, OwnedFd)> {
            let program = load(BPF_PROG_TYPE_CGROUP_SKB, &LET_PASS, way, name)?;
            let link = link(&program, cgroup.as_raw_fd().cast_unsigned(), way)?;
            Ok((program, link))
        };
        let (egress, first) = attach(BPF_CGROUP_INET_EGRESS, b"bench_out")?;
        let (ingress, second) = attach(BPF_CGROUP_INET_INGRESS, b"bench_in")?;
        Ok(Self { egress, ingress, _links: [first, second] })
    }
}

/// An empty program on the way out of an interface, until dropped.
pub struct EmptyClassifier {
    /// The program.
    pub program: OwnedFd,
    _link: OwnedFd,
}

impl EmptyClassifier {
    /// Loads it and attaches it to an interface of the calling thread's network namespace, behind what is there.
    pub fn attach(interface: u32) -> Result<Self> {
        let program = load(BPF_PROG_TYPE_SCHED_CLS, &GO_ON, 0, b"bench_tc")?;
        let link = link(&program, interface, BPF_TCX_EGRESS)?;
        Ok(Self { program, _link: link })
    }
}

fn load(program_type: u32, instructions: &[u64; 2], expected_attach_type: u32, name: &[u8]) -> Result<OwnedFd> {
    let mut attributes = ProgramAttributes {
        program_type,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type,
        ..ProgramAttributes::default()
    };
    attributes.name[..name.len()].copy_from_slice(name);
    bpf(BPF_PROG_LOAD, &attributes).context("failed to load an empty program")
}

fn link(program: &OwnedFd, target: u32, attach_type: u32) -> Result<OwnedFd> {
    let program = program.as_raw_fd().cast_unsigned();
    let attributes = LinkAttributes { program, target, attach_type, ..LinkAttributes::default() };
    bpf(BPF_LINK_CREATE, &attributes).context("failed to attach an empty program")
}

/// Makes the kernel time every program until dropped.
pub struct Statistics(#[expect(dead_code, reason = "held for its drop")] OwnedFd);

impl Statistics {
    /// From now on.
    pub fn enable() -> Result<Self> {
        Ok(Self(bpf(BPF_ENABLE_STATS, &BPF_STATS_RUN_TIME).context("failed to enable statistics of programs")?))
    }
}

/// What the kernel knows of a program: the fields of `struct bpf_prog_info` that are used here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Its name, cut to 15 bytes.
    pub name: String,
    /// Its instructions after the verifier's rewriting.
    pub instructions: u32,
    /// Instructions that the verifier walked; 0 before Linux 5.16.
    pub verified_instructions: u32,
    /// When its loading began, nanoseconds since boot.
    pub loaded_at: u64,
    /// Time spent in it while statistics were enabled, nanoseconds.
    pub run_nanoseconds: u64,
    /// How often it ran meanwhile.
    pub runs: u64,
}

impl ProgramInfo {
    /// Of a program that this process holds.
    pub fn of(program: &OwnedFd) -> Result<Self> {
        let mut buffer = [0; INFO_BYTES];
        let attributes = InfoAttributes {
            program: program.as_raw_fd().cast_unsigned(),
            length: u32::try_from(buffer.len()).context("a buffer is small")?,
            buffer: buffer.as_mut_ptr() as u64,
        };
        command(BPF_OBJ_GET_INFO_BY_FD, &attributes).context("failed to ask the kernel after a program")?;
        Ok(Self::parse(&buffer))
    }

    /// Of every program that another process holds, in the order of their loading.
    pub fn of_process(pid: u32) -> Result<Vec<Self>> {
        let folder = format!("/proc/{pid}/fdinfo");
        let entries = fs::read_dir(&folder).with_context(|| format!("failed to list {folder}"))?;
        let texts = entries.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
        let ids: BTreeSet<u32> = texts.filter_map(|text| parse_program_id(&text)).collect();
        let programs = ids.into_iter().map(|id| bpf(BPF_PROG_GET_FD_BY_ID, &id).context("failed to open a program"));
        let mut infos = programs.map(|program| Self::of(&program?)).collect::<Result<Vec<_>>>()?;
        infos.sort_by_key(|info| info.loaded_at);
        Ok(infos)
    }

    /// Offsets of include/uapi/linux/bpf.h, struct bpf_prog_info; the kernel leaves what it does not know as it was.
    fn parse(info: &[u8; INFO_BYTES]) -> Self {
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| info[at + byte]));
        let long = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| info[at + byte]));
        let name = info[64..80].split(|byte| *byte == 0).next().unwrap_or_default();
        Self {
            name: String::from_utf8_lossy(name).into_owned(),
            instructions: word(20) / 8,
            verified_instructions: word(216),
            loaded_at: long(40),
            run_nanoseconds: long(192),
            runs: long(200),
        }
    }
}

/// `struct bpf_prog_info` up to `verified_insns`.
const INFO_BYTES: usize = 224;

/// The `BPF_OBJ_GET_INFO_BY_FD` part of `union bpf_attr`.
#[repr(C)]
struct InfoAttributes {
    program: u32,
    length: u32,
    buffer: u64,
}

fn parse_program_id(fdinfo: &str) -> Option<u32> {
    fdinfo.lines().find_map(|line| line.strip_prefix("prog_id:"))?.trim().parse().ok()
}

/// The system call, for commands that give a descriptor.
fn bpf<T>(number: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    let fd = command(number, attributes)?;
    // SAFETY: the kernel has just given this descriptor to this process alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The system call, and what it gives.
fn command<T>(number: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: the attributes live through the call and their size is theirs; buffers they name outlive it too.
    let given = unsafe { libc::syscall(libc::SYS_bpf, number, std::ptr::from_ref(attributes), size_of::<T>()) };
    i32::try_from(given).ok().filter(|given| 0 <= *given).ok_or_else(io::Error::last_os_error)
}

/// The root of the cgroup2 hierarchy; a hybrid host has it below `/sys/fs/cgroup`.
pub fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("failed to read /proc/self/mounts")?;
    parse_cgroup_root(&mounts).context("no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

fn parse_cgroup_root(mounts: &str) -> Option<PathBuf> {
    let mut words = mounts.lines().map(|line| line.split(' '));
    words.find_map(|mut words| {
        let path = words.nth(1)?;
        (words.next() == Some("cgroup2")).then(|| path.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_on_pure_and_hybrid_hosts() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(parse_cgroup_root(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(parse_cgroup_root("proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn a_program_is_known_by_the_id_beside_its_descriptor() {
        assert_eq!(parse_program_id("pos:\t0\nprog_type:\t8\nprog_id:\t42\n"), Some(42));
        assert_eq!(parse_program_id("pos:\t0\n"), None);
    }

    #[test]
    fn attributes_have_the_kernels_layout() {
        assert_eq!(std::mem::offset_of!(ProgramAttributes, name), 48);
        assert_eq!(std::mem::offset_of!(ProgramAttributes, expected_attach_type), 68);
        assert_eq!(size_of::<LinkAttributes>(), 32);
    }
}
