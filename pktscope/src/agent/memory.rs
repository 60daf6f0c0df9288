//! Freed memory goes back to the system: what a burst needed is not held for the next one.

/// Blocks at least this large are mapped apart, and given back when they are freed: tables and queues that doubled.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: libc::c_int = 1 << 20;

/// Sets the allocator up; before threads are started. glibc alone holds on to what is freed.
pub(super) fn prepare() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes two integers; a value that is refused changes nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
    }
}

/// Gives back whole pages that are free; takes some milliseconds a hundred megabytes.
pub(super) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes an integer and only returns free pages.
    unsafe {
        libc::malloc_trim(0);
    }
}
