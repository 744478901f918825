//! `session.open`. Pure.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{directory, environment};
use crate::config::Config;
use crate::protocol::budget::Budget;
use crate::protocol::fault::Fault;
use crate::protocol::json::Fields;
use crate::protocol::limits::{Limits, LimitsAsked};
use crate::strings::{EXEC_BYTES_MAX, POINTER_BYTES, STRING_BYTES_MAX, Strings};

/// `session.open`.
#[derive(Debug, Default)]
pub struct OpenSession {
    pub name: Option<String>,
    pub cwd: Option<String>,
    /// As `NAME=VALUE`, sorted.
    pub env: Strings,
    pub clear_env: bool,
    pub limits: LimitsAsked,
    pub budget: Budget,
    /// None: the configured time.
    pub idle_ms: Option<u64>,
    pub persist: bool,
    /// The shell that its `cmd` commands share.
    pub shell: Option<Box<str>>,
}

/// The longest name of a session.
const NAME_BYTES_MAX: usize = 128;

impl OpenSession {
    /// The bytes of its params that are kept as long as it is open. Its working directory is its home, too, and a shell
    /// that is lost is started again with a copy of the environment.
    pub fn weight(&self) -> usize {
        let copies = if self.shell.is_some() { 2 } else { 1 };
        let text = |text: Option<&str>| text.map_or(0, str::len);
        copies * self.env.weight()
            + 2 * text(self.cwd.as_deref())
            + text(self.name.as_deref())
            + text(self.shell.as_deref())
    }

    pub(super) fn parse(params: Option<&RawValue>, config: &Config) -> Result<OpenSession, Fault> {
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
            env: executable(&fields)?,
            clear_env: fields.bool("clear_env")?.unwrap_or(false),
            limits: Limits::asked(&fields)?,
            budget: Budget::parse(&fields)?,
            idle_ms: fields.millis("idle_s", (config.sessions.max_idle_sec * 1000.0) as u64)?,
            persist: fields.bool("persist")?.unwrap_or(false),
            shell: shell(&fields)?,
        })
    }
}

/// An environment that some program can be given.
fn executable(fields: &Fields) -> Result<Strings, Fault> {
    let env = environment(fields)?;
    if env.is_too_long_beside(0) {
        let what = format!(
            "no program can be given that much: a variable has at most {STRING_BYTES_MAX} bytes, all variables and \
             arguments {EXEC_BYTES_MAX} together, each with a NUL and {POINTER_BYTES} bytes of a pointer"
        );
        return Err(fields.wrong("env", what));
    }
    Ok(env)
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
