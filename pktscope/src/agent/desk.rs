//! Where events are stepped and what follows from them is handed out, in the order in which it followed.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::sync::mpsc as answers;
use tracing::{info, warn};

use super::{
    memory::{self, Bursts},
    outputs::Outputs,
    restore,
    schedule::Schedule,
};
use crate::{
    core::{
        effect::{Effect, Ledger, Lookup},
        event::{Answer, Event, ProcessFacts},
        flow::Geo,
        pipeline::Pipeline,
        time::Moment,
    },
    enrich::{Enricher, geoip::GeoDatabases},
};

/// Events stepped before what follows is handed out: what a burst's flows wait for is asked, and answered, while more
/// of them come.
const EVENTS_AT_ONCE: usize = 1_024;

/// How long who tells of flows by the thousand waits for the store after each: what begins or ends at once waits in the
/// kernel's ring and in the flow table rather than in the store's queue, where each takes half a kilobyte.
pub(super) const PATIENCE: Duration = Duration::from_millis(50);

/// Names handed to the store in a second: a batch that it writes in some ten milliseconds.
const NAMES_AT_ONCE: usize = 2_048;
/// Names handed to the store at the end, within the time that stopping may take.
const NAMES_AT_END: usize = 16_384;

/// See the module.
pub(super) struct Desk {
    pub(super) pipeline: Pipeline,
    pub(super) enricher: Enricher,
    pub(super) answers: answers::Receiver<ProcessFacts>,
    pub(super) geo: GeoDatabases,
    pub(super) outputs: Outputs,
    pub(super) schedule: Schedule,
    /// The last closed interval.
    pub(super) ledger: Option<Arc<Ledger>>,
    /// Whether memory is to be given back.
    pub(super) bursts: Bursts,
    /// What followed and was not handed out yet.
    pub(super) effects: Vec<Effect>,
}

impl Desk {
    /// Steps events; what follows is handed out when many are stepped, the rest by [`Self::hand_out`].
    pub(super) fn step(&mut self, events: impl Iterator<Item = Event>, now: Moment) {
        for (number, event) in (1_usize..).zip(events) {
            self.pipeline.step(event, now, &mut self.effects);
            if number.is_multiple_of(EVENTS_AT_ONCE) {
                self.hand_out(now);
                self.take_answers(now);
            }
        }
    }

    /// Hands the last effects out, and all that changed and was not due yet.
    pub(super) fn finish(&mut self, now: Moment) {
        self.hand_out(now);
        self.outputs.tell(&[], restore::changes(&mut self.pipeline), now);
        self.outputs.keep_names(self.pipeline.take_names(NAMES_AT_END, now), now);
        self.outputs.flush();
    }

    /// Takes what was found out about processes.
    pub(super) fn take_answers(&mut self, now: Moment) {
        while let Ok(facts) = self.answers.try_recv() {
            self.pipeline.step(Event::Answer(Answer::Process(facts)), now, &mut self.effects);
        }
    }

    /// Lets the pipeline see the time; where many flows are over at once it is to see it again in the next turn.
    pub(super) fn tick(&mut self, now: Moment) {
        let has_more = self.pipeline.tick(now, &mut self.effects);
        self.schedule.note_ticked(has_more);
    }

    /// Ends every open flow, and tells of all that is left.
    pub(super) fn end_flows(&mut self, now: Moment) {
        while self.pipeline.finish_some_sockets(now, &mut self.effects) {
            self.hand_out(now);
            self.outputs.let_write(PATIENCE);
        }
        self.pipeline.finish(now, &mut self.effects);
    }

    /// Hands effects out in order; a look-up that is answered at once is answered first.
    pub(super) fn hand_out(&mut self, now: Moment) {
        let mut told = Vec::new();
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    Effect::Lookup(Lookup::Process(question)) => self.enricher.submit(*question),
                    Effect::Lookup(Lookup::Geo(addr)) => {
                        let geo = self.look_up(addr);
                        self.pipeline.step(Event::Answer(Answer::Geo(addr, geo)), now, &mut self.effects);
                    }
                    Effect::Ledger(ledger) => {
                        self.ledger = Some(ledger.clone());
                        told.push(Effect::Ledger(ledger));
                    }
                    effect => told.push(effect),
                }
            }
        }
        let has_alert = told.iter().any(|effect| matches!(effect, Effect::Alert(_)));
        let is_save_due = self.schedule.is_save_due(now.boot);
        let state = match has_alert || is_save_due {
            true => restore::changes(&mut self.pipeline),
            false => Vec::new(),
        };
        self.outputs.tell(&told, state, now);
        if is_save_due {
            let names = self.pipeline.take_names(NAMES_AT_ONCE, now);
            self.outputs.keep_names(names, now);
        }
        self.bursts.note(told.len());
        drop(told);
        if is_save_due && self.bursts.is_over() {
            memory::give_back();
        }
    }

    fn look_up(&mut self, addr: IpAddr) -> Geo {
        self.geo.lookup(addr).unwrap_or_else(|fault| {
            warn!("{fault}");
            Geo::default()
        })
    }

    /// Takes MaxMind databases that were replaced since.
    pub(super) fn reload_databases(&mut self) {
        for outcome in self.geo.reload_if_replaced() {
            match outcome {
                Ok(path) => {
                    info!("{} was replaced and is read anew", path.display());
                    self.pipeline.forget_geo();
                }
                Err(fault) => warn!("{fault}; the database read before stays"),
            }
        }
    }
}
