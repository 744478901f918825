//! The requests in flight: who works for each, and where its answer belongs.

use mio::Token;

use super::Desk;
use super::execs::Heard;
use super::pace::Held;
use crate::admission::queue::Ticket;
use crate::admission::retry::RunId;
use crate::gateway::book::{Answered, Place};
use crate::gateway::outbox::Source;
use crate::ids::{ExecId, RequestId};
use crate::message::ToWorker;
use crate::protocol::answer;
use crate::protocol::fault::Fault;

/// A request that somebody works for.
pub(super) struct Pending {
    pub token: Token,
    /// As it was sent; none: a notification.
    pub id: Option<Box<str>>,
    pub place: Option<Place>,
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
    /// Waits for its time.
    Held(Box<Held>),
    /// Waits for a slot.
    Queued(Ticket),
    /// Waits for the record of the command that runs for its retry key.
    Keyed(RunId),
    /// Its answer is known, or comes when something is saved.
    Settled,
    /// Workers that have not sent their fragment, and what the others sent.
    Gather {
        /// The field that they stand in.
        of: &'static str,
        missing: usize,
        parts: Vec<u8>,
    },
}

/// An answer that is known, to a request that had to wait for it.
pub enum Settled {
    Body(Vec<u8>),
    Refused(Fault),
}

impl Desk {
    /// Where an answer belongs; none when nobody is there to take it, or wants it.
    pub fn answered(&mut self, request: RequestId, more: bool) -> Option<Answered> {
        let worker = match &self.requests.get(&request)?.work {
            Work::Command { worker, .. } | Work::Worker(worker) => *worker,
            _ => 0,
        };
        let source = (worker, request);
        let pending = self.requests.get_mut(&request)?;
        let (token, place) = (pending.token, pending.place);
        let id = pending.id.take();
        if let Work::Command { exec, worker } = pending.work
            && !more
        {
            self.execs.may_stream(request, Heard { token, exec, worker }, self.commands.contains_key(&exec));
        }
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
        let Some(pending) = self.requests.get(&request) else { return self.execs.stream_of(request) };
        match (&pending.work, self.keyed.work(request)) {
            (Work::Command { worker, .. }, _) | (Work::Keyed(_), Some(Work::Command { worker, .. })) => {
                Some((pending.token, *worker))
            }
            _ => self.execs.stream_of(request),
        }
    }

    /// The answer to a request that was taken in is known.
    pub(super) fn settle(&mut self, request: RequestId, answer: Settled) {
        if let Some(pending) = self.requests.get_mut(&request) {
            pending.work = Work::Settled;
            self.settled.push_back((request, answer));
        }
    }

    /// Somebody is about to answer: a worker, the statistics, or whoever saves a limit. What waits for its time, or for
    /// a command that could not be ended, is not waited for.
    pub fn answers_come(&self) -> bool {
        let comes = |work: &Work| matches!(work, Work::Worker(_) | Work::Stats | Work::Gather { .. } | Work::Settled);
        self.requests.values().any(|pending| comes(&pending.work))
    }

    /// The next answer that is known, and not told.
    pub fn next_settled(&mut self) -> Option<(RequestId, Settled)> {
        self.settled.pop_front()
    }

    /// The socket has taken the last piece of an answer or a stream: its worker may send the next.
    pub fn go_on(&self, (worker, request): Source) {
        self.tell_worker(worker, ToWorker::More { request });
    }

    /// A worker's share of an answer; the whole, when it was the last.
    pub fn gathered(&mut self, request: RequestId, body: &[u8]) -> Option<Vec<u8>> {
        let Work::Gather { of, missing, parts } = &mut self.requests.get_mut(&request)?.work else { return None };
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
        let list = [b"[", parts.as_slice(), b"]"].concat();
        Some(answer::object(|result| result.raw(of, &list)))
    }
}
