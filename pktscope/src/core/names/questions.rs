//! Questions that wait for their answers.

use std::{net::IpAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use lru::LruCache;

use super::{NameSettings, claims::Asker};
use crate::core::{
    event::{DnsAnswer, DnsMessage},
    flow::{Endpoint, Transport},
    seed::hasher,
    time::BootTime,
};

const MDNS_PORT: u16 = 5353;

/// What an answer must repeat of its question.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// DNS and LLMNR.
    Asked {
        transport: Transport,
        client: Endpoint,
        /// `None` where the question went to a group: any member may answer.
        resolver: Option<Endpoint>,
        id: u16,
        name: Arc<str>,
        record_type: u16,
    },
    /// mDNS: anybody answers, to everybody, without repeating id or question (RFC 6762, 6).
    Mdns { name: Arc<str> },
}

/// A question that got its answer.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) name: Arc<str>,
    pub(super) asker: Asker,
    pub(super) at: BootTime,
}

/// Bounded by count and by time; the oldest make room.
pub(super) struct Questions {
    waiting: LruCache<Key, (Asker, BootTime), ahash::RandomState>,
    timeout: Duration,
    evicted: u64,
}

impl Questions {
    pub(super) fn new(settings: &NameSettings) -> Self {
        let max = NonZeroUsize::new(settings.max_questions).unwrap_or(NonZeroUsize::MIN);
        // Not `with_hasher`: that allocates the whole bound at once.
        let mut waiting = LruCache::unbounded_with_hasher(hasher(settings.hash_seed));
        waiting.resize(max);
        Self { waiting, timeout: settings.question_timeout, evicted: 0 }
    }

    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(super) fn ask(&mut self, message: &DnsMessage, asker: Asker) {
        self.expire(message.at);
        if self.waiting.len() >= self.waiting.cap().get() {
            self.evicted += 1;
        }
        let key = Key::new(message, message.flow.source, message.flow.destination);
        self.waiting.put(key, (asker, message.at));
    }

    /// The question this message answers. A unicast question takes one answer; a second one is nobody's.
    pub(super) fn answer(&mut self, message: &DnsMessage) -> Option<Question> {
        self.expire(message.at);
        let (client, resolver) = (message.flow.destination, message.flow.source);
        if resolver.port == MDNS_PORT {
            return self.answer_mdns(message);
        }
        let mut key = Key::new(message, client, resolver);
        let (asker, at) = self.waiting.pop(&key).or_else(|| {
            key.forget_resolver();
            self.waiting.pop(&key)
        })?;
        Some(Question { name: message.question.clone(), asker, at })
    }

    /// A response may answer several questions; the first asked name it has an address or an alias for counts.
    fn answer_mdns(&mut self, message: &DnsMessage) -> Option<Question> {
        message.answers.iter().find_map(|answer| {
            let (DnsAnswer::Address { name, .. } | DnsAnswer::Alias { name, .. }) = answer else { return None };
            let (asker, at) = *self.waiting.peek(&Key::Mdns { name: name.clone() })?;
            Some(Question { name: name.clone(), asker, at })
        })
    }

    /// Drops what waited too long; the oldest come first since asking again moves a question to the front.
    fn expire(&mut self, now: BootTime) {
        while let Some((_, (_, at))) = self.waiting.peek_lru() {
            if now.since(*at) <= self.timeout {
                return;
            }
            self.waiting.pop_lru();
        }
    }
}

impl Key {
    fn new(message: &DnsMessage, client: Endpoint, resolver: Endpoint) -> Self {
        let name = message.question.clone();
        if resolver.port == MDNS_PORT {
            return Self::Mdns { name };
        }
        Self::Asked {
            transport: message.flow.transport,
            client,
            resolver: (!is_group(resolver.addr)).then_some(resolver),
            id: message.id,
            name,
            record_type: message.question_type,
        }
    }

    fn forget_resolver(&mut self) {
        if let Self::Asked { resolver, .. } = self {
            *resolver = None;
        }
    }
}

fn is_group(addr: IpAddr) -> bool {
    addr.is_multicast() || matches!(addr, IpAddr::V4(addr) if addr.is_broadcast())
}
