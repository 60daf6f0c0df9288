//! Bytes left the host that no program owns.
//!
//! - **Sign**: egress without an owner, in ten minutes, above the bound and above three times the most learned.
//! - **Data needed**: attribution works at all; a capture has no owners and is left out.
//! - **Blind spots**: traffic that the kernel owns (tunnels' outer packets), forwarded traffic.
//! - **Benign causes**: sockets older than the agent, for some minutes after its start; lost records.
//! - **Reference**: MITRE ATT&CK T1205.002 names raw sockets below the socket layer.

use std::collections::VecDeque;

use super::{
    DetectionSettings, Detector, Finding, LedgerSight, Sight, Verdict,
    finding::{bytes_words, destination_words},
};
use crate::core::{
    alert::{RuleId, Severity},
    baseline::{Baseline, BaselineRow, ProgramKey, Steady, profile::HOST, rows::VolumeRow},
    flow::{Attribution, UnknownReason},
    ledger::OWNER_UNKNOWN,
};

/// Minutes of the window.
const WINDOW_MINUTES: u32 = 10;

/// Decides `unattributed_egress`.
#[derive(Debug, Default)]
pub struct UnattributedEgress {
    minutes: VecDeque<(u32, u64)>,
    learned_max: u64,
    started: Option<Steady>,
    is_dirty: bool,
}

impl Detector for UnattributedEgress {
    fn rule(&self) -> RuleId {
        RuleId::UnattributedEgress
    }

    fn see_flow(&mut self, sight: &Sight<'_>, normal: &Baseline, settings: &DetectionSettings) -> Verdict {
        let started = *self.started.get_or_insert(sight.now);
        let Attribution::Unknown(reason) = &sight.flow().attribution else { return Verdict::Normal };
        let bounds = &settings.unattributed;
        let is_expected =
            *reason == UnknownReason::SocketOlderThanAgent && sight.now.since(started) < bounds.start_grace;
        if *reason == UnknownReason::Capture || is_expected || sight.delta.sent == 0 {
            return Verdict::Normal;
        }
        let Some(bytes) = self.judge(sight.now, sight.delta.sent, normal, settings) else {
            return Verdict::NeedMoreData;
        };
        Verdict::Suspicious(Box::new(self.finding(sight, *reason, bytes, normal)))
    }

    /// What left by an interface and no socket's flow tells of: below the sockets, past the hooks.
    fn see_ledger(&mut self, sight: &LedgerSight<'_>, normal: &Baseline, settings: &DetectionSettings) -> Verdict {
        let (mut unseen, mut most) = (0, ("", 0));
        // Flows without an owner are told as flows.
        for (reason, bytes) in sight.ledger.tx.by_reason.iter().filter(|(reason, _)| *reason != OWNER_UNKNOWN) {
            unseen += bytes;
            most = if *bytes > most.1 { (*reason, *bytes) } else { most };
        }
        if unseen == 0 {
            return Verdict::Normal;
        }
        let Some(bytes) = self.judge(sight.now, unseen, normal, settings) else { return Verdict::NeedMoreData };
        Verdict::Suspicious(Box::new(self.ledger_finding(sight, most.0, bytes, normal)))
    }

    fn take_dirty(&mut self, normal: &Baseline) -> Vec<BaselineRow> {
        if std::mem::take(&mut self.is_dirty) { self.rows(normal) } else { Vec::new() }
    }

    fn rows(&self, _normal: &Baseline) -> Vec<BaselineRow> {
        let program = ProgramKey { name: HOST.into(), generation: 0 };
        let windows = vec![(self.learned_max, Vec::new())];
        if self.learned_max == 0 {
            Vec::new()
        } else {
            vec![BaselineRow::Volume(VolumeRow { program, windows, ..VolumeRow::default() })]
        }
    }

    fn restore(&mut self, row: &BaselineRow, _normal: &Baseline) {
        if let BaselineRow::Volume(row) = row
            && &*row.program.name == HOST
        {
            self.learned_max = row.windows.first().map_or(0, |(max, _)| *max);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a multiple of bytes")]
fn is_above(bytes: u64, learned: u64, times: f64) -> bool {
    bytes as f64 > times * learned as f64
}

impl UnattributedEgress {
    /// Adds bytes; those of the window where they are too many. What is learned is not judged.
    fn judge(&mut self, now: Steady, sent: u64, normal: &Baseline, settings: &DetectionSettings) -> Option<u64> {
        let bounds = &settings.unattributed;
        let bytes = self.add(now.minute(), sent);
        if normal.learning.is_learning() {
            self.is_dirty |= bytes > self.learned_max;
            self.learned_max = self.learned_max.max(bytes);
            return None;
        }
        if bytes < bounds.bytes || !is_above(bytes, self.learned_max, bounds.times_learned) {
            return None;
        }
        self.minutes.clear();
        Some(bytes)
    }

    fn ledger_finding(&self, sight: &LedgerSight<'_>, reason: &str, bytes: u64, normal: &Baseline) -> Finding {
        let message = format!(
            "{} left this host within {WINDOW_MINUTES} min that no socket sent ({}); the most learned was {}",
            bytes_words(bytes),
            reason.replace('_', " "),
            bytes_words(self.learned_max)
        );
        let found = Finding::new(RuleId::UnattributedEgress, Severity::Warning, sight.now);
        let found = found.say(message).number("bytes", bytes).text("reason", reason);
        found.number("normal_max_bytes", self.learned_max).with_coverage(normal)
    }

    /// Adds bytes; those of the window.
    fn add(&mut self, minute: u32, bytes: u64) -> u64 {
        while self.minutes.front().is_some_and(|(oldest, _)| oldest + WINDOW_MINUTES <= minute) {
            self.minutes.pop_front();
        }
        match self.minutes.back_mut().filter(|(last, _)| *last == minute) {
            Some((_, sum)) => *sum += bytes,
            None => self.minutes.push_back((minute, bytes)),
        }
        self.minutes.iter().map(|(_, bytes)| bytes).sum()
    }

    fn finding(&self, sight: &Sight<'_>, reason: UnknownReason, bytes: u64, normal: &Baseline) -> Finding {
        let flow = sight.flow();
        let message = format!(
            "{} left this host within {WINDOW_MINUTES} min without an owner ({}), the last to {}; the most learned was {}",
            bytes_words(bytes),
            reason.word().replace('_', " "),
            destination_words(flow),
            bytes_words(self.learned_max)
        );
        let found = Finding {
            flow: Some(flow.clone()),
            ..Finding::new(RuleId::UnattributedEgress, Severity::Warning, sight.now)
        };
        found
            .say(message)
            .number("bytes", bytes)
            .text("reason", reason.word())
            .number("normal_max_bytes", self.learned_max)
            .with_coverage(normal)
    }
}
