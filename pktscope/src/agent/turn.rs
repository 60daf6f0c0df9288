//! The core's thread: reads the sensor, steps the pipeline, hands effects out; once a turn.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
};

use tokio::sync::mpsc as answers;
use tracing::{error, warn};

use super::{
    command::Command,
    memory::{self, Bursts},
    outputs::Outputs,
    restore,
    schedule::Schedule,
    settings,
    status::{self, Identity, Rates},
};
use crate::{
    clock,
    config::Config,
    core::{
        alert::{disposition::DispositionSettings, tuning::TuningSettings},
        effect::{Effect, Ledger, Lookup},
        event::{Answer, Event, LedgerReading, ProcessFacts},
        flow::Geo,
        pipeline::Pipeline,
        time::Moment,
    },
    enrich::{Enricher, geoip::GeoDatabases},
    sensor::{
        Sensor, SweepKind,
        interfaces::{self, Device},
    },
};

/// What the core's thread owns.
pub(super) struct Turns {
    pub(super) sensor: Sensor,
    pub(super) pipeline: Pipeline,
    pub(super) enricher: Enricher,
    pub(super) answers: answers::Receiver<ProcessFacts>,
    pub(super) geo: GeoDatabases,
    pub(super) outputs: Outputs,
    pub(super) schedule: Schedule,
    pub(super) rates: Rates,
    pub(super) identity: Identity,
    pub(super) verdicts: Verdicts,
    /// The last closed interval.
    pub(super) ledger: Option<Arc<Ledger>>,
    /// Whether memory is to be given back.
    pub(super) bursts: Bursts,
    /// What came and was not stepped yet.
    pub(super) events: Vec<Event>,
    /// What followed and was not handed out yet.
    pub(super) effects: Vec<Effect>,
}

/// How verdicts on alerts count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdicts {
    pub(super) dispositions: DispositionSettings,
    pub(super) tuning: TuningSettings,
}

impl Verdicts {
    pub(super) fn new(config: &Config) -> Self {
        Self { dispositions: config.disposition, tuning: config.tuning }
    }
}

impl Turns {
    /// Takes the processes that were there before the agent.
    pub(super) fn take_running(&mut self, running: impl Iterator<Item = Event>, now: Moment) {
        self.events.extend(running);
        self.step_events(now);
    }

    /// Notes where the ledger's totals begin: before anybody is told that the agent is ready.
    pub(super) fn open_ledger(&mut self, now: Moment) {
        self.close_ledger(now);
    }

    /// Takes turns until told to stop, then reports what is open.
    pub(super) fn run(mut self, commands: &Receiver<Command>) -> Outputs {
        loop {
            match commands.recv_timeout(self.schedule.until_poll()) {
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(command) => self.obey(command),
                Err(RecvTimeoutError::Timeout) => self.turn(clock::now()),
            }
        }
        self.finish(clock::now())
    }

    fn obey(&mut self, command: Command) {
        let now = clock::now();
        match command {
            Command::Ask(request, reply) => {
                let answer = self.answer(request, now);
                // The asker may have gone: then nobody misses the answer.
                let _ = reply.send(answer);
            }
            Command::Reopen => self.outputs.reopen(),
            Command::Configure(config) => self.configure(&config),
            Command::Stop => {}
        }
        self.hand_out(now);
    }

    /// Takes what may change while the agent runs: intervals, time-outs, thresholds.
    fn configure(&mut self, config: &Config) {
        self.schedule.set(config.sensor.poll_interval, config.sensor.sweep_interval, config.ledger.interval);
        self.pipeline.set_settings(settings::flow(config), settings::detection(config));
        self.verdicts = Verdicts::new(config);
    }

    fn turn(&mut self, now: Moment) {
        let read = self.sensor.poll(&mut self.events);
        self.schedule.note_read(read);
        self.take_answers();
        self.step_events(now);
        if self.schedule.is_ledger_due(now.boot) {
            self.close_ledger(now);
        } else if self.schedule.is_sweep_due(now.boot) {
            self.sweep(SweepKind::Changed, now);
        }
        if self.schedule.is_tick_due(now.boot) {
            self.pipeline.tick(now, &mut self.effects);
            self.rates.note(now.boot, &self.pipeline.counters(), self.sensor.records());
        }
        self.hand_out(now);
        self.outputs.flush();
    }

    fn take_answers(&mut self) {
        while let Ok(facts) = self.answers.try_recv() {
            self.events.push(Event::Answer(Answer::Process(facts)));
        }
    }

    fn step_events(&mut self, now: Moment) {
        for event in self.events.drain(..) {
            self.pipeline.step(event, now, &mut self.effects);
        }
    }

    fn sweep(&mut self, kind: SweepKind, now: Moment) {
        let Self { sensor, pipeline, effects, events, .. } = self;
        let mut take = |events: &mut Vec<Event>| events.drain(..).for_each(|event| pipeline.step(event, now, effects));
        if let Err(fault) = sensor.sweep(kind, now.boot, events, &mut take) {
            warn!(
                error = &fault as &dyn std::error::Error,
                "the sockets were not swept; the next sweep makes up for it"
            );
        }
        self.step_events(now);
        self.schedule.note_swept(now.boot, clock::now().boot);
    }

    /// Reads the interfaces, all sockets, and the interfaces again; the core settles the rest.
    fn close_ledger(&mut self, now: Moment) {
        self.note_addresses(now);
        self.reload_databases();
        let before = devices();
        self.sweep(SweepKind::Full, now);
        let unowned = self.sensor.unowned();
        let after = devices();
        let (interfaces, stacked) = interfaces::readings(&before, &after);
        let lost = self.losses();
        let reading = LedgerReading { at: clock::now().boot, interfaces, stacked, unowned, lost };
        self.pipeline.step(Event::Ledger(reading), now, &mut self.effects);
        memory::give_back();
    }

    /// Takes MaxMind databases that were replaced since.
    fn reload_databases(&mut self) {
        for outcome in self.geo.reload_if_replaced() {
            match outcome {
                Ok(path) => {
                    tracing::info!("{} was replaced and is read anew", path.display());
                    self.pipeline.forget_geo();
                }
                Err(fault) => warn!("{fault}; the database read before stays"),
            }
        }
    }

    fn note_addresses(&mut self, now: Moment) {
        match interfaces::addresses() {
            Ok(addresses) => self.pipeline.step(Event::OwnAddresses(addresses), now, &mut self.effects),
            Err(fault) => warn!("{fault}; the kernel's own packets are told by the addresses known so far"),
        }
    }

    /// Every place that can lose something, with how much it lost so far.
    pub(super) fn losses(&self) -> Vec<(&'static str, u64)> {
        let mut losses = self.sensor.losses();
        losses.extend(self.pipeline.losses());
        losses.extend(status::enricher_losses(&self.enricher));
        losses.extend(self.outputs.losses());
        losses
    }

    /// Hands effects out in order; a look-up that is answered at once is answered first.
    fn hand_out(&mut self, now: Moment) {
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

    fn finish(mut self, now: Moment) -> Outputs {
        self.turn(now);
        self.sweep(SweepKind::Final, now);
        self.close_ledger(now);
        self.take_answers();
        self.step_events(now);
        self.pipeline.finish(now, &mut self.effects);
        self.hand_out(now);
        self.outputs.flush();
        self.outputs
    }
}

fn devices() -> Vec<Device> {
    interfaces::list().unwrap_or_else(|fault| {
        error!(error = &fault as &dyn std::error::Error, "the ledger has no interface counters for this interval");
        Vec::new()
    })
}
