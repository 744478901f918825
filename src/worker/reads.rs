//! Reading by offset, and requests that wait: for a part of an output, or for a command's record. A wait holds no
//! thread; it is a row here with a deadline, answered by whatever it waits for.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::command::Due;
use super::record::Held;
use super::retained::Outcome;
use super::stream::split_tail;
use super::waits::Wanted;
use super::{PIECE_BYTES, Worker};
use crate::admission::buffers::Share;
use crate::ids::{ExecId, RequestId};
use crate::message::ToGateway;
use crate::protocol::encode::{Body, Encoding, Object};
use crate::protocol::fault::{Fault, Reason};
use crate::protocol::request::Read;

/// What is kept of an output now.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// Its first bytes, and its last in two runs; what is missing is missing between those.
    pub parts: [&'a [u8]; 3],
    pub total: u64,
    pub ended: bool,
}

/// A part of an output that was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub offset: u64,
    pub dropped: u64,
    /// Where it stands in what is kept.
    pub range: Range<usize>,
    pub eof: bool,
}

impl Found {
    fn is_nothing(&self) -> bool {
        self.range.is_empty() && self.dropped == 0 && !self.eof
    }
}

impl View<'_> {
    /// Whatever is kept from the offset on, or behind it where that is gone; no character is split that the rest of
    /// the output could still complete.
    pub fn find(&self, asked: u64, bytes_max: usize, base64: bool) -> Found {
        let [head, older, newer] = self.parts.map(<[u8]>::len);
        let tail_start = self.total - (older + newer) as u64;
        let (offset, at, there) = if asked < head as u64 {
            (asked, asked as usize, head - asked as usize)
        } else if asked < self.total {
            let offset = asked.max(tail_start);
            (offset, head + (offset - tail_start) as usize, (self.total - offset) as usize)
        } else {
            (asked, 0, 0)
        };
        let mut length = there.min(bytes_max);
        let reaches_end = |length: usize| offset + length as u64 >= self.total;
        let is_all = self.ended && reaches_end(length);
        if !base64 && !is_all {
            let split = split_tail(&self.copy(at + length - length.min(4)..at + length));
            if split < length || reaches_end(length) {
                length -= split;
            }
        }
        let eof = self.ended && reaches_end(length);
        Found { offset, dropped: offset - asked, range: at..at + length, eof }
    }

    /// These bytes of what is kept.
    pub fn copy(&self, range: Range<usize>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(range.len());
        let mut start = 0;
        for part in self.parts {
            let (from, to) = (range.start.max(start), range.end.min(start + part.len()));
            if from < to {
                bytes.extend_from_slice(&part[from - start..to - start]);
            }
            start += part.len();
        }
        bytes
    }
}

/// `"result":{…}` of `exec.read`.
fn part_body(bytes: Arc<Held>, range: Range<usize>, found: &Found, base64: bool) -> Body {
    let encoding = Encoding::of(&bytes.bytes[range.clone()], base64);
    let mut rest = Vec::with_capacity(160);
    let mut object = Object::begin(&mut rest);
    object.str("encoding", encoding.name());
    object.int("offset", found.offset);
    object.int("next_offset", found.offset + range.len() as u64);
    object.int("dropped", found.dropped);
    object.bool("eof", found.eof);
    object.end();
    // It goes on where the data ends.
    rest[0] = b',';
    let mut body = Body::default();
    body.json(b"\"result\":{\"data\":".to_vec());
    body.shared(bytes, range, encoding);
    body.json(rest);
    body
}

impl Worker {
    /// A request that waits so long for a command that runs; none: however long it takes.
    pub(super) fn wait_for(&mut self, exec: ExecId, request: RequestId, wanted: Wanted, wait_ms: Option<u64>) {
        self.waits.add(exec, request, wanted);
        if let Some(wait_ms) = wait_ms {
            let until = Instant::now() + Duration::from_millis(wait_ms);
            self.tools.deadlines.set((exec, Due::Waited(request)), until);
        }
    }

    /// It does not wait any more.
    pub(super) fn unwait(&mut self, request: RequestId) -> Option<(ExecId, Wanted)> {
        let (exec, wanted) = self.waits.remove(request)?;
        self.tools.deadlines.clear(&(exec, Due::Waited(request)));
        Some((exec, wanted))
    }

    /// Everybody who waits for a command; they do not any more.
    pub(super) fn all_waiting(&mut self, exec: ExecId) -> Vec<(RequestId, Wanted)> {
        let all = self.waits.all(exec);
        for (request, _) in &all {
            self.unwait(*request);
        }
        all
    }

    /// A wait is over: the answer is what there is now.
    pub(super) fn waited(&mut self, exec: ExecId, request: RequestId) {
        match self.unwait(request) {
            Some((_, Wanted::Record)) => {
                let body = format!("\"result\":{{\"exec\":\"{exec}\",\"status\":\"running\"}}").into_bytes();
                self.tools.gateway.tell(ToGateway::Answer { request, body, more: false });
            }
            Some((_, Wanted::Part(read))) => drop(self.tell_part(exec, request, &read, true)),
            None => {}
        }
    }

    /// Answers who waited for a part that has come.
    pub(super) fn serve_reads(&mut self, exec: ExecId) {
        if self.waits.is_empty() {
            return;
        }
        for stderr in [false, true] {
            let Some(view) = self.commands.get(&exec).and_then(|command| command.view(stderr)) else { return };
            let below = (!view.ended).then_some(view.total);
            for (request, wanted) in self.waits.parts(exec, stderr, below) {
                if let Wanted::Part(read) = wanted
                    && self.tell_part(exec, request, &read, false)
                {
                    self.unwait(request);
                }
            }
        }
    }

    /// `exec.read`: at once where there is something, or else when there is.
    pub(super) fn read_part(&mut self, exec: ExecId, request: RequestId, read: Read) {
        if !self.tell_part(exec, request, &read, read.wait_ms == 0) {
            self.wait_for(exec, request, Wanted::Part(read), Some(read.wait_ms));
        }
    }

    /// Answers with a part of what a command that runs, or has run, keeps of an output. False: there is nothing yet,
    /// and nothing was not wanted.
    fn tell_part(&mut self, exec: ExecId, request: RequestId, read: &Read, nothing_too: bool) -> bool {
        if let Some(retained) = self.retained.get(&exec) {
            let retained = retained.clone();
            self.tell_part_of_ended(exec, request, read, &retained);
            return true;
        }
        let Some(command) = self.commands.get(&exec) else {
            self.refuse_order(request, Fault::exec_not_found(&exec.to_string()));
            return true;
        };
        let Some(view) = command.view(read.stderr) else {
            self.refuse_order(request, keeps_none(exec));
            return true;
        };
        let base64 = command.base64();
        let mut found = view.find(read.offset, read.bytes_max, base64);
        if found.is_nothing() && !nothing_too {
            return false;
        }
        // A copy that is larger than a piece of an answer takes of the memory that all share, or stays small.
        let mut share = Share::none(command.account());
        if found.range.len() > PIECE_BYTES && !share.resize(found.range.len()) {
            found = view.find(read.offset, PIECE_BYTES, base64);
        }
        let bytes = view.copy(found.range.clone());
        let length = bytes.len();
        let held = Arc::new(Held { bytes, head: 0, _share: Some(share) });
        let account = command.account().clone();
        self.tell_body(request, None, &account, part_body(held, 0..length, &found, base64));
        true
    }

    /// The same of a command that has ended.
    pub(super) fn tell_part_of_ended(&mut self, exec: ExecId, request: RequestId, read: &Read, outcome: &Outcome) {
        let (kept, base64) = (outcome.output(read.stderr), outcome.base64);
        let Some(held) = &kept.held else { return self.refuse_order(request, keeps_none(exec)) };
        let (head, tail) = held.bytes.split_at(held.head);
        let view = View { parts: [head, tail, &[]], total: kept.total, ended: true };
        let found = view.find(read.offset, read.bytes_max, base64);
        let body = part_body(held.clone(), found.range.clone(), &found, base64);
        self.tell_body(request, None, &outcome.account, body);
    }

    pub(super) fn refuse_order(&self, request: RequestId, fault: Fault) {
        self.tools.gateway.tell(ToGateway::Refused { request, fault });
    }
}

fn keeps_none(exec: ExecId) -> Fault {
    Fault::new(Reason::InvalidParams, "the command keeps no output: it is streamed").text("exec", exec.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view<'a>(head: &'a str, tail: &'a str, total: u64, ended: bool) -> View<'a> {
        let (older, newer) = tail.as_bytes().split_at(tail.len() / 2);
        View { parts: [head.as_bytes(), older, newer], total, ended }
    }

    fn find(view: &View, asked: u64, max: usize) -> (String, u64, u64, bool) {
        let found = view.find(asked, max, false);
        let bytes = view.copy(found.range.clone());
        (String::from_utf8_lossy(&bytes).into_owned(), found.offset, found.dropped, found.eof)
    }

    #[test]
    fn a_ring_that_has_moved_on_says_how_much_is_missing() {
        let ring = view("", "efgh", 8, false);
        assert_eq!(find(&ring, 0, 100), ("efgh".into(), 4, 4, false));
        assert_eq!(find(&ring, 5, 2), ("fg".into(), 5, 0, false));
        assert_eq!(find(&ring, 8, 2), (String::new(), 8, 0, false));
        assert_eq!(find(&ring, 9, 2), (String::new(), 9, 0, false));
        assert_eq!(find(&view("", "efgh", 8, true), 4, 100), ("efgh".into(), 4, 0, true));
        assert_eq!(find(&view("", "efgh", 8, true), 4, 3), ("efg".into(), 4, 0, false));
        assert_eq!(find(&view("", "efgh", 8, true), 20, 3), (String::new(), 20, 0, true));
    }

    #[test]
    fn what_is_missing_in_the_middle_is_skipped() {
        let both = view("abc", "xyz", 20, true);
        assert_eq!(find(&both, 1, 100), ("bc".into(), 1, 0, false));
        assert_eq!(find(&both, 3, 100), ("xyz".into(), 17, 14, true));
        assert_eq!(find(&both, 18, 100), ("yz".into(), 18, 0, true));
        let head = view("abc", "", 20, true);
        assert_eq!(find(&head, 0, 100), ("abc".into(), 0, 0, false));
        assert_eq!(find(&head, 3, 100), (String::new(), 20, 17, true));
        assert_eq!(find(&view("", "", 0, true), 0, 1), (String::new(), 0, 0, true));
    }

    #[test]
    fn no_character_is_split_that_can_still_be_whole() {
        assert_eq!(find(&view("", "aé", 3, false), 0, 2).0, "a");
        assert_eq!(find(&view("", "aé", 3, false), 1, 2).0, "é");
        // Not even one fits: bytes then, and no standstill.
        let one = view("", "é", 2, false);
        assert_eq!(one.find(0, 1, false).range, 0..1);
        let half = View { parts: [&[], &[b'a', 0xc3], &[]], total: 2, ended: false };
        assert_eq!(half.find(0, 9, false).range, 0..1);
        assert!(half.find(1, 9, false).is_nothing(), "the rest may come");
        assert_eq!(half.find(1, 9, true).range, 1..2);
        let ended = View { ended: true, ..half };
        assert_eq!(ended.find(1, 9, false).range, 1..2);
        // Before a gap it never comes.
        let gap = View { parts: [&[b'a', 0xc3], b"z", &[]], total: 9, ended: false };
        assert_eq!(gap.find(1, 9, false).range, 1..2);
    }

    #[test]
    fn reading_on_gives_every_byte_once_whatever_the_size_of_a_read() {
        let text = "aé€🦀z".repeat(50);
        let view = view("", &text, text.len() as u64, true);
        for max in 1..40 {
            let (mut all, mut offset) = (Vec::new(), 0);
            loop {
                let found = view.find(offset, max, false);
                assert_eq!((found.offset, found.dropped), (offset, 0));
                all.extend(view.copy(found.range.clone()));
                offset += found.range.len() as u64;
                if found.eof {
                    break;
                }
                assert!(!found.range.is_empty(), "a standstill at {offset} of reads of {max}");
            }
            assert_eq!(all, text.as_bytes(), "{max}");
        }
    }
}
