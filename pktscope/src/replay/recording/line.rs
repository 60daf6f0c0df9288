//! One line of a recording, as far as a replay needs it: the ECS names on one side, the core's types on the other.

mod parts;
mod process;

use std::{borrow::Cow, sync::Arc, time::Duration};

use serde::Deserialize;

use super::{Interned, stamp::nanoseconds};
use crate::core::{
    dns_words::{record_type_number, response_code_number},
    event::{DnsMessage, FlowRef},
    flow::{
        Attribution, Direction, EndReason, Flow, FlowAction, FlowChange, FlowId, Method, Owner, Transport,
        UnknownReason,
    },
    process::Process,
    time::{BootTime, Moment, WallTime},
};

/// An idle end is written when the time-out fires, so the last packet is at least that much older
/// (`flow.idle_timeout` of datagrams).
const SHORTEST_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

type Text<'a> = Option<Cow<'a, str>>;

#[derive(Deserialize)]
pub(super) struct Line<'a> {
    #[serde(rename = "@timestamp", borrow)]
    timestamp: Text<'a>,
    #[serde(borrow)]
    event: Option<EventPart<'a>>,
    #[serde(borrow)]
    network: Option<NetworkPart<'a>>,
    #[serde(borrow)]
    source: Option<SidePart<'a>>,
    #[serde(borrow)]
    destination: Option<SidePart<'a>>,
    #[serde(borrow)]
    process: Option<ProcessPart<'a>>,
    #[serde(borrow)]
    user: Option<UserPart<'a>>,
    #[serde(borrow)]
    container: Option<ContainerPart<'a>>,
    #[serde(borrow)]
    package: Option<PackagePart<'a>>,
    #[serde(borrow)]
    dns: Option<DnsPart<'a>>,
    #[serde(borrow)]
    tls: Option<TlsPart<'a>>,
    #[serde(borrow)]
    pktscope: Option<OwnPart<'a>>,
}

#[derive(Deserialize)]
struct EventPart<'a> {
    #[serde(borrow)]
    dataset: Text<'a>,
    #[serde(borrow)]
    action: Text<'a>,
    #[serde(borrow)]
    created: Text<'a>,
    #[serde(borrow)]
    start: Text<'a>,
    #[serde(borrow)]
    end: Text<'a>,
    #[serde(borrow)]
    reason: Text<'a>,
}

#[derive(Deserialize)]
struct NetworkPart<'a> {
    #[serde(borrow)]
    transport: Text<'a>,
    #[serde(borrow)]
    iana_number: Text<'a>,
    #[serde(borrow)]
    direction: Text<'a>,
}

#[derive(Deserialize)]
struct SidePart<'a> {
    #[serde(borrow)]
    ip: Text<'a>,
    #[serde(default)]
    port: u16,
    #[serde(default)]
    bytes: u64,
    #[serde(default)]
    packets: u64,
    #[serde(borrow)]
    domain: Text<'a>,
    #[serde(borrow)]
    geo: Option<GeoPart<'a>>,
    #[serde(rename = "as", borrow)]
    autonomous: Option<AsPart<'a>>,
}

#[derive(Deserialize)]
struct GeoPart<'a> {
    #[serde(borrow)]
    country_iso_code: Text<'a>,
}

#[derive(Deserialize)]
struct AsPart<'a> {
    number: Option<u32>,
    #[serde(borrow)]
    organization: Option<NamePart<'a>>,
}

#[derive(Deserialize)]
struct NamePart<'a> {
    #[serde(borrow)]
    name: Text<'a>,
}

/// `process.*` of a line, with what sits beside it in ECS.
#[derive(Default, Deserialize)]
pub(super) struct ProcessPart<'a> {
    #[serde(default)]
    pid: u32,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    executable: Text<'a>,
    #[serde(borrow)]
    start: Text<'a>,
    #[serde(borrow)]
    entity_id: Text<'a>,
    #[serde(borrow)]
    command_line: Text<'a>,
    #[serde(borrow)]
    hash: Option<HashPart<'a>>,
    #[serde(borrow)]
    parent: Option<ParentPart<'a>>,
    #[serde(skip)]
    uid: Option<u32>,
    #[serde(skip)]
    user: Text<'a>,
    #[serde(skip)]
    container: Option<ContainerPart<'a>>,
    #[serde(skip)]
    cgroup_path: Text<'a>,
    #[serde(skip)]
    package: Option<PackagePart<'a>>,
    #[serde(skip)]
    extra: Option<ProcessExtra<'a>>,
}

#[derive(Deserialize)]
struct HashPart<'a> {
    #[serde(borrow)]
    sha256: Text<'a>,
}

#[derive(Deserialize)]
struct ParentPart<'a> {
    #[serde(borrow)]
    executable: Text<'a>,
}

#[derive(Deserialize)]
struct UserPart<'a> {
    #[serde(borrow)]
    id: Option<Number<'a>>,
    #[serde(borrow)]
    name: Text<'a>,
}

/// A number that may be written as a string, as ECS does for ids.
#[derive(Deserialize)]
#[serde(untagged)]
enum Number<'a> {
    Plain(u64),
    Quoted(#[serde(borrow)] Cow<'a, str>),
}

#[derive(Clone, Deserialize)]
struct ContainerPart<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    image: Option<ImagePart<'a>>,
}

#[derive(Clone, Deserialize)]
struct ImagePart<'a> {
    #[serde(borrow)]
    name: Text<'a>,
}

#[derive(Clone, Deserialize)]
struct PackagePart<'a> {
    #[serde(rename = "type", borrow)]
    manager: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    version: Text<'a>,
}

#[derive(Clone, Deserialize)]
struct ProcessExtra<'a> {
    started_at: Option<u64>,
    #[serde(borrow)]
    hash_error: Text<'a>,
    #[serde(default)]
    is_hash_pending: bool,
    package_is_unmodified: Option<bool>,
    #[serde(borrow)]
    script: Option<ScriptPart<'a>>,
    #[serde(default)]
    is_agent: bool,
}

#[derive(Clone, Deserialize)]
struct ScriptPart<'a> {
    #[serde(borrow)]
    path: Text<'a>,
    #[serde(borrow)]
    sha256: Text<'a>,
    #[serde(borrow)]
    hash_error: Text<'a>,
    #[serde(borrow)]
    package: Option<PackagePart<'a>>,
    package_is_unmodified: Option<bool>,
}

#[derive(Deserialize)]
struct DnsPart<'a> {
    #[serde(default)]
    id: Option<Number<'a>>,
    #[serde(borrow)]
    question: Option<QuestionPart<'a>>,
    #[serde(borrow)]
    response_code: Text<'a>,
    #[serde(borrow, default)]
    answers: Vec<AnswerPart<'a>>,
}

#[derive(Deserialize)]
struct QuestionPart<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(rename = "type", borrow)]
    kind: Text<'a>,
}

#[derive(Deserialize)]
struct AnswerPart<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(rename = "type", borrow)]
    kind: Text<'a>,
    #[serde(default)]
    ttl: u32,
    #[serde(borrow)]
    data: Text<'a>,
    bytes: Option<u32>,
}

#[derive(Deserialize)]
struct TlsPart<'a> {
    #[serde(borrow)]
    client: Option<TlsClientPart<'a>>,
}

#[derive(Deserialize)]
struct TlsClientPart<'a> {
    #[serde(borrow)]
    server_name: Text<'a>,
    #[serde(borrow)]
    ja4: Text<'a>,
}

#[derive(Deserialize)]
struct OwnPart<'a> {
    flow_id: Option<u64>,
    #[serde(borrow)]
    domain_source: Text<'a>,
    #[serde(borrow)]
    history: Text<'a>,
    #[serde(borrow)]
    conn_state: Text<'a>,
    #[serde(borrow)]
    attribution: Option<AttributionPart<'a>>,
    payload: Option<PayloadPart>,
    #[serde(borrow)]
    cgroup: Option<CgroupPart<'a>>,
    #[serde(borrow)]
    process: Option<ProcessExtra<'a>>,
    dns: Option<DnsExtra>,
    domain_candidates: Option<u32>,
    domain_age: Option<u64>,
}

#[derive(Deserialize)]
struct DnsExtra {
    message_bytes: Option<u32>,
    #[serde(default)]
    direction: DnsDirection,
}

/// Whose socket saw the message; an answer that came in, unless the line says otherwise.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum DnsDirection {
    Egress,
    #[default]
    Ingress,
}

#[derive(Deserialize)]
struct AttributionPart<'a> {
    #[serde(borrow)]
    status: Text<'a>,
    #[serde(borrow)]
    method: Text<'a>,
    #[serde(borrow)]
    reason: Text<'a>,
}

#[derive(Deserialize)]
struct PayloadPart {
    #[serde(default)]
    source_bytes: u64,
    #[serde(default)]
    destination_bytes: u64,
}

#[derive(Deserialize)]
struct CgroupPart<'a> {
    #[serde(borrow)]
    path: Text<'a>,
}

impl Line<'_> {
    /// The flow event of this line; `None` where a field is missing without which it means nothing.
    pub(super) fn flow_change(mut self, interned: &mut Interned) -> Option<FlowChange> {
        let at = self.time()?;
        let action = FlowAction::from_word(self.event.as_ref()?.action.as_deref()?)?;
        let attribution = self.attribution(interned)?;
        let flow = self.flow(at, attribution, interned)?;
        Some(FlowChange { action, at, flow: Arc::new(flow) })
    }

    /// The process of this line; `None` where it names none.
    pub(super) fn process(mut self, interned: &mut Interned) -> Option<Arc<Process>> {
        self.take_process(interned)
    }

    /// The DNS answer of this line; `None` where it has no question.
    pub(super) fn dns_message(mut self, interned: &mut Interned) -> Option<DnsMessage> {
        let at = self.time()?;
        let process = self.take_process(interned);
        let dns = self.dns.as_ref()?;
        let question = dns.question.as_ref()?;
        let (client, resolver) = (self.source.as_ref()?, self.destination.as_ref()?);
        let extra = self.pktscope.as_ref().and_then(|own| own.dns.as_ref());
        let own_bytes = extra.and_then(|extra| extra.message_bytes);
        Some(DnsMessage {
            flow: FlowRef {
                cookie: 0,
                transport: self.transport().unwrap_or(Transport::UDP),
                source: resolver.endpoint()?,
                destination: client.endpoint()?,
            },
            process,
            direction: match extra.map(|extra| extra.direction).unwrap_or_default() {
                DnsDirection::Egress => Direction::Egress,
                DnsDirection::Ingress => Direction::Ingress,
            },
            at,
            id: dns.id.as_ref().and_then(Number::value).and_then(|id| u16::try_from(id).ok()).unwrap_or(0),
            is_response: true,
            question: question.name.as_deref()?.into(),
            question_type: question.kind.as_deref().and_then(record_type_number).unwrap_or(1),
            response_code: dns.response_code.as_deref().and_then(response_code_number).unwrap_or(0),
            answers: dns.answers.iter().filter_map(AnswerPart::answer).collect(),
            message_bytes: own_bytes.unwrap_or_else(|| u32::try_from(resolver.bytes).unwrap_or(u32::MAX)),
        })
    }

    /// `event.dataset`, empty where the line has none.
    pub(super) fn dataset(&self) -> &str {
        self.event.as_ref().and_then(|event| event.dataset.as_deref()).unwrap_or_default()
    }

    /// `event.action`, empty where the line has none.
    pub(super) fn action(&self) -> &str {
        self.event.as_ref().and_then(|event| event.action.as_deref()).unwrap_or_default()
    }

    /// When the line was written, or what it tells happened where it does not say; both clocks read the same.
    pub(super) fn written_at(&self) -> Option<Moment> {
        let created = self.event.as_ref().and_then(|event| event.created.as_deref()).and_then(nanoseconds);
        let nanoseconds = created.or_else(|| nanoseconds(self.timestamp.as_deref()?))?;
        Some(Moment { boot: boot(nanoseconds), wall: WallTime(nanoseconds) })
    }

    /// When what it tells happened.
    fn time(&self) -> Option<BootTime> {
        self.timestamp.as_deref().and_then(nanoseconds).map(boot)
    }

    fn transport(&self) -> Option<Transport> {
        let network = self.network.as_ref()?;
        let number = network.iana_number.as_deref().and_then(|number| number.parse().ok());
        number.or_else(|| transport_number(network.transport.as_deref()?)).map(Transport)
    }

    fn flow(&self, at: BootTime, attribution: Attribution, interned: &mut Interned) -> Option<Flow> {
        let (source, destination) = (self.source.as_ref()?, self.destination.as_ref()?);
        let event = self.event.as_ref()?;
        let own = self.pktscope.as_ref()?;
        let time = |text: &Text<'_>| text.as_deref().and_then(nanoseconds).map(boot);
        let end = time(&event.end).unwrap_or(at);
        let reason = event.reason.as_deref().and_then(EndReason::from_word);
        let started_at = time(&event.start).unwrap_or(at);
        let [sent_payload, received_payload] =
            own.payload.as_ref().map_or([0, 0], |p| [p.source_bytes, p.destination_bytes]);
        Some(Flow {
            id: FlowId(own.flow_id?),
            transport: self.transport()?,
            source: source.endpoint()?,
            destination: destination.endpoint()?,
            icmp: None,
            direction: self.network.as_ref()?.direction.as_deref().and_then(Direction::from_word).unwrap_or_default(),
            sent: source.volume(sent_payload),
            received: destination.volume(received_payload),
            started_at,
            last_seen: last_seen(started_at, end, at, reason),
            ended: reason.map(|reason| (end, reason)),
            attribution,
            domain: destination.named(own, started_at, interned),
            geo: destination.geo(interned),
            tcp: own.tcp(interned),
            tls: self.tls.as_ref().and_then(TlsPart::hello),
        })
    }

    fn attribution(&mut self, interned: &mut Interned) -> Option<Attribution> {
        let part = self.pktscope.as_ref()?.attribution.as_ref();
        let word = |pick: fn(&AttributionPart<'_>) -> Option<String>| part.and_then(pick);
        let method = word(|part| part.method.as_deref().map(str::to_owned));
        let reason = word(|part| part.reason.as_deref().map(str::to_owned));
        Some(match part.and_then(|part| part.status.as_deref()) {
            Some("kernel") => Attribution::Kernel,
            Some("unknown") => Attribution::Unknown(reason.as_deref().and_then(UnknownReason::from_word)?),
            _ => Attribution::Process(Owner {
                process: self.take_process(interned)?,
                method: method.as_deref().and_then(Method::from_word).unwrap_or(Method::Recording),
                creator: None,
                ambiguity: None,
            }),
        })
    }

    /// The process of this line, with what ECS keeps beside it.
    fn take_process(&mut self, interned: &mut Interned) -> Option<Arc<Process>> {
        let mut part = self.process.take()?;
        if let Some(user) = self.user.take() {
            part.uid = user.id.as_ref().and_then(Number::value).and_then(|id| u32::try_from(id).ok());
            part.user = user.name;
        }
        part.container = self.container.take();
        part.package = self.package.take();
        if let Some(own) = self.pktscope.as_mut() {
            part.cgroup_path = own.cgroup.as_mut().and_then(|cgroup| cgroup.path.take());
            part.extra = own.process.take();
        }
        Some(interned.process(&part))
    }
}

fn boot(nanoseconds: i64) -> BootTime {
    BootTime(u64::try_from(nanoseconds).unwrap_or(0))
}

fn last_seen(started_at: BootTime, end: BootTime, at: BootTime, reason: Option<EndReason>) -> BootTime {
    if reason == Some(EndReason::IdleTimeout) && end == at {
        let idle = u64::try_from(SHORTEST_IDLE_TIMEOUT.as_nanos()).unwrap_or(u64::MAX);
        return BootTime(end.0.saturating_sub(idle)).max(started_at);
    }
    end
}

fn transport_number(name: &str) -> Option<u8> {
    (0..=u8::MAX).find(|&number| Transport(number).name() == Some(name))
}
