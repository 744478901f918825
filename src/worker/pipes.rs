//! Our ends of a command's pipes: what it reads is written without ever blocking, what it writes is read in bounded
//! turns into a ring or a stream.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::ring::Ring;
use super::stream::Stream;
use crate::admission::buffers::Share;

/// The input of a command, until all of it is written or nobody reads it any more.
#[derive(Debug)]
pub struct Input {
    pipe: File,
    bytes: Vec<u8>,
    written: usize,
    _share: Share,
}

impl Input {
    /// Starts to write; none when everything was taken at once.
    pub fn start(pipe: OwnedFd, bytes: Vec<u8>, share: Share, registry: &Registry, token: Token) -> Option<Input> {
        let mut input = Input { pipe: pipe.into(), bytes, written: 0, _share: share };
        if !input.write() {
            return None;
        }
        let fd = input.pipe.as_raw_fd();
        registry.register(&mut SourceFd(&fd), token, Interest::WRITABLE).ok().map(|()| input)
    }

    /// Writes what fits; false when there is no more to do, and the pipe is to be closed.
    pub fn write(&mut self) -> bool {
        while self.written < self.bytes.len() {
            match self.pipe.write(&self.bytes[self.written..]) {
                Ok(wrote) => self.written += wrote,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // EPIPE: the command has closed its input, as `head` may.
                Err(_) => return false,
            }
        }
        false
    }
}

/// Where an output goes.
#[derive(Debug)]
pub enum Sink {
    Ring(Ring),
    Stream(Stream),
}

/// One output of a command.
#[derive(Debug)]
pub struct Output {
    /// None after its end.
    pipe: Option<File>,
    pub sink: Sink,
    /// Small pieces in a row.
    small: u32,
    registered: bool,
}

/// What a turn of reading came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// The pipe is empty: an event tells when it is not.
    Waiting,
    /// There may be more; the turn's budget is used up.
    More,
    /// Pieces come small and often: do not look before the next one has gathered.
    Pause,
    /// A stream whose reader is behind: not before it has caught up.
    Blocked,
    Ended,
}

/// Reads of one pipe in a turn, 64 KiB each: others wait no longer than that.
const READS_A_TURN: usize = 2;
/// A piece that is smaller wastes more on waking up than on reading.
const SMALL_BYTES: usize = 4096;
/// So many in a row are a drip: one-shot commands, which write once or twice, never pay for a pause.
const SMALL_IN_A_ROW: u32 = 8;

impl Output {
    pub fn none(sink: Sink) -> Self {
        Output { pipe: None, sink, small: 0, registered: false }
    }

    pub fn open(&mut self, pipe: OwnedFd) {
        self.pipe = Some(pipe.into());
    }

    /// Looks for events: for the first time, or again after a pause.
    pub fn listen(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let Some(pipe) = &self.pipe else { return Ok(()) };
        if self.registered {
            return Ok(());
        }
        self.registered = true;
        registry.register(&mut SourceFd(&pipe.as_raw_fd()), token, Interest::READABLE)
    }

    fn deafen(&mut self, registry: &Registry) {
        if let Some(pipe) = &self.pipe
            && std::mem::take(&mut self.registered)
        {
            let _ = registry.deregister(&mut SourceFd(&pipe.as_raw_fd()));
        }
    }

    pub fn has_ended(&self) -> bool {
        self.pipe.is_none()
    }

    pub fn total(&self) -> u64 {
        match &self.sink {
            Sink::Ring(ring) => ring.total(),
            Sink::Stream(stream) => stream.total(),
        }
    }

    /// Reads a bounded amount. `last`: the tree is gone, so what is there is all there will be, and waits for nobody.
    pub fn read(&mut self, scratch: &mut [u8], registry: &Registry, last: bool) -> (Turn, usize) {
        let mut got = 0;
        for _ in 0..READS_A_TURN {
            let most = match &mut self.sink {
                Sink::Ring(_) => scratch.len(),
                Sink::Stream(_) if last => scratch.len(),
                Sink::Stream(stream) => stream.room().min(scratch.len()),
            };
            if most == 0 {
                return (Turn::Blocked, got);
            }
            let Some(pipe) = &mut self.pipe else { return (Turn::Ended, got) };
            match pipe.read(&mut scratch[..most]) {
                Ok(0) => {
                    self.close();
                    return (Turn::Ended, got);
                }
                Ok(read) => {
                    got += read;
                    match &mut self.sink {
                        Sink::Ring(ring) => ring.feed(&scratch[..read]),
                        Sink::Stream(stream) => stream.feed(&scratch[..read]),
                    }
                    self.small = if read < SMALL_BYTES { self.small + 1 } else { 0 };
                    if read < most && !last {
                        // A short read has emptied the pipe.
                        if self.small < SMALL_IN_A_ROW {
                            return (Turn::Waiting, got);
                        }
                        self.deafen(registry);
                        return (Turn::Pause, got);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return (Turn::Waiting, got),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    log::warn!("cannot read an output: {error}");
                    self.close();
                    return (Turn::Ended, got);
                }
            }
        }
        (Turn::More, got)
    }

    /// Takes no more: what comes later is nobody's.
    pub fn close(&mut self) {
        self.pipe = None;
        if let Sink::Stream(stream) = &mut self.sink {
            stream.end();
        }
    }
}
