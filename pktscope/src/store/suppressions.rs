//! Suppressions, as the core keeps them: a row each, revoked and ended ones too.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Reader, StateRow, StateTable, StoreError};
use crate::core::{
    alert::{
        RuleId,
        suppression::{DestinationClass, Suppression},
    },
    baseline::Steady,
};

const KIND: &str = "suppression";

#[derive(Serialize, Deserialize)]
struct Document {
    id: u64,
    rule: String,
    program: Arc<str>,
    destination: DestinationDocument,
    created: i64,
    expires: i64,
    analyst: Arc<str>,
    note: Arc<str>,
    revoked: Option<(i64, Arc<str>)>,
    hidden: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum DestinationDocument {
    Label(Arc<str>),
    As(u32),
    Private,
    Any,
}

/// A suppression as a state row.
pub fn suppression_row(suppression: &Suppression) -> StateRow {
    let document = Document {
        id: suppression.id,
        rule: suppression.rule.id().to_owned(),
        program: Arc::clone(&suppression.program),
        destination: match &suppression.destination {
            DestinationClass::Label(label) => DestinationDocument::Label(Arc::clone(label)),
            DestinationClass::As(number) => DestinationDocument::As(*number),
            DestinationClass::Private => DestinationDocument::Private,
            DestinationClass::Any => DestinationDocument::Any,
        },
        created: suppression.created.0,
        expires: suppression.expires.0,
        analyst: Arc::clone(&suppression.analyst),
        note: Arc::clone(&suppression.note),
        revoked: suppression.revoked.as_ref().map(|(at, analyst)| (at.0, Arc::clone(analyst))),
        hidden: suppression.hidden,
    };
    let value = serde_json::to_vec(&document).ok();
    StateRow { table: StateTable::Baseline(KIND), key: format!("{:020}", suppression.id).into(), value }
}

/// `None` of a rule that this version does not know.
fn suppression(document: Document) -> Option<Suppression> {
    Some(Suppression {
        id: document.id,
        rule: RuleId::from_id(&document.rule)?,
        program: document.program,
        destination: match document.destination {
            DestinationDocument::Label(label) => DestinationClass::Label(label),
            DestinationDocument::As(number) => DestinationClass::As(number),
            DestinationDocument::Private => DestinationClass::Private,
            DestinationDocument::Any => DestinationClass::Any,
        },
        created: Steady(document.created),
        expires: Steady(document.expires),
        analyst: document.analyst,
        note: document.note,
        revoked: document.revoked.map(|(at, analyst)| (Steady(at), analyst)),
        hidden: document.hidden,
    })
}

impl Reader {
    /// Every suppression, in the order they were made, and the number of rows that cannot be read.
    ///
    /// # Errors
    /// A failed query.
    pub fn suppressions(&self) -> Result<(Vec<Suppression>, u64), StoreError> {
        let mut suppressions = Vec::new();
        let mut unreadable = 0;
        for (_, value) in self.baseline(KIND)? {
            match serde_json::from_slice(&value).ok().and_then(suppression) {
                Some(suppression) => suppressions.push(suppression),
                None => unreadable += 1,
            }
        }
        Ok((suppressions, unreadable))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suppression_is_read_back_as_it_was() {
        let classes = [
            DestinationClass::Label("a.example".into()),
            DestinationClass::As(7),
            DestinationClass::Private,
            DestinationClass::Any,
        ];
        for (id, destination) in (1..).zip(classes) {
            let original = Suppression {
                id,
                rule: RuleId::Beaconing,
                program: "/usr/bin/curl".into(),
                destination,
                created: Steady(5),
                expires: Steady(9),
                analyst: "ada".into(),
                note: "ours".into(),
                revoked: (id == 2).then(|| (Steady(7), "bob".into())),
                hidden: 3,
            };
            let row = suppression_row(&original);
            let document = serde_json::from_slice(&row.value.unwrap()).unwrap();
            assert_eq!(suppression(document), Some(original));
        }
    }
}
