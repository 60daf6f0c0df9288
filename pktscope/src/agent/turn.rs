//! The core's thread: reads the sensor, steps the pipeline, hands effects out; once a turn.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use tracing::{error, warn};

use super::{
    command::Command,
    desk::{Desk, PATIENCE},
    memory,
    outputs::Outputs,
    settings,
    status::{self, Identity, Rates},
};
use crate::{
    clock,
    config::Config,
    core::{
        alert::{disposition::DispositionSettings, tuning::TuningSettings},
        event::{Event, LedgerReading},
        time::Moment,
    },
    sensor::{
        Sensor, SweepKind,
        interfaces::{self, Device},
    },
};

/// What the core's thread owns.
pub(super) struct Turns {
    pub(super) sensor: Sensor,
    pub(super) desk: Desk,
    pub(super) rates: Rates,
    pub(super) identity: Identity,
    pub(super) verdicts: Verdicts,
    /// What came and was not stepped yet.
    pub(super) events: Vec<Event>,
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
        self.desk.step(self.events.drain(..), now);
    }

    /// Notes where the ledger's totals begin: before anybody is told that the agent is ready.
    pub(super) fn open_ledger(&mut self, now: Moment) {
        self.close_ledger(now);
    }

    /// Takes turns until told to stop, then reports what is open.
    pub(super) fn run(mut self, commands: &Receiver<Command>) -> Outputs {
        loop {
            match commands.recv_timeout(self.desk.schedule.until_poll()) {
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
            Command::Reopen => self.desk.outputs.reopen(),
            Command::Configure(config) => self.configure(&config),
            Command::Stop => {}
        }
        self.desk.hand_out(now);
    }

    /// Takes what may change while the agent runs: intervals, time-outs, thresholds.
    fn configure(&mut self, config: &Config) {
        self.desk.schedule.set(config.sensor.poll_interval, config.sensor.sweep_interval, config.ledger.interval);
        self.desk.pipeline.set_settings(settings::flow(config), settings::detection(config));
        self.verdicts = Verdicts::new(config);
    }

    fn turn(&mut self, now: Moment) {
        let read = self.sensor.poll(&mut self.events);
        self.desk.schedule.note_read(read);
        self.desk.take_answers(now);
        self.desk.step(self.events.drain(..), now);
        if self.desk.schedule.is_ledger_due(now.boot) {
            self.close_ledger(now);
        } else if self.desk.schedule.is_sweep_due(now.boot) {
            self.sweep(SweepKind::Changed, now);
        }
        let is_tick_due = self.desk.schedule.is_tick_due(now.boot);
        if is_tick_due || self.desk.schedule.is_behind() {
            self.desk.tick(now);
        }
        if is_tick_due {
            self.rates.note(now.boot, &self.desk.pipeline.counters(), self.sensor.records());
        }
        self.desk.hand_out(now);
        self.desk.outputs.flush();
        self.desk.outputs.let_write(self.desk.schedule.patience());
    }

    fn sweep(&mut self, kind: SweepKind, now: Moment) {
        let Self { sensor, desk, events, .. } = self;
        let mut waited = Duration::ZERO;
        let mut take = |events: &mut Vec<Event>| {
            desk.step(events.drain(..), now);
            waited += desk.outputs.let_write(PATIENCE);
        };
        if let Err(fault) = sensor.sweep(kind, now.boot, events, &mut take) {
            warn!(
                error = &fault as &dyn std::error::Error,
                "the sockets were not swept; the next sweep makes up for it"
            );
        }
        self.desk.step(self.events.drain(..), now);
        self.desk.schedule.note_swept(now.boot, clock::now().boot, waited);
    }

    /// Reads the interfaces, all sockets, and the interfaces again; the core settles the rest.
    fn close_ledger(&mut self, now: Moment) {
        self.note_addresses(now);
        self.desk.reload_databases();
        let before = devices();
        self.sweep(SweepKind::Full, now);
        let unowned = self.sensor.unowned();
        let after = devices();
        let (interfaces, stacked) = interfaces::readings(&before, &after);
        let lost = self.losses();
        let reading = LedgerReading { at: clock::now().boot, interfaces, stacked, unowned, lost };
        self.desk.pipeline.step(Event::Ledger(reading), now, &mut self.desk.effects);
        memory::give_back();
    }

    fn note_addresses(&mut self, now: Moment) {
        match interfaces::addresses() {
            Ok(addresses) => self.desk.pipeline.step(Event::OwnAddresses(addresses), now, &mut self.desk.effects),
            Err(fault) => warn!("{fault}; the kernel's own packets are told by the addresses known so far"),
        }
    }

    /// Every place that can lose something, with how much it lost so far.
    pub(super) fn losses(&self) -> Vec<(&'static str, u64)> {
        let mut losses = self.sensor.losses();
        losses.extend(self.desk.pipeline.losses());
        losses.extend(status::enricher_losses(&self.desk.enricher));
        losses.extend(self.desk.outputs.losses());
        losses
    }

    fn finish(mut self, now: Moment) -> Outputs {
        self.turn(now);
        self.sweep(SweepKind::Final, now);
        self.close_ledger(now);
        self.desk.take_answers(now);
        self.desk.step(self.events.drain(..), now);
        self.desk.end_flows(now);
        self.desk.finish(now);
        self.desk.outputs
    }
}

fn devices() -> Vec<Device> {
    interfaces::list().unwrap_or_else(|fault| {
        error!(error = &fault as &dyn std::error::Error, "the ledger has no interface counters for this interval");
        Vec::new()
    })
}
