//! Whose a socket's packets are.
//!
//! In: a socket's stamps and the process table. Out: an [`Attribution`]. What no process sent is never given to one, and
//! what is ambiguous is said to be.

use std::sync::Arc;

use super::{
    effect::Effect,
    flow::{Attribution, Method, Owner, SocketOwner, UnknownReason},
    process::{Process, ProcessTable},
    time::BootTime,
};

const SHARED: &str = "several processes hold the socket and none was seen sending";

/// Whose a socket's packets are, where its flow started at `started_at`; asks about processes that are not known yet.
pub fn attribute(
    socket: &SocketOwner,
    started_at: BootTime,
    table: &mut ProcessTable,
    now: BootTime,
    effects: &mut Vec<Effect>,
) -> Attribution {
    let Some(user) = socket.user.or(socket.creator) else {
        return Attribution::Unknown(unknown_reason(socket));
    };
    let process = match socket.method {
        // It connected before the exec that may have come since.
        Method::Connect => table.lookup_at(&user, started_at, now, effects),
        _ => table.lookup_or_request(&user, now, effects),
    };
    if table.is_kernel_thread(user.key) {
        return Attribution::Kernel;
    }
    Attribution::Process(owner(socket, process, table, now, effects))
}

fn owner(
    socket: &SocketOwner,
    process: Arc<Process>,
    table: &mut ProcessTable,
    now: BootTime,
    effects: &mut Vec<Effect>,
) -> Owner {
    let creator = socket.creator.filter(|creator| creator.key != process.key);
    if let Some(creator) = &creator {
        table.lookup_or_request(creator, now, effects);
    }
    Owner {
        process,
        method: if socket.user.is_some() { socket.method } else { Method::SocketCreate },
        creator: creator.map(|creator| creator.key),
        ambiguity: socket.is_shared.then(|| SHARED.into()),
    }
}

fn unknown_reason(socket: &SocketOwner) -> UnknownReason {
    match socket.unknown {
        Some(reason) => reason,
        None if socket.is_shared => UnknownReason::Ambiguous,
        None if socket.method == Method::Snapshot => UnknownReason::SocketOlderThanAgent,
        None => UnknownReason::RecordLost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        event::{Running, Stamp},
        process::{ProcessKey, ProcessLimits},
    };

    fn stamp(pid: u32) -> Stamp {
        let key = ProcessKey { pid, started_at: BootTime(u64::from(pid) * 1_000_000_007) };
        Stamp { key, uid: 0, cgroup_id: 1 }
    }

    fn owner() -> SocketOwner {
        SocketOwner {
            cookie: 1,
            user: Some(stamp(7)),
            creator: Some(stamp(7)),
            method: Method::Connect,
            unknown: None,
            is_shared: false,
        }
    }

    /// Process and creator by pid, ambiguity; or the words of another attribution.
    fn check(socket: &SocketOwner, expected: &str) {
        let mut table = ProcessTable::new("boot", ProcessLimits::default());
        let kthread = Running { key: stamp(2).key, is_kernel_thread: true, ..Default::default() };
        table.on_running(&kthread, BootTime(0), &mut Vec::new());
        let shown = match attribute(socket, BootTime(1), &mut table, BootTime(3), &mut Vec::new()) {
            Attribution::Process(owner) => {
                let creator = owner.creator.map(|key| key.pid);
                let ambiguity = owner.ambiguity.is_some();
                format!("{} by {:?}, creator {creator:?}, ambiguous {ambiguity}", owner.process.key.pid, owner.method)
            }
            other => format!("{other:?}"),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_user_owns_and_a_different_creator_is_named() {
        check(&owner(), "7 by Connect, creator None, ambiguous false");
        let passed = SocketOwner { creator: Some(stamp(3)), method: Method::Sendmsg, ..owner() };
        check(&passed, "7 by Sendmsg, creator Some(3), ambiguous false");
        let made = SocketOwner { user: None, creator: Some(stamp(3)), ..owner() };
        check(&made, "3 by SocketCreate, creator None, ambiguous false");
    }

    #[test]
    fn a_shared_socket_is_said_to_be_ambiguous() {
        let shared = SocketOwner { is_shared: true, method: Method::Snapshot, ..owner() };
        check(&shared, "7 by Snapshot, creator None, ambiguous true");
        let nobody = SocketOwner { user: None, creator: None, ..shared };
        check(&nobody, "Unknown(Ambiguous)");
    }

    #[test]
    fn what_no_process_sent_is_given_to_none() {
        check(&SocketOwner { user: Some(stamp(2)), ..owner() }, "Kernel");
        let nobody = SocketOwner { user: None, creator: None, ..owner() };
        check(&nobody, "Unknown(RecordLost)");
        let old = SocketOwner { method: Method::Snapshot, ..nobody };
        check(&old, "Unknown(SocketOlderThanAgent)");
        let reason = Some(UnknownReason::NoSocket);
        check(&SocketOwner { unknown: reason, ..nobody }, "Unknown(NoSocket)");
    }
}
