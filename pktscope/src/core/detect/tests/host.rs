//! A made-up host: programs make flows and ask names, time passes, alerts collect.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::core::{
    alert::{Alert, RuleId},
    detect::{Detection, DetectionInput, DetectionSettings},
    domain::registrable,
    event::{DnsMessage, FlowRef},
    flow::{
        Attribution, ConnState, Direction, Domain, DomainSource, EndReason, Endpoint, Flow, FlowAction, FlowChange,
        FlowId, Geo, Method, Owner, TcpSummary, Transport, UnknownReason, Volume,
    },
    process::{ImageHash, Package, Process, ProcessKey, Script},
    time::{BootTime, Moment, WallTime},
};

pub const MINUTE: u64 = 60;
pub const HOUR: u64 = 3_600;
pub const DAY: u64 = 86_400;
/// Monday 2026-03-02T00:00:00Z.
const START: u64 = 1_772_409_600;

pub struct Host {
    pub detection: Detection,
    pub alerts: Vec<Alert>,
    boot: u64,
    /// Nanoseconds into the second.
    part: u64,
    wall: i64,
    next_flow: u64,
}

/// How a connection goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goes {
    Well,
    Refused,
    Unanswered,
}

/// A connection to be made.
#[derive(Clone, Debug)]
pub struct Connection {
    pub process: Arc<Process>,
    pub attribution: Option<Attribution>,
    pub addr: IpAddr,
    pub port: u16,
    pub domain: Option<&'static str>,
    pub sent: u64,
    pub received: u64,
    pub goes: Goes,
    pub geo: Geo,
    pub direction: Direction,
    pub transport: Transport,
}

pub fn process(executable: &str) -> Process {
    let pid = executable.bytes().fold(1_000_u32, |sum, byte| sum + u32::from(byte));
    Process {
        key: ProcessKey { pid, started_at: BootTime(1) },
        comm: "x".into(),
        executable: executable.into(),
        hash: ImageHash::Sha256(format!("hash of {executable}").into()),
        ..Process::default()
    }
}

pub fn with_hash(executable: &str, hash: ImageHash) -> Arc<Process> {
    Arc::new(Process { hash, ..process(executable) })
}

pub fn packaged(executable: &str, version: &str, is_unmodified: bool) -> Arc<Process> {
    let package =
        Package { manager: "dpkg", name: "tool".into(), version: version.into(), is_unmodified: Some(is_unmodified) };
    let hash = ImageHash::Sha256(format!("{executable} {version} {is_unmodified}").into());
    Arc::new(Process { hash, package: Some(Arc::new(package)), ..process(executable) })
}

pub fn script(interpreter: &str, path: &str) -> Arc<Process> {
    let script = Script { path: path.into(), hash: ImageHash::Sha256(path.into()), package: None };
    Arc::new(Process { script: Some(Arc::new(script)), ..process(interpreter) })
}

/// A connection of a program, by default a small answered one to 198.51.100.7:443.
pub fn from(executable: &str) -> Connection {
    by(Arc::new(process(executable)))
}

pub fn by(process: Arc<Process>) -> Connection {
    Connection {
        process,
        attribution: None,
        addr: [198, 51, 100, 7].into(),
        port: 443,
        domain: None,
        sent: 900,
        received: 4_000,
        goes: Goes::Well,
        geo: Geo::default(),
        direction: Direction::Egress,
        transport: Transport::TCP,
    }
}

impl Connection {
    pub fn to(self, addr: [u8; 4], port: u16) -> Self {
        Self { addr: addr.into(), port, ..self }
    }

    pub fn named(self, domain: &'static str) -> Self {
        Self { domain: Some(domain), ..self }
    }

    pub fn sends(self, sent: u64) -> Self {
        Self { sent, received: 400, ..self }
    }

    pub fn goes(self, goes: Goes) -> Self {
        Self { goes, sent: 0, received: 0, ..self }
    }

    pub fn in_country(self, country: &[u8; 2], as_number: u32, organization: &str) -> Self {
        let geo =
            Geo { country: Some(*country), as_number: Some(as_number), as_organization: Some(organization.into()) };
        Self { geo, ..self }
    }

    pub fn inbound(self) -> Self {
        Self { direction: Direction::Ingress, ..self }
    }

    pub fn unowned(self, reason: UnknownReason) -> Self {
        Self { attribution: Some(Attribution::Unknown(reason)), ..self }
    }

    fn flow(&self, id: u64, started: BootTime, now: BootTime, [sent, received]: [u64; 2], is_over: bool) -> Flow {
        let (history, state) = match self.goes {
            Goes::Well if received > 0 => ("ShADad", ConnState::SF),
            Goes::Well => ("ShA", ConnState::S1),
            Goes::Refused => ("Sr", ConnState::REJ),
            Goes::Unanswered => ("S", ConnState::S0),
        };
        let reason = if self.goes == Goes::Refused { EndReason::Reset } else { EndReason::EndOfFlow };
        let volume =
            |bytes: u64| Volume { ip_bytes: bytes, packets: bytes.div_ceil(1_400).max(1), payload_bytes: bytes };
        let owner = Owner { process: self.process.clone(), method: Method::Connect, creator: None, ambiguity: None };
        let learned_at = now;
        Flow {
            id: FlowId(id),
            transport: self.transport,
            source: Endpoint { addr: [10, 0, 0, 5].into(), port: 40_000 },
            destination: Endpoint { addr: self.addr, port: self.port },
            icmp: None,
            direction: self.direction,
            sent: volume(sent),
            received: volume(received),
            started_at: started,
            last_seen: now,
            ended: is_over.then_some((now, reason)),
            attribution: self.attribution.clone().unwrap_or(Attribution::Process(owner)),
            domain: self.domain.map(|name| Domain {
                name: name.into(),
                registrable: registrable(name).into(),
                source: DomainSource::TlsSni,
                learned_at,
                disagreeing: None,
                candidates: 1,
            }),
            geo: self.geo.clone(),
            tcp: (self.transport == Transport::TCP).then(|| TcpSummary {
                history: history.into(),
                conn_state: state,
                retransmitted: [None; 2],
                out_of_order: None,
                gap_bytes: None,
                smoothed_rtt: None,
                handshake_rtt: None,
            }),
            tls: None,
        }
    }
}

impl Host {
    /// A host that has just started and learns for an hour.
    pub fn new() -> Self {
        Self::with(DetectionSettings { learning_window: Duration::from_secs(HOUR), ..DetectionSettings::default() })
    }

    pub fn with(settings: DetectionSettings) -> Self {
        let mut host = Self {
            detection: Detection::new(settings),
            alerts: Vec::new(),
            boot: START,
            part: 0,
            wall: 0,
            next_flow: 1,
        };
        host.tick();
        host
    }

    /// A host whose learning is over, with what `teach` did while it lasted.
    pub fn learned(teach: impl FnOnce(&mut Self)) -> Self {
        let mut host = Self::new();
        teach(&mut host);
        host.pass(HOUR);
        assert!(!host.detection.baseline().learning.is_learning() && host.alerts.is_empty(), "learning is silent");
        host
    }

    /// The same with a store in between: all rows go to a new agent on a machine that was started anew.
    pub fn restarted(mut self) -> Self {
        let rows = self.detection.export(None);
        let incidents = self.detection.take_dirty_incidents();
        let mut detection = Detection::new(DetectionSettings {
            learning_window: Duration::from_secs(HOUR),
            ..DetectionSettings::default()
        });
        self.wall += i64::try_from(self.boot).unwrap() - 100;
        self.boot = 100;
        assert_eq!(detection.restore(&rows, self.now()), 0);
        detection.restore_incidents(
            incidents
                .into_iter()
                .filter_map(|change| match change {
                    crate::core::alert::cooldown::IncidentChange::Kept(row) => Some(row),
                    crate::core::alert::cooldown::IncidentChange::Forgotten(_) => None,
                })
                .collect(),
        );
        self.detection = detection;
        self.tick();
        self
    }

    pub fn now(&self) -> Moment {
        let boot = BootTime(self.boot * 1_000_000_000 + self.part);
        Moment { boot, wall: WallTime(i64::try_from(boot.0).unwrap() + self.wall * 1_000_000_000) }
    }

    /// Goes on to a part of this second or a later one.
    pub fn go_to(&mut self, second: u64, part: Duration) {
        self.boot = second;
        self.part = u64::from(part.subsec_nanos());
    }

    /// Steps the wall clock, and only it.
    pub fn step_wall(&mut self, seconds: i64) {
        self.wall += seconds;
    }

    pub fn tick(&mut self) {
        let alerts = self.detection.tick(self.now());
        self.alerts.extend(alerts);
    }

    /// Lets time pass, with a tick a minute.
    pub fn pass(&mut self, seconds: u64) {
        let end = self.boot + seconds;
        while self.boot < end {
            self.boot = (self.boot + MINUTE).min(end);
            self.tick();
        }
    }

    fn give(&mut self, connection: &Connection, id: u64, started: u64, totals: [u64; 2], action: FlowAction) {
        let now = self.now().boot;
        let flow = connection.flow(id, BootTime(started * 1_000_000_000), now, totals, action == FlowAction::Ended);
        let change = FlowChange { action, at: now, flow: Arc::new(flow) };
        let alerts = self.detection.step(DetectionInput::Flow(&change), self.now());
        self.alerts.extend(alerts);
    }

    /// A connection that is made and over at once.
    pub fn connect(&mut self, connection: Connection) {
        let id = self.open(&connection);
        let end = [connection.sent, connection.received];
        self.give(&connection, id, self.boot, end, FlowAction::Ended);
    }

    /// A connection that stays open.
    pub fn open(&mut self, connection: &Connection) -> u64 {
        let id = self.next_flow;
        self.next_flow += 1;
        self.give(connection, id, self.boot, [0, 0], FlowAction::Started);
        id
    }

    /// More on an open connection: totals.
    pub fn grow(&mut self, connection: &Connection, id: u64, started: u64, totals: [u64; 2]) {
        self.give(connection, id, started, totals, FlowAction::Updated);
    }

    pub fn boot_seconds(&self) -> u64 {
        self.boot
    }

    /// A program asks a name and gets an answer.
    pub fn ask(&mut self, executable: &str, name: &str, question_type: u16, response_code: u16) {
        let resolver = Endpoint { addr: [10, 0, 0, 1].into(), port: 53 };
        let message = DnsMessage {
            flow: FlowRef {
                cookie: 0,
                transport: Transport::UDP,
                source: resolver,
                destination: Endpoint { addr: [10, 0, 0, 5].into(), port: 40_000 },
            },
            process: Some(Arc::new(process(executable))),
            direction: Direction::Ingress,
            at: self.now().boot,
            id: 1,
            is_response: true,
            question: name.into(),
            question_type,
            response_code,
            answers: Vec::new(),
            message_bytes: 100,
        };
        let alerts = self.detection.step(DetectionInput::Dns(&message), self.now());
        self.alerts.extend(alerts);
    }

    /// The alerts of a rule so far.
    pub fn of(&self, rule: RuleId) -> Vec<&Alert> {
        self.alerts.iter().filter(|alert| alert.rule == rule).collect()
    }

    /// The rules raised so far, in order.
    pub fn rules(&self) -> Vec<RuleId> {
        self.alerts.iter().map(|alert| alert.rule).collect()
    }
}
