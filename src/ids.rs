//! What sessions, commands, requests and clients are known by. Pure.

use std::fmt;
use std::sync::Arc;

/// A session, `s12` on the wire; never reused in a process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

/// A command, `e12` on the wire; never reused in a process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExecId(pub u64);

/// One request of one connection, from its parsing to the last byte of its answer; never on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "s{}", self.0)
    }
}

impl fmt::Display for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

impl SessionId {
    /// The session that a client means, if it is an id at all.
    pub fn parse(text: &str) -> Option<SessionId> {
        number(text.strip_prefix('s')?).map(SessionId)
    }

    /// The worker, of so many, that has the session from its opening to its end.
    pub fn worker(self, workers: usize) -> usize {
        (self.0 % workers as u64) as usize
    }
}

impl ExecId {
    /// The command that a client means, if it is an id at all.
    pub fn parse(text: &str) -> Option<ExecId> {
        number(text.strip_prefix('e')?).map(ExecId)
    }
}

/// Only the one way in which we write a number.
fn number(digits: &str) -> Option<u64> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || digits.starts_with('0') {
        return None;
    }
    digits.parse().ok()
}

/// Whom quotas and rates count against: `ip:127.0.0.1`, `uid:0`.
pub type ClientName = Arc<str>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        assert_eq!(SessionId::parse("s12"), Some(SessionId(12)));
        for text in ["", "s", "s0", "s01", "s-1", "s+1", "12", "e12", "s1 ", "s99999999999999999999"] {
            assert_eq!(SessionId::parse(text), None, "{text}");
        }
    }
}
