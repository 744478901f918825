//! One command: its child, its pipes, its deadlines, and the way it comes to an end.
//!
//! Runs on `worker-k`. Owned by its session; nobody else signals or reaps the child. Nothing here waits: what takes
//! time is a phase with a deadline, or an errand.

mod due;
mod ending;
mod flow;
mod orders;
mod shelled;
mod telling;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::unix::SourceFd;

pub use self::due::{Due, Pipe};
use self::orders::{Feed, shown};
use self::shelled::Shelled;
pub use self::shelled::{Beginning, Process};
use super::pipes::{Input, Output, Sink};
use super::record::Verdict;
use super::ring::Ring;
use super::stream::Stream;
use super::terminal::{Terminal, typed};
use super::tools::{Start, Tools};
use crate::admission::buffers::Claim;
use crate::ids::{ExecId, RequestId, SessionId};
use crate::message::{Running, ToGateway};
use crate::process::child::Child;
use crate::process::errands::{Errand, Task};
use crate::process::living::LivingCommand;
use crate::process::spawn::{Started, Ticket, Wiring};
use crate::process::tree::{Marks, Sample};
use crate::protocol::fault::Fault;
use crate::protocol::limits::Limits;
use crate::sys::clone::Plan;

/// Where a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not past its exec.
    Launching,
    Running,
    /// SIGTERM was sent; SIGKILL follows.
    Asked,
    /// SIGKILL was sent.
    Killed,
    /// The main process has ended and is not reaped; what is left of the tree is being ended, the pipes are drained.
    Ended,
}

/// Longest part of a path that is kept for an error.
const CWD_CHARS_MAX: usize = 1024;

/// What the worker has to do with a command after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Stay,
    /// Reap it, tell its record, forget it.
    Finish,
    /// Tell its record, and keep it until it is gone.
    GiveUp,
}

/// The watchdog looks so often; the first look comes sooner, so that what runs for long is soon known.
const SAMPLE: Duration = Duration::from_millis(100);
const FIRST_SAMPLE: Duration = Duration::from_millis(10);
/// What was killed is looked for again so soon.
const RESWEEP: Duration = Duration::from_millis(2);
/// Two scans that saw nothing lie so far apart: one alone can miss what forks again and again.
const SECOND_SCAN: Duration = Duration::from_millis(50);
/// What cannot be killed is tried again so often.
const JANITOR: Duration = Duration::from_secs(5);
/// Outputs are looked at this long after the start, or at the end if that comes sooner.
const FIRST_LOOK: Duration = Duration::from_millis(1);
/// The kernel's own limit comes first; the watchdog is for trees.
const CPU_SLACK_MS: u64 = 50;

/// A command of a session.
pub struct Command {
    pub exec: ExecId,
    pub session: SessionId,
    pub request: RequestId,
    /// Somebody can receive the record.
    pub wanted: bool,
    /// Answered when it has started; its record is kept.
    pub background: bool,
    pub finish_on_disconnect: bool,
    /// Its record is for all who ask with the same retry key.
    pub keyed: bool,
    /// The record was told, and it is there still.
    pub given_up: bool,
    /// What an error calls it.
    pub program: Box<str>,
    /// The working directory that was asked for, as an error calls it.
    pub cwd: Option<Box<str>>,
    shown: (&'static str, Box<[u8]>),
    pub asked_at: Instant,
    phase: Phase,
    verdict: Option<Verdict>,
    ticket: Arc<Ticket>,
    child: Option<Child>,
    marks: Marks,
    limits: Limits,
    /// The CPU time of its limits is what the budget of its session has left, and not its own limit.
    cpu_of_budget: bool,
    /// The most that the watchdog saw.
    cpu_seen: Duration,
    /// Of processes that outlived the main one.
    cpu_left_behind: Duration,
    timeout: Duration,
    stall: Option<Duration>,
    grace: Duration,
    output_limit: u64,
    kill_on_output_limit: bool,
    base64: bool,
    pub(super) input: Option<Input>,
    feed: Feed,
    pub(super) terminal: Option<Terminal>,
    pub(super) stdout: Output,
    stderr: Output,
    last_output: Instant,
    started: Instant,
    spawn: Duration,
    ended_at: Option<Instant>,
    give_up_at: Option<Instant>,
    killed: u64,
    sampling: bool,
    vm_bytes_max: Option<u64>,
    sweeping: bool,
    none_seen_at: Option<Instant>,
    tree_gone: bool,
    /// It runs in its session's shell.
    shelled: Option<Box<Shelled>>,
    /// It is the process of a shell, and no command of anybody's.
    pub hosts: bool,
    /// What such a process leaves behind is ended with it: its session closes.
    pub sweeps: bool,
    /// It lives; none for the process of a shell.
    living: Option<LivingCommand>,
}

impl Command {
    /// To be started at the end of this turn.
    pub fn start(
        request: RequestId,
        exec: ExecId,
        session: SessionId,
        plan: Plan,
        marks: Marks,
        mut running: Running,
        tools: &mut Tools,
    ) -> Result<Command, Fault> {
        let params = running.buffers.params.split(usize::MAX);
        let (command, wiring) = Command::make(request, exec, session, marks, running, tools)?;
        let ticket = command.ticket.clone();
        tools.starts.push_back(Start { exec, session, plan: Box::new(plan), wiring, ticket, params: Some(params) });
        command.remind(Instant::now() + command.timeout, Due::Timeout, tools);
        Ok(command.alive(tools))
    }

    fn make(
        request: RequestId,
        exec: ExecId,
        session: SessionId,
        marks: Marks,
        running: Running,
        tools: &mut Tools,
    ) -> Result<(Command, Wiring), Fault> {
        let now = Instant::now();
        let Running { limits, spec, id, asked_at, buffers, .. } = running;
        let Claim { stdin: stdin_share, stdout, stderr, .. } = buffers;
        let sink = |name, share| match &id {
            Some(id) => Sink::Stream(Stream::new(request, id, exec, name, spec.base64, &tools.gateway, share)),
            None => Sink::Ring(Ring::new(spec.keep, spec.output_limit_bytes, share)),
        };
        let (stdout, stderr) = (Output::none(sink("stdout", stdout)), Output::none(sink("stderr", stderr)));
        let feed = match (&spec.pty, spec.stdin_open) {
            (Some(_), _) => Feed::Terminal,
            (None, true) => Feed::Open,
            (None, false) => Feed::Closed,
        };
        let bytes = match spec.stdin {
            // All the input that there is ends where it ends, on a terminal too.
            Some(bytes) if feed == Feed::Terminal && !spec.background => Some(typed(bytes)),
            Some(bytes) => Some(bytes),
            None => (feed != Feed::Closed).then(Vec::new),
        };
        let wiring = Wiring {
            stdin: bytes.is_some(),
            merge_stderr: spec.merge_stderr,
            terminal: spec.pty.as_ref().map(|pty| pty.size),
            mute: false,
        };
        let command = Command {
            exec,
            session,
            request,
            wanted: true,
            background: spec.background,
            finish_on_disconnect: spec.finish_on_disconnect,
            keyed: spec.key.is_some(),
            given_up: false,
            program: spec.program.name(),
            cwd: spec.cwd.as_deref().map(|cwd| cwd.chars().take(CWD_CHARS_MAX).collect::<String>().into()),
            shown: shown(&spec.program),
            asked_at,
            phase: Phase::Launching,
            verdict: None,
            ticket: Arc::default(),
            child: None,
            marks,
            limits,
            cpu_of_budget: false,
            cpu_seen: Duration::ZERO,
            cpu_left_behind: Duration::ZERO,
            timeout: Duration::from_millis(spec.timeout_ms),
            stall: spec.stall_timeout_ms.map(Duration::from_millis),
            grace: Duration::from_millis(spec.kill_grace_ms),
            output_limit: spec.output_limit_bytes as u64,
            kill_on_output_limit: spec.kill_on_output_limit,
            base64: spec.base64,
            input: bytes.map(|bytes| Input::new(bytes, stdin_share, feed != Feed::Closed)),
            feed,
            terminal: None,
            stdout,
            stderr,
            last_output: now,
            started: now,
            spawn: Duration::ZERO,
            ended_at: None,
            give_up_at: None,
            killed: 0,
            sampling: false,
            vm_bytes_max: None,
            sweeping: false,
            none_seen_at: None,
            tree_gone: false,
            shelled: None,
            hosts: false,
            sweeps: false,
            living: None,
        };
        Ok((command, wiring))
    }

    /// It counts among what lives, for as long as it is there.
    fn alive(mut self, tools: &Tools) -> Command {
        self.living = Some(tools.living().command(self.session, self.exec, &self.marks.environ));
        self
    }

    /// What is left of its session's budget bounds it.
    pub fn bound(&mut self, cpu_of_budget: bool, until: Option<Instant>, tools: &mut Tools) {
        self.cpu_of_budget = cpu_of_budget;
        if let Some(until) = until {
            self.remind(until, Due::Budget, tools);
        }
    }

    fn submit(&self, task: Task, tools: &Tools) {
        tools.errand(Errand::ForWorker { worker: tools.own.clone(), task });
    }

    fn remind(&self, at: Instant, due: Due, tools: &mut Tools) {
        tools.deadlines.set((self.exec, due), at);
    }

    /// Nothing is due any more.
    pub fn forget_dues(&self, tools: &mut Tools) {
        for due in Due::ALL {
            tools.deadlines.clear(&(self.exec, due));
        }
    }

    /// It has passed its exec.
    pub fn launched(&mut self, started: Started, tools: &mut Tools) -> Next {
        let now = Instant::now();
        tools.gateway.leave(ToGateway::CommandStarted { exec: self.exec });
        self.started = now.checked_sub(started.took).unwrap_or(now);
        self.spawn = started.took;
        self.last_output = now;
        self.phase = Phase::Running;
        self.marks.leader = started.child.pid().as_raw();
        let exit_fd = started.child.exit_fd();
        self.child = Some(started.child);
        let token = |pipe: Pipe| pipe.token(self.exec);
        let registered = tools.registry.register(&mut SourceFd(&exit_fd), token(Pipe::Exit), Interest::READABLE);
        if let Some(stdout) = started.stdout {
            self.stdout.open(stdout, started.terminal.is_some());
        }
        if let Some(stderr) = started.stderr {
            self.stderr.open(stderr, false);
        }
        self.terminal = started.terminal.map(Terminal::new);
        // Most commands are over before anybody looks into their pipes, and the end of each would wake us apart.
        self.remind(now + FIRST_LOOK, Due::Listen, tools);
        if let (Some(pipe), Some(input)) = (started.stdin, &mut self.input)
            && !input.attach(pipe, &tools.registry, token(Pipe::Stdin))
        {
            self.input = None;
        }
        if self.background && std::mem::take(&mut self.wanted) {
            tools.gateway.tell(self.started_answer());
        }
        if let Err(error) = registered {
            // Out of memory for a watch, or of watches: it cannot be looked after, so it must not run.
            log::error!("exec={} cannot be watched: {error}", self.exec);
            self.kill(Verdict::Cancelled, tools);
        }
        if let Some(stall) = self.stall {
            self.remind(now + stall, Due::Stall, tools);
        }
        let first = if tools.setup.watch_vm { RESWEEP } else { FIRST_SAMPLE };
        self.remind(now + first, Due::Sample, tools);
        if let Some(verdict) = self.verdict {
            // Given up while it was being started.
            self.kill(verdict, tools);
        }
        Next::Stay
    }

    pub fn pid(&self) -> Option<i32> {
        let shell = || self.shelled.as_ref().map(|_| self.marks.leader).filter(|pid| *pid != 0);
        self.child.as_ref().map(|child| child.pid().as_raw()).or_else(shell)
    }

    /// A descriptor of it is ready.
    pub fn ready(&mut self, pipe: Pipe, tools: &mut Tools) -> Next {
        match pipe {
            Pipe::Stdin => {
                if self.input.as_mut().is_some_and(|input| !input.write()) {
                    self.input = None;
                }
                Next::Stay
            }
            Pipe::Stdout | Pipe::Stderr => {
                self.read(pipe, tools);
                self.next()
            }
            Pipe::Exit => {
                self.look_for_end(tools);
                self.next()
            }
        }
    }

    /// The watchdog's look at the tree.
    pub fn sampled(&mut self, sample: Option<Sample>, tools: &mut Tools) {
        self.sampling = false;
        let Some(sample) = sample else { return };
        let cpu_ms = self.cpu_of_sample(&sample);
        self.cpu_seen = self.cpu_seen.max(Duration::from_millis(cpu_ms));
        if tools.setup.watch_vm && sample.vm_bytes > 0 {
            self.vm_bytes_max = self.vm_bytes_max.max(Some(sample.vm_bytes));
        }
        if self.limits.memory_bytes.is_some_and(|limit| sample.rss_bytes > limit) {
            self.kill(Verdict::Memory, tools);
        } else if self.limits.cpu_ms.is_some_and(|limit| cpu_ms > limit + CPU_SLACK_MS) {
            self.kill(Verdict::Cpu, tools);
        }
    }

    /// Something that it is reminded of is due; what no longer holds is ignored.
    pub fn due(&mut self, due: Due, tools: &mut Tools) -> Next {
        let now = Instant::now();
        match due {
            Due::Timeout if self.phase == Phase::Running && now < self.started + self.timeout => {
                self.remind(self.started + self.timeout, Due::Timeout, tools);
            }
            Due::Timeout => self.ask(Verdict::Timeout, tools),
            Due::Budget => self.ask(Verdict::BudgetWall, tools),
            Due::Stall => self.stall_due(now, tools),
            Due::Kill if self.phase == Phase::Asked => self.kill(Verdict::Timeout, tools),
            Due::GiveUp if self.give_up_at.is_some_and(|at| at <= now) => return self.give_up(tools),
            Due::Sample if self.hosts => {}
            Due::Sample if matches!(self.phase, Phase::Running | Phase::Asked) => {
                if !tools.living().has_no_strays(self.session) {
                    tools.tell_orphans_seen();
                }
                let watched =
                    self.limits.memory_bytes.is_some() || self.limits.cpu_ms.is_some() || tools.setup.watch_vm;
                if watched && !std::mem::replace(&mut self.sampling, true) {
                    self.submit(Task::Sample { exec: self.exec, marks: self.marks.clone() }, tools);
                }
                // What is asked how large it was is looked at more often while it is young.
                let young = tools.setup.watch_vm.then(|| now.saturating_duration_since(self.started));
                self.remind(now + young.map_or(SAMPLE, |age| age.clamp(RESWEEP, SAMPLE)), Due::Sample, tools);
            }
            Due::Sweep if self.phase == Phase::Ended => self.sweep(tools),
            Due::Sweep if self.is_in_shell() => self.look_in_shell(tools),
            Due::Sweep if self.phase == Phase::Killed => {
                self.look_for_end(tools);
                self.remind(now + JANITOR, Due::Sweep, tools);
            }
            Due::Drained if self.tree_gone => {
                self.read_rest(tools);
                self.stdout.close();
                self.stderr.close();
            }
            // Not before the tree is gone: what it still wrote belongs to the record.
            Due::Drained if self.phase == Phase::Ended && !self.given_up => {
                self.remind(now + SECOND_SCAN, Due::Drained, tools);
            }
            Due::Rearm(pipe) => self.listen(pipe, tools),
            Due::Listen => {
                self.listen(Pipe::Stdout, tools);
                self.listen(Pipe::Stderr, tools);
            }
            Due::Kill | Due::GiveUp | Due::Sample | Due::Sweep | Due::Drained => {}
            Due::Waited(_) | Due::Forget | Due::Jobs => {}
        }
        self.next()
    }

    pub fn next(&self) -> Next {
        let drained = self.stdout.has_ended() && self.stderr.has_ended();
        if self.phase == Phase::Ended && self.tree_gone && (drained || self.given_up || self.is_in_shell()) {
            Next::Finish
        } else {
            Next::Stay
        }
    }

    pub fn base64(&self) -> bool {
        self.base64
    }

    /// Whether it ran at all: what did not is no finished command, only a rejected one.
    pub fn has_started(&self) -> bool {
        self.phase != Phase::Launching
    }

    pub fn is_streamed(&self) -> bool {
        matches!(self.stdout.sink, Sink::Stream(_))
    }
}
