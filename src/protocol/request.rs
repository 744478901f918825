//! Calls: a method with its params, typed and checked. Pure.

mod execs;
mod quota;

use std::borrow::Cow;

use base64::Engine;
use serde_json::value::RawValue;

pub use self::quota::LimitCall;
use super::budget::Budget;
use super::envelope::ID_BYTES_MAX;
use super::fault::{Fault, Reason};
use super::json::{self, Fields, MembersError};
use super::limits::{self, Limits, LimitsAsked};
use crate::config::Config;
use crate::ids::{ExecId, SessionId};

pub use self::execs::{Order, Pty, Read, Size};

/// A session as a client names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SessionRef {
    pub id: Option<SessionId>,
    pub text: Box<str>,
}

/// A command as a client names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRef {
    pub id: Option<ExecId>,
    pub text: Box<str>,
}

/// A method with its params, checked as far as they can be without knowing the sessions.
#[derive(Debug)]
pub enum Call {
    Ping,
    Info,
    Stats,
    /// Statistics each so many milliseconds.
    Subscribe {
        interval_ms: u64,
    },
    Unsubscribe,
    Drain,
    Open(Box<OpenSession>),
    Close(SessionRef),
    List,
    SessionInfo(SessionRef),
    History {
        session: SessionRef,
        last: Option<u64>,
    },
    /// `exec.run`, and `exec.start`.
    Run(Box<Run>),
    Exec {
        exec: ExecRef,
        order: Order,
    },
    /// `exec.list`: of a session, or of all.
    Commands {
        session: Option<SessionRef>,
    },
    Limit(LimitCall),
}

/// `session.open`.
#[derive(Debug, Default)]
pub struct OpenSession {
    pub name: Option<String>,
    pub cwd: Option<String>,
    pub env: Vec<(String, String)>,
    pub clear_env: bool,
    pub limits: LimitsAsked,
    pub budget: Budget,
    /// None: the configured time.
    pub idle_ms: Option<u64>,
    pub persist: bool,
    /// The shell that its `cmd` commands share.
    pub shell: Option<Box<str>>,
}

/// `exec.run`, and `exec.start`.
#[derive(Debug, Hash)]
pub struct Run {
    /// Answered when it has started; it goes on by itself.
    pub background: bool,
    pub session: Option<SessionRef>,
    pub program: Program,
    pub cwd: Option<String>,
    pub env: Vec<(String, String)>,
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
    Argv(Vec<String>),
}

/// Which part of an output that is too long is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keep {
    Tail,
    Head,
    Both,
}

/// The longest name of a session.
const NAME_BYTES_MAX: usize = 128;

impl Call {
    pub fn parse(method: &str, params: Option<&RawValue>, config: &Config) -> Result<Call, Fault> {
        if let Some(call) = quota::parse(method, params) {
            return call;
        }
        let fields = |accepted| Fields::of("", params, accepted);
        match method {
            "system.ping" => fields(&[]).map(|_| Call::Ping),
            "system.info" => fields(&[]).map(|_| Call::Info),
            "system.stats" => fields(&[]).map(|_| Call::Stats),
            "system.subscribe" => {
                let fields = fields(&["interval_ms"])?;
                let interval = fields.integer("interval_ms", 100..=60_000)?;
                let interval = interval.ok_or_else(|| fields.wrong("interval_ms", "is missing"))?;
                Ok(Call::Subscribe { interval_ms: interval.unsigned_abs() })
            }
            "system.unsubscribe" => fields(&[]).map(|_| Call::Unsubscribe),
            "system.drain" => fields(&[]).map(|_| Call::Drain),
            "session.open" => OpenSession::parse(params, config).map(|open| Call::Open(Box::new(open))),
            "session.close" => session_ref(&fields(&["session"])?).map(Call::Close),
            "session.list" => fields(&[]).map(|_| Call::List),
            "session.info" => session_ref(&fields(&["session"])?).map(Call::SessionInfo),
            "session.history" => {
                let fields = fields(&["session", "last"])?;
                let last = fields.integer("last", 1..=i64::MAX)?.map(i64::unsigned_abs);
                Ok(Call::History { session: session_ref(&fields)?, last })
            }
            "exec.list" => Ok(Call::Commands { session: optional_session(&fields(&["session"])?)? }),
            method if execs::METHODS.contains(&method) => {
                let (exec, order) = Order::parse(method, &fields(Order::fields(method))?, config)?;
                Ok(Call::Exec { exec, order })
            }
            "exec.run" => Run::parse(params, config, false).map(|run| Call::Run(Box::new(run))),
            "exec.start" => Run::parse(params, config, true).map(|run| Call::Run(Box::new(run))),
            _ => {
                let shown: String = method.chars().take(64).collect();
                Err(Fault::new(Reason::MethodNotFound, format!("there is no method {shown}")))
            }
        }
    }
}

/// What a call would start; a refusal of it is counted as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starts {
    Session,
    Command,
    Nothing,
}

impl Starts {
    pub fn of_method(method: &str) -> Starts {
        match method {
            "session.open" => Starts::Session,
            "exec.run" | "exec.start" => Starts::Command,
            _ => Starts::Nothing,
        }
    }
}

impl Call {
    /// The control lane is never refused for rate, capacity, quota or busy.
    pub fn is_control(&self) -> bool {
        match self {
            Call::Ping | Call::Info | Call::Stats | Call::Subscribe { .. } | Call::Unsubscribe | Call::Drain => true,
            Call::Close(_) | Call::List | Call::SessionInfo(_) | Call::Commands { .. } => true,
            Call::Exec { order, .. } => matches!(order, Order::Signal(_) | Order::Kill),
            Call::Open(_) | Call::History { .. } | Call::Run(_) | Call::Limit(_) => false,
        }
    }

    pub fn starts(&self) -> Starts {
        match self {
            Call::Open(_) => Starts::Session,
            Call::Run(_) => Starts::Command,
            _ => Starts::Nothing,
        }
    }

    /// What it takes while it waits, beside the few hundred bytes of any request.
    pub fn weight(&self) -> usize {
        match self {
            Call::Run(run) => run.weight(),
            Call::Open(open) => pairs(&open.env) + open.cwd.as_ref().map_or(0, String::len),
            Call::Exec { order: Order::Write { bytes, .. }, .. } => bytes.len(),
            _ => 0,
        }
    }
}

/// What a string takes beside its bytes: a line of a megabyte may hold a quarter of a million that are empty.
const STRING_BYTES: usize = size_of::<String>() + 16;

fn pairs(env: &[(String, String)]) -> usize {
    env.iter().map(|(name, value)| name.len() + value.len() + 2 * STRING_BYTES).sum()
}

fn session_ref(fields: &Fields) -> Result<SessionRef, Fault> {
    optional_session(fields)?.ok_or_else(|| fields.wrong("session", "is missing"))
}

fn optional_session(fields: &Fields) -> Result<Option<SessionRef>, Fault> {
    let Some(text) = fields.text("session")? else { return Ok(None) };
    if text.len() > ID_BYTES_MAX {
        return Err(fields.wrong("session", format!("is longer than {ID_BYTES_MAX} bytes")));
    }
    Ok(Some(SessionRef { id: SessionId::parse(&text), text: text.into_owned().into_boxed_str() }))
}

impl OpenSession {
    fn parse(params: Option<&RawValue>, config: &Config) -> Result<OpenSession, Fault> {
        let fields = Fields::of(
            "",
            params,
            &["name", "cwd", "env", "clear_env", "limits", "idle_s", "persist", "shell", "budget"],
        )?;
        let name = fields.text("name")?.map(Cow::into_owned);
        if name.as_ref().is_some_and(|name| name.len() > NAME_BYTES_MAX) {
            return Err(fields.wrong("name", format!("is longer than {NAME_BYTES_MAX} bytes")));
        }
        Ok(OpenSession {
            name,
            cwd: directory(&fields)?,
            env: environment(&fields)?,
            clear_env: fields.bool("clear_env")?.unwrap_or(false),
            limits: Limits::asked(&fields)?,
            budget: Budget::parse(&fields)?,
            idle_ms: fields.millis("idle_s", (config.sessions.max_idle_sec * 1000.0) as u64)?,
            persist: fields.bool("persist")?.unwrap_or(false),
            shell: shell(&fields)?,
        })
    }
}

/// The shell where none is named.
pub const STANDARD_SHELL: &str = "/bin/sh";

fn shell(fields: &Fields) -> Result<Option<Box<str>>, Fault> {
    match fields.raw("shell").map(RawValue::get) {
        Some("true") => Ok(Some(STANDARD_SHELL.into())),
        Some("false") | None => Ok(None),
        Some(text) if text.starts_with('"') => match fields.c_text("shell")? {
            Some(path) if !path.is_empty() => Ok(Some(path.into_owned().into_boxed_str())),
            _ => Err(fields.wrong("shell", "must not be empty")),
        },
        Some(_) => Err(fields.wrong("shell", "must be true, false or the path of a shell")),
    }
}

impl Run {
    /// The process of a shell: nothing is kept of it.
    pub fn of_host(program: Program) -> Run {
        Run {
            background: false,
            session: None,
            program,
            cwd: None,
            env: Vec::new(),
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
        let program = match &self.program {
            Program::Shell(line) => line.len(),
            Program::Argv(argv) => argv.iter().map(|argument| argument.len() + STRING_BYTES).sum(),
        };
        program + self.cwd.as_ref().map_or(0, String::len) + pairs(&self.env) + self.stdin.as_ref().map_or(0, Vec::len)
    }

    fn parse(params: Option<&RawValue>, config: &Config, background: bool) -> Result<Run, Fault> {
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
            if !argv.get().starts_with('[') {
                return Err(wrong("must be an array of strings"));
            }
            let argv: Vec<String> =
                serde_json::from_str(argv.get()).map_err(|_| wrong("must be an array of strings"))?;
            match argv.first() {
                None => Err(wrong("must not be empty")),
                Some(program) if program.is_empty() => Err(wrong("its first string, the program, must not be empty")),
                _ if argv.iter().any(|word| word.contains('\0')) => Err(wrong("must not hold a NUL character")),
                Some(_) => Ok(Program::Argv(argv)),
            }
        }
        (Some(_), Some(_)) => Err(fields.wrong("argv", "give cmd or argv, not both")),
        (None, None) => Err(fields.wrong("cmd", "give cmd (for /bin/sh -c) or argv (an array)")),
    }
}

fn directory(fields: &Fields) -> Result<Option<String>, Fault> {
    match fields.c_text("cwd")? {
        Some(cwd) if cwd.is_empty() => Err(fields.wrong("cwd", "must not be empty")),
        cwd => Ok(cwd.map(Cow::into_owned)),
    }
}

fn environment(fields: &Fields) -> Result<Vec<(String, String)>, Fault> {
    let mut found: Vec<(String, String)> = Vec::new();
    let Some(raw) = fields.raw("env") else { return Ok(found) };
    let read = json::members(raw.get(), |name, value| {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err("a name must not be empty or hold = or NUL".to_owned());
        }
        match json::text(value) {
            Some(value) if !value.contains('\0') => {
                found.push((name.into_owned(), value.into_owned()));
                Ok(())
            }
            _ => Err(format!("{}: must be a string without NUL", name.chars().take(64).collect::<String>())),
        }
    });
    match read {
        Ok(()) => {}
        Err(MembersError::Refused(what)) => return Err(fields.wrong("env", what)),
        Err(_) => return Err(fields.wrong("env", "must be an object of strings")),
    }
    found.sort_unstable();
    match found.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => {
            Err(fields.wrong("env", format!("{} stands twice", pair[0].0.chars().take(64).collect::<String>())))
        }
        None => Ok(found),
    }
}

/// Bytes as text or as base64, or none.
fn stdin_of(
    fields: &Fields,
    plain: &'static str,
    base64: &'static str,
    bytes_max: u64,
) -> Result<Option<Vec<u8>>, Fault> {
    let bytes = match (fields.text(plain)?, fields.text(base64)?) {
        (Some(_), Some(_)) => return Err(fields.wrong(base64, format!("give {plain} or {base64}, not both"))),
        (Some(text), None) => text.into_owned().into_bytes(),
        (None, Some(coded)) => base64::engine::general_purpose::STANDARD
            .decode(coded.as_bytes())
            .map_err(|error| fields.wrong(base64, format!("is not base64: {error}")))?,
        (None, None) => return Ok(None),
    };
    if bytes.len() as u64 > bytes_max {
        let message = format!("{plain} has {} bytes; at most {bytes_max} are accepted", bytes.len());
        return Err(Fault::new(Reason::StdinTooLarge, message).number("limit", bytes_max as i64));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_takes_what_is_run_takes_but_for_the_queue() {
        assert_eq!(RUN_FIELDS[QUEUE_MS], "queue_ms");
        assert!(START_FIELDS.contains(&"key") && START_FIELDS.contains(&"pty") && START_FIELDS.contains(&"stdin_open"));
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
