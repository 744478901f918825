//! What a client asks of a command that runs: input, signals, another size of its terminal; and how it is listed.

use std::time::Instant;

use super::{Command, Phase};
use crate::protocol::encode::{Object, string};
use crate::protocol::fault::{Fault, Reason};
use crate::protocol::request::{Order, Program};
use crate::worker::pipes::{Overfull, Sink};
use crate::worker::reads::View;
use crate::worker::record::Verdict;
use crate::worker::terminal::END_OF_FILE;
use crate::worker::tools::Tools;

/// Whether a command takes more input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feed {
    /// It was not started so.
    Closed,
    Open,
    /// The end was told.
    Ended,
    /// For as long as it is there.
    Terminal,
}

/// Of a command line, shown in a list: a script may be megabytes.
const SHOWN_BYTES: usize = 1024;

/// A command line as a list shows it: the field, and its JSON.
pub fn shown(program: &Program) -> (&'static str, Box<[u8]>) {
    let mut json = Vec::new();
    match program {
        Program::Shell(line) => {
            string(&mut json, &cut(line, SHOWN_BYTES));
            ("cmd", json.into())
        }
        Program::Argv(argv) => {
            let mut left = SHOWN_BYTES;
            for word in argv.iter() {
                json.push(if json.is_empty() { b'[' } else { b',' });
                string(&mut json, &cut(&String::from_utf8_lossy(word), left));
                left = left.saturating_sub(word.len() + 1);
                if left == 0 {
                    break;
                }
            }
            json.push(b']');
            ("argv", json.into())
        }
    }
}

fn cut(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let end = (0..=bytes_max).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

impl Command {
    /// Does what is asked, and gives `"result":…`.
    pub fn obey(&mut self, order: Order, tools: &mut Tools) -> Result<Vec<u8>, Fault> {
        let result = match order {
            Order::Write { bytes, eof } => {
                self.take_input(&bytes, eof, tools)?;
                format!("{{\"accepted_bytes\":{}}}", bytes.len())
            }
            Order::Signal(signal) if self.is_in_shell() => {
                self.signal_in_shell(signal);
                "{\"delivered\":true}".to_owned()
            }
            Order::Signal(signal) => {
                let child = self.child.as_ref().ok_or_else(|| Fault::exec_not_found(&self.exec.to_string()))?;
                child.signal_group_by_number(signal);
                "{\"delivered\":true}".to_owned()
            }
            Order::Kill => {
                self.kill(Verdict::Cancelled, tools);
                "{\"killed\":true}".to_owned()
            }
            Order::Resize(size) => {
                let none = || Fault::new(Reason::InvalidParams, "the command has no terminal");
                self.terminal.as_ref().ok_or_else(none)?.resize(size);
                "{}".to_owned()
            }
            Order::Wait { .. } | Order::Read(_) => unreachable!("the worker answers these itself"),
        };
        Ok(format!("\"result\":{result}").into_bytes())
    }

    fn take_input(&mut self, bytes: &[u8], eof: bool, tools: &Tools) -> Result<(), Fault> {
        let closed = |what: &str| Err(Fault::new(Reason::InvalidParams, what));
        match self.feed {
            Feed::Closed => return closed("the command's input is not open: it was not started with stdin_open"),
            Feed::Ended if !bytes.is_empty() => return closed("the command's input has ended: eof was said"),
            Feed::Ended | Feed::Open | Feed::Terminal => {}
        }
        let commands = &tools.setup.config.commands;
        let bytes_max = commands.max_stdin_bytes;
        // What nobody reads any more is taken and gone, as in a pipe to `head`.
        let Some(input) = &mut self.input else { return Ok(()) };
        let appended = match self.feed {
            Feed::Terminal if eof => input.append(&[bytes, &[END_OF_FILE]].concat(), bytes_max + 1),
            _ => input.append(bytes, bytes_max),
        };
        appended.map_err(|Overfull { limit, usage }| Fault::stdin_full(limit, usage))?;
        let more = if eof && self.feed == Feed::Open {
            self.feed = Feed::Ended;
            input.end()
        } else {
            input.write()
        };
        if !more {
            self.input = None;
        }
        Ok(())
    }

    /// Its main process has ended, or its record was told.
    pub fn has_ended(&self) -> bool {
        self.given_up || self.phase == Phase::Ended
    }

    /// What is kept of an output now; none where it is streamed.
    pub fn view(&self, stderr: bool) -> Option<View<'_>> {
        let output = if stderr { &self.stderr } else { &self.stdout };
        let ended = self.phase != Phase::Launching && output.has_ended();
        match &output.sink {
            Sink::Ring(ring) => Some(View { parts: ring.parts(), total: ring.total(), ended }),
            Sink::Stream(_) => None,
        }
    }

    /// Appends its row of `exec.list`; false where it does not run, not yet or not any more.
    pub fn list(&self, out: &mut Vec<u8>) -> bool {
        let Some(pid) = self.pid().filter(|_| self.phase != Phase::Ended && !self.hosts) else { return false };
        let mut row = Object::begin(out);
        row.str("exec", &self.exec.to_string());
        row.str("session", &self.session.to_string());
        row.int("pid", pid);
        row.raw(self.shown.0, &self.shown.1);
        row.int("running_ms", Instant::now().saturating_duration_since(self.started).as_millis() as u64);
        row.int("stdout_bytes", self.stdout.total());
        row.int("stderr_bytes", self.stderr.total());
        row.end();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inv7_a_long_command_line_is_shown_cut() {
        let show = |program| String::from_utf8(shown(&program).1.into()).unwrap();
        assert_eq!(show(Program::Shell("echo \"a\"".into())), r#""echo \"a\"""#);
        assert_eq!(show(Program::argv(&["a", "b"])), r#"["a","b"]"#);
        let long = "é".repeat(5000);
        assert!(show(Program::Shell(long.clone())).len() < 1100);
        assert!(show(Program::argv(&[&long, &long])).len() < 1100);
        assert!(show(Program::argv(&[""; 5000])).len() < 4 * 1100);
    }
}
