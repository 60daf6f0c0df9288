//! Another host's baseline, taken in beside what this host learned.
//!
//! A host of the same role starts with what the other one learned: its programs, their destinations, volumes and first
//! contacts, and how far its learning was. What this host knows itself stays, what an alert was open about there is not
//! taken, and clock, ids and boots are its own.

use ahash::AHashSet;

use super::Detection;
use crate::core::baseline::{BaselineRow, RowKey, rows::VolumeRow};

impl Detection {
    /// Takes another host's rows, in any order; the number of rows that belong to nothing. What was taken comes with the
    /// next [`Self::take_dirty`].
    pub fn import(&mut self, rows: Vec<BaselineRow>) -> usize {
        let detectors = self.detectors.iter();
        let own: AHashSet<RowKey> =
            detectors.flat_map(|detector| detector.rows(&self.baseline)).map(|row| row.key()).collect();
        rows.iter().for_each(|row| self.import_owner(row));
        rows.into_iter().filter(|row| !self.import_owned(row, &own)).count()
    }

    fn import_owner(&mut self, row: &BaselineRow) {
        match row {
            BaselineRow::Host(host) => {
                self.baseline.learning.adopt(host);
                self.baseline.context.restore(&host.as_contacts);
                self.is_host_dirty = true;
            }
            BaselineRow::Program(program) => self.baseline.import_program(program),
            _ => {}
        }
    }

    /// Takes a row that belongs to a program or a domain; `false` where its program is not there.
    fn import_owned(&mut self, row: &BaselineRow, own: &AHashSet<RowKey>) -> bool {
        if !self.baseline.has_program_of(row) {
            return false;
        }
        match row {
            BaselineRow::Host(_) | BaselineRow::Program(_) | BaselineRow::Forgotten(_) => {}
            BaselineRow::Pair(pair) => self.baseline.import_pair(pair),
            BaselineRow::Volume(_) | BaselineRow::Contacts(_) | BaselineRow::DnsParent(_) => {
                if !own.contains(&row.key()) {
                    let row = learned(row.clone());
                    self.detectors.iter_mut().for_each(|detector| detector.restore(&row, &self.baseline));
                    self.imported.push(row);
                }
            }
        }
        true
    }
}

/// A row without what was reported on its own host.
fn learned(row: BaselineRow) -> BaselineRow {
    match row {
        BaselineRow::Volume(row) => BaselineRow::Volume(VolumeRow { spike: None, reported: None, ..row }),
        row => row,
    }
}
