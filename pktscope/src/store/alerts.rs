//! Alerts: a row each, with the event as it was exported.

use std::net::IpAddr;

use rusqlite::{Connection, Row, params};

use super::{
    ProcessRow, Query, Reader, StoreError,
    processes::{Written, joined, joined_columns},
    query::{Clauses, Table},
};
use crate::core::{
    alert::{Alert, RuleId, Severity},
    time::WallTime,
};

/// Writes an alert. One that is there already is left as it is: an alert never changes.
pub(super) fn write(
    connection: &Connection,
    alert: &Alert,
    process_id: Option<i64>,
    document: &str,
    written: Written,
) -> rusqlite::Result<()> {
    let sql =
        "INSERT OR IGNORE INTO alerts (id, written_at, at, rule, severity, message, dedup_key, flow_id, process_id,
        destination_ip, destination_port, domain, document)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    let flow = alert.flow.as_deref();
    let flow_domain = flow.and_then(|flow| flow.domain.as_ref()).map(|domain| &*domain.name);
    connection.prepare_cached(sql)?.execute(params![
        alert.id.cast_signed(),
        written.at,
        alert.at.wall.0,
        alert.rule.id(),
        alert.severity.number(),
        alert.message,
        alert.dedup_key,
        flow.map(|flow| flow.id.0.cast_signed()),
        process_id,
        flow.map(|flow| flow.destination.addr.to_string()),
        flow.map(|flow| flow.destination.port),
        alert.domain.as_deref().or(flow_domain),
        document,
    ])?;
    Ok(())
}

/// A stored alert.
#[derive(Clone, Debug, PartialEq)]
pub struct AlertRow {
    /// For followers.
    pub written_at: i64,
    /// What `alerts mark` takes.
    pub id: u64,
    /// When.
    pub at: WallTime,
    /// Rule; `None` of a rule that this version does not know.
    pub rule: Option<RuleId>,
    /// The rule's id as stored.
    pub rule_id: String,
    /// How much it matters.
    pub severity: Severity,
    /// One sentence.
    pub message: String,
    /// Alerts with the same key are one incident.
    pub dedup_key: String,
    /// The flow that completed it.
    pub flow_id: Option<u64>,
    /// The program it is about.
    pub process: Option<ProcessRow>,
    /// Destination address.
    pub destination_ip: Option<IpAddr>,
    /// Destination port.
    pub destination_port: Option<u16>,
    /// Destination's name.
    pub domain: Option<String>,
    /// The event as it was exported, a JSON object.
    pub document: String,
    /// The newest verdict on it.
    pub verdict: Option<String>,
    /// The note of that verdict.
    pub note: Option<String>,
}

fn alert_row(row: &Row<'_>) -> rusqlite::Result<AlertRow> {
    let rule_id: String = row.get("rule")?;
    let severity: u8 = row.get("severity")?;
    let destination_ip: Option<String> = row.get("destination_ip")?;
    Ok(AlertRow {
        written_at: row.get("written_at")?,
        id: row.get::<_, i64>("id")?.cast_unsigned(),
        at: WallTime(row.get("at")?),
        rule: RuleId::from_id(&rule_id),
        rule_id,
        severity: Severity::ALL.into_iter().find(|known| known.number() == severity).unwrap_or(Severity::Critical),
        message: row.get("message")?,
        dedup_key: row.get("dedup_key")?,
        flow_id: row.get::<_, Option<i64>>("flow_id")?.map(i64::cast_unsigned),
        process: joined(row)?,
        destination_ip: destination_ip.and_then(|text| text.parse().ok()),
        destination_port: row.get("destination_port")?,
        domain: row.get("domain")?,
        document: row.get("document")?,
        verdict: row.get("verdict")?,
        note: row.get("note")?,
    })
}

impl Reader {
    /// Alerts with their newest verdict, the newest alert at the end.
    ///
    /// # Errors
    /// A failed query.
    pub fn alerts(&self, query: &Query) -> Result<Vec<AlertRow>, StoreError> {
        let mut clauses = Clauses::of_table(query, Table::Alerts);
        let sql = format!(
            "SELECT a.*, v.verdict AS verdict, v.note AS note, {} FROM alerts AS a
             LEFT JOIN processes AS p ON p.id = a.process_id
             LEFT JOIN dispositions AS v ON v.id = (SELECT max(id) FROM dispositions WHERE alert_id = a.id)
             {} ORDER BY a.at DESC, a.id DESC LIMIT {}",
            joined_columns(),
            clauses.sql(),
            query.limit_or_all(),
        );
        self.collect("alerts", &sql, &mut clauses, alert_row)
    }

    /// Alerts since a time that somebody judged, with their newest verdict, in the order they were raised.
    ///
    /// # Errors
    /// A failed query.
    pub fn marked_alerts(&self, since: WallTime) -> Result<Vec<AlertRow>, StoreError> {
        let mut clauses = Clauses::of_table(&Query { since: Some(since), ..Query::default() }, Table::Alerts);
        let sql = format!(
            "SELECT a.*, v.verdict AS verdict, v.note AS note, {} FROM alerts AS a
             JOIN dispositions AS v ON v.id = (SELECT max(id) FROM dispositions WHERE alert_id = a.id)
             LEFT JOIN processes AS p ON p.id = a.process_id
             {} ORDER BY a.at, a.id",
            joined_columns(),
            clauses.sql(),
        );
        self.collect("alerts", &sql, &mut clauses, alert_row)
    }

    /// One alert.
    ///
    /// # Errors
    /// A failed query.
    pub fn alert(&self, id: u64) -> Result<Option<AlertRow>, StoreError> {
        let mut clauses = Clauses::default();
        clauses.add_alert(id);
        let sql = format!(
            "SELECT a.*, v.verdict AS verdict, v.note AS note, {} FROM alerts AS a
             LEFT JOIN processes AS p ON p.id = a.process_id
             LEFT JOIN dispositions AS v ON v.id = (SELECT max(id) FROM dispositions WHERE alert_id = a.id) {}",
            joined_columns(),
            clauses.sql(),
        );
        Ok(self.collect("alerts", &sql, &mut clauses, alert_row)?.pop())
    }

    /// The highest alert id, so that an agent goes on from there.
    ///
    /// # Errors
    /// A failed query.
    pub fn last_alert_id(&self) -> Result<Option<u64>, StoreError> {
        let newest = self.connection.query_row("SELECT max(id) FROM alerts", [], |row| row.get::<_, Option<i64>>(0));
        Ok(newest.map_err(|source| self.failed("alerts", source))?.map(i64::cast_unsigned))
    }

    /// Alerts and the newest of them by rule: id, number, time.
    ///
    /// # Errors
    /// A failed query.
    pub fn alert_counts(&self, since: WallTime) -> Result<Vec<(String, u64, WallTime)>, StoreError> {
        let sql = "SELECT rule, count(*), max(at) FROM alerts WHERE at >= ?1 GROUP BY rule ORDER BY rule";
        let read = || {
            let mut statement = self.connection.prepare(sql)?;
            let row = |row: &Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned(), WallTime(row.get(2)?)));
            statement.query_map([since.0], row)?.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|source| self.failed("alerts", source))
    }
}
