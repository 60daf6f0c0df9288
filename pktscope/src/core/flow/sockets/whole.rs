//! Connections that are known from one report, their socket's last, and told at once: most short ones.

use super::{Counted, LiveFlow, Observer, PartKey, Phase, SocketTracker, class_of, parts::Grown};
use crate::core::{
    event::{SocketReport, SocketScope},
    flow::{FlowAction, Volume},
};

impl<U: Default> SocketTracker<U> {
    /// Whether a report is all that there will be of its connection: nothing was reported of it before, and nothing is
    /// left to be sent for it. What the kernel has to repeat all the same goes where it would if it came later still.
    pub(super) fn is_whole(&self, part_key: &PartKey, report: &SocketReport, observer: &impl Observer<U>) -> bool {
        is_over(report)
            && observer.takes_whole()
            && !self.parts.contains_key(&part_key.id)
            && [report.netns, 0].iter().all(|netns| !self.tuples.contains_key(&(*netns, part_key.key)))
    }

    /// Tells of a connection that is over without keeping it among the open ones.
    pub(super) fn tell_whole(
        &mut self,
        part_key: &PartKey,
        report: &SocketReport,
        observer: &mut impl Observer<U>,
    ) -> Counted {
        let started_at = report.started_at.min(report.at);
        let mut live = LiveFlow::new((report.netns, part_key.key), report, started_at, self.sweep);
        let grown = Grown::first(report);
        (live.sent, live.received, live.last_seen) = (grown.sent, grown.received, report.at);
        live.take_facts(report, self.sweep);
        let reason = live.tcp.end_reason();
        live.phase = Phase::Closed(report.at, reason);
        let id = self.take_id();
        self.statistics.ended += 1;
        let snapshot = live.snapshot(id, Some((report.at, reason)), &mut self.histories);
        observer.change(FlowAction::Whole, report.at, snapshot, &mut live.user);
        self.ghosts.keep(&live, report.at);
        Counted { growth: grown.with(&Volume::default()), class: Some(class_of(&live.ownership)) }
    }
}

/// Whether both sides have closed the connection, and nothing went wrong: then neither owes the other a packet.
fn is_over(report: &SocketReport) -> bool {
    let is_closed = |tcp: &crate::core::event::TcpReport| {
        tcp.is_established && tcp.has_fin_received && !(tcp.is_reset_received || tcp.is_reset_sent) && tcp.error == 0
    };
    report.is_closed && report.scope == SocketScope::Primary && report.tcp.as_ref().is_some_and(is_closed)
}
