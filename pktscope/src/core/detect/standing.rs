//! How ordinary a program and its destination look: context that several rules weigh, never a sign by itself.

use super::sight::Destination;
use crate::core::{
    baseline::{Baseline, ProgramId},
    flow::{Flow, Geo},
};

/// Suspicion of a program at a destination, 0 to 6.
///
/// The image's place counts 0 to 2 ([`crate::core::baseline::Location::suspicion`]); a public address without a name
/// counts 1; a public AS that is not one the host lives with counts 1; a program that took over
/// another's name counts 2.
pub fn suspicion(normal: &Baseline, program: ProgramId, destination: &Destination, geo: &Geo) -> u8 {
    let known = normal.program(program);
    let is_stranger = known.is_some_and(|program| program.predecessor.is_some());
    let place = known.map_or(2, |program| program.location.suspicion()) + if is_stranger { 2 } else { 0 };
    if destination.is_private || destination.is_resolver {
        return place;
    }
    let is_major = geo.as_number.is_some_and(|number| normal.context.is_major(number));
    place + u8::from(!destination.is_named) + u8::from(!is_major)
}

/// Whether a program is newer than the host's learning window, so that nothing is normal for it yet.
pub fn is_new_program(normal: &Baseline, program: ProgramId) -> bool {
    normal.program(program).is_none_or(|program| !program.row.is_learned)
}

/// Whether the rest of the host has long used a destination.
pub fn is_established(normal: &Baseline, destination: &Destination, flow: &Flow, contacts: u32, seconds: u32) -> bool {
    let is_web = matches!(flow.destination.port, 80 | 443);
    destination.is_named
        && is_web
        && normal.known_label(&destination.name).and_then(|label| normal.label(label)).is_some_and(|label| {
            label.contacts >= contacts && label.last_seen.saturating_sub(label.first_seen) >= seconds
        })
}
