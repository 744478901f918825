//! The memory that a connection holds: lines that have not ended or not been carried out, and answers that have not
//! been sent. Pure.
//!
//! All of it counts in the daemon's buffers, answers in the client's as well. It stays within them by back-pressure:
//!
//! - A connection has 16 KiB for its lines that are not counted ([`FREE_BYTES`]): the requests of the control lane fit,
//!   so they are read whatever the others hold.
//! - A longer line is read only while the buffers have room for it and for one line of the longest kind beside it.
//!   Where they have not, the connection is *parched*: it is not read, and looked at again a tick later.
//! - Half-read lines could then hold everything among themselves, so that none ever ends. Therefore one parched
//!   connection at a time is *finishing*: it reads on whatever is left. The room kept free above is for that one; if
//!   commands have taken it in the meantime, the buffers are passed by one line and no more. Its line ends, is refused
//!   as too long, or runs into `line_timeout_s`, which goes on while it is parched, and while it is finishing even where
//!   it does not read its answers. Each of these gives the memory back, and the next one finishes. Nobody waits for ever.
//! - An answer that was made must go somewhere, so it counts even where that is over the limits. While they are passed a
//!   connection gets one request carried out in a turn, and none while answers of it lie unsent; encoded outputs are
//!   fetched in small pieces (by the worker). So a connection is over by the answers to a line, not by those to a queue.

use crate::admission::buffers::{Account, Share};
use crate::protocol::frame::{FREE_BYTES, Framer, GROW_BYTES};

/// Unsent, while memory is short: above it, no request is taken.
pub const UNSENT_WHILE_SHORT: usize = 4 * 1024;

#[derive(Debug)]
pub struct Holding {
    lines: Share,
    answers: Share,
    /// What must be free for a line that is not finishing to be read on.
    line_room: u64,
    /// It is not read before there is memory for it.
    pub parched: bool,
    /// It is the one that reads on in spite of that.
    pub finishing: bool,
}

impl Holding {
    /// `client` stands below `daemon`; a line is at most so long, and read in parts of so many bytes.
    pub fn new(daemon: &Account, client: &Account, line_bytes_max: u64, read_bytes: usize) -> Self {
        let (lines, answers) = (Share::none(daemon), Share::none(client));
        let mut holding = Holding { lines, answers, line_room: 0, parched: false, finishing: false };
        holding.set_line_bytes_max(line_bytes_max, read_bytes);
        holding
    }

    pub fn set_line_bytes_max(&mut self, line_bytes_max: u64, read_bytes: usize) {
        let growth = 2 * (read_bytes + GROW_BYTES) as u64;
        self.line_room = line_bytes_max.saturating_add(growth);
    }

    /// The client, or the daemon, has no memory left.
    pub fn is_short(&self) -> bool {
        self.answers.account().is_full()
    }

    /// How much may be read now; 0: the connection is parched. `may_finish`: no other is finishing.
    pub fn read_room(&mut self, framer: &Framer, may_finish: bool) -> usize {
        self.parched = false;
        if self.finishing || self.lines.account().room() >= self.line_room {
            return usize::MAX;
        }
        let free = FREE_BYTES.saturating_sub(framer.len());
        if free > 0 {
            return free;
        }
        self.finishing = may_finish;
        self.parched = !may_finish;
        if may_finish { usize::MAX } else { 0 }
    }

    /// A line has come to its end: what it asks for, its input above all, takes its place. One line at a time is carried
    /// out, and is gone when that is done.
    pub fn carry_out(&mut self) {
        if self.lines.bytes() > 0 {
            self.lines.force(0);
        }
    }

    /// Counts what is there after a turn.
    pub fn settle(&mut self, framer: &Framer, answer_bytes: usize) {
        self.finishing &= framer.is_mid_line();
        let line_bytes = framer.held().saturating_sub(FREE_BYTES);
        if line_bytes != self.lines.bytes() {
            self.lines.force(line_bytes);
        }
        if answer_bytes != self.answers.bytes() {
            self.answers.force(answer_bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: usize = 100_000;
    const READ: usize = 16 * 1024;

    /// Reads a piece as a connection does; whether it could.
    fn read(holding: &mut Holding, framer: &mut Framer, bytes: &[u8], may_finish: bool) -> usize {
        let most = holding.read_room(framer, may_finish).min(bytes.len());
        framer.push(&bytes[..most]);
        while framer.next_line().is_some() {}
        holding.settle(framer, 0);
        most
    }

    #[test]
    fn inv7_half_lines_leave_room_for_one_and_one_can_always_end() {
        let daemon = Account::of_daemon(2 << 20);
        let mut all: Vec<(Holding, Framer)> =
            (0..100).map(|_| (Holding::new(&daemon, &daemon, LINE as u64, READ), Framer::new(LINE))).collect();
        // Everybody sends half a line; none of them may finish.
        for (holding, framer) in &mut all {
            while framer.len() < LINE / 2 && read(holding, framer, &[b'x'; READ], false) > 0 {}
        }
        assert!(daemon.used() <= daemon.max(), "{} of {}", daemon.used(), daemon.max());
        let parched = all.iter().filter(|(holding, _)| holding.parched).count();
        assert!((1..100).contains(&parched), "{parched}");
        // One after the other finishes, and nobody else grows meanwhile.
        for (holding, framer) in &mut all {
            while framer.len() < LINE - READ {
                assert!(read(holding, framer, &[b'x'; READ], true) > 0);
                assert!(daemon.used() <= daemon.max(), "{} of {}", daemon.used(), daemon.max());
            }
            assert_eq!(read(holding, framer, b"\n", true), 1);
            assert!(!holding.finishing && !holding.parched);
        }
        assert_eq!(daemon.used(), 0);
    }

    #[test]
    fn a_short_request_is_read_when_nothing_is_left() {
        let daemon = Account::of_daemon(1000);
        let _all = Share::take(&daemon, 1000).unwrap();
        let mut framer = Framer::new(LINE);
        let mut holding = Holding::new(&daemon, &daemon, LINE as u64, READ);
        for _ in 0..100 {
            assert_eq!(read(&mut holding, &mut framer, &[b'x'; 4000], false), 4000);
            assert_eq!(read(&mut holding, &mut framer, b"\n", false), 1);
        }
        assert_eq!(daemon.used(), 1000);
        assert!(holding.is_short());
    }

    #[test]
    fn inv9_answers_count_by_force_and_come_back() {
        let daemon = Account::of_daemon(1000);
        let framer = Framer::new(LINE);
        let mut holding = Holding::new(&daemon, &daemon, LINE as u64, READ);
        holding.settle(&framer, 5000);
        assert_eq!((daemon.used(), holding.is_short()), (5000, true));
        holding.settle(&framer, 10);
        assert_eq!((daemon.used(), holding.is_short()), (10, false));
        drop(holding);
        assert_eq!(daemon.used(), 0);
    }
}
