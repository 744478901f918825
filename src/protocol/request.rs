//! Calls: a method with its params, typed and checked. Pure.

mod execs;
mod open;
mod quota;
mod run;

use std::borrow::Cow;

use base64::Engine;
use serde_json::value::RawValue;

use super::envelope::ID_BYTES_MAX;
use super::fault::{Fault, Reason};
use super::json::{self, Fields, MembersError};
use crate::config::Config;
use crate::ids::{ExecId, SessionId};
use crate::strings::{Strings, name_of};

pub use self::execs::{Order, Read, Size};
pub use self::open::{OpenSession, STANDARD_SHELL};
pub use self::quota::LimitCall;
pub use self::run::{Keep, Program, Run};

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
            Call::Open(open) => open.weight(),
            Call::Exec { order: Order::Write { bytes, .. }, .. } => bytes.len(),
            _ => 0,
        }
    }
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

fn directory(fields: &Fields) -> Result<Option<String>, Fault> {
    match fields.c_text("cwd")? {
        Some(cwd) if cwd.is_empty() => Err(fields.wrong("cwd", "must not be empty")),
        cwd => Ok(cwd.map(Cow::into_owned)),
    }
}

/// The variables of `env` as `NAME=VALUE`, sorted: in whatever order a client sends them, they are the same.
fn environment(fields: &Fields) -> Result<Strings, Fault> {
    let mut found = Strings::default();
    let Some(raw) = fields.raw("env") else { return Ok(found) };
    let read = json::members(raw.get(), |name, value| {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err("a name must not be empty or hold = or NUL".to_owned());
        }
        match json::text(value) {
            Some(value) if !value.contains('\0') => {
                found.push_parts(&[name.as_bytes(), b"=", value.as_bytes()]);
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
    sorted(found).map_err(|twice| fields.wrong("env", format!("{twice} stands twice")))
}

/// Sorts variables; or the beginning of a name that stands twice.
fn sorted(found: Strings) -> Result<Strings, String> {
    let mut variables: Vec<&[u8]> = found.iter().collect();
    variables.sort_unstable();
    // What begins with the same name and `=` stands together.
    match variables.windows(2).find(|pair| name_of(pair[0]) == name_of(pair[1])) {
        Some(pair) => Err(String::from_utf8_lossy(name_of(pair[0])).chars().take(64).collect()),
        None => Ok(Strings::of(&variables)),
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
