//! A program's first contact with a country.
//!
//! - **Sign**: a program that was learned reaches a country, and an AS, that it never reached. A new AS alone is only
//!   evidence.
//! - **Data needed**: country and AS databases; the program's learning window is over.
//! - **Blind spots**: hosts in countries that the program already reaches; no databases. A new destination in a new
//!   country is one alert, the new destination's.
//! - **Benign causes**: a content network that answers from elsewhere, travel, programs that reach the whole world
//!   (from [`super::settings::NoveltySettings::spread_countries`] on nothing is said).
//! - **Reference**: pktscope-core's signal 3.

use super::{
    DetectionSettings, Detector, Finding, Sight, Verdict,
    finding::{destination_words, program_words},
    standing::is_established,
};
use crate::core::{
    alert::{RuleId, Severity},
    baseline::{Baseline, PairState},
};

/// Decides `new_geo`.
#[derive(Debug, Default)]
pub struct NewGeo;

impl Detector for NewGeo {
    fn rule(&self) -> RuleId {
        RuleId::NewGeo
    }

    fn see_flow(&mut self, sight: &Sight<'_>, normal: &Baseline, settings: &DetectionSettings) -> Verdict {
        let Some(novelty) = sight.novelty.filter(|novelty| novelty.is_new_country && !novelty.is_learning) else {
            return Verdict::Normal;
        };
        let Some(program) = normal.program(sight.actor.program) else { return Verdict::Normal };
        let pair = sight.label.and_then(|label| normal.pair(sight.actor.program, label));
        if pair.is_some_and(|pair| pair.state == PairState::Alerted) {
            return Verdict::Normal;
        }
        let known = &program.row.countries;
        if known.is_empty() || novelty.is_first_egress {
            return Verdict::NeedMoreData;
        }
        let has_as = sight.flow().geo.as_number.is_some();
        let is_spread = known.len() >= settings.novelty.spread_countries;
        let seconds = u32::try_from(settings.novelty.established_for.as_secs()).unwrap_or(u32::MAX);
        let contacts = settings.novelty.established_contacts;
        let is_established = is_established(normal, sight.destination, sight.flow(), contacts, seconds);
        if is_spread || is_established || (has_as && !novelty.is_new_as) || sight.destination.is_private {
            return Verdict::Normal;
        }
        let words = known.iter().map(|code| String::from_utf8_lossy(code).into_owned()).collect::<Vec<_>>();
        Verdict::Suspicious(Box::new(finding(sight, normal, &words)))
    }
}

fn finding(sight: &Sight<'_>, normal: &Baseline, known: &[String]) -> Finding {
    let flow = sight.flow();
    let country = flow.geo.country.map(|code| String::from_utf8_lossy(&code).into_owned()).unwrap_or_default();
    let name = program_words(normal, sight.actor.program);
    let mut finding = Finding::about(RuleId::NewGeo, Severity::Notice, sight);
    finding.subject.clone_from(&country);
    let message = format!(
        "{name} reached {country} for the first time, at {}; until now it reached {}",
        destination_words(flow),
        known.join(", ")
    );
    finding
        .say(message)
        .text("country", country)
        .list("known_countries", known.iter().map(|code| code.as_str().into()).collect())
        .number("as_number", flow.geo.as_number.map_or(0, u64::from))
        .text("as_organization", flow.geo.as_organization.clone().unwrap_or_default())
        .with_normal(normal)
}
