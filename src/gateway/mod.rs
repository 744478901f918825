//! Runs on `gateway`. Owns the listeners, the connections and their framing, admission, and the requests in flight.
//! Blocks in its poll alone; never touches a pid, and never encodes what a command has written.

mod connection;
mod desk;
mod holding;
mod listener;
mod outbox;

use std::collections::{HashMap, VecDeque};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};

use self::connection::{Book, Connection, Peer, ReadTurn, Slot, Socket};
pub use self::desk::{Desk, Links, Quotas};
use self::desk::{Routed, Settled};
pub use self::listener::{ListenError, Listeners};
use self::outbox::Part;
use crate::ids::RequestId;
use crate::mailbox::Inbox;
use crate::message::{ToGateway, ToReaper};
use crate::protocol::envelope::{Envelope, Incoming, Malformed, parse_line};
use crate::protocol::fault::{Fault, Reason};
use crate::protocol::frame::Line;
use crate::runtime::reload::Reloaded;

/// Token of the mailbox; the listeners have the two before it, connections count up from 0.
pub const INBOX: Token = Token(usize::MAX);
/// Messages of one turn.
const MESSAGES_A_TURN: usize = 1024;
/// Connections that get a turn before the poll is looked at again.
const CONNECTIONS_A_TURN: usize = 256;
/// While a connection has something that may time out, all are looked at so often.
const TICK: Duration = Duration::from_millis(100);
/// Read of a connection at once.
const READ_BYTES: usize = 64 * 1024;
/// After its last answer a connection that is closed by us may still send for so long: a close at once would reset it,
/// and the answer could be lost with what it had sent.
const LINGER: Duration = Duration::from_secs(1);

pub struct Gateway {
    poll: Poll,
    inbox: Inbox<ToGateway>,
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
    draining: bool,
    stop_by: Option<Instant>,
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
            draining: false,
            stop_by: None,
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
            self.desk.turn_began = now;
            self.drain_inbox();
            for event in &events {
                match event.token() {
                    INBOX => {}
                    token if Listeners::owns(token) => {
                        if let Some(listeners) = &mut self.listeners {
                            listeners.ready(token);
                        }
                    }
                    token => {
                        if let Some(connection) = self.connections.get_mut(&token) {
                            connection.readable |= event.is_readable() || event.is_read_closed();
                            connection.writable |= event.is_writable();
                            connection.hung_up |= event.is_error() || event.is_write_closed();
                            activate(&mut self.active, token, connection);
                        }
                    }
                }
            }
            self.accept(now);
            for _ in 0..self.active.len().min(CONNECTIONS_A_TURN) {
                let Some(token) = self.active.pop_front() else { break };
                self.serve(token, now);
            }
            self.tick(now);
            self.tell_settled();
            if self.stop_by.is_some_and(|by| now >= by || self.nothing_to_say()) {
                self.desk.reaper().tell(ToReaper::Delivered);
                return;
            }
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
        [wait, self.desk.wait(now)].into_iter().flatten().min()
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
            ToGateway::SessionGone { session, idle } => {
                let owner = self.desk.session_gone(session, idle).and_then(|token| self.connections.get_mut(&token));
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

    fn on_connection(&mut self, token: Token, step: impl FnOnce(&mut Connection)) {
        if let Some(connection) = self.connections.get_mut(&token) {
            step(connection);
            activate(&mut self.active, token, connection);
        }
    }

    /// Puts an answer where it belongs: on a line of its own, or into its place in a batch.
    fn answer(&mut self, request: RequestId, body: &[u8], more: bool) {
        if let Some(token) = self.desk.beat_of(request) {
            let stats = body.strip_prefix(b"\"result\":").unwrap_or(body);
            let line = [&b"{\"jsonrpc\":\"2.0\",\"method\":\"system.stats\",\"params\":"[..], stats, b"}\n"].concat();
            return self.on_connection(token, |connection| connection.outbox.line(line));
        }
        let Some(answered) = self.desk.answered(request, more) else { return };
        self.on_connection(answered.token, |connection| connection.answer(answered, body, more));
    }

    fn piece(&mut self, request: RequestId, body: Vec<u8>, more: bool) {
        if let Some(token) = self.desk.pulled_by(request, more) {
            self.on_connection(token, |connection| {
                connection.outbox.piece(request, body, more);
                if !more {
                    connection.book.delivered(request);
                }
            });
        }
    }

    fn refused(&mut self, request: RequestId, fault: &Fault) {
        let mut body = Vec::new();
        self.desk.refused(fault, &mut body);
        self.answer(request, &body, false);
    }

    /// Tells what became of requests that had to wait.
    fn tell_settled(&mut self) {
        while let Some((request, answer)) = self.desk.next_settled() {
            match answer {
                Settled::Body(body) => self.answer(request, &body, false),
                Settled::Refused(fault) => self.refused(request, &fault),
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        let Some(listeners) = &mut self.listeners else { return };
        while let Some((socket, peer)) = listeners.accept(now) {
            let unix = matches!(socket, Socket::Unix(_));
            if let Err(fault) = self.desk.admit(unix) {
                refuse(socket, &fault);
                continue;
            }
            let token = Token(self.next_token);
            self.next_token += 1;
            let mut connection = Connection::new(socket, peer, &mut self.desk);
            let interest = Interest::READABLE | Interest::WRITABLE;
            if let Err(error) = self.poll.registry().register(&mut connection.socket, token, interest) {
                log::warn!("a connection cannot be watched: {error}");
                self.desk.connection_gone();
                continue;
            }
            // What came before the registration shows as an event; nothing is missed.
            self.connections.insert(token, connection);
        }
    }

    /// A client in our own process, over a pair of sockets.
    fn adopt(&mut self, stream: UnixStream) {
        if stream.set_nonblocking(true).is_err() || self.desk.admit(true).is_err() {
            return;
        }
        let peer = Peer::of_unix(&stream);
        let token = Token(self.next_token);
        self.next_token += 1;
        let socket = Socket::Unix(mio::net::UnixStream::from_std(stream));
        let mut connection = Connection::new(socket, peer, &mut self.desk);
        match self.poll.registry().register(&mut connection.socket, token, Interest::READABLE | Interest::WRITABLE) {
            Ok(()) => drop(self.connections.insert(token, connection)),
            Err(_) => self.desk.connection_gone(),
        }
    }

    /// One connection's turn: what it sent is read and carried out, what it is owed is written.
    fn serve(&mut self, token: Token, now: Instant) {
        let may_finish = self.finishing.is_none_or(|finishing| finishing == token);
        let Some(connection) = self.connections.get_mut(&token) else { return };
        connection.active = false;
        if connection.linger_until.is_some() {
            return self.part(token, now);
        }
        if connection.hung_up {
            // What it sent before is carried out; a notification asks for no more than that.
            while connection.read(&mut self.scratch, now) == ReadTurn::Some
                && handle_lines(token, connection, &mut self.desk)
            {}
            return self.disconnect(token);
        }
        if connection.outbox_write(&mut self.desk, now).is_err() {
            return self.disconnect(token);
        }
        let alive = handle_lines(token, connection, &mut self.desk);
        if alive && connection.may_read() && connection.readable {
            match connection.read_within(&mut self.scratch, now, may_finish) {
                ReadTurn::Some => drop(handle_lines(token, connection, &mut self.desk)),
                ReadTurn::None | ReadTurn::Closed => {}
                ReadTurn::Failed => return self.disconnect(token),
            }
        }
        connection.note_open_line(now);
        if connection.outbox_write(&mut self.desk, now).is_err() || connection.outbox.unsent() > connection.hard_bytes {
            return self.disconnect(token);
        }
        connection.settle();
        if connection.is_finished() {
            return self.part(token, now);
        }
        if connection.wants_turn() {
            activate(&mut self.active, token, connection);
        }
        if connection.may_time_out() && self.next_tick.is_none() {
            self.next_tick = Some(now + TICK);
        }
        if connection.holding.finishing {
            self.finishing = Some(token);
        } else {
            self.finished(token);
        }
    }

    /// If it was this one that all parched connections waited for, they are looked at again.
    fn finished(&mut self, token: Token) {
        if self.finishing != Some(token) {
            return;
        }
        self.finishing = None;
        for (token, connection) in self.connections.iter_mut().filter(|(_, connection)| connection.holding.parched) {
            activate(&mut self.active, *token, connection);
        }
    }

    /// All is said. Our side is closed; what still comes is read and dropped for a while.
    fn part(&mut self, token: Token, now: Instant) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if connection.read_closed {
            return self.disconnect(token);
        }
        if connection.linger_until.is_none() {
            connection.linger_until = Some(now + LINGER);
            connection.socket.shutdown_write();
            self.next_tick.get_or_insert(now + TICK);
            let connection = &self.connections[&token];
            self.desk.disconnected(token, connection);
        }
        let Some(connection) = self.connections.get_mut(&token) else { return };
        loop {
            match connection.socket_read(&mut self.scratch) {
                Ok(0) => return self.forget(token),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(_) => return self.forget(token),
            }
        }
    }

    fn disconnect(&mut self, token: Token) {
        let Some(connection) = self.connections.get(&token) else { return };
        if connection.linger_until.is_none() {
            self.desk.disconnected(token, connection);
        }
        self.forget(token);
    }

    fn forget(&mut self, token: Token) {
        if self.connections.remove(&token).is_some() {
            self.finished(token);
            self.desk.connection_gone();
        }
    }

    /// Looks at everything that may have timed out; sleeps again when nothing may.
    fn tick(&mut self, now: Instant) {
        while let Some(token) = self.desk.beats.pop_due(now) {
            let Some(connection) = self.connections.get(&token) else { continue };
            let Some(interval) = connection.book.subscription else { continue };
            if connection.may_take_request() {
                self.desk.beat(token, interval, now);
            } else {
                // Who does not read gets none; the next one counts from now.
                self.desk.beats.set(token, now + interval);
            }
        }
        while let Some((request, token)) = self.desk.next_held(now) {
            if let Some(connection) = self.connections.get_mut(&token) {
                self.desk.release(request, &mut connection.book);
            }
        }
        self.desk.refuse_late_waiters(now);
        self.desk.forget_keys();
        if self.next_tick.is_none_or(|at| now < at) {
            return;
        }
        let mut late = Vec::new();
        let mut waiting = false;
        for (token, connection) in &mut self.connections {
            match connection.timed_out(now) {
                Some(why) => late.push((*token, why)),
                None => waiting |= connection.may_time_out(),
            }
            if connection.holding.parched {
                // There may be memory again.
                activate(&mut self.active, *token, connection);
            }
        }
        for (token, why) in late {
            log::info!("{}: {why}; the connection is closed", self.connections[&token].peer.client);
            self.disconnect(token);
        }
        self.next_tick = waiting.then(|| now + TICK);
    }

    /// The listeners go, and with them their port and path; what is connected stays until it is served.
    fn drain(&mut self) {
        self.draining = true;
        self.desk.drain();
        self.listeners = None;
        self.tell_drained();
    }

    fn tell_drained(&self) {
        if self.draining && self.desk.no_command_runs() {
            self.desk.reaper().tell(ToReaper::Drained);
        }
    }

    fn nothing_to_say(&self) -> bool {
        self.inbox.is_empty() && self.connections.values().all(|connection| connection.outbox.is_empty())
    }
}

fn activate(active: &mut VecDeque<Token>, token: Token, connection: &mut Connection) {
    if !std::mem::replace(&mut connection.active, true) {
        active.push_back(token);
    }
}

/// One line, and the end: there is no room for the connection.
fn refuse(mut socket: Socket, fault: &Fault) {
    let mut line = b"{\"jsonrpc\":\"2.0\",\"id\":null,".to_vec();
    fault.encode(&mut line);
    line.extend_from_slice(b"}\n");
    use std::io::{Read, Write};
    // What it has sent already is taken first: closing with unread bytes would reset the connection, and the line with
    // it. A new connection's buffer is empty, so the line fits.
    let mut sent = [0; 4096];
    let _ = socket.write(&line);
    socket.shutdown_write();
    for _ in 0..16 {
        if !matches!(socket.read(&mut sent), Ok(1..)) {
            break;
        }
    }
}

/// Carries out what stands in the buffer; false when the connection is to be closed behind its answers.
fn handle_lines(token: Token, connection: &mut Connection, desk: &mut Desk) -> bool {
    connection.more_lines = false;
    for taken in 0.. {
        if !connection.may_take_request() {
            break;
        }
        if taken > 0 && connection.holding.is_short() {
            connection.more_lines = true;
            break;
        }
        let batch_max = desk.config().connections.max_batch as usize;
        let Connection { framer, outbox, book, peer, holding, .. } = connection;
        let incoming = match framer.next_line() {
            None => match framer.first_byte() {
                // A TLS hello has no line end, and nothing that begins so becomes a request.
                Some(byte) if !connection.had_good_line && !matches!(byte, b'{' | b'[') => {
                    Err(Fault::new(Reason::ParseError, "a request begins with { and a batch with ["))
                }
                Some(_) | None => return true,
            },
            Some(Line::TooLong) => {
                let limit = desk.config().connections.max_line_bytes;
                let message = format!("a line holds at most {limit} bytes");
                Err(Fault::new(Reason::RequestTooLarge, message).number("limit", limit as i64))
            }
            Some(Line::Whole(line)) => {
                holding.carry_out();
                parse_line(line, batch_max)
            }
        };
        let tail = outbox.tail();
        let before = tail.len();
        let good = match incoming {
            Err(fault) => {
                desk.refuse_line(None, &fault, tail);
                false
            }
            Ok(Incoming::One(Err(malformed))) => {
                desk.refuse_line(malformed.id, &malformed.fault, tail);
                false
            }
            Ok(Incoming::One(Ok(envelope))) => {
                desk.route(token, peer, book, &envelope, None, tail);
                true
            }
            Ok(Incoming::Batch(members)) => {
                let good = members.iter().any(Result::is_ok);
                if let Some(parts) = handle_batch(token, peer, book, desk, members) {
                    outbox.batch(parts);
                }
                connection.judge_line(good, desk.config().connections.max_bad_lines);
                continue;
            }
        };
        if tail.len() > before {
            tail.push(b'\n');
        }
        let appended = tail.len() - before;
        outbox.appended(appended);
        connection.judge_line(good, desk.config().connections.max_bad_lines);
    }
    !connection.close_after_writing
}

/// Carries out the members of a batch; the parts of its answer, if every one has its own already.
fn handle_batch(
    token: Token,
    peer: &Peer,
    book: &mut Book,
    desk: &mut Desk,
    members: Vec<Result<Envelope, Malformed>>,
) -> Option<Vec<Part>> {
    let batch = book.begin_batch(members.len());
    for (slot, member) in members.into_iter().enumerate() {
        let mut answer = Vec::new();
        let routed = match member {
            Ok(envelope) => desk.route(token, peer, book, &envelope, Some((batch, slot)), &mut answer),
            Err(malformed) => {
                desk.refuse_line(malformed.id, &malformed.fault, &mut answer);
                Routed::Answered
            }
        };
        match routed {
            Routed::Answered => book.fill(batch, slot, Slot::Whole(answer)),
            Routed::Silent => book.fill(batch, slot, Slot::Silent),
            Routed::Later => {}
        }
    }
    book.finished_batch(batch)
}
