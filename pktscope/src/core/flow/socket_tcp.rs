//! What a TCP socket's last words say of its connection, in Zeek's letters: only what is known, in a plausible order.

use std::{sync::Arc, time::Duration};

use ahash::RandomState;
use hashbrown::HashMap;

use super::{ConnState, EndReason, TcpSummary, Volume};
use crate::core::event::{Opening, TcpReport};

/// `sk_state`, include/net/tcp_states.h.
mod state {
    pub(super) const ESTABLISHED: u8 = 1;
    pub(super) const FIN_WAIT1: u8 = 4;
    pub(super) const FIN_WAIT2: u8 = 5;
    pub(super) const TIME_WAIT: u8 = 6;
    pub(super) const CLOSE_WAIT: u8 = 8;
    pub(super) const LAST_ACK: u8 = 9;
    pub(super) const CLOSING: u8 = 11;
}

/// `sk_err`, include/uapi/asm-generic/errno.h.
mod error {
    pub(super) const PIPE: u16 = 32;
    pub(super) const CONNABORTED: u16 = 103;
    pub(super) const CONNRESET: u16 = 104;
    pub(super) const CONNREFUSED: u16 = 111;
}

/// The newest of a socket's reports.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SocketTcp {
    last: Option<TcpReport>,
    is_closed: bool,
}

/// How a connection ended, as its socket knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Open,
    LocalFirst,
    RemoteFirst,
    LocalReset,
    RemoteReset,
    /// Neither FIN nor RST is known of: timed out, unreachable.
    Silent,
}

impl SocketTcp {
    pub(super) fn update(&mut self, report: &TcpReport, is_closed: bool) {
        self.last = Some(*report);
        self.is_closed |= is_closed;
    }

    fn ending(&self) -> Ending {
        let Some(last) = &self.last else { return if self.is_closed { Ending::Silent } else { Ending::Open } };
        // A reset after the other side's FIN ends nothing that was not over.
        if last.is_reset_received && !last.has_fin_received {
            return Ending::RemoteReset;
        }
        if last.is_reset_sent {
            return Ending::LocalReset;
        }
        match (last.error, last.state) {
            (error::CONNRESET | error::CONNREFUSED | error::PIPE, _) => Ending::RemoteReset,
            (error::CONNABORTED, _) => Ending::LocalReset,
            (0, state::CLOSE_WAIT | state::LAST_ACK) if self.is_closed => Ending::RemoteFirst,
            (0, _) if self.is_closed && last.is_established => Ending::LocalFirst,
            _ if self.is_closed => Ending::Silent,
            _ => Ending::Open,
        }
    }

    pub(super) fn end_reason(&self) -> EndReason {
        match self.ending() {
            Ending::LocalReset | Ending::RemoteReset => EndReason::Reset,
            _ => EndReason::EndOfFlow,
        }
    }

    /// What is known of the connection; `sent` and `received` are this side's.
    pub(super) fn summary(
        &self,
        opening: Opening,
        sent: &Volume,
        received: &Volume,
        histories: &mut Histories,
    ) -> TcpSummary {
        let retransmitted = self.last.map(|last| u64::from(last.retransmitted));
        let smoothed = self.last.map(|last| last.srtt_us).filter(|micros| *micros > 0);
        TcpSummary {
            history: histories.share(self.history(opening, sent, received)),
            conn_state: self.conn_state(opening, sent, received),
            retransmitted: match opening {
                Opening::Active => [retransmitted, None],
                Opening::Passive => [None, retransmitted],
            },
            out_of_order: None,
            gap_bytes: None,
            handshake_rtt: None,
            smoothed_rtt: smoothed.map(|micros| Duration::from_micros(u64::from(micros))),
        }
    }

    fn is_established(&self) -> bool {
        self.last.is_some_and(|last| last.is_established)
    }

    fn conn_state(&self, opening: Opening, sent: &Volume, received: &Volume) -> ConnState {
        let is_answered = match opening {
            Opening::Active => received.packets > 0,
            Opening::Passive => sent.packets > 0,
        };
        let is_local_source = opening == Opening::Active;
        match (self.ending(), self.is_established()) {
            (Ending::RemoteReset, false) if is_local_source => ConnState::REJ,
            (Ending::LocalReset | Ending::RemoteReset, false) => ConnState::OTH,
            (Ending::RemoteReset, true) => {
                if is_local_source {
                    ConnState::RSTR
                } else {
                    ConnState::RSTO
                }
            }
            (Ending::LocalReset, true) => {
                if is_local_source {
                    ConnState::RSTO
                } else {
                    ConnState::RSTR
                }
            }
            (Ending::LocalFirst | Ending::RemoteFirst, _) => ConnState::SF,
            (Ending::Open | Ending::Silent, true) => ConnState::S1,
            (Ending::Open | Ending::Silent, false) if is_answered => ConnState::S1,
            (Ending::Open | Ending::Silent, false) => ConnState::S0,
        }
    }

    fn history(&self, opening: Opening, sent: &Volume, received: &Volume) -> History {
        let (by_source, by_destination) = match opening {
            Opening::Active => (sent, received),
            Opening::Passive => (received, sent),
        };
        let is_established = self.is_established();
        let first = [
            by_source.packets > 0 || is_established,
            is_established,
            is_established,
            by_source.payload_bytes > 0,
            by_destination.payload_bytes > 0,
        ];
        History { first, last: self.last_letters(opening) }
    }

    fn last_letters(&self, opening: Opening) -> &'static str {
        match (self.ending(), opening) {
            (Ending::LocalFirst, Opening::Active) | (Ending::RemoteFirst, Opening::Passive) => "Ff",
            (Ending::LocalFirst, Opening::Passive) | (Ending::RemoteFirst, Opening::Active) => "fF",
            (Ending::LocalReset, Opening::Active) | (Ending::RemoteReset, Opening::Passive) => "R",
            (Ending::LocalReset, Opening::Passive) | (Ending::RemoteReset, Opening::Active) => "r",
            (Ending::Open | Ending::Silent, _) => "",
        }
    }
}

/// Letters of a connection: of [`History::FIRST`] those that are set, then how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct History {
    first: [bool; 5],
    last: &'static str,
}

impl History {
    const FIRST: [char; 5] = ['S', 'h', 'A', 'D', 'd'];

    fn text(self) -> String {
        let first = Self::FIRST.into_iter().zip(self.first).filter_map(|(letter, is_set)| is_set.then_some(letter));
        first.chain(self.last.chars()).collect()
    }
}

/// Texts of the histories met so far, at most 160: most connections share one.
#[derive(Debug)]
pub(super) struct Histories(HashMap<History, Arc<str>, RandomState>);

impl Default for Histories {
    fn default() -> Self {
        Self(HashMap::with_hasher(RandomState::with_seeds(1, 2, 3, 4)))
    }
}

impl Histories {
    fn share(&mut self, history: History) -> Arc<str> {
        self.0.entry(history).or_insert_with(|| history.text().into()).clone()
    }
}

/// Whether this side closed an established connection first, so that its TIME-WAIT socket answers the other's FIN.
pub(super) fn is_active_close(tcp: &SocketTcp) -> bool {
    tcp.is_closed
        && tcp.last.is_some_and(|last| {
            last.is_established
                && matches!(
                    last.state,
                    state::ESTABLISHED | state::FIN_WAIT1 | state::FIN_WAIT2 | state::TIME_WAIT | state::CLOSING
                )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(state: u8, error: u16, is_established: bool, opening: Opening, expected: (&str, ConnState, EndReason)) {
        let mut tcp = SocketTcp::default();
        tcp.update(&TcpReport { state, error, is_established, ..TcpReport::default() }, true);
        let (sent, received) = match is_established {
            true => (
                Volume { ip_bytes: 500, packets: 5, payload_bytes: 300 },
                Volume { ip_bytes: 400, packets: 4, payload_bytes: 200 },
            ),
            false => (Volume { ip_bytes: 60, packets: 1, payload_bytes: 0 }, Volume::default()),
        };
        let summary = tcp.summary(opening, &sent, &received, &mut Histories::default());
        assert_eq!((&*summary.history, summary.conn_state, tcp.end_reason()), expected);
    }

    #[test]
    fn a_sockets_last_words_give_zeeks_letters() {
        use EndReason::{EndOfFlow, Reset};
        use Opening::{Active, Passive};
        check(1, 0, true, Active, ("ShADdFf", ConnState::SF, EndOfFlow));
        check(8, 0, true, Active, ("ShADdfF", ConnState::SF, EndOfFlow));
        check(1, 0, true, Passive, ("ShADdfF", ConnState::SF, EndOfFlow));
        check(8, 0, true, Passive, ("ShADdFf", ConnState::SF, EndOfFlow));
        check(7, 104, true, Active, ("ShADdr", ConnState::RSTR, Reset));
        check(7, 104, true, Passive, ("ShADdR", ConnState::RSTO, Reset));
        check(7, 111, false, Active, ("Sr", ConnState::REJ, Reset));
        check(7, 110, false, Active, ("S", ConnState::S0, EndOfFlow));
        check(7, 110, true, Active, ("ShADd", ConnState::S1, EndOfFlow));
    }

    #[test]
    fn a_reset_that_the_socket_no_longer_remembers_is_known_by_who_sent_it() {
        let ended = |report: TcpReport, opening| {
            let mut tcp = SocketTcp::default();
            tcp.update(&report, true);
            let one = Volume { ip_bytes: 60, packets: 1, payload_bytes: 0 };
            (tcp.summary(opening, &one, &one, &mut Histories::default()).conn_state, tcp.end_reason())
        };
        let received = TcpReport { is_reset_received: true, ..TcpReport::default() };
        assert_eq!(ended(received, Opening::Active), (ConnState::REJ, EndReason::Reset));
        let sent = TcpReport { is_reset_sent: true, is_established: true, ..TcpReport::default() };
        assert_eq!(ended(sent, Opening::Active), (ConnState::RSTO, EndReason::Reset));
        assert_eq!(ended(sent, Opening::Passive), (ConnState::RSTR, EndReason::Reset));
        let after_fin = TcpReport { has_fin_received: true, is_established: true, ..received };
        assert_eq!(ended(after_fin, Opening::Active), (ConnState::SF, EndReason::EndOfFlow));
    }
}
