//! The configuration: one struct, every field with a default and a doc line.
//!
//! In comes TOML, out goes a [`Config`] or every mistake at once. A field's doc line is what `config show` prints beside
//! it, so it is written for the reader of that file.

#[macro_use]
mod section;
mod check;
mod detect;
mod disposition;
mod replay;
mod setting;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::core::{
    alert::{disposition::DispositionSettings, tuning::TuningSettings},
    detect::DetectionSettings,
    packet::Tunnels,
};

pub use replay::{Network, tunnels_named};
pub use section::{Mistake, Section};
pub use setting::{Bytes, Facility, SyslogAddress, format_duration, parse_duration};

/// Read where it exists and no other file is named.
pub const DEFAULT_PATH: &str = "/etc/pktscope/pktscope.toml";

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

section! {
    /// Everything that can be set.
    pub struct Config {
        /// How the agent runs; `pktscope run` has a flag for each of these, and a flag wins.
        pub agent: Agent = Agent::default(),
        /// What is read from the kernel, and how often.
        pub sensor: Sensor = Sensor::default(),
        /// When a flow is reported and when it is over.
        pub flow: Flow = Flow::default(),
        /// The account of every byte.
        pub ledger: Ledger = Ledger::default(),
        /// What is learned, and what is worth an alert.
        pub detect: DetectionSettings = DetectionSettings::default(),
        /// How verdicts on alerts count.
        pub disposition: DispositionSettings = DispositionSettings::default(),
        /// When verdicts propose a tuning.
        pub tuning: TuningSettings = TuningSettings::default(),
        /// The database in the state directory.
        pub store: Store = Store::default(),
        /// Where alerts go besides the store.
        pub sink: Sink = Sink::default(),
        /// MaxMind databases.
        pub geoip: Geoip = Geoip::default(),
        /// What is in a capture.
        pub replay: Replay = Replay::default(),
    }
}

section! {
    /// How the agent runs.
    pub struct Agent {
        /// Folder of the database and of what must survive a restart.
        pub state_dir: PathBuf = PathBuf::from("/var/lib/pktscope"),
        /// Folder of the control socket.
        pub runtime_dir: PathBuf = PathBuf::from("/run/pktscope"),
        /// The cgroup2 folder to watch; without it the root of the cgroup2 mount, so the whole host.
        pub cgroup: Option<PathBuf> = None,
        /// A file that every event is appended to as a line of JSON; "-" is standard output.
        pub events: Option<PathBuf> = None,
        /// A file that is created once every hook is attached.
        pub ready_file: Option<PathBuf> = None,
    }
}

section! {
    /// What is read from the kernel, and how often.
    pub struct Sensor {
        /// Size of the ring buffer between kernel and agent; a power of two.
        pub ring_bytes: Bytes = Bytes(8 << 20),
        /// Peers of unconnected sockets that are counted apart; more are counted together.
        pub peers_max: u32 = 65_536,
        /// Sockets' last records that are kept where the ring buffer is full; more are counted as lost.
        pub kept_max: u32 = 16_384,
        /// TCP sockets whose state needs no memory of its own; a power of two, or 0 for none.
        pub slots_max: u32 = 16_384,
        /// How often the ring buffer is read.
        pub poll_interval: Duration = Duration::from_millis(50),
        /// How often the counters of all sockets are read; less often where reading takes long.
        pub sweep_interval: Duration = Duration::from_millis(500),
        /// Whether a program on each interface's way out counts what passes no inet socket: packet sockets' frames,
        /// forwarded packets, what the kernel makes itself. Without it the ledger has them as unknown.
        pub traffic_control: bool = true,
    }
}

section! {
    /// When a flow is reported and when it is over.
    pub struct Flow {
        /// An open flow that changed is reported at most this often.
        pub update_interval: Duration = MINUTE,
        /// A TCP connection without packets for this long is over.
        pub tcp_idle_timeout: Duration = Duration::from_secs(300),
        /// A TCP handshake that does not get on for this long is over.
        pub tcp_half_open_timeout: Duration = Duration::from_secs(30),
        /// A TCP connection of a capture that is over takes late segments for this long.
        pub tcp_closed_timeout: Duration = MINUTE,
        /// A UDP flow without packets for this long is over.
        pub udp_idle_timeout: Duration = MINUTE,
        /// A flow of another protocol without packets for this long is over.
        pub other_idle_timeout: Duration = Duration::from_secs(30),
        /// A flow open for longer is reported as ended and starts anew; "0s" never.
        pub active_timeout: Duration = Duration::ZERO,
        /// Flows kept at once; beyond that the one idle for longest is ended.
        pub flows_max: u32 = 100_000,
    }
}

section! {
    /// The account of every byte.
    pub struct Ledger {
        /// Length of an interval.
        pub interval: Duration = Duration::from_secs(10),
    }
}

section! {
    /// The database in the state directory.
    pub struct Store {
        /// How often collected rows are written: what a killed agent loses at most.
        pub batch_interval: Duration = Duration::from_secs(1),
        /// Rows that wait for the database at most; more are counted as lost.
        pub queue_max: u32 = 65_536,
        /// Above this many ended flows a second, short flows to one destination share a row a minute, with their number;
        /// 0 never.
        pub rollup_above_per_second: u32 = 500,
        /// Flows, DNS answers and ledger rows older than this are deleted.
        pub retention: Duration = DAY.saturating_mul(30),
        /// Alerts older than this are deleted.
        pub alert_retention: Duration = DAY.saturating_mul(365),
        /// The database is held below this size by deleting the oldest flows and DNS answers.
        pub bytes_max: Bytes = Bytes(2 << 30),
    }
}

section! {
    /// Where alerts go besides the store.
    pub struct Sink {
        /// A syslog server.
        pub syslog: Syslog = Syslog::default(),
        /// An HTTP server.
        pub webhook: Webhook = Webhook::default(),
    }
}

section! {
    /// A syslog server; messages are RFC 5424.
    pub struct Syslog {
        /// "udp://HOST:514", "tcp://HOST:601" or "unix:///dev/log".
        pub address: Option<SyslogAddress> = None,
        /// Facility of each message, by name.
        pub facility: Facility = Facility::default(),
        /// Messages that wait for the server at most; the oldest is dropped and counted.
        pub queue_max: u32 = 10_000,
    }
}

section! {
    /// An HTTP server that each alert is posted to as JSON.
    pub struct Webhook {
        /// "https://…" or "http://…".
        pub url: Option<String> = None,
        /// A file whose content is sent as the Authorization header; readable by the agent only.
        pub authorization_file: Option<PathBuf> = None,
        /// How long one delivery may take.
        pub timeout: Duration = Duration::from_secs(10),
        /// First pause after a failed delivery; doubled each time.
        pub retry_min: Duration = Duration::from_secs(1),
        /// Longest pause between deliveries.
        pub retry_max: Duration = Duration::from_secs(300),
        /// Undelivered alerts wait on disk up to this size; the oldest is dropped and counted.
        pub spool_bytes_max: Bytes = Bytes(16 << 20),
    }
}

section! {
    /// MaxMind databases.
    pub struct Geoip {
        /// Country database (GeoLite2-Country or compatible).
        pub country: Option<PathBuf> = None,
        /// AS database (GeoLite2-ASN or compatible).
        pub asn: Option<PathBuf> = None,
    }
}

section! {
    /// What is in a capture.
    pub struct Replay {
        /// Tunnels that are seen into: "vxlan", "gre", "ipip" or "all"; the packets inside are counted then, not those
        /// outside.
        pub tunnels: Tunnels = Tunnels::default(),
        /// Networks of the hosts whose egress this is, as "192.0.2.0/24"; without any, the private and link-local ones.
        pub local_networks: Vec<Network> = Vec::new(),
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("failed to read configuration {path}; name another with --config")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file holds mistakes; all of them.
    #[error("configuration {path} has {}:{}", counted(mistakes.len()), listed(mistakes))]
    Mistakes {
        /// Which.
        path: PathBuf,
        /// Every one.
        mistakes: Vec<Mistake>,
    },
}

impl Config {
    /// Reads `path`, or [`DEFAULT_PATH`] where it exists, or takes the defaults.
    ///
    /// # Errors
    /// A named file that cannot be read, and any file with mistakes.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_PATH);
        match path {
            None if !default.exists() => Ok(Self::default()),
            named => Self::read(named.unwrap_or(default)),
        }
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
        Self::parse(&text).map_err(|mistakes| ConfigError::Mistakes { path: path.into(), mistakes })
    }

    /// Reads TOML text.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let table = toml::from_str::<toml::Table>(text).map_err(|error| vec![Mistake::syntax(&error)])?;
        let mut config = Self::default();
        let mut mistakes = Vec::new();
        config.read_value("", &toml::Value::Table(table), &mut mistakes);
        check::ranges(&config, &mut mistakes);
        if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
    }

    /// The whole configuration as TOML, each key under its doc line.
    pub fn show(&self) -> String {
        let mut out = String::new();
        self.show_section("", &mut out);
        out.trim_start().to_owned()
    }
}

fn counted(mistakes: usize) -> String {
    if mistakes == 1 { "a mistake".to_owned() } else { format!("{mistakes} mistakes") }
}

fn listed(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::alert::RuleId;

    #[test]
    fn what_is_shown_reads_back_as_the_same() {
        let mut config = Config::default();
        config.agent.events = Some("/tmp/events \"quoted\".ndjson".into());
        config.flow.update_interval = Duration::from_millis(90_500);
        config.sink.syslog.address = Some(SyslogAddress::Unix("/dev/log".into()));
        assert_eq!(Config::parse(&config.show()), Ok(config));
    }

    #[test]
    fn every_key_is_shown_with_its_doc_line() {
        let text = Config::default().show();
        assert!(text.contains(
            "[flow]\n# An open flow that changed is reported at most this often.\nupdate_interval = \"1m\"\n"
        ));
        assert!(text.contains("# The cgroup2 folder to watch; without it the root of the cgroup2 mount, so the whole host.\n# cgroup = \"…\"\n"));
        assert!(text.contains("[sink.webhook]\n"));
    }

    #[test]
    fn all_mistakes_come_at_once() {
        let text = r#"
            colour = 1
            [flow]
            update_intervall = "60s"
            tcp_idle_timeout = 300
            udp_idle_timeout = "fast"
            flows_max = -1
            [sensor]
            ring_bytes = "7MiB"
            slots_max = 3
            [store]
            batch_interval = "0s"
            [sink.syslog]
            address = "host:514"
            [ledger]
            interval = true
        "#;
        let mistakes = Config::parse(text).unwrap_err();
        let paths: Vec<_> = mistakes.iter().map(|mistake| mistake.path.as_str()).collect();
        let expected = [
            "colour",
            "flow.update_intervall",
            "flow.tcp_idle_timeout",
            "flow.udp_idle_timeout",
            "flow.flows_max",
            "ledger.interval",
            "sink.syslog.address",
            "store.batch_interval",
            "sensor.ring_bytes",
            "sensor.slots_max",
        ];
        assert_eq!(paths, expected);
        let intervall = mistakes.iter().find(|mistake| mistake.path == "flow.update_intervall").unwrap();
        assert_eq!(intervall.to_string(), "flow.update_intervall: no such key; did you mean \"update_interval\"?");
    }

    #[test]
    fn detection_is_set_by_rule_and_bad_thresholds_are_named() {
        let text = r#"
            [detect]
            learning_window = "0s"
            disabled = ["bandwidth"]
            [detect.beaconing]
            threshold = 0.7
            [detect.dns_tunnel]
            name_bytes = [1, 2, 3]
            min_names = [10, 4.5]
        "#;
        let detect = Config::parse(text).unwrap().detect;
        assert_eq!(
            (detect.learning_window, detect.disabled.as_slice()),
            (Duration::ZERO, [RuleId::Bandwidth].as_slice())
        );
        assert_eq!((detect.beacon.threshold, detect.dns.name_bytes, detect.dns.min_names), (0.7, [1, 2, 3], (10, 4.5)));

        let text = r#"
            [detect]
            disabled = ["bandwith"]
            [detect.beaconing]
            threshold = 7
            update_interval = "60s"
            [detect.dns_tunnel]
            name_bytes = [1, 2]
            [detect.port_scan]
            half_life = "0s"
        "#;
        let paths: Vec<_> = Config::parse(text).unwrap_err().into_iter().map(|mistake| mistake.path).collect();
        let expected = [
            "detect.disabled",
            "detect.beaconing.update_interval",
            "detect.dns_tunnel.name_bytes",
            "detect.beaconing.threshold",
            "detect.port_scan.half_life",
        ];
        assert_eq!(paths, expected);
    }

    #[test]
    fn a_section_that_is_no_table_is_a_mistake() {
        let mistakes = Config::parse("flow = 3").unwrap_err();
        assert_eq!(
            mistakes[0].to_string(),
            "flow: a section is needed here, not an integer; write [flow] and its keys below it"
        );
    }

    #[test]
    fn text_that_is_no_toml_says_where() {
        let mistakes = Config::parse("[flow\n").unwrap_err();
        assert_eq!(mistakes.len(), 1);
        assert!(mistakes[0].to_string().contains("line 1"), "{}", mistakes[0]);
    }

    #[test]
    fn a_named_file_that_is_missing_is_an_error_and_the_default_file_is_not() {
        let error = Config::load(Some(Path::new("/nowhere/pktscope.toml"))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to read configuration /nowhere/pktscope.toml; name another with --config"
        );
    }
}
