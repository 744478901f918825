//! What a command is woken for: its reminders, and its descriptors. Pure.

use mio::Token;

use crate::ids::{ExecId, RequestId};

/// What a command is reminded of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Due {
    Timeout,
    Stall,
    /// Its session is too old.
    Budget,
    /// The grace after SIGTERM is over.
    Kill,
    GiveUp,
    Sample,
    Sweep,
    /// The outputs have been waited for long enough.
    Drained,
    /// A pause of this output is over.
    Rearm(Pipe),
    /// The outputs are looked at for the first time.
    Listen,
    /// What a shell has left in the background is looked at.
    Jobs,
    /// A request has waited for it long enough.
    Waited(RequestId),
    /// It has ended, and is kept no longer.
    Forget,
}

impl Due {
    /// Those of a command that is there.
    pub const ALL: [Due; 11] = [
        Due::Timeout,
        Due::Stall,
        Due::Budget,
        Due::Kill,
        Due::GiveUp,
        Due::Sample,
        Due::Sweep,
        Due::Drained,
        Due::Rearm(Pipe::Stdout),
        Due::Rearm(Pipe::Stderr),
        Due::Listen,
    ];
}

/// What a descriptor of a command is; the low bits of its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pipe {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    Exit = 3,
}

impl Pipe {
    pub fn of_token(token: Token) -> (ExecId, Pipe) {
        let pipe = match token.0 & 3 {
            0 => Pipe::Stdin,
            1 => Pipe::Stdout,
            2 => Pipe::Stderr,
            _ => Pipe::Exit,
        };
        (ExecId(token.0 as u64 >> 2), pipe)
    }

    pub fn token(self, exec: ExecId) -> Token {
        Token((exec.0 as usize) << 2 | self as usize)
    }
}
