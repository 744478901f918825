//! What a connection is owed, in order. Pure but for the writing; encoded answers are fetched as the socket takes them.

use std::collections::VecDeque;
use std::io::{self, Write};

use crate::admission::buffers::Share;
use crate::ids::RequestId;

/// A worker by its number, and the request that it works for.
pub type Source = (usize, RequestId);

#[derive(Debug, Default)]
pub struct Outbox {
    items: VecDeque<Item>,
    /// Bytes of the first item that are written.
    written: usize,
    unsent: usize,
    /// Of them, in items that have a share of their own.
    shared: usize,
}

#[derive(Debug)]
enum Item {
    Bytes {
        bytes: Vec<u8>,
    },
    /// A line of a stream, with its memory; when it is written the source may go on.
    Stream {
        bytes: Vec<u8>,
        then: Source,
        _share: Share,
    },
    /// Here belongs what the source has not encoded yet.
    Pull {
        source: Source,
        asked: bool,
    },
}

/// Answers that are small go into one buffer, up to this size, and so into one write.
const COALESCE_BYTES: usize = 32 * 1024;

impl Outbox {
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes held that the socket has not taken.
    pub fn unsent(&self) -> usize {
        self.unsent
    }

    /// Of these, what the connection has to account for.
    pub fn unshared(&self) -> usize {
        self.unsent - self.shared
    }

    /// A small answer, written in its place; its line's end follows, unless nothing was written.
    pub fn small_line(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let tail = self.tail();
        let before = tail.len();
        write(tail);
        if tail.len() > before {
            tail.push(b'\n');
        }
        let written = tail.len() - before;
        self.unsent += written;
    }

    /// Room at the end for what is small.
    fn tail(&mut self) -> &mut Vec<u8> {
        let fits = matches!(self.items.back(), Some(Item::Bytes { bytes }) if bytes.len() < COALESCE_BYTES);
        if !fits {
            self.items.push_back(Item::Bytes { bytes: Vec::new() });
        }
        match self.items.back_mut() {
            Some(Item::Bytes { bytes }) => bytes,
            Some(Item::Stream { .. } | Item::Pull { .. }) | None => unreachable!("the last item was just looked at"),
        }
    }

    /// A line, or a part of one.
    pub fn line(&mut self, bytes: Vec<u8>) {
        self.unsent += bytes.len();
        if bytes.len() < COALESCE_BYTES / 4 {
            self.tail().extend_from_slice(&bytes);
        } else {
            self.items.push_back(Item::Bytes { bytes });
        }
    }

    /// A line of a stream.
    pub fn stream_line(&mut self, bytes: Vec<u8>, then: Source, share: Share) {
        self.unsent += bytes.len();
        self.shared += bytes.len();
        self.items.push_back(Item::Stream { bytes, then, _share: share });
    }

    /// Here the rest of an answer will stand.
    pub fn pull(&mut self, source: Source) {
        self.items.push_back(Item::Pull { source, asked: false });
    }

    /// The parts of a batch's answer.
    pub fn batch(&mut self, parts: Vec<Part>) {
        for part in parts {
            match part {
                Part::Bytes(bytes) => self.line(bytes),
                Part::Pull(source) => self.pull(source),
            }
        }
    }

    /// The next piece of an answer that was asked for.
    pub fn piece(&mut self, request: RequestId, bytes: Vec<u8>, more: bool) {
        let at = self.items.iter().position(|item| matches!(item, Item::Pull { source, .. } if source.1 == request));
        let Some(at) = at else { return };
        self.unsent += bytes.len();
        if more {
            if let Item::Pull { asked, .. } = &mut self.items[at] {
                *asked = false;
            }
            self.items.insert(at, Item::Bytes { bytes });
        } else {
            self.items[at] = Item::Bytes { bytes };
        }
    }

    /// Writes as much as the socket takes. `go_on` is called for each source that may send its next piece. Whether
    /// the socket would take more.
    pub fn write(&mut self, socket: &mut impl Write, mut go_on: impl FnMut(Source)) -> io::Result<bool> {
        loop {
            let (bytes, then) = match self.items.front_mut() {
                None => return Ok(true),
                Some(Item::Pull { source, asked }) => {
                    if !std::mem::replace(asked, true) {
                        go_on(*source);
                    }
                    return Ok(true);
                }
                Some(Item::Bytes { bytes }) => (bytes, None),
                Some(Item::Stream { bytes, then, .. }) => (bytes, Some(*then)),
            };
            while self.written < bytes.len() {
                match socket.write(&bytes[self.written..]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(wrote) => {
                        self.written += wrote;
                        self.unsent -= wrote;
                        self.shared -= if then.is_some() { wrote } else { 0 };
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            self.written = 0;
            self.items.pop_front();
            // Its share has come back: there is room for the next one.
            if let Some(source) = then {
                go_on(source);
            }
        }
    }
}

/// A part of an answer that is put together from several.
#[derive(Debug)]
pub enum Part {
    Bytes(Vec<u8>),
    Pull(Source),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::buffers::Account;

    /// Takes so many bytes, then blocks.
    struct Narrow(Vec<u8>, usize);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let take = bytes.len().min(self.1);
            if take == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.0.extend_from_slice(&bytes[..take]);
            self.1 -= take;
            Ok(take)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const REQUEST: RequestId = RequestId(7);

    #[test]
    fn an_answer_is_fetched_only_when_its_turn_has_come() {
        let mut outbox = Outbox::default();
        outbox.line(b"first\n".to_vec());
        outbox.line(b"head ".to_vec());
        outbox.pull((0, REQUEST));
        outbox.line(b"tail\n".to_vec());
        let mut socket = Narrow(Vec::new(), 3);
        let mut asked = Vec::new();
        assert!(!outbox.write(&mut socket, |source| asked.push(source)).unwrap());
        assert_eq!((asked.len(), outbox.unsent()), (0, 13));
        socket.1 = 100;
        assert!(outbox.write(&mut socket, |source| asked.push(source)).unwrap());
        assert!(outbox.write(&mut socket, |source| asked.push(source)).unwrap());
        assert_eq!(asked, [(0, REQUEST)]);
        outbox.piece(REQUEST, b"more ".to_vec(), true);
        assert!(outbox.write(&mut socket, |source| asked.push(source)).unwrap());
        assert_eq!(asked.len(), 2);
        outbox.piece(REQUEST, b"last ".to_vec(), false);
        assert!(outbox.write(&mut socket, |_| ()).unwrap());
        assert_eq!(socket.0, b"first\nhead more last tail\n");
        assert!(outbox.is_empty());
        assert_eq!(outbox.unsent(), 0);
    }

    #[test]
    fn a_stream_goes_on_when_its_line_is_written() {
        let mut outbox = Outbox::default();
        let account = Account::of_daemon(100);
        outbox.line(b"a".to_vec());
        outbox.stream_line(b"piece\n".to_vec(), (1, REQUEST), Share::take(&account, 6).unwrap());
        assert_eq!((outbox.unsent(), outbox.unshared()), (7, 1));
        let mut socket = Narrow(Vec::new(), 6);
        let mut taken = 0;
        assert!(!outbox.write(&mut socket, |_| taken += 1).unwrap());
        assert_eq!((taken, outbox.unsent(), outbox.unshared(), account.used()), (0, 1, 0, 6));
        socket.1 = 1;
        let gone_on = |_| {
            assert_eq!(account.used(), 0);
            taken += 1;
        };
        assert!(outbox.write(&mut socket, gone_on).unwrap());
        assert_eq!((taken, outbox.unsent(), outbox.unshared()), (1, 0, 0));
    }
}
