//! Filters that every reading command shares.

use std::net::IpAddr;

use rusqlite::{Row, types::Value};

use super::{Reader, StoreError};
use crate::core::time::WallTime;

/// Which rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Active since then.
    pub since: Option<WallTime>,
    /// A pid, a name, a path, or a pattern with `*`.
    pub process: Option<String>,
    /// An address, a domain (its subdomains included), a pattern with `*`, `AS64500`; each with `:PORT` or that alone.
    pub destination: Option<String>,
    /// At most so many, the newest.
    pub limit: Option<u32>,
    /// Written after this row: for followers.
    pub after: Option<i64>,
}

impl Query {
    pub(super) fn limit_or_all(&self) -> i64 {
        self.limit.map_or(-1, i64::from)
    }
}

/// What is queried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    Flows,
    Processes,
    Dns,
    Alerts,
}

impl Table {
    /// The table's alias and the column that tells whether a row is recent enough.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Flows => ("f", "last_seen"),
            Self::Processes => ("p", "written_at"),
            Self::Dns => ("d", "at"),
            Self::Alerts => ("a", "at"),
        }
    }
}

/// Conditions joined by AND, and the values of their places.
#[derive(Debug, Default)]
pub(super) struct Clauses {
    conditions: Vec<String>,
    values: Vec<Value>,
}

impl Clauses {
    /// The conditions of a query on a table that is joined with `processes AS p`.
    pub(super) fn of_table(query: &Query, table: Table) -> Self {
        let mut clauses = Self::default();
        let (alias, time) = table.names();
        if let (Some(since), Table::Processes) = (query.since, table) {
            // A process that was written long ago may have talked since.
            let condition = "(p.written_at >= ? OR p.id IN
                (SELECT process_id FROM flows WHERE written_at >= ? AND last_seen >= ?))";
            clauses.add(condition, [since.0.into(), since.0.into(), since.0.into()]);
        } else if let Some(since) = query.since {
            clauses.add(&format!("{alias}.written_at >= ?"), [since.0.into()]);
            clauses.add(&format!("{alias}.{time} >= ?"), [since.0.into()]);
        }
        if let Some(after) = query.after {
            clauses.add(&format!("{alias}.written_at > ?"), [after.into()]);
        }
        if let Some(process) = &query.process {
            clauses.add_process(process);
        }
        if let Some(destination) = &query.destination {
            clauses.add_destination(destination, table);
        }
        clauses
    }

    pub(super) fn sql(&self) -> String {
        match self.conditions.is_empty() {
            true => String::new(),
            false => format!("WHERE {}", self.conditions.join(" AND ")),
        }
    }

    pub(super) fn add_alert(&mut self, id: u64) {
        self.add("a.id = ?", [id.cast_signed().into()]);
    }

    /// Flows that this host opened.
    pub(super) fn add_egress(&mut self) {
        self.add("f.direction = 'egress'", []);
    }

    fn add(&mut self, condition: &str, values: impl IntoIterator<Item = Value>) {
        self.conditions.push(condition.to_owned());
        self.values.extend(values);
    }

    fn add_process(&mut self, text: &str) {
        let value = || Value::from(text.to_owned());
        if let Ok(pid) = text.parse::<u32>() {
            self.add("p.pid = ?", [pid.into()]);
        } else if text.contains('*') {
            self.add("(p.name GLOB ? OR p.executable GLOB ? OR p.script_path GLOB ?)", [value(), value(), value()]);
        } else {
            let tail = Value::from(format!("*/{}", escaped(text)));
            let condition = "(p.name = ? OR p.executable = ? OR p.script_path = ? OR p.entity_id = ? OR p.executable GLOB ? OR p.script_path GLOB ?)";
            self.add(condition, [value(), value(), value(), value(), tail.clone(), tail]);
        }
    }

    fn add_destination(&mut self, text: &str, table: Table) {
        if table == Table::Processes {
            let mut flows = Self::default();
            flows.add_destination(text, Table::Flows);
            let condition = format!("p.id IN (SELECT f.process_id FROM flows AS f {})", flows.sql());
            return self.add(&condition, flows.values);
        }
        let (host, port) = split_port(text);
        if let Some(port) = port {
            self.add(&format!("{} = ?", port_column(table)), [i64::from(port).into()]);
        }
        if !host.is_empty() {
            self.add_host(host, table);
        }
    }

    fn add_host(&mut self, host: &str, table: Table) {
        let (address, names): (&str, &[&str]) = match table {
            Table::Alerts => ("a.destination_ip", &["a.domain"]),
            Table::Dns => ("d.server_ip", &["d.question"]),
            Table::Flows | Table::Processes => ("f.destination_ip", &["f.domain", "f.registered_domain"]),
        };
        if let Ok(addr) = host.parse::<IpAddr>() {
            return self.add(&format!("{address} = ?"), [addr.to_string().into()]);
        }
        if let (Table::Flows, Some(number)) = (table, as_number(host)) {
            return self.add("f.as_number = ?", [i64::from(number).into()]);
        }
        let host = host.to_ascii_lowercase();
        let patterns =
            if host.contains('*') { vec![host] } else { vec![escaped(&host), format!("*.{}", escaped(&host))] };
        let pairs = names.iter().flat_map(|name| patterns.iter().map(move |pattern| (name, pattern.clone())));
        let (conditions, values): (Vec<_>, Vec<_>) =
            pairs.map(|(name, pattern)| (format!("{name} GLOB ?"), Value::from(pattern))).unzip();
        self.add(&format!("({})", conditions.join(" OR ")), values);
    }
}

fn port_column(table: Table) -> &'static str {
    match table {
        Table::Alerts => "a.destination_port",
        Table::Dns => "d.server_port",
        Table::Flows | Table::Processes => "f.destination_port",
    }
}

/// `host:443`, `:443`, `[::1]:443`, `[::1]`, `::1`, `host`.
fn split_port(text: &str) -> (&str, Option<u16>) {
    if text.parse::<IpAddr>().is_ok() {
        return (text, None);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (text, None),
        },
        None => (text, None),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

fn as_number(text: &str) -> Option<u32> {
    text.strip_prefix("AS").or_else(|| text.strip_prefix("as"))?.parse().ok()
}

/// The pattern that matches `text` only.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|letter| if matches!(letter, '*' | '?' | '[') { format!("[{letter}]") } else { letter.to_string() })
        .collect()
}

impl Reader {
    /// Where a follower starts: rows written later come after it.
    ///
    /// # Errors
    /// A failed query.
    pub fn cursor(&self) -> Result<i64, StoreError> {
        newest_written_at(&self.connection).map_err(|source| self.failed("the newest row", source))
    }

    /// Runs a query whose rows come newest first, returns them oldest first.
    pub(super) fn collect<T>(
        &self,
        what: &'static str,
        sql: &str,
        clauses: &mut Clauses,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let values = std::mem::take(&mut clauses.values);
        let run = || {
            let mut statement = self.connection.prepare(sql)?;
            statement.query_map(rusqlite::params_from_iter(values), read)?.collect::<rusqlite::Result<Vec<T>>>()
        };
        let mut rows = run().map_err(|source| self.failed(what, source))?;
        rows.reverse();
        Ok(rows)
    }
}

/// `written_at` of the newest row; 0 of an empty database.
pub(super) fn newest_written_at(connection: &rusqlite::Connection) -> rusqlite::Result<i64> {
    let tables = ["processes", "flows", "dns", "alerts", "dispositions", "ledger"];
    let newest = tables.map(|table| format!("coalesce((SELECT max(written_at) FROM {table}), 0)"));
    connection.query_row(&format!("SELECT max({})", newest.join(", ")), [], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_told_from_an_address() {
        for (text, expected) in [
            ("example.com:443", ("example.com", Some(443))),
            (":53", ("", Some(53))),
            ("[2001:db8::1]:443", ("2001:db8::1", Some(443))),
            ("[2001:db8::1]", ("2001:db8::1", None)),
            ("2001:db8::1", ("2001:db8::1", None)),
            ("192.0.2.1", ("192.0.2.1", None)),
            ("example.com", ("example.com", None)),
        ] {
            assert_eq!(split_port(text), expected, "{text}");
        }
    }
}
