//! DNS answers: a row each.

use std::net::IpAddr;

use rusqlite::{Connection, Row, params};
use serde_json::json;

use super::{
    ProcessRow, Query, Reader, StoreError,
    flows::addr,
    processes::{Written, joined, joined_columns},
    query::{Clauses, Table},
};
use crate::core::{
    event::{DnsAnswer, DnsMessage},
    flow::Transport,
    time::WallTime,
};

/// Writes an answer; the client is the packet's receiver.
pub(super) fn write(
    connection: &Connection,
    message: &DnsMessage,
    process_id: Option<i64>,
    written: Written,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO dns (written_at, at, process_id, transport, client_ip, client_port, server_ip, server_port,
        question, question_type, response_code, answers, message_bytes)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    let (server, client) = (message.flow.source, message.flow.destination);
    connection.prepare_cached(sql)?.execute(params![
        written.at,
        written.now.wall_at(message.at).0,
        process_id,
        message.flow.transport.0,
        client.addr.to_string(),
        client.port,
        server.addr.to_string(),
        server.port,
        &*message.question,
        message.question_type,
        message.response_code,
        answers(&message.answers),
        message.message_bytes,
    ])?;
    Ok(())
}

fn answers(answers: &[DnsAnswer]) -> String {
    let entry = |answer: &DnsAnswer| match answer {
        DnsAnswer::Address { name, addr, ttl } => json!({"name": &**name, "data": addr.to_string(), "ttl": ttl}),
        DnsAnswer::Alias { name, target, ttl } => json!({"name": &**name, "alias": &**target, "ttl": ttl}),
        DnsAnswer::Other { record_type, data_bytes } => json!({"type": record_type, "bytes": data_bytes}),
    };
    serde_json::Value::from_iter(answers.iter().map(entry)).to_string()
}

/// A stored DNS answer.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsRow {
    /// For followers.
    pub written_at: i64,
    /// When it was seen.
    pub at: WallTime,
    /// Who asked.
    pub process: Option<ProcessRow>,
    /// UDP or TCP.
    pub transport: Transport,
    /// Address of who asked.
    pub client_ip: IpAddr,
    /// Port of who asked.
    pub client_port: u16,
    /// Address of who answered.
    pub server_ip: IpAddr,
    /// Port of who answered.
    pub server_port: u16,
    /// Name asked for.
    pub question: String,
    /// Type asked for, by number.
    pub question_type: u16,
    /// Response code, by number.
    pub response_code: u16,
    /// A list of `{name, data | alias, ttl}` or `{type, bytes}`.
    pub answers: serde_json::Value,
    /// Size of the answer.
    pub message_bytes: u32,
}

fn dns_row(row: &Row<'_>) -> rusqlite::Result<DnsRow> {
    let answers: String = row.get("answers")?;
    Ok(DnsRow {
        written_at: row.get("written_at")?,
        at: WallTime(row.get("at")?),
        process: joined(row)?,
        transport: Transport(row.get("transport")?),
        client_ip: addr(row, "client_ip")?,
        client_port: row.get("client_port")?,
        server_ip: addr(row, "server_ip")?,
        server_port: row.get("server_port")?,
        question: row.get("question")?,
        question_type: row.get("question_type")?,
        response_code: row.get("response_code")?,
        answers: serde_json::from_str(&answers).unwrap_or_default(),
        message_bytes: row.get("message_bytes")?,
    })
}

impl Reader {
    /// DNS answers, the newest at the end.
    ///
    /// # Errors
    /// A failed query.
    pub fn dns(&self, query: &Query) -> Result<Vec<DnsRow>, StoreError> {
        let mut clauses = Clauses::of_table(query, Table::Dns);
        let sql = format!(
            "SELECT d.*, {} FROM dns AS d LEFT JOIN processes AS p ON p.id = d.process_id
             {} ORDER BY d.id DESC LIMIT {}",
            joined_columns(),
            clauses.sql(),
            query.limit_or_all(),
        );
        self.collect("DNS answers", &sql, &mut clauses, dns_row)
    }
}
