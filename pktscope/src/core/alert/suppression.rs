//! Suppressions: a false positive, generalised by an analyst to a program and a class of destinations, for a time.
//!
//! In: findings. Out: whether one is hidden, and by which suppression. Every suppression is shown before it applies
//! ([`would_hide`]), counted while it does, ends by itself, and can be revoked; revoked and ended ones stay as audit.

use std::{sync::Arc, time::Duration};

use super::RuleId;
use crate::core::{baseline::Steady, domain::registrable};

/// Suppressions held; more are refused.
pub const MAX_SUPPRESSIONS: usize = 4_096;
/// Longest life of a suppression.
pub const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Which destinations a suppression is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DestinationClass {
    /// This registrable domain, with all below it, or this address.
    Label(Arc<str>),
    /// This AS.
    As(u32),
    /// Private and local addresses.
    Private,
    /// Every destination.
    Any,
}

/// A suppression as it is stored; `id` is its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Suppression {
    /// Unique within a state directory.
    pub id: u64,
    /// The rule it hides findings of.
    pub rule: RuleId,
    /// The program, by its name in the baseline.
    pub program: Arc<str>,
    /// The destinations.
    pub destination: DestinationClass,
    /// When it was made.
    pub created: Steady,
    /// When it ends by itself.
    pub expires: Steady,
    /// Who made it, and why.
    pub analyst: Arc<str>,
    /// Why.
    pub note: Arc<str>,
    /// When and by whom it was revoked.
    pub revoked: Option<(Steady, Arc<str>)>,
    /// Findings it hid.
    pub hidden: u64,
}

/// What a suppression is compared with: a finding, or a stored alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The rule.
    pub rule: RuleId,
    /// The program's name in the baseline.
    pub program: Arc<str>,
    /// The destination: registrable domain or address.
    pub label: Option<Arc<str>>,
    /// Its AS.
    pub as_number: Option<u32>,
    /// Whether its address is private.
    pub is_private: bool,
}

/// Why a suppression was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It would hide every destination of a rule for every program.
    NoProgram,
    /// It ends before it begins, or lives longer than [`LONGEST`].
    BadExpiry,
    /// There are [`MAX_SUPPRESSIONS`] already.
    Full,
}

/// The suppressions of a host.
#[derive(Debug, Default)]
pub struct Suppressions {
    list: Vec<Suppression>,
    dirty: Vec<u64>,
}

impl Suppression {
    /// Whether it holds at a time.
    pub fn is_active(&self, at: Steady) -> bool {
        self.revoked.is_none() && self.created <= at && at < self.expires
    }

    /// Whether it is about a finding, whatever the time.
    pub fn is_about(&self, subject: &Subject) -> bool {
        self.rule == subject.rule && self.program == subject.program && self.destination.has(subject)
    }
}

impl DestinationClass {
    fn has(&self, subject: &Subject) -> bool {
        match self {
            Self::Label(label) => {
                subject.label.as_ref().is_some_and(|known| known == label || registrable(known) == &**label)
            }
            Self::As(number) => subject.as_number == Some(*number),
            Self::Private => subject.is_private,
            Self::Any => true,
        }
    }
}

/// What a suppression would have hidden of earlier alerts: their ids, in the order given.
pub fn would_hide<'a>(suppression: &Suppression, alerts: impl IntoIterator<Item = (u64, &'a Subject)>) -> Vec<u64> {
    alerts.into_iter().filter(|(_, subject)| suppression.is_about(subject)).map(|(id, _)| id).collect()
}

impl Suppressions {
    /// Takes a suppression; its id is given here.
    ///
    /// # Errors
    /// [`Refusal`] where it hides too much or lives too long.
    pub fn add(&mut self, mut suppression: Suppression) -> Result<u64, Refusal> {
        if suppression.program.is_empty() {
            return Err(Refusal::NoProgram);
        }
        let is_backwards = suppression.expires <= suppression.created;
        if is_backwards || suppression.expires.since(suppression.created) > LONGEST {
            return Err(Refusal::BadExpiry);
        }
        if self.list.len() >= MAX_SUPPRESSIONS {
            return Err(Refusal::Full);
        }
        suppression.id = self.list.iter().map(|known| known.id).max().unwrap_or(0) + 1;
        let id = suppression.id;
        self.list.push(suppression);
        self.dirty.push(id);
        Ok(id)
    }

    /// Ends a suppression; `false` where there is none such, or it has ended.
    pub fn revoke(&mut self, id: u64, analyst: &str, at: Steady) -> bool {
        let Some(known) = self.list.iter_mut().find(|known| known.id == id && known.is_active(at)) else {
            return false;
        };
        known.revoked = Some((at, analyst.into()));
        self.dirty.push(id);
        true
    }

    /// The suppression that hides a finding; it counts it.
    pub fn hides(&mut self, subject: &Subject, at: Steady) -> Option<u64> {
        let known = self.list.iter_mut().find(|known| known.is_active(at) && known.is_about(subject))?;
        known.hidden += 1;
        self.dirty.push(known.id);
        Some(known.id)
    }

    /// All of them, ended ones too.
    pub fn all(&self) -> &[Suppression] {
        &self.list
    }

    /// Takes stored ones back.
    pub fn restore(&mut self, rows: impl IntoIterator<Item = Suppression>) {
        self.list = rows.into_iter().take(MAX_SUPPRESSIONS).collect();
        self.list.sort_by_key(|known| known.id);
    }

    /// Those changed since the last call.
    pub fn take_dirty(&mut self) -> Vec<Suppression> {
        let mut ids = std::mem::take(&mut self.dirty);
        ids.sort_unstable();
        ids.dedup();
        ids.iter().filter_map(|id| self.list.iter().find(|known| known.id == *id).cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn suppression(destination: DestinationClass) -> Suppression {
        Suppression {
            id: 0,
            rule: RuleId::VolumeSpike,
            program: "/usr/bin/rclone".into(),
            destination,
            created: Steady::from_seconds(1_000),
            expires: Steady::from_seconds(1_000).plus(30 * DAY),
            analyst: "ann".into(),
            note: "disk image moved".into(),
            revoked: None,
            hidden: 0,
        }
    }

    fn subject(label: &str) -> Subject {
        Subject {
            rule: RuleId::VolumeSpike,
            program: "/usr/bin/rclone".into(),
            label: Some(label.into()),
            as_number: Some(15_169),
            is_private: false,
        }
    }

    #[test]
    fn it_hides_its_program_and_class_while_it_lasts() {
        let mut all = Suppressions::default();
        let id = all.add(suppression(DestinationClass::Label("drive.example".into()))).unwrap();
        let at = Steady::from_seconds(2_000);
        assert_eq!(all.hides(&subject("drive.example"), at), Some(id));
        assert_eq!(all.hides(&subject("other.example"), at), None);
        assert_eq!(all.hides(&Subject { program: "/usr/bin/curl".into(), ..subject("drive.example") }, at), None);
        assert_eq!(all.hides(&Subject { rule: RuleId::PortScan, ..subject("drive.example") }, at), None);
        assert_eq!(all.hides(&subject("drive.example"), at.plus(31 * DAY)), None, "expired");
        assert_eq!(all.all()[0].hidden, 1);
    }

    #[test]
    fn it_can_be_revoked_and_stays_as_audit() {
        let mut all = Suppressions::default();
        let id = all.add(suppression(DestinationClass::As(15_169))).unwrap();
        let at = Steady::from_seconds(2_000);
        assert!(all.hides(&subject("x"), at).is_some() && all.revoke(id, "bob", at));
        assert_eq!((all.hides(&subject("x"), at), all.revoke(id, "bob", at)), (None, false));
        assert_eq!(all.all()[0].revoked.as_ref().map(|(_, who)| &**who), Some("bob"));
        assert_eq!(all.take_dirty().len(), 1);
    }

    #[test]
    fn too_wide_or_endless_is_refused_and_the_effect_is_shown_first() {
        let mut all = Suppressions::default();
        let endless = Suppression { expires: Steady(i64::MAX), ..suppression(DestinationClass::Any) };
        assert_eq!(all.add(endless), Err(Refusal::BadExpiry));
        assert_eq!(
            all.add(Suppression { program: "".into(), ..suppression(DestinationClass::Any) }),
            Err(Refusal::NoProgram)
        );
        let (a, b) = (subject("drive.example"), subject("other.example"));
        let shown =
            would_hide(&suppression(DestinationClass::Label("drive.example".into())), [(1, &a), (2, &b), (3, &a)]);
        assert_eq!(shown, [1, 3]);
    }
}
