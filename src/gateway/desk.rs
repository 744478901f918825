//! Where requests are decided: who may ask for what, whether there is room for it, and which worker does it. Holds the
//! sessions and commands as far as admission needs to know them, and the requests in flight.

mod admission;
mod buffers;
mod execs;
mod headroom;
mod inflight;
mod pace;
mod queue;
mod quotas;
mod reload;
mod retries;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Token;
use serde_json::value::RawValue;

use self::execs::Execs;
pub use self::inflight::{Answered, Settled};
use self::inflight::{Pending, Work};
use self::pace::Pace;
use self::queue::Waiter;
use self::quotas::Changes;
pub use self::quotas::Quotas;
use self::retries::Keyed;
use super::connection::{Book, Connection, Peer};
use crate::admission::budget::Spent;
use crate::admission::buffers::{Account, Accounts};
use crate::admission::headroom::Headroom;
use crate::admission::queue::Queue;
use crate::admission::quota::{Claim, Ledger};
use crate::admission::rate::Limiter;
use crate::admission::slots::Slots;
use crate::config::Config;
use crate::deadlines::Deadlines;
use crate::ids::{ClientName, ExecId, RequestId, SessionId};
use crate::mailbox::Mailbox;
use crate::message::{ToGateway, ToReaper, ToStats, ToWorker};
use crate::process::errands::Errand;
use crate::protocol::budget::Budget;
use crate::protocol::encode::{self, Object};
use crate::protocol::envelope::Envelope;
use crate::protocol::fault::{Fault, Reason};
use crate::protocol::json;
use crate::protocol::limits::Limits;
use crate::protocol::request::{Call, SessionRef, Starts};
use crate::runtime::reload::Report;
use crate::stats::Tally;
use crate::worker::Relief;

/// What the desk is given at the start.
pub struct Links {
    pub workers: Vec<Mailbox<ToWorker>>,
    pub reaper: Mailbox<ToReaper>,
    pub stats: crossbeam_channel::Sender<ToStats>,
    /// The memory for what is held for clients.
    pub buffers: Account,
    pub relief: Arc<Relief>,
    pub own: Mailbox<ToGateway>,
}

pub struct Desk {
    config: Arc<Config>,
    ceilings: Limits,
    /// What `system.info` tells that only a reload changes, as JSON members.
    about: Vec<u8>,
    last_reload: Option<Report>,
    workers: Vec<Mailbox<ToWorker>>,
    reaper: Mailbox<ToReaper>,
    stats: crossbeam_channel::Sender<ToStats>,
    relief: Arc<Relief>,
    own: Mailbox<ToGateway>,
    slots: Slots,
    accounts: Accounts,
    headroom: Headroom,
    sessions: HashMap<SessionId, Entry>,
    /// Commands from the claim to the release of their slot.
    commands: HashMap<ExecId, Slot>,
    /// Those that have ended and may be asked for still, and the streams of those that go on by themselves.
    execs: Execs,
    requests: HashMap<RequestId, Pending>,
    /// Answers that are known, to requests that had to wait for them.
    settled: VecDeque<(RequestId, Settled)>,
    ledger: Ledger,
    changes: Changes,
    limiter: Option<Limiter>,
    /// Requests that wait for their time.
    held: Deadlines<RequestId>,
    queue: Queue<Waiter>,
    keyed: Keyed,
    /// How long commands wait at most.
    waits: Deadlines<RequestId>,
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
    claim: Claim,
    state: EntryState,
    running: u64,
    /// Commands at once: as configured when the first of those that run was claimed.
    commands_max: u64,
    budget: Budget,
    spent: Spent,
    /// The connection that it lives as long as.
    owner: Option<Token>,
    counted: bool,
}

impl Entry {
    /// Commands that may run in it at once. A command that was started alone in its session stays so, whatever is
    /// configured meanwhile.
    fn commands_max(&self, config: &Config) -> u64 {
        if self.running == 0 { config.commands.max_commands_per_session } else { self.commands_max }
    }

    /// BUDGET_EXHAUSTED where the session has used up what it was given; a command that runs counts already.
    fn within_budget(&self, id: SessionId, now: Instant) -> Result<(), Fault> {
        let spent = Spent { commands: self.spent.commands + self.running, ..self.spent };
        let over = spent.exhausted(&self.budget, now);
        over.map_or(Ok(()), |over| Err(Fault::budget_exhausted(id, over.resource, over.limit, over.usage)))
    }
}

/// What admission knows of a command.
struct Slot {
    session: SessionId,
    claim: Claim,
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum EntryState {
    Opening,
    Open,
    /// A command's own, without a name for others.
    Ephemeral,
    Closing,
}

/// A request that is decided about.
struct Asked<'a> {
    request: RequestId,
    token: Token,
    peer: &'a Peer,
    /// As it was sent; none: a notification.
    id: Option<&'a str>,
    in_batch: bool,
}

/// What was decided: the body of the answer, or who will find it.
enum Decision {
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
    pub fn new(config: Arc<Config>, about: Vec<u8>, quotas: Quotas, links: Links) -> Self {
        Desk {
            ceilings: Limits::of_config(&config.limits),
            slots: Slots::new(config.sessions.max_sessions, config.commands.max_commands),
            workers: links.workers,
            reaper: links.reaper,
            stats: links.stats,
            accounts: Accounts::new(links.buffers),
            headroom: Headroom::new(),
            relief: links.relief,
            own: links.own,
            sessions: HashMap::new(),
            commands: HashMap::new(),
            execs: Execs::default(),
            requests: HashMap::new(),
            settled: VecDeque::new(),
            ledger: quotas.ledger,
            changes: Changes::to(quotas.file),
            // The configuration was read, and with it the rate.
            limiter: Limiter::of_config(&config.rate).unwrap_or_default(),
            held: Deadlines::default(),
            queue: Queue::new(config.commands.max_queued as usize),
            waits: Deadlines::default(),
            keyed: Keyed::new(&config),
            config,
            about,
            last_reload: None,
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

    /// Has something done that may block.
    fn errand(&self, errand: Errand) {
        self.relief.errands.submit(errand);
        self.relief.watch();
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
            if let Some(pending) = self.requests.remove(&request) {
                self.unwanted(request, pending.work);
            }
        }
        self.unheard(token);
        for session in &connection.book.sessions {
            if let Some(entry) = self.sessions.get_mut(session) {
                entry.state = EntryState::Closing;
                entry.owner = None;
                let worker = entry.worker;
                self.tell_worker(worker, ToWorker::Abandon { session: *session });
            }
        }
    }

    /// Nobody can receive the answer to a request any more.
    fn unwanted(&mut self, request: RequestId, work: Work) {
        match work {
            Work::Command { exec, worker } => {
                self.tell_worker(worker, ToWorker::Cancel { exec });
                self.tell_worker(worker, ToWorker::Forget { request });
            }
            Work::Held(_) => self.held.clear(&request),
            Work::Queued(waiter) => drop(self.leave_queue(waiter)),
            Work::Keyed(run) => self.unwanted_keyed(request, run),
            // It may wait for something that comes in an hour.
            Work::Worker(worker) => self.tell_worker(worker, ToWorker::Forget { request }),
            Work::Stats | Work::Beat | Work::Gather { .. } | Work::Settled => {}
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
            Ok(Call::Ping) => {
                wrap(envelope.id, out, |out| out.extend_from_slice(b"\"result\":{\"pong\":true}"));
                self.tally.ping.record(self.turn_began.elapsed().as_micros() as u64);
                return routed(envelope.id);
            }
            Ok(call) => call,
            Err(fault) => {
                self.count_rejected(Starts::of_method(&envelope.method));
                return self.tell(envelope.id, &fault, out);
            }
        };
        let starts = call.starts();
        let asked = Asked { request: self.next_request(), token, peer, id: envelope.id, in_batch: place.is_some() };
        match self.pace_and_decide(&asked, book, call) {
            Ok(Decision::Now(body)) => {
                wrap(envelope.id, out, |out| out.extend_from_slice(&body));
                routed(envelope.id)
            }
            Ok(Decision::Later(work)) => {
                let key = key.or_else(|| envelope.id.and_then(canonical));
                book.asked(asked.request, key);
                let id = envelope.id.map(Box::from);
                self.requests.insert(asked.request, Pending { token, id, place, work });
                Routed::Later
            }
            Err(fault) => {
                self.count_rejected(starts);
                self.tell(envelope.id, &fault, out)
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
    fn decide(&mut self, asked: &Asked, book: &mut Book, call: Call) -> Result<Decision, Fault> {
        let now = |body: &[u8]| Ok(Decision::Now([b"\"result\":", body].concat()));
        match call {
            Call::Ping => now(b"{\"pong\":true}"),
            Call::Info => {
                let mut body = Vec::new();
                self.info(&mut body);
                Ok(Decision::Now(body))
            }
            Call::Drain if !asked.peer.admin => Err(Fault::new(Reason::Forbidden, "system.drain needs an admin")),
            Call::Drain => {
                self.reaper.tell(ToReaper::Drain);
                self.drain();
                now(b"{\"draining\":true}")
            }
            Call::Subscribe { .. } if asked.in_batch => {
                Err(Fault::new(Reason::InvalidParams, "system.subscribe cannot be asked for in a batch"))
            }
            Call::Subscribe { interval_ms } => {
                let interval = Duration::from_millis(interval_ms);
                book.subscription = Some(interval);
                self.beats.set(asked.token, self.turn_began + interval);
                now(b"{\"subscribed\":true}")
            }
            Call::Unsubscribe => {
                book.subscription = None;
                self.beats.clear(&asked.token);
                now(b"{}")
            }
            Call::Stats => {
                self.ask_stats(asked.request);
                Ok(Decision::Later(Work::Stats))
            }
            Call::List => Ok(self.ask_list(asked)),
            Call::SessionInfo(session) => {
                self.ask_session(asked, &session, |request, session| ToWorker::Info { request, session })
            }
            Call::History { session, last } => {
                self.ask_session(asked, &session, |request, session| ToWorker::History { request, session, last })
            }
            Call::Close(session) => self.close(asked, &session),
            Call::Exec { exec, order } => self.exec(asked, &exec, order),
            Call::Commands { session } => self.ask_commands(asked, session.as_ref()),
            Call::Open(open) => self.open(asked, book, *open),
            Call::Run(run) => self.run_once(asked, run),
            Call::Limit(limit) => self.limit(asked, limit),
        }
    }

    fn count_rejected(&mut self, starts: Starts) {
        match starts {
            Starts::Command => self.tally.commands_rejected += 1,
            Starts::Session => self.tally.sessions_rejected += 1,
            Starts::Nothing => {}
        }
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

    /// The body of a refusal that was not told at once.
    pub fn refused(&mut self, fault: &Fault, out: &mut Vec<u8>) {
        self.count_error(fault);
        fault.encode(out);
    }

    fn next_request(&mut self) -> RequestId {
        self.last_request += 1;
        RequestId(self.last_request)
    }

    fn ask_stats(&mut self, request: RequestId) {
        let mut tally = Box::new(std::mem::take(&mut self.tally));
        tally.connections_current = self.connections;
        // The statistics answer to whoever asks, so their queue is as long as requests can be in flight.
        let _ = self.stats.send(ToStats::Snapshot { request, tally });
    }

    fn ask_list(&mut self, asked: &Asked) -> Decision {
        let client = (!asked.peer.admin).then(|| asked.peer.client.clone());
        for worker in &self.workers {
            worker.tell(ToWorker::List { request: asked.request, client: client.clone() });
        }
        Decision::Later(Work::Gather { of: "sessions", missing: self.workers.len(), parts: Vec::new() })
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
        asked: &Asked,
        session: &SessionRef,
        message: impl FnOnce(RequestId, SessionId) -> ToWorker,
    ) -> Result<Decision, Fault> {
        let (id, entry) = self.session(asked.peer, session)?;
        let worker = entry.worker;
        self.tell_worker(worker, message(asked.request, id));
        Ok(Decision::Later(Work::Worker(worker)))
    }

    fn close(&mut self, asked: &Asked, session: &SessionRef) -> Result<Decision, Fault> {
        let closing = self.ask_session(asked, session, |request, session| ToWorker::Close { request, session })?;
        if let Some((id, entry)) = session.id.and_then(|id| Some((id, self.sessions.get_mut(&id)?))) {
            entry.state = EntryState::Closing;
            self.refuse_waiters_of(id);
        }
        Ok(closing)
    }

    /// No new session, no new command, and nobody waits for one.
    pub fn drain(&mut self) {
        self.draining = true;
        self.refuse_waiters(&Fault::shutting_down(), |_| true);
    }

    /// When something is due here.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let keys = self.keyed.retries.expires_at_ms().map(|at| self.start + Duration::from_millis(at));
        let keys = keys.map(|at| at.saturating_duration_since(now));
        [self.beats.wait(now), self.held.wait(now), self.waits.wait(now), keys].into_iter().flatten().min()
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
        reload::encode(self.last_reload.as_ref(), &mut info);
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
