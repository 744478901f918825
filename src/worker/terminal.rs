//! The terminal of a command: its size, what is typed at its end, and the hang-up.

use std::os::fd::OwnedFd;
use std::time::Instant;

use super::command::Command;
use super::pipes::Turn;
use super::record::Verdict;
use super::tools::Tools;
use crate::protocol::request::Size;
use crate::strings::{Strings, name_of};
use crate::sys::pty;

/// What ^D sends: the end of the input, where it stands at the beginning of a line.
pub const END_OF_FILE: u8 = 4;
/// Turns of reading what a terminal holds: the kernel keeps less than two.
const TURNS_MAX: usize = 4;

/// The command's side of its terminal. While it is held here, the terminal is there, whoever else has closed it.
#[derive(Debug)]
pub struct Terminal(OwnedFd);

impl Terminal {
    pub fn new(side: OwnedFd) -> Terminal {
        Terminal(side)
    }

    /// Whoever runs in the foreground gets SIGWINCH.
    pub fn resize(&self, size: Size) {
        if let Err(errno) = pty::set_size(&self.0, size.cols, size.rows) {
            log::warn!("a terminal cannot be resized: {errno}");
        }
    }
}

/// TERM as it was given, or else as most emulators call themselves.
pub fn name_terminal(environment: &mut Strings, term: Option<&str>) {
    let is_term = |variable: &&[u8]| name_of(variable) == b"TERM";
    if environment.iter().any(|variable| is_term(&variable)) {
        if term.is_none() {
            return;
        }
        *environment = environment.iter().filter(|variable| !is_term(variable)).collect();
    }
    environment.push_parts(&[b"TERM=", term.unwrap_or("xterm-256color").as_bytes()]);
}

/// What is typed for `bytes` that are to be all the input there is.
pub fn typed(mut bytes: Vec<u8>) -> Vec<u8> {
    // Within a line ^D only sends what was typed of it.
    if bytes.last().is_some_and(|byte| *byte != b'\n') {
        bytes.push(END_OF_FILE);
    }
    bytes.push(END_OF_FILE);
    bytes
}

impl Command {
    /// Ends it because nobody is there any more. One on a terminal sees the line drop (SIGHUP) and has the grace to
    /// leave, as at any terminal; others are killed.
    pub fn hang_up(&mut self, tools: &mut Tools) {
        let grace = self.hang_up_grace(tools);
        if self.terminal.is_none() || !self.is_running() || grace.is_zero() {
            return self.kill(Verdict::Cancelled, tools);
        }
        for _ in 0..TURNS_MAX {
            let (turn, got) = self.stdout.read(&mut tools.scratch, &tools.registry, true);
            tools.count_read(got);
            if turn != Turn::More {
                break;
            }
        }
        // The last who holds the master closes it: the kernel hangs up.
        (self.input, self.terminal) = (None, None);
        self.stdout.close();
        self.asked(Verdict::Cancelled, Instant::now() + grace, tools);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_the_name_that_was_given() {
        let named = |before: &[&[u8]], term| {
            let mut environment = Strings::of(before);
            name_terminal(&mut environment, term);
            environment
        };
        assert_eq!(named(&[b"A=1"], None), Strings::of(&[b"A=1", b"TERM=xterm-256color"]));
        assert_eq!(named(&[b"TERM=dumb", b"A=1"], None), Strings::of(&[b"TERM=dumb", b"A=1"]));
        assert_eq!(named(&[b"TERM=dumb", b"TERMS=1"], Some("vt100")), Strings::of(&[b"TERMS=1", b"TERM=vt100"]));
    }

    #[test]
    fn an_end_within_a_line_is_typed_twice() {
        assert_eq!(typed(Vec::new()), b"\x04");
        assert_eq!(typed(b"a\n".to_vec()), b"a\n\x04");
        assert_eq!(typed(b"a".to_vec()), b"a\x04\x04");
    }
}
