//! Where requests are decided: who may ask for what, whether there is room for it, and which worker does it. Holds the
//! sessions and commands as far as admission needs to know them, and the requests in flight.

mod admission;
mod inflight;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Token;
use serde_json::value::RawValue;

pub use self::inflight::Answered;
use self::inflight::{Pending, Work};
use super::connection::{Book, Connection, Peer};
use crate::admission::slots::Slots;
use crate::config::Config;
use crate::deadlines::Deadlines;
use crate::ids::{ClientName, ExecId, RequestId, SessionId};
use crate::mailbox::Mailbox;
use crate::message::{ToReaper, ToStats, ToWorker};
use crate::protocol::encode::{self, Object};
use crate::protocol::envelope::Envelope;
use crate::protocol::fault::{Fault, Reason};
use crate::protocol::json;
use crate::protocol::limits::Limits;
use crate::protocol::request::{Call, ExecRef, SessionRef};
use crate::stats::Tally;

/// What the desk is given at the start.
pub struct Links {
    pub workers: Vec<Mailbox<ToWorker>>,
    pub reaper: Mailbox<ToReaper>,
    pub stats: crossbeam_channel::Sender<ToStats>,
}

pub struct Desk {
    config: Config,
    ceilings: Limits,
    /// What `system.info` tells that never changes, as JSON members.
    about: Vec<u8>,
    workers: Vec<Mailbox<ToWorker>>,
    reaper: Mailbox<ToReaper>,
    stats: crossbeam_channel::Sender<ToStats>,
    slots: Slots,
    sessions: HashMap<SessionId, Entry>,
    /// Commands by their session, from the claim to the release of their slot.
    commands: HashMap<ExecId, SessionId>,
    requests: HashMap<RequestId, Pending>,
    last_session: u64,
    last_exec: u64,
    last_request: u64,
    connections: u64,
    tally: Tally,
    /// When which subscriber gets its statistics.
    pub beats: Deadlines<Token>,
    start: Instant,
    pub turn_began: Instant,
    pub draining: bool,
}

/// What admission knows of a session.
struct Entry {
    worker: usize,
    client: ClientName,
    limits: Limits,
    place: u32,
    state: EntryState,
    running: u64,
    /// The connection that it lives as long as.
    owner: Option<Token>,
    counted: bool,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum EntryState {
    Opening,
    Open,
    /// A command's own, without a name for others.
    Ephemeral,
    Closing,
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
    pub fn new(config: &Config, about: Vec<u8>, links: Links) -> Self {
        Desk {
            ceilings: Limits::of_config(&config.limits),
            slots: Slots::new(config.sessions.max_sessions, config.commands.max_commands),
            config: config.clone(),
            about,
            workers: links.workers,
            reaper: links.reaper,
            stats: links.stats,
            sessions: HashMap::new(),
            commands: HashMap::new(),
            requests: HashMap::new(),
            last_session: 0,
            last_exec: 0,
            last_request: 0,
            connections: 0,
            tally: Tally::default(),
            beats: Deadlines::default(),
            start: Instant::now(),
            turn_began: Instant::now(),
            draining: false,
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn reaper(&self) -> &Mailbox<ToReaper> {
        &self.reaper
    }

    pub fn tell_worker(&self, worker: usize, message: ToWorker) {
        self.workers[worker].tell(message);
    }

    // Connections.

    /// Whether there is room for one more connection; some places are for the Unix socket alone.
    pub fn admit(&mut self, unix: bool) -> Result<(), Fault> {
        let config = &self.config.connections;
        let reserved = if unix || self.config.unix_socket.is_none() { 0 } else { config.reserved_connections };
        self.tally.connections_total += 1;
        if self.connections >= config.max_connections.saturating_sub(reserved) {
            self.tally.connections_rejected += 1;
            let fault = Fault::capacity("connections", config.max_connections, self.connections);
            self.count_error(&fault);
            return Err(fault);
        }
        self.connections += 1;
        Ok(())
    }

    pub fn connection_gone(&mut self) {
        self.connections -= 1;
    }

    /// A client is gone: its commands are cancelled, its sessions closed, its answers forgotten.
    pub fn disconnected(&mut self, token: Token, connection: &Connection) {
        self.beats.clear(&token);
        for request in connection.book.requests() {
            match self.requests.remove(&request).map(|pending| pending.work) {
                Some(Work::Command { exec, worker }) => {
                    self.tell_worker(worker, ToWorker::Cancel { exec });
                    self.tell_worker(worker, ToWorker::Forget { request });
                }
                Some(Work::Worker(_) | Work::Stats | Work::Beat | Work::Gather { .. }) | None => {}
            }
        }
        for session in &connection.book.sessions {
            if let Some(entry) = self.sessions.get_mut(session) {
                entry.state = EntryState::Closing;
                entry.owner = None;
                let worker = entry.worker;
                self.tell_worker(worker, ToWorker::Abandon { session: *session });
            }
        }
    }

    // Requests.

    /// Decides about a request; writes its answer, without a line end, if it can be given at once.
    pub fn route(
        &mut self,
        token: Token,
        peer: &Peer,
        book: &mut Book,
        envelope: &Envelope,
        place: Option<(u64, usize)>,
        out: &mut Vec<u8>,
    ) -> Routed {
        self.tally.requests_total += 1;
        let key = envelope.id.and_then(|id| if book.inflight > 0 { canonical(id) } else { None });
        if let Some(key) = &key
            && book.has_key(key)
        {
            let fault = Fault::new(Reason::InvalidRequest, "the id is in flight on this connection already");
            return self.tell(Some("null"), &fault, out);
        }
        let call = match Call::parse(&envelope.method, envelope.params, &self.config) {
            Ok(call) => call,
            Err(fault) => return self.reject(envelope, &fault, out),
        };
        let decided = match call {
            Call::Ping => {
                wrap(envelope.id, out, |out| out.extend_from_slice(b"\"result\":{\"pong\":true}"));
                self.tally.ping.record(self.turn_began.elapsed().as_micros() as u64);
                return routed(envelope.id);
            }
            Call::Info => {
                wrap(envelope.id, out, |out| self.info(out));
                return routed(envelope.id);
            }
            Call::Drain if !peer.admin => Err(Fault::new(Reason::Forbidden, "system.drain needs an admin")),
            Call::Drain => {
                self.draining = true;
                self.reaper.tell(ToReaper::Drain);
                wrap(envelope.id, out, |out| out.extend_from_slice(b"\"result\":{\"draining\":true}"));
                return routed(envelope.id);
            }
            Call::Subscribe { .. } if place.is_some() => {
                Err(Fault::new(Reason::InvalidParams, "system.subscribe cannot be asked for in a batch"))
            }
            Call::Subscribe { interval_ms } => {
                let interval = Duration::from_millis(interval_ms);
                book.subscription = Some(interval);
                self.beats.set(token, self.turn_began + interval);
                wrap(envelope.id, out, |out| out.extend_from_slice(b"\"result\":{\"subscribed\":true}"));
                return routed(envelope.id);
            }
            Call::Unsubscribe => {
                book.subscription = None;
                self.beats.clear(&token);
                wrap(envelope.id, out, |out| out.extend_from_slice(b"\"result\":{}"));
                return routed(envelope.id);
            }
            Call::Stats => Ok(self.ask_stats()),
            Call::List => Ok(self.ask_list(peer)),
            Call::SessionInfo(session) => {
                self.ask_session(peer, &session, |request, session| ToWorker::Info { request, session })
            }
            Call::History { session, last } => {
                self.ask_session(peer, &session, |request, session| ToWorker::History { request, session, last })
            }
            Call::Close(session) => self.close(peer, &session),
            Call::Kill(exec) => self.kill(peer, &exec),
            Call::Open(open) => self.open(token, peer, book, *open),
            Call::Run(run) if run.stream && place.is_some() => {
                Err(Fault::field("stream", "cannot be asked for in a batch")).inspect_err(|_| drop(run))
            }
            Call::Run(run) => self.run(peer, envelope.id, *run),
        };
        match decided {
            Ok((request, work)) => {
                let key = key.or_else(|| envelope.id.and_then(canonical));
                book.asked(request, key);
                let id = envelope.id.map(Box::from);
                self.requests.insert(request, Pending { token, id, place, work });
                Routed::Later
            }
            Err(fault) => self.reject(envelope, &fault, out),
        }
    }

    /// A request that changes nothing; what it would have started is counted as rejected.
    fn reject(&mut self, envelope: &Envelope, fault: &Fault, out: &mut Vec<u8>) -> Routed {
        match &*envelope.method {
            "exec.run" => self.tally.commands_rejected += 1,
            "session.open" => self.tally.sessions_rejected += 1,
            _ => {}
        }
        self.tell(envelope.id, fault, out)
    }

    fn tell(&mut self, id: Option<&str>, fault: &Fault, out: &mut Vec<u8>) -> Routed {
        self.count_error(fault);
        wrap(id, out, |out| fault.encode(out));
        routed(id)
    }

    /// The answer to a line or a member of a batch that is no request: always told, for there is no telling whether it
    /// wanted an answer.
    pub fn refuse_line(&mut self, id: Option<&str>, fault: &Fault, out: &mut Vec<u8>) {
        self.tally.requests_total += 1;
        self.tell(Some(id.unwrap_or("null")), fault, out);
    }

    fn count_error(&mut self, fault: &Fault) {
        self.tally.errors[fault.reason as usize] += 1;
    }

    /// The body of a refusal that a worker made.
    pub fn refused(&mut self, fault: &Fault, out: &mut Vec<u8>) {
        self.count_error(fault);
        fault.encode(out);
    }

    fn next_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    fn ask_stats(&mut self) -> (RequestId, Work) {
        let request = self.next_request();
        let mut tally = Box::new(std::mem::take(&mut self.tally));
        tally.connections_current = self.connections;
        // The statistics answer to whoever asks, so their queue is as long as requests can be in flight.
        let _ = self.stats.send(ToStats::Snapshot { request, tally });
        (request, Work::Stats)
    }

    fn ask_list(&mut self, peer: &Peer) -> (RequestId, Work) {
        let request = self.next_request();
        let client = (!peer.admin).then(|| peer.client.clone());
        for worker in &self.workers {
            worker.tell(ToWorker::List { request, client: client.clone() });
        }
        (request, Work::Gather { missing: self.workers.len(), parts: Vec::new() })
    }

    /// The session that a client means, unless it is closed, unknown, or another client's: one and the same answer.
    fn session(&mut self, peer: &Peer, session: &SessionRef) -> Result<(SessionId, &mut Entry), Fault> {
        let seen =
            |entry: &&mut Entry| matches!(entry.state, EntryState::Open) && (peer.admin || entry.client == peer.client);
        session
            .id
            .and_then(|id| self.sessions.get_mut(&id).filter(seen).map(|entry| (id, entry)))
            .ok_or_else(|| Fault::session_not_found(&session.text))
    }

    fn ask_session(
        &mut self,
        peer: &Peer,
        session: &SessionRef,
        message: impl FnOnce(RequestId, SessionId) -> ToWorker,
    ) -> Result<(RequestId, Work), Fault> {
        let (id, entry) = self.session(peer, session)?;
        let worker = entry.worker;
        let request = self.next_request();
        self.tell_worker(worker, message(request, id));
        Ok((request, Work::Worker(worker)))
    }

    fn close(&mut self, peer: &Peer, session: &SessionRef) -> Result<(RequestId, Work), Fault> {
        let asked = self.ask_session(peer, session, |request, session| ToWorker::Close { request, session })?;
        if let Some(entry) = session.id.and_then(|id| self.sessions.get_mut(&id)) {
            entry.state = EntryState::Closing;
        }
        Ok(asked)
    }

    fn kill(&mut self, peer: &Peer, exec: &ExecRef) -> Result<(RequestId, Work), Fault> {
        let found = exec.id.and_then(|id| {
            let entry = self.sessions.get(self.commands.get(&id)?)?;
            (peer.admin || entry.client == peer.client).then_some((id, entry.worker))
        });
        let (id, worker) = found.ok_or_else(|| Fault::exec_not_found(&exec.text))?;
        let request = self.next_request();
        self.tell_worker(worker, ToWorker::Kill { request, exec: id });
        Ok((request, Work::Worker(worker)))
    }

    pub fn no_command_runs(&self) -> bool {
        self.slots.commands() == 0
    }

    fn info(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\"result\":");
        let mut info = Object::begin(out);
        info.str("name", "cofferdam");
        info.str("version", env!("CARGO_PKG_VERSION"));
        info.int("protocol", 1);
        info.int("pid", std::process::id());
        info.int("uptime_ms", self.start.elapsed().as_millis() as u64);
        info.end();
        out.pop();
        out.push(b',');
        out.extend_from_slice(&self.about);
        out.push(b'}');
    }
}

/// An answer around its body; nothing for a notification.
fn wrap(id: Option<&str>, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let Some(id) = id else { return };
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id.as_bytes());
    out.push(b',');
    body(out);
    out.push(b'}');
}

fn routed(id: Option<&str>) -> Routed {
    if id.is_some() { Routed::Answered } else { Routed::Silent }
}

/// An id in a form in which equal ones are equal; null is nobody's.
fn canonical(id: &str) -> Option<Arc<str>> {
    match id.as_bytes().first()? {
        b'n' => None,
        b'"' if id.contains('\\') => {
            let raw: &RawValue = serde_json::from_str(id).ok()?;
            let mut plain = Vec::new();
            encode::string(&mut plain, &json::text(raw)?);
            String::from_utf8(plain).ok().map(Arc::from)
        }
        b'"' => Some(Arc::from(id)),
        _ => Some(Arc::from(id.parse::<i64>().ok()?.to_string())),
    }
}
