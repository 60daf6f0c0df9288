//! One DNS message, and what the name table makes of it as question and as answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pktscope::core::{
    dissect::dns,
    event::{FlowRef, Payload},
    flow::{Direction, Endpoint, Transport},
    names::{NameSettings, NameTable},
    time::BootTime,
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(parts) = dns::parse(bytes) else { return };
    assert!(parts.questions.len() <= dns::MAX_QUESTIONS && parts.answers.len() <= dns::MAX_ANSWERS);
    let end = |port| Endpoint { addr: [10, 0, 0, 1].into(), port };
    let payload = Payload {
        flow: FlowRef { cookie: 0, transport: Transport::UDP, source: end(4000), destination: end(53) },
        direction: Direction::Egress,
        at: BootTime(1),
        sequence: None,
        bytes: bytes.into(),
        user: None,
        missing_bytes: 0,
    };
    let mut table = NameTable::new(NameSettings { max_names: 8, max_questions: 8, ..NameSettings::default() });
    for mut message in dns::messages(parts, &payload, 0) {
        assert!(message.question.bytes().all(|byte| (0x21..=0x7e).contains(&byte)));
        message.is_response = false;
        table.observe_dns(&message);
        message.is_response = true;
        std::mem::swap(&mut message.flow.source, &mut message.flow.destination);
        table.observe_dns(&message);
        assert!(table.len() <= 8);
    }
});
