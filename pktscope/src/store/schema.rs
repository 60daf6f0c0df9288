//! The tables, version by version. A version that was released never changes; a change is a new one.
//!
//! Times are wall times in nanoseconds. `written_at` rises with every batch, also when the clock is set back: it is what
//! followers and retention go by. Bytes are IP-layer totals. Text columns hold the words of the exported events.

/// "pkts": tells the file from another program's (SQLite file format, offset 68).
pub(super) const APPLICATION_ID: i64 = 0x706b_7473;

/// Statements that lead from each version to the next.
pub(super) const MIGRATIONS: &[&str] = &[VERSION_1, VERSION_2];

const VERSION_1: &str = "
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE processes (
    id INTEGER PRIMARY KEY,
    written_at INTEGER NOT NULL,
    entity_id TEXT NOT NULL UNIQUE,
    pid INTEGER NOT NULL,
    name TEXT NOT NULL,
    executable TEXT NOT NULL,
    command_line TEXT NOT NULL,
    sha256 TEXT,
    hash_error TEXT,
    uid INTEGER,
    user TEXT,
    parent_pid INTEGER,
    parent_executable TEXT,
    started_at INTEGER,
    ended_at INTEGER,
    wait_status INTEGER,
    container_id TEXT,
    container_image TEXT,
    cgroup_id INTEGER,
    cgroup_path TEXT,
    package_manager TEXT,
    package_name TEXT,
    package_version TEXT,
    package_is_unmodified INTEGER,
    script_path TEXT,
    script_sha256 TEXT,
    missing TEXT
);
CREATE INDEX processes_written ON processes (written_at);

-- A row is one flow, or `flows` short ones that differ in source port and time only.
CREATE TABLE flows (
    flow_id INTEGER PRIMARY KEY,
    written_at INTEGER NOT NULL,
    flows INTEGER NOT NULL,
    process_id INTEGER,
    status TEXT NOT NULL,
    method TEXT,
    reason TEXT,
    creator_pid INTEGER,
    ambiguity TEXT,
    transport INTEGER NOT NULL,
    direction TEXT NOT NULL,
    source_ip TEXT NOT NULL,
    source_port INTEGER NOT NULL,
    destination_ip TEXT NOT NULL,
    destination_port INTEGER NOT NULL,
    icmp_type INTEGER,
    icmp_code INTEGER,
    source_bytes INTEGER NOT NULL,
    source_packets INTEGER NOT NULL,
    source_payload_bytes INTEGER NOT NULL,
    destination_bytes INTEGER NOT NULL,
    destination_packets INTEGER NOT NULL,
    destination_payload_bytes INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    ended_at INTEGER,
    end_reason TEXT,
    domain TEXT,
    registered_domain TEXT,
    domain_source TEXT,
    domain_candidates INTEGER,
    country TEXT,
    as_number INTEGER,
    as_organization TEXT,
    history TEXT,
    conn_state TEXT,
    server_name TEXT,
    ja4 TEXT,
    has_encrypted_hello INTEGER
);
CREATE INDEX flows_written ON flows (written_at);
CREATE INDEX flows_process ON flows (process_id);
CREATE INDEX flows_open ON flows (flow_id) WHERE ended_at IS NULL;

CREATE TABLE dns (
    id INTEGER PRIMARY KEY,
    written_at INTEGER NOT NULL,
    at INTEGER NOT NULL,
    process_id INTEGER,
    transport INTEGER NOT NULL,
    client_ip TEXT NOT NULL,
    client_port INTEGER NOT NULL,
    server_ip TEXT NOT NULL,
    server_port INTEGER NOT NULL,
    question TEXT NOT NULL,
    question_type INTEGER NOT NULL,
    response_code INTEGER NOT NULL,
    answers TEXT NOT NULL,
    message_bytes INTEGER NOT NULL
);
CREATE INDEX dns_written ON dns (written_at);

-- `document` is the alert as it was exported.
CREATE TABLE alerts (
    id INTEGER PRIMARY KEY,
    written_at INTEGER NOT NULL,
    at INTEGER NOT NULL,
    rule TEXT NOT NULL,
    severity INTEGER NOT NULL,
    message TEXT NOT NULL,
    dedup_key TEXT NOT NULL,
    flow_id INTEGER,
    process_id INTEGER,
    destination_ip TEXT,
    destination_port INTEGER,
    domain TEXT,
    document TEXT NOT NULL
);
CREATE INDEX alerts_written ON alerts (written_at);
CREATE INDEX alerts_dedup ON alerts (dedup_key, at);
CREATE INDEX alerts_process ON alerts (process_id);

-- The newest verdict of an alert is the one that counts; the others are its history.
CREATE TABLE dispositions (
    id INTEGER PRIMARY KEY,
    written_at INTEGER NOT NULL,
    key TEXT NOT NULL UNIQUE,
    at INTEGER NOT NULL,
    alert_id INTEGER,
    rule TEXT NOT NULL,
    verdict TEXT NOT NULL,
    analyst TEXT NOT NULL,
    note TEXT NOT NULL
);
CREATE INDEX dispositions_alert ON dispositions (alert_id, id);

-- What the core wants back after a restart, in its own words.
CREATE TABLE baseline (kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE TABLE cooldowns (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE ledger (
    id INTEGER PRIMARY KEY,
    written_at INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    tx TEXT NOT NULL,
    rx TEXT NOT NULL,
    lost TEXT NOT NULL
);
CREATE INDEX ledger_written ON ledger (written_at);
";

const VERSION_2: &str = "
-- What addresses were asked for by; `boot_id` and `pid` say who asked, and are empty where it holds for everybody.
CREATE TABLE names (
    id INTEGER PRIMARY KEY,
    address TEXT NOT NULL,
    boot_id TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    name TEXT NOT NULL,
    since INTEGER NOT NULL,
    learned_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    UNIQUE (address, boot_id, pid, started_at, name)
);
CREATE INDEX names_expiry ON names (expires_at);

-- How long before the flow its name was learned, in nanoseconds.
ALTER TABLE flows ADD COLUMN domain_age INTEGER;
";
