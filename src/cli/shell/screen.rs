//! Our own terminal, to write to without ever waiting in a write.
//!
//! Runs on the main thread. Somebody may look at a terminal that is stopped, or not at all; a signal must be heard then.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;

/// The terminal, and what it has not taken yet: one piece of output at most.
pub(super) struct Screen {
    file: File,
    pending: Vec<u8>,
    written: usize,
}

impl Screen {
    /// Opened once more: whether a write waits is a property that we share with the shell that we were started from.
    pub fn open() -> io::Result<Screen> {
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        let again = OpenOptions::new().write(true).custom_flags(flags).open("/proc/self/fd/1");
        // Another user's, after `su`: then a write waits.
        let file = again.or_else(|_| io::stdout().as_fd().try_clone_to_owned().map(File::from))?;
        Ok(Screen { file, pending: Vec::new(), written: 0 })
    }

    pub fn is_clear(&self) -> bool {
        self.pending.is_empty()
    }

    pub fn show(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        debug_assert!(self.is_clear(), "one piece at a time");
        (self.pending, self.written) = (bytes, 0);
        self.go_on()
    }

    /// Writes as much as the terminal takes.
    pub fn go_on(&mut self) -> io::Result<()> {
        while self.written < self.pending.len() {
            match self.file.write(&self.pending[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(wrote) => self.written += wrote,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.pending.clear();
        Ok(())
    }
}

impl AsFd for Screen {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
