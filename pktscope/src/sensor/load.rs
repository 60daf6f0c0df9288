//! Loads the maps of the object and hands over what the programs need to know of this kernel.

use std::{
    io,
    os::{fd::AsRawFd, unix::net::UnixDatagram},
    path::Path,
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::MapError,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported},
};
use pktscope_common::knobs::features;

use super::{btf::KernelTypes, error::SensorError, session::SensorSettings, sys};

/// The kernel's type information.
pub(super) const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

/// The object that the build script left; empty where it had no tool chain. Aligned, because ELF headers are read in place.
static OBJECT: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/pktscope-ebpf")));

/// Facts of the running kernel.
pub(super) struct KernelFacts {
    /// Offsets by field.
    pub(super) offsets: Vec<u64>,
    /// [`features`].
    pub(super) features: u64,
    /// Cookie of our network namespace; 0 where the kernel has none.
    pub(super) netns: u64,
    /// Whether the iterator over the sockets' states may be run.
    pub(super) is_storage_iterable: bool,
}

impl KernelFacts {
    /// Reads them from the kernel's type information.
    ///
    /// # Errors
    /// [`SensorError::NoBtf`] or [`SensorError::BadBtf`].
    pub(super) fn read(settings: &SensorSettings) -> Result<Self, SensorError> {
        let types = KernelTypes::read(Path::new(VMLINUX_BTF))?;
        let mut bits = 0;
        if types.has_function("bpf_get_current_task_btf") {
            bits |= features::TASK_BTF;
        } else {
            bits |= features::PROBE_READ;
        }
        // What lets tracing programs tell of a socket's end came together, with Linux 5.11 (net/core/bpf_sk_storage.c).
        if !["bpf_sk_storage_get_tracing", "bpf_sock_from_file"].iter().any(|name| types.has_function(name)) {
            bits |= features::NO_TRACING_STORAGE;
        }
        if types.has_function("bpf_skc_to_mptcp_sock") {
            bits |= features::MPTCP;
        }
        // With the parameter came what it carries (net/ipv4/ip_output.c).
        if types.has_parameter("ip_send_unicast_reply", "orig_sk") {
            bits |= features::SILENT_TIME_WAIT;
        }
        if settings.inspect_payload {
            bits |= features::PAYLOAD;
        }
        // Whoever may not load programs is told so where the first is refused.
        if is_helper_supported(ProgramType::CgroupSkb, BpfHelper::BPF_FUNC_get_netns_cookie).unwrap_or(false) {
            bits |= features::SKB_NETNS;
        }
        let is_netns_known = bits & (features::SKB_NETNS | features::NO_TRACING_STORAGE) == features::SKB_NETNS;
        // A handshake is found by both addresses, which a kernel without IPv6 does not have so.
        let has_addresses = types.offset("sock", "__sk_common.skc_v6_rcv_saddr").is_some();
        if is_netns_known && has_addresses && settings.slot_entries != 0 {
            bits |= features::SLOTS;
        }
        let netns = UnixDatagram::unbound().and_then(|socket| sys::netns_cookie(socket.as_raw_fd())).unwrap_or(0);
        Ok(Self { offsets: types.offsets(), features: bits, netns, is_storage_iterable: is_storage_iterable(&types) })
    }
}

/// Whether the iterator over the sockets' states is safe to run.
///
/// Since Linux 7.0 a state may be unlinked without a lock, and its `local_storage` cleared, while the iterator looks at it,
/// which then follows a null pointer and takes the machine down (net/core/bpf_sk_storage.c,
/// `__bpf_sk_storage_map_seq_show`; kernel/bpf/bpf_local_storage.c, `bpf_selem_unlink_nofail`). Kernels of distributions
/// may have that under an older version's name, and a compiler may inline the function away; the `state` that tells who of
/// two unlinked it came with it, and stays in the type information. A kernel that names its parts otherwise is not trusted.
fn is_storage_iterable(types: &KernelTypes) -> bool {
    let has = |member| types.offset("bpf_local_storage_elem", member).is_some();
    has("local_storage") && !has("state") && !types.has_function("bpf_selem_unlink_nofail")
}

/// Creates the maps and relocates the programs; none is loaded yet.
///
/// # Errors
/// [`SensorError::NotBuilt`], [`SensorError::Privilege`] or [`SensorError::Load`].
pub(super) fn load(settings: &SensorSettings, facts: &KernelFacts) -> Result<Ebpf, SensorError> {
    if OBJECT.0.is_empty() {
        return Err(SensorError::NotBuilt);
    }
    // A map has an element at least.
    let slots = if facts.features & features::SLOTS == 0 { 1 } else { settings.slot_entries };
    EbpfLoader::new()
        .override_global("SLOT_MASK", &u64::from(slots - 1), true)
        .override_global("OFFSETS", facts.offsets.as_slice(), true)
        .override_global("FEATURES", &facts.features, true)
        .override_global("NETNS", &facts.netns, true)
        .map_max_entries("RECORDS", settings.ring_bytes)
        .map_max_entries("PEERS", settings.peer_entries)
        .map_max_entries("KEPT", settings.kept_entries)
        .map_max_entries("SLOTS", slots)
        .load(&OBJECT.0)
        .map_err(explain)
}

fn explain(error: EbpfError) -> SensorError {
    match &error {
        EbpfError::MapError(MapError::CreateError { io_error, .. })
            if io_error.kind() == io::ErrorKind::PermissionDenied =>
        {
            SensorError::Privilege
        }
        _ => SensorError::Load { source: Box::new(error) },
    }
}
