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
    /// None until the command runs.
    pipe: Option<File>,
    bytes: Vec<u8>,
    written: usize,
    share: Share,
    /// More may come: the pipe stays open when all is written.
    open: bool,
}

/// What waits to be read leaves no room for more: so many bytes do, and so many may.
#[derive(Debug, PartialEq, Eq)]
pub struct Overfull {
    pub limit: u64,
    pub usage: u64,
}

impl Input {
    pub fn new(bytes: Vec<u8>, share: Share, open: bool) -> Input {
        Input { pipe: None, bytes, written: 0, share, open }
    }

    /// The command runs; false when there is no more to do, and the pipe is to be closed.
    pub fn attach(&mut self, pipe: OwnedFd, registry: &Registry, token: Token) -> bool {
        let pipe = self.pipe.insert(pipe.into());
        let fd = pipe.as_raw_fd();
        // A pipe that takes all at once needs no watch.
        self.write() && registry.register(&mut SourceFd(&fd), token, Interest::WRITABLE).is_ok()
    }

    /// Writes what fits; false when there is no more to do, and the pipe is to be closed.
    pub fn write(&mut self) -> bool {
        let Some(pipe) = &mut self.pipe else { return true };
        while self.written < self.bytes.len() {
            match pipe.write(&self.bytes[self.written..]) {
                Ok(wrote) => self.written += wrote,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // EPIPE: the command has closed its input, as `head` may.
                Err(_) => return false,
            }
        }
        (self.bytes, self.written) = (Vec::new(), 0);
        self.share.resize(0);
        self.open
    }

    /// Appends bytes, all of them or none; they are written with the next [`Input::write`].
    pub fn append(&mut self, bytes: &[u8], bytes_max: u64) -> Result<(), Overfull> {
        let waiting = self.bytes.len() - self.written;
        let full = |limit: u64| Err(Overfull { limit, usage: waiting as u64 });
        if (waiting + bytes.len()) as u64 > bytes_max {
            return full(bytes_max);
        }
        // Where others hold the memory, it may have less.
        if !self.share.resize(waiting + bytes.len()) {
            return full(bytes_max.min(waiting as u64 + self.share.account().room()));
        }
        self.bytes.drain(..self.written);
        self.written = 0;
        self.bytes.reserve_exact(bytes.len());
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Nothing more will come; false when the pipe is to be closed.
    pub fn end(&mut self) -> bool {
        self.open = false;
        self.write()
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
    /// It is a terminal's: a short read says nothing, and the end is an error.
    terminal: bool,
    /// It is a named pipe: while the command runs, its end only says that nobody has it open just now.
    fifo: bool,
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
        Output { pipe: None, sink, small: 0, registered: false, terminal: false, fifo: false }
    }

    pub fn open(&mut self, pipe: OwnedFd, terminal: bool) {
        self.pipe = Some(pipe.into());
        self.terminal = terminal;
    }

    pub fn open_fifo(&mut self, pipe: OwnedFd) {
        self.pipe = Some(pipe.into());
        self.fifo = true;
    }

    /// Gives up a pipe that somebody else writes to still; the output has ended here.
    pub fn detach(&mut self, registry: &Registry) -> Option<OwnedFd> {
        self.deafen(registry);
        let pipe = self.pipe.take();
        self.close();
        pipe.map(OwnedFd::from)
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
            match fill(pipe, &mut scratch[..most], self.terminal) {
                Ok(0) if self.fifo && !last => return (Turn::Waiting, got),
                Ok(0) => {
                    if self.fifo {
                        // Another descriptor goes on with the same pipe: a watch would stay behind.
                        self.deafen(registry);
                    }
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
                    if read < most && !last && !self.terminal {
                        // A short read has emptied the pipe.
                        if self.small < SMALL_IN_A_ROW {
                            return (Turn::Waiting, got);
                        }
                        self.deafen(registry);
                        return (Turn::Pause, got);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.terminal && got > 0 && !last && self.small >= SMALL_IN_A_ROW {
                        self.deafen(registry);
                        return (Turn::Pause, got);
                    }
                    return (Turn::Waiting, got);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The last who held the terminal is gone.
                Err(error) if self.terminal && error.raw_os_error() == Some(nix::libc::EIO) => {
                    self.close();
                    return (Turn::Ended, got);
                }
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

/// One read; of a terminal, which gives 4 KiB at a time, as many as there is something to read.
fn fill(pipe: &mut File, into: &mut [u8], terminal: bool) -> io::Result<usize> {
    let mut filled = pipe.read(into)?;
    while terminal && filled > 0 && filled < into.len() {
        match pipe.read(&mut into[filled..]) {
            Ok(read) if read > 0 => filled += read,
            // The same comes again with the next read.
            Ok(_) | Err(_) => break,
        }
    }
    Ok(filled)
}
