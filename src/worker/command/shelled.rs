//! A command that runs in its session's shell: it has no process of its own, begins with a line to the shell, and is
//! over with the shell's report, or with the shell.
//!
//! It is ended by signalling what it has started, and by interrupting the shell, while it waits for a program or where it
//! does not come back by itself; where it does not come back by that either, it is killed, and the next command gets
//! another. What earlier commands have left in the background is spared.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Command, Due, FIRST_LOOK, FIRST_SAMPLE, Next, Phase, Pipe, RESWEEP};
use crate::message::{Running, ToGateway};
use crate::process::proc::{self, Gauge, Stat};
use crate::process::spawn::Wiring;
use crate::process::tree::{self, Marks, Named, Sample};
use crate::protocol::fault::Fault;
use crate::sys::clone::Plan;
use crate::sys::process::pidfd_signal;
use crate::sys::wait::{Exit, Rusage};
use crate::worker::pipes::Turn;
use crate::worker::record::{AfterShell, Verdict};
use crate::worker::tools::{Start, Tools};
use crate::{ids::ExecId, ids::RequestId, ids::SessionId};

/// A shell whose children are gone comes back by itself, as a rule, and an interrupt that comes when it is back already
/// could end it. So it is interrupted only when it works on by itself, or has said nothing for so long.
const QUIET: Duration = Duration::from_millis(300);
const WORKS_MS: u64 = 20;
/// A shell that has been interrupted is waited for so long; then it is killed. One that goes on working meanwhile has
/// not heard, and one that only waits for a processor may have.
const INTERRUPTED: Duration = Duration::from_secs(1);
const DEAF_MS: u64 = 100;
/// The first child that a shell has after its interrupt may have been on its way; one that comes after these has not.
const CHILDREN_MAX: u32 = 2;
/// While a command is asked to leave, so often somebody looks what it has started since.
const LOOK: Duration = Duration::from_millis(10);
/// A shell that says nothing for so long is none.
const HELLO: Duration = Duration::from_secs(5);
/// Reads of an output at the end of a command: a pipe holds 1 MiB at most, and a turn reads 128 KiB.
const LAST_TURNS: usize = 9;

/// What is known of a command's place in its shell.
pub struct Shelled {
    /// None until it has begun.
    shell: Option<Process>,
    /// What the shell and the children that it waited for had used before, in ticks: all, and in the kernel.
    base: (u64, u64),
    /// CPU time of what is spared, as it was seen last, in milliseconds; those that vanish have become the shell's.
    spared: Vec<(Named, u64)>,
    vanished_ms: u64,
    rss_bytes_max: u64,
    code: Option<i32>,
    /// How the shell ended, if it did, and what it had used.
    lost: Option<(Exit, Rusage)>,
    /// What a client has sent to the command's processes last.
    signal: Option<i32>,
    /// Processes that were asked to leave.
    asked: Vec<Named>,
    killed_at: Option<Instant>,
    /// When the shell was last seen with something below it, of what is to end.
    quiet_since: Option<Instant>,
    interrupted_at: Option<Instant>,
    /// What the shell itself had used by then, in ticks.
    ticks_then: u64,
    /// Children that the shell has started since it was to end.
    started_since: u32,
    pub after: AfterShell,
}

/// The process of a shell, as a command in it knows it.
#[derive(Clone)]
pub struct Process {
    pub pid: i32,
    /// To signal it by, also when it is no more.
    pub handle: Arc<OwnedFd>,
    pub gauge: Arc<Gauge>,
}

/// What a command needs to begin.
pub struct Beginning {
    pub process: Process,
    pub outputs: [Option<OwnedFd>; 2],
    pub restarted: bool,
}

impl Shelled {
    /// What the shell itself has used.
    fn ticks(&self) -> u64 {
        self.shell.as_ref().and_then(|shell| shell.gauge.stat()).map_or(0, |stat| stat.own_ticks)
    }

    /// From now on it is looked at what the shell does.
    fn watch(&mut self, now: Instant) {
        (self.quiet_since, self.ticks_then, self.started_since) = (Some(now), self.ticks(), 0);
    }

    fn worked_ms(&self) -> u64 {
        self.ticks().saturating_sub(self.ticks_then) * 1000 / proc::ticks_a_second()
    }

    /// Whether the shell goes on by itself, with nothing below it.
    fn goes_on(&self, now: Instant) -> bool {
        let quiet = self.quiet_since.is_some_and(|since| now >= since + QUIET);
        self.interrupted_at.is_none() && (quiet || self.worked_ms() >= WORKS_MS)
    }

    /// Whether an interrupt has done nothing to the shell.
    fn is_deaf(&self, now: Instant) -> bool {
        let interrupted = self.interrupted_at.is_some_and(|at| now >= at + INTERRUPTED || self.worked_ms() >= DEAF_MS);
        interrupted || self.started_since > CHILDREN_MAX
    }
}

impl Command {
    /// A command that waits for its shell.
    pub fn in_shell(
        request: RequestId,
        exec: ExecId,
        session: SessionId,
        marks: Marks,
        running: Running,
        tools: &mut Tools,
    ) -> Result<Command, Fault> {
        let (command, _) = Command::make(request, exec, session, marks, running, tools)?;
        let mut command = command.alive(tools);
        command.shelled = Some(Box::new(Shelled {
            shell: None,
            base: (0, 0),
            spared: Vec::new(),
            vanished_ms: 0,
            rss_bytes_max: 0,
            code: None,
            lost: None,
            signal: None,
            asked: Vec::new(),
            killed_at: None,
            quiet_since: None,
            interrupted_at: None,
            ticks_then: 0,
            started_since: 0,
            after: AfterShell::default(),
        }));
        command.remind(Instant::now() + command.timeout, Due::Timeout, tools);
        Ok(command)
    }

    /// The process of a shell. Nobody waits for its record; it runs for as long as its session.
    pub fn host(
        exec: ExecId,
        session: SessionId,
        plan: Plan,
        marks: Marks,
        running: Running,
        tools: &mut Tools,
    ) -> Option<Command> {
        let mut command = Command::hosting(exec, session, marks, running, tools)?;
        let wiring = Wiring { stdin: true, merge_stderr: true, terminal: None, mute: true };
        tools.starts.push_back(Start {
            exec,
            session,
            plan: Box::new(plan),
            wiring,
            ticket: command.ticket.clone(),
            params: None,
        });
        command.timeout = HELLO;
        command.remind(Instant::now() + HELLO, Due::Timeout, tools);
        Some(command)
    }

    fn hosting(exec: ExecId, session: SessionId, marks: Marks, running: Running, tools: &mut Tools) -> Option<Command> {
        let made = Command::make(RequestId(u64::MAX), exec, session, marks, running, tools);
        let (mut command, _) = made.ok()?;
        (command.hosts, command.wanted, command.grace) = (true, false, Duration::ZERO);
        Some(command)
    }

    /// Ends what a session's shells have left, where none of them is there any more.
    pub fn sweeper(
        exec: ExecId,
        session: SessionId,
        marks: Marks,
        running: Running,
        tools: &mut Tools,
    ) -> Option<Command> {
        let mut command = Command::hosting(exec, session, marks, running, tools)?;
        (command.phase, command.sweeps) = (Phase::Ended, true);
        command.give_up_after(Instant::now(), tools);
        command.sweep(tools);
        Some(command)
    }

    /// Its line is on the way to the shell.
    pub fn begin(&mut self, beginning: Beginning, tools: &mut Tools) {
        let Some(shelled) = &mut self.shelled else { return };
        let now = Instant::now();
        let Beginning { process, outputs: [stdout, stderr], restarted } = beginning;
        self.marks.leader = process.pid;
        let stat = process.gauge.stat();
        shelled.base = stat.map_or((0, 0), |stat| (stat.cpu_ticks, stat.system_ticks));
        if !process.gauge.is_childless() {
            self.marks.spared = tree::descendants_of(stat);
            shelled.spared = tree::cpu_of(&self.marks.spared);
        }
        shelled.shell = Some(process);
        shelled.after.restarted = restarted;
        tools.gateway.leave(ToGateway::CommandStarted { exec: self.exec });
        (self.started, self.last_output, self.phase) = (now, now, Phase::Running);
        self.spawn = now.saturating_duration_since(self.asked_at);
        for (output, fifo) in [(&mut self.stdout, stdout), (&mut self.stderr, stderr)] {
            if let Some(fifo) = fifo {
                output.open_fifo(fifo);
            }
        }
        self.remind(now + FIRST_LOOK, Due::Listen, tools);
        self.remind(now + self.timeout, Due::Timeout, tools);
        if let Some(stall) = self.stall {
            self.remind(now + stall, Due::Stall, tools);
        }
        self.remind(now + FIRST_SAMPLE, Due::Sample, tools);
        if self.background && std::mem::take(&mut self.wanted) {
            tools.gateway.tell(self.started_answer());
        }
    }

    pub fn has_input(&self) -> bool {
        self.input.is_some()
    }

    /// The shell has opened the input.
    pub fn attach_input(&mut self, pipe: OwnedFd, tools: &Tools) {
        let token = Pipe::Stdin.token(self.exec);
        if self.input.as_mut().is_some_and(|input| !input.attach(pipe, &tools.registry, token)) {
            self.input = None;
        }
    }

    /// The shell says that it is over.
    pub fn reported(&mut self, code: i32, cwd: Option<String>, tools: &mut Tools) -> Next {
        let Some(shelled) = &mut self.shelled else { return Next::Stay };
        shelled.code = Some(code);
        shelled.after.cwd = cwd;
        match self.phase {
            Phase::Running => self.end_in_shell(tools),
            Phase::Asked | Phase::Killed => self.look_in_shell(tools),
            Phase::Launching | Phase::Ended => {}
        }
        self.next()
    }

    /// The shell has ended, and the command with it.
    pub fn shell_lost(&mut self, exit: Exit, used: Rusage, cwd: String, tools: &mut Tools) -> Next {
        let Some(shelled) = &mut self.shelled else { return Next::Stay };
        shelled.lost = Some((exit, used));
        shelled.after.cwd.get_or_insert(cwd);
        if matches!(self.phase, Phase::Running | Phase::Asked | Phase::Killed) {
            self.end_in_shell(tools);
        }
        self.next()
    }

    fn end_in_shell(&mut self, tools: &mut Tools) {
        let now = Instant::now();
        (self.phase, self.ended_at, self.input) = (Phase::Ended, Some(now), None);
        for pipe in [Pipe::Stdout, Pipe::Stderr] {
            for _ in 0..LAST_TURNS {
                let exec_output = if pipe == Pipe::Stderr { &mut self.stderr } else { &mut self.stdout };
                let (turn, got) = exec_output.read(&mut tools.scratch, &tools.registry, true);
                if got > 0 {
                    tools.count_read(got);
                }
                if turn != Turn::More {
                    break;
                }
            }
        }
        if self.verdict.is_some() && !tools.living().has_no_strays(self.session) {
            self.give_up_after(now, tools);
            self.sweep(tools);
        } else {
            self.tree_gone = true;
        }
    }

    /// Asks what it has started to leave, and then the shell to come back.
    pub(super) fn ask_in_shell(&mut self, verdict: Verdict, until: Instant, tools: &mut Tools) {
        let now = Instant::now();
        self.asked(verdict, until, tools);
        self.interrupt_waiting();
        self.ask_new(&[Signal::SIGTERM]);
        if let Some(shelled) = &mut self.shelled {
            shelled.watch(now);
        }
        self.remind(now + LOOK, Due::Sweep, tools);
    }

    /// Signals what has not been asked yet; whether anything is left.
    fn ask_new(&mut self, signals: &[Signal]) -> bool {
        let found = tree::in_shell(&self.marks);
        let left = !found.is_empty();
        let Some(shelled) = &mut self.shelled else { return left };
        let new: Vec<Stat> =
            found.into_iter().filter(|stat| !shelled.asked.contains(&(stat.pid, stat.started))).collect();
        for signal in signals {
            tree::signal_all(&new, *signal);
        }
        shelled.asked.extend(new.iter().map(|stat| (stat.pid, stat.started)));
        left
    }

    /// Kills what it has started, and interrupts the shell.
    pub(super) fn kill_in_shell(&mut self, verdict: Verdict, tools: &mut Tools) {
        let now = Instant::now();
        let first = *self.verdict.get_or_insert(verdict);
        if self.shelled.as_ref().is_some_and(|shelled| shelled.shell.is_none()) {
            // It has not begun, and will not.
            (self.phase, self.tree_gone, self.ended_at) = (Phase::Ended, true, Some(now));
            tools.gateway.leave(ToGateway::CommandStarted { exec: self.exec });
            return;
        }
        self.phase = Phase::Killed;
        self.interrupt_waiting();
        self.kill_below();
        let too_large = self.limits.memory_bytes.unwrap_or(u64::MAX) / 2;
        let hoards =
            first == Verdict::Memory && proc::stat(self.marks.leader).is_some_and(|stat| stat.rss_bytes > too_large);
        if hoards {
            self.interrupt(Signal::SIGKILL);
        }
        if let Some(shelled) = &mut self.shelled {
            if shelled.interrupted_at.is_none() {
                shelled.watch(now);
            }
            (shelled.killed_at, shelled.started_since) = (Some(now), 0);
        }
        self.remind(now + RESWEEP, Due::Sweep, tools);
        self.give_up_after(now, tools);
    }

    /// Interrupts the shell if it has started something that was not told to leave yet. To be called before that is
    /// told: while it waits for a program, bash outlives an interrupt that the program does not die of, and dash goes back
    /// to its next line when the program ends.
    fn interrupt_waiting(&self) {
        let Some(shelled) = &self.shelled else { return };
        let is_new = |stat: &Stat| {
            let named = (stat.pid, stat.started);
            stat.parent == self.marks.leader && !shelled.asked.contains(&named) && !self.marks.killed.contains(&named)
        };
        if tree::in_shell(&self.marks).iter().any(is_new) {
            self.interrupt(Signal::SIGINT);
        }
    }

    fn kill_below(&mut self) -> bool {
        let found = tree::in_shell(&self.marks);
        tree::signal_all(&found, Signal::SIGKILL);
        let is_new = |stat: &&Stat| !self.marks.killed.contains(&(stat.pid, stat.started));
        let started = found.iter().filter(|stat| stat.parent == self.marks.leader).filter(is_new).count();
        if let Some(shelled) = &mut self.shelled {
            shelled.started_since += started as u32;
        }
        self.has_killed(found.iter().map(|stat| (stat.pid, stat.started)).collect());
        !found.is_empty()
    }

    fn interrupt(&self, signal: Signal) {
        if let Some(shelled) = &self.shelled
            && let (Some(shell), None, None) = (&shelled.shell, shelled.code, shelled.lost)
        {
            let _ = pidfd_signal(&shell.handle, signal);
        }
    }

    /// Whether it is over by now, after it was asked or killed.
    pub(super) fn look_in_shell(&mut self, tools: &mut Tools) {
        // The shell may go on with what came next. bash ends where it and its child are interrupted both, as a terminal
        // would do it; and not for less, while it waits for a child.
        self.interrupt_waiting();
        let below = match self.phase {
            Phase::Killed => self.kill_below(),
            _ => self.ask_new(&[Signal::SIGINT, Signal::SIGTERM]),
        };
        let Some(shelled) = &mut self.shelled else { return };
        let now = Instant::now();
        if (shelled.code.is_some() || shelled.lost.is_some()) && !below {
            return self.end_in_shell(tools);
        }
        if below {
            shelled.quiet_since = Some(now);
        } else if shelled.goes_on(now) {
            (shelled.interrupted_at, shelled.ticks_then) = (Some(now), shelled.ticks());
            self.interrupt(Signal::SIGINT);
        }
        if self.phase == Phase::Killed && self.shelled.as_ref().is_some_and(|shelled| shelled.is_deaf(now)) {
            self.interrupt(Signal::SIGKILL);
        }
        let pause = match self.phase {
            _ if self.given_up => super::JANITOR,
            Phase::Killed => RESWEEP,
            _ => LOOK,
        };
        self.remind(now + pause, Due::Sweep, tools);
    }

    /// Signals what the command has started, not the shell.
    pub(super) fn signal_in_shell(&mut self, signal: i32) {
        for stat in tree::in_shell(&self.marks) {
            tree::signal_by_number(&stat, signal);
        }
        if let Some(shelled) = &mut self.shelled {
            shelled.signal = Some(signal);
        }
    }

    /// How it ended, as a process would have.
    pub(super) fn exit_in_shell(&self) -> Option<Exit> {
        let shelled = self.shelled.as_ref()?;
        let ended_by = match (self.verdict, shelled.killed_at) {
            (Some(_), Some(_)) => Some(Signal::SIGKILL as i32),
            (Some(_), None) => Some(Signal::SIGTERM as i32),
            (None, _) => shelled.signal.filter(|signal| shelled.code == Some(128 + signal)),
        };
        match (shelled.lost, ended_by, shelled.code) {
            (Some((exit, _)), ..) => Some(exit),
            (None, Some(signal), Some(_)) => Some(Exit::Signal(signal)),
            (None, None, Some(code)) => Some(Exit::Code(code)),
            (None, _, None) => None,
        }
    }

    /// What the command itself has used, as nearly as the shell's times tell.
    pub(super) fn used_in_shell(&mut self) -> Rusage {
        let Some(shelled) = &mut self.shelled else { return Rusage::default() };
        let Some(shell) = &shelled.shell else { return Rusage::default() };
        let tick_ms = |ticks: u64| Duration::from_millis(ticks * 1000 / proc::ticks_a_second());
        let (base, base_system) = (tick_ms(shelled.base.0), tick_ms(shelled.base.1));
        let (all, system, rss) = match (&shelled.lost, shell.gauge.stat()) {
            (Some((_, used)), _) => (used.user + used.system, used.system, 0),
            (None, Some(stat)) => (tick_ms(stat.cpu_ticks), tick_ms(stat.system_ticks), stat.rss_bytes),
            (None, None) => (base, base_system, 0),
        };
        let spared = std::mem::take(&mut shelled.spared);
        shelled.vanished_ms += vanished(&spared, &tree::cpu_of(&self.marks.spared));
        let cpu = all.saturating_sub(base).saturating_sub(Duration::from_millis(shelled.vanished_ms));
        let system = system.saturating_sub(base_system).min(cpu);
        Rusage { user: cpu - system, system, max_rss_bytes: shelled.rss_bytes_max.max(rss) }
    }

    /// CPU time of a sample that is this command's.
    pub(super) fn cpu_of_sample(&mut self, sample: &Sample) -> u64 {
        let Some(shelled) = &mut self.shelled else { return sample.cpu_ms };
        shelled.rss_bytes_max = shelled.rss_bytes_max.max(sample.rss_bytes);
        shelled.vanished_ms += vanished(&shelled.spared, &sample.spared);
        shelled.spared.clone_from(&sample.spared);
        let base_ms = shelled.base.0 * 1000 / proc::ticks_a_second();
        sample.cpu_ms.saturating_sub(base_ms + shelled.vanished_ms)
    }

    /// Gives up its outputs, each with its pipe where somebody writes to it still.
    pub fn detach_outputs(&mut self, tools: &Tools) -> [Option<OwnedFd>; 2] {
        [&mut self.stdout, &mut self.stderr].map(|output| output.detach(&tools.registry))
    }

    /// What tells its processes from those that earlier commands have left in the background, once it has begun.
    pub fn in_foreground(&self) -> Option<(Vec<u8>, Vec<Named>)> {
        self.shelled.as_ref()?.shell.as_ref()?;
        Some((self.marks.environ.clone(), self.marks.spared.clone()))
    }

    pub fn is_in_shell(&self) -> bool {
        self.shelled.is_some()
    }

    /// The end of a shell's process; none: there was none.
    pub fn reap_host(&mut self) -> Option<(Exit, Rusage)> {
        let reaped = self.child.take()?.reap();
        reaped.inspect_err(|_| debug_assert!(false, "peeked as ended")).ok()
    }
}

/// CPU time of those that are not there any more.
fn vanished(before: &[(Named, u64)], now: &[(Named, u64)]) -> u64 {
    let gone = |named: &Named| now.iter().all(|(other, _)| other != named);
    before.iter().filter(|(named, _)| gone(named)).map(|(_, ms)| ms).sum()
}
