//! `exec.run` and `exec.start`. Pure.

use serde_json::value::RawValue;

use super::execs::{self, Pty};
use super::{SessionRef, directory, environment, optional_session, stdin_of};
use crate::config::Config;
use crate::protocol::envelope::ID_BYTES_MAX;
use crate::protocol::fault::Fault;
use crate::protocol::json::{self, Fields};
use crate::protocol::limits::{self, Limits, LimitsAsked};
use crate::strings::{STRING_BYTES_MAX, Strings};

/// `exec.run`, and `exec.start`.
#[derive(Debug, Hash)]
pub struct Run {
    /// Answered when it has started; it goes on by itself.
    pub background: bool,
    pub session: Option<SessionRef>,
    pub program: Program,
    pub cwd: Option<String>,
    /// As `NAME=VALUE`, sorted.
    pub env: Strings,
    pub stdin: Option<Vec<u8>>,
    /// More input may come.
    pub stdin_open: bool,
    pub pty: Option<Pty>,
    pub timeout_ms: u64,
    pub stall_timeout_ms: Option<u64>,
    pub kill_grace_ms: u64,
    pub limits: LimitsAsked,
    pub output_limit_bytes: usize,
    pub keep: Keep,
    pub kill_on_output_limit: bool,
    pub merge_stderr: bool,
    pub base64: bool,
    pub stream: bool,
    /// A disconnect does not cancel it.
    pub finish_on_disconnect: bool,
    /// How long it may wait for a slot.
    pub queue_ms: u64,
    /// With the same key it never runs twice.
    pub key: Option<Box<str>>,
}

#[derive(Debug, Hash)]
pub enum Program {
    /// For `/bin/sh -c`.
    Shell(String),
    Argv(Strings),
}

/// Arguments before the line of a [`Program::Shell`].
const SHELL: [&[u8]; 2] = [b"/bin/sh", b"-c"];

impl Program {
    /// A program and its arguments.
    pub fn argv(words: &[&str]) -> Program {
        Program::Argv(words.iter().map(|word| word.as_bytes()).collect())
    }

    /// All arguments, its name first.
    pub fn arguments(&self) -> Strings {
        match self {
            Program::Shell(line) => Strings::of(&[SHELL[0], SHELL[1], line.as_bytes()]),
            Program::Argv(argv) => argv.clone(),
        }
    }

    /// The program as an error calls it: not longer than a line.
    pub fn name(&self) -> Box<str> {
        let name = match self {
            Program::Shell(_) => SHELL[0],
            Program::Argv(argv) => argv.first().unwrap_or_default(),
        };
        String::from_utf8_lossy(name).chars().take(NAME_CHARS_MAX).collect::<String>().into()
    }
}

const NAME_CHARS_MAX: usize = 128;

/// Which part of an output that is too long is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keep {
    Tail,
    Head,
    Both,
}

impl Run {
    /// The process of a shell: nothing is kept of it.
    pub fn of_host(program: Program) -> Run {
        Run {
            background: false,
            session: None,
            program,
            cwd: None,
            env: Strings::default(),
            stdin: None,
            stdin_open: false,
            pty: None,
            timeout_ms: 0,
            stall_timeout_ms: None,
            kill_grace_ms: 0,
            limits: LimitsAsked::default(),
            output_limit_bytes: 0,
            keep: Keep::Tail,
            kill_on_output_limit: false,
            merge_stderr: true,
            base64: false,
            stream: false,
            finish_on_disconnect: false,
            queue_ms: 0,
            key: None,
        }
    }

    /// Whether it is a line for a shell.
    pub fn is_line(&self) -> bool {
        matches!(self.program, Program::Shell(_))
    }

    /// What a command of a shell cannot have for itself: the shell has it, since its start.
    pub fn check_in_shell(&self) -> Result<(), Fault> {
        if self.pty.is_some() {
            return Err(Fault::field("pty", "a cmd of a shell session runs in its shell, which has no terminal"));
        }
        match self.limits.iter().zip(limits::NAMES).skip(2).find(|(asked, _)| asked.is_some()) {
            Some((_, name)) => Err(Fault::field(
                format!("limits.{name}"),
                "a cmd of a shell session has its session's; give it to session.open, or run an argv",
            )),
            None => Ok(()),
        }
    }
}

const RUN_FIELDS: [&str; 21] = [
    "session",
    "cmd",
    "argv",
    "cwd",
    "env",
    "stdin",
    "stdin_b64",
    "timeout_s",
    "stall_timeout_s",
    "kill_grace_ms",
    "limits",
    "output_limit_bytes",
    "output_keep",
    "on_output_limit",
    "merge_stderr",
    "encoding",
    "stream",
    "on_disconnect",
    "queue_ms",
    "pty",
    "key",
];

/// The same but for `queue_ms`: who starts a command for later can start it later.
const START_FIELDS: [&str; 21] = {
    let mut fields = RUN_FIELDS;
    fields[QUEUE_MS] = "stdin_open";
    fields
};
const QUEUE_MS: usize = 18;

impl Run {
    /// The bytes of its params.
    pub fn weight(&self) -> usize {
        self.weight_started() + self.stdin.as_ref().map_or(0, Vec::len)
    }

    /// The bytes of what it is started with; its input is counted by itself.
    pub fn weight_started(&self) -> usize {
        let program = match &self.program {
            Program::Shell(line) => line.len(),
            Program::Argv(argv) => argv.weight(),
        };
        program + self.cwd.as_ref().map_or(0, String::len) + self.env.weight()
    }

    /// The same of a line for a shell that runs already: beside it there is the script that the shell is fed, in which a
    /// quote takes four bytes.
    pub fn weight_in_shell(&self) -> usize {
        let quotes = |bytes: &[u8]| memchr::memchr_iter(b'\'', bytes).count();
        let line = match &self.program {
            Program::Shell(line) => line.len() + 3 * quotes(line.as_bytes()),
            Program::Argv(_) => 0,
        };
        let env: usize = self.env.iter().map(|variable| variable.len() + 3 + 3 * quotes(variable)).sum();
        self.weight_started() + line + env
    }

    /// Whether the kernel refuses it for its length where it has this environment (E2BIG of execve(2)).
    pub fn is_too_long_with(&self, environment: &Strings) -> bool {
        match &self.program {
            Program::Shell(line) => {
                let beside = Strings::of(&SHELL).weight() + Strings::of(&[&[]]).weight() + line.len();
                line.len() > STRING_BYTES_MAX || environment.is_too_long_beside(beside)
            }
            Program::Argv(argv) => argv.is_too_long_beside(environment.weight()) || environment.is_too_long_beside(0),
        }
    }

    pub(super) fn parse(params: Option<&RawValue>, config: &Config, background: bool) -> Result<Run, Fault> {
        let commands = &config.commands;
        let fields = Fields::of("", params, if background { &START_FIELDS } else { &RUN_FIELDS })?;
        if background && fields.raw("session").is_none() {
            return Err(fields.wrong("session", "is missing: a command that goes on by itself needs a session"));
        }
        let max_timeout_ms = (commands.max_timeout_s * 1000.0) as u64;
        let output_most = i64::try_from(commands.max_output_bytes).unwrap_or(i64::MAX);
        Ok(Run {
            background,
            session: optional_session(&fields)?,
            program: program(&fields)?,
            cwd: directory(&fields)?,
            env: environment(&fields)?,
            stdin: stdin_of(&fields, "stdin", "stdin_b64", commands.max_stdin_bytes)?,
            stdin_open: background && fields.bool("stdin_open")?.unwrap_or(false),
            pty: execs::pty(&fields)?,
            timeout_ms: fields
                .millis("timeout_s", max_timeout_ms)?
                .unwrap_or((commands.default_timeout_s * 1000.0) as u64),
            stall_timeout_ms: fields.millis("stall_timeout_s", max_timeout_ms)?,
            kill_grace_ms: fields
                .integer("kill_grace_ms", 0..=GRACE_MS_MAX)?
                .map_or(commands.kill_grace_ms, i64::unsigned_abs),
            limits: Limits::asked(&fields)?,
            output_limit_bytes: fields.integer("output_limit_bytes", 0..=output_most)?.unwrap_or(output_most) as usize,
            keep: fields
                .word("output_keep", &[("tail", Keep::Tail), ("head", Keep::Head), ("both", Keep::Both)])?
                .unwrap_or(Keep::Tail),
            kill_on_output_limit: fields.word("on_output_limit", &[("truncate", false), ("kill", true)])? == Some(true),
            merge_stderr: fields.bool("merge_stderr")?.unwrap_or(false),
            base64: fields.word("encoding", &[("auto", false), ("base64", true)])? == Some(true),
            stream: fields.bool("stream")?.unwrap_or(false),
            finish_on_disconnect: fields.word("on_disconnect", &[("cancel", false), ("finish", true)])? == Some(true),
            queue_ms: fields.integer("queue_ms", 0..=QUEUE_MS_MAX)?.map_or(0, i64::unsigned_abs),
            key: key(&fields)?,
        })
    }
}

/// A day; whoever would wait longer is better off asking again.
const QUEUE_MS_MAX: i64 = 86_400_000;

/// As long as an id, for it is one.
fn key(fields: &Fields) -> Result<Option<Box<str>>, Fault> {
    let Some(key) = fields.text("key")? else { return Ok(None) };
    if key.is_empty() || key.len() > ID_BYTES_MAX {
        return Err(fields.wrong("key", format!("must have 1 to {ID_BYTES_MAX} bytes")));
    }
    Ok(Some(key.into()))
}

/// A grace longer than an hour is a mistake.
const GRACE_MS_MAX: i64 = 3_600_000;

fn program(fields: &Fields) -> Result<Program, Fault> {
    match (fields.c_text("cmd")?, fields.raw("argv")) {
        (Some(cmd), None) => Ok(Program::Shell(cmd.into_owned())),
        (None, Some(argv)) => {
            let wrong = |what: &str| fields.wrong("argv", what);
            let (argv, nul) = json::strings(argv.get()).ok_or_else(|| wrong("must be an array of strings"))?;
            match argv.first() {
                _ if nul => Err(wrong("must not hold a NUL character")),
                None => Err(wrong("must not be empty")),
                Some([]) => Err(wrong("its first string, the program, must not be empty")),
                Some(_) => Ok(Program::Argv(argv)),
            }
        }
        (Some(_), Some(_)) => Err(fields.wrong("argv", "give cmd or argv, not both")),
        (None, None) => Err(fields.wrong("cmd", "give cmd (for /bin/sh -c) or argv (an array)")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::Call;

    #[test]
    fn what_is_started_takes_what_is_run_takes_but_for_the_queue() {
        assert_eq!(RUN_FIELDS[QUEUE_MS], "queue_ms");
        assert!(START_FIELDS.contains(&"key") && START_FIELDS.contains(&"pty") && START_FIELDS.contains(&"stdin_open"));
    }

    fn run(params: &str) -> Run {
        let raw: &RawValue = serde_json::from_str(params).unwrap();
        Run::parse(Some(raw), &Config::default(), false).unwrap()
    }

    #[test]
    fn the_environment_is_the_same_in_whatever_order_it_is_sent() {
        let env = |env: &str| run(&format!(r#"{{"cmd":"a","env":{env}}}"#)).env;
        let sorted = env(r#"{"A":"1","AB":"=","B":""}"#);
        assert_eq!(sorted, env(r#"{"B":"","\u0041B":"=","A":"1"}"#));
        assert_eq!(sorted.iter().collect::<Vec<_>>(), [&b"A=1"[..], b"AB==", b"B="]);
    }

    #[test]
    fn what_the_kernel_would_refuse_is_known() {
        let (none, longest) = (Strings::default(), "x".repeat(STRING_BYTES_MAX));
        for (params, over) in
            [(r#"{"cmd":"TEXT"}"#, ""), (r#"{"argv":["a","TEXT"]}"#, ""), (r#"{"cmd":"a","env":{"A":"TEXT"}}"#, "A=")]
        {
            let with = |text: &str| run(&params.replace("TEXT", text));
            let just = with(&longest[over.len()..]);
            assert!(!just.is_too_long_with(&just.env), "{over}");
            let more = with(&format!("x{}", &longest[over.len()..]));
            assert!(more.is_too_long_with(&more.env), "{over}");
        }
        let many = run(&format!(r#"{{"argv":["a"{}]}}"#, r#","b""#.repeat(200_000)));
        assert!(!many.is_too_long_with(&none));
        assert!(many.is_too_long_with(&(0..10_000).map(|_| &b"A=1"[..]).collect()));
    }

    #[test]
    fn a_line_for_a_shell_weighs_what_becomes_of_it() {
        assert_eq!(run(r#"{"cmd":"echo 'a'"}"#).weight_in_shell(), 2 * 8 + 2 * 3);
        assert_eq!(run(r#"{"cmd":"","env":{"A":"'"}}"#).weight_in_shell(), (4 + 8) + (3 + 3 + 3));
    }

    #[test]
    fn exec_run_names_the_field_at_fault() {
        let config = Config::default();
        let field = |params: &str| {
            let raw: &RawValue = serde_json::from_str(params).unwrap();
            let fault = Call::parse("exec.run", Some(raw), &config).unwrap_err();
            fault.message.split(':').next().unwrap().to_owned()
        };
        assert_eq!(field("{}"), "cmd");
        assert_eq!(field(r#"{"cmd":"a","argv":["a"]}"#), "argv");
        assert_eq!(field(r#"{"argv":[]}"#), "argv");
        assert_eq!(field(r#"{"argv":[""]}"#), "argv");
        assert_eq!(field(r#"{"argv":["a\u0000"]}"#), "argv");
        assert_eq!(field(r#"{"argv":[1]}"#), "argv");
        assert_eq!(field(r#"{"cmd":"a","timeout_s":0}"#), "timeout_s");
        assert_eq!(field(r#"{"cmd":"a","timeout_s":1e9}"#), "timeout_s");
        assert_eq!(field(r#"{"cmd":"a","env":{"":"x"}}"#), "env");
        assert_eq!(field(r#"{"cmd":"a","env":{"A":"x","A":"y"}}"#), "env");
        assert_eq!(field(r#"{"cmd":"a","env":["A"]}"#), "env");
        assert_eq!(field(r#"{"cmd":"a","stdin_b64":"*"}"#), "stdin_b64");
        assert_eq!(field(r#"{"cmd":"a","output_keep":"middle"}"#), "output_keep");
        assert_eq!(field(r#"{"cmd":"a","limits":{"cpu_sec":0}}"#), "limits.cpu_sec");
        assert_eq!(field(r#"{"cmd":"a","stdin":"\ud800"}"#), "stdin");
    }
}
