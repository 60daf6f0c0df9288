//! DNS on its way: an answer names its addresses at once, and is told and judged when its asker's facts are known.

use std::sync::Arc;

use super::{Pipeline, PipelineSettings};
use crate::core::{
    detect::DetectionInput,
    effect::Effect,
    event::{DnsMessage, Event, Payload, Stamp},
    hold::{Hold, Wait},
    names::DnsOutcome,
    time::Moment,
};

/// An answer whose asker is not yet known in full.
#[derive(Debug)]
struct Unsettled {
    message: DnsMessage,
    asker: Stamp,
}

/// The answers that wait, in the order in which they came.
#[derive(Debug)]
pub(super) struct AnswersHeld {
    hold: Hold<u64, Unsettled>,
    next: u64,
}

impl AnswersHeld {
    pub(super) fn new(settings: &PipelineSettings) -> Self {
        Self { hold: Hold::new(settings.hold_flows, settings.hold_timeout), next: 0 }
    }

    /// Answers told before their asker's facts were known, since the start.
    pub(super) fn hasty(&self) -> u64 {
        self.hold.timed_out() + self.hold.refused()
    }

    fn hold(&mut self, unsettled: Unsettled, now: Moment) -> Option<Unsettled> {
        let wait = Wait::Process(unsettled.asker.key.rounded());
        self.next += 1;
        self.hold.hold(self.next, wait, unsettled, now.boot)
    }
}

impl Pipeline {
    pub(super) fn on_payload(&mut self, payload: &Payload, now: Moment, effects: &mut Vec<Effect>) {
        let mut found = std::mem::take(&mut self.dissected);
        self.dissector.observe(payload, &mut found);
        for event in found.drain(..) {
            match (event, &payload.user) {
                (Event::Dns(message), Some(asker)) => self.on_asked_dns(message, asker, now, effects),
                (event, _) => self.step(event, now, effects),
            }
        }
        self.dissected = found;
    }

    fn on_asked_dns(&mut self, mut message: DnsMessage, asker: &Stamp, now: Moment, effects: &mut Vec<Effect>) {
        message.process = Some(self.processes.lookup_or_request(asker, now.boot, effects));
        if !self.note_dns(&message) {
            return;
        }
        let unsettled = Unsettled { message, asker: *asker };
        let ready = match self.processes.is_settled(asker.key) {
            true => Some(unsettled),
            false => self.dns_answers.hold(unsettled, now),
        };
        self.tell_dns_answers(ready, now, effects);
    }

    pub(super) fn on_dns(&mut self, message: DnsMessage, now: Moment, effects: &mut Vec<Effect>) {
        if self.note_dns(&message) {
            self.tell_dns(message, now, effects);
        }
    }

    /// Takes names and figures from a message; whether it is to be told: an answer that this host did not give.
    fn note_dns(&mut self, message: &DnsMessage) -> bool {
        let outcome = self.completion.names.observe_dns(message);
        self.dns.observe(message, outcome);
        message.is_response && outcome != DnsOutcome::Served
    }

    /// An answer nobody asked for names nothing, but it is on the wire: it is told and judged like any other.
    pub(super) fn tell_dns(&mut self, message: DnsMessage, now: Moment, effects: &mut Vec<Effect>) {
        let message = Arc::new(message);
        self.detect(DetectionInput::Dns(&message), now, effects);
        effects.push(Effect::Dns(message));
    }

    /// Tells of the answers that waited for this.
    pub(super) fn tell_dns_of(&mut self, known: Wait, now: Moment, effects: &mut Vec<Effect>) {
        let ready = self.dns_answers.hold.release(known);
        self.tell_dns_answers(ready, now, effects);
    }

    /// Tells of the answers that waited long enough.
    pub(super) fn tell_overdue_dns(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let overdue = self.dns_answers.hold.release_overdue(now.boot);
        self.tell_dns_answers(overdue, now, effects);
    }

    /// Tells of every answer that waits, for the end.
    pub(super) fn tell_all_dns(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let held = self.dns_answers.hold.release_all();
        self.tell_dns_answers(held, now, effects);
    }

    fn tell_dns_answers(
        &mut self,
        answers: impl IntoIterator<Item = Unsettled>,
        now: Moment,
        effects: &mut Vec<Effect>,
    ) {
        for Unsettled { mut message, asker } in answers {
            message.process = Some(self.processes.lookup_at(&asker, message.at, now.boot, effects));
            self.tell_dns(message, now, effects);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        core::{
            detect::{Detection, DetectionSettings},
            effect::Lookup,
            event::{Answer, Exec, FlowRef, ProcessFacts},
            flow::{Direction, FlowId, Transport},
            process::{FileId, ImageHash, ProcessKey},
        },
        fixtures::{boot, endpoint, now},
    };

    fn asker() -> Stamp {
        Stamp { key: ProcessKey { pid: 77, started_at: boot(90) }, uid: 0, cgroup_id: 0 }
    }

    fn exec() -> Event {
        Event::Exec(Exec {
            key: asker().key,
            at: boot(90),
            parent: ProcessKey::default(),
            uid: 0,
            cgroup_id: 0,
            comm: "python3".into(),
            filename: "/usr/bin/python3".into(),
            raw_filename: None,
            file: FileId { device: 1, inode: 2 },
            folder: None,
            arguments: vec!["python3".into()],
            image_name: "".into(),
            has_all_arguments: true,
        })
    }

    /// `a.example` does not exist.
    fn answer() -> Event {
        let message = b"\x12\x34\x81\x83\0\x01\0\0\0\0\0\0\x01a\x07example\0\0\x01\0\x01";
        Event::Payload(Payload {
            flow: FlowRef {
                cookie: 5,
                transport: Transport::UDP,
                source: endpoint("192.0.2.53", 53),
                destination: endpoint("192.0.2.10", 40_000),
            },
            direction: Direction::Ingress,
            user: Some(asker()),
            at: boot(95),
            sequence: None,
            bytes: message.as_slice().into(),
            missing_bytes: 0,
        })
    }

    fn facts(image: u32) -> Event {
        Event::Answer(Answer::Process(ProcessFacts {
            key: asker().key,
            image,
            executable: Some("/usr/bin/python3.11".into()),
            hash: Some(ImageHash::Sha256("ab".into())),
            user: Some("root".into()),
            uid: Some(0),
            ..ProcessFacts::default()
        }))
    }

    fn told(effects: &mut Vec<Effect>) -> Vec<String> {
        let executable = |message: &DnsMessage| message.process.as_ref().map(|process| process.executable.to_string());
        effects
            .drain(..)
            .filter_map(|effect| if let Effect::Dns(message) = effect { executable(&message) } else { None })
            .collect()
    }

    #[test]
    fn an_answer_is_told_when_its_asker_is_known_or_has_been_waited_for() {
        let detection = Detection::new(DetectionSettings::default());
        let mut pipeline = Pipeline::new(PipelineSettings::default(), detection, FlowId(1));
        let mut effects = Vec::new();
        pipeline.step(exec(), now(), &mut effects);
        let image = effects.iter().find_map(|effect| match effect {
            Effect::Lookup(Lookup::Process(question)) => Some(question.image),
            _ => None,
        });
        pipeline.step(answer(), now(), &mut effects);
        assert!(told(&mut effects).is_empty(), "links in its path are not followed yet");
        assert_eq!(pipeline.dns().responses, 1, "what it says counts at once");
        pipeline.step(facts(image.unwrap()), now(), &mut effects);
        assert_eq!(told(&mut effects), ["/usr/bin/python3.11"]);
        pipeline.step(answer(), now(), &mut effects);
        assert_eq!(told(&mut effects), ["/usr/bin/python3.11"], "what is known needs no wait");
        assert_eq!(pipeline.counters().hasty_dns_answers, 0);
    }

    #[test]
    fn an_asker_that_nothing_becomes_known_of_is_not_waited_for_long() {
        let detection = Detection::new(DetectionSettings::default());
        let mut pipeline = Pipeline::new(PipelineSettings::default(), detection, FlowId(1));
        let mut effects = Vec::new();
        pipeline.step(exec(), now(), &mut effects);
        pipeline.step(answer(), now(), &mut effects);
        assert!(told(&mut effects).is_empty());
        let later = Moment { boot: now().boot.plus(PipelineSettings::default().hold_timeout), ..now() };
        pipeline.tick(later, &mut effects);
        assert_eq!(told(&mut effects), ["/usr/bin/python3"]);
        assert_eq!(pipeline.counters().hasty_dns_answers, 1);
    }
}
