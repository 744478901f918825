//! One connection: its socket, its framing, what it has asked and what it is owed.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Source;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{getsockopt, sockopt};

use super::READ_BYTES;
use super::desk::{Answered, Desk};
use super::holding::{Holding, UNSENT_WHILE_SHORT};
use super::outbox::{Outbox, Part, Source as PieceSource};
use crate::config::Connections;
use crate::ids::{ClientName, RequestId, SessionId};
use crate::message::ToWorker;
use crate::protocol::frame::Framer;

#[derive(Debug)]
pub enum Socket {
    Tcp(mio::net::TcpStream),
    Unix(mio::net::UnixStream),
}

impl Socket {
    pub fn shutdown_write(&self) {
        // A peer that is gone already is closed enough.
        let _ = match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(into),
            Socket::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Source for Socket {
    fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.register(registry, token, interest),
            Socket::Unix(stream) => stream.register(registry, token, interest),
        }
    }

    fn reregister(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.reregister(registry, token, interest),
            Socket::Unix(stream) => stream.reregister(registry, token, interest),
        }
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Socket::Tcp(stream) => stream.deregister(registry),
            Socket::Unix(stream) => stream.deregister(registry),
        }
    }
}

/// Who is on the other side.
#[derive(Debug, Clone)]
pub struct Peer {
    pub client: ClientName,
    pub admin: bool,
}

impl Peer {
    /// The uid at the time of the connect; root and our own uid are admins.
    pub fn of_unix(stream: &impl AsFd) -> Peer {
        match getsockopt(stream, sockopt::PeerCredentials) {
            Ok(peer) => {
                let own = nix::unistd::Uid::effective().as_raw();
                Peer { client: format!("uid:{}", peer.uid()).into(), admin: peer.uid() == 0 || peer.uid() == own }
            }
            Err(_) => Peer { client: "uid:unknown".into(), admin: false },
        }
    }

    pub fn of_tcp(address: std::net::IpAddr) -> Peer {
        Peer { client: format!("ip:{}", address.to_canonical()).into(), admin: false }
    }
}

/// What came of looking for more bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadTurn {
    Some,
    None,
    /// The other side has said all that it will.
    Closed,
    Failed,
}

#[derive(Debug)]
pub struct Connection {
    pub socket: Socket,
    pub peer: Peer,
    pub framer: Framer,
    pub outbox: Outbox,
    pub book: Book,
    pub holding: Holding,
    /// Lines may stand in the buffer that could be carried out.
    pub more_lines: bool,
    /// It stands in the queue of this turn.
    pub active: bool,
    pub readable: bool,
    pub writable: bool,
    pub read_closed: bool,
    /// Nobody is there any more.
    pub hung_up: bool,
    pub had_good_line: bool,
    pub bad_lines: u64,
    /// It is closed when all that it is owed is written.
    pub close_after_writing: bool,
    /// Our side is closed; what still comes is dropped until then.
    pub linger_until: Option<Instant>,
    pub hard_bytes: usize,
    soft_bytes: usize,
    inflight_max: usize,
    line_timeout: Duration,
    write_stall: Duration,
    /// When the line that is not complete began.
    line_since: Option<Instant>,
    /// When the socket last took something, while something waits.
    stalled_since: Option<Instant>,
}

impl Connection {
    pub fn new(socket: Socket, peer: Peer, desk: &mut Desk) -> Self {
        let account = desk.account(&peer.client);
        let config = &desk.config().connections;
        Connection {
            holding: Holding::new(desk.buffers(), &account, config.max_line_bytes, READ_BYTES),
            more_lines: false,
            socket,
            peer,
            framer: Framer::new(config.max_line_bytes as usize),
            outbox: Outbox::default(),
            book: Book::default(),
            active: false,
            readable: true,
            writable: true,
            read_closed: false,
            hung_up: false,
            had_good_line: false,
            bad_lines: 0,
            close_after_writing: false,
            linger_until: None,
            hard_bytes: config.write_buffer_hard_bytes as usize,
            soft_bytes: config.write_buffer_soft_bytes as usize,
            inflight_max: config.max_inflight_per_connection as usize,
            line_timeout: Duration::from_secs_f64(config.line_timeout_s),
            write_stall: Duration::from_secs_f64(config.write_stall_s),
            line_since: None,
            stalled_since: None,
        }
    }

    /// Other bounds, from now on.
    pub fn reconfigure(&mut self, config: &Connections) {
        self.framer.set_line_bytes_max(config.max_line_bytes as usize);
        self.holding.set_line_bytes_max(config.max_line_bytes, READ_BYTES);
        self.hard_bytes = config.write_buffer_hard_bytes as usize;
        self.soft_bytes = config.write_buffer_soft_bytes as usize;
        self.inflight_max = config.max_inflight_per_connection as usize;
        self.line_timeout = Duration::from_secs_f64(config.line_timeout_s);
        self.write_stall = Duration::from_secs_f64(config.write_stall_s);
    }

    /// The first line decides: whoever does not speak the protocol never gets a second one. Later some are forgiven.
    pub fn judge_line(&mut self, good: bool, bad_lines_max: u64) {
        if good {
            self.had_good_line = true;
            return;
        }
        self.bad_lines += 1;
        self.close_after_writing |= !self.had_good_line || self.bad_lines > bad_lines_max;
    }

    /// Back-pressure: who has asked much, or does not read, is not read from.
    pub fn may_take_request(&self) -> bool {
        let unsent = self.outbox.unsent();
        !self.close_after_writing
            && self.book.inflight < self.inflight_max
            && unsent <= self.soft_bytes
            && (unsent <= UNSENT_WHILE_SHORT || !self.holding.is_short())
    }

    pub fn may_read(&self) -> bool {
        self.may_take_request() && !self.read_closed && !self.more_lines
    }

    /// There is something to do without a new event.
    pub fn wants_turn(&self) -> bool {
        let may_read = self.readable && self.may_read() && !self.holding.parched;
        may_read || (self.more_lines && self.may_take_request())
    }

    pub fn socket_read(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        self.socket.read(scratch)
    }

    /// Reads once into the framer.
    pub fn read(&mut self, scratch: &mut [u8], now: Instant) -> ReadTurn {
        if self.read_closed {
            return ReadTurn::Closed;
        }
        loop {
            match self.socket.read(scratch) {
                Ok(0) => {
                    self.readable = false;
                    self.read_closed = true;
                    return ReadTurn::Closed;
                }
                Ok(read) => {
                    // Still readable, for all that is known: the end may stand right behind, and has no event of its own.
                    if !self.framer.is_mid_line() {
                        self.line_since = Some(now);
                    }
                    self.framer.push(&scratch[..read]);
                    return ReadTurn::Some;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.readable = false;
                    return ReadTurn::None;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return ReadTurn::Failed,
            }
        }
    }

    /// Reads once into the framer, as much as there is memory for. `may_finish`: no other connection is finishing.
    pub fn read_within(&mut self, scratch: &mut [u8], now: Instant, may_finish: bool) -> ReadTurn {
        match self.holding.read_room(&self.framer, may_finish) {
            0 => ReadTurn::None,
            room => {
                let most = room.min(scratch.len());
                self.read(&mut scratch[..most], now)
            }
        }
    }

    /// Counts what it holds after a turn.
    pub fn settle(&mut self) {
        if !self.wants_turn() {
            self.framer.compact();
        }
        self.holding.settle(&self.framer, self.outbox.unshared() + self.book.batched_bytes);
    }

    /// A line counts from its first byte; one that waits because we do not read does not count, unless all others wait
    /// for it.
    pub fn note_open_line(&mut self, now: Instant) {
        let waits = !self.may_take_request() && !self.holding.finishing;
        if !self.framer.is_mid_line() || waits {
            self.line_since = None;
        } else {
            self.line_since.get_or_insert(now);
        }
    }

    /// Writes what the socket takes; sources of answers are asked for more.
    pub fn outbox_write(&mut self, desk: &mut Desk, now: Instant) -> io::Result<()> {
        if self.linger_until.is_some() || !self.writable || self.outbox.is_empty() {
            return Ok(());
        }
        let before = self.outbox.unsent();
        self.writable = self.outbox.write(&mut self.socket, |(worker, request)| {
            desk.tell_worker(worker, ToWorker::More { request });
        })?;
        let after = self.outbox.unsent();
        if after == 0 {
            self.stalled_since = None;
        } else if after < before || self.stalled_since.is_none() {
            self.stalled_since = Some(now);
        }
        Ok(())
    }

    /// Nothing more will be said, by either side.
    pub fn is_finished(&self) -> bool {
        let said = self.outbox.is_empty() && self.linger_until.is_none();
        said && (self.close_after_writing || (self.read_closed && self.book.inflight == 0))
    }

    pub fn may_time_out(&self) -> bool {
        self.line_since.is_some() || self.stalled_since.is_some() || self.linger_until.is_some()
    }

    pub fn timed_out(&self, now: Instant) -> Option<&'static str> {
        let over = |since: Option<Instant>, limit: Duration| since.is_some_and(|since| now >= since + limit);
        if self.linger_until.is_some_and(|until| now >= until) {
            return Some("it has not closed its side");
        }
        if over(self.line_since, self.line_timeout) {
            return Some("a line was not completed in time");
        }
        if over(self.stalled_since, self.write_stall) {
            return Some("its answers are not read");
        }
        None
    }

    /// Takes the answer to one of its requests.
    pub fn answer(&mut self, answered: Answered, body: &[u8], more: bool) {
        let Answered { request, id, place, source, .. } = answered;
        self.book.answered(request, more);
        let bytes = id.map(|id| {
            let mut bytes = Vec::with_capacity(body.len() + id.len() + 32);
            bytes.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
            bytes.extend_from_slice(id.as_bytes());
            bytes.push(b',');
            bytes.extend_from_slice(body);
            if !more {
                bytes.push(b'}');
            }
            bytes
        });
        let Some((batch, slot)) = place else {
            let Some(mut bytes) = bytes else { return };
            if more {
                self.outbox.line(bytes);
                self.outbox.pull(source);
                self.outbox.line(b"}\n".to_vec());
            } else {
                bytes.push(b'\n');
                self.outbox.line(bytes);
            }
            return;
        };
        let filled = match bytes {
            None => Slot::Silent,
            Some(bytes) if more => Slot::Open(bytes, source),
            Some(bytes) => Slot::Whole(bytes),
        };
        self.book.fill(batch, slot, filled);
        if let Some(parts) = self.book.finished_batch(batch) {
            self.outbox.batch(parts);
        }
    }
}

/// What a connection has asked and not been answered, and the sessions that live as long as it does.
#[derive(Debug, Default)]
pub struct Book {
    pub inflight: usize,
    open: Vec<Open>,
    batches: HashMap<u64, Vec<Slot>>,
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

/// A place in the answer to a batch.
#[derive(Debug)]
pub enum Slot {
    Empty,
    /// Of a notification: it does not stand in the answer.
    Silent,
    Whole(Vec<u8>),
    /// Its beginning; the rest comes from its source.
    Open(Vec<u8>, PieceSource),
}

impl Slot {
    fn bytes(&self) -> usize {
        match self {
            Slot::Empty | Slot::Silent => 0,
            Slot::Whole(bytes) | Slot::Open(bytes, _) => bytes.len(),
        }
    }
}

impl Book {
    pub fn has_key(&self, key: &str) -> bool {
        self.open.iter().any(|open| !open.answered && open.key.as_deref() == Some(key))
    }

    pub fn asked(&mut self, request: RequestId, key: Option<Arc<str>>) {
        self.inflight += 1;
        self.open.push(Open { request, key, answered: false });
    }

    fn answered(&mut self, request: RequestId, more: bool) {
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
        self.batches.insert(self.next_batch, (0..members).map(|_| Slot::Empty).collect());
        self.next_batch
    }

    pub fn fill(&mut self, batch: u64, slot: usize, with: Slot) {
        if let Some(place) = self.batches.get_mut(&batch).and_then(|slots| slots.get_mut(slot)) {
            self.batched_bytes += with.bytes();
            *place = with;
        }
    }

    /// The parts of a batch's answer, once every member has its own; nothing at all for notifications alone.
    pub fn finished_batch(&mut self, batch: u64) -> Option<Vec<Part>> {
        if self.batches.get(&batch)?.iter().any(|slot| matches!(slot, Slot::Empty)) {
            return None;
        }
        let mut parts = Vec::new();
        for slot in self.batches.remove(&batch)? {
            self.batched_bytes -= slot.bytes();
            let (bytes, source) = match slot {
                Slot::Empty | Slot::Silent => continue,
                Slot::Whole(bytes) => (bytes, None),
                Slot::Open(bytes, source) => (bytes, Some(source)),
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
