//! A ledger line of a recording: detection judges what nobody owns by it.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Deserialize;

use super::stamp::nanoseconds;
use crate::core::{
    effect::{Ledger, LedgerSide},
    ledger::REASONS,
    time::BootTime,
};

/// What a reason that this version does not know is called.
const OTHER_REASON: &str = "other";

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    event: EventPart<'a>,
    pktscope: OwnPart,
}

#[derive(Deserialize)]
struct EventPart<'a> {
    #[serde(borrow)]
    start: Cow<'a, str>,
    #[serde(borrow)]
    end: Cow<'a, str>,
}

#[derive(Deserialize)]
struct OwnPart {
    ledger: LedgerPart,
}

#[derive(Deserialize)]
struct LedgerPart {
    tx: SidePart,
    rx: SidePart,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct SidePart {
    interface_bytes: u64,
    attributed_bytes: u64,
    kernel_bytes: u64,
    forwarded_bytes: u64,
    unknown_bytes: u64,
    counted_twice_bytes: u64,
    by_reason: BTreeMap<String, u64>,
}

/// The interval of a ledger line; `None` where the line lacks a field without which it means nothing.
pub(super) fn parse(text: &[u8]) -> Option<Ledger> {
    let line = serde_json::from_slice::<Line<'_>>(text).ok()?;
    let (start, end) = (nanoseconds(&line.event.start)?, nanoseconds(&line.event.end)?);
    let boot = |nanos: i64| BootTime(nanos.max(0).unsigned_abs());
    let parts = line.pktscope.ledger;
    Some(Ledger {
        started_at: boot(start),
        ended_at: boot(end),
        tx: side(parts.tx),
        rx: side(parts.rx),
        lost: Vec::new(),
    })
}

fn side(part: SidePart) -> LedgerSide {
    LedgerSide {
        interface_bytes: part.interface_bytes,
        attributed_bytes: part.attributed_bytes,
        kernel_bytes: part.kernel_bytes,
        forwarded_bytes: part.forwarded_bytes,
        unknown_bytes: part.unknown_bytes,
        by_reason: part.by_reason.iter().map(|(reason, bytes)| (known(reason), *bytes)).collect(),
        counted_twice_bytes: part.counted_twice_bytes,
    }
}

fn known(reason: &str) -> &'static str {
    REASONS.into_iter().find(|known| *known == reason).unwrap_or(OTHER_REASON)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{
            effect::Effect,
            time::{Moment, WallTime},
        },
        sink::ecs::Exporter,
    };

    #[test]
    fn an_exported_interval_reads_back_as_it_was() {
        let side = LedgerSide {
            interface_bytes: 7,
            attributed_bytes: 4,
            unknown_bytes: 3,
            by_reason: REASONS.iter().zip(1..).map(|(reason, bytes)| (*reason, bytes)).collect(),
            ..LedgerSide::default()
        };
        let (started_at, ended_at) = (BootTime(1_000), BootTime(2_000));
        let ledger = Ledger { started_at, ended_at, tx: side, ..Ledger::default() };
        let at = Moment { boot: ended_at, wall: WallTime(2_000) };
        let mut line = Vec::new();
        assert!(Exporter::default().line(&Effect::Ledger(ledger.clone().into()), at, &mut line));
        assert_eq!(parse(&line), Some(ledger));
        assert_eq!(parse(b"{\"event\":{}}"), None);
    }
}
