//! What is common on this host: context for a verdict, never its key.

use ahash::AHashMap;

/// AS numbers kept; contacts to others are only in the total.
const MAX_AS_NUMBERS: usize = 4_096;
/// From this share of contacts on, an AS is one the host lives with.
const MAJOR_SHARE: f64 = 0.08;

/// Contacts by AS while the host learned.
#[derive(Clone, Debug, Default)]
pub struct HostContext {
    as_contacts: AHashMap<u32, u64>,
    total: u64,
}

impl HostContext {
    /// Counts a learned contact.
    pub fn count(&mut self, as_number: u32) {
        self.total += 1;
        let has_room = self.as_contacts.len() < MAX_AS_NUMBERS;
        match self.as_contacts.get_mut(&as_number) {
            Some(contacts) => *contacts += 1,
            None if has_room => {
                self.as_contacts.insert(as_number, 1);
            }
            None => {}
        }
    }

    /// Whether an AS carries a large part of what the host learned.
    #[expect(clippy::cast_precision_loss, reason = "a share of counts")]
    pub fn is_major(&self, as_number: u32) -> bool {
        let contacts = self.as_contacts.get(&as_number).copied().unwrap_or(0);
        contacts > 0 && contacts as f64 >= MAJOR_SHARE * self.total as f64
    }

    /// Contacts by AS number, in order.
    pub fn save(&self) -> Vec<(u32, u64)> {
        let mut rows: Vec<_> = self.as_contacts.iter().map(|(number, contacts)| (*number, *contacts)).collect();
        rows.sort_unstable();
        rows
    }

    /// Adds stored contacts.
    pub fn restore(&mut self, rows: &[(u32, u64)]) {
        for &(number, contacts) in rows.iter().take(MAX_AS_NUMBERS) {
            self.total += contacts;
            *self.as_contacts.entry(number).or_default() += contacts;
        }
    }
}
