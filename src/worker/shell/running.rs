//! A command in a shell: from the line that begins it to the report that ends it.

use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::errno::Errno;

use super::super::Worker;
use super::super::command::{Beginning, Command, Pipe};
use super::super::commands::spawn_fault;
use super::script::{self, Stdio, Task};
use super::{Asked, Shell, Stand};
use crate::ids::{ExecId, RequestId, SessionId};
use crate::message::Running;
use crate::process::errands::{self, Errand};
use crate::process::fifos::{Fifo, Side};
use crate::process::launch;
use crate::process::spawn::SpawnFault;
use crate::process::tree::Marks;
use crate::protocol::fault::Fault;
use crate::protocol::request::Program;
use crate::sys::clone::Stage;

impl Worker {
    /// Runs a command in its session's shell, as soon as there is one.
    pub(in super::super) fn start_in_shell(
        &mut self,
        request: RequestId,
        exec: ExecId,
        id: SessionId,
        mut running: Running,
        (cpu_of_budget, until): (bool, Option<Instant>),
    ) {
        let mark = self.tools.setup.unique(exec);
        let Some(shell) = self.shell(id) else { return };
        if shell.asked.is_some() || matches!(shell.stand, Stand::Runs(_)) {
            return self.refuse(request, exec, id, Fault::session_busy(id, 1, 1), false);
        }
        let text = match &mut running.spec.program {
            // Its beginning stays, for the list.
            Program::Shell(text) => text.clone(),
            Program::Argv(_) => return,
        };
        let asked = Asked {
            exec,
            text,
            env: std::mem::take(&mut running.spec.env),
            cwd: running.spec.cwd.take(),
            merge_stderr: running.spec.merge_stderr,
            probed: false,
        };
        let marks =
            Marks { environ: format!("COFFERDAM_EXEC={mark}").into_bytes(), in_shell: true, ..Marks::default() };
        match Command::in_shell(request, exec, id, marks, running, &mut self.tools) {
            Ok(mut command) => {
                command.bound(cpu_of_budget, until, &mut self.tools);
                if command.is_streamed() {
                    self.streams.insert(request, exec);
                }
                self.commands.insert(exec, command);
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.command_started(exec);
                }
                if let Some(shell) = self.shell(id) {
                    (shell.asked, shell.mark) = (Some(asked), shell.marker.mark());
                }
                self.drive_shell(id);
            }
            Err(fault) => {
                self.refuse(request, exec, id, fault, false);
                self.close_when_idle(id);
            }
        }
    }

    /// Does what comes next for the command that waits.
    pub(super) fn drive_shell(&mut self, id: SessionId) {
        let Some(shell) = self.shell(id) else { return };
        let (stand, asked) = (shell.stand, shell.asked.as_ref());
        match (stand, asked) {
            (_, None) | (Stand::Starting | Stand::Runs(_), Some(_)) => {}
            (Stand::Off, Some(_)) => self.start_shell(id),
            (Stand::Ready, Some(asked)) if asked.cwd.is_some() && !asked.probed => self.try_directory(id),
            (Stand::Ready, Some(_)) => {
                if let Err(errno) = self.begin_in_shell(id)
                    && let Some(asked) = self.shell(id).and_then(|shell| shell.asked.take())
                {
                    let fault = SpawnFault { stage: Stage::Pipes, errno };
                    self.not_started(asked.exec, spawn_fault(fault, "the command"));
                }
            }
        }
    }

    /// The shell could say that it cannot go there, but not why.
    fn try_directory(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        let asked = session.shell.as_ref().and_then(|shell| shell.asked.as_ref());
        let cwd = launch::directory(&session.cwd, asked.and_then(|asked| asked.cwd.as_deref()));
        let setup = &self.tools.setup;
        let environment = session.environment(None, &[], setup);
        let plan = setup.common.plan(None, &environment, session.place(&cwd), &session.limits, session.identity);
        let task = errands::Task::Probe { session: id, plan: Box::new(plan) };
        self.tools.errand(Errand::ForWorker { worker: self.tools.own.clone(), task });
    }

    /// Whether the directory of the command that waits can be used.
    pub(in super::super) fn directory_tried(&mut self, id: SessionId, probed: Result<(), SpawnFault>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let base = session.cwd.clone();
        let Some(asked) = session.shell.as_deref_mut().and_then(|shell| shell.asked.as_mut()) else { return };
        match probed {
            Ok(()) => {
                asked.probed = true;
                self.drive_shell(id);
            }
            Err(fault) => {
                let (exec, cwd) = (asked.exec, launch::directory(&base, asked.cwd.as_deref()));
                if let Some(shell) = self.shell(id) {
                    shell.asked = None;
                }
                self.not_started(exec, spawn_fault(fault, &cwd));
            }
        }
    }

    fn begin_in_shell(&mut self, id: SessionId) -> Result<(), Errno> {
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(()) };
        let base = session.cwd.clone();
        let Some(shell) = session.shell.as_deref_mut() else { return Ok(()) };
        let Some(asked) = &shell.asked else { return Ok(()) };
        let Some(command) = self.commands.get_mut(&asked.exec) else { return Ok(()) };
        let (exec, merge) = (asked.exec, asked.merge_stderr);
        let id_of_exec = self.tools.setup.unique(exec);
        shell.words.learn(&asked.text);
        let words = shell.words;
        let guarded = words.shadowed && shell.reads_file();
        let by_bytes = shell.reads_file();
        let outputs = [Some(shell.output(0)?), if merge { None } else { Some(shell.output(1)?) }];
        shell.stdin = match (command.has_input(), &mut shell.fifos) {
            (true, Some(fifos)) => Some(fifos.pipe(Side::Write)?),
            _ => None,
        };
        let (Some(asked), Some(host), Some(process), Some(feeder), Some(report)) =
            (shell.asked.take(), shell.host, shell.process.clone(), &mut shell.feeder, &shell.report)
        else {
            return Err(Errno::ESRCH);
        };
        let path = |fifo: &Option<Fifo>| fifo.as_ref().map(|fifo| script::quoted(&fifo.path));
        let (stdin, [stdout, stderr]) = (path(&shell.stdin), [path(&shell.outputs[0]), path(&shell.outputs[1])]);
        let to = asked.cwd.as_deref().map(|cwd| launch::directory(&base, Some(cwd)));
        feeder.push(script::run(&Task {
            text: &asked.text,
            id: &id_of_exec,
            mark: &shell.mark,
            stdio: Stdio {
                stdin: stdin.as_deref(),
                stdout: stdout.as_deref().unwrap_or_default(),
                stderr: stderr.as_deref().filter(|_| !merge),
            },
            env: &asked.env,
            cwd: to.as_deref().map(|to| (to, &*base)),
            report: &script::quoted(&report.path),
            guarded,
            last: shell.last.take(),
            aloud: words.exit,
            sealed: words.seals || words.shadowed,
            opens: words.opens || !by_bytes,
            opens_many: words.opens && by_bytes,
        }));
        shell.stays = asked.cwd.is_some();
        let restarted = std::mem::take(&mut shell.lost);
        shell.stand = Stand::Runs(exec);
        command.begin(Beginning { process, outputs, restarted }, &mut self.tools);
        feeder.write(&self.tools.registry, Pipe::Stdin.token(host));
        Ok(())
    }

    /// A descriptor of a shell is ready.
    pub(in super::super) fn shell_event(&mut self, exec: ExecId, id: SessionId, pipe: Pipe) {
        if pipe == Pipe::Stdin {
            let registry = &self.tools.registry;
            let shell = self.sessions.get_mut(&id).and_then(|session| session.shell.as_deref_mut());
            if let Some(feeder) = shell.and_then(|shell| shell.feeder.as_mut()) {
                feeder.write(registry, pipe.token(exec));
            }
            return;
        }
        // What it has reported before its end counts.
        self.read_reports(id);
        if pipe == Pipe::Exit {
            self.with(exec, |command, tools| command.ready(pipe, tools));
        }
    }

    /// A command leaves its shell: what it has left open is read on, and the next one gets other pipes.
    pub(in super::super) fn leave_shell(&mut self, command: &mut Command) {
        let lingers = self.linger(command);
        let Some(shell) = self.shell(command.session) else { return };
        for (at, lingers) in lingers.into_iter().enumerate() {
            if lingers && let (Some(fifo), Some(fifos)) = (shell.outputs[at].take(), &shell.fifos) {
                fifos.retire(&fifo);
            }
        }
        if let (Some(stdin), Some(fifos)) = (shell.stdin.take(), &shell.fifos) {
            fifos.retire(&stdin);
        }
        if shell.asked.as_ref().is_some_and(|asked| asked.exec == command.exec) {
            shell.asked = None;
        }
    }

    /// A command that never ran.
    pub(super) fn not_started(&mut self, exec: ExecId, fault: Fault) {
        let Some(command) = self.take(exec) else { return };
        if let Some(session) = self.sessions.get_mut(&command.session) {
            session.command_gone(exec, None, 0);
        }
        self.refuse(command.request, exec, command.session, fault, false);
        for (request, _) in self.all_waiting(exec) {
            self.refuse_order(request, Fault::exec_not_found(&exec.to_string()));
        }
        self.after_command(command.session);
    }
}

impl Shell {
    /// A pipe for an output, as a descriptor for one command.
    fn output(&mut self, at: usize) -> Result<OwnedFd, Errno> {
        if self.outputs[at].is_none() {
            let fifos = self.fifos.as_mut().ok_or(Errno::ENOENT)?;
            self.outputs[at] = Some(fifos.pipe(Side::Read)?);
        }
        let fifo = self.outputs[at].as_ref().ok_or(Errno::ENOENT)?;
        fifo.end.try_clone().map_err(|error| error.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw))
    }
}
