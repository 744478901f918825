//! One connection: its socket, its framing, what it has asked and what it is owed.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::book::{Answered, Book, Member};
use super::holding::{Holding, UNSENT_WHILE_SHORT};
use super::outbox::{Outbox, Source};
use super::socket::{Peer, Socket, Way};
use crate::admission::buffers::{Account, Share};
use crate::config::Connections;
use crate::protocol::answer;
use crate::protocol::frame::Framer;

/// Read at once.
pub const READ_BYTES: usize = 64 * 1024;
/// Reads in a turn of a connection that is not listened to any more.
const DISCARDS_A_TURN: usize = 16;

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
    /// Among all descriptors; given back with it.
    _descriptor: Share,
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
    opened: Instant,
    /// It must have sent a request so long after it came; none: whoever runs in our own process has all the time.
    first_line: Option<Duration>,
    /// When the line that is not complete began.
    line_since: Option<Instant>,
    /// When the socket last took something, while something waits.
    stalled_since: Option<Instant>,
}

impl Connection {
    /// `client` is its client's account, below that of the `daemon`; its `descriptor` was claimed when it came.
    pub fn new(
        socket: Socket,
        peer: Peer,
        descriptor: Share,
        daemon: &Account,
        client: &Account,
        config: &Connections,
    ) -> Self {
        let first_line = (peer.way != Way::Inside).then(|| Duration::from_secs_f64(config.first_line_s));
        Connection {
            holding: Holding::new(daemon, client, config.max_line_bytes, READ_BYTES),
            _descriptor: descriptor,
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
            opened: Instant::now(),
            first_line,
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
        self.first_line = self.first_line.map(|_| Duration::from_secs_f64(config.first_line_s));
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

    /// Drops what still comes, so much in a turn: whoever sends without end holds up nobody.
    pub fn discard(&mut self, scratch: &mut [u8]) -> ReadTurn {
        for _ in 0..DISCARDS_A_TURN {
            match self.socket.read(scratch) {
                Ok(0) => return ReadTurn::Closed,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return ReadTurn::None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return ReadTurn::Failed,
            }
        }
        ReadTurn::Some
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

    /// Writes what the socket takes; `go_on` asks a source of answers for more.
    pub fn write(&mut self, now: Instant, go_on: impl FnMut(Source)) -> io::Result<()> {
        if self.linger_until.is_some() || !self.writable || self.outbox.is_empty() {
            return Ok(());
        }
        let before = self.outbox.unsent();
        self.writable = self.outbox.write(&mut self.socket, go_on)?;
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
        let asks_nothing = !self.had_good_line && self.first_line.is_some();
        asks_nothing || self.line_since.is_some() || self.stalled_since.is_some() || self.linger_until.is_some()
    }

    pub fn timed_out(&self, now: Instant) -> Option<&'static str> {
        let over = |since: Option<Instant>, limit: Duration| since.is_some_and(|since| now >= since + limit);
        if self.linger_until.is_some_and(|until| now >= until) {
            return Some("it has not closed its side");
        }
        if !self.had_good_line && self.first_line.is_some_and(|limit| over(Some(self.opened), limit)) {
            return Some("it has not sent a request in time");
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
        // Of an answer that nobody wants no second piece comes.
        self.book.answered(request, more && id.is_some());
        let bytes = id.map(|id| {
            let mut bytes = Vec::with_capacity(body.len() + id.len() + 32);
            answer::begin(&id, &mut bytes);
            bytes.extend_from_slice(body);
            if !more {
                bytes.push(b'}');
            }
            bytes
        });
        if let Some(place) = place {
            self.book.fill(
                place,
                match bytes {
                    None => Member::Silent,
                    Some(bytes) if more => Member::Open(bytes, source),
                    Some(bytes) => Member::Whole(bytes),
                },
            );
            if let Some(parts) = self.book.finished_batch(place.batch) {
                self.outbox.batch(parts);
            }
            return;
        }
        let Some(mut bytes) = bytes else { return };
        if more {
            self.outbox.line(bytes);
            self.outbox.pull(source);
            self.outbox.line(b"}\n".to_vec());
        } else {
            bytes.push(b'\n');
            self.outbox.line(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use mio::Token;

    use super::*;
    use crate::ids::RequestId;

    #[test]
    fn inv6_a_flood_that_is_dropped_is_dropped_turn_by_turn() {
        let account = Account::of_daemon(1 << 20);
        let (ours, mut theirs) = mio::net::UnixStream::pair().unwrap();
        let peer = Peer::of_unix(&ours);
        let config = crate::Config::default().connections;
        let mut connection =
            Connection::new(Socket::Unix(ours), peer, Share::none(&account), &account, &account, &config);
        let mut scratch = [0; 10];
        theirs.write_all(&[b'x'; 10 * DISCARDS_A_TURN + 1]).unwrap();
        assert_eq!(connection.discard(&mut scratch), ReadTurn::Some);
        assert_eq!(connection.discard(&mut scratch), ReadTurn::None);
        drop(theirs);
        assert_eq!(connection.discard(&mut scratch), ReadTurn::Closed);
    }

    #[test]
    fn inv7_what_was_asked_without_an_id_is_forgotten_with_its_answer() {
        let account = Account::of_daemon(1 << 20);
        let (ours, _theirs) = mio::net::UnixStream::pair().unwrap();
        let peer = Peer::of_unix(&ours);
        let config = crate::Config::default().connections;
        let mut connection =
            Connection::new(Socket::Unix(ours), peer, Share::none(&account), &account, &account, &config);
        let request = RequestId(1);
        connection.book.asked(request, None);
        let answered = Answered { token: Token(0), request, id: None, place: None, source: (0, request) };
        // The first piece of a long one: the others never come.
        connection.answer(answered, b"\"result\":", true);
        assert_eq!((connection.book.requests().count(), connection.book.inflight), (0, 0));
        assert!(connection.outbox.is_empty());
    }
}
