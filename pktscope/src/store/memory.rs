//! What detection remembers, as rows of the store and as lines of a baseline export: JSON in, JSON out.
//!
//! A value that cannot be read back (another version's, or damaged) is skipped and counted, never an error: the rest of
//! the baseline is worth more than a refusal to start.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Reader, StateRow, StateTable, StoreError};
use crate::core::{
    alert::{
        RuleId,
        cooldown::{IncidentChange, IncidentRow},
    },
    baseline::{
        BaselineRow, PairState, ProgramKey, RowKey, Steady,
        rows::{ContactsRow, Coverage, DnsParentRow, HostRow, PairRow, ProgramRow, VolumeRow},
    },
};

/// Between the parts of a key; no path, domain or rule holds it.
const SEPARATOR: char = '\u{1f}';
const KINDS: [&str; 6] = ["host", "program", "pair", "volume", "contacts", "dns_parent"];

/// What a state directory remembers.
#[derive(Debug, Default)]
pub struct Memory {
    /// The baseline.
    pub baseline: Vec<BaselineRow>,
    /// Incidents and their cooldowns.
    pub incidents: Vec<IncidentRow>,
    /// Values that could not be read back.
    pub unreadable: u64,
}

impl Reader {
    /// Everything that detection goes on from.
    ///
    /// # Errors
    /// A failed query.
    pub fn memory(&self) -> Result<Memory, StoreError> {
        let mut memory = Memory::default();
        for kind in KINDS {
            for (_, value) in self.baseline(kind)? {
                match serde_json::from_slice::<Document>(&value) {
                    Ok(document) => memory.baseline.push(document.into()),
                    Err(_) => memory.unreadable += 1,
                }
            }
        }
        for (_, value) in self.cooldowns()? {
            match serde_json::from_slice::<IncidentDocument>(&value) {
                Ok(document) => memory.incidents.push(document.0),
                Err(_) => memory.unreadable += 1,
            }
        }
        Ok(memory)
    }
}

/// A changed baseline row as the store keeps it.
pub fn baseline_row(row: BaselineRow) -> StateRow {
    let key = row.key();
    let value = match row {
        BaselineRow::Forgotten(_) => None,
        row => Document::from_row(row).and_then(|document| serde_json::to_vec(&document).ok()),
    };
    StateRow { table: StateTable::Baseline(kind_of(&key)), key: text_of(&key).into(), value }
}

/// A changed incident as the store keeps it.
pub fn incident_row(change: IncidentChange) -> StateRow {
    let (key, value) = match change {
        IncidentChange::Kept(row) => (row.dedup_key.clone(), serde_json::to_vec(&IncidentDocument(row)).ok()),
        IncidentChange::Forgotten(key) => (key, None),
    };
    StateRow { table: StateTable::Cooldowns, key, value }
}

/// A baseline row as a line of an export; `None` of a row that says what is forgotten.
pub fn export_row(row: BaselineRow) -> Option<serde_json::Value> {
    Document::from_row(row).and_then(|document| serde_json::to_value(&document).ok())
}

/// A line of an export as a baseline row.
///
/// # Errors
/// What is wrong with the line.
pub fn import_row(value: serde_json::Value) -> Result<BaselineRow, String> {
    serde_json::from_value::<Document>(value).map(BaselineRow::from).map_err(|error| error.to_string())
}

fn kind_of(key: &RowKey) -> &'static str {
    let [host, program, pair, volume, contacts, dns_parent] = KINDS;
    match key {
        RowKey::Host => host,
        RowKey::Program(_) => program,
        RowKey::Pair(..) => pair,
        RowKey::Volume(_) => volume,
        RowKey::Contacts(_) => contacts,
        RowKey::DnsParent(_) => dns_parent,
    }
}

fn text_of(key: &RowKey) -> String {
    let of_program = |key: &ProgramKey| format!("{}{SEPARATOR}{}", key.name, key.generation);
    match key {
        RowKey::Host => String::new(),
        RowKey::Program(program) | RowKey::Volume(program) | RowKey::Contacts(program) => of_program(program),
        RowKey::Pair(program, label) => format!("{}{SEPARATOR}{label}", of_program(program)),
        RowKey::DnsParent(parent) => parent.to_string(),
    }
}

/// A row on disk, and in an export.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Document {
    Host(#[serde(with = "HostDef")] HostRow),
    Program(#[serde(with = "ProgramDef")] ProgramRow),
    Pair(#[serde(with = "PairDef")] PairRow),
    Volume(#[serde(with = "VolumeDef")] VolumeRow),
    Contacts(#[serde(with = "ContactsDef")] ContactsRow),
    DnsParent(#[serde(with = "DnsParentDef")] DnsParentRow),
}

impl Document {
    fn from_row(row: BaselineRow) -> Option<Self> {
        Some(match row {
            BaselineRow::Host(row) => Self::Host(row),
            BaselineRow::Program(row) => Self::Program(row),
            BaselineRow::Pair(row) => Self::Pair(row),
            BaselineRow::Volume(row) => Self::Volume(row),
            BaselineRow::Contacts(row) => Self::Contacts(row),
            BaselineRow::DnsParent(row) => Self::DnsParent(row),
            BaselineRow::Forgotten(_) => return None,
        })
    }
}

impl From<Document> for BaselineRow {
    fn from(document: Document) -> Self {
        match document {
            Document::Host(row) => Self::Host(row),
            Document::Program(row) => Self::Program(row),
            Document::Pair(row) => Self::Pair(row),
            Document::Volume(row) => Self::Volume(row),
            Document::Contacts(row) => Self::Contacts(row),
            Document::DnsParent(row) => Self::DnsParent(row),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct IncidentDocument(#[serde(with = "IncidentDef")] IncidentRow);

#[derive(Serialize, Deserialize)]
#[serde(remote = "Steady")]
struct SteadyDef(i64);

#[derive(Serialize, Deserialize)]
#[serde(remote = "ProgramKey")]
struct ProgramKeyDef {
    name: Arc<str>,
    generation: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "PairState", rename_all = "snake_case")]
enum PairStateDef {
    Learned,
    Accepted,
    Alerted,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Coverage")]
struct CoverageDef {
    has_seen_reboot: bool,
    has_seen_update: bool,
    has_seen_weekend: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "HostRow")]
struct HostDef {
    #[serde(with = "SteadyDef")]
    clock: Steady,
    #[serde(with = "SteadyDef")]
    started: Steady,
    observed: Duration,
    is_active: bool,
    boot_nanos: u64,
    #[serde(with = "CoverageDef")]
    coverage: Coverage,
    next_alert_id: u64,
    as_contacts: Vec<(u32, u64)>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ProgramRow")]
struct ProgramDef {
    #[serde(with = "ProgramKeyDef")]
    key: ProgramKey,
    executable: Arc<str>,
    images: Vec<Arc<str>>,
    package: Option<(Arc<str>, Arc<str>)>,
    #[serde(with = "SteadyDef")]
    first_seen: Steady,
    #[serde(with = "SteadyDef")]
    last_seen: Steady,
    is_learned: bool,
    #[serde(with = "optional_steady")]
    learns_until: Option<Steady>,
    #[serde(with = "optional_steady")]
    alert_open_until: Option<Steady>,
    late_labels: u32,
    countries: Vec<[u8; 2]>,
    as_numbers: Vec<u32>,
    labels: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "PairRow")]
struct PairDef {
    #[serde(with = "ProgramKeyDef")]
    program: ProgramKey,
    label: Arc<str>,
    #[serde(with = "PairStateDef")]
    state: PairState,
    #[serde(with = "SteadyDef")]
    first_seen: Steady,
    #[serde(with = "SteadyDef")]
    last_seen: Steady,
    contacts: u32,
    is_periodic: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "VolumeRow")]
struct VolumeDef {
    #[serde(with = "ProgramKeyDef")]
    program: ProgramKey,
    average: (f64, f64, u32),
    windows: Vec<(u64, Vec<(u8, u32)>)>,
    weekly: Vec<(u8, u64)>,
    #[serde(default)]
    spike: Option<(u8, u64, u8)>,
    #[serde(default, with = "optional_steady")]
    reported: Option<Steady>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "ContactsRow")]
struct ContactsDef {
    #[serde(with = "ProgramKeyDef")]
    program: ProgramKey,
    tcp: [f32; 2],
    datagrams: [f32; 2],
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "DnsParentRow")]
struct DnsParentDef {
    parent: Arc<str>,
    #[serde(with = "SteadyDef")]
    last_seen: Steady,
    name_bytes: [u64; 3],
    questions: [u64; 3],
    answer_bytes: [u64; 3],
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "IncidentRow")]
struct IncidentDef {
    dedup_key: Arc<str>,
    #[serde(with = "rule")]
    rule: RuleId,
    alert_id: u64,
    #[serde(with = "SteadyDef")]
    raised: Steady,
    #[serde(with = "SteadyDef")]
    last: Steady,
    repeats: u64,
    #[serde(with = "optional_program")]
    program: Option<ProgramKey>,
    label: Option<Arc<str>>,
    is_closed: bool,
}

mod rule {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::core::alert::RuleId;

    pub(super) fn serialize<S: Serializer>(rule: &RuleId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(rule.id())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<RuleId, D::Error> {
        let id = String::deserialize(deserializer)?;
        RuleId::from_id(&id).ok_or_else(|| D::Error::custom(format!("there is no rule \"{id}\"")))
    }
}

mod optional_steady {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Steady;

    pub(super) fn serialize<S: Serializer>(time: &Option<Steady>, serializer: S) -> Result<S::Ok, S::Error> {
        time.map(|time| time.0).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Steady>, D::Error> {
        Ok(Option::<i64>::deserialize(deserializer)?.map(Steady))
    }
}

mod optional_program {
    use std::sync::Arc;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::ProgramKey;

    pub(super) fn serialize<S: Serializer>(key: &Option<ProgramKey>, serializer: S) -> Result<S::Ok, S::Error> {
        key.as_ref().map(|key| (&key.name, key.generation)).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ProgramKey>, D::Error> {
        let parts = Option::<(Arc<str>, u32)>::deserialize(deserializer)?;
        Ok(parts.map(|(name, generation)| ProgramKey { name, generation }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> ProgramKey {
        ProgramKey { name: "/usr/bin/curl".into(), generation: 2 }
    }

    #[test]
    fn every_kind_of_row_reads_back_as_it_was() {
        let rows = [
            BaselineRow::Host(HostRow { clock: Steady(7), as_contacts: vec![(64_496, 3)], ..HostRow::default() }),
            BaselineRow::Program(ProgramRow {
                key: program(),
                package: Some(("dpkg:curl".into(), "7.88.1".into())),
                learns_until: Some(Steady(9)),
                countries: vec![*b"DE"],
                ..ProgramRow::default()
            }),
            BaselineRow::Pair(PairRow {
                program: program(),
                label: "example.org".into(),
                state: PairState::Alerted,
                first_seen: Steady(1),
                last_seen: Steady(2),
                contacts: 3,
                is_periodic: true,
            }),
            BaselineRow::Volume(VolumeRow {
                windows: vec![(5, vec![(1, 2)])],
                spike: Some((1, 60, 7)),
                reported: Some(Steady(8)),
                ..VolumeRow::default()
            }),
            BaselineRow::DnsParent(DnsParentRow {
                parent: "example.org".into(),
                last_seen: Steady(1),
                name_bytes: [1, 2, 3],
                questions: [4, 5, 6],
                answer_bytes: [7, 8, 9],
            }),
        ];
        for row in rows {
            let value = export_row(row.clone()).expect("a row with a value");
            assert_eq!(import_row(value), Ok(row));
        }
    }

    #[test]
    fn keys_of_different_rows_differ() {
        let keys = [
            RowKey::Pair(program(), "a".into()),
            RowKey::Pair(program(), "b".into()),
            RowKey::Pair(ProgramKey { generation: 3, ..program() }, "a".into()),
        ];
        let texts: std::collections::BTreeSet<String> = keys.iter().map(text_of).collect();
        assert_eq!(texts.len(), keys.len());
    }

    #[test]
    fn a_line_that_is_no_row_says_why() {
        let error = import_row(serde_json::json!({"kind": "pair", "label": "example.org"})).unwrap_err();
        assert!(error.contains("program"), "{error}");
    }
}
