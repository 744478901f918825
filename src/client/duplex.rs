//! A connection used in both directions at once: requests go out without waiting, lines are taken as they come.
//!
//! Runs on the caller's thread, which waits for the socket itself, among other things.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use serde::Serialize;
use serde_json::value::RawValue;

use super::wire::{self, Line, Stream};
use super::{Client, ClientError, OutputPiece, write};

/// Read of the socket at once.
const READ_BYTES: usize = 64 << 10;

/// What a line of the daemon says.
#[derive(Debug)]
pub(crate) enum Event {
    Piece(OutputPiece),
    Answer { id: i64, result: Result<Box<RawValue>, ClientError> },
}

/// One connection, and what has come over it and is not taken.
#[derive(Debug)]
pub(crate) struct Duplex {
    stream: Stream,
    pending: Vec<u8>,
    /// Of `pending`, taken already, and searched for a line end without success.
    taken: usize,
    searched: usize,
    line_bytes_max: usize,
    last_id: i64,
}

impl Duplex {
    pub fn new(client: Client) -> Duplex {
        let pending = client.reader.buffer().to_vec();
        let (line_bytes_max, last_id) = (client.line_bytes_max, client.last_id);
        let stream = client.reader.into_inner();
        Duplex { stream, pending, taken: 0, searched: 0, line_bytes_max, last_id }
    }

    /// Sends a request and gives its id. The daemon reads it whatever it has to say itself, as long as there are few.
    pub fn send(&mut self, method: &str, params: &impl Serialize) -> Result<i64, ClientError> {
        self.last_id += 1;
        let request = wire::request(self.last_id, method, Some(&write(params)?));
        match self.stream.write_all(request.as_bytes()) {
            Ok(()) => Ok(self.last_id),
            Err(error) => Err(ClientError::Io { step: "send a request".into(), error }),
        }
    }

    /// Reads once what has come; waits where nothing has.
    pub fn fill(&mut self) -> Result<(), ClientError> {
        self.pending.drain(..self.taken);
        (self.searched, self.taken) = (self.searched.saturating_sub(self.taken), 0);
        let failed = |error| ClientError::Io { step: "read from the daemon".into(), error };
        if self.pending.len() > self.line_bytes_max {
            return Err(ClientError::Protocol(format!("the daemon sent a line over {} bytes", self.line_bytes_max)));
        }
        let before = self.pending.len();
        self.pending.resize(before + READ_BYTES, 0);
        let read = self.stream.read(&mut self.pending[before..]);
        self.pending.truncate(before + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(failed(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection"))),
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(failed(error)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The next thing that was said and is complete.
    pub fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            let from = self.searched.max(self.taken);
            let Some(at) = memchr::memchr(b'\n', &self.pending[from..]) else {
                self.searched = self.pending.len();
                return Ok(None);
            };
            let line = &self.pending[self.taken..from + at];
            self.taken = from + at + 1;
            if let Some(event) = event(line)? {
                return Ok(Some(event));
            }
        }
    }
}

fn event(line: &[u8]) -> Result<Option<Event>, ClientError> {
    let Some(id) = wire::id_of(line)? else {
        return Ok(wire::any_piece(line)?.map(Event::Piece));
    };
    match wire::sort(line, id)? {
        Some(Line::Answer(result)) => Ok(Some(Event::Answer { id, result })),
        Some(Line::Notification) | None => Ok(None),
    }
}

impl AsFd for Duplex {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn lines_are_taken_as_they_come_however_they_are_cut() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut duplex = Duplex::new(Client::from_unix_stream(ours));
        let piece = r#"{"method":"exec.output","params":{"id":1,"exec":"e1","stream":"stdout","offset":0,"data":"hi","encoding":"utf8"}}"#;
        let all =
            format!("{piece}\n{{\"id\":1,\"result\":{{}}}}\n{{\"method\":\"other\"}}\n{{\"id\":2,\"result\":3}}\n");
        let mut seen = Vec::new();
        for cut in all.as_bytes().chunks(7) {
            theirs.write_all(cut).unwrap();
            duplex.fill().unwrap();
            while let Some(event) = duplex.next().unwrap() {
                seen.push(match event {
                    Event::Piece(piece) => piece.data,
                    Event::Answer { id, result } => format!("{id}: {}", result.unwrap()),
                });
            }
        }
        assert_eq!(seen, ["hi", "1: {}", "2: 3"]);
        drop(theirs);
        assert!(duplex.fill().is_err());
    }
}
