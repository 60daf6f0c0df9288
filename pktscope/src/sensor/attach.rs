//! Loads and attaches each program; a refusal is noted and the rest goes on.

use std::{
    error::Error,
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use aya::{
    Btf, Ebpf,
    maps::{Map, SkStorage},
    programs::{
        BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, FEntry, FExit,
        Iter, Program, ProgramError, SchedClassifier, SockOps,
    },
};
use pktscope_common::knobs::{FIELDS, Field, NO_OFFSET, features};

use super::{
    error::SensorError,
    hooks::{HOOKS, Hook, HookStatus, Kind, Need},
    load::KernelFacts,
    session::{self, SensorSettings, TrafficControl},
    snapshot, sys,
    walks::Walks,
};

/// What is attached.
pub(super) struct Attached {
    /// One for each hook, in order.
    pub(super) statuses: Vec<HookStatus>,
    /// What comes by the sockets.
    pub(super) walks: Walks,
    /// The devices' program, loaded; which devices there are is found out later and again.
    pub(super) device_egress: Option<OwnedFd>,
    /// The same for what arrives.
    pub(super) device_ingress: Option<OwnedFd>,
}

/// Attaches every hook that this kernel lets us, and reads who holds the sockets that exist.
///
/// # Errors
/// [`SensorError::Required`] where a program is refused without which nothing can be counted, [`SensorError::System`]
/// where the snapshot cannot be read.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    settings: &SensorSettings,
    facts: &KernelFacts,
    cgroup: &File,
) -> Result<Attached, SensorError> {
    let btf = Btf::from_sys_fs()
        .map_err(|_| SensorError::BadBtf { path: super::load::VMLINUX_BTF.into(), reason: "aya cannot read it" })?;
    let mut attached = Attached {
        statuses: Vec::with_capacity(HOOKS.len()),
        walks: Walks::default(),
        device_egress: None,
        device_ingress: None,
    };
    for hook in HOOKS.iter().filter(|hook| hook.need != Need::Reference || settings.has_reference) {
        let reason = attach_hook(ebpf, hook, settings, facts, &btf, cgroup, &mut attached).err();
        if let (Some(reason), Need::Required) = (&reason, hook.need) {
            return Err(SensorError::Required { program: hook.program, reason: reason.clone() });
        }
        attached.statuses.push(HookStatus {
            program: hook.program,
            attach_point: hook.attach_point,
            is_attached: reason.is_none(),
            lost_without: if reason.is_some() { hook.loss() } else { hook.lost_without },
            reason,
        });
    }
    Ok(attached)
}

fn attach_hook(
    ebpf: &mut Ebpf,
    hook: &Hook,
    settings: &SensorSettings,
    facts: &KernelFacts,
    btf: &Btf,
    cgroup: &File,
    attached: &mut Attached,
) -> Result<(), String> {
    if let Some(other) = hook.need.stands_in_for(facts.features & features::SLOTS != 0)
        && attached.statuses.iter().any(|status| status.program == other && status.is_attached)
    {
        return Err(format!("not needed beside {other}"));
    }
    if matches!(hook.kind, Kind::DeviceEgress | Kind::DeviceIngress) && settings.traffic_control == TrafficControl::Off
    {
        return Err("turned off by sensor.traffic_control".into());
    }
    if hook.kind == Kind::SocketIterator && !facts.is_storage_iterable {
        return Err(
            "this kernel's iterator may follow a null pointer and take the machine down (since Linux 7.0)".into()
        );
    }
    if let Some(missing) = missing_field(hook.fields, &facts.offsets) {
        return Err(missing);
    }
    if hook.kind == Kind::Descriptors {
        return read_descriptors(ebpf);
    }
    let sockets = ebpf.map("SOCKETS").and_then(map_fd);
    let program = ebpf.program_mut(hook.program).ok_or("not in the object")?;
    match hook.kind {
        Kind::SocketIterator => attached.walks.stored = Some(link_sweep(program, btf, sockets)?),
        Kind::FileIterator => run_snapshot(program, btf)?,
        Kind::FileSweep => attached.walks.held = Some(link_whole_sweep(program, "task_file", btf)?),
        Kind::TcpSweep => attached.walks.unheld = Some(link_whole_sweep(program, "tcp", btf)?),
        Kind::DeviceEgress => {
            attached.device_egress = Some(load_classifier(program).map_err(|error| last_line(&error))?)
        }
        Kind::DeviceIngress => {
            attached.device_ingress = Some(load_classifier(program).map_err(|error| last_line(&error))?)
        }
        _ => attach_program(program, hook, btf, cgroup).map_err(|error| last_line(&error))?,
    }
    Ok(())
}

fn missing_field(fields: &[Field], offsets: &[u64]) -> Option<String> {
    let missing =
        fields.iter().find(|&&field| offsets.get(field as usize).is_none_or(|&offset| offset == NO_OFFSET))?;
    let (structure, member) = FIELDS[*missing as usize];
    Some(format!("this kernel's type information has no {structure}.{member}"))
}

/// A map's descriptor, of our own.
pub(super) fn map_fd(map: &Map) -> Option<OwnedFd> {
    let data = match map {
        Map::SkStorage(data) | Map::Unsupported(data) | Map::HashMap(data) | Map::RingBuf(data) | Map::Array(data) => {
            data
        }
        Map::PerCpuArray(data) | Map::PerCpuHashMap(data) => data,
        _ => return None,
    };
    data.fd().as_fd().try_clone_to_owned().ok()
}

fn attach_program(program: &mut Program, hook: &Hook, btf: &Btf, cgroup: &File) -> Result<(), ProgramError> {
    // Links take no flags and programs of others stay beside them (kernel/bpf/cgroup.c, `cgroup_bpf_link_attach`).
    let mode = CgroupAttachMode::Single;
    match hook.kind {
        Kind::Egress | Kind::Ingress => {
            let program: &mut CgroupSkb = program.try_into()?;
            let way =
                if hook.kind == Kind::Egress { CgroupSkbAttachType::Egress } else { CgroupSkbAttachType::Ingress };
            program.load()?;
            program.attach(cgroup, way, mode).map(drop)
        }
        Kind::CgroupSock => {
            let program: &mut CgroupSock = program.try_into()?;
            program.load()?;
            program.attach(cgroup, mode).map(drop)
        }
        Kind::CgroupSockAddr => {
            let program: &mut CgroupSockAddr = program.try_into()?;
            program.load()?;
            program.attach(cgroup, mode).map(drop)
        }
        Kind::SockOps => {
            let program: &mut SockOps = program.try_into()?;
            program.load()?;
            program.attach(cgroup, mode).map(drop)
        }
        Kind::FunctionExit => {
            let program: &mut FExit = program.try_into()?;
            program.load(hook.program, btf)?;
            program.attach().map(drop)
        }
        Kind::Function => {
            let program: &mut FEntry = program.try_into()?;
            program.load(hook.program, btf)?;
            program.attach().map(drop)
        }
        Kind::Tracepoint
        | Kind::SocketIterator
        | Kind::FileIterator
        | Kind::FileSweep
        | Kind::TcpSweep
        | Kind::Descriptors
        | Kind::DeviceEgress
        | Kind::DeviceIngress => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(hook.attach_point.strip_prefix("tp_btf/").unwrap_or(hook.program), btf)?;
            program.attach().map(drop)
        }
    }
}

fn load_classifier(program: &mut Program) -> Result<OwnedFd, ProgramError> {
    let program: &mut SchedClassifier = program.try_into()?;
    program.load()?;
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

fn load_iterator<'a>(program: &'a mut Program, target: &str, btf: &Btf) -> Result<&'a mut Iter, String> {
    let program: &mut Iter = program.try_into().map_err(|error: ProgramError| last_line(&error))?;
    program.load(target, btf).map_err(|error| last_line(&error))?;
    Ok(program)
}

fn link_sweep(program: &mut Program, btf: &Btf, sockets: Option<OwnedFd>) -> Result<OwnedFd, String> {
    let program = load_iterator(program, "bpf_sk_storage_map", btf)?;
    let sockets = sockets.ok_or("the map SOCKETS is not in the object")?;
    let fd = program.fd().map_err(|error| last_line(&error))?;
    sys::link_iterator(fd.as_fd(), Some(sockets.as_fd())).map_err(|error| error.to_string())
}

fn link_whole_sweep(program: &mut Program, target: &str, btf: &Btf) -> Result<OwnedFd, String> {
    let program = load_iterator(program, target, btf)?;
    let fd = program.fd().map_err(|error| last_line(&error))?;
    sys::link_iterator(fd.as_fd(), None).map_err(|error| error.to_string())
}

/// Stamps the holders of every open socket; sockets made from here on are stamped by `sock_create`, which is attached.
fn run_snapshot(program: &mut Program, btf: &Btf) -> Result<(), String> {
    let program = load_iterator(program, "task_file", btf)?;
    let fd = program.fd().map_err(|error| last_line(&error))?;
    let read = |fd| -> io::Result<()> {
        let link = sys::link_iterator(fd, None)?;
        sys::run_iterator(link.as_fd(), || {})
    };
    read(fd.as_fd()).map_err(|error| error.to_string())
}

/// The same without a program.
fn read_descriptors(ebpf: &mut Ebpf) -> Result<(), String> {
    let sockets = ebpf.map_mut("SOCKETS").ok_or("the map SOCKETS is not in the object")?;
    let mut sockets = SkStorage::try_from(sockets).map_err(|error| last_line(&error))?;
    let cgroup = session::cgroup_mount().ok_or("no cgroup2 file system is mounted")?;
    snapshot::run(&mut sockets, &cgroup).map_err(|error| error.to_string())
}

/// What the verifier says after the fault (kernel/bpf/verifier.c, `print_verification_stats`).
const SUMMARY: &[&str] = &["processed ", "stack depth ", "verification time "];

/// The last thing that a chain of errors says: of a verifier's log the line that names the fault.
fn last_line(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    let fault =
        text.lines().rfind(|line| !line.trim().is_empty() && !SUMMARY.iter().any(|start| line.starts_with(start)));
    let first = text.lines().next().unwrap_or_default().split(". Verifier output").next().unwrap_or_default();
    match fault {
        Some(fault) if !fault.starts_with(first) => format!("{first}: {}", fault.trim()),
        _ => first.to_owned(),
    }
}
