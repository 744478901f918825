//! What a shell reads its lines from: written without ever blocking.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::script::packet;

/// Our end of the pipe, and what does not fit into it yet: one command at most.
#[derive(Debug)]
pub struct Feeder {
    pipe: File,
    bytes: Vec<u8>,
    written: usize,
    watched: bool,
    packets: bool,
}

impl Feeder {
    pub fn new(pipe: OwnedFd) -> Self {
        Feeder { pipe: pipe.into(), bytes: Vec::new(), written: 0, watched: false, packets: false }
    }

    /// From now on the shell finds each line apart, however much it reads ahead.
    pub fn use_packets(&mut self) -> nix::Result<()> {
        fcntl(&self.pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_DIRECT))?;
        self.packets = true;
        Ok(())
    }

    pub fn push(&mut self, script: Vec<u8>) {
        debug_assert!(self.bytes.is_empty(), "a shell is given one command at a time");
        (self.bytes, self.written) = (script, 0);
    }

    /// Writes what fits; is to be called again when there is room. A shell that is gone is told of by its end.
    pub fn write(&mut self, registry: &Registry, token: Token) {
        while self.written < self.bytes.len() {
            let rest = &self.bytes[self.written..];
            match self.pipe.write(if self.packets { packet(rest) } else { rest }) {
                Ok(wrote) => self.written += wrote,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.watch(registry, token),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        (self.bytes, self.written) = (Vec::new(), 0);
        if std::mem::take(&mut self.watched) {
            let _ = registry.deregister(&mut SourceFd(&self.pipe.as_raw_fd()));
        }
    }

    fn watch(&mut self, registry: &Registry, token: Token) {
        if !self.watched {
            let fd = self.pipe.as_raw_fd();
            self.watched = registry.register(&mut SourceFd(&fd), token, Interest::WRITABLE).is_ok();
            if !self.watched {
                log::error!("the input of a shell cannot be watched; its command will time out");
            }
        }
    }
}

/// Looks no more for what comes out of the other pipe.
pub fn deafen(report: &OwnedFd, registry: &Registry) {
    let _ = registry.deregister(&mut SourceFd(&report.as_raw_fd()));
}

/// Looks for what comes out of the other pipe.
pub fn listen(report: &OwnedFd, registry: &Registry, token: Token) -> std::io::Result<()> {
    registry.register(&mut SourceFd(&report.as_raw_fd()), token, Interest::READABLE)
}
