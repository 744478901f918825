//! The client's side of the framing: a request as a line, a line as an answer or a notification.
//!
//! Pure but for [`Stream`], which is a socket of either kind.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{ClientError, OutputPiece, Record, RequestId, RpcError, SessionInfo};

/// A line for who waits for one answer.
pub(super) enum Line {
    Answer(Result<Box<RawValue>, ClientError>),
    Notification,
}

#[derive(Serialize)]
pub(super) struct Named<'a> {
    pub session: &'a str,
}

#[derive(Serialize)]
pub(super) struct Token<'a> {
    pub token: &'a str,
}

#[derive(Serialize)]
pub(super) struct Exec<'a> {
    pub exec: &'a str,
}

#[derive(Serialize)]
pub(super) struct AskHistory<'a> {
    pub session: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct Sessions {
    pub sessions: Vec<SessionInfo>,
}

#[derive(Deserialize)]
pub(super) struct History {
    pub commands: Vec<Record>,
}

/// Any line of the daemon.
#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<WireError>,
}

#[derive(Deserialize)]
struct WireError {
    code: i64,
    message: String,
    #[serde(default)]
    data: Option<Box<RawValue>>,
}

#[derive(Deserialize, Default)]
struct Common {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    retryable: bool,
}

/// One request as one line. `params` is JSON without a line end.
pub(super) fn request(id: i64, method: &str, params: Option<&str>) -> String {
    let method = serde_json::Value::from(method);
    match params {
        Some(params) => format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":{method},\"params\":{params}}}\n"),
        None => format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":{method}}}\n"),
    }
}

/// A JSON text on one line. A line end within JSON stands between two tokens, never in a string: a space does as well.
pub(super) fn one_line(json: &str) -> Result<Cow<'_, str>, ClientError> {
    if let Err(error) = serde_json::from_str::<&RawValue>(json) {
        return Err(ClientError::Protocol(format!("the params are not JSON: {error}")));
    }
    match json.contains(['\n', '\r']) {
        true => Ok(Cow::Owned(json.replace(['\n', '\r'], " "))),
        false => Ok(Cow::Borrowed(json)),
    }
}

/// What a line is for who waits for the answer to `id`; none: the late answer to an earlier request.
pub(super) fn sort(line: &[u8], id: i64) -> Result<Option<Line>, ClientError> {
    let incoming = parse(line)?;
    if incoming.method.is_some() {
        return Ok(Some(Line::Notification));
    }
    // An error without an id is about the connection or about bytes that we sent: ours, who sent nothing else.
    let ours = match incoming.id {
        Some(given) => given.get().parse() == Ok(id),
        None => incoming.error.is_some(),
    };
    Ok(ours.then(|| {
        Line::Answer(match incoming.error {
            Some(error) => Err(ClientError::Refused(refusal(error))),
            None => Ok(incoming.result.unwrap_or(RawValue::NULL).to_owned()),
        })
    }))
}

/// The piece of output that a notification holds, if it is one of the command that `id` asked for.
pub(super) fn piece_of(line: &[u8], id: i64) -> Result<Option<OutputPiece>, ClientError> {
    Ok(any_piece(line)?.filter(|piece| piece.id == Some(RequestId::Number(id))))
}

/// The piece of output that a notification holds, whoever it is for.
pub(super) fn any_piece(line: &[u8]) -> Result<Option<OutputPiece>, ClientError> {
    let incoming = parse(line)?;
    let (Some("exec.output"), Some(params)) = (incoming.method.as_deref(), incoming.params) else { return Ok(None) };
    serde_json::from_str(params.get())
        .map(Some)
        .map_err(|e| ClientError::Protocol(format!("a piece of output is not as expected: {e}")))
}

/// The request that a line answers; none: a notification. An error about the connection itself is the answer to 0.
pub(super) fn id_of(line: &[u8]) -> Result<Option<i64>, ClientError> {
    let incoming = parse(line)?;
    if incoming.method.is_some() {
        return Ok(None);
    }
    Ok(Some(incoming.id.and_then(|id| id.get().parse().ok()).unwrap_or(0)))
}

/// A line as text, without its end.
pub(super) fn text_of(line: &[u8]) -> Result<&str, ClientError> {
    let text = std::str::from_utf8(line).map_err(|_| ClientError::Protocol("the daemon sent no UTF-8".into()))?;
    Ok(text.trim_end_matches(['\n', '\r']))
}

fn parse(line: &[u8]) -> Result<Incoming<'_>, ClientError> {
    serde_json::from_str(text_of(line)?)
        .map_err(|e| ClientError::Protocol(format!("the daemon sent a line that is no answer: {e}")))
}

fn refusal(error: WireError) -> RpcError {
    let common = error.data.as_deref().and_then(|data| serde_json::from_str::<Common>(data.get()).ok());
    let Common { reason, retryable } = common.unwrap_or_default();
    RpcError { code: error.code, message: error.message, reason, retryable, data: error.data }
}

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_read_timeout(timeout),
            Stream::Unix(stream) => stream.set_read_timeout(timeout),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buf),
            Stream::Unix(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(buf),
            Stream::Unix(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
