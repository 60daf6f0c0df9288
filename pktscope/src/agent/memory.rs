//! Freed memory goes back to the system: what a burst needed is not held for the next one.

/// Blocks at least this large are mapped apart, and given back when they are freed: tables and queues that doubled.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: libc::c_int = 1 << 20;

/// Free memory at the end of a thread's heap that is kept until it is given back with the rest, and by how much a heap
/// grows: what comes and goes with every batch of flows is not asked for anew each time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: libc::c_int = 2 << 20;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const GROWTH_BYTES: libc::c_int = 512 << 10;

/// Effects that make a burst, and a second with so few of them is the first after it.
const BURST_EFFECTS: usize = 16_384;
const QUIET_EFFECTS: usize = 1_024;

/// Notices when a burst is over.
#[derive(Debug, Default)]
pub(super) struct Bursts {
    /// Effects since memory was given back, and in this second.
    effects: usize,
    recent: usize,
}

impl Bursts {
    /// Notes effects that were handed out.
    pub(super) fn note(&mut self, effects: usize) {
        self.effects += effects;
        self.recent += effects;
    }

    /// Whether a burst is over, to be asked once a second; says so once.
    pub(super) fn is_over(&mut self) -> bool {
        let is_over = self.recent < QUIET_EFFECTS && BURST_EFFECTS <= self.effects;
        self.recent = 0;
        if is_over {
            self.effects = 0;
        }
        is_over
    }
}

/// Sets the allocator up; before threads are started. glibc alone holds on to what is freed.
pub(super) fn prepare() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (option, bytes) in
        [(libc::M_MMAP_THRESHOLD, MAPPED_BYTES), (libc::M_TRIM_THRESHOLD, KEPT_BYTES), (libc::M_TOP_PAD, GROWTH_BYTES)]
    {
        // SAFETY: takes two integers; a value that is refused changes nothing.
        unsafe { libc::mallopt(option, bytes) };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_over_once() {
        let mut bursts = Bursts::default();
        bursts.note(BURST_EFFECTS);
        assert!(!bursts.is_over(), "it is going on");
        assert!(bursts.is_over());
        assert!(!bursts.is_over());
        bursts.note(QUIET_EFFECTS - 1);
        assert!(!bursts.is_over(), "a few effects are no burst");
    }
}
