//! Dispositions: what people decided about alerts. Rows are only added: a changed verdict is a newer row.

use rusqlite::{Connection, Row, params};

use super::{AlertRow, Reader, StoreError};
use crate::core::time::WallTime;

/// A verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DispositionRow {
    /// A disposition with a key that is there already is the same one, read again.
    pub key: String,
    /// When it was decided.
    pub at: WallTime,
    /// The alert, where it is about one.
    pub alert_id: Option<u64>,
    /// The rule.
    pub rule: String,
    /// `true_positive`, `false_positive` or `benign_true_positive`.
    pub verdict: String,
    /// Who decided.
    pub analyst: String,
    /// Why.
    pub note: String,
}

impl DispositionRow {
    /// The verdict of `analyst` on an alert. The same verdict of the same person at the same time is the same row.
    pub fn on_alert(alert: &AlertRow, verdict: &str, analyst: &str, note: &str, at: WallTime) -> Self {
        Self {
            key: format!("alert\u{1f}{}\u{1f}{verdict}\u{1f}{analyst}\u{1f}{}", alert.id, at.0),
            at,
            alert_id: Some(alert.id),
            rule: alert.rule_id.clone(),
            verdict: verdict.to_owned(),
            analyst: analyst.to_owned(),
            note: note.to_owned(),
        }
    }
}

/// Adds a disposition that is not there yet.
pub(super) fn write(connection: &Connection, row: &DispositionRow, written_at: i64) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO dispositions (written_at, key, at, alert_id, rule, verdict, analyst, note)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let alert_id = row.alert_id.map(u64::cast_signed);
    let values = params![written_at, row.key, row.at.0, alert_id, row.rule, row.verdict, row.analyst, row.note];
    connection.prepare_cached(sql)?.execute(values).map(drop)
}

impl Reader {
    /// Every disposition, in the order they were recorded.
    ///
    /// # Errors
    /// A failed query.
    pub fn dispositions(&self) -> Result<Vec<DispositionRow>, StoreError> {
        let read = || {
            let mut statement = self.connection.prepare("SELECT * FROM dispositions ORDER BY id")?;
            statement.query_map([], disposition_row)?.collect::<rusqlite::Result<_>>()
        };
        read().map_err(|source| self.failed("dispositions", source))
    }
}

fn disposition_row(row: &Row<'_>) -> rusqlite::Result<DispositionRow> {
    Ok(DispositionRow {
        key: row.get("key")?,
        at: WallTime(row.get("at")?),
        alert_id: row.get::<_, Option<i64>>("alert_id")?.map(i64::cast_unsigned),
        rule: row.get("rule")?,
        verdict: row.get("verdict")?,
        analyst: row.get("analyst")?,
        note: row.get("note")?,
    })
}
