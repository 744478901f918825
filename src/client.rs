//! A client of a cofferdam daemon, blocking, one request at a time.
//!
//! Runs on the caller's thread. [`Client`] owns one connection and nothing else: no thread, no time-out of its own,
//! no state of the daemon. It trusts its daemon, except that a line has a bound ([`Client::set_line_bytes_max`]).
//!
//! ```no_run
//! use cofferdam::client::{Client, OpenSession, Run};
//!
//! # fn main() -> Result<(), cofferdam::client::ClientError> {
//! let mut client = Client::connect("127.0.0.1:7643")?;
//! let session = client.open(&OpenSession::default())?.session;
//! let record = client.run(&Run { timeout_s: Some(5.0), ..Run::cmd("uname -a").in_session(&session) })?;
//! println!("{} {:?}", record.status.as_str(), record.stdout);
//! client.close(&session)?;
//! # Ok(())
//! # }
//! ```

mod duplex;
mod error;
mod exec;
mod request;
#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own threads")]
mod tests;
mod wire;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

pub(crate) use self::duplex::{Duplex, Event};
pub use self::error::{ClientError, RpcError};
pub use self::exec::Pieces;
pub(crate) use self::exec::{Resize, Write as WriteParams};
pub use self::request::{Budget, EncodingAsked, OnDisconnect, OnOutputLimit, OpenSession, OutputKeep, Pty, Run};
use self::wire::{Line, Stream};
pub use crate::protocol::record::{
    Closed, Encoding, LimitSet, NotBase64, Opened, OutputPiece, OutputStream, Part, Record, RequestId, RunningCommand,
    SessionBudget, SessionInfo, SessionUsage, Shell, Started, Status, Usage,
};

/// Longest line taken from the daemon unless set otherwise. A record holds two outputs of `max_output_bytes` (4 MiB)
/// at 1.4 times their size: 64 MiB is a daemon configured for five times that.
const LINE_BYTES_MAX: usize = 64 << 20;
/// Bytes that the line buffer keeps between two answers; what a large answer needed more is given back.
const LINE_BYTES_KEPT: usize = 1 << 20;

/// One connection to a daemon.
///
/// After an error of [`ClientError::Refused`] the connection goes on. After a read time-out it does too: the late
/// answer is recognised by its id and thrown away. After any other error it is over.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<Stream>,
    /// The line being read, or the last one when `line_is_whole`.
    line: Vec<u8>,
    line_is_whole: bool,
    line_bytes_max: usize,
    last_id: i64,
}

/// Who the daemon takes this connection for: the result of `auth.login`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct Login {
    /// The client's name, whom quotas and rates count against.
    pub client: String,
    /// Whether it may see and end what belongs to others.
    pub admin: bool,
}

impl Client {
    /// However its process ends, by a signal that nobody can hear too, the daemon is to see it at once. Over TCP it would
    /// take a connection that is closed for one that has said all it had to say, and keep it until its last answer.
    pub(crate) fn reset_at_end(&self) {
        if let Stream::Tcp(stream) = self.reader.get_ref() {
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            // Without it what runs goes on to its own end.
            let _ = setsockopt(stream, sockopt::Linger, &linger);
        }
    }

    /// Connects over TCP, as to `"127.0.0.1:7643"`. The daemon closes a connection that asks for nothing within its
    /// `connections.first_line_s`, so connect when there is something to ask.
    pub fn connect(addr: impl ToSocketAddrs + std::fmt::Display) -> Result<Client, ClientError> {
        let fail = |error| ClientError::Io { step: format!("connect to {addr}"), error };
        let stream = TcpStream::connect(&addr).map_err(fail)?;
        // A request is one write: there is nothing for Nagle's algorithm to gather.
        stream.set_nodelay(true).map_err(fail)?;
        Ok(Client::from_stream(Stream::Tcp(stream)))
    }

    /// Connects to a Unix socket; as over TCP, the first request is to come soon.
    pub fn connect_unix(path: impl AsRef<Path>) -> Result<Client, ClientError> {
        let path = path.as_ref();
        let stream = UnixStream::connect(path)
            .map_err(|error| ClientError::Io { step: format!("connect to unix:{}", path.display()), error })?;
        Ok(Client::from_unix_stream(stream))
    }

    /// Connects to `unix:PATH` or `HOST:PORT`.
    ///
    /// ```no_run
    /// let mut client = cofferdam::Client::dial("unix:/run/cofferdam.sock")?;
    /// client.ping()?;
    /// # Ok::<(), cofferdam::client::ClientError>(())
    /// ```
    pub fn dial(addr: &str) -> Result<Client, ClientError> {
        match addr.strip_prefix("unix:") {
            Some(path) => Client::connect_unix(path),
            None => Client::connect(addr),
        }
    }

    /// Takes a connected stream, as one half of a pair whose other half the daemon has.
    pub fn from_unix_stream(stream: UnixStream) -> Client {
        Client::from_stream(Stream::Unix(stream))
    }

    fn from_stream(stream: Stream) -> Client {
        Client {
            reader: BufReader::with_capacity(64 << 10, stream),
            line: Vec::new(),
            line_is_whole: true,
            line_bytes_max: LINE_BYTES_MAX,
            last_id: 0,
        }
    }

    /// Bounds a line from the daemon, in bytes; 64 MiB unless set.
    pub fn set_line_bytes_max(&mut self, bytes: usize) {
        self.line_bytes_max = bytes;
    }

    /// Bounds every wait for bytes of the daemon; `None` (as at first) waits as long as it takes. A command's whole
    /// run is such a wait.
    pub fn set_read_timeout(&mut self, timeout: Option<Duration>) -> Result<(), ClientError> {
        let set = self.reader.get_ref().set_read_timeout(timeout);
        set.map_err(|error| ClientError::Io { step: "set the read time-out".into(), error })
    }

    /// Asks whether the daemon answers.
    pub fn ping(&mut self) -> Result<(), ClientError> {
        self.ask("system.ping", None).map(drop)
    }

    /// What the daemon is, its limits and by what they are enforced: `system.info`.
    pub fn info(&mut self) -> Result<Box<RawValue>, ClientError> {
        self.ask("system.info", None)
    }

    /// The daemon's counters: `system.stats`.
    pub fn stats(&mut self) -> Result<Box<RawValue>, ClientError> {
        self.ask("system.stats", None)
    }

    /// Stops the daemon, as SIGTERM does; needs an admin.
    pub fn drain(&mut self) -> Result<(), ClientError> {
        self.ask("system.drain", None).map(drop)
    }

    /// Says who this client is, where the daemon asks for it.
    pub fn login(&mut self, token: &str) -> Result<Login, ClientError> {
        self.ask_typed("auth.login", &wire::Token { token })
    }

    /// Opens a session.
    pub fn open(&mut self, open: &OpenSession) -> Result<Opened, ClientError> {
        self.ask_typed("session.open", open)
    }

    /// Closes a session; answered when its processes are gone.
    pub fn close(&mut self, session: &str) -> Result<Closed, ClientError> {
        self.ask_typed("session.close", &wire::Named { session })
    }

    /// The sessions of this client; an admin's: all.
    pub fn sessions(&mut self) -> Result<Vec<SessionInfo>, ClientError> {
        let answer = self.ask("session.list", None)?;
        read::<wire::Sessions>("session.list", &answer).map(|list| list.sessions)
    }

    /// One session.
    pub fn session_info(&mut self, session: &str) -> Result<SessionInfo, ClientError> {
        self.ask_typed("session.info", &wire::Named { session })
    }

    /// The finished commands of a session, newest last, without output; the last few, or all that are kept.
    pub fn history(&mut self, session: &str, last: Option<u64>) -> Result<Vec<Record>, ClientError> {
        self.ask_typed("session.history", &wire::AskHistory { session, last }).map(|h: wire::History| h.commands)
    }

    /// Runs a command to its end. For one with `stream`, see [`Client::run_streamed`]: here its pieces are lost.
    pub fn run(&mut self, run: &Run) -> Result<Record, ClientError> {
        self.ask_typed("exec.run", run)
    }

    /// Runs a command to its end and hands on its output as it comes, every byte of a stream once and in order.
    /// A slow `on_piece` slows the command down.
    ///
    /// When `on_piece` fails, the command is killed, what it still wrote is thrown away, and the failure is returned
    /// when it has ended: the connection can be used on.
    ///
    /// ```no_run
    /// use std::io::{self, Write};
    /// # use cofferdam::client::{Client, Run};
    /// # let mut client = Client::connect("127.0.0.1:7643")?;
    /// let record = client.run_streamed(&Run::cmd("ping -c 3 localhost"), |piece| {
    ///     io::stdout().write_all(&piece.bytes().map_err(io::Error::other)?)
    /// })?;
    /// # Ok::<(), cofferdam::client::ClientError>(())
    /// ```
    pub fn run_streamed(
        &mut self,
        run: &Run,
        mut on_piece: impl FnMut(OutputPiece) -> io::Result<()>,
    ) -> Result<Record, ClientError> {
        let run = Run { stream: Some(true), ..run.clone() };
        let id = self.send("exec.run", Some(&write(&run)?))?;
        let mut failed: Option<io::Error> = None;
        loop {
            match self.receive(id)? {
                Line::Answer(answer) => {
                    return match failed {
                        Some(error) => Err(ClientError::Io { step: "hand on the output".into(), error }),
                        None => read("exec.run", &answer?),
                    };
                }
                Line::Notification if failed.is_none() => {
                    let Some(piece) = wire::piece_of(&self.line, id)? else { continue };
                    let exec = piece.exec.clone();
                    if let Err(error) = on_piece(piece) {
                        // Its answer comes with an id of its own, and is passed over like any late one.
                        self.send("exec.kill", Some(&write(&wire::Exec { exec: &exec })?))?;
                        failed = Some(error);
                    }
                }
                Line::Notification => {}
            }
        }
    }

    /// One request as it is: `params_json` is a JSON text. Notifications that come before the answer, whatever they
    /// belong to, go to `on_notification` as a line without its end.
    ///
    /// ```no_run
    /// # let mut client = cofferdam::Client::connect("127.0.0.1:7643")?;
    /// let list = client.call("exec.list", Some(r#"{"session":"s1"}"#), &mut |_| {})?;
    /// println!("{list}");
    /// # Ok::<(), cofferdam::client::ClientError>(())
    /// ```
    pub fn call(
        &mut self,
        method: &str,
        params_json: Option<&str>,
        on_notification: &mut dyn FnMut(&str),
    ) -> Result<Box<RawValue>, ClientError> {
        self.call_while(method, params_json, &mut |line| {
            on_notification(line);
            Ok(())
        })
    }

    /// The same, given up at the first notification that cannot be handed on. The answer is then still to come, and is
    /// passed over; a caller who does not want its effect drops the connection.
    pub(crate) fn call_while(
        &mut self,
        method: &str,
        params_json: Option<&str>,
        on_notification: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> Result<Box<RawValue>, ClientError> {
        let params = params_json.map(wire::one_line).transpose()?;
        let id = self.send(method, params.as_deref())?;
        loop {
            match self.receive(id)? {
                Line::Answer(answer) => return answer,
                Line::Notification => on_notification(wire::text_of(&self.line)?)
                    .map_err(|error| ClientError::Io { step: "hand on a notification".into(), error })?,
            }
        }
    }

    /// Hands on what a subscription brings, until the connection ends or nobody takes it any more.
    pub(crate) fn listen_while(
        &mut self,
        on_notification: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        loop {
            // Nothing is asked any more, so all that comes is notifications.
            if let Line::Notification = self.receive(self.last_id)? {
                on_notification(wire::text_of(&self.line)?)
                    .map_err(|error| ClientError::Io { step: "hand on a notification".into(), error })?;
            }
        }
    }

    fn ask(&mut self, method: &str, params: Option<&str>) -> Result<Box<RawValue>, ClientError> {
        self.call(method, params, &mut |_| {})
    }

    fn ask_typed<T: DeserializeOwned>(&mut self, method: &str, params: &impl Serialize) -> Result<T, ClientError> {
        let answer = self.ask(method, Some(&write(params)?))?;
        read(method, &answer)
    }

    /// Writes one request and gives its id.
    fn send(&mut self, method: &str, params: Option<&str>) -> Result<i64, ClientError> {
        self.last_id += 1;
        let request = wire::request(self.last_id, method, params);
        match self.reader.get_mut().write_all(request.as_bytes()) {
            Ok(()) => Ok(self.last_id),
            Err(error) => {
                let gone = matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
                let error = ClientError::Io { step: "send a request".into(), error };
                // A daemon that is full says so in one line and closes: that line tells more than a broken pipe.
                match gone.then(|| self.receive(self.last_id)) {
                    Some(Ok(Line::Answer(Err(refused)))) => Err(refused),
                    _ => Err(error),
                }
            }
        }
    }

    /// Reads up to the next notification (then `self.line` holds it) or the answer to `id`.
    fn receive(&mut self, id: i64) -> Result<Line, ClientError> {
        loop {
            self.read_line()?;
            if let Some(line) = wire::sort(&self.line, id)? {
                return Ok(line);
            }
        }
    }

    /// Reads one line into `self.line`. What a time-out cuts short is kept for the next time.
    fn read_line(&mut self) -> Result<(), ClientError> {
        if self.line_is_whole {
            self.line.clear();
            self.line.shrink_to(LINE_BYTES_KEPT);
            self.line_is_whole = false;
        }
        let room = (self.line_bytes_max + 1).saturating_sub(self.line.len());
        let outcome = (&mut self.reader).take(room as u64).read_until(b'\n', &mut self.line);
        let failed = |error| Err(ClientError::Io { step: "read an answer".into(), error });
        match outcome {
            Ok(_) if self.line.last() == Some(&b'\n') => {
                self.line_is_whole = true;
                Ok(())
            }
            Ok(_) if self.line.len() > self.line_bytes_max => {
                Err(ClientError::Protocol(format!("the daemon sent a line longer than {} bytes", self.line_bytes_max)))
            }
            Ok(_) => failed(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon closed the connection")),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                failed(io::Error::new(io::ErrorKind::TimedOut, "nothing came within the read time-out"))
            }
            Err(error) => failed(error),
        }
    }
}

fn write(params: &impl Serialize) -> Result<String, ClientError> {
    serde_json::to_string(params).map_err(|e| ClientError::Protocol(format!("the params cannot be written: {e}")))
}

fn read<T: DeserializeOwned>(method: &str, answer: &RawValue) -> Result<T, ClientError> {
    serde_json::from_str(answer.get())
        .map_err(|e| ClientError::Protocol(format!("the answer to {method} is not as expected: {e}")))
}
