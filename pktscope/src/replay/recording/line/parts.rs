//! The parts of a line as the core's types.

use std::{net::IpAddr, sync::Arc};

use super::{AnswerPart, Interned, Number, OwnPart, SidePart, TlsPart};
use crate::core::{
    dns_words::record_type_number,
    domain::registrable,
    event::DnsAnswer,
    flow::{ClientHello, ConnState, Domain, DomainSource, Endpoint, Geo, TcpSummary, Volume},
    time::BootTime,
};

impl Number<'_> {
    pub(super) fn value(&self) -> Option<u64> {
        match self {
            Self::Plain(value) => Some(*value),
            Self::Quoted(text) => text.parse().ok(),
        }
    }
}

impl SidePart<'_> {
    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        let addr: IpAddr = self.ip.as_deref()?.parse().ok()?;
        Some(Endpoint { addr: addr.to_canonical(), port: self.port })
    }

    pub(super) fn volume(&self, payload_bytes: u64) -> Volume {
        Volume { ip_bytes: self.bytes, packets: self.packets, payload_bytes }
    }

    pub(super) fn named(&self, own: &OwnPart<'_>, started_at: BootTime, interned: &mut Interned) -> Option<Domain> {
        let name = self.domain.as_deref()?;
        let source = own.domain_source.as_deref().and_then(DomainSource::from_word).unwrap_or(DomainSource::DnsAnswer);
        let registrable = interned.name(registrable(name));
        let learned_at = BootTime(started_at.0.saturating_sub(own.domain_age.unwrap_or(0)));
        let candidates = own.domain_candidates.unwrap_or(1);
        Some(Domain { name: interned.name(name), registrable, source, learned_at, disagreeing: None, candidates })
    }

    pub(super) fn geo(&self, interned: &mut Interned) -> Geo {
        let country = self.geo.as_ref().and_then(|geo| geo.country_iso_code.as_deref());
        let organization = self.autonomous.as_ref().and_then(|part| part.organization.as_ref()?.name.as_deref());
        Geo {
            country: country.and_then(|code| code.as_bytes().try_into().ok()),
            as_number: self.autonomous.as_ref().and_then(|part| part.number),
            as_organization: organization.map(|name| interned.name(name)),
        }
    }
}

impl OwnPart<'_> {
    pub(super) fn tcp(&self, interned: &mut Interned) -> Option<TcpSummary> {
        if self.history.is_none() && self.conn_state.is_none() {
            return None;
        }
        Some(TcpSummary {
            history: interned.name(self.history.as_deref().unwrap_or("")),
            conn_state: self.conn_state.as_deref().and_then(ConnState::from_word).unwrap_or(ConnState::OTH),
            retransmitted: [None; 2],
            out_of_order: None,
            gap_bytes: None,
            handshake_rtt: None,
            smoothed_rtt: None,
        })
    }
}

impl TlsPart<'_> {
    pub(super) fn hello(&self) -> Option<Arc<ClientHello>> {
        let client = self.client.as_ref()?;
        Some(Arc::new(ClientHello {
            server_name: client.server_name.as_deref().map(Into::into),
            ja4: client.ja4.as_deref().unwrap_or("").into(),
            ..ClientHello::default()
        }))
    }
}

impl AnswerPart<'_> {
    pub(super) fn answer(&self) -> Option<DnsAnswer> {
        let record_type = record_type_number(self.kind.as_deref()?)?;
        let data = self.data.as_deref().unwrap_or("");
        let name: Arc<str> = self.name.as_deref().unwrap_or("").into();
        Some(match (record_type, data.parse::<IpAddr>()) {
            (1 | 28, Ok(addr)) => DnsAnswer::Address { name, addr, ttl: self.ttl },
            (5, _) => DnsAnswer::Alias { name, target: data.into(), ttl: self.ttl },
            _ => {
                let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
                DnsAnswer::Other { record_type, data_bytes: self.bytes.unwrap_or(length) }
            }
        })
    }
}
