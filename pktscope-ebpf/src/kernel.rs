//! Reads of kernel structures, and the facts of the running kernel that the agent hands over before loading.
//!
//! Each read is a typed load: the verifier knows the pointer's BTF type and, because the offsets are frozen read-only
//! data, the constant offset, and checks both against the kernel's BTF. A null or stale pointer reads as zero
//! (kernel/bpf/verifier.c, `BPF_PROBE_MEM`).

use core::{
    mem::MaybeUninit,
    ptr::{addr_of, addr_of_mut, read_volatile},
};

use aya_ebpf::helpers::generated::{
    bpf_get_current_task, bpf_get_current_task_btf, bpf_ktime_get_boot_ns, bpf_probe_read_kernel,
};
use pktscope_common::knobs::{FIELD_COUNT, Field, NO_OFFSET, features};

/// Offsets by [`Field`]; set by the agent before loading.
#[unsafe(no_mangle)]
static OFFSETS: [u64; FIELD_COUNT] = [0; FIELD_COUNT];

/// [`features`]; set by the agent before loading.
#[unsafe(no_mangle)]
static FEATURES: u64 = 0;

/// Cookie of the agent's network namespace, 0 where the kernel has none; set by the agent before loading.
#[unsafe(no_mangle)]
static NETNS: u64 = 0;

/// A kernel structure.
pub type Kernel = *const u8;

/// Whether this kernel lets programs do something.
#[inline(always)]
pub fn has_feature(feature: u64) -> bool {
    // SAFETY: reads a static; volatile, because the value is the agent's and not the one written above.
    unsafe { read_volatile(addr_of!(FEATURES)) & feature != 0 }
}

/// Cookie of the agent's network namespace.
#[inline(always)]
pub fn own_netns() -> u64 {
    // SAFETY: as above.
    unsafe { read_volatile(addr_of!(NETNS)) }
}

/// Nanoseconds since boot, suspend included.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: takes no arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// A value of zeros, written word by word: for anything else the compiler calls `memset`, a loop over bytes that the
/// verifier walks on every path.
///
/// `T` is made of integers, and its size and alignment are those of words.
#[inline(always)]
pub fn zeroed<T: Copy>() -> T {
    const { assert!(size_of::<T>() % 8 == 0 && align_of::<T>() == 8) };
    let mut value = MaybeUninit::<T>::uninit();
    let words = value.as_mut_ptr().cast::<u64>();
    for index in 0..size_of::<T>() / 8 {
        // SAFETY: within `value`; volatile, so that the stores stay stores.
        unsafe { words.add(index).write_volatile(0) };
    }
    // SAFETY: every byte is written, and zero is a value of every integer.
    unsafe { value.assume_init() }
}

/// Address of a field.
#[inline(always)]
pub fn field_at(base: Kernel, field: Field) -> Kernel {
    // SAFETY: reads a static, volatile as above; the verifier checks every use of the sum.
    unsafe { base.add(read_volatile(addr_of!(OFFSETS[field as usize])) as usize) }
}

/// Whether this kernel has a field.
#[inline(always)]
pub fn has_field(field: Field) -> bool {
    // SAFETY: reads a static, volatile as above.
    unsafe { read_volatile(addr_of!(OFFSETS[field as usize])) != NO_OFFSET }
}

/// Value of a field.
#[inline(always)]
pub fn read<T: Copy>(base: Kernel, field: Field) -> T {
    // SAFETY: a typed load that the verifier checks.
    unsafe { read_volatile(field_at(base, field).cast()) }
}

/// Follows a pointer field.
#[inline(always)]
pub fn follow(base: Kernel, field: Field) -> Option<Kernel> {
    let pointer: Kernel = read(base, field);
    if pointer.is_null() { None } else { Some(pointer) }
}

/// Start of the process of the current task, nanoseconds since boot; 0 where the kernel lets no program read it.
#[inline(always)]
pub fn current_start() -> u64 {
    if has_feature(features::TASK_BTF) {
        // SAFETY: takes no arguments; never null in process context.
        return start_of(unsafe { bpf_get_current_task_btf() as usize as Kernel });
    }
    if !has_feature(features::PROBE_READ) {
        return 0;
    }
    // SAFETY: takes no arguments.
    let task = unsafe { bpf_get_current_task() };
    probe(probe(task, Field::TaskGroupLeader), Field::TaskStartBoottime)
}

/// Start of a task's process.
#[inline(always)]
pub fn start_of(task: Kernel) -> u64 {
    match follow(task, Field::TaskGroupLeader) {
        Some(leader) => read(leader, Field::TaskStartBoottime),
        None => 0,
    }
}

/// A field of a structure that the verifier knows nothing of; 0 where it cannot be read.
#[inline(always)]
fn probe(base: u64, field: Field) -> u64 {
    let mut value = 0u64;
    // SAFETY: copies to a variable of the size given; the helper checks the address.
    unsafe {
        let from = field_at(base as usize as Kernel, field);
        bpf_probe_read_kernel(addr_of_mut!(value).cast(), size_of::<u64>() as u32, from.cast());
    }
    value
}
