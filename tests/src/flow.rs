//! Finding a test's own flows among the agent's events, and comparing them with what others counted.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use crate::{
    agent::Agent,
    event::{Event, Volume},
    namespace::{Family, Host},
    traffic::Report,
};

/// A flow's end must be told within this time; the agent promises 2 s, the rest is for a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Which of a connection's two ends, both of which are on the watched machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The end that opened it.
    Opener,
    /// The other end.
    Acceptor,
}

impl Side {
    /// Whether a flow event is of this end.
    pub fn is_of(self, event: &Event) -> bool {
        event.text("network.direction") == if self == Self::Opener { "egress" } else { "ingress" }
    }
}

/// Whether the event is of the flow between these endpoints. An unspecified address or port 0 matches any.
pub fn joins(event: &Event, source: SocketAddr, destination: SocketAddr) -> bool {
    let matches = |side: &str, wanted: SocketAddr| {
        event.endpoint(side).is_some_and(|seen| {
            let wanted_ip = wanted.ip().to_canonical();
            let is_port = [0, seen.port()].contains(&wanted.port()) || event.get(&format!("{side}.port")).is_none();
            is_port && (wanted_ip.is_unspecified() || seen.ip() == wanted_ip)
        })
    };
    event.is("flow") && matches("source", source) && matches("destination", destination)
}

/// Whether the event is of the flow that a generator reports having opened.
pub fn is_reported(event: &Event, report: &Report) -> bool {
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    Side::Opener.is_of(event) && joins(event, report.local.unwrap_or(any), report.remote.unwrap_or(any))
}

/// Waits for the end of the flow that a generator reports having opened.
///
/// # Panics
/// Where it does not come in time.
pub fn end_of(agent: &Agent, report: &Report) -> Event {
    let what = format!("end of the flow of {report:?}");
    agent.expect(DEADLINE, &what, |event| event.is_flow_end() && is_reported(event, report))
}

/// The newest event of every flow that touches a host's address, in order of their ids.
pub fn newest(agent: &Agent, host: &Host, family: Family, side: Side) -> Vec<Event> {
    let addr = host.addr(family);
    let own_end = if side == Side::Opener { "source.ip" } else { "destination.ip" };
    let is_wanted = |event: &Event| side.is_of(event) && event.addr(own_end) == Some(addr);
    let wanted = agent.flows_touching(addr).into_iter().filter(is_wanted);
    let by_id: BTreeMap<String, Event> = wanted.map(|event| (event.flow_id(), event)).collect();
    by_id.into_values().collect()
}

/// Waits until all flows between a pair, as seen from `side`, add up to what its interface counted, both ways.
///
/// # Panics
/// Where they don't in time, with both figures and every flow.
pub fn expect_volume(agent: &Agent, host: &Host, family: Family, side: Side, what: &str) {
    let oriented = |volume: Volume| if side == Side::Opener { volume } else { volume.reversed() };
    let sum = || newest(agent, host, family, side).iter().map(Event::volume).sum::<Volume>();
    let equal = crate::wait::wait_until(DEADLINE, || (oriented(sum()) == host.counters().into()).then_some(()));
    if equal.is_none() {
        let flows: Vec<String> = newest(agent, host, family, side).iter().map(Event::to_string).collect();
        let (flows_sum, counted) = (oriented(sum()), Volume::from(host.counters()));
        panic!("{what} {family:?} {side:?}: flows say {flows_sum:?},\ninterface {counted:?}\n{}", flows.join("\n"));
    }
}
