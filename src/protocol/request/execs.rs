//! Params of the methods about commands that were started: wait, read, write, signal, kill, resize, list. Pure.

use std::str::FromStr;

use nix::sys::signal::Signal;

use super::{ExecRef, stdin_of};
use crate::config::Config;
use crate::ids::ExecId;
use crate::protocol::envelope::ID_BYTES_MAX;
use crate::protocol::fault::Fault;
use crate::protocol::json::{self, Fields};

/// What is asked of one command.
#[derive(Debug)]
pub enum Order {
    /// Its record; none: however long it takes.
    Wait {
        wait_ms: Option<u64>,
    },
    Read(Read),
    /// Bytes for its input, then perhaps the end of it.
    Write {
        bytes: Vec<u8>,
        eof: bool,
    },
    Signal(i32),
    Kill,
    Resize(Size),
}

/// A part of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    pub stderr: bool,
    pub offset: u64,
    pub bytes_max: usize,
    pub wait_ms: u64,
}

/// Of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Size {
    pub cols: u16,
    pub rows: u16,
}

/// A terminal that a command is to run on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pty {
    pub size: Size,
    pub term: Option<String>,
}

/// Of an output, given at once unless asked otherwise.
const READ_BYTES: usize = 64 * 1024;
/// The longest name of a kind of terminal.
const TERM_BYTES_MAX: usize = 64;
/// A wait that is longer is no wait but a mistake.
const WAIT_S_MAX: f64 = 366.0 * 86_400.0;
/// Signals of Linux; those from 32 on have no names of their own.
const SIGNAL_MAX: i64 = 64;

pub const METHODS: [&str; 6] = ["exec.wait", "exec.read", "exec.write", "exec.signal", "exec.kill", "exec.resize"];

impl Order {
    /// The accepted fields of a method of [`METHODS`].
    pub fn fields(method: &str) -> &'static [&'static str] {
        match method {
            "exec.wait" => &["exec", "wait_s"],
            "exec.read" => &["exec", "stream", "offset", "max_bytes", "wait_s"],
            "exec.write" => &["exec", "data", "data_b64", "eof"],
            "exec.signal" => &["exec", "signal"],
            "exec.resize" => &["exec", "cols", "rows"],
            _ => &["exec"],
        }
    }

    pub fn parse(method: &str, fields: &Fields, config: &Config) -> Result<(ExecRef, Order), Fault> {
        let exec = exec_ref(fields)?;
        let order = match method {
            "exec.wait" => Order::Wait { wait_ms: wait(fields)? },
            "exec.read" => Order::Read(read(fields, config)?),
            "exec.write" => write(fields, config.commands.max_stdin_bytes)?,
            "exec.signal" => Order::Signal(signal(fields)?),
            "exec.resize" => Order::Resize(size(fields)?),
            _ => Order::Kill,
        };
        Ok((exec, order))
    }
}

fn exec_ref(fields: &Fields) -> Result<ExecRef, Fault> {
    let text = fields.text("exec")?.ok_or_else(|| fields.wrong("exec", "is missing"))?;
    if text.len() > ID_BYTES_MAX {
        return Err(fields.wrong("exec", format!("is longer than {ID_BYTES_MAX} bytes")));
    }
    Ok(ExecRef { id: ExecId::parse(&text), text: text.into_owned().into_boxed_str() })
}

/// A wait of 0 is none.
fn wait(fields: &Fields) -> Result<Option<u64>, Fault> {
    let Some(raw) = fields.raw("wait_s") else { return Ok(None) };
    let seconds = json::number(raw).filter(|seconds| (0.0..=WAIT_S_MAX).contains(seconds));
    let seconds = seconds.ok_or_else(|| fields.wrong("wait_s", format!("must be a number from 0 to {WAIT_S_MAX}")))?;
    Ok(Some((seconds * 1000.0).ceil() as u64))
}

fn read(fields: &Fields, config: &Config) -> Result<Read, Fault> {
    let stderr = fields.word("stream", &[("stdout", false), ("stderr", true)])?;
    let stderr = stderr.ok_or_else(|| fields.wrong("stream", "is missing"))?;
    let offset = fields.integer("offset", 0..=i64::MAX)?.ok_or_else(|| fields.wrong("offset", "is missing"))?;
    let most = usize::try_from(config.commands.max_output_bytes).unwrap_or(usize::MAX);
    let asked = fields.integer("max_bytes", 1..=i64::MAX)?;
    // More than there can be is as good as all of it.
    let bytes_max = asked.map_or(READ_BYTES, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX).min(most));
    let wait_ms = wait(fields)?.unwrap_or(0);
    Ok(Read { stderr, offset: offset.unsigned_abs(), bytes_max, wait_ms })
}

fn write(fields: &Fields, bytes_max: u64) -> Result<Order, Fault> {
    let bytes = stdin_of(fields, "data", "data_b64", bytes_max)?;
    let eof = fields.bool("eof")?.unwrap_or(false);
    if bytes.is_none() && !eof {
        return Err(fields.wrong("data", "give data, data_b64 or eof"));
    }
    Ok(Order::Write { bytes: bytes.unwrap_or_default(), eof })
}

fn signal(fields: &Fields) -> Result<i32, Fault> {
    let raw = fields.raw("signal").ok_or_else(|| fields.wrong("signal", "is missing"))?;
    let named = |name: &str| {
        let name = name.to_ascii_uppercase();
        let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
        Signal::from_str(&name).ok().map(|signal| signal as i32)
    };
    let found = match json::text(raw) {
        Some(name) => named(&name),
        None => raw.get().parse::<i64>().ok().filter(|number| (1..=SIGNAL_MAX).contains(number)).map(|n| n as i32),
    };
    found.ok_or_else(|| fields.wrong("signal", format!("must be a signal's name, or a number from 1 to {SIGNAL_MAX}")))
}

fn size(fields: &Fields) -> Result<Size, Fault> {
    let side = |name| {
        let found = fields.integer(name, 1..=i64::from(u16::MAX))?;
        found.map(|n| n as u16).ok_or_else(|| fields.wrong(name, "is missing"))
    };
    Ok(Size { cols: side("cols")?, rows: side("rows")? })
}

/// The terminal in the params of a command.
pub(super) fn pty(fields: &Fields) -> Result<Option<Pty>, Fault> {
    let Some(raw) = fields.raw("pty") else { return Ok(None) };
    let fields = Fields::of("pty.", Some(raw), &["cols", "rows", "term"])?;
    let term = fields.c_text("term")?.map(|term| term.into_owned());
    if term.as_ref().is_some_and(|term| term.is_empty() || term.len() > TERM_BYTES_MAX) {
        return Err(fields.wrong("term", format!("must have 1 to {TERM_BYTES_MAX} bytes")));
    }
    Ok(Some(Pty { size: size(&fields)?, term }))
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn parse(method: &'static str, params: &str) -> Result<Order, String> {
        let raw: &RawValue = serde_json::from_str(params).unwrap();
        let fields = Fields::of("", Some(raw), Order::fields(method)).map_err(|fault| fault.message)?;
        Order::parse(method, &fields, &Config::default()).map(|(_, order)| order).map_err(|fault| fault.message)
    }

    #[test]
    fn signals_have_names_and_numbers() {
        let number = |signal: &str| match parse("exec.signal", &format!(r#"{{"exec":"e1","signal":{signal}}}"#)) {
            Ok(Order::Signal(number)) => Some(number),
            _ => None,
        };
        for term in [r#""TERM""#, r#""SIGTERM""#, r#""sigterm""#, r#""Term""#, "15"] {
            assert_eq!(number(term), Some(15), "{term}");
        }
        assert_eq!((number("1"), number("64"), number(r#""winch""#)), (Some(1), Some(64), Some(28)));
        for bad in ["0", "65", "-1", "1.5", "true", r#""15""#, r#""""#, r#""SIG""#, r#""NOSUCH""#, "[9]"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_wait_of_zero_is_none_and_no_wait_is_for_ever() {
        let wait = |wait: &str| match parse("exec.wait", &format!(r#"{{"exec":"e1"{wait}}}"#)) {
            Ok(Order::Wait { wait_ms }) => Ok(wait_ms),
            _ => Err(()),
        };
        assert_eq!(wait(""), Ok(None));
        assert_eq!(wait(r#","wait_s":null"#), Ok(None));
        assert_eq!(wait(r#","wait_s":0"#), Ok(Some(0)));
        assert_eq!(wait(r#","wait_s":0.0015"#), Ok(Some(2)));
        for bad in ["-1", "1e300", "\"1\"", "true"] {
            assert_eq!(wait(&format!(r#","wait_s":{bad}"#)), Err(()), "{bad}");
        }
    }

    #[test]
    fn what_is_missing_or_out_of_range_is_named() {
        let field = |method, params: &str| parse(method, params).unwrap_err().split(':').next().unwrap().to_owned();
        assert_eq!(field("exec.wait", "{}"), "exec");
        assert_eq!(field("exec.read", r#"{"exec":"e1","offset":0}"#), "stream");
        assert_eq!(field("exec.read", r#"{"exec":"e1","stream":"stdout"}"#), "offset");
        assert_eq!(field("exec.read", r#"{"exec":"e1","stream":"stdout","offset":-1}"#), "offset");
        assert_eq!(field("exec.read", r#"{"exec":"e1","stream":"stdout","offset":0,"max_bytes":0}"#), "max_bytes");
        assert_eq!(field("exec.read", r#"{"exec":"e1","stream":"stdin","offset":0}"#), "stream");
        assert_eq!(field("exec.write", r#"{"exec":"e1"}"#), "data");
        assert_eq!(field("exec.write", r#"{"exec":"e1","data":"a","data_b64":"YQ=="}"#), "data_b64");
        assert_eq!(field("exec.resize", r#"{"exec":"e1","cols":80}"#), "rows");
        assert_eq!(field("exec.resize", r#"{"exec":"e1","cols":0,"rows":1}"#), "cols");
        assert_eq!(field("exec.resize", r#"{"exec":"e1","cols":65536,"rows":1}"#), "cols");
        assert_eq!(field("exec.kill", r#"{"exec":"e1","signal":9}"#), "signal");
    }
}
