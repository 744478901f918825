//! What a client may ask for: plain structs, every field optional, written without the fields that are not set.
//!
//! Pure values, no thread. They check nothing: what is valid is for the daemon to say, with the field's name.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::protocol::record::{LimitSet, Shell};

/// The params of `session.open`. Fields that are `None` or empty take the daemon's default.
///
/// ```
/// use cofferdam::client::{OpenSession, Shell};
/// let ask = OpenSession { name: Some("build".into()), shell: Some(Shell::Standard(true)), ..Default::default() };
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct OpenSession {
    /// A name for people, shown by `session.list`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Working directory of its commands; default: a private one, removed when the session closes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Environment variables of its commands.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Leave out the daemon's variables and `PATH`, `HOME`, `USER`, `SHELL`, `LANG`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clear_env: Option<bool>,
    /// One long-lived shell for its `cmd` commands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Shell>,
    /// Limits of its commands; may lower the configured ones, never raise them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitSet>,
    /// Limits of the whole session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Close it after so many seconds without a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_s: Option<f64>,
    /// Keep it when this connection ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persist: Option<bool>,
}

/// What a whole session may use up; what is `None` is not bounded.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Budget {
    /// Commands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commands: Option<u64>,
    /// CPU time, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_sec: Option<f64>,
    /// Output of both streams, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
    /// Age of the session, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_s: Option<f64>,
}

/// The params of `exec.run`: one command. Fields that are `None` or empty take the default.
///
/// ```
/// use cofferdam::client::{LimitSet, Run};
/// let ask = Run {
///     timeout_s: Some(2.5),
///     limits: Some(LimitSet { memory_bytes: Some(64 << 20), ..Default::default() }),
///     ..Run::cmd("make test").in_session("s1")
/// };
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Run {
    /// The session to run in; none: an ephemeral one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// A line for `/bin/sh -c`; this or `argv`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<String>,
    /// A program and its arguments; this or `cmd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// Working directory, for this command alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Environment variables, on top of the session's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// What it reads, as text; this or `stdin_b64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// What it reads, as base64; see [`Run::with_stdin`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin_b64: Option<String>,
    /// Wall-clock limit, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<f64>,
    /// Longest silence on both outputs, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_timeout_s: Option<f64>,
    /// From SIGTERM to SIGKILL on a time-out, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill_grace_ms: Option<u64>,
    /// Limits; may lower the session's, never raise them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitSet>,
    /// Bytes kept of each output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_limit_bytes: Option<u64>,
    /// Which bytes are kept when there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_keep: Option<OutputKeep>,
    /// Whether too much output ends the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_output_limit: Option<OnOutputLimit>,
    /// Standard error into standard output, in order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge_stderr: Option<bool>,
    /// How output is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<EncodingAsked>,
    /// Keep its input open for [`crate::Client::write`]; with [`crate::Client::start`] alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stdin_open: Option<bool>,
    /// Send output as it comes; [`crate::Client::run_streamed`] and [`crate::Client::pieces`] set it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// Run on a pseudo-terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pty: Option<Pty>,
    /// What becomes of it when this connection ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_disconnect: Option<OnDisconnect>,
    /// Longest wait for a free slot, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue_ms: Option<u64>,
    /// A retry key: asked again with it, the first run's record comes back instead of a second run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl Run {
    /// A line for the shell.
    pub fn cmd(line: impl Into<String>) -> Run {
        Run { cmd: Some(line.into()), ..Run::default() }
    }

    /// A program and its arguments, without a shell.
    pub fn argv<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Run {
        Run { argv: Some(argv.into_iter().map(Into::into).collect()), ..Run::default() }
    }

    /// The same, in this session.
    #[must_use]
    pub fn in_session(self, session: impl Into<String>) -> Run {
        Run { session: Some(session.into()), ..self }
    }

    /// The same, reading these bytes.
    #[must_use]
    pub fn with_stdin(self, bytes: &[u8]) -> Run {
        match std::str::from_utf8(bytes) {
            Ok(text) => Run { stdin: Some(text.to_owned()), stdin_b64: None, ..self },
            Err(_) => Run { stdin: None, stdin_b64: Some(STANDARD.encode(bytes)), ..self },
        }
    }
}

/// Which part of the output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKeep {
    /// The end.
    Tail,
    /// The beginning.
    Head,
    /// The first half and the last half.
    Both,
}

/// What happens when there is more output than is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnOutputLimit {
    /// The rest is dropped and counted.
    Truncate,
    /// The command is ended.
    Kill,
}

/// How output is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EncodingAsked {
    /// Text where it is text.
    Auto,
    /// Always base64.
    Base64,
}

/// What becomes of a command whose client went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// It is ended.
    Cancel,
    /// It goes on to its end.
    Finish,
}

/// A pseudo-terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pty {
    /// Width, in columns.
    pub cols: u16,
    /// Height, in rows.
    pub rows: u16,
    /// The variable `TERM`; default `xterm-256color`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub term: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_is_not_written() {
        assert_eq!(serde_json::to_string(&OpenSession::default()).unwrap(), "{}");
        assert_eq!(serde_json::to_string(&Run::cmd("true")).unwrap(), r#"{"cmd":"true"}"#);
    }

    #[test]
    fn a_run_is_written_with_the_names_of_the_protocol() {
        let run = Run {
            output_limit_bytes: Some(0),
            output_keep: Some(OutputKeep::Both),
            on_output_limit: Some(OnOutputLimit::Kill),
            pty: Some(Pty { cols: 80, rows: 24, term: None }),
            on_disconnect: Some(OnDisconnect::Finish),
            encoding: Some(EncodingAsked::Base64),
            ..Run::argv(["ls", "-l"]).in_session("s1")
        };
        assert_eq!(
            serde_json::to_string(&run).unwrap(),
            r#"{"session":"s1","argv":["ls","-l"],"output_limit_bytes":0,"output_keep":"both","on_output_limit":"kill","encoding":"base64","pty":{"cols":80,"rows":24},"on_disconnect":"finish"}"#
        );
    }

    #[test]
    fn stdin_is_text_where_it_can_be() {
        assert_eq!(Run::cmd("cat").with_stdin("ü".as_bytes()).stdin.as_deref(), Some("ü"));
        let bytes = Run::cmd("cat").with_stdin(&[0xff]);
        assert_eq!((bytes.stdin, bytes.stdin_b64.as_deref()), (None, Some("/w==")));
    }
}
