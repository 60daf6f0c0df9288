//! Processes: a row each, updated as more is known of it.

use std::sync::{Arc, LazyLock};

use lru::LruCache;
use rusqlite::{Connection, Row, ToSql};

use super::{
    Query, Reader, StoreError,
    query::{Clauses, Table},
};
use crate::core::{
    process::{ImageHash, Process},
    time::{BootTime, Moment, WallTime},
};

const COLUMNS: [&str; 26] = [
    "written_at",
    "entity_id",
    "pid",
    "name",
    "executable",
    "command_line",
    "sha256",
    "hash_error",
    "uid",
    "user",
    "parent_pid",
    "parent_executable",
    "started_at",
    "ended_at",
    "wait_status",
    "container_id",
    "container_image",
    "cgroup_id",
    "cgroup_path",
    "package_manager",
    "package_name",
    "package_version",
    "package_is_unmodified",
    "script_path",
    "script_sha256",
    "missing",
];

/// A known hash and a known end are never overwritten by "not known".
static UPSERT: LazyLock<String> = LazyLock::new(|| {
    let places: Vec<String> = (1..=COLUMNS.len()).map(|index| format!("?{index}")).collect();
    let keeps = |column: &str| matches!(column, "sha256" | "ended_at" | "wait_status" | "script_sha256");
    let update = |column: &&str| match keeps(column) {
        true => format!("{column} = coalesce(excluded.{column}, {column})"),
        false => format!("{column} = excluded.{column}"),
    };
    let updates: Vec<String> = COLUMNS.iter().map(update).collect();
    format!(
        "INSERT INTO processes ({}) VALUES ({}) ON CONFLICT (entity_id) DO UPDATE SET {} RETURNING id",
        COLUMNS.join(", "),
        places.join(", "),
        updates.join(", ")
    )
});

/// Row ids of the processes written last.
pub(super) type Ids = LruCache<Arc<str>, i64, ahash::RandomState>;

/// The row of a process: as it was written before, or written now.
pub(super) fn id(connection: &Connection, ids: &mut Ids, process: &Process, written: Written) -> rusqlite::Result<i64> {
    match ids.get(&entity_id(process)) {
        Some(id) => Ok(*id),
        None => write(connection, ids, process, None, written),
    }
}

/// When a batch is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    /// Rises with every batch.
    pub(super) at: i64,
    /// Gives the offset between the clocks.
    pub(super) now: Moment,
}

impl Written {
    /// The wall time of a boot time; `None` of the default, which stands for "not known".
    pub(super) fn wall(&self, at: BootTime) -> Option<i64> {
        (at != BootTime::default()).then(|| self.now.wall_at(at).0)
    }
}

/// Writes a process, returns its row's id.
pub(super) fn write(
    connection: &Connection,
    ids: &mut Ids,
    process: &Process,
    ended: Option<(BootTime, i32)>,
    written: Written,
) -> rusqlite::Result<i64> {
    let entity_id = entity_id(process);
    let (sha256, hash_error) = hash(&process.hash);
    let package = process.package.as_deref();
    let script = process.script.as_deref();
    let values: [&dyn ToSql; COLUMNS.len()] = [
        &written.at,
        &&*entity_id,
        &process.key.pid,
        &&*process.comm,
        &&*process.executable,
        &&*process.command_line,
        &sha256,
        &hash_error,
        &process.uid,
        &process.user.as_deref(),
        &process.parent.map(|parent| parent.pid),
        &process.parent_executable.as_deref(),
        &written.wall(process.key.started_at),
        &ended.and_then(|(at, _)| written.wall(at)),
        &ended.map(|(_, status)| status),
        &process.container_id.as_deref(),
        &process.container_image.as_deref(),
        &process.cgroup_id.map(u64::cast_signed),
        &process.cgroup_path.as_deref(),
        &package.map(|package| package.manager),
        &package.map(|package| &*package.name),
        &package.map(|package| &*package.version),
        &package.and_then(|package| package.is_unmodified),
        &script.map(|script| &*script.path),
        &script.and_then(|script| hash(&script.hash).0),
        &process.missing.as_deref(),
    ];
    let id = connection.prepare_cached(&UPSERT)?.query_row(values.as_slice(), |row| row.get(0))?;
    ids.put(entity_id, id);
    Ok(id)
}

fn entity_id(process: &Process) -> Arc<str> {
    match &*process.entity_id {
        "" => format!("{}:{}", process.key.pid, process.key.started_at.0).into(),
        _ => Arc::clone(&process.entity_id),
    }
}

fn hash(hash: &ImageHash) -> (Option<&str>, Option<&str>) {
    match hash {
        ImageHash::Pending => (None, None),
        ImageHash::Sha256(sha256) => (Some(sha256), None),
        ImageHash::Unreadable(reason) => (None, Some(reason)),
    }
}

/// A stored process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of `core::process::Process`, by the same names")]
pub struct ProcessRow {
    pub written_at: i64,
    pub entity_id: String,
    pub pid: u32,
    pub name: String,
    pub executable: String,
    pub command_line: String,
    pub sha256: Option<String>,
    pub hash_error: Option<String>,
    pub uid: Option<u32>,
    pub user: Option<String>,
    pub parent_pid: Option<u32>,
    pub parent_executable: Option<String>,
    pub started_at: Option<WallTime>,
    pub ended_at: Option<WallTime>,
    pub wait_status: Option<i32>,
    pub container_id: Option<String>,
    pub container_image: Option<String>,
    pub cgroup_id: Option<u64>,
    pub cgroup_path: Option<String>,
    pub package_manager: Option<String>,
    pub package_name: Option<String>,
    pub package_version: Option<String>,
    pub package_is_unmodified: Option<bool>,
    pub script_path: Option<String>,
    pub script_sha256: Option<String>,
    pub missing: Option<String>,
    /// Of the rows in the queried span: flows, bytes sent and received.
    pub traffic: Option<Traffic>,
}

/// What a process sent and received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Flows.
    pub flows: u64,
    /// IP-layer bytes that left this host.
    pub bytes_out: u64,
    /// IP-layer bytes that arrived.
    pub bytes_in: u64,
}

/// The process columns for a query that joins `processes AS p`, each as `p_…`.
pub(super) fn joined_columns() -> String {
    COLUMNS.map(|column| format!("p.{column} AS p_{column}")).join(", ")
}

/// Reads the columns of [`joined_columns`]; `None` where there is no process.
pub(super) fn joined(row: &Row<'_>) -> rusqlite::Result<Option<ProcessRow>> {
    let Some(entity_id) = row.get("p_entity_id")? else { return Ok(None) };
    let time = |name: &str| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(name)?.map(WallTime));
    Ok(Some(ProcessRow {
        entity_id,
        written_at: row.get("p_written_at")?,
        pid: row.get("p_pid")?,
        name: row.get("p_name")?,
        executable: row.get("p_executable")?,
        command_line: row.get("p_command_line")?,
        sha256: row.get("p_sha256")?,
        hash_error: row.get("p_hash_error")?,
        uid: row.get("p_uid")?,
        user: row.get("p_user")?,
        parent_pid: row.get("p_parent_pid")?,
        parent_executable: row.get("p_parent_executable")?,
        started_at: time("p_started_at")?,
        ended_at: time("p_ended_at")?,
        wait_status: row.get("p_wait_status")?,
        container_id: row.get("p_container_id")?,
        container_image: row.get("p_container_image")?,
        cgroup_id: row.get::<_, Option<i64>>("p_cgroup_id")?.map(i64::cast_unsigned),
        cgroup_path: row.get("p_cgroup_path")?,
        package_manager: row.get("p_package_manager")?,
        package_name: row.get("p_package_name")?,
        package_version: row.get("p_package_version")?,
        package_is_unmodified: row.get("p_package_is_unmodified")?,
        script_path: row.get("p_script_path")?,
        script_sha256: row.get("p_script_sha256")?,
        missing: row.get("p_missing")?,
        traffic: None,
    }))
}

impl Reader {
    /// Processes that lived in the queried span, the one written last at the end, with their traffic in it.
    ///
    /// # Errors
    /// A failed query.
    pub fn processes(&self, query: &Query) -> Result<Vec<ProcessRow>, StoreError> {
        let mut clauses = Clauses::of_table(query, Table::Processes);
        let since = query.since.map_or(i64::MIN, |since| since.0);
        // Sums by the index on the process, for the rows that are shown only: a follower asks twice a second.
        let sum =
            |what: &str| format!("(SELECT sum({what}) FROM flows WHERE process_id = p.id AND last_seen >= {since})");
        let sql = format!(
            "SELECT {}, {} AS t_flows, {} AS t_bytes_out, {} AS t_bytes_in FROM processes AS p
             {} ORDER BY p.written_at DESC, p.id DESC LIMIT {}",
            joined_columns(),
            sum("flows"),
            sum("CASE direction WHEN 'egress' THEN source_bytes ELSE destination_bytes END"),
            sum("CASE direction WHEN 'egress' THEN destination_bytes ELSE source_bytes END"),
            clauses.sql(),
            query.limit_or_all(),
        );
        let read = |row: &Row<'_>| {
            let number =
                |name: &str| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(name)?.unwrap_or(0).cast_unsigned());
            let traffic = Traffic {
                flows: number("t_flows")?,
                bytes_out: number("t_bytes_out")?,
                bytes_in: number("t_bytes_in")?,
            };
            Ok(joined(row)?.map(|process| ProcessRow { traffic: Some(traffic), ..process }))
        };
        let rows = self.collect("processes", &sql, &mut clauses, read)?;
        Ok(rows.into_iter().flatten().collect())
    }
}
