//! `cofferdam shell`: an interactive terminal on a daemon.
//!
//! Runs on the main thread, alone. It waits in one place, for keys, for the daemon and for signals, and whatever ends
//! it, a panic too, puts the terminal back as it was.

mod raw;
mod screen;
mod talk;

use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::Arg::{Long, Value};

use self::raw::Raw;
use self::talk::Talk;
use super::call::{ADDR, Failure, advice, connect, dialable};
use super::run::outcome::{code_of, code_of_error};
use super::{Stop, complain, other, utf8};
use crate::client::{Client, ClientError, Duplex, OpenSession, Pty, Record, Run, Status};

pub(super) const HELP: &str = "\
cofferdam shell: an interactive terminal on a daemon

Usage: cofferdam shell [OPTION]… [-- COMMAND [ARG]…]

Runs a shell (bash where there is one, else sh), or COMMAND, on a terminal of its own in a session of its own. The size
of the window is followed; when the command ends, or the connection does, the session is closed with all that runs in it.

Options:
  --addr ADDR          HOST:PORT or unix:PATH of the daemon; default 127.0.0.1:7643
  --token-file FILE    log in first, with the token in this file
  -h, --help           print this
  -V, --version        print the version

Exit code: the command's own; 124 timed out, 125 cofferdam failed, 126 not executable, 127 not found, 128+N ended by
signal N.

Example:
  cofferdam shell --addr unix:/run/cofferdam.sock -- htop
";

/// A login shell would read files of a home that is empty; an interactive one asks and has job control.
const SHELL: &str = "command -v bash >/dev/null && exec bash -i; exec sh -i";
/// Exit code when it is our fault, or the daemon's.
const OURS_FAILED: i32 = 125;

#[derive(Debug, PartialEq)]
struct ShellArgs {
    addr: OsString,
    token_file: Option<PathBuf>,
    command: Vec<String>,
}

fn parse(mut parser: lexopt::Parser) -> Result<ShellArgs, Stop> {
    let mut args = ShellArgs { addr: OsString::from(ADDR), token_file: None, command: Vec::new() };
    while let Some(arg) = parser.next()? {
        match arg {
            Long("addr") => args.addr = parser.value()?,
            Long("token-file") => args.token_file = Some(parser.value()?.into()),
            // The command's own options are its own.
            Value(program) => {
                let words = std::iter::once(program).chain(parser.raw_args()?);
                args.command = words.map(|word| utf8(word, "COMMAND")).collect::<Result<_, _>>()?;
            }
            arg => return Err(other(arg)),
        }
    }
    dialable(&args.addr)?;
    Ok(args)
}

pub(super) fn main(parser: lexopt::Parser) -> Result<i32, Stop> {
    let args = parse(parser)?;
    if !Raw::is_possible() {
        return Err(Stop::Usage(
            "standard input and output are no terminal; 'cofferdam call exec.run' needs none".into(),
        ));
    }
    Ok(match run(&args) {
        Ok(End::Command(record)) => {
            say_why(&record);
            code_of(&record)
        }
        Ok(End::Signal(signal)) => 128 + signal,
        Err(Failure::Client(error)) => {
            complain(&format!("cofferdam shell: {error}{}", advice(&error, &args.addr)));
            code_of_error(&error)
        }
        Err(Failure::Token(what)) => {
            complain(&format!("cofferdam shell: {what}"));
            OURS_FAILED
        }
        Err(Failure::Stdout) => OURS_FAILED,
    })
}

/// How it came to an end.
enum End {
    Command(Box<Record>),
    /// Of ours; the session ends with the connection.
    Signal(i32),
}

fn run(args: &ShellArgs) -> Result<End, Failure> {
    let mut client = connect(&args.addr, args.token_file.as_deref())?;
    let longest = longest_s(&mut client)?;
    let session = client.open(&OpenSession { name: Some("shell".into()), ..OpenSession::default() })?.session;
    let (cols, rows) = Raw::size();
    let command = match args.command.is_empty() {
        true => Run::cmd(SHELL),
        false => Run::argv(args.command.iter().cloned()),
    };
    let term = std::env::var("TERM").ok().filter(|term| !term.is_empty() && term.len() <= 64);
    let run = Run {
        pty: Some(Pty { cols, rows, term }),
        stream: Some(true),
        timeout_s: longest,
        ..command.in_session(session)
    };
    let started = client.start(&run)?;
    let raw = Raw::enter().map_err(|error| ClientError::Io { step: "set the terminal".into(), error })?;
    let end = Talk::new(Duplex::new(client), started.exec, &raw)?.run();
    drop(raw);
    end
}

/// A person sits as long as the daemon lets them, not as long as a command runs that nobody said more about.
fn longest_s(client: &mut Client) -> Result<Option<f64>, ClientError> {
    #[derive(serde::Deserialize)]
    struct Info {
        limits: Limits,
    }
    #[derive(serde::Deserialize)]
    struct Limits {
        max_timeout_s: Option<f64>,
    }
    let info = client.info()?;
    Ok(serde_json::from_str::<Info>(info.get()).ok().and_then(|info| info.limits.max_timeout_s))
}

/// What an exit code cannot say.
fn say_why(record: &Record) {
    let limit = record.limit.as_deref().map(|limit| format!(" ({limit})")).unwrap_or_default();
    if !matches!(record.status, Status::Exited | Status::Signaled) {
        complain(&format!("cofferdam shell: ended: {}{limit}", record.status.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<ShellArgs, String> {
        parse(lexopt::Parser::from_args(words)).map_err(|stop| match stop {
            Stop::Usage(what) => what,
            Stop::Help | Stop::Version => "help".into(),
        })
    }

    #[test]
    fn options_end_where_the_command_begins() {
        let args = parsed(&["--addr", "unix:/s", "--", "ls", "--addr", "-h"]).unwrap();
        assert_eq!(args.command, ["ls", "--addr", "-h"]);
        assert_eq!(args.addr, "unix:/s");
        assert_eq!(parsed(&["top", "-b"]).unwrap().command, ["top", "-b"]);
        assert!(parsed(&[]).unwrap().command.is_empty());
        assert!(parsed(&["--addr", "7643"]).unwrap_err().contains("--addr"));
        assert!(parsed(&["--nosuch"]).is_err());
    }
}
