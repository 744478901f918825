//! The results of the protocol, as types: what a command did, what a session is.
//!
//! Pure values, no thread. Reading tolerates fields that this version does not know, so that a client goes on working
//! with a newer daemon. Nothing here is read from a client: requests have types of their own.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// How one command went: the result of `exec.run` and `exec.wait`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The command's id, as `e12`.
    pub exec: String,
    /// The session that it ran in, the ephemeral one of a command without a session included.
    pub session: String,
    /// How it ended.
    pub status: Status,
    /// The limit that ended it, as `cpu_sec` or `timeout_s`.
    pub limit: Option<String>,
    /// Its exit code; only with [`Status::Exited`].
    pub exit_code: Option<i32>,
    /// Name of the signal that ended it, as `SIGKILL`.
    pub signal: Option<String>,
    /// What is kept of its standard output, see [`Record::stdout_kept`]; none when it was streamed.
    #[serde(default)]
    pub stdout: Option<String>,
    /// How `stdout` is written.
    #[serde(default)]
    pub stdout_encoding: Option<Encoding>,
    /// Bytes that the command wrote to its standard output, kept or not.
    pub stdout_bytes: u64,
    /// Bytes of them that are not in `stdout`; 0 when streamed.
    pub stdout_dropped: u64,
    /// What is kept of its standard error, see [`Record::stderr_kept`]; none when it was streamed.
    #[serde(default)]
    pub stderr: Option<String>,
    /// How `stderr` is written.
    #[serde(default)]
    pub stderr_encoding: Option<Encoding>,
    /// Bytes that the command wrote to its standard error, kept or not.
    pub stderr_bytes: u64,
    /// Bytes of them that are not in `stderr`; 0 when streamed.
    pub stderr_dropped: u64,
    /// From the spawn to the end, in milliseconds.
    pub wall_ms: f64,
    /// Time to start the program, in milliseconds.
    pub spawn_ms: f64,
    /// What it used up.
    pub usage: Usage,
    /// Processes of its tree that were still there at its end, and were killed.
    pub descendants_killed: u64,
    /// Working directory after the command; only for commands of a shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The shell before it was lost, and the command got a fresh one; only for commands of a shell.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shell_restarted: bool,
}

impl Record {
    /// The kept standard output as bytes; empty when it was streamed.
    ///
    /// ```
    /// # fn show(record: cofferdam::Record) -> Result<(), Box<dyn std::error::Error>> {
    /// let bytes: Vec<u8> = record.stdout_kept()?;
    /// # Ok(()) }
    /// ```
    pub fn stdout_kept(&self) -> Result<Vec<u8>, NotBase64> {
        kept(self.stdout.as_deref(), self.stdout_encoding)
    }

    /// The kept standard error as bytes; empty when it was streamed.
    pub fn stderr_kept(&self) -> Result<Vec<u8>, NotBase64> {
        kept(self.stderr.as_deref(), self.stderr_encoding)
    }

    /// Whether the command ended by itself with exit code 0.
    pub fn success(&self) -> bool {
        self.status == Status::Exited && self.exit_code == Some(0)
    }
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// By itself, with an exit code.
    Exited,
    /// By a signal that was none of the daemon's.
    Signaled,
    /// By the wall clock, or by a silence that was too long.
    TimedOut,
    /// CPU time of one process, or of the whole tree.
    CpuLimit,
    /// Memory, by the kernel in its cgroup or by the watchdog.
    MemoryLimit,
    /// Output, or the size of a file.
    OutputLimit,
    /// By `exec.kill`, `session.close`, or because its client went away.
    Cancelled,
    /// The daemon stopped.
    Shutdown,
    /// Not at all: it outlived SIGKILL, held in the kernel.
    Unkillable,
}

impl Status {
    /// The name on the wire, as `timed_out`.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Exited => "exited",
            Status::Signaled => "signaled",
            Status::TimedOut => "timed_out",
            Status::CpuLimit => "cpu_limit",
            Status::MemoryLimit => "memory_limit",
            Status::OutputLimit => "output_limit",
            Status::Cancelled => "cancelled",
            Status::Shutdown => "shutdown",
            Status::Unkillable => "unkillable",
        }
    }
}

/// What a command used up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU time in user mode, in milliseconds.
    pub cpu_user_ms: f64,
    /// CPU time in the kernel, in milliseconds.
    pub cpu_system_ms: f64,
    /// Largest resident memory of one process of the tree, in bytes.
    pub max_rss_bytes: u64,
    /// Largest virtual size of one process that was seen, in bytes; none when not known.
    #[serde(default)]
    pub max_vm_bytes: Option<u64>,
    /// Largest memory of the whole tree, in bytes; none when not known.
    pub memory_peak_bytes: Option<u64>,
    /// Most processes at a time; none when not known.
    pub processes_peak: Option<u64>,
}

/// How output is written in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As text.
    Utf8,
    /// As base64: it is no UTF-8, or base64 is shorter.
    Base64,
}

impl Encoding {
    /// The bytes that `text` stands for.
    pub fn decode(self, text: &str) -> Result<Cow<'_, [u8]>, NotBase64> {
        match self {
            Encoding::Utf8 => Ok(Cow::Borrowed(text.as_bytes())),
            Encoding::Base64 => STANDARD.decode(text).map(Cow::Owned).map_err(|_| NotBase64),
        }
    }
}

/// Output that says it is base64 and is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotBase64;

impl fmt::Display for NotBase64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the output is not the base64 that it says it is")
    }
}

impl std::error::Error for NotBase64 {}

/// A new session: the result of `session.open`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// Its id.
    pub session: String,
    /// Its working directory.
    pub cwd: String,
    /// The limits that its commands run under.
    pub limits: LimitSet,
}

/// The end of a session: the result of `session.close`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// Always true: an answer without it is an error.
    pub closed: bool,
    /// Commands that ran in it.
    pub commands: u64,
    /// What they used up.
    pub usage: SessionUsage,
}

/// What all commands of a session used up.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionUsage {
    /// CPU time, in milliseconds.
    pub cpu_ms: f64,
    /// Output of both streams, in bytes, kept or not.
    pub output_bytes: u64,
    /// Wall-clock time, in milliseconds.
    pub wall_ms: f64,
}

/// One session: a row of `session.list`, the result of `session.info`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its id.
    pub session: String,
    /// The name that it was opened with.
    #[serde(default)]
    pub name: Option<String>,
    /// The client whose it is, as `ip:127.0.0.1`.
    pub client: String,
    /// Its working directory.
    pub cwd: String,
    /// Its shell, if it has one.
    #[serde(default)]
    pub shell: Option<Shell>,
    /// Whether it outlives the connection that opened it.
    pub persist: bool,
    /// Whether one more command would be refused.
    pub busy: bool,
    /// Ids of the commands that run now.
    pub running: Vec<String>,
    /// Its age, in milliseconds.
    pub created_ms_ago: f64,
    /// How long it has been idle, in milliseconds.
    #[serde(default)]
    pub idle_ms: Option<f64>,
    /// Commands that ran in it.
    pub commands: u64,
    /// What they used up.
    pub usage: SessionUsage,
    /// The limits that its commands run under.
    pub limits: LimitSet,
    /// What it may use up in all; none where the daemon does not tell.
    #[serde(default)]
    pub budget: Option<SessionBudget>,
}

/// What a session may use up in all; -1 is unlimited.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionBudget {
    /// Commands.
    pub commands: i64,
    /// CPU time, in seconds.
    pub cpu_sec: f64,
    /// Output of both streams, in bytes.
    pub output_bytes: i64,
    /// Age of the session, in seconds.
    pub wall_s: f64,
}

/// The shell of a session: `true` is `/bin/sh`, `false` none, else its path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Shell {
    /// `/bin/sh`, or none.
    Standard(bool),
    /// The path of another one, as `/bin/bash`.
    Path(String),
}

/// The limits of a command; -1 is unlimited.
///
/// In a request `None` leaves the session's limit (or the daemon's) as it is; in a result every limit is there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LimitSet {
    /// CPU time, in seconds; may be fractional.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_sec: Option<f64>,
    /// Memory of the whole tree, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<i64>,
    /// Virtual memory of one process, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_space_bytes: Option<i64>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nproc: Option<i64>,
    /// Open descriptors of one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nofile: Option<i64>,
    /// Size of a file that a process writes, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fsize_bytes: Option<i64>,
    /// Size of a core dump, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core_bytes: Option<i64>,
}

/// A piece of output as it comes: the `params` of the notification `exec.output`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputPiece {
    /// The id of the request that started the command.
    #[serde(default)]
    pub id: Option<RequestId>,
    /// The command.
    pub exec: String,
    /// Which of its outputs.
    pub stream: OutputStream,
    /// Where the piece begins in the stream, in bytes.
    pub offset: u64,
    /// The piece itself, see [`OutputPiece::bytes`].
    pub data: String,
    /// How `data` is written.
    pub encoding: Encoding,
}

impl OutputPiece {
    /// The piece as bytes.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>, NotBase64> {
        self.encoding.decode(&self.data)
    }
}

/// A command that goes on by itself: the result of `exec.start`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Its id.
    pub exec: String,
    /// The session that it runs in.
    pub session: String,
    /// Its main process; none where it was given up before it had one.
    pub pid: Option<i32>,
    /// The request's id, which its pieces carry.
    #[serde(skip)]
    pub(crate) request: i64,
}

/// A part of an output: the result of `exec.read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The part itself, see [`Part::bytes`].
    pub data: String,
    /// How `data` is written.
    pub encoding: Encoding,
    /// Where it begins: later than asked for where the output before it is not kept any more.
    pub offset: u64,
    /// Where the next part begins.
    pub next_offset: u64,
    /// Bytes between the offset asked for and the one given.
    pub dropped: u64,
    /// It reaches the end of an output that has ended.
    pub eof: bool,
}

impl Part {
    /// The part as bytes.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>, NotBase64> {
        self.encoding.decode(&self.data)
    }
}

/// A command that runs: a row of `exec.list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunningCommand {
    /// Its id.
    pub exec: String,
    /// The session that it runs in.
    pub session: String,
    /// Its main process.
    pub pid: i32,
    /// Its line, if it is one for a shell; a long one is cut.
    #[serde(default)]
    pub cmd: Option<String>,
    /// Its program and arguments, if it was given so; cut where there are many.
    #[serde(default)]
    pub argv: Option<Vec<String>>,
    /// Since its start, in milliseconds.
    pub running_ms: f64,
    /// Bytes that it has written to its standard output so far.
    pub stdout_bytes: u64,
    /// Bytes that it has written to its standard error so far.
    pub stderr_bytes: u64,
}

/// Standard output or standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputStream {
    /// Descriptor 1, or the terminal.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// The id that a client gave a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RequestId {
    /// As [`crate::Client`] gives them.
    Number(i64),
    /// As other clients may.
    Text(String),
}

fn kept(text: Option<&str>, encoding: Option<Encoding>) -> Result<Vec<u8>, NotBase64> {
    let Some(text) = text else { return Ok(Vec::new()) };
    encoding.unwrap_or(Encoding::Utf8).decode(text).map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"exec":"e12","session":"s3","status":"exited","limit":null,"exit_code":0,"signal":null,
        "stdout":"hi\n","stdout_encoding":"utf8","stdout_bytes":3,"stdout_dropped":0,
        "stderr":"/wA=","stderr_encoding":"base64","stderr_bytes":2,"stderr_dropped":0,
        "wall_ms":1.93,"spawn_ms":0.41,
        "usage":{"cpu_user_ms":0.6,"cpu_system_ms":0.9,"max_rss_bytes":1843200,"memory_peak_bytes":null,
                 "processes_peak":null,"of_a_newer_daemon":1},
        "descendants_killed":0,"of_a_newer_daemon":{"a":[1]}}"#;

    #[test]
    fn a_record_is_read_and_its_output_decoded() {
        let record: Record = serde_json::from_str(RECORD).unwrap();
        assert_eq!(record.status, Status::Exited);
        assert!(record.success());
        assert_eq!(record.stdout_kept().unwrap(), b"hi\n");
        assert_eq!(record.stderr_kept().unwrap(), [0xff, 0x00]);
        assert_eq!(record.usage.max_vm_bytes, None);
    }

    #[test]
    fn a_record_is_written_as_it_was_read() {
        let record: Record = serde_json::from_str(RECORD).unwrap();
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        assert!(!text.contains("shell_restarted") && !text.contains("\"cwd\""), "{text}");
    }

    #[test]
    fn a_streamed_record_has_no_output() {
        let mut record: Record = serde_json::from_str(RECORD).unwrap();
        (record.stdout, record.stdout_encoding) = (None, None);
        assert_eq!(record.stdout_kept().unwrap(), b"");
    }

    #[test]
    fn bad_base64_is_an_error_and_not_a_guess() {
        let mut record: Record = serde_json::from_str(RECORD).unwrap();
        record.stderr = Some("?".into());
        assert_eq!(record.stderr_kept(), Err(NotBase64));
    }

    #[test]
    fn statuses_have_one_name_each() {
        for name in [
            "exited",
            "signaled",
            "timed_out",
            "cpu_limit",
            "memory_limit",
            "output_limit",
            "cancelled",
            "shutdown",
            "unkillable",
        ] {
            let status: Status = serde_json::from_str(&format!("\"{name}\"")).unwrap();
            assert_eq!(status.as_str(), name);
        }
    }

    #[test]
    fn a_piece_keeps_every_byte() {
        let piece: OutputPiece = serde_json::from_str(
            r#"{"id":7,"exec":"e1","stream":"stderr","offset":4,"data":"AP8=","encoding":"base64"}"#,
        )
        .unwrap();
        assert_eq!(piece.id, Some(RequestId::Number(7)));
        assert_eq!(piece.stream, OutputStream::Stderr);
        assert_eq!(piece.bytes().unwrap().as_ref(), [0x00, 0xff]);
    }

    #[test]
    fn limits_that_are_not_asked_for_are_not_written() {
        let asked = LimitSet { cpu_sec: Some(1.5), nproc: Some(-1), ..LimitSet::default() };
        assert_eq!(serde_json::to_string(&asked).unwrap(), r#"{"cpu_sec":1.5,"nproc":-1}"#);
    }
}
