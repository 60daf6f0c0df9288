//! What the process may do and see: its effective capabilities, its pid namespace.

/// What loading and attaching needs, with the numbers of include/uapi/linux/capability.h.
const NEEDED: [(&str, u32); 3] = [("CAP_BPF", 39), ("CAP_PERFMON", 38), ("CAP_NET_ADMIN", 12)];
/// Stands for each of them.
const SYS_ADMIN: u32 = 21;

/// The capabilities that this process lacks; empty where it may load and attach kernel programs.
pub fn missing_capabilities() -> Vec<&'static str> {
    missing_from(effective())
}

fn missing_from(effective: u64) -> Vec<&'static str> {
    let has = |number: u32| effective & (1 << number) != 0;
    NEEDED.iter().filter(|(_, number)| !has(*number) && !has(SYS_ADMIN)).map(|(name, _)| *name).collect()
}

/// The link of the initial pid namespace: its inode number is fixed (include/linux/proc_ns.h, `PROC_PID_INIT_INO`).
const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Whether the pids that this process sees are the kernel's own; where nothing tells, they are taken for such.
pub fn is_in_initial_pid_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/pid").map_or(true, |link| link.as_os_str() == INITIAL_PID_NAMESPACE)
}

/// The `CapEff` line of proc_pid_status(5); 0 where it cannot be read.
fn effective() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(missing_from(u64::MAX), Vec::<&str>::new());
        assert_eq!(missing_from(1 << SYS_ADMIN), Vec::<&str>::new());
        assert_eq!(missing_from(1 << 39 | 1 << 12), ["CAP_PERFMON"]);
        assert_eq!(missing_from(0), ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]);
    }
}
