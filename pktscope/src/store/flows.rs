//! Flows: a row each, updated as it grows; or a row for many short ones (see [`super::rollup`]).

use std::{net::IpAddr, sync::LazyLock, time::Duration};

use rusqlite::{Connection, Row, ToSql};

use super::{
    ProcessRow, Query, Reader, StoreError,
    processes::{Written, joined, joined_columns},
    query::{Clauses, Table},
};
use crate::core::{
    flow::{Attribution, Flow, Transport, Volume},
    time::{BootTime, WallTime},
};

const COLUMNS: [&str; 40] = [
    "flow_id",
    "written_at",
    "flows",
    "process_id",
    "status",
    "method",
    "reason",
    "creator_pid",
    "ambiguity",
    "transport",
    "direction",
    "source_ip",
    "source_port",
    "destination_ip",
    "destination_port",
    "icmp_type",
    "icmp_code",
    "source_bytes",
    "source_packets",
    "source_payload_bytes",
    "destination_bytes",
    "destination_packets",
    "destination_payload_bytes",
    "started_at",
    "last_seen",
    "ended_at",
    "end_reason",
    "domain",
    "registered_domain",
    "domain_source",
    "domain_candidates",
    "domain_age",
    "country",
    "as_number",
    "as_organization",
    "history",
    "conn_state",
    "server_name",
    "ja4",
    "has_encrypted_hello",
];

fn insert(updates: impl Fn(&str) -> Option<String>) -> String {
    let places: Vec<String> = (1..=COLUMNS.len()).map(|index| format!("?{index}")).collect();
    let updates: Vec<String> = COLUMNS.iter().filter_map(|column| updates(column)).collect();
    format!(
        "INSERT INTO flows ({}) VALUES ({}) ON CONFLICT (flow_id) DO UPDATE SET {}",
        COLUMNS.join(", "),
        places.join(", "),
        updates.join(", ")
    )
}

/// Totals take the place of totals.
static UPSERT: LazyLock<String> =
    LazyLock::new(|| insert(|column| (column != "flow_id").then(|| format!("{column} = excluded.{column}"))));

/// Sums are added to sums.
static ADD: LazyLock<String> = LazyLock::new(|| {
    insert(|column| match column {
        "flows"
        | "source_bytes"
        | "source_packets"
        | "source_payload_bytes"
        | "destination_bytes"
        | "destination_packets"
        | "destination_payload_bytes" => Some(format!("{column} = {column} + excluded.{column}")),
        "written_at" => Some(format!("{column} = excluded.{column}")),
        "last_seen" | "ended_at" => Some(format!("{column} = max({column}, excluded.{column})")),
        "started_at" => Some(format!("{column} = min({column}, excluded.{column})")),
        _ => None,
    })
});

/// One or several flows as a row: `flow` gives everything but the sums.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) flow: &'a Flow,
    pub(super) process_id: Option<i64>,
    pub(super) flows: u64,
    pub(super) sent: Volume,
    pub(super) received: Volume,
    pub(super) started_at: BootTime,
    pub(super) last_seen: BootTime,
    pub(super) ended_at: Option<BootTime>,
}

impl<'a> Record<'a> {
    pub(super) fn of_one(flow: &'a Flow, process_id: Option<i64>) -> Self {
        Self {
            flow,
            process_id,
            flows: 1,
            sent: flow.sent,
            received: flow.received,
            started_at: flow.started_at,
            last_seen: flow.last_seen,
            ended_at: flow.ended.map(|(at, _)| at),
        }
    }

    /// Writes the row; totals of a row with the same id are replaced.
    pub(super) fn write(&self, connection: &Connection, written: Written) -> rusqlite::Result<()> {
        self.execute(connection, &UPSERT, written, self.flow.id.0)
    }

    /// Adds the sums to the row `id`, makes it where there is none.
    pub(super) fn add(&self, connection: &Connection, written: Written, id: u64) -> rusqlite::Result<()> {
        self.execute(connection, &ADD, written, id)
    }

    fn execute(&self, connection: &Connection, sql: &str, written: Written, id: u64) -> rusqlite::Result<()> {
        let flow = self.flow;
        let (domain, tcp, tls) = (flow.domain.as_ref(), flow.tcp.as_ref(), flow.tls.as_deref());
        let owner = Ownership::of(&flow.attribution);
        let values: [&dyn ToSql; COLUMNS.len()] = [
            &id.cast_signed(),
            &written.at,
            &count(self.flows),
            &self.process_id,
            &owner.status,
            &owner.method,
            &owner.reason,
            &owner.creator_pid,
            &owner.ambiguity,
            &flow.transport.0,
            &flow.direction.word(),
            &flow.source.addr.to_string(),
            &flow.source.port,
            &flow.destination.addr.to_string(),
            &flow.destination.port,
            &flow.icmp.map(|(kind, _)| kind),
            &flow.icmp.map(|(_, code)| code),
            &count(self.sent.ip_bytes),
            &count(self.sent.packets),
            &count(self.sent.payload_bytes),
            &count(self.received.ip_bytes),
            &count(self.received.packets),
            &count(self.received.payload_bytes),
            &written.now.wall_at(self.started_at).0,
            &written.now.wall_at(self.last_seen).0,
            &self.ended_at.map(|at| written.now.wall_at(at).0),
            &flow.ended.map(|(_, reason)| reason.word()),
            &domain.map(|domain| &*domain.name),
            &domain.map(|domain| &*domain.registrable),
            &domain.map(|domain| domain.source.word()),
            &domain.map(|domain| domain.candidates),
            &domain.map(|domain| age(self.started_at.since(domain.learned_at))),
            &flow.geo.country.as_ref().and_then(|code| std::str::from_utf8(code).ok()),
            &flow.geo.as_number,
            &flow.geo.as_organization.as_deref(),
            &tcp.map(|tcp| &*tcp.history),
            &tcp.map(|tcp| tcp.conn_state.word()),
            &tls.and_then(|hello| hello.server_name.as_deref()),
            &tls.map(|hello| &*hello.ja4),
            &tls.map(|hello| hello.has_encrypted_hello),
        ];
        connection.prepare_cached(sql)?.execute(values.as_slice()).map(drop)
    }
}

/// SQLite's integers are signed; no count comes near the limit.
fn count(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Nanoseconds.
fn age(age: Duration) -> i64 {
    i64::try_from(age.as_nanos()).unwrap_or(i64::MAX)
}

struct Ownership<'a> {
    status: &'static str,
    method: Option<&'static str>,
    reason: Option<&'static str>,
    creator_pid: Option<u32>,
    ambiguity: Option<&'a str>,
}

impl<'a> Ownership<'a> {
    fn of(attribution: &'a Attribution) -> Self {
        let nobody = Self { status: "kernel", method: None, reason: None, creator_pid: None, ambiguity: None };
        match attribution {
            Attribution::Kernel => nobody,
            Attribution::Unknown(reason) => Self { status: "unknown", reason: Some(reason.word()), ..nobody },
            Attribution::Process(owner) => Self {
                status: "process",
                method: Some(owner.method.word()),
                creator_pid: owner.creator.map(|creator| creator.pid),
                ambiguity: owner.ambiguity.as_deref(),
                ..nobody
            },
        }
    }
}

/// Flows that a killed agent left open ended when they were last seen.
pub(super) fn end_left_open(connection: &Connection) -> rusqlite::Result<usize> {
    let sql = "UPDATE flows SET ended_at = last_seen, end_reason = 'forced_end' WHERE ended_at IS NULL";
    connection.execute(sql, [])
}

/// A stored flow, or several short ones.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are those of `core::flow::Flow`, with the words of the export")]
pub struct FlowRow {
    pub flow_id: u64,
    pub written_at: i64,
    /// How many flows the row stands for; their sums and, of the rest, the first one's values.
    pub flows: u64,
    pub process: Option<ProcessRow>,
    pub status: String,
    pub method: Option<String>,
    pub reason: Option<String>,
    pub creator_pid: Option<u32>,
    pub ambiguity: Option<String>,
    pub transport: Transport,
    pub direction: String,
    pub source_ip: IpAddr,
    pub source_port: u16,
    pub destination_ip: IpAddr,
    pub destination_port: u16,
    pub icmp: Option<(u8, u8)>,
    pub sent: Volume,
    pub received: Volume,
    pub started_at: WallTime,
    pub last_seen: WallTime,
    pub ended_at: Option<WallTime>,
    pub end_reason: Option<String>,
    pub domain: Option<String>,
    pub registered_domain: Option<String>,
    pub domain_source: Option<String>,
    pub domain_candidates: Option<u32>,
    /// How long before the flow its name was learned, in nanoseconds.
    pub domain_age: Option<u64>,
    pub country: Option<String>,
    pub as_number: Option<u32>,
    pub as_organization: Option<String>,
    pub history: Option<String>,
    pub conn_state: Option<String>,
    pub server_name: Option<String>,
    pub ja4: Option<String>,
    pub has_encrypted_hello: Option<bool>,
}

/// Reads a text column that must hold an address.
pub(super) fn addr(row: &Row<'_>, name: &str) -> rusqlite::Result<IpAddr> {
    let text: String = row.get(name)?;
    text.parse().map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(
            0,
            rusqlite::types::Type::Text,
            Box::<dyn std::error::Error + Send + Sync>::from(error),
        )
    })
}

fn volume(row: &Row<'_>, side: &str) -> rusqlite::Result<Volume> {
    let number = |what: &str| Ok::<_, rusqlite::Error>(row.get::<_, i64>(&*format!("{side}_{what}"))?.cast_unsigned());
    Ok(Volume { ip_bytes: number("bytes")?, packets: number("packets")?, payload_bytes: number("payload_bytes")? })
}

fn flow_row(row: &Row<'_>) -> rusqlite::Result<FlowRow> {
    let (kind, code): (Option<u8>, Option<u8>) = (row.get("icmp_type")?, row.get("icmp_code")?);
    Ok(FlowRow {
        flow_id: row.get::<_, i64>("flow_id")?.cast_unsigned(),
        written_at: row.get("written_at")?,
        flows: row.get::<_, i64>("flows")?.cast_unsigned(),
        process: joined(row)?,
        status: row.get("status")?,
        method: row.get("method")?,
        reason: row.get("reason")?,
        creator_pid: row.get("creator_pid")?,
        ambiguity: row.get("ambiguity")?,
        transport: Transport(row.get("transport")?),
        direction: row.get("direction")?,
        source_ip: addr(row, "source_ip")?,
        source_port: row.get("source_port")?,
        destination_ip: addr(row, "destination_ip")?,
        destination_port: row.get("destination_port")?,
        icmp: kind.zip(code),
        sent: volume(row, "source")?,
        received: volume(row, "destination")?,
        started_at: WallTime(row.get("started_at")?),
        last_seen: WallTime(row.get("last_seen")?),
        ended_at: row.get::<_, Option<i64>>("ended_at")?.map(WallTime),
        end_reason: row.get("end_reason")?,
        domain: row.get("domain")?,
        registered_domain: row.get("registered_domain")?,
        domain_source: row.get("domain_source")?,
        domain_candidates: row.get("domain_candidates")?,
        domain_age: row.get::<_, Option<i64>>("domain_age")?.map(i64::unsigned_abs),
        country: row.get("country")?,
        as_number: row.get("as_number")?,
        as_organization: row.get("as_organization")?,
        history: row.get("history")?,
        conn_state: row.get("conn_state")?,
        server_name: row.get("server_name")?,
        ja4: row.get("ja4")?,
        has_encrypted_hello: row.get("has_encrypted_hello")?,
    })
}

/// A destination, by domain where it has one: what went there, and from whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRow {
    /// Domain, or address where there is no domain.
    pub destination: String,
    /// Whether `destination` is a domain.
    pub is_domain: bool,
    /// Addresses seen.
    pub addresses: Vec<String>,
    /// Ports seen; 0 of transports without ports.
    pub ports: Vec<u16>,
    /// Names of the processes.
    pub processes: Vec<String>,
    /// Flows.
    pub flows: u64,
    /// IP-layer bytes sent there.
    pub bytes_out: u64,
    /// IP-layer bytes received from there.
    pub bytes_in: u64,
    /// First flow's start.
    pub first_seen: WallTime,
    /// Last packet.
    pub last_seen: WallTime,
    /// Country of the address seen last.
    pub country: Option<String>,
    /// AS of the address seen last.
    pub as_number: Option<u32>,
    /// Its organisation.
    pub as_organization: Option<String>,
    /// For followers.
    pub written_at: i64,
}

/// Control characters cannot be part of an address, a port or a name that we stored.
const SEPARATOR: char = '\u{1f}';

fn list(row: &Row<'_>, name: &str) -> rusqlite::Result<Vec<String>> {
    let text: Option<String> = row.get(name)?;
    let mut items: Vec<String> = text.iter().flat_map(|text| text.split(SEPARATOR)).map(str::to_owned).collect();
    items.sort();
    items.dedup();
    Ok(items)
}

fn destination_row(row: &Row<'_>) -> rusqlite::Result<DestinationRow> {
    let number = |name: &str| Ok::<_, rusqlite::Error>(row.get::<_, i64>(name)?.cast_unsigned());
    let mut ports: Vec<u16> = list(row, "ports")?.iter().filter_map(|port| port.parse().ok()).collect();
    ports.sort_unstable();
    Ok(DestinationRow {
        destination: row.get("destination")?,
        is_domain: row.get("is_domain")?,
        addresses: list(row, "addresses")?,
        ports,
        processes: list(row, "names")?,
        flows: number("flows")?,
        bytes_out: number("bytes_out")?,
        bytes_in: number("bytes_in")?,
        first_seen: WallTime(row.get("first_seen")?),
        last_seen: WallTime(row.get("newest")?),
        country: row.get("country")?,
        as_number: row.get("as_number")?,
        as_organization: row.get("as_organization")?,
        written_at: row.get("written")?,
    })
}

impl Reader {
    /// Flows, the one written last at the end.
    ///
    /// # Errors
    /// A failed query.
    pub fn flows(&self, query: &Query) -> Result<Vec<FlowRow>, StoreError> {
        let mut clauses = Clauses::of_table(query, Table::Flows);
        let sql = format!(
            "SELECT f.*, {} FROM flows AS f LEFT JOIN processes AS p ON p.id = f.process_id
             {} ORDER BY f.written_at DESC, f.last_seen DESC, f.flow_id DESC LIMIT {}",
            joined_columns(),
            clauses.sql(),
            query.limit_or_all(),
        );
        self.collect("flows", &sql, &mut clauses, flow_row)
    }

    /// Where this host's programs sent something, the most bytes at the end.
    ///
    /// # Errors
    /// A failed query.
    pub fn destinations(&self, query: &Query) -> Result<Vec<DestinationRow>, StoreError> {
        let mut clauses = Clauses::of_table(query, Table::Flows);
        clauses.add_egress();
        // SQLite takes bare columns from the row that gave max(): the address seen last.
        let sql = format!(
            "SELECT coalesce(f.domain, f.destination_ip) AS destination, f.domain IS NOT NULL AS is_domain,
                replace(group_concat(DISTINCT f.destination_ip), ',', char(31)) AS addresses,
                replace(group_concat(DISTINCT f.destination_port), ',', char(31)) AS ports,
                replace(group_concat(DISTINCT replace(p.name, ',', ' ')), ',', char(31)) AS names,
                sum(f.flows) AS flows, sum(f.source_bytes) AS bytes_out, sum(f.destination_bytes) AS bytes_in,
                min(f.started_at) AS first_seen, max(f.last_seen) AS newest,
                max(f.written_at) AS written, f.country, f.as_number, f.as_organization
             FROM flows AS f LEFT JOIN processes AS p ON p.id = f.process_id
             {} GROUP BY 1, 2 ORDER BY bytes_out + bytes_in DESC, 1 LIMIT {}",
            clauses.sql(),
            query.limit_or_all(),
        );
        self.collect("destinations", &sql, &mut clauses, destination_row)
    }

    /// The highest flow id, so that an agent goes on from there.
    ///
    /// # Errors
    /// A failed query.
    pub fn last_flow_id(&self) -> Result<Option<u64>, StoreError> {
        let read = |row: &Row<'_>| row.get::<_, Option<i64>>(0);
        let newest = self.connection.query_row("SELECT max(flow_id) FROM flows", [], read);
        Ok(newest.map_err(|source| self.failed("flows", source))?.map(i64::cast_unsigned))
    }
}
