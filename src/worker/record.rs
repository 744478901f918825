//! The record of a command: from how it ended to what is told of it. Pure.

use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::Signal;

use crate::admission::buffers::Share;
use crate::ids::{ExecId, SessionId};
use crate::protocol::encode::{Body, Encoding, Object};
use crate::protocol::limits::Limits;
use crate::protocol::record::Status;
use crate::sys::wait::{Exit, Rusage};

/// Why a command was ended, by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Timeout,
    Stall,
    Cpu,
    Memory,
    Output,
    Cancelled,
    Shutdown,
    /// The CPU time of the whole session is used up.
    BudgetCpu,
    /// The session is too old.
    BudgetWall,
    /// Still there long after SIGKILL.
    Unkillable,
}

/// The limit that the budget of its session was to a command.
pub const BUDGET_CPU: &str = "budget.cpu_sec";

/// How a command ended, in the record's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    pub status: Status,
    pub limit: Option<&'static str>,
    pub exit_code: Option<i32>,
    pub signal: Option<String>,
}

/// Says how a command ended: what we did to it comes before what it looks like from outside.
pub fn ended(verdict: Option<Verdict>, exit: Option<Exit>, used: &Rusage, limits: &Limits) -> Ended {
    let signal = match exit {
        Some(Exit::Signal(number)) => Some(signal_name(number)),
        Some(Exit::Code(_)) | None => None,
    };
    let with = |status, limit| Ended { status, limit, exit_code: None, signal: signal.clone() };
    if let Some(verdict) = verdict {
        return match verdict {
            Verdict::Timeout => with(Status::TimedOut, Some("timeout_s")),
            Verdict::Stall => with(Status::TimedOut, Some("stall_timeout_s")),
            Verdict::Cpu => with(Status::CpuLimit, Some("cpu_sec")),
            Verdict::Memory => with(Status::MemoryLimit, Some("memory_bytes")),
            Verdict::Output => with(Status::OutputLimit, Some("output_limit_bytes")),
            Verdict::Cancelled => with(Status::Cancelled, None),
            Verdict::Shutdown => with(Status::Shutdown, None),
            Verdict::BudgetCpu => with(Status::CpuLimit, Some(BUDGET_CPU)),
            Verdict::BudgetWall => with(Status::TimedOut, Some("budget.wall_s")),
            Verdict::Unkillable => Ended { status: Status::Unkillable, limit: None, exit_code: None, signal: None },
        };
    }
    match exit {
        Some(Exit::Code(code)) => Ended { status: Status::Exited, limit: None, exit_code: Some(code), signal: None },
        Some(Exit::Signal(libc::SIGXCPU)) if limits.cpu_ms.is_some() => with(Status::CpuLimit, Some("cpu_sec")),
        Some(Exit::Signal(libc::SIGKILL)) if past_hard_cpu(used, limits) => with(Status::CpuLimit, Some("cpu_sec")),
        Some(Exit::Signal(libc::SIGXFSZ)) if limits.fsize_bytes.is_some() => {
            with(Status::OutputLimit, Some("fsize_bytes"))
        }
        Some(Exit::Signal(_)) | None => with(Status::Signaled, None),
    }
}

/// The kernel kills at the hard limit, a second above the soft one, of what it counts in ticks.
fn past_hard_cpu(used: &Rusage, limits: &Limits) -> bool {
    let slack = Duration::from_millis(100);
    limits.cpu_ms.is_some_and(|ms| used.user + used.system + slack >= Duration::from_secs(ms.div_ceil(1000) + 1))
}

pub fn signal_name(number: i32) -> String {
    match Signal::try_from(number) {
        Ok(signal) => signal.as_str().to_owned(),
        Err(_) => format!("SIG{number}"),
    }
}

/// What was kept of one output.
#[derive(Debug, Clone)]
pub struct Kept {
    /// None: it was streamed.
    pub held: Option<Arc<Held>>,
    pub total: u64,
}

impl Kept {
    pub fn bytes(&self) -> Option<usize> {
        self.held.as_ref().map(|held| held.bytes.len())
    }

    pub fn dropped(&self) -> u64 {
        self.bytes().map_or(0, |kept| self.total - kept as u64)
    }
}

/// Bytes of an output, with the memory that they take of what all share; given back when the last reader is done.
#[derive(Debug)]
pub struct Held {
    pub bytes: Vec<u8>,
    /// So many of them are the output's first; what is dropped is missing behind them.
    pub head: usize,
    pub _share: Option<Share>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A finished command, but for its outputs.
#[derive(Debug, Clone)]
pub struct Finished {
    pub exec: ExecId,
    pub session: SessionId,
    pub ended: Ended,
    pub wall: Duration,
    pub spawn: Duration,
    pub used: Rusage,
    /// What its session has used up by it; more than `used`, which knows nothing of what the main process left behind.
    pub cpu: Duration,
    pub vm_bytes_max: Option<u64>,
    pub descendants_killed: u64,
    /// Only for a command of a shell.
    pub after_shell: Option<AfterShell>,
}

/// What a command of a shell has left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AfterShell {
    pub cwd: Option<String>,
    /// The shell before was lost, and this command got a fresh one.
    pub restarted: bool,
}

impl Finished {
    /// `"result":{…}`, the outputs encoded as they are taken.
    pub fn body(&self, stdout: &Kept, stderr: &Kept, base64: bool) -> Body {
        let mut body = Body::default();
        let mut json = b"\"result\":".to_vec();
        self.head(&mut json);
        for (name, kept) in [("stdout", stdout), ("stderr", stderr)] {
            json.extend_from_slice(format!(",\"{name}\":").as_bytes());
            let encoding = kept.held.as_ref().map_or(Encoding::Utf8, |held| Encoding::of(&held.bytes, base64));
            match &kept.held {
                Some(held) => {
                    body.json(std::mem::take(&mut json));
                    body.shared(held.clone(), 0..held.bytes.len(), encoding);
                }
                None => json.extend_from_slice(b"null"),
            }
            counts(&mut json, name, encoding, kept);
        }
        self.tail(&mut json);
        body.json(json);
        body
    }

    /// The record as the history keeps it: without the outputs.
    pub fn without_output(&self, stdout: &Kept, stderr: &Kept) -> Box<[u8]> {
        let mut json = Vec::with_capacity(512);
        self.head(&mut json);
        for (name, kept) in [("stdout", stdout), ("stderr", stderr)] {
            json.extend_from_slice(format!(",\"{name}\":null").as_bytes());
            counts(&mut json, name, Encoding::Utf8, kept);
        }
        self.tail(&mut json);
        json.into_boxed_slice()
    }

    fn head(&self, json: &mut Vec<u8>) {
        let mut record = Object::begin(json);
        record.str("exec", &self.exec.to_string());
        record.str("session", &self.session.to_string());
        record.str("status", self.ended.status.as_str());
        record.opt_str("limit", self.ended.limit);
        record.opt_int("exit_code", self.ended.exit_code);
        record.opt_str("signal", self.ended.signal.as_deref());
        // Left open: the outputs follow.
    }

    fn tail(&self, json: &mut Vec<u8>) {
        let mut rest = Vec::with_capacity(256);
        let mut record = Object::begin(&mut rest);
        let micros = |time: Duration| time.as_micros() as u64;
        record.ms("wall_ms", micros(self.wall));
        record.ms("spawn_ms", micros(self.spawn));
        let mut usage = record.object("usage");
        usage.ms("cpu_user_ms", micros(self.used.user));
        usage.ms("cpu_system_ms", micros(self.used.system));
        usage.int("max_rss_bytes", self.used.max_rss_bytes);
        usage.null("memory_peak_bytes");
        usage.null("processes_peak");
        if let Some(bytes) = self.vm_bytes_max {
            usage.int("max_vm_bytes", bytes);
        }
        usage.end();
        record.int("descendants_killed", self.descendants_killed);
        if let Some(AfterShell { cwd, restarted }) = &self.after_shell {
            record.opt_str("cwd", cwd.as_deref());
            if *restarted {
                record.bool("shell_restarted", true);
            }
        }
        record.end();
        // Without its opening brace: it goes on where the outputs end.
        json.push(b',');
        json.extend_from_slice(&rest[1..]);
    }
}

fn counts(json: &mut Vec<u8>, name: &str, encoding: Encoding, kept: &Kept) {
    let (total, dropped) = (kept.total, kept.dropped());
    let text =
        format!(",\"{name}_encoding\":\"{}\",\"{name}_bytes\":{total},\"{name}_dropped\":{dropped}", encoding.name());
    json.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(verdict: Option<Verdict>, exit: Exit) -> (Status, Option<&'static str>, Option<i32>, Option<String>) {
        let limits = Limits { cpu_ms: Some(1000), fsize_bytes: Some(1), ..Limits::default() };
        let ended = ended(verdict, Some(exit), &Rusage::default(), &limits);
        (ended.status, ended.limit, ended.exit_code, ended.signal)
    }

    #[test]
    fn each_end_has_its_status() {
        let name = |text: &str| Some(text.to_owned());
        assert_eq!(say(None, Exit::Code(3)), (Status::Exited, None, Some(3), None));
        assert_eq!(say(None, Exit::Signal(11)), (Status::Signaled, None, None, name("SIGSEGV")));
        assert_eq!(say(None, Exit::Signal(24)), (Status::CpuLimit, Some("cpu_sec"), None, name("SIGXCPU")));
        assert_eq!(say(None, Exit::Signal(25)), (Status::OutputLimit, Some("fsize_bytes"), None, name("SIGXFSZ")));
        assert_eq!(say(None, Exit::Signal(9)), (Status::Signaled, None, None, name("SIGKILL")));
        assert_eq!(say(None, Exit::Signal(40)), (Status::Signaled, None, None, name("SIG40")));
        let timeout = Some(Verdict::Timeout);
        assert_eq!(say(timeout, Exit::Code(0)), (Status::TimedOut, Some("timeout_s"), None, None));
        assert_eq!(say(timeout, Exit::Signal(15)), (Status::TimedOut, Some("timeout_s"), None, name("SIGTERM")));
    }

    #[test]
    fn a_budget_that_is_used_up_is_named() {
        let name = Some("SIGKILL".to_owned());
        let cpu = say(Some(Verdict::BudgetCpu), Exit::Signal(9));
        assert_eq!(cpu, (Status::CpuLimit, Some("budget.cpu_sec"), None, name.clone()));
        let wall = say(Some(Verdict::BudgetWall), Exit::Signal(9));
        assert_eq!(wall, (Status::TimedOut, Some("budget.wall_s"), None, name));
        assert_eq!(say(Some(Verdict::BudgetWall), Exit::Code(0)).2, None);
    }

    #[test]
    fn a_kill_at_the_hard_cpu_limit_is_the_cpu_limit() {
        let limits = Limits { cpu_ms: Some(1000), ..Limits::default() };
        let used = Rusage { user: Duration::from_millis(1950), ..Rusage::default() };
        assert_eq!(ended(None, Some(Exit::Signal(9)), &used, &limits).status, Status::CpuLimit);
        let used = Rusage { user: Duration::from_millis(1500), ..Rusage::default() };
        assert_eq!(ended(None, Some(Exit::Signal(9)), &used, &limits).status, Status::Signaled);
    }
}
