//! `cofferdam call`: one request to a daemon, its result as JSON.
//!
//! Runs on the main thread, alone. What it is given goes to the daemon as it is; it knows one method only, the one whose
//! notifications come behind its result.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lexopt::Arg::{Long, Value};
use serde_json::value::RawValue;

use super::{DONE, FAILED, Stop, complain, other, utf8};
use crate::client::{Client, ClientError};

pub(super) const HELP: &str = "\
cofferdam call: one request to a daemon

Usage: cofferdam call METHOD [PARAMS] [OPTION]…

PARAMS is a JSON object. The result is printed as JSON on stdout; notifications that come before it, a line each, as
they come; with system.subscribe they come after it, until Ctrl-C. An error is printed as JSON on stderr, exit code 1.

Options:
  --addr ADDR          HOST:PORT or unix:PATH of the daemon; default 127.0.0.1:7643
  --token-file FILE    log in first, with the token in this file
  -h, --help           print this
  -V, --version        print the version

Example:
  cofferdam call exec.run '{\"cmd\":\"uname -a\",\"timeout_s\":5}'
";

pub(super) const ADDR: &str = "127.0.0.1:7643";
const SUBSCRIBE: &str = "system.subscribe";
/// A token file holds one short line: more is some other file, and shall not be sent anywhere.
const TOKEN_BYTES_MAX: u64 = 4096;

#[derive(Debug, PartialEq)]
struct CallArgs {
    method: String,
    params: Option<String>,
    addr: OsString,
    token_file: Option<PathBuf>,
}

pub(super) fn main(parser: lexopt::Parser) -> Result<i32, Stop> {
    let args = parse(parser)?;
    Ok(match call(&args) {
        Ok(()) => DONE,
        Err(Failure::Client(ClientError::Refused(error))) => {
            let json = serde_json::to_string(&error).unwrap_or_else(|_| error.to_string());
            complain(&json);
            FAILED
        }
        Err(Failure::Client(error)) => {
            complain(&format!("cofferdam call: {error}{}", advice(&error, &args.addr)));
            FAILED
        }
        Err(Failure::Token(what)) => {
            complain(&format!("cofferdam call: {what}"));
            FAILED
        }
        // Whoever closed the pipe has read enough, but not the result.
        Err(Failure::Stdout) => FAILED,
    })
}

fn parse(mut parser: lexopt::Parser) -> Result<CallArgs, Stop> {
    let mut words = Vec::new();
    let (mut addr, mut token_file) = (OsString::from(ADDR), None);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("addr") => addr = parser.value()?,
            Long("token-file") => token_file = Some(parser.value()?.into()),
            Value(word) if words.len() < 2 => words.push(word),
            arg => return Err(other(arg)),
        }
    }
    let mut words = words.into_iter();
    let Some(method) = words.next() else { return Err(Stop::Usage("METHOD is missing".into())) };
    let method = utf8(method, "METHOD")?;
    let params = words.next().map(|word| utf8(word, "PARAMS")).transpose()?;
    if let Some(params) = &params {
        let json = serde_json::from_str::<&RawValue>(params);
        json.map_err(|error| Stop::Usage(format!("PARAMS is not JSON: {error}")))?;
    }
    dialable(&addr)?;
    Ok(CallArgs { method, params, addr, token_file })
}

/// What stands before the port is for the resolver to judge.
pub(super) fn dialable(addr: &OsStr) -> Result<(), Stop> {
    match unix_path(addr).is_some() || addr.to_str().is_some_and(|addr| addr.contains(':')) {
        true => Ok(()),
        false => Err(Stop::Usage(format!("--addr: {addr:?} is neither HOST:PORT nor unix:PATH"))),
    }
}

pub(super) enum Failure {
    Client(ClientError),
    Token(String),
    Stdout,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::Client(error)
    }
}

/// A connection, logged in where there is a token.
pub(super) fn connect(addr: &OsStr, token_file: Option<&Path>) -> Result<Client, Failure> {
    let token = token_file.map(token_in).transpose().map_err(Failure::Token)?;
    let mut client = match unix_path(addr) {
        Some(path) => Client::connect_unix(path)?,
        None => Client::connect(&*addr.to_string_lossy())?,
    };
    client.reset_at_end();
    if let Some(token) = token {
        client.login(&token)?;
    }
    Ok(client)
}

fn call(args: &CallArgs) -> Result<(), Failure> {
    let mut client = connect(&args.addr, args.token_file.as_deref())?;
    let mut heard = true;
    let answer =
        client.call_while(&args.method, args.params.as_deref(), &mut |line| say(line).inspect_err(|_| heard = false));
    match heard {
        true => {
            say(answer?.get()).map_err(|_| Failure::Stdout)?;
            if args.method == SUBSCRIBE { listen(&mut client) } else { Ok(()) }
        }
        // The connection is dropped, and with it the command whose output nobody reads.
        false => Err(Failure::Stdout),
    }
}

/// A subscription is for what comes behind its answer.
fn listen(client: &mut Client) -> Result<(), Failure> {
    let mut heard = true;
    let ended = client.listen_while(&mut |line| say(line).inspect_err(|_| heard = false));
    if heard { Ok(ended?) } else { Err(Failure::Stdout) }
}

fn unix_path(addr: &OsStr) -> Option<&Path> {
    addr.as_bytes().strip_prefix(b"unix:").map(|path| Path::new(OsStr::from_bytes(path)))
}

fn token_in(path: &Path) -> Result<String, String> {
    let read = std::fs::File::open(path).and_then(|file| {
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, TOKEN_BYTES_MAX + 1), &mut text).map(|_| text)
    });
    let text = read.map_err(|error| format!("cannot read the token file {}: {error}", path.display()))?;
    match text.trim() {
        "" => Err(format!("the token file {} is empty", path.display())),
        _ if text.len() as u64 > TOKEN_BYTES_MAX => Err(format!("{} holds more than a token", path.display())),
        token => Ok(token.to_owned()),
    }
}

/// One line on stdout, at once.
fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush())
}

/// What to do when nobody listens.
pub(super) fn advice(error: &ClientError, addr: &OsStr) -> String {
    let ClientError::Io { step, .. } = error else { return String::new() };
    if !step.starts_with("connect ") {
        return String::new();
    }
    let start = match unix_path(addr) {
        Some(path) => format!("cofferdam serve --unix-socket {}", path.display()),
        None => format!("cofferdam serve --listen {}", addr.to_string_lossy()),
    };
    format!("; start a daemon there with '{start}', or name another with --addr")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<CallArgs, String> {
        parse(lexopt::Parser::from_args(words)).map_err(|stop| match stop {
            Stop::Usage(what) => what,
            Stop::Help | Stop::Version => panic!("no usage error"),
        })
    }

    #[test]
    fn a_method_with_params_and_options_anywhere() {
        let args = parsed(&["--addr", "unix:/run/c", "exec.run", r#"{"cmd":"true"}"#, "--token-file=t"]).unwrap();
        assert_eq!(args.method, "exec.run");
        assert_eq!(args.params.as_deref(), Some(r#"{"cmd":"true"}"#));
        assert_eq!(unix_path(&args.addr), Some(Path::new("/run/c")));
        assert_eq!(args.token_file, Some("t".into()));
        assert_eq!(parsed(&["system.ping"]).unwrap().addr, ADDR);
    }

    #[test]
    fn wrong_usage_names_the_argument() {
        assert!(parsed(&[]).unwrap_err().contains("METHOD"));
        assert!(parsed(&["a.b", "{'x'}"]).unwrap_err().contains("PARAMS is not JSON"));
        assert!(parsed(&["a.b", "{}", "more"]).unwrap_err().contains("more"));
        assert!(parsed(&["a.b", "--addr", "7643"]).unwrap_err().contains("--addr"));
    }

    #[test]
    fn a_daemon_that_is_not_there_is_explained() {
        let args = parsed(&["system.ping", "--addr", "unix:/nonexistent/socket"]).unwrap();
        let Err(Failure::Client(error)) = call(&args) else { panic!("connected") };
        let advice = advice(&error, &args.addr);
        assert!(advice.contains("cofferdam serve --unix-socket /nonexistent/socket"), "{advice}");
    }

    #[test]
    fn a_token_is_never_shown_and_its_file_never_guessed() {
        let what = token_in(Path::new("/nonexistent/token")).unwrap_err();
        assert!(what.starts_with("cannot read the token file /nonexistent/token: "), "{what}");
        assert!(token_in(Path::new("/dev/null")).unwrap_err().contains("is empty"));
    }
}
