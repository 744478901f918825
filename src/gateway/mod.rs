//! Runs on `gateway`. Owns the listeners, the connections and their framing, admission, and the requests in flight.
//! Blocks in its poll alone; never touches a pid, and never encodes what a command has written.

mod answers;
mod book;
mod connection;
mod desk;
mod holding;
mod lines;
mod listener;
mod memory;
mod outbox;
mod serving;
mod socket;

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Interest, Poll, Token};

use self::connection::{Connection, READ_BYTES};
pub use self::desk::{Desk, Links, Quotas, uids_ahead};
use self::listener::turn_away;
pub use self::listener::{ListenError, Listeners};
use self::memory::FreeMemory;
use self::socket::{Peer, Socket};
use crate::mailbox::Inbox;
use crate::message::{ToGateway, ToReaper};
use crate::runtime::reload::Reloaded;

/// Token of the mailbox; the listeners have the two before it, connections count up from 0.
pub const INBOX: Token = Token(usize::MAX);
/// Messages of one turn.
const MESSAGES_A_TURN: usize = 1024;
/// Connections that get a turn before the poll is looked at again.
const CONNECTIONS_A_TURN: usize = 256;

pub struct Gateway {
    poll: Poll,
    inbox: Inbox<ToGateway>,
    /// None: the daemon is draining.
    listeners: Option<Listeners>,
    connections: HashMap<Token, Connection>,
    next_token: usize,
    /// Connections to look at in this turn; each stands here once.
    active: VecDeque<Token>,
    desk: Desk,
    scratch: Vec<u8>,
    next_tick: Option<Instant>,
    /// The connection whose line is read on though there is no memory for it.
    finishing: Option<Token>,
    stop_by: Option<Instant>,
    memory: FreeMemory,
}

impl Gateway {
    pub fn new(poll: Poll, inbox: Inbox<ToGateway>, listeners: Listeners, desk: Desk) -> Self {
        Gateway {
            poll,
            inbox,
            listeners: Some(listeners),
            connections: HashMap::new(),
            next_token: 0,
            active: VecDeque::new(),
            desk,
            scratch: vec![0; READ_BYTES],
            next_tick: None,
            finishing: None,
            stop_by: None,
            memory: FreeMemory::default(),
        }
    }

    pub fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        loop {
            let timeout = self.timeout();
            if let Err(error) = self.poll.poll(&mut events, timeout)
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                log::error!("the gateway cannot poll: {error}");
            }
            let now = Instant::now();
            if events.is_empty() && self.active.is_empty() {
                self.memory.rest(now);
            }
            self.desk.begin_turn(now);
            self.drain_inbox();
            for event in &events {
                self.see(event);
            }
            self.accept(now);
            for _ in 0..self.active.len().min(CONNECTIONS_A_TURN) {
                let Some(token) = self.active.pop_front() else { break };
                self.serve(token, now);
            }
            self.decide_due(now);
            self.tick(now);
            self.tell_settled();
            self.memory.look(self.desk.buffers().used(), now);
            if self.stop_by.is_some_and(|by| now >= by || self.nothing_to_say()) {
                self.desk.reaper().tell(ToReaper::Delivered);
                return;
            }
        }
    }

    fn see(&mut self, event: &Event) {
        match event.token() {
            INBOX => {}
            token if Listeners::owns(token) => {
                if let Some(listeners) = &mut self.listeners {
                    listeners.ready(token);
                }
            }
            token => self.on_connection(token, |connection| {
                connection.readable |= event.is_readable() || event.is_read_closed();
                connection.writable |= event.is_writable();
                connection.hung_up |= event.is_error() || event.is_write_closed();
            }),
        }
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.active.is_empty() {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let resume = self.listeners.as_ref().and_then(Listeners::resume_at);
        let wait = [self.next_tick, resume, self.stop_by].into_iter().flatten().min();
        let wait = wait.map(|at| at.saturating_duration_since(now));
        [wait, self.desk.wait(now), self.memory.wait(now)].into_iter().flatten().min()
    }

    fn drain_inbox(&mut self) {
        self.inbox.disarm();
        for _ in 0..MESSAGES_A_TURN {
            let Some(message) = self.inbox.next() else { return };
            self.on(message);
        }
        self.inbox.rearm();
    }

    fn on(&mut self, message: ToGateway) {
        match message {
            ToGateway::Kept { request, told } => self.desk.kept(request, &told),
            ToGateway::LimitsSaved { saved } => self.desk.limits_saved(saved),
            ToGateway::Adopt { stream } => self.adopt(stream),
            ToGateway::Drain => self.drain(),
            ToGateway::Reload(reloaded) => self.reload(*reloaded),
            ToGateway::Stop { deadline } => self.stop_by = Some(deadline),
            ToGateway::CommandGone { exec, session, end } => {
                self.desk.command_gone(exec, session, end);
                self.tell_drained();
            }
            ToGateway::CommandKept { exec } => self.desk.command_kept(exec),
            ToGateway::CommandForgotten { exec } => self.desk.command_forgotten(exec),
            ToGateway::CommandStarted { exec } => self.desk.command_started(exec),
            ToGateway::SessionOpened { session } => self.desk.session_opened(session),
            ToGateway::UidsPrepared { count, unusable } => self.desk.uids_prepared(count, &unusable),
            ToGateway::CleanedUp { cleaned, sessions } => self.desk.cleaned_up(&cleaned, sessions),
            ToGateway::SessionGone { session, idle, left } => {
                let owner = self.desk.session_gone(session, idle, left);
                let owner = owner.and_then(|token| self.connections.get_mut(&token));
                if let Some(connection) = owner {
                    connection.book.sessions.retain(|owned| *owned != session);
                }
            }
            ToGateway::Answer { request, body, more } => self.answer(request, &body, more),
            ToGateway::Refused { request, fault } => self.desk.refuse(request, fault),
            ToGateway::Fragment { request, body } => {
                if let Some(body) = self.desk.gathered(request, &body) {
                    self.answer(request, &body, false);
                }
            }
            ToGateway::Piece { request, body, more } => self.piece(request, body, more),
            ToGateway::Stream { request, line, share } => {
                if let Some((token, worker)) = self.desk.stream_of(request) {
                    self.on_connection(token, |connection| {
                        connection.outbox.stream_line(line, (worker, request), share);
                    });
                }
            }
        }
    }

    /// Carries out what waited for its time.
    fn decide_due(&mut self, now: Instant) {
        while let Some(token) = self.desk.next_beat(now) {
            let Some(connection) = self.connections.get(&token) else { continue };
            let Some(interval) = connection.book.subscription else { continue };
            // Who does not read gets none; the next one counts from now.
            self.desk.beat(token, interval, now, connection.may_take_request());
        }
        while let Some((request, token)) = self.desk.next_held(now) {
            if let Some(connection) = self.connections.get_mut(&token) {
                self.desk.release(request, &mut connection.book);
            }
        }
        self.desk.refuse_late_waiters(now);
        self.desk.clean_up(now);
        self.desk.forget_keys();
    }

    /// Nobody is dropped; who was not read because of a bound that is higher now is looked at.
    fn reload(&mut self, reloaded: Reloaded) {
        if !self.desk.reload(reloaded) {
            return;
        }
        for (token, connection) in &mut self.connections {
            connection.reconfigure(&self.desk.config().connections);
            activate(&mut self.active, *token, connection);
        }
    }

    fn accept(&mut self, now: Instant) {
        while let Some((socket, peer)) = self.listeners.as_mut().and_then(|listeners| listeners.accept(now)) {
            self.take_in(socket, peer);
        }
    }

    /// A client in our own process, over a pair of sockets.
    fn adopt(&mut self, stream: UnixStream) {
        if stream.set_nonblocking(true).is_ok() {
            let peer = Peer::of_ourselves(&stream);
            self.take_in(Socket::Unix(mio::net::UnixStream::from_std(stream)), peer);
        }
    }

    fn take_in(&mut self, mut socket: Socket, peer: Peer) {
        let descriptor = match self.desk.admit(&peer) {
            Ok(descriptor) => descriptor,
            Err(fault) => return turn_away(socket, &fault),
        };
        let token = Token(self.next_token);
        self.next_token += 1;
        if let Err(error) = self.poll.registry().register(&mut socket, token, Interest::READABLE | Interest::WRITABLE) {
            log::warn!("a connection cannot be watched: {error}");
            return self.desk.connection_gone(&peer.client);
        }
        // What came before the registration shows as an event; nothing is missed.
        let account = self.desk.account(&peer.client);
        let config = &self.desk.config().connections;
        let connection = Connection::new(socket, peer, descriptor, self.desk.buffers(), &account, config);
        self.connections.insert(token, connection);
    }

    /// The listeners go, and with them their port and path; what is connected stays until it is served.
    fn drain(&mut self) {
        self.desk.drain();
        self.listeners = None;
        self.tell_drained();
    }

    fn tell_drained(&self) {
        if self.listeners.is_none() && self.desk.no_command_runs() {
            self.desk.reaper().tell(ToReaper::Drained);
        }
    }

    fn nothing_to_say(&self) -> bool {
        self.inbox.is_empty()
            && !self.desk.answers_come()
            && self.connections.values().all(|connection| connection.outbox.is_empty())
    }
}

fn activate(active: &mut VecDeque<Token>, token: Token, connection: &mut Connection) {
    if !std::mem::replace(&mut connection.active, true) {
        active.push_back(token);
    }
}
