//! Commands that go on by themselves, from a client's side: start, wait, read, write, signal, list, and the pieces of a
//! stream as an iterator.
//!
//! Runs on the caller's thread, as all of the client.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::wire::{self, Line};
use super::{Client, ClientError, OutputPiece, OutputStream, Part, Record, Run, RunningCommand, Started, read, write};

#[derive(Serialize)]
struct Wait<'a> {
    exec: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    wait_s: Option<f64>,
}

#[derive(Serialize)]
struct Read<'a> {
    exec: &'a str,
    stream: OutputStream,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_bytes: Option<u64>,
    wait_s: f64,
}

/// The params of `exec.write`: text where it is text.
#[derive(Serialize)]
pub(crate) struct Write<'a> {
    exec: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_b64: Option<String>,
    eof: bool,
}

impl<'a> Write<'a> {
    pub(crate) fn new(exec: &'a str, bytes: &'a [u8], eof: bool) -> Write<'a> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Write { exec, data: Some(text), data_b64: None, eof },
            Err(_) => Write { exec, data: None, data_b64: Some(STANDARD.encode(bytes)), eof },
        }
    }
}

#[derive(Serialize)]
struct Signal<'a> {
    exec: &'a str,
    signal: &'a str,
}

/// The params of `exec.resize`.
#[derive(Serialize)]
pub(crate) struct Resize<'a> {
    pub exec: &'a str,
    pub cols: u16,
    pub rows: u16,
}

#[derive(Serialize)]
struct List<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<&'a str>,
}

#[derive(serde::Deserialize)]
struct Commands {
    commands: Vec<RunningCommand>,
}

#[derive(serde::Deserialize)]
struct Accepted {
    accepted_bytes: u64,
}

impl Client {
    /// Starts a command that goes on by itself, in a session: `exec.start`.
    ///
    /// ```no_run
    /// # use cofferdam::client::{Client, OpenSession, OutputStream, Run};
    /// # use std::time::Duration;
    /// # let mut client = Client::connect("127.0.0.1:7643")?;
    /// let session = client.open(&OpenSession::default())?.session;
    /// let build = client.start(&Run::cmd("make").in_session(&session))?;
    /// let mut offset = 0;
    /// loop {
    ///     let part = client.read(&build.exec, OutputStream::Stdout, offset, None, Duration::from_secs(10))?;
    ///     print!("{}", String::from_utf8_lossy(&part.bytes()?));
    ///     offset = part.next_offset;
    ///     if part.eof {
    ///         break;
    ///     }
    /// }
    /// let record = client.wait(&build.exec, None)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start(&mut self, run: &Run) -> Result<Started, ClientError> {
        let id = self.send("exec.start", Some(&write(run)?))?;
        loop {
            if let Line::Answer(answer) = self.receive(id)? {
                let started: Started = read("exec.start", &answer?)?;
                return Ok(Started { request: id, ..started });
            }
        }
    }

    /// The record of a command, as soon as it has ended; none when it still runs after this time. Without a time the
    /// record comes, however long it takes.
    pub fn wait(&mut self, exec: &str, longest: Option<Duration>) -> Result<Option<Record>, ClientError> {
        let answer = self.ask("exec.wait", Some(&write(&Wait { exec, wait_s: longest.map(|d| d.as_secs_f64()) })?))?;
        #[derive(serde::Deserialize)]
        struct Status {
            status: String,
        }
        match read::<Status>("exec.wait", &answer)?.status.as_str() {
            "running" => Ok(None),
            _ => read("exec.wait", &answer).map(Some),
        }
    }

    /// A part of what a command keeps of an output, from this offset on: at once where there is something, or when
    /// there is within `longest`.
    pub fn read(
        &mut self,
        exec: &str,
        stream: OutputStream,
        offset: u64,
        max_bytes: Option<u64>,
        longest: Duration,
    ) -> Result<Part, ClientError> {
        self.ask_typed("exec.read", &Read { exec, stream, offset, max_bytes, wait_s: longest.as_secs_f64() })
    }

    /// Writes to the input of a command that was started with [`Run::stdin_open`], or on a terminal: all of it, or the
    /// error `STDIN_FULL`.
    pub fn write(&mut self, exec: &str, bytes: &[u8]) -> Result<u64, ClientError> {
        self.ask_typed("exec.write", &Write::new(exec, bytes, false)).map(|a: Accepted| a.accepted_bytes)
    }

    /// Ends the input of a command; on a terminal this is ^D.
    pub fn write_eof(&mut self, exec: &str) -> Result<(), ClientError> {
        self.ask_typed("exec.write", &Write::new(exec, b"", true)).map(|_: Accepted| ())
    }

    /// Sends a signal, as `TERM`, to the process group of a command.
    pub fn signal(&mut self, exec: &str, signal: &str) -> Result<(), ClientError> {
        self.ask("exec.signal", Some(&write(&Signal { exec, signal })?)).map(drop)
    }

    /// Ends a command with its whole tree.
    pub fn kill(&mut self, exec: &str) -> Result<(), ClientError> {
        self.ask("exec.kill", Some(&write(&wire::Exec { exec })?)).map(drop)
    }

    /// Changes the size of a command's terminal.
    pub fn resize(&mut self, exec: &str, cols: u16, rows: u16) -> Result<(), ClientError> {
        self.ask("exec.resize", Some(&write(&Resize { exec, cols, rows })?)).map(drop)
    }

    /// The commands that run now: of a session, or all of this client.
    pub fn list(&mut self, session: Option<&str>) -> Result<Vec<RunningCommand>, ClientError> {
        self.ask_typed("exec.list", &List { session }).map(|list: Commands| list.commands)
    }

    /// Runs a command, its output an iterator over the pieces as they come; behind the last, [`Pieces::record`].
    /// [`Client::run_streamed`] does the same by a callback.
    ///
    /// ```no_run
    /// # use cofferdam::client::{Client, Run};
    /// # let mut client = Client::connect("127.0.0.1:7643")?;
    /// let mut pieces = client.pieces(&Run::cmd("ping -c 3 localhost"))?;
    /// for piece in &mut pieces {
    ///     print!("{}", String::from_utf8_lossy(&piece?.bytes()?));
    /// }
    /// println!("{:?}", pieces.record().map(|record| record.status));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pieces(&mut self, run: &Run) -> Result<Pieces<'_>, ClientError> {
        let run = Run { stream: Some(true), ..run.clone() };
        let request = self.send("exec.run", Some(&write(&run)?))?;
        Ok(Pieces::new(self, request, request, None))
    }

    /// The pieces of a command that was started with [`Run::stream`] on this connection, from here to its end. To be
    /// called right after the start: pieces that come while something else is asked for are passed over.
    pub fn follow(&mut self, started: &Started) -> Result<Pieces<'_>, ClientError> {
        let answer = self.send("exec.wait", Some(&write(&wire::Exec { exec: &started.exec })?))?;
        Ok(Pieces::new(self, started.request, answer, Some(started.exec.clone())))
    }
}

/// The pieces of a streamed command, in order, none lost and none twice. It ends with the command.
///
/// Dropped before its end, it ends a command of [`Client::pieces`], for nobody takes its output any more (unless there
/// was no piece yet, which would tell its name); one of [`Client::follow`] goes on. The connection can be used on.
#[derive(Debug)]
pub struct Pieces<'c> {
    client: &'c mut Client,
    /// The id that the pieces carry, and that of the answer behind them.
    request: i64,
    answer: i64,
    exec: Option<String>,
    goes_on: bool,
    /// None: there may be more.
    record: Option<Option<Record>>,
}

impl<'c> Pieces<'c> {
    fn new(client: &'c mut Client, request: i64, answer: i64, exec: Option<String>) -> Pieces<'c> {
        Pieces { client, request, answer, goes_on: exec.is_some(), exec, record: None }
    }

    /// The record, behind the last piece.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()?.as_ref()
    }

    fn step(&mut self) -> Result<Option<OutputPiece>, ClientError> {
        loop {
            match self.client.receive(self.answer)? {
                Line::Answer(answer) => {
                    self.record = Some(Some(read("exec.run", &answer?)?));
                    return Ok(None);
                }
                Line::Notification => {
                    if let Some(piece) = wire::piece_of(&self.client.line, self.request)? {
                        self.exec.get_or_insert_with(|| piece.exec.clone());
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<OutputPiece, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.record.is_some() {
            return None;
        }
        let step = self.step();
        if step.is_err() {
            self.record = Some(None);
        }
        step.transpose()
    }
}

impl Drop for Pieces<'_> {
    fn drop(&mut self) {
        if self.record.is_some() || self.goes_on {
            return;
        }
        if let Some(exec) = &self.exec
            && let Ok(params) = write(&wire::Exec { exec })
        {
            // Both answers come with ids that nobody waits for, and are passed over.
            let _ = self.client.send("exec.kill", Some(&params));
        }
    }
}
