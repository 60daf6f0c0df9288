//! Names on their way to the store and back: in wall time, which goes on while no agent runs.

use std::{net::IpAddr, sync::Arc};

use super::{
    NameTable,
    claims::{Asker, Times},
};
use crate::core::{
    process::ProcessKey,
    time::{Moment, WallTime},
};

/// A process, in every boot of this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoredAsker {
    /// The boot that it belongs to.
    pub boot_id: Arc<str>,
    /// Which of that boot.
    pub key: ProcessKey,
}

/// A name of an address, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameRow {
    /// The address.
    pub addr: IpAddr,
    /// The name that was asked for.
    pub name: Arc<str>,
    /// Who asked; `None` where it holds for everybody.
    pub asker: Option<StoredAsker>,
    /// The first answer of a row without a gap.
    pub since: WallTime,
    /// The last answer.
    pub learned_at: WallTime,
    /// Until when it holds: TTL and floor.
    pub expires_at: WallTime,
}

impl NameTable {
    /// Notes changes from now on, for [`Self::take_changed`].
    pub fn note_changes(&mut self) {
        self.claims.note_changes();
    }

    /// Up to `most` of the names that were learned or renewed since they were taken, the longest changed first.
    pub fn take_changed(&mut self, most: usize, boot_id: &Arc<str>, now: Moment) -> Vec<NameRow> {
        let changed = self.claims.take_changed(most);
        let row = |changed: super::claims::Changed| NameRow {
            addr: changed.addr,
            name: changed.name,
            asker: changed.asker.key().map(|key| StoredAsker { boot_id: boot_id.clone(), key }),
            since: now.wall_at(changed.times.since),
            learned_at: now.wall_at(changed.times.learned_at),
            expires_at: now.wall_at(changed.times.expires_at),
        };
        changed.into_iter().map(row).collect()
    }

    /// Takes names back that still hold, the longest learned first. Those of another boot's processes hold for nobody.
    pub fn restore(&mut self, rows: &[NameRow], boot_id: &str, now: Moment) {
        for row in rows.iter().filter(|row| now.wall <= row.expires_at) {
            let asker = match &row.asker {
                None => Asker::HOST,
                Some(asker) if *asker.boot_id == *boot_id => Asker::process(asker.key),
                Some(_) => continue,
            };
            self.claims.restore(row.addr, asker, &row.name, self.times(row, now));
        }
    }

    /// A row's times on the boot's clock. A wall clock that was set back makes no name hold longer than a new one would.
    fn times(&self, row: &NameRow, now: Moment) -> Times {
        let latest = now.boot.plus(self.settings.ttl_cap.max(self.settings.ttl_floor));
        let learned_at = now.boot_at(row.learned_at).min(now.boot);
        Times {
            since: now.boot_at(row.since).min(learned_at),
            learned_at,
            expires_at: now.boot_at(row.expires_at).min(latest),
        }
    }
}
