//! The way of a request: is it one, may it come now, and who does it. Here is the one table of all calls.

use mio::Token;

use super::Desk;
use super::inflight::{Pending, Work};
use super::pace::Pace;
use crate::gateway::book::{Book, Place};
use crate::gateway::socket::Peer;
use crate::ids::RequestId;
use crate::message::ToWorker;
use crate::protocol::answer;
use crate::protocol::envelope::{Envelope, plain_id};
use crate::protocol::fault::{Fault, Reason};
use crate::protocol::request::{Call, Starts};

/// Who asks.
pub struct Asker<'a> {
    pub token: Token,
    pub peer: &'a Peer,
    pub book: &'a mut Book,
}

/// A request that is decided about.
pub(super) struct Asked<'a> {
    pub request: RequestId,
    pub token: Token,
    pub peer: &'a Peer,
    /// As it was sent; none: a notification.
    pub id: Option<&'a str>,
    pub in_batch: bool,
}

/// What was decided: the body of the answer, or who will find it.
pub(super) enum Decision {
    Now(Vec<u8>),
    Later(Work),
}

/// What became of a request at once.
#[derive(Debug, PartialEq, Eq)]
pub enum Routed {
    /// The answer was written.
    Answered,
    /// A notification: there will be none.
    Silent,
    /// Somebody works for it.
    Later,
}

impl Desk {
    /// Decides about a request; writes its answer, without a line end, if it can be given at once.
    pub fn route(&mut self, asker: &mut Asker, envelope: &Envelope, place: Option<Place>, out: &mut Vec<u8>) -> Routed {
        let Asker { token, peer, ref mut book } = *asker;
        let id = envelope.id;
        self.tally.requests_total += 1;
        let key = if book.inflight > 0 { id.and_then(plain_id) } else { None };
        if key.as_ref().is_some_and(|key| book.has_key(key)) {
            let fault = Fault::new(Reason::InvalidRequest, "the id is in flight on this connection already");
            return self.tell(Some("null"), &fault, out);
        }
        let call = match Call::parse(&envelope.method, envelope.params, &self.config) {
            Ok(call) => call,
            Err(fault) => {
                self.count_rejected(Starts::of_method(&envelope.method));
                return self.tell(id, &fault, out);
            }
        };
        if let Call::Ping = call {
            self.tally.ping.record(self.turn_began.elapsed().as_micros() as u64);
            return answer(id, PONG, out);
        }
        let starts = call.starts();
        let asked = Asked { request: self.next_request(), token, peer, id, in_batch: place.is_some() };
        match self.pace_and_decide(&asked, book, call) {
            Ok(Decision::Now(body)) => answer(id, &body, out),
            Ok(Decision::Later(work)) => {
                book.asked(asked.request, key.or_else(|| id.and_then(plain_id)));
                self.requests.insert(asked.request, Pending { token, id: id.map(Box::from), place, work });
                Routed::Later
            }
            Err(fault) => {
                self.count_rejected(starts);
                self.tell(id, &fault, out)
            }
        }
    }

    /// Whether a request is too early, by its client's rate; the control lane never is.
    fn pace_and_decide(&mut self, asked: &Asked, book: &mut Book, call: Call) -> Result<Decision, Fault> {
        if call.is_control() {
            return self.decide(asked, book, call);
        }
        self.check_params(asked, &call)?;
        match self.pace(asked.peer) {
            Pace::Now => self.decide(asked, book, call),
            Pace::After(delay) => self.hold(asked, call, delay),
            Pace::Never { retry_after_ms } => Err(Fault::rate_limited(retry_after_ms)),
        }
    }

    /// What is wrong with a call whatever the sessions are; it costs nothing of its client's rate.
    fn check_params(&self, asked: &Asked, call: &Call) -> Result<(), Fault> {
        match call {
            Call::Open(open) => self.ceilings.lowered(&open.limits).map(drop),
            Call::Run(run) if run.stream && asked.in_batch => {
                Err(Fault::field("stream", "cannot be asked for in a batch"))
            }
            Call::Run(run) => self.ceilings.lowered(&run.limits).map(drop),
            _ => Ok(()),
        }
    }

    /// Decides about a request whose time has come.
    pub(super) fn decide(&mut self, asked: &Asked, book: &mut Book, call: Call) -> Result<Decision, Fault> {
        match call {
            Call::Ping => Ok(Decision::Now(PONG.to_vec())),
            Call::Info => Ok(Decision::Now(self.info(asked.peer))),
            Call::Stats => Ok(self.ask_stats(asked.request)),
            Call::Subscribe { interval_ms } => self.subscribe(asked, book, interval_ms),
            Call::Unsubscribe => Ok(self.unsubscribe(asked, book)),
            Call::Drain => self.ask_drain(asked),
            Call::Open(open) => self.open(asked, book, *open),
            Call::Close(session) => self.close(asked, &session),
            Call::List => Ok(self.ask_sessions(asked)),
            Call::SessionInfo(session) => {
                self.ask_session(asked, &session, |request, session| ToWorker::Info { request, session })
            }
            Call::History { session, last } => {
                self.ask_session(asked, &session, |request, session| ToWorker::History { request, session, last })
            }
            Call::Run(run) => self.run_once(asked, run),
            Call::Exec { exec, order } => self.exec(asked, &exec, order),
            Call::Commands { session } => self.ask_commands(asked, session.as_ref()),
            Call::Limit(limit) => self.limit(asked, limit),
        }
    }

    pub(super) fn count_rejected(&mut self, starts: Starts) {
        match starts {
            Starts::Command => self.tally.commands_rejected += 1,
            Starts::Session => self.tally.sessions_rejected += 1,
            Starts::Nothing => {}
        }
    }

    fn tell(&mut self, id: Option<&str>, fault: &Fault, out: &mut Vec<u8>) -> Routed {
        self.count_error(fault);
        let Some(id) = id else { return Routed::Silent };
        answer::whole(id, out, |out| fault.encode(out));
        Routed::Answered
    }

    /// The answer to a line or a member of a batch that is no request: always told, for there is no telling whether it
    /// wanted an answer.
    pub fn refuse_line(&mut self, id: Option<&str>, fault: &Fault, out: &mut Vec<u8>) {
        self.tally.requests_total += 1;
        self.tell(Some(id.unwrap_or("null")), fault, out);
    }

    pub(super) fn count_error(&mut self, fault: &Fault) {
        self.tally.errors[fault.reason as usize] += 1;
    }

    /// The body of a refusal that was not told at once.
    pub fn refused(&mut self, fault: &Fault, out: &mut Vec<u8>) {
        self.count_error(fault);
        fault.encode(out);
    }

    pub(super) fn next_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }
}

/// The body of the answer to `system.ping`, which is asked for more often than anything else.
const PONG: &[u8] = b"\"result\":{\"pong\":true}";

/// Answers a request at once.
fn answer(id: Option<&str>, body: &[u8], out: &mut Vec<u8>) -> Routed {
    let Some(id) = id else { return Routed::Silent };
    answer::whole(id, out, |out| out.extend_from_slice(body));
    Routed::Answered
}
