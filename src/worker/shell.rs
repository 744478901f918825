//! The shell of a session: one long-lived process that its `cmd` commands share, so that `cd`, `export`, functions and
//! background jobs stay.
//!
//! Runs on `worker-k`. Owns the shell's input, the named pipes that it writes to, and what is to run next. Nothing is
//! read out of the output of commands: the shell takes lines from one pipe (`script`), tells the exit code and the
//! working directory by another (`report`), and by the time it has told, all that the command itself has written is in
//! the command's own pipes. Redirections of `exec` last to the end of their command, because they are made within one
//! builtin with redirections of its own, which the shell takes back behind it; and the shell keeps its own descriptors
//! from its children, because it opened all of them itself.
//!
//! The process is started and ended like any command's ([`Command::host`]); the commands have none of their own
//! (`command::shelled`).

mod feeder;
mod hearing;
mod lingering;
mod mark;
mod report;
mod running;
mod script;

use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;

use self::feeder::Feeder;
pub use self::lingering::Lingering;
use self::mark::{Mark, Marker};
use self::report::Reports;
use self::script::Words;
use super::Worker;
use super::command::{Command, Due, Pipe, Process};
use super::commands::spawn_fault;
use super::record::Verdict;
use super::session::{Session, State};
use crate::admission::buffers::{Account, Claim, Share};
use crate::ids::{ExecId, SessionId};
use crate::message::{Running, ToGateway};
use crate::process::fifos::{Fifo, Fifos, Side};
use crate::process::proc::Gauge;
use crate::process::spawn::{SpawnFault, Started};
use crate::process::tree::{Marks, Orphan};
use crate::protocol::request::{Program, Run};
use crate::sys::clone::Stage;
use crate::sys::wait::{Exit, Rusage};

/// Numbers of shells' processes, far above those of commands.
const HOSTS: u64 = 1 << 60;

/// Where a shell stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// There is none; the next command starts one.
    Off,
    /// It has not said yet that it takes commands.
    Starting,
    Ready,
    Runs(ExecId),
}

/// A command that is to run when the shell is ready.
struct Asked {
    exec: ExecId,
    text: String,
    env: Vec<(String, String)>,
    cwd: Option<String>,
    merge_stderr: bool,
    /// Its directory was tried.
    probed: bool,
}

pub struct Shell {
    /// As the client named it.
    pub path: Box<str>,
    /// What tells its processes from others.
    marks: Marks,
    stand: Stand,
    host: Option<ExecId>,
    process: Option<Process>,
    feeder: Option<Feeder>,
    fifos: Option<Fifos>,
    report: Option<Fifo>,
    reports: Reports,
    /// Reads of the reports since one that counted.
    unheard: u32,
    /// Reports are not looked for before a pause is over.
    paused: bool,
    /// Pipes for the outputs of the next command, where the last one has left them clean.
    outputs: [Option<Fifo>; 2],
    stdin: Option<Fifo>,
    /// What the reports of the command that runs are known by.
    mark: Mark,
    marker: Marker,
    words: Words,
    /// What `$?` is, where it is not 0.
    last: Option<i32>,
    asked: Option<Asked>,
    /// The command that runs has a directory of its own; the session's stays what it is.
    stays: bool,
    /// The last one was lost, and that was not told yet.
    lost: bool,
    /// What was left of it is ended; only at the session's end.
    swept: bool,
}

impl Shell {
    pub fn new(path: Box<str>, mark: &str, uid: Option<u32>) -> Shell {
        let environ = format!("COFFERDAM_SESSION={mark}").into_bytes();
        Shell {
            path,
            marks: Marks { environ, uid, ..Marks::default() },
            stand: Stand::Off,
            host: None,
            process: None,
            feeder: None,
            fifos: None,
            report: None,
            reports: Reports::default(),
            unheard: 0,
            paused: false,
            outputs: [None, None],
            stdin: None,
            mark: Mark::default(),
            marker: Marker::default(),
            words: Words::default(),
            last: None,
            asked: None,
            stays: false,
            lost: false,
            swept: false,
        }
    }

    /// Whether an orphan is one of its processes.
    pub fn claims(&self, orphan: &Orphan) -> bool {
        self.marks.claim(orphan)
    }

    /// bash reads a script by a descriptor that no command can take from it, but its standard input by any; others
    /// keep that one where commands cannot name it.
    fn reads_file(&self) -> bool {
        self.path.rsplit('/').next().is_some_and(|name| name.contains("bash"))
    }

    fn program(&self) -> Program {
        let input = if self.reads_file() { "/dev/stdin" } else { "-s" };
        Program::Argv(vec![self.path.to_string(), input.to_owned()])
    }

    /// Fresh pipes: what another shell may still have open is not theirs.
    fn open_pipes(&mut self, id: SessionId, session_fifos: impl FnOnce() -> Result<Fifos, Errno>) -> Result<(), Errno> {
        debug_assert!(self.feeder.is_none(), "session={id} has one shell at a time");
        // The folder too: where commands run as we do, one may have removed it.
        self.outputs = [None, None];
        let made = self.fifos.take();
        let mut fifos = session_fifos()?;
        fifos.go_on_from(made.as_ref());
        self.report = Some(fifos.pipe(Side::Write)?);
        self.reports.clear();
        (self.unheard, self.paused) = (0, false);
        (self.words, self.last) = (Words::default(), None);
        self.fifos = Some(fifos);
        Ok(())
    }
}

impl Worker {
    fn shell(&mut self, id: SessionId) -> Option<&mut Shell> {
        self.sessions.get_mut(&id)?.shell.as_deref_mut()
    }

    fn next_host(&mut self) -> ExecId {
        self.last_host += 1;
        ExecId(HOSTS + ((self.index as u64) << 48) + self.last_host)
    }

    /// Starts the shell of a session.
    pub(super) fn start_shell(&mut self, id: SessionId) {
        let exec = self.next_host();
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let setup = self.tools.setup.clone();
        let environment = session.environment(Some(exec), &[], &setup);
        let (identity, cwd, mut limits) = (session.identity, session.cwd.clone(), session.limits);
        let workspace = session.workspace.clone();
        let Some(shell) = session.shell.as_deref_mut() else { return };
        if let Err(errno) = shell.open_pipes(id, || Fifos::make(&setup.workspaces, id, identity)) {
            return self.shell_failed(id, SpawnFault { stage: Stage::Pipes, errno });
        }
        // Its commands have that each for itself.
        (limits.cpu_ms, limits.memory_bytes) = (None, None);
        let plan =
            setup.common.plan(Some(&shell.program()), &environment, (workspace.as_ref(), &cwd), &limits, identity);
        let (marks, running) = (shell.marks.clone(), of_host(shell.program(), limits));
        (shell.stand, shell.host) = (Stand::Starting, Some(exec));
        match Command::host(exec, id, plan, marks, running, &mut self.tools) {
            Some(host) => drop(self.commands.insert(exec, host)),
            None => self.shell_failed(id, SpawnFault { stage: Stage::Fork, errno: Errno::ENOMEM }),
        }
    }

    /// The process of a shell has passed its exec; that it is a shell it has yet to say.
    pub(super) fn shell_launched(&mut self, exec: ExecId, id: SessionId, mut started: Started) {
        let input = started.stdin.take();
        let pid = started.child.pid().as_raw();
        let process = started
            .child
            .handle()
            .and_then(|handle| Ok(Process { pid, handle: Arc::new(handle), gauge: Arc::new(Gauge::open(pid)?) }));
        self.with(exec, |command, tools| command.launched(started, tools));
        let registry = &self.tools.registry;
        let Some(shell) = self.sessions.get_mut(&id).and_then(|session| session.shell.as_deref_mut()) else { return };
        let (Ok(process), Some(input), Some(report)) = (process, input, &shell.report) else {
            return self.with(exec, |command, tools| {
                command.kill(Verdict::Cancelled, tools);
                command.next()
            });
        };
        let mut feeder = Feeder::new(input);
        let listens = feeder::listen(&report.end, registry, Pipe::Stdout.token(exec));
        feeder.push(script::hello(&shell.path, shell.reads_file(), &script::quoted(&report.path)));
        feeder.write(registry, Pipe::Stdin.token(exec));
        shell.marks.leader = process.pid;
        (shell.process, shell.feeder) = (Some(process), Some(feeder));
        if let Err(error) = listens {
            log::error!("session={id} its shell cannot be listened to: {error}");
            self.with(exec, |command, tools| {
                command.kill(Verdict::Cancelled, tools);
                command.next()
            });
        }
    }

    /// A shell takes commands: its session is open, or the command that it was started for runs.
    fn shell_ready(&mut self, id: SessionId, kind: &str) {
        let Some(shell) = self.shell(id).filter(|shell| shell.stand == Stand::Starting) else { return };
        let Some(host) = shell.host else { return };
        shell.stand = Stand::Ready;
        // What names itself reads no further than the line that it runs.
        let reads_ahead = kind.is_empty();
        if reads_ahead
            && let Some(feeder) = &mut shell.feeder
            && let Err(errno) = feeder.use_packets()
        {
            log::warn!("session={id} a command that fails may cost its shell: {errno}");
        }
        self.tools.deadlines.clear(&(host, Due::Timeout));
        if self.sessions.get(&id).is_some_and(|session| matches!(session.state, State::Opening { .. })) {
            self.opened(id);
        }
        self.drive_shell(id);
    }

    /// A shell could not be started.
    pub(super) fn shell_failed(&mut self, id: SessionId, fault: SpawnFault) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let (opening, closing) = (matches!(session.state, State::Opening { .. }), session.is_closing());
        let Some(shell) = session.shell.as_deref_mut() else { return };
        (shell.stand, shell.host, shell.process, shell.feeder) = (Stand::Off, None, None, None);
        shell.report = None;
        if closing {
            return self.close_if_empty(id);
        }
        if opening {
            // Whatever it is about the file, it is no shell.
            let stage = if fault.stage == Stage::Exec { Stage::Resolve } else { fault.stage };
            let what = if stage == Stage::Cwd { session.cwd.clone() } else { shell.path.to_string() };
            let fault = spawn_fault(SpawnFault { stage, ..fault }, &what);
            if let State::Opening { request } = session.state {
                self.tools.gateway.tell(ToGateway::Refused { request, fault });
            }
            return self.close(id, None, false);
        }
        if fault.stage == Stage::Cwd && session.cwd != "/" {
            // Its directory is gone. There is one that never is.
            "/".clone_into(&mut session.cwd);
            return self.start_shell(id);
        }
        let path = shell.path.clone();
        if let Some(asked) = shell.asked.take() {
            self.not_started(asked.exec, spawn_fault(fault, &path));
        }
    }

    /// The process of a shell is gone.
    pub(super) fn shell_ended(&mut self, mut host: Command) {
        let id = host.session;
        let (exit, used) = host.reap_host().unwrap_or((Exit::Signal(9), Rusage::default()));
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let (closing, opening) = (session.is_closing(), matches!(session.state, State::Opening { .. }));
        let cwd = session.cwd.clone();
        let Some(shell) = session.shell.as_deref_mut() else { return };
        shell.swept |= host.sweeps;
        if shell.host == Some(host.exec) {
            let stand = std::mem::replace(&mut shell.stand, Stand::Off);
            (shell.host, shell.process, shell.feeder, shell.report) = (None, None, None, None);
            shell.lost = true;
            if !closing && (opening || stand == Stand::Starting) {
                return self.shell_failed(id, SpawnFault { stage: Stage::Exec, errno: Errno::ENOEXEC });
            }
            if let Stand::Runs(exec) = stand {
                self.with(exec, |command, tools| command.shell_lost(exit, used, cwd, tools));
            }
        }
        self.after_command(id);
        self.tell_if_empty();
    }

    /// Ends the shell of a session that closes, and all that it has left; whether something of it is there still.
    pub(super) fn end_shell(&mut self, id: SessionId) -> bool {
        let Some(shell) = self.shell(id) else { return false };
        if let Some(host) = shell.host {
            self.with(host, |command, tools| {
                if !std::mem::replace(&mut command.sweeps, true) {
                    command.kill(Verdict::Cancelled, tools);
                }
                command.next()
            });
            return true;
        }
        if shell.swept || std::mem::replace(&mut shell.swept, true) || self.tools.relief.errands.no_orphans() {
            return false;
        }
        let exec = self.next_host();
        let Some(shell) = self.shell(id) else { return false };
        let (marks, program) = (shell.marks.clone(), shell.program());
        shell.host = Some(exec);
        let running = of_host(program, Default::default());
        if let Some(sweeper) = Command::sweeper(exec, id, marks, running, &mut self.tools) {
            self.commands.insert(exec, sweeper);
        }
        self.commands.contains_key(&exec)
    }

    /// The process of a shell outlives its end: it is not waited for.
    pub(super) fn shell_given_up(&mut self, exec: ExecId, id: SessionId) {
        if let Some(shell) = self.shell(id).filter(|shell| shell.host == Some(exec)) {
            (shell.host, shell.process, shell.feeder, shell.swept) = (None, None, None, true);
            shell.stand = Stand::Off;
        }
        self.after_command(id);
        self.tell_if_empty();
    }
}

/// What a shell's own process runs under.
fn of_host(program: Program, limits: crate::protocol::limits::Limits) -> Running {
    let nothing = || Share::none(&Account::of_daemon(0));
    let buffers = Claim { stdin: nothing(), stdout: nothing(), stderr: nothing() };
    let spec = Run::of_host(program);
    Running { ephemeral: None, limits, alone: false, spec, id: None, asked_at: Instant::now(), buffers }
}

impl Session {
    /// Marks of its processes are no marks of a command's.
    pub fn has_shell(&self) -> bool {
        self.shell.is_some()
    }
}
