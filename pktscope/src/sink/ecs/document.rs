//! The shape of an exported event: Elastic Common Schema's fields, nested, borrowed from what they are made of.
//!
//! Every field is optional and left out where there is nothing to say.

use std::{borrow::Cow, net::IpAddr};

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use crate::core::{
    alert::{Evidence, Fact},
    process,
    time::WallTime,
};

/// A struct whose fields are all optional and left out of the JSON where they are `None`.
macro_rules! optional {
    ($(#[$meta:meta])* pub(crate) struct $name:ident $(<$life:lifetime>)? {
        $($(#[$field_meta:meta])* $field:ident: $type:ty,)+
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, Serialize)]
        pub(crate) struct $name $(<$life>)? {
            $(#[serde(skip_serializing_if = "Option::is_none")] $(#[$field_meta])* pub(crate) $field: Option<$type>,)+
        }
    };
}

optional! {
    /// One line of the export.
    pub(crate) struct Document<'a> {
        #[serde(rename = "@timestamp")]
        timestamp: Time,
        message: &'a str,
        event: Event<'a>,
        host: Host<'a>,
        network: Network<'a>,
        source: Side<'a>,
        destination: Side<'a>,
        process: Process<'a>,
        user: User<'a>,
        container: Container<'a>,
        package: Package<'a>,
        dns: Dns<'a>,
        tls: Tls<'a>,
        rule: Rule<'a>,
        pktscope: Pktscope<'a>,
    }
}

optional! {
    pub(crate) struct Event<'a> {
        kind: &'a str,
        category: [&'a str; 1],
        r#type: &'a [&'a str],
        dataset: &'a str,
        action: &'a str,
        reason: &'a str,
        created: Time,
        start: Time,
        end: Time,
        duration: u64,
        severity: u8,
    }
}

optional! {
    pub(crate) struct Host<'a> { name: &'a str, }
}

optional! {
    pub(crate) struct Network<'a> {
        transport: Cow<'a, str>,
        r#type: &'a str,
        iana_number: Digits<u8>,
        protocol: &'a str,
        direction: &'a str,
        community_id: String,
        bytes: u64,
        packets: u64,
    }
}

optional! {
    pub(crate) struct Side<'a> {
        ip: IpAddr,
        port: u16,
        bytes: u64,
        packets: u64,
        domain: &'a str,
        registered_domain: &'a str,
        geo: Geo<'a>,
        r#as: AutonomousSystem<'a>,
    }
}

optional! {
    pub(crate) struct Geo<'a> { country_iso_code: &'a str, }
}

optional! {
    pub(crate) struct AutonomousSystem<'a> { number: u32, organization: Named<'a>, }
}

optional! {
    pub(crate) struct Named<'a> { name: &'a str, }
}

optional! {
    pub(crate) struct Process<'a> {
        pid: u32,
        name: &'a str,
        executable: &'a str,
        start: Time,
        end: Time,
        exit_code: u8,
        entity_id: &'a str,
        hash: Hash<'a>,
        command_line: &'a str,
        parent: Parent<'a>,
    }
}

optional! {
    pub(crate) struct Hash<'a> { sha256: &'a str, }
}

optional! {
    pub(crate) struct Parent<'a> { pid: u32, start: Time, executable: &'a str, }
}

optional! {
    pub(crate) struct User<'a> { id: Digits<u32>, name: &'a str, }
}

optional! {
    pub(crate) struct Container<'a> { id: &'a str, image: Named<'a>, }
}

optional! {
    pub(crate) struct Package<'a> { r#type: &'a str, name: &'a str, version: &'a str, }
}

impl<'a> From<&'a process::Package> for Package<'a> {
    fn from(package: &'a process::Package) -> Self {
        Self { r#type: Some(package.manager), name: Some(&package.name), version: Some(&package.version) }
    }
}

optional! {
    pub(crate) struct Dns<'a> {
        r#type: &'a str,
        id: Digits<u16>,
        question: DnsQuestion<'a>,
        response_code: Cow<'a, str>,
        answers: Vec<DnsAnswer<'a>>,
        resolved_ip: Vec<IpAddr>,
    }
}

optional! {
    pub(crate) struct DnsQuestion<'a> { name: &'a str, r#type: Cow<'a, str>, registered_domain: &'a str, }
}

optional! {
    pub(crate) struct DnsAnswer<'a> { name: &'a str, r#type: Cow<'a, str>, data: Cow<'a, str>, ttl: u32, bytes: u32, }
}

optional! {
    pub(crate) struct Tls<'a> { client: TlsClient<'a>, }
}

optional! {
    pub(crate) struct TlsClient<'a> { server_name: &'a str, ja4: &'a str, supported_protocols: Strings<'a>, }
}

optional! {
    pub(crate) struct Rule<'a> { id: &'a str, name: &'a str, }
}

optional! {
    pub(crate) struct Pktscope<'a> {
        flow_id: u64,
        flows: u64,
        domain_source: &'a str,
        domain_age: u64,
        domain_candidates: u32,
        domain_disagreeing: Disagreeing<'a>,
        payload: Payload,
        attribution: Attribution<'a>,
        history: &'a str,
        conn_state: &'a str,
        tcp: Tcp,
        icmp: Icmp,
        has_encrypted_hello: bool,
        cgroup: Cgroup<'a>,
        process: ProcessExtra<'a>,
        dns: DnsExtra,
        alert: Alert<'a>,
        ledger: Ledger<'a>,
    }
}

optional! {
    pub(crate) struct Disagreeing<'a> { name: &'a str, source: &'a str, }
}

optional! {
    pub(crate) struct Payload { source_bytes: u64, destination_bytes: u64, }
}

optional! {
    pub(crate) struct Attribution<'a> {
        method: &'a str,
        status: &'a str,
        reason: &'a str,
        creator_pid: u32,
        ambiguity: &'a str,
    }
}

optional! {
    pub(crate) struct Tcp {
        source_retransmitted: u64,
        destination_retransmitted: u64,
        source_out_of_order: u64,
        destination_out_of_order: u64,
        source_gap_bytes: u64,
        destination_gap_bytes: u64,
        handshake_rtt: u64,
        smoothed_rtt: u64,
    }
}

optional! {
    pub(crate) struct Icmp { r#type: u8, code: u8, }
}

optional! {
    pub(crate) struct Cgroup<'a> { id: u64, path: &'a str, }
}

optional! {
    /// What ECS has no word for; `started_at` is boot time in nanoseconds, which a wall time cannot tell exactly.
    pub(crate) struct ProcessExtra<'a> {
        started_at: u64,
        parent_started_at: u64,
        hash_error: &'a str,
        is_hash_pending: bool,
        device: u64,
        inode: u64,
        package_is_unmodified: bool,
        script: Script<'a>,
        missing: &'a str,
        exit_signal: u8,
        is_agent: bool,
    }
}

optional! {
    pub(crate) struct Script<'a> {
        path: &'a str,
        sha256: &'a str,
        hash_error: &'a str,
        package: Package<'a>,
        package_is_unmodified: bool,
    }
}

optional! {
    pub(crate) struct DnsExtra { message_bytes: u32, direction: &'static str, }
}

optional! {
    pub(crate) struct Alert<'a> {
        id: u64,
        severity: &'a str,
        dedup_key: &'a str,
        evidence: EvidenceObject<'a>,
    }
}

optional! {
    pub(crate) struct Ledger<'a> { tx: LedgerSide<'a>, rx: LedgerSide<'a>, lost: Counters<'a>, }
}

optional! {
    pub(crate) struct LedgerSide<'a> {
        interface_bytes: u64,
        attributed_bytes: u64,
        kernel_bytes: u64,
        forwarded_bytes: u64,
        unknown_bytes: u64,
        counted_twice_bytes: u64,
        by_reason: Counters<'a>,
    }
}

/// RFC 3339 UTC with nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Time(pub(crate) WallTime);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(super::time_text::rfc3339(self.0).as_str())
    }
}

/// A number that ECS keeps as a keyword.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digits<T>(pub(crate) T);

impl<T: std::fmt::Display> Serialize for Digits<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A list of shared strings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strings<'a>(pub(crate) &'a [std::sync::Arc<str>]);

impl Serialize for Strings<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(AsRef::<str>::as_ref))
    }
}

/// Named counters as an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counters<'a>(pub(crate) &'a [(&'static str, u64)]);

impl Serialize for Counters<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// Evidence as an object.
#[derive(Clone, Debug)]
pub(crate) struct EvidenceObject<'a>(pub(crate) &'a Evidence);

impl Serialize for EvidenceObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let evidence = &self.0.0;
        let mut map = serializer.serialize_map(Some(evidence.len()))?;
        for (name, fact) in evidence {
            match fact {
                Fact::Number(number) => map.serialize_entry(name, number)?,
                Fact::Real(number) => map.serialize_entry(name, number)?,
                Fact::Text(text) => map.serialize_entry(name, text.as_ref())?,
                Fact::Flag(flag) => map.serialize_entry(name, flag)?,
                Fact::List(list) => map.serialize_entry(name, &Strings(list))?,
            }
        }
        map.end()
    }
}
