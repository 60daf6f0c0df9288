//! Detection goes on from what the store remembers, and hands it what changed.

use std::collections::HashMap;

use tracing::warn;

use super::{answer::closing_of, settings};
use crate::{
    clock,
    config::Config,
    core::{detect::Detection, pipeline::Pipeline},
    store::{self, Reader, StateRow, StoreError},
};

/// Detection with the baseline and the cooldowns of the state directory.
pub(super) fn detection(config: &Config, reader: &Reader) -> Result<Detection, StoreError> {
    let memory = reader.memory()?;
    let mut detection = Detection::new(settings::detection(config));
    let orphans = detection.restore(&memory.baseline, clock::now());
    detection.restore_incidents(memory.incidents);
    close_judged(&mut detection, reader)?;
    let (suppressions, unreadable) = reader.suppressions()?;
    detection.suppressions_mut().restore(suppressions);
    let lost = memory.unreadable + orphans as u64 + unreadable;
    if lost > 0 {
        warn!("{lost} rows of the baseline could not be read back; what they held is learned anew");
    }
    Ok(detection)
}

/// Gives the pipeline the names that addresses were asked for by, as far as they still hold.
pub(super) fn names(pipeline: &mut Pipeline, reader: &Reader) -> Result<(), StoreError> {
    let now = clock::now();
    let (names, unreadable) = reader.names(now.wall)?;
    if unreadable > 0 {
        warn!("{unreadable} names of addresses could not be read back; they are learned anew");
    }
    pipeline.restore_names(&names, now);
    Ok(())
}

/// Closes the incidents whose alert got its verdict while no agent ran.
fn close_judged(detection: &mut Detection, reader: &Reader) -> Result<(), StoreError> {
    let verdicts: HashMap<u64, String> =
        reader.dispositions()?.into_iter().filter_map(|row| Some((row.alert_id?, row.verdict))).collect();
    for (alert, key) in detection.open_incidents() {
        if let Some(closing) = verdicts.get(&alert).and_then(|verdict| closing_of(verdict).ok()) {
            detection.close_incident(&key, closing, clock::now());
        }
    }
    Ok(())
}

/// What changed in detection since the last call, as rows.
pub(super) fn changes(pipeline: &mut Pipeline) -> Vec<StateRow> {
    let detection = pipeline.detection();
    let rows = detection.take_dirty().into_iter().map(store::baseline_row);
    let incidents = detection.take_dirty_incidents().into_iter().map(store::incident_row);
    let rows: Vec<StateRow> = rows.chain(incidents).collect();
    let suppressions = detection.suppressions_mut().take_dirty();
    rows.into_iter().chain(suppressions.iter().map(store::suppression_row)).collect()
}
