//! The words that exports, the store and recordings use for a flow's enumerations; the same word both ways.

use super::{ConnState, Direction, DomainSource, EndReason, FlowAction, Method, UnknownReason};

macro_rules! words {
    ($type:ident { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $type {
            /// Every value with its word.
            pub const WORDS: &'static [(Self, &'static str)] = &[$((Self::$variant, $word)),+];

            /// The word for it.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The value with this word.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::WORDS.iter().find(|(_, known)| *known == word).map(|(value, _)| *value)
            }
        }
    };
}

words!(Direction { Egress => "egress", Ingress => "ingress" });

words!(EndReason {
    EndOfFlow => "end_of_flow",
    Reset => "reset",
    IdleTimeout => "idle_timeout",
    ActiveTimeout => "active_timeout",
    ForcedEnd => "forced_end",
    LackOfResources => "lack_of_resources",
});

words!(Method {
    SocketCreate => "socket_create",
    Bind => "bind",
    Connect => "connect",
    Sendmsg => "sendmsg",
    Recvmsg => "recvmsg",
    Close => "close",
    Accept => "accept",
    Snapshot => "snapshot",
    Recording => "recording",
});

words!(UnknownReason {
    Capture => "capture",
    SocketOlderThanAgent => "socket_older_than_agent",
    RecordLost => "record_lost",
    NoSocket => "no_socket",
    Ambiguous => "ambiguous",
});

words!(DomainSource {
    DnsAnswer => "dns_answer",
    TlsSni => "tls_sni",
    QuicSni => "quic_sni",
    HttpHost => "http_host",
});

// The events of a whole flow are two; its last word is its end.
words!(FlowAction {
    Started => "flow_started",
    Updated => "flow_updated",
    Ended => "flow_ended",
    Whole => "flow_ended",
});

words!(ConnState {
    S0 => "S0",
    S1 => "S1",
    SF => "SF",
    REJ => "REJ",
    S2 => "S2",
    S3 => "S3",
    RSTO => "RSTO",
    RSTR => "RSTR",
    RSTOS0 => "RSTOS0",
    RSTRH => "RSTRH",
    SH => "SH",
    SHR => "SHR",
    OTH => "OTH",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_leads_back_to_its_value() {
        for (value, word) in Method::WORDS {
            assert_eq!(Method::from_word(word), Some(*value));
        }
        for (value, word) in EndReason::WORDS {
            assert_eq!((value.word(), EndReason::from_word(word)), (*word, Some(*value)));
        }
        assert_eq!(DomainSource::from_word("sni"), None);
    }
}
