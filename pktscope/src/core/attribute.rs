//! Whose a socket's packets are.
//!
//! In: a [`SocketReport`] and the process table. Out: an [`Attribution`]. What no process sent is never given to one, and
//! what is ambiguous is said to be.

use std::sync::Arc;

use super::{
    effect::Effect,
    event::{SocketReport, SocketScope},
    flow::{Attribution, Method, Owner, UnknownReason},
    process::{Process, ProcessTable},
    time::BootTime,
};

const SHARED: &str = "several processes hold the socket and none was seen sending";

/// Whose the packets of a report are; asks about processes that are not known yet.
pub fn attribute(
    report: &SocketReport,
    table: &mut ProcessTable,
    now: BootTime,
    effects: &mut Vec<Effect>,
) -> Attribution {
    if report.scope == SocketScope::Kernel {
        return Attribution::Kernel;
    }
    let Some(user) = report.user.or(report.creator) else {
        return Attribution::Unknown(unknown_reason(report));
    };
    let process = match report.method {
        // It connected before the exec that may have come since.
        Method::Connect => table.lookup_at(&user, report.started_at, now, effects),
        _ => table.lookup_or_request(&user, now, effects),
    };
    if table.is_kernel_thread(user.key) {
        return Attribution::Kernel;
    }
    Attribution::Process(owner(report, process, table, now, effects))
}

fn owner(
    report: &SocketReport,
    process: Arc<Process>,
    table: &mut ProcessTable,
    now: BootTime,
    effects: &mut Vec<Effect>,
) -> Owner {
    let creator = report.creator.filter(|creator| !creator.key.is_same(process.key));
    if let Some(creator) = &creator {
        table.lookup_or_request(creator, now, effects);
    }
    Owner {
        process,
        method: if report.user.is_some() { report.method } else { Method::SocketCreate },
        creator: creator.map(|creator| creator.key),
        ambiguity: report.is_shared.then(|| SHARED.into()),
    }
}

fn unknown_reason(report: &SocketReport) -> UnknownReason {
    match report.unknown {
        Some(reason) => reason,
        None if report.is_shared => UnknownReason::Ambiguous,
        None if report.method == Method::Snapshot => UnknownReason::SocketOlderThanAgent,
        None => UnknownReason::RecordLost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        event::{Opening, Running, Stamp},
        flow::{Endpoint, Transport, Volume},
        process::{ProcessKey, ProcessLimits},
    };

    fn stamp(pid: u32) -> Stamp {
        let key = ProcessKey { pid, started_at: BootTime(u64::from(pid) * 1_000_000_007) };
        Stamp { key, uid: 0, cgroup_id: 1 }
    }

    fn report() -> SocketReport {
        let endpoint = Endpoint { addr: [127, 0, 0, 1].into(), port: 1 };
        SocketReport {
            cookie: 1,
            netns: 1,
            scope: SocketScope::Primary,
            at: BootTime(2),
            started_at: BootTime(1),
            is_closed: true,
            transport: Transport::TCP,
            local: endpoint,
            remote: endpoint,
            icmp: None,
            opening: Opening::Active,
            interface: 0,
            user: Some(stamp(7)),
            creator: Some(stamp(7)),
            method: Method::Connect,
            unknown: None,
            is_shared: false,
            sent: Volume::default(),
            received: Volume::default(),
            segment_header_bytes: [0; 2],
            tcp: None,
        }
    }

    /// Process and creator by pid, ambiguity; or the words of another attribution.
    fn check(report: &SocketReport, expected: &str) {
        let mut table = ProcessTable::new("boot", ProcessLimits::default());
        let kthread = Running { key: stamp(2).key, is_kernel_thread: true, ..Default::default() };
        table.on_running(&kthread, BootTime(0), &mut Vec::new());
        let shown = match attribute(report, &mut table, BootTime(3), &mut Vec::new()) {
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
        check(&report(), "7 by Connect, creator None, ambiguous false");
        let passed = SocketReport { creator: Some(stamp(3)), method: Method::Sendmsg, ..report() };
        check(&passed, "7 by Sendmsg, creator Some(3), ambiguous false");
        let made = SocketReport { user: None, creator: Some(stamp(3)), ..report() };
        check(&made, "3 by SocketCreate, creator None, ambiguous false");
    }

    #[test]
    fn a_shared_socket_is_said_to_be_ambiguous() {
        let shared = SocketReport { is_shared: true, method: Method::Snapshot, ..report() };
        check(&shared, "7 by Snapshot, creator None, ambiguous true");
        let nobody = SocketReport { user: None, creator: None, ..shared };
        check(&nobody, "Unknown(Ambiguous)");
    }

    #[test]
    fn what_no_process_sent_is_given_to_none() {
        check(&SocketReport { scope: SocketScope::Kernel, ..report() }, "Kernel");
        check(&SocketReport { user: Some(stamp(2)), ..report() }, "Kernel");
        let nobody = SocketReport { user: None, creator: None, ..report() };
        check(&nobody, "Unknown(RecordLost)");
        let old = SocketReport { method: Method::Snapshot, ..nobody.clone() };
        check(&old, "Unknown(SocketOlderThanAgent)");
        let reason = Some(UnknownReason::NoSocket);
        check(&SocketReport { unknown: reason, ..nobody }, "Unknown(NoSocket)");
    }
}
