//! What a connection has asked and is not answered yet, and what lives as long as the connection does. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use mio::Token;

use super::outbox::{Part, Source};
use crate::ids::{RequestId, SessionId};

#[derive(Debug, Default)]
pub struct Book {
    pub inflight: usize,
    open: Vec<Open>,
    batches: HashMap<u64, Vec<Member>>,
    /// Of the answers that stand in them.
    pub batched_bytes: usize,
    next_batch: u64,
    pub sessions: Vec<SessionId>,
    /// Statistics are sent this often.
    pub subscription: Option<Duration>,
}

#[derive(Debug)]
struct Open {
    request: RequestId,
    /// The id in a form in which equal ones are equal; none for a notification and for null.
    key: Option<Arc<str>>,
    /// Its answer is on its way, and not complete.
    answered: bool,
}

/// Where in which batch's answer a request's own answer belongs.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub batch: u64,
    pub member: usize,
}

/// A member of the answer to a batch.
#[derive(Debug)]
pub enum Member {
    Empty,
    /// Of a notification: it does not stand in the answer.
    Silent,
    Whole(Vec<u8>),
    /// Its beginning; the rest comes from its source.
    Open(Vec<u8>, Source),
}

impl Member {
    fn bytes(&self) -> usize {
        match self {
            Member::Empty | Member::Silent => 0,
            Member::Whole(bytes) | Member::Open(bytes, _) => bytes.len(),
        }
    }
}

/// Where an answer belongs.
#[derive(Debug)]
pub struct Answered {
    pub token: Token,
    pub request: RequestId,
    /// As it was sent; none: nobody wants the answer.
    pub id: Option<Box<str>>,
    pub place: Option<Place>,
    /// Who has the rest of it, where there is more.
    pub source: Source,
}

impl Book {
    pub fn has_key(&self, key: &str) -> bool {
        self.open.iter().any(|open| !open.answered && open.key.as_deref() == Some(key))
    }

    pub fn asked(&mut self, request: RequestId, key: Option<Arc<str>>) {
        self.inflight += 1;
        self.open.push(Open { request, key, answered: false });
    }

    pub fn answered(&mut self, request: RequestId, more: bool) {
        let Some(at) = self.open.iter().position(|open| open.request == request) else { return };
        self.inflight -= 1;
        if more {
            self.open[at].answered = true;
        } else {
            self.open.swap_remove(at);
        }
    }

    /// The last piece of an answer has come.
    pub fn delivered(&mut self, request: RequestId) {
        self.open.retain(|open| open.request != request);
    }

    pub fn requests(&self) -> impl Iterator<Item = RequestId> {
        self.open.iter().map(|open| open.request)
    }

    pub fn begin_batch(&mut self, members: usize) -> u64 {
        self.next_batch += 1;
        self.batches.insert(self.next_batch, (0..members).map(|_| Member::Empty).collect());
        self.next_batch
    }

    pub fn fill(&mut self, at: Place, with: Member) {
        if let Some(place) = self.batches.get_mut(&at.batch).and_then(|members| members.get_mut(at.member)) {
            self.batched_bytes += with.bytes();
            *place = with;
        }
    }

    /// The parts of a batch's answer, once every member has its own; nothing at all for notifications alone.
    pub fn finished_batch(&mut self, batch: u64) -> Option<Vec<Part>> {
        if self.batches.get(&batch)?.iter().any(|member| matches!(member, Member::Empty)) {
            return None;
        }
        let mut parts = Vec::new();
        for member in self.batches.remove(&batch)? {
            self.batched_bytes -= member.bytes();
            let (bytes, source) = match member {
                Member::Empty | Member::Silent => continue,
                Member::Whole(bytes) => (bytes, None),
                Member::Open(bytes, source) => (bytes, Some(source)),
            };
            parts.push(Part::Bytes(if parts.is_empty() { b"[".to_vec() } else { b",".to_vec() }));
            parts.push(Part::Bytes(bytes));
            if let Some(source) = source {
                parts.push(Part::Pull(source));
                parts.push(Part::Bytes(b"}".to_vec()));
            }
        }
        if !parts.is_empty() {
            parts.push(Part::Bytes(b"]\n".to_vec()));
        }
        Some(parts)
    }
}
