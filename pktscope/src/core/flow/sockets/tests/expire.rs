//! What becomes of flows that are over, and of their room.

use super::*;

#[test]
fn room_of_flows_that_have_gone_is_given_up() {
    let (mut tracker, mut changes) = (tracker(), Changes::new());
    let of = |number: u16| {
        let local = Endpoint { port: number, ..report().local };
        SocketReport { cookie: u64::from(number), local, ..report() }
    };
    for number in 1..=40_000 {
        tracker.report(&of(number), &mut changes);
    }
    for number in 2..=40_000 {
        tracker.report(&SocketReport { is_closed: true, ..of(number) }, &mut changes);
    }
    while tracker.tick(at(20), &mut changes) {}
    assert_eq!(tracker.len(), 1);
    assert!(tracker.parts.capacity() < 20_000 && tracker.flows.capacity() < 20_000);
    tracker.report(&of(2), &mut changes);
    tracker.report(&SocketReport { is_closed: true, at: at(21), ..of(1) }, &mut changes);
    tracker.tick(at(30), &mut changes);
    let ended: Vec<u64> =
        changes.iter().filter(|(action, _)| *action == FlowAction::Ended).map(|(_, f)| f.id.0).collect();
    assert_eq!((ended.len(), ended.last(), tracker.len()), (40_000, Some(&1), 1));
}

#[test]
fn many_flows_that_are_over_at_once_are_told_some_at_a_time() {
    let (mut tracker, mut changes) = (tracker(), Changes::new());
    let of = |number: u16, is_closed| {
        let local = Endpoint { port: number, ..report().local };
        SocketReport { cookie: u64::from(number), local, is_closed, ..report() }
    };
    (1..=5_000).for_each(|number| _ = tracker.report(&of(number, false), &mut changes));
    (1..=2_500).for_each(|number| _ = tracker.report(&of(number, true), &mut changes));
    changes.clear();
    let mut told = Vec::new();
    let mut note = |has_more: bool, changes: &mut Changes| {
        assert!(changes.iter().all(|(action, _)| *action == FlowAction::Ended));
        told.push((has_more, changes.len()));
        changes.clear();
        has_more
    };
    while note(tracker.tick(at(30), &mut changes), &mut changes) {}
    while note(tracker.finish(at(31), EndReason::ForcedEnd, &mut changes), &mut changes) {}
    let ticks = [(true, 1_024), (true, 1_024), (false, 452)];
    assert_eq!(told, [&ticks[..], &ticks].concat());
    assert!(tracker.is_empty() && tracker.parts.is_empty());
}

#[test]
fn what_goes_on_after_the_active_time_out_begins_where_that_ended() {
    let settings = FlowSettings { active_timeout: Some(Duration::from_secs(60)), ..FlowSettings::default() };
    let (mut tracker, mut changes) = (SocketTracker::<()>::new(settings, FlowId(1)), Changes::new());
    let grown = |seconds, packets| SocketReport { at: at(seconds), sent: volume(packets, 1000 * packets), ..report() };
    tracker.report(&grown(10, 5), &mut changes);
    tracker.tick(at(70), &mut changes);
    for seconds in [75, 100, 150] {
        tracker.report(&grown(seconds, 6), &mut changes);
        tracker.sweep_done(at(seconds), &mut changes);
    }
    tracker.report(&grown(155, 7), &mut changes);
    let told: Vec<_> = changes.iter().filter(|(action, _)| *action != FlowAction::Updated).collect();
    let told: Vec<_> = told.iter().map(|(action, flow)| (*action, flow.id.0, flow.started_at)).collect();
    assert_eq!(
        told,
        [
            (FlowAction::Started, 1, at(9)),
            (FlowAction::Ended, 1, at(9)),
            (FlowAction::Started, 2, at(70)),
            (FlowAction::Ended, 2, at(70)),
            // It was silent when every socket was reported.
            (FlowAction::Started, 3, at(150)),
        ]
    );
}
