//! Starting a command: its pipes, its child, and what is told of it.
//!
//! Runs on the worker that hosts the command (see `worker::relief` for a start that hangs), and on an errand's thread
//! for a trial. Commands are children of these threads and die with them, for parent-death signals follow the thread:
//! both live as long as the runtime.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{posix_openpt, unlockpt};
use nix::unistd::{Gid, Uid, fchown, pipe2};

use super::child::Child;
use super::launch::NprocRule;
use super::proc;
use crate::protocol::request::Size;
use crate::sys::clone::{Identity, Plan, Report, Stack, Stage, clone_child};
use crate::sys::pty;

/// How a command's descriptors 0 to 2 are made.
#[derive(Debug, Clone, Copy)]
pub struct Wiring {
    pub stdin: bool,
    pub merge_stderr: bool,
    /// All three are a terminal of this size.
    pub terminal: Option<Size>,
    /// It writes nowhere: a shell, which opens outputs for each command.
    pub mute: bool,
}

/// What the starter knows, and whoever may take the worker over, of a start that is under way.
#[derive(Debug, Default)]
pub struct Ticket {
    pub report: Report,
    /// The worker has given the command up: do not start it any more.
    pub cancelled: AtomicBool,
}

/// How a start went.
pub type Launched = Result<Started, SpawnFault>;

/// A command that passed its exec, and our ends of its pipes.
#[derive(Debug)]
pub struct Started {
    pub child: Child,
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
    /// The command's side of its terminal, held open so that it outlives a moment in which nobody else holds it.
    pub terminal: Option<OwnedFd>,
    pub took: Duration,
}

/// A command that never ran: at which step, and why.
#[derive(Debug, Clone, Copy)]
pub struct SpawnFault {
    pub stage: Stage,
    pub errno: Errno,
}

/// What every start needs.
pub struct Spawner {
    nproc: NprocCount,
    /// What a command without input of its own reads.
    stdin: OwnedFd,
}

impl Spawner {
    pub fn new(nproc: NprocRule, stdin: OwnedFd) -> Self {
        let (tasks, counted_ms) = (AtomicU64::new(0), AtomicU64::new(0));
        Spawner { nproc: NprocCount { rule: nproc, tasks, counted_ms, start: Instant::now() }, stdin }
    }

    /// Starts a command and returns after its exec. All signals must be blocked on this thread: a child inherits the
    /// mask, and clears it itself after its handlers are gone.
    pub fn spawn(&self, mut plan: Plan, wiring: Wiring, ticket: &Ticket, stack: &mut Stack) -> Launched {
        let since = Instant::now();
        plan.nproc = self.nproc.limit(plan.nproc);
        plan.terminal = wiring.terminal.is_some();
        let Ends { ours, theirs: [stdin_child, stdout_child, stderr_child] } = match wiring.terminal {
            Some(size) => terminal(size, plan.identity)?,
            None => pipes(wiring, plan.identity)?,
        };
        let Ours { stdin, stdout, stderr, terminal } = ours;
        if ticket.cancelled.load(Ordering::Acquire) {
            return Err(SpawnFault { stage: Stage::Fork, errno: Errno::ECANCELED });
        }
        let output = stdout_child.as_ref().or(terminal.as_ref()).unwrap_or(&self.stdin);
        let stdio = [
            stdin_child.as_ref().or(terminal.as_ref()).unwrap_or(&self.stdin).as_raw_fd(),
            output.as_raw_fd(),
            stderr_child.as_ref().unwrap_or(output).as_raw_fd(),
        ];
        let cloned = clone_child(&plan, stdio, stack, &ticket.report);
        let cloned = cloned.map_err(|(stage, errno)| SpawnFault { stage, errno })?;
        let child = Child::new(cloned.pid, cloned.pidfd);
        Ok(Started { child, stdin, stdout, stderr, terminal, took: since.elapsed() })
    }
}

/// Our ends of what a command reads and writes, and the command's own.
struct Ends {
    ours: Ours,
    theirs: [Option<OwnedFd>; 3],
}

struct Ours {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

fn pipes(wiring: Wiring, identity: Option<Identity>) -> Result<Ends, SpawnFault> {
    let failed = |errno| SpawnFault { stage: Stage::Pipes, errno };
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(failed);
    let pipe_if = |wanted| if wanted { pipe().map(|(r, w)| (Some(r), Some(w))) } else { Ok((None, None)) };
    let (stdout, stdout_child) = pipe_if(!wiring.mute)?;
    let (stderr, stderr_child) = pipe_if(!wiring.mute && !wiring.merge_stderr)?;
    let (stdin_child, stdin) = pipe_if(wiring.stdin)?;
    for ours in [stdout.as_ref(), stderr.as_ref(), stdin.as_ref()].into_iter().flatten() {
        fcntl(ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
    }
    let theirs = [stdin_child, stdout_child, stderr_child];
    if let Some(identity) = identity {
        // The command may then open /dev/stdout, as it may where it runs as we do.
        for theirs in theirs.iter().flatten() {
            fchown(theirs, Some(Uid::from_raw(identity.uid)), Some(Gid::from_raw(identity.gid))).map_err(failed)?;
        }
    }
    Ok(Ends { ours: Ours { stdin, stdout, stderr, terminal: None }, theirs })
}

/// One terminal for all three. Its master is read and written by two descriptors, each with a watch of its own.
fn terminal(size: Size, identity: Option<Identity>) -> Result<Ends, SpawnFault> {
    let failed = |errno| SpawnFault { stage: Stage::Terminal, errno };
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let master = posix_openpt(flags).map_err(failed)?;
    unlockpt(&master).map_err(failed)?;
    let terminal = pty::peer(&master).map_err(failed)?;
    pty::set_size(&terminal, size.cols, size.rows).map_err(failed)?;
    if let Some(identity) = identity {
        // It may open its terminal by name then. The group stays, that of all terminals.
        fchown(&terminal, Some(Uid::from_raw(identity.uid)), None).map_err(failed)?;
    }
    let stdout = master
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| failed(error.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw)))?;
    let stdin = Some(OwnedFd::from(master));
    Ok(Ends {
        ours: Ours { stdin, stdout: Some(stdout), stderr: None, terminal: Some(terminal) },
        theirs: [None, None, None],
    })
}

/// The value of RLIMIT_NPROC where a uid is shared. Counting a uid's tasks means reading all of /proc, so a count is
/// good for a second.
struct NprocCount {
    rule: NprocRule,
    tasks: AtomicU64,
    counted_ms: AtomicU64,
    start: Instant,
}

impl NprocCount {
    fn limit(&self, nproc: Option<u64>) -> Option<u64> {
        let NprocRule::AboveUid(uid) = self.rule else { return nproc };
        let nproc = nproc?;
        let now_ms = self.start.elapsed().as_millis() as u64 + 1;
        let counted_ms = self.counted_ms.load(Ordering::Relaxed);
        if counted_ms == 0 || now_ms.saturating_sub(counted_ms) > 1000 {
            self.tasks.store(proc::tasks_of(uid), Ordering::Relaxed);
            self.counted_ms.store(now_ms, Ordering::Relaxed);
        }
        Some(self.tasks.load(Ordering::Relaxed).saturating_add(nproc))
    }
}
