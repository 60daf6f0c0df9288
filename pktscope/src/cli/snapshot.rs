//! `pktscope snapshot`

use super::{output::print, place::Place};
use crate::api::{self, Request};

pub(super) fn run(place: &Place) -> anyhow::Result<()> {
    let snapshot = api::call(&place.config()?.agent.runtime_dir, &Request::Snapshot)?;
    Ok(print(format!("{snapshot}\n").as_bytes())?)
}
