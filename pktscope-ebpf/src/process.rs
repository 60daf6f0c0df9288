//! Process life: what identifies a process is taken here, because it may be gone before user space looks.

use core::{ffi::c_void, mem::MaybeUninit, ptr::addr_of_mut};

use aya_ebpf::helpers::generated::{bpf_probe_read_user, bpf_probe_read_user_str};
use pktscope_common::{
    counters::Counter,
    knobs::Field,
    limits::{ARGUMENTS_BYTES, COMM_BYTES, FILENAME_BYTES, IMAGE_NAME_BYTES},
    record::{ExecRecord, ExitRecord, ForkRecord, RecordKind},
    state::Stamp,
};

use crate::{
    emit,
    kernel::{self, Kernel},
    socket,
};

/// A process runs a new image.
#[inline(always)]
pub fn executed(task: Kernel, bprm: Kernel) {
    emit::record::<ExecRecord>(Counter::ExecRingFull, |slot| fill_exec(slot, task, bprm));
}

/// A task was forked; threads are no processes.
#[inline(always)]
pub fn forked(parent: Kernel, child: Kernel) {
    if kernel::read::<u32>(parent, Field::TaskTgid) == kernel::read::<u32>(child, Field::TaskTgid) {
        return;
    }
    emit::record::<ForkRecord>(Counter::ForkRingFull, |slot| {
        let record = slot.as_mut_ptr();
        // SAFETY: the record is reserved at its full size, and every field of it is written.
        unsafe {
            addr_of_mut!((*record).header).write(emit::header::<ForkRecord>(RecordKind::Fork));
            addr_of_mut!((*record).process).write(stamp(child));
            addr_of_mut!((*record).parent).write(parent_stamp(parent));
            addr_of_mut!((*record).comm).write(comm(child));
        }
    });
}

/// A task exits; only a process's last thread ends it.
#[inline(always)]
pub fn exited(task: Kernel) {
    let Some(signal) = kernel::follow(task, Field::TaskSignal) else { return };
    if kernel::read::<u32>(signal, Field::SignalLive) != 0 {
        return;
    }
    emit::record::<ExitRecord>(Counter::ExitRingFull, |slot| {
        let record = slot.as_mut_ptr();
        // SAFETY: as above.
        unsafe {
            addr_of_mut!((*record).header).write(emit::header::<ExitRecord>(RecordKind::Exit));
            addr_of_mut!((*record).started_at).write(kernel::start_of(task));
            addr_of_mut!((*record).pid).write(kernel::read(task, Field::TaskTgid));
            addr_of_mut!((*record).status).write(kernel::read(task, Field::TaskExitCode));
        }
    });
}

#[inline(always)]
fn stamp(task: Kernel) -> Stamp {
    let mut stamp = Stamp::default();
    socket::stamp_task(&mut stamp, task);
    stamp
}

#[inline(always)]
fn parent_stamp(parent: Kernel) -> Stamp {
    Stamp { pid: kernel::read(parent, Field::TaskTgid), started_at: kernel::start_of(parent), ..Stamp::default() }
}

/// The kernel's name of a task: two words, read as such because the verifier checks each load against the field.
#[inline(always)]
fn comm(task: Kernel) -> [u8; COMM_BYTES] {
    let at = kernel::field_at(task, Field::TaskComm);
    let mut comm = [0u8; COMM_BYTES];
    for (index, byte) in comm.iter_mut().enumerate() {
        // SAFETY: within `task_struct.comm`, which has COMM_BYTES bytes.
        *byte = unsafe { at.add(index).read_volatile() };
    }
    comm
}

#[inline(always)]
fn fill_exec(slot: &mut MaybeUninit<ExecRecord>, task: Kernel, bprm: Kernel) {
    let record = slot.as_mut_ptr();
    // SAFETY: the record is reserved at its full size; what the reads leave unwritten is below their byte counts.
    unsafe {
        addr_of_mut!((*record).header).write(emit::header::<ExecRecord>(RecordKind::Exec));
        addr_of_mut!((*record).process).write(stamp(task));
        let parent = kernel::follow(task, Field::TaskRealParent).map_or(Stamp::default(), parent_stamp);
        addr_of_mut!((*record).parent).write(parent);
        addr_of_mut!((*record).comm).write(comm(task));
    }
    fill_file(record, bprm);
    fill_folder(record, task);
    fill_image_name(record, bprm);
    fill_filename(record, bprm);
    fill_arguments(record, task);
}

/// Device and inode of the image.
#[inline(always)]
fn fill_file(record: *mut ExecRecord, bprm: Kernel) {
    let inode = kernel::follow(bprm, Field::BprmFile).and_then(|file| kernel::follow(file, Field::FileInode));
    let (number, device) = identity(inode);
    // SAFETY: within the reserved record.
    unsafe {
        addr_of_mut!((*record).inode).write(number);
        addr_of_mut!((*record).device).write(device);
    }
}

/// Device and inode of the working directory: by them a script named by a relative path is found after its process ended.
#[inline(always)]
fn fill_folder(record: *mut ExecRecord, task: Kernel) {
    let entry = kernel::follow(task, Field::TaskFs).and_then(|fs| kernel::follow(fs, Field::FsFolder));
    let (number, device) = identity(entry.and_then(|entry| kernel::follow(entry, Field::EntryInode)));
    // SAFETY: within the reserved record.
    unsafe {
        addr_of_mut!((*record).folder_inode).write(number);
        addr_of_mut!((*record).folder_device).write(device);
        addr_of_mut!((*record).reserved).write(0);
    }
}

/// Inode number and device; zeros where there is no inode.
#[inline(always)]
fn identity(inode: Option<Kernel>) -> (u64, u32) {
    let Some(inode) = inode else { return (0, 0) };
    let device = kernel::follow(inode, Field::InodeSuper).map_or(0, |sb| kernel::read(sb, Field::SuperDevice));
    (kernel::read(inode, Field::InodeNumber), device)
}

/// The name of the image's directory entry, where the entry itself holds it: a longer one lies where typed loads do not
/// reach.
#[inline(always)]
fn fill_image_name(record: *mut ExecRecord, bprm: Kernel) {
    let entry = kernel::follow(bprm, Field::BprmFile).and_then(entry_of);
    // SAFETY: within the reserved record, and within the entry's name, which has at least as many bytes.
    unsafe {
        let name = addr_of_mut!((*record).image_name).cast::<u8>();
        match entry {
            Some(from) => {
                (0..IMAGE_NAME_BYTES).for_each(|at| name.add(at).write_volatile(from.add(at).read_volatile()))
            }
            None => (0..IMAGE_NAME_BYTES).for_each(|at| name.add(at).write_volatile(0)),
        }
    }
}

/// Where a file's directory entry holds its name; the member was renamed in 6.14 (include/linux/dcache.h).
#[inline(always)]
fn entry_of(file: Kernel) -> Option<Kernel> {
    if !kernel::has_field(Field::FileEntry) || !kernel::has_field(Field::EntryNameBytes) {
        return None;
    }
    let entry = kernel::follow(file, Field::FileEntry)?;
    if kernel::read::<u32>(entry, Field::EntryNameBytes) >= IMAGE_NAME_BYTES as u32 {
        return None;
    }
    if kernel::has_field(Field::EntryName) {
        return Some(kernel::field_at(entry, Field::EntryName));
    }
    kernel::has_field(Field::EntryShortName).then(|| kernel::field_at(entry, Field::EntryShortName))
}

/// The path given to `execve`, from the copy on the new stack: lockdown forbids reading the kernel's own
/// (fs/exec.c, `do_execveat_common`, `bprm->exec`).
#[inline(always)]
fn fill_filename(record: *mut ExecRecord, bprm: Kernel) {
    let at: *const c_void = kernel::read(bprm, Field::BprmExec);
    // SAFETY: the destination has FILENAME_BYTES bytes within the reserved record.
    unsafe {
        let filename = addr_of_mut!((*record).filename);
        let read = bpf_probe_read_user_str(filename.cast(), FILENAME_BYTES as u32, at);
        addr_of_mut!((*record).filename_bytes).write(if read > 0 { read as u32 } else { 0 });
    }
}

/// The arguments, as they stand on the new stack.
#[inline(always)]
fn fill_arguments(record: *mut ExecRecord, task: Kernel) {
    let (start, end) = kernel::follow(task, Field::TaskMm)
        .map_or((0, 0), |mm| (kernel::read::<u64>(mm, Field::MmArgStart), kernel::read::<u64>(mm, Field::MmArgEnd)));
    let total = end.wrapping_sub(start) as u32;
    // SAFETY: the destination has ARGUMENTS_BYTES bytes within the reserved record, and the length is at most that.
    unsafe {
        let arguments = addr_of_mut!((*record).arguments);
        let from = start as usize as *const c_void;
        let wanted =
            if total >= ARGUMENTS_BYTES as u32 { ARGUMENTS_BYTES as u32 } else { total & (ARGUMENTS_BYTES as u32 - 1) };
        let result = bpf_probe_read_user(arguments.cast(), wanted, from);
        addr_of_mut!((*record).arguments_bytes).write(if result == 0 { wanted } else { 0 });
        addr_of_mut!((*record).arguments_total_bytes).write(total);
    }
}
