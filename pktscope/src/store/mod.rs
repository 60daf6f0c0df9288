//! SQLite: the state directory.
//!
//! In come effects and state rows, collected in memory and written in one transaction a batch by a thread of their own;
//! out come rows, read over connections of their own. The store never blocks the pipeline, never loses what it has
//! stored, and counts what it could not take.

mod alerts;
mod baseline;
mod dispositions;
mod dns;
mod error;
mod flows;
mod judgement;
mod ledger;
mod lock;
mod memory;
mod migrate;
mod names;
mod open;
mod pending;
mod processes;
mod query;
mod retention;
mod rollup;
mod schema;
mod suppressions;
mod writer;

pub use alerts::AlertRow;
pub use baseline::{StateRow, StateTable};
pub use dispositions::DispositionRow;
pub use dns::DnsRow;
pub use error::StoreError;
pub use flows::{DestinationRow, FlowRow};
pub use judgement::{Judgement, disposition_key, is_disposition_key, subject_of_key};
pub use ledger::LedgerRow;
pub use memory::{Memory, baseline_row, export_row, import_row, incident_row};
pub use open::{DATABASE_NAME, Reader, move_aside};
pub use pending::Batch;
pub use processes::ProcessRow;
pub use query::Query;
pub use suppressions::suppression_row;
pub use writer::{AlertDocument, Store, StoreHandle, StoreOptions, StoreStats};

#[cfg(test)]
mod tests;
