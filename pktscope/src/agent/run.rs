//! `pktscope run`: builds everything, in the order in which it can fail, then waits for a signal.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;
use tracing::{info, warn};

use super::{
    command::Command,
    control::Control,
    desk::Desk,
    memory, notify,
    outputs::Outputs,
    restore,
    schedule::Schedule,
    settings,
    signals::Signals,
    status::{Identity, Rates},
    turn::{Turns, Verdicts},
};
use crate::{
    api::{ApiError, Server},
    clock,
    config::{Config, ConfigError},
    core::{
        event::Event,
        flow::FlowId,
        pipeline::{Pipeline, PipelineSettings},
    },
    enrich::{
        EnrichSettings, Enricher,
        geoip::{GeoDatabases, GeoError},
        procfs,
    },
    sensor::{Sensor, SensorError},
    sink::{
        AlertSinks, WebhookError,
        ecs::Exporter,
        jsonl::{Jsonl, JsonlError, WhenFull},
    },
    store::{self, Reader, Store, StoreError, StoreOptions},
};

/// Reads the configuration again.
pub type Reload = Box<dyn Fn() -> Result<Config, ConfigError> + Send>;

/// What `pktscope run` is told.
pub struct RunOptions {
    /// The configuration, flags applied.
    pub config: Config,
    /// Reads it again, for `SIGHUP`.
    pub reload: Reload,
    /// Stops by itself after this time.
    pub duration: Option<Duration>,
    /// Keeps a damaged database under another name and starts anew.
    pub moves_damaged_store_aside: bool,
}

/// Why the agent could not run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The kernel side.
    #[error(transparent)]
    Sensor(#[from] SensorError),
    /// The state directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The event file.
    #[error(transparent)]
    Events(#[from] JsonlError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ApiError),
    /// A sink of alerts.
    #[error(transparent)]
    Sink(#[from] WebhookError),
    /// A MaxMind database.
    #[error(transparent)]
    Geo(#[from] GeoError),
    /// Anything of the system that should always work.
    #[error("failed to {operation}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The ready file.
    #[error("failed to create ready file {path}")]
    ReadyFile {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Runs the agent until a signal or its duration ends it.
///
/// # Errors
/// [`RunError`]; nothing stays attached or locked.
pub fn run(options: RunOptions) -> Result<(), RunError> {
    memory::prepare();
    let config = &options.config;
    // First what no other state directory or file would change.
    Sensor::check(&settings::sensor(config))?;
    let store = open_store(&options)?;
    config.agent.ready_file.as_deref().map_or(Ok(()), take_back_readiness)?;
    let events = config.agent.events.as_deref().map(|path| Jsonl::open(path, WhenFull::Lose)).transpose()?;
    let alerts = AlertSinks::start(&config.sink, &config.agent.state_dir, exporter())?;
    let geo = GeoDatabases::open(config.geoip.country.as_deref(), config.geoip.asn.as_deref())?;
    let outputs = Outputs::new(exporter(), Some(store), events, alerts);
    let signals = Signals::listen().map_err(system("listen for signals"))?;
    let turns = build(config, outputs, geo)?;
    let (commands, received) = mpsc::channel();
    let (alive, gone) = oneshot::channel::<()>();
    let thread = thread::Builder::new().name("core".into()).spawn(move || {
        let _alive = alive;
        turns.run(&received)
    });
    let thread = thread.map_err(system("start the core's thread"))?;
    let control = Arc::new(Control::new(commands.clone()));
    let server = Server::start(&config.agent.runtime_dir, control)?;
    if let Some(path) = &config.agent.ready_file {
        File::create(path).map_err(|source| RunError::ReadyFile { path: path.clone(), source })?;
    }
    notify::ready();
    signals.wait(options.duration, gone, || reload(&options, &commands));
    notify::stopping();
    drop(server);
    // The thread may have ended already: then there is nobody left to stop.
    let _ = commands.send(Command::Stop);
    let outputs = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    outputs.close()?;
    Ok(())
}

/// Removes the ready file of an earlier run: whoever waits for it waits for this one.
fn take_back_readiness(path: &Path) -> Result<(), RunError> {
    // Anything else, such as a device, was not made by an agent.
    if path.symlink_metadata().is_ok_and(|found| found.is_file()) {
        std::fs::remove_file(path).map_err(|source| RunError::ReadyFile { path: path.to_owned(), source })?;
    }
    Ok(())
}

fn open_store(options: &RunOptions) -> Result<Store, StoreError> {
    let directory = &options.config.agent.state_dir;
    let open = || {
        let exporter = exporter();
        let document = move |alert: &crate::core::alert::Alert, now| exporter.alert_text(alert, now);
        Store::open(directory, StoreOptions::new(&options.config.store, Box::new(document)))
    };
    match open() {
        Err(StoreError::Damaged { .. }) if options.moves_damaged_store_aside => {
            let kept = store::move_aside(directory, clock::now().wall)?;
            warn!("the damaged database is kept as {}; starting with an empty one", kept.display());
            open()
        }
        other => other,
    }
}

fn exporter() -> Exporter {
    let host_name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Exporter { host_name: host_name.trim().to_owned() }
}

fn build(config: &Config, outputs: Outputs, geo: GeoDatabases) -> Result<Turns, RunError> {
    let reader = Reader::open(&config.agent.state_dir)?;
    let detection = restore::detection(config, &reader)?;
    let first_id = FlowId(reader.last_flow_id()?.map_or(1, |last| last + 1));
    let (enricher, answers) =
        Enricher::spawn(EnrichSettings::default()).map_err(system("start the threads that look processes up"))?;
    let sensor = Sensor::attach(&settings::sensor(config))?;
    let boot_id = procfs::boot_id().map_err(system("read the boot id"))?;
    let netns = sensor.own_netns();
    let limits =
        PipelineSettings { processes: settings::processes(), ..settings::pipeline(config, boot_id, netns, &geo) };
    let mut pipeline = Pipeline::new(limits.seeded(settings::hash_seed()), detection, first_id);
    restore::names(&mut pipeline, &reader)?;
    let now = clock::now();
    let sensor_settings = &config.sensor;
    let schedule =
        Schedule::new(sensor_settings.poll_interval, sensor_settings.sweep_interval, config.ledger.interval, now.boot);
    let identity = Identity { started_at: now.wall, state_dir: config.agent.state_dir.display().to_string() };
    let verdicts = Verdicts::new(config);
    let desk = Desk {
        pipeline,
        enricher,
        answers,
        geo,
        outputs,
        schedule,
        ledger: None,
        bursts: memory::Bursts::default(),
        effects: Vec::new(),
    };
    let mut turns = Turns { sensor, desk, rates: Rates::default(), identity, verdicts, events: Vec::new() };
    turns.take_running(procfs::Proc::new().running().into_iter().map(Event::Running), now);
    turns.open_ledger(now);
    // The kernel's type information, and every process's files.
    memory::give_back();
    Ok(turns)
}

fn system(operation: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { operation, source }
}

fn reload(options: &RunOptions, commands: &Sender<Command>) {
    let _ = commands.send(Command::Reopen);
    match (options.reload)() {
        Ok(config) => {
            info!("configuration read again");
            let later = started_with(&options.config, &config);
            if !later.is_empty() {
                warn!("{} changed: that takes effect when the agent is started again", later.join(", "));
            }
            let _ = commands.send(Command::Configure(Box::new(config)));
        }
        Err(fault) => warn!("{}; the configuration stays as it was", with_causes(&fault)),
    }
}

/// Settings that differ, and that an agent takes only when it starts.
fn started_with(before: &Config, now: &Config) -> Vec<&'static str> {
    let (was, is) = (&before.sensor, &now.sensor);
    let settings = [
        ("agent", before.agent != now.agent),
        ("sensor.ring_bytes", was.ring_bytes != is.ring_bytes),
        ("sensor.peers_max", was.peers_max != is.peers_max),
        ("sensor.kept_max", was.kept_max != is.kept_max),
        ("sensor.slots_max", was.slots_max != is.slots_max),
        ("sensor.traffic_control", was.traffic_control != is.traffic_control),
        ("store", before.store != now.store),
        ("sink", before.sink != now.sink),
        ("geoip", before.geoip != now.geoip),
    ];
    settings.into_iter().filter_map(|(name, has_changed)| has_changed.then_some(name)).collect()
}

fn with_causes(fault: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(fault.source(), |cause| cause.source());
    causes.fold(fault.to_string(), |said, cause| format!("{said}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_start_takes_is_named() {
        let (before, mut now) = (Config::default(), Config::default());
        now.flow.flows_max += 1;
        assert!(started_with(&before, &now).is_empty(), "taken at once");
        now.sensor.ring_bytes.0 *= 2;
        now.agent.state_dir = "/elsewhere".into();
        assert_eq!(started_with(&before, &now), ["agent", "sensor.ring_bytes"]);
    }

    #[test]
    fn an_earlier_runs_ready_file_is_taken_back_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("ready"), folder.path().join("link"));
        take_back_readiness(&file).unwrap();
        std::fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        [&file, &link].into_iter().for_each(|path| take_back_readiness(path).unwrap());
        assert!(!file.exists() && link.exists());
    }

    #[test]
    fn a_fault_is_told_with_its_causes() {
        let fault = Config::load(Some(Path::new("/nonexistent"))).expect_err("there is none");
        assert!(with_causes(&fault).ends_with("No such file or directory (os error 2)"), "{}", with_causes(&fault));
    }
}
