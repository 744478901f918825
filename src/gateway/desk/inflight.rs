//! The requests in flight: who works for each, and where its answer belongs.

use std::time::{Duration, Instant};

use mio::Token;

use super::Desk;
use crate::gateway::outbox::Source;
use crate::ids::{ExecId, RequestId};
use crate::message::ToWorker;

/// A request that somebody works for.
pub(super) struct Pending {
    pub token: Token,
    /// As it was sent; none: a notification.
    pub id: Option<Box<str>>,
    pub place: Option<(u64, usize)>,
    pub work: Work,
}

pub(super) enum Work {
    Command {
        exec: ExecId,
        worker: usize,
    },
    Worker(usize),
    Stats,
    /// Statistics for a subscriber, who did not ask for them one by one.
    Beat,
    /// Workers that have not sent their fragment, and what the others sent.
    Gather {
        missing: usize,
        parts: Vec<u8>,
    },
}

/// Where an answer belongs.
pub struct Answered {
    pub token: Token,
    pub request: RequestId,
    pub id: Option<Box<str>>,
    pub place: Option<(u64, usize)>,
    pub source: Source,
}

impl Desk {
    /// Asks for the statistics that a subscriber is due.
    pub fn beat(&mut self, token: Token, interval: Duration, now: Instant) {
        self.beats.set(token, now + interval);
        let (request, _) = self.ask_stats();
        self.requests.insert(request, Pending { token, id: None, place: None, work: Work::Beat });
    }

    /// The subscriber whose statistics these are, if it is one.
    pub fn beat_of(&mut self, request: RequestId) -> Option<Token> {
        let Work::Beat = self.requests.get(&request)?.work else { return None };
        self.requests.remove(&request).map(|pending| pending.token)
    }

    /// Where an answer belongs; none when nobody is there to take it, or wants it.
    pub fn answered(&mut self, request: RequestId, more: bool) -> Option<Answered> {
        let worker = match &self.requests.get(&request)?.work {
            Work::Command { worker, .. } | Work::Worker(worker) => *worker,
            Work::Stats | Work::Beat | Work::Gather { .. } => 0,
        };
        let source = (worker, request);
        let pending = self.requests.get_mut(&request)?;
        let (token, place) = (pending.token, pending.place);
        let id = pending.id.take();
        if !more {
            self.requests.remove(&request);
        } else if id.is_none() {
            self.requests.remove(&request);
            self.tell_worker(worker, ToWorker::Forget { request });
        }
        Some(Answered { token, request, id, place, source })
    }

    /// Whose outbox has asked for a piece.
    pub fn pulled_by(&mut self, request: RequestId, more: bool) -> Option<Token> {
        let token = self.requests.get(&request)?.token;
        if !more {
            self.requests.remove(&request);
        }
        Some(token)
    }

    /// Whose stream it is, and the worker that waits for it to be taken.
    pub fn stream_of(&self, request: RequestId) -> Option<(Token, usize)> {
        let pending = self.requests.get(&request)?;
        match pending.work {
            Work::Command { worker, .. } => Some((pending.token, worker)),
            Work::Worker(_) | Work::Stats | Work::Beat | Work::Gather { .. } => None,
        }
    }

    /// A worker's share of an answer; the whole, when it was the last.
    pub fn gathered(&mut self, request: RequestId, body: &[u8]) -> Option<Vec<u8>> {
        let Work::Gather { missing, parts } = &mut self.requests.get_mut(&request)?.work else { return None };
        if !body.is_empty() {
            if !parts.is_empty() {
                parts.push(b',');
            }
            parts.extend_from_slice(body);
        }
        *missing -= 1;
        if *missing > 0 {
            return None;
        }
        let mut whole = b"\"result\":{\"sessions\":[".to_vec();
        whole.append(parts);
        whole.extend_from_slice(b"]}");
        Some(whole)
    }
}
