//! DNS, mDNS and LLMNR messages: untrusted bytes in, questions and the answers that name addresses out.
//!
//! Header, names and fixed fields are read by hickory-proto; records are walked here one by one, so that one broken
//! record, or a message cut short by the copy, does not hide what came before it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use hickory_proto::{
    op::{Header, MessageType},
    rr::Name,
    serialize::binary::{BinDecodable, BinDecoder},
};

use crate::core::{
    domain::normalize_labels,
    event::{DnsAnswer, DnsMessage, Payload},
};

/// Questions kept of one message; only mDNS asks more than one at a time.
pub const MAX_QUESTIONS: usize = 16;
/// Answers kept of one message; more than a message of 4096 bytes can hold.
pub const MAX_ANSWERS: usize = 384;

const CLASS_IN: u16 = 1;
/// mDNS uses the class's top bit for something else (RFC 6762, 10.2 and 18.12).
const CLASS_MASK: u16 = 0x7fff;
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
/// Bytes of a header (RFC 1035, 4.1.1).
pub const HEADER_LEN: usize = 12;

/// Why bytes are not a DNS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum DnsError {
    /// Fewer bytes than a header.
    #[error("shorter than a DNS header")]
    TooShort,
    /// The question section does not parse, so nothing after it can be trusted.
    #[error("malformed question section")]
    Question,
    /// NOTIFY, UPDATE and the like: no question about a name.
    #[error("not a query or its response")]
    Opcode,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Normalised name; empty of the root.
    pub name: Arc<str>,
    /// Type number.
    pub record_type: u16,
}

/// What a message says, without its flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsParts {
    /// Transaction id.
    pub id: u16,
    /// Whether it is a response.
    pub is_response: bool,
    /// Response code with its extended part where the message was read up to its OPT record.
    pub response_code: u16,
    /// At most [`MAX_QUESTIONS`].
    pub questions: Vec<Question>,
    /// At most [`MAX_ANSWERS`].
    pub answers: Vec<DnsAnswer>,
    /// Whether records were broken, cut off or too many, so that `answers` may not be all.
    pub is_partial: bool,
}

impl DnsParts {
    /// The question, or where an mDNS response repeats none (RFC 6762, 6) the first answer's own name.
    fn subject(&self) -> Question {
        let answered = || {
            self.answers.iter().find_map(|answer| match answer {
                DnsAnswer::Address { name, addr: IpAddr::V4(_), .. } => Some((name, TYPE_A)),
                DnsAnswer::Address { name, addr: IpAddr::V6(_), .. } => Some((name, TYPE_AAAA)),
                DnsAnswer::Alias { name, .. } => Some((name, TYPE_CNAME)),
                DnsAnswer::Other { .. } => None,
            })
        };
        let asked = self.questions.first().map(|question| (&question.name, question.record_type));
        let (name, record_type) =
            asked.or_else(answered).map_or_else(|| ("".into(), 0), |(name, kind)| (name.clone(), kind));
        Question { name, record_type }
    }
}

/// Reads one message, without the length prefix it has on TCP.
///
/// # Errors
/// Where there is no header or no readable question section, or the message is no query.
pub fn parse(bytes: &[u8]) -> Result<DnsParts, DnsError> {
    let mut decoder = BinDecoder::new(bytes);
    let header = Header::read(&mut decoder).map_err(|_| DnsError::TooShort)?;
    if u8::from(header.metadata.op_code) != 0 {
        return Err(DnsError::Opcode);
    }
    let mut parts = DnsParts {
        id: header.metadata.id,
        is_response: header.metadata.message_type == MessageType::Response,
        response_code: header.metadata.response_code.low().into(),
        questions: Vec::new(),
        answers: Vec::new(),
        is_partial: false,
    };
    read_questions(&mut decoder, header.counts.queries, &mut parts)?;
    let others = usize::from(header.counts.authorities) + usize::from(header.counts.additionals);
    parts.is_partial |= read_records(&mut decoder, header.counts.answers.into(), others, &mut parts).is_none();
    Ok(parts)
}

/// The messages a payload gives: one for each question of a query, since [`DnsMessage`] holds one; one a response.
pub fn messages(parts: DnsParts, payload: &Payload, message_bytes: u32) -> Vec<DnsMessage> {
    let message = |question: Arc<str>, question_type, answers| DnsMessage {
        flow: payload.flow,
        process: None,
        direction: payload.direction,
        at: payload.at,
        id: parts.id,
        is_response: parts.is_response,
        question,
        question_type,
        response_code: parts.response_code,
        answers,
        message_bytes,
    };
    if parts.is_response || parts.questions.len() < 2 {
        let Question { name, record_type } = parts.subject();
        return vec![message(name, record_type, parts.answers)];
    }
    parts.questions.iter().map(|question| message(question.name.clone(), question.record_type, Vec::new())).collect()
}

fn read_questions(decoder: &mut BinDecoder<'_>, count: u16, parts: &mut DnsParts) -> Result<(), DnsError> {
    for index in 0..usize::from(count) {
        let (name, record_type) = read_question(decoder).ok_or(DnsError::Question)?;
        if index < MAX_QUESTIONS {
            parts.questions.push(Question { name, record_type });
        }
    }
    Ok(())
}

fn read_question(decoder: &mut BinDecoder<'_>) -> Option<(Arc<str>, u16)> {
    let name = read_name(decoder)?;
    let record_type = read_u16(decoder)?;
    read_u16(decoder)?;
    Some((name, record_type))
}

/// Walks the answer section and, for the extended response code, the `others` records after it; `None` where it had
/// to stop early.
fn read_records(decoder: &mut BinDecoder<'_>, answers: usize, others: usize, parts: &mut DnsParts) -> Option<()> {
    for index in 0..answers + others {
        let name = if index < answers { Some(read_name(decoder)?) } else { skip_name(decoder)? };
        let record = RecordHead::read(decoder)?;
        let data = decoder.index();
        let rdata = read_slice(decoder, record.data_len.into())?;
        match name {
            Some(_) if parts.answers.len() >= MAX_ANSWERS => return None,
            Some(name) => parts.answers.push(record.answer(name, decoder, data, rdata)?),
            None => record.extend_response_code(parts),
        }
    }
    Some(())
}

/// Type, class, TTL and length of a record.
struct RecordHead {
    record_type: u16,
    class: u16,
    ttl: u32,
    data_len: u16,
}

impl RecordHead {
    fn read(decoder: &mut BinDecoder<'_>) -> Option<Self> {
        Some(Self {
            record_type: read_u16(decoder)?,
            class: read_u16(decoder)?,
            ttl: decoder.read_u32().ok()?.unverified(),
            data_len: read_u16(decoder)?,
        })
    }

    /// The answer, `rdata` starting at `data` in the message; `None` where the data contradicts the type.
    fn answer(&self, name: Arc<str>, decoder: &BinDecoder<'_>, data: usize, rdata: &[u8]) -> Option<DnsAnswer> {
        let ttl = self.ttl;
        Some(match self.record_type {
            _ if self.class & CLASS_MASK != CLASS_IN => self.other(),
            TYPE_A => {
                DnsAnswer::Address { name, addr: IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(rdata).ok()?)), ttl }
            }
            TYPE_AAAA => {
                DnsAnswer::Address { name, addr: IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(rdata).ok()?)), ttl }
            }
            TYPE_CNAME => {
                let mut target = decoder.clone(u16::try_from(data).ok()?);
                DnsAnswer::Alias { name, target: read_name(&mut target)?, ttl }
            }
            _ => self.other(),
        })
    }

    fn other(&self) -> DnsAnswer {
        DnsAnswer::Other { record_type: self.record_type, data_bytes: self.data_len.into() }
    }

    /// An OPT record's TTL holds the response code's upper eight bits (RFC 6891, 6.1.3).
    fn extend_response_code(&self, parts: &mut DnsParts) {
        if self.record_type == TYPE_OPT {
            let [high, ..] = self.ttl.to_be_bytes();
            parts.response_code |= u16::from(high) << 4;
        }
    }
}

fn read_name(decoder: &mut BinDecoder<'_>) -> Option<Arc<str>> {
    let name = Name::read(decoder).ok()?;
    Some(normalize_labels(name.iter()).into())
}

fn skip_name(decoder: &mut BinDecoder<'_>) -> Option<Option<Arc<str>>> {
    Name::read(decoder).ok()?;
    Some(None)
}

fn read_u16(decoder: &mut BinDecoder<'_>) -> Option<u16> {
    Some(decoder.read_u16().ok()?.unverified())
}

fn read_slice<'a>(decoder: &mut BinDecoder<'a>, len: usize) -> Option<&'a [u8]> {
    Some(decoder.read_slice(len).ok()?.unverified())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUESTION: &[u8] =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03WwW\x07exAmple\x03com\x00\x00\x01\x00\x01";

    fn response(answer_count: u8, records: &[u8]) -> Vec<u8> {
        let mut bytes = QUESTION.to_vec();
        bytes[2] |= 0x80;
        bytes[7] = answer_count;
        bytes.extend_from_slice(records);
        bytes
    }

    #[test]
    fn question_is_lower_case() {
        let parts = parse(QUESTION).unwrap();
        assert_eq!(&*parts.questions[0].name, "www.example.com");
        assert_eq!((parts.id, parts.is_response, parts.questions[0].record_type), (0x1234, false, 1));
    }

    #[test]
    fn chain_of_alias_and_address() {
        // www.example.com CNAME e.example.com; e.example.com A 192.0.2.7, names compressed.
        let records = b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x0a\x00\x04\x01e\xc0\x10\
            \xc0\x2d\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\xc0\x00\x02\x07";
        let parts = parse(&response(2, records)).unwrap();
        assert!(!parts.is_partial);
        let alias = DnsAnswer::Alias { name: "www.example.com".into(), target: "e.example.com".into(), ttl: 10 };
        let addr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(parts.answers, [alias, DnsAnswer::Address { name: "e.example.com".into(), addr, ttl: 5 }]);
    }

    #[test]
    fn a_cut_message_keeps_what_came_before() {
        let records = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\xc0\x00\x02\x07\xc0\x0c\x00\x01\x00";
        let parts = parse(&response(2, records)).unwrap();
        assert!(parts.is_partial);
        assert_eq!(parts.answers.len(), 1);
    }

    #[test]
    fn an_address_of_wrong_length_names_nothing() {
        let parts = parse(&response(1, b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x03\xc0\x00\x02")).unwrap();
        assert!(parts.is_partial && parts.answers.is_empty());
    }

    #[test]
    fn extended_response_code() {
        let mut bytes = response(0, b"\x00\x00\x29\x10\x00\x01\x00\x00\x00\x00\x00");
        bytes[11] = 1;
        assert_eq!(parse(&bytes).unwrap().response_code, 16);
    }

    #[test]
    fn refusals() {
        assert_eq!(parse(b"\0\0"), Err(DnsError::TooShort));
        assert_eq!(parse(b"\0\0\x28\0\0\0\0\0\0\0\0\0"), Err(DnsError::Opcode));
        assert_eq!(parse(b"\0\0\0\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01"), Err(DnsError::Question));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            if let Ok(parts) = parse(&bytes) {
                prop_assert!(parts.questions.len() <= MAX_QUESTIONS && parts.answers.len() <= MAX_ANSWERS);
            }
        }

        #[test]
        fn damaged_messages_are_read_within_bounds(
            records in proptest::collection::vec(any::<u8>(), 0..600),
            counts in any::<[u8; 3]>(),
        ) {
            let mut bytes = response(counts[0], &records);
            (bytes[9], bytes[11]) = (counts[1], counts[2]);
            let parts = parse(&bytes).unwrap();
            prop_assert!(parts.answers.len() <= MAX_ANSWERS);
        }
    }
}
