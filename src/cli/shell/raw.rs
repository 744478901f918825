//! Our own terminal, in raw mode for as long as this is held.
//!
//! Runs on the main thread. Dropping it puts the terminal back, so every way out does, a panic included.

use std::io::{self, IsTerminal};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::sys::pty;

/// The terminal as it was.
pub(super) struct Raw {
    before: Termios,
}

impl Raw {
    pub fn is_possible() -> bool {
        io::stdin().is_terminal() && io::stdout().is_terminal()
    }

    /// Columns and rows; what cannot be known, or is zero, is as on paper.
    pub fn size() -> (u16, u16) {
        match pty::size(io::stdout()) {
            Ok((cols, rows)) if cols > 0 && rows > 0 => (cols, rows),
            Ok(_) | Err(_) => (80, 24),
        }
    }

    /// Every key goes through from now on, Ctrl-C too.
    pub fn enter() -> io::Result<Raw> {
        let raw = Raw { before: tcgetattr(io::stdin())? };
        raw.again()?;
        Ok(raw)
    }

    /// After a stop: the shell that we were stopped from has put it back to what it likes.
    pub fn again(&self) -> io::Result<()> {
        let mut mode = self.before.clone();
        cfmakeraw(&mut mode);
        // Not flushing: what was typed ahead is meant for the command.
        Ok(tcsetattr(io::stdin(), SetArg::TCSADRAIN, &mode)?)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}
