//! `pktscope replay`: a capture or a recording through the same pipeline, offline, in the input's own time.
//!
//! Nothing here reads a clock: the same input and configuration give the same events, byte for byte.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

use super::{outputs::Outputs, restore, settings};
use crate::{
    config::Config,
    core::{
        alert::Alert,
        detect::Detection,
        effect::{Effect, Lookup},
        event::{Answer, Event},
        flow::FlowId,
        packet::{Tunnels, Undecoded},
        pipeline::Pipeline,
        time::{BootTime, Moment, WallTime},
    },
    enrich::geoip::{GeoDatabases, GeoError},
    replay::{
        capture::{self, CaptureError},
        packets::{PacketReader, ReplayStatistics, TimedPacket},
        recording::{Recording, RecordingStats},
    },
    sink::{
        AlertSinks,
        ecs::Exporter,
        jsonl::{Jsonl, JsonlError, WhenFull},
    },
    store::{Reader, Store, StoreError, StoreOptions},
};

/// First bytes of a pcapng file, and of pcap files of either byte order and resolution
/// (draft-ietf-opsawg-pcapng, draft-ietf-opsawg-pcap).
const CAPTURE_MAGICS: [[u8; 4]; 5] = [
    [0x0a, 0x0d, 0x0d, 0x0a],
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0xa1, 0xb2, 0x3c, 0x4d],
    [0x4d, 0x3c, 0xb2, 0xa1],
];

/// First bytes of compressed files (RFC 1952, RFC 8878, the .xz file format, bzip2), and what unpacks them.
const COMPRESSED_MAGICS: [(&[u8], &str); 4] = [
    (&[0x1f, 0x8b], "zcat"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstdcat"),
    (&[0xfd, b'7', b'z'], "xzcat"),
    (b"BZh", "bzcat"),
];

/// Of a silence in a recording, so much is lived through second by second: one day, after which every window is empty.
const LONGEST_SILENCE_SECONDS: i64 = 86_400;

/// What `pktscope replay` is told.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// The capture or recording.
    pub file: PathBuf,
    /// The configuration, flags applied.
    pub config: Config,
    /// Where the result is stored; in memory where it is `None`.
    pub state_dir: Option<PathBuf>,
    /// Where every event is written; `-` is standard output.
    pub events: Option<PathBuf>,
}

/// What was read.
#[derive(Clone, Debug)]
pub enum ReplayInput {
    /// A capture.
    Capture(Box<ReplayStatistics>),
    /// A recording.
    Recording(RecordingStats),
}

/// What came of a replay.
#[derive(Clone, Debug)]
pub struct ReplayReport {
    /// What was read, and what could not be.
    pub input: ReplayInput,
    /// Bytes read.
    pub bytes: u64,
    /// Flows told.
    pub flows: u64,
    /// Alerts raised.
    pub alerts: u64,
    /// Why reading ended early; what came before it was replayed.
    pub fault: Option<String>,
}

impl ReplayReport {
    /// Whether all of the input could be read.
    pub fn is_complete(&self) -> bool {
        self.fault.is_none()
            && match &self.input {
                ReplayInput::Capture(statistics) => {
                    statistics.capture.is_complete() && statistics.undecoded[Undecoded::UnknownLink.index()] == 0
                }
                ReplayInput::Recording(stats) => stats.torn + stats.incomplete + stats.too_long == 0,
            }
    }
}

/// Why there was no replay.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The input cannot be opened.
    #[error("failed to open {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The input is packed.
    #[error("{path} is compressed; unpack it first: `{program} {path} | pktscope replay -`")]
    Compressed {
        /// Which.
        path: PathBuf,
        /// What unpacks it.
        program: &'static str,
    },
    /// The input is no capture.
    #[error("failed to read capture {path}")]
    Capture {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: CaptureError,
    },
    /// The state directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The event file.
    #[error(transparent)]
    Events(#[from] JsonlError),
    /// A MaxMind database.
    #[error(transparent)]
    Geo(#[from] GeoError),
}

/// Sees a replay's alerts and progress.
pub trait ReplayWatcher {
    /// An alert, in order.
    fn alert(&mut self, alert: &Alert);

    /// So many bytes of so many are read.
    fn progress(&mut self, read: u64, total: u64);
}

/// Replays a file.
///
/// # Errors
/// [`ReplayError`] where nothing could be replayed; what went wrong later stands in the report.
pub fn replay(options: &ReplayOptions, watcher: &mut dyn ReplayWatcher) -> Result<ReplayReport, ReplayError> {
    let path = &options.file;
    let failed = |source| ReplayError::Open { path: path.clone(), source };
    let is_standard_input = path.as_os_str() == "-";
    let mut file = File::open(if is_standard_input { Path::new("/dev/stdin") } else { path }).map_err(failed)?;
    let total = file.metadata().map_err(failed)?.len();
    let mut magic = Vec::new();
    (&mut file).take(4).read_to_end(&mut magic).map_err(failed)?;
    if let Some((_, program)) = COMPRESSED_MAGICS.iter().find(|(known, _)| magic.starts_with(known)) {
        return Err(ReplayError::Compressed { path: path.clone(), program });
    }
    let is_capture = CAPTURE_MAGICS.iter().any(|known| magic == known);
    let session = Session::new(options, watcher, total)?;
    // A pipe can't be wound back.
    let whole = io::Cursor::new(magic).chain(file);
    if is_capture { session.capture(whole, path, options.config.replay.tunnels) } else { session.recording(whole) }
}

/// One replay under way.
struct Session<'a> {
    pipeline: Pipeline,
    outputs: Outputs,
    geo: GeoDatabases,
    watcher: &'a mut dyn ReplayWatcher,
    effects: Vec<Effect>,
    total: u64,
    now: Moment,
    flows: u64,
    alerts: u64,
}

impl<'a> Session<'a> {
    fn new(options: &ReplayOptions, watcher: &'a mut dyn ReplayWatcher, total: u64) -> Result<Self, ReplayError> {
        let config = &options.config;
        let geo = GeoDatabases::open(config.geoip.country.as_deref(), config.geoip.asn.as_deref())?;
        let events = options.events.as_deref().map(|path| Jsonl::open(path, WhenFull::Wait)).transpose()?;
        let store = options.state_dir.as_deref().map(|directory| open_store(directory, config)).transpose()?;
        let (detection, first_id) = remembered(options)?;
        let settings = settings::pipeline(config, "replay".to_owned(), 0, &geo);
        Ok(Self {
            pipeline: Pipeline::new(settings, detection, first_id),
            outputs: Outputs::new(Exporter::default(), store, events, AlertSinks::default()),
            geo,
            watcher,
            effects: Vec::new(),
            total,
            now: Moment::default(),
            flows: 0,
            alerts: 0,
        })
    }

    fn capture(mut self, file: impl Read, path: &Path, tunnels: Tunnels) -> Result<ReplayReport, ReplayError> {
        let failed = |source| ReplayError::Capture { path: path.to_owned(), source };
        let reader = capture::Reader::new(file).map_err(failed)?;
        let mut packets = PacketReader::new(reader, tunnels);
        let fault = loop {
            let next = packets.next_packets(|batch| self.take_packets(batch));
            self.watcher.progress(packets.statistics().capture.bytes, self.total);
            match next {
                Ok(true) => {}
                Ok(false) => break None,
                Err(fault) => break Some(fault.to_string()),
            }
        };
        let statistics = packets.statistics();
        let bytes = statistics.capture.bytes;
        self.finish(ReplayInput::Capture(Box::new(statistics)), bytes, fault)
    }

    /// Takes packets second by second, so that none is taken at a later one's time.
    fn take_packets(&mut self, mut batch: &[TimedPacket<'_>]) {
        while let Some((first, _)) = batch.first() {
            self.pass_time_to(moment(*first));
            let is_later = |(at, _): &TimedPacket<'_>| self.is_new_second(moment(*at));
            let (now, later) = batch.split_at(batch.iter().position(is_later).unwrap_or(batch.len()));
            let latest = now.iter().map(|(at, _)| *at).max().unwrap_or(*first);
            self.pass_time_to(moment(latest));
            self.pipeline.packets(now, self.now, &mut self.effects);
            self.hand_out();
            batch = later;
        }
    }

    fn recording(mut self, file: impl Read) -> Result<ReplayReport, ReplayError> {
        let mut recording = Recording::new(BufReader::with_capacity(1 << 20, file));
        let fault = loop {
            match recording.next_event() {
                Ok(Some(recorded)) => self.take_recorded(recorded.event, recorded.at),
                Ok(None) => break None,
                Err(fault) => break Some(fault.to_string()),
            }
            self.watcher.progress(recording.bytes(), self.total);
        };
        let bytes = recording.bytes();
        self.finish(ReplayInput::Recording(recording.stats()), bytes, fault)
    }

    /// Takes an event at its time, after the seconds before it: the live run went on judging while nothing came.
    fn take_recorded(&mut self, event: Event, at: Moment) {
        let (now, last) = (self.now.wall.seconds(), at.wall.seconds());
        if self.now != Moment::default() {
            let first = now.saturating_add(1).max(last.saturating_sub(LONGEST_SILENCE_SECONDS));
            (first..last).for_each(|second| self.pass_time_to(start_of(second)));
        }
        self.pass_time_to(at);
        self.pipeline.step(event, self.now, &mut self.effects);
        self.hand_out();
    }

    /// Lets the pipeline see each second that begins; its time never goes back.
    fn pass_time_to(&mut self, at: Moment) {
        let is_new_second = self.is_new_second(at);
        if self.now.boot < at.boot {
            self.now = at;
        }
        if is_new_second {
            while self.pipeline.tick(self.now, &mut self.effects) {
                self.hand_out();
            }
            self.hand_out();
        }
    }

    fn is_new_second(&self, at: Moment) -> bool {
        self.now.wall.seconds() < at.wall.seconds()
    }

    fn hand_out(&mut self) {
        self.look_up();
        for effect in &self.effects {
            match effect {
                Effect::Alert(alert) => {
                    self.alerts += 1;
                    self.watcher.alert(alert);
                }
                Effect::Flow(change) => self.flows += u64::from(change.flow.ended.is_some()),
                _ => {}
            }
        }
        self.outputs.tell(&self.effects, Vec::new(), self.now);
        self.effects.clear();
    }

    /// Answers every look-up among the effects, and those that follow from the answers; what is left is to be told.
    fn look_up(&mut self) {
        while self.effects.iter().any(|effect| matches!(effect, Effect::Lookup(_))) {
            let mut told = Vec::with_capacity(self.effects.len());
            for effect in std::mem::take(&mut self.effects) {
                match effect {
                    Effect::Lookup(Lookup::Geo(addr)) => {
                        let geo = self.geo.lookup(addr).unwrap_or_default();
                        self.pipeline.step(Event::Answer(Answer::Geo(addr, geo)), self.now, &mut told);
                    }
                    Effect::Lookup(Lookup::Process(_)) => {}
                    effect => told.push(effect),
                }
            }
            self.effects = told;
        }
    }

    fn finish(mut self, input: ReplayInput, bytes: u64, fault: Option<String>) -> Result<ReplayReport, ReplayError> {
        while self.pipeline.finish_some_captured(self.now, &mut self.effects) {
            self.hand_out();
        }
        self.pipeline.finish(self.now, &mut self.effects);
        self.hand_out();
        if self.outputs.has_store() {
            let state = restore::changes(&mut self.pipeline);
            self.outputs.tell(&[], state, self.now);
        }
        self.outputs.flush();
        self.outputs.close()?;
        Ok(ReplayReport { input, bytes, flows: self.flows, alerts: self.alerts, fault })
    }
}

/// The moment at which a second of a recording begins.
fn start_of(second: i64) -> Moment {
    let nanoseconds = second.saturating_mul(1_000_000_000);
    Moment { boot: BootTime(u64::try_from(nanoseconds).unwrap_or(0)), wall: WallTime(nanoseconds) }
}

/// In a capture both clocks are the capture's own time.
fn moment(at: BootTime) -> Moment {
    Moment { boot: at, wall: WallTime(i64::try_from(at.0).unwrap_or(i64::MAX)) }
}

fn open_store(directory: &Path, config: &Config) -> Result<Store, StoreError> {
    let document = |alert: &Alert, now| Exporter::default().alert_text(alert, now);
    let options = StoreOptions { waits_when_full: true, ..StoreOptions::new(&config.store, Box::new(document)) };
    Store::open(directory, options)
}

fn remembered(options: &ReplayOptions) -> Result<(Detection, FlowId), StoreError> {
    match options.state_dir.as_deref() {
        Some(directory) => {
            let reader = Reader::open(directory)?;
            let first_id = FlowId(reader.last_flow_id()?.map_or(1, |last| last + 1));
            Ok((restore::detection(&options.config, &reader)?, first_id))
        }
        None => Ok((Detection::new(settings::detection(&options.config)), FlowId(1))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[derive(Default)]
    struct Nobody;

    impl ReplayWatcher for Nobody {
        fn alert(&mut self, _alert: &Alert) {}

        fn progress(&mut self, _read: u64, _total: u64) {}
    }

    fn replayed(bytes: &[u8]) -> Result<ReplayReport, ReplayError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("input");
        fs::write(&file, bytes).unwrap();
        replay(&ReplayOptions { file, config: Config::default(), state_dir: None, events: None }, &mut Nobody)
    }

    /// A pcap file of one frame of four bytes.
    fn capture(link: u32) -> Vec<u8> {
        let words = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, link, 1, 0, 4, 4, 0];
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    #[test]
    fn packed_input_is_named_with_what_unpacks_it() {
        let packed = replayed(&[0x1f, 0x8b, 8, 0, 0, 0]).err().unwrap().to_string();
        assert!(packed.contains("zcat") && packed.contains("input"), "{packed}");
    }

    #[test]
    fn a_capture_of_an_unknown_link_type_is_not_read_as_empty() {
        assert!(replayed(&capture(1)).unwrap().is_complete());
        assert!(!replayed(&capture(9_999)).unwrap().is_complete());
    }
}
