//! Where requests are decided: who may ask for what, whether there is room for it, and which worker does it. Holds the
//! sessions and commands as far as admission needs to know them, and the requests in flight.

mod admission;
mod asking;
mod beats;
mod buffers;
mod descriptors;
mod entries;
mod execs;
mod headroom;
mod inflight;
mod info;
mod leftovers;
mod pace;
mod queue;
mod quotas;
mod reload;
mod retries;
mod routing;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Token;

use self::entries::{Entry, EntryState, Slot};
use self::execs::Execs;
pub use self::inflight::Settled;
use self::inflight::{Pending, Work};
use self::leftovers::Leftovers;
pub use self::leftovers::uids_ahead;
use self::queue::Waiter;
use self::quotas::Changes;
pub use self::quotas::Quotas;
use self::retries::Keyed;
use self::routing::{Asked, Decision};
pub use self::routing::{Asker, Routed};
use super::book::Book;
use super::socket::Peer;
use crate::admission::buffers::{Account, Accounts, Share};
use crate::admission::descriptors::Descriptors;
use crate::admission::headroom::Headroom;
use crate::admission::queue::Queue;
use crate::admission::quota::Ledger;
use crate::admission::rate::Limiter;
use crate::admission::slots::Slots;
use crate::config::Config;
use crate::deadlines::Deadlines;
use crate::ids::{ClientName, ExecId, RequestId, SessionId};
use crate::mailbox::Mailbox;
use crate::message::{ToGateway, ToReaper, ToStats, ToWorker};
use crate::process::errands::Errand;
use crate::process::workspace::Workspaces;
use crate::protocol::answer;
use crate::protocol::fault::{Fault, Reason};
use crate::protocol::limits::Limits;
use crate::runtime::About;
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
    /// The first uid of sessions, and how many there are, where each has its own.
    pub uids: Option<(u32, u32)>,
    pub workspaces: Arc<Workspaces>,
    pub descriptors: Descriptors,
    pub relief: Arc<Relief>,
    pub own: Mailbox<ToGateway>,
}

pub struct Desk {
    config: Arc<Config>,
    ceilings: Limits,
    /// What `system.info` tells that only a reload changes.
    about: About,
    last_reload: Option<Report>,
    workers: Vec<Mailbox<ToWorker>>,
    reaper: Mailbox<ToReaper>,
    stats: crossbeam_channel::Sender<ToStats>,
    relief: Arc<Relief>,
    own: Mailbox<ToGateway>,
    slots: Slots,
    uid_base: u32,
    leftovers: Leftovers,
    accounts: Accounts,
    descriptors: Descriptors,
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
    /// Of each client that has any.
    connections_of: HashMap<ClientName, u64>,
    tally: Tally,
    /// When which subscriber gets its statistics.
    beats: Deadlines<Token>,
    start: Instant,
    turn_began: Instant,
    draining: bool,
}

impl Desk {
    pub fn new(config: Arc<Config>, about: About, quotas: Quotas, links: Links) -> Self {
        Desk {
            ceilings: Limits::of_config(&config.limits),
            slots: Slots::new(config.sessions.max_sessions, config.commands.max_commands),
            uid_base: links.uids.map_or(0, |(base, _)| base),
            leftovers: Leftovers::new(links.uids.map(|(_, count)| count), links.workspaces),
            workers: links.workers,
            reaper: links.reaper,
            stats: links.stats,
            accounts: Accounts::new(links.buffers),
            descriptors: links.descriptors,
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
            connections_of: HashMap::new(),
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

    /// What is decided from now on is decided at this time.
    pub fn begin_turn(&mut self, now: Instant) {
        self.turn_began = now;
    }

    fn tell_worker(&self, worker: usize, message: ToWorker) {
        self.workers[worker].tell(message);
    }

    /// Has something done that may block.
    fn errand(&self, errand: Errand) {
        self.relief.errands.submit(errand);
        self.relief.watch();
    }

    // Connections.

    /// Takes one more connection in, or says why there is no room for it.
    pub fn admit(&mut self, peer: &Peer) -> Result<Share, Fault> {
        self.tally.connections_total += 1;
        let admitted = self.claim_connection(peer).inspect_err(|fault| {
            self.tally.connections_rejected += 1;
            self.count_error(fault);
        })?;
        self.connections += 1;
        *self.connections_of.entry(peer.client.clone()).or_default() += 1;
        Ok(admitted)
    }

    /// Some places are for the Unix socket alone, and nobody has all of them. The descriptor that it takes.
    fn claim_connection(&self, peer: &Peer) -> Result<Share, Fault> {
        let (config, client) = (&self.config.connections, &peer.client);
        let is_reserved = !peer.is_by_unix() && self.config.unix_socket.is_some();
        let reserved = if is_reserved { config.reserved_connections } else { 0 };
        if self.connections >= config.max_connections.saturating_sub(reserved) {
            return Err(Fault::capacity("connections", config.max_connections, self.connections));
        }
        let own = self.connections_of.get(client).copied().unwrap_or(0);
        if own >= config.max_connections_per_client {
            return Err(Fault::too_many_connections(client, config.max_connections_per_client, own));
        }
        self.descriptors.connection(peer.is_by_unix()).map_err(descriptors::refusal)
    }

    pub fn connection_gone(&mut self, client: &ClientName) {
        self.connections -= 1;
        if let Some(own) = self.connections_of.get_mut(client) {
            *own -= 1;
            if *own == 0 {
                self.connections_of.remove(client);
            }
        }
    }

    /// A client is gone: its commands are cancelled, its sessions closed, its answers forgotten.
    pub fn disconnected(&mut self, token: Token, book: &Book) {
        self.beats.clear(&token);
        for request in book.requests() {
            if let Some(pending) = self.requests.remove(&request) {
                self.unwanted(request, pending.work);
            }
        }
        self.unheard(token);
        for session in &book.sessions {
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

    fn ask_drain(&mut self, asked: &Asked) -> Result<Decision, Fault> {
        if !asked.peer.admin {
            return Err(Fault::new(Reason::Forbidden, "system.drain needs an admin"));
        }
        self.reaper.tell(ToReaper::Drain);
        self.drain();
        Ok(Decision::Now(answer::result(b"{\"draining\":true}")))
    }

    /// No new session, no new command, and nobody waits for one.
    pub fn drain(&mut self) {
        self.draining = true;
        self.refuse_waiters(&Fault::shutting_down(), |_| true);
        // Who waits for its time would hear nothing otherwise: what starts something is refused, the rest answered.
        self.held.hasten(self.turn_began);
    }

    /// When something is due here.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let keys = self.keyed.retries.expires_at_ms().map(|at| self.start + Duration::from_millis(at));
        let keys = keys.map(|at| at.saturating_duration_since(now));
        let leftovers = self.leftovers.due().map(|at| at.saturating_duration_since(now));
        [self.beats.wait(now), self.held.wait(now), self.waits.wait(now), keys, leftovers].into_iter().flatten().min()
    }

    pub fn no_command_runs(&self) -> bool {
        self.slots.commands() == 0
    }
}
