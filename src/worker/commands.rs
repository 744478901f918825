//! The commands of a worker: started, stepped on by events, told of, forgotten.

use std::sync::Arc;
use std::time::Instant;

use super::Worker;
use super::command::{Command, Due, Next, Pipe};
use super::record::Finished;
use super::retained::{Outcome, Told};
use super::session::{Ran, Session, State};
use super::terminal::name_terminal;
use super::tools::Tools;
use crate::ids::{ExecId, RequestId, SessionId};
use crate::message::{CommandEnd, Running, ToGateway, ToReaper};
use crate::process::launch;
use crate::process::spawn::{Launched, SpawnFault};
use crate::process::tree::{Marks, Orphan};
use crate::protocol::fault::{Fault, Reason};
use crate::protocol::request::Program;
use crate::sys::clone::Stage;

impl Worker {
    pub(super) fn start(&mut self, request: RequestId, exec: ExecId, id: SessionId, mut running: Running) {
        if let Some(opening) = running.ephemeral.take() {
            if let Err(fault) = self.make_session(id, *opening) {
                return self.refuse(request, exec, id, fault, true);
            }
            self.tools.gateway.leave(ToGateway::SessionOpened { session: id });
        }
        let cpu_seen = self.cpu_seen(id);
        let usable = |session: &&mut Session| session.state == State::Open && !self.ending;
        let Some(session) = self.sessions.get_mut(&id).filter(usable) else {
            let fault = if self.ending { Fault::shutting_down() } else { Fault::session_not_found(&id.to_string()) };
            return self.refuse(request, exec, id, fault, false);
        };
        let left = match session.budget_left(cpu_seen) {
            Ok(left) => left,
            Err(fault) => {
                self.refuse(request, exec, id, fault, false);
                return self.close_when_idle(id);
            }
        };
        let cpu_of_budget = left.lower(&mut running.limits);
        if session.has_shell() && matches!(running.spec.program, Program::Shell(_)) {
            return self.start_in_shell(request, exec, id, running, (cpu_of_budget, left.until));
        }
        let setup = &self.tools.setup;
        let mut environment = session.environment(Some(exec), &running.spec.env, setup);
        if let Some(pty) = &running.spec.pty {
            name_terminal(&mut environment, pty.term.as_deref());
        }
        let cwd = launch::directory(&session.cwd, running.spec.cwd.as_deref());
        let (program, place) = (Some(&running.spec.program), session.place(&cwd));
        let plan = setup.common.plan(program, &environment, place, &running.limits, session.identity);
        let alone = setup.policy.is_pool() && running.alone && !session.has_shell();
        let marks = Marks {
            leader: 0,
            environ: format!("COFFERDAM_EXEC={}", setup.unique(exec)).into_bytes(),
            uid: session.identity.filter(|_| alone).map(|identity| identity.uid),
            ..Marks::default()
        };
        match Command::start(request, exec, id, plan, marks, running, &mut self.tools) {
            Ok(mut command) => {
                command.bound(cpu_of_budget, left.until, &mut self.tools);
                session.command_started(exec);
                if command.is_streamed() {
                    self.streams.insert(request, exec);
                }
                self.commands.insert(exec, command);
            }
            Err(fault) => {
                self.refuse(request, exec, id, fault, false);
                self.close_when_idle(id);
            }
        }
    }

    /// A command that never ran: its place is free, then that is told.
    pub(super) fn refuse(
        &mut self,
        request: RequestId,
        exec: ExecId,
        session: SessionId,
        fault: Fault,
        no_session: bool,
    ) {
        self.tools.gateway.leave(ToGateway::CommandGone { exec, session, end: CommandEnd::NotStarted });
        if no_session {
            self.tools.gateway.leave(ToGateway::SessionGone { session, idle: false });
        }
        self.answer(session, ToGateway::Refused { request, fault });
    }

    /// Answers a command; one that had a session of its own after that is gone.
    pub(super) fn answer(&mut self, session: SessionId, answer: ToGateway) {
        match self.sessions.get_mut(&session).filter(|session| session.ephemeral) {
            Some(session) => session.farewell.push(answer),
            None => self.tools.gateway.tell(answer),
        }
    }

    pub(super) fn launched(&mut self, exec: ExecId, launched: Launched) {
        if let Some(session) = self.commands.get(&exec).filter(|command| command.hosts).map(|command| command.session) {
            return match launched {
                Ok(started) => self.shell_launched(exec, session, started),
                Err(fault) => {
                    drop(self.take(exec));
                    self.shell_failed(session, fault);
                }
            };
        }
        let fault = match launched {
            Ok(started) => return self.with(exec, |command, tools| command.launched(started, tools)),
            Err(fault) => fault,
        };
        let Some(mut command) = self.take(exec) else { return };
        if let Some(finished) = command.not_launched() {
            self.tools.gateway.leave(ToGateway::CommandStarted { exec });
            if !command.given_up {
                self.tell_record(&mut command, &finished);
            }
            return self.left(&command);
        }
        let (request, id) = (command.request, command.session);
        let mut what = String::from(&*command.program);
        if let Some(session) = self.sessions.get_mut(&id) {
            session.command_gone(exec, None, 0);
            if fault.stage == Stage::Cwd {
                what = launch::directory(&session.cwd, command.cwd.as_deref());
            }
        }
        self.refuse(request, exec, id, spawn_fault(fault, &what), false);
        for (request, _) in self.all_waiting(exec) {
            self.refuse_order(request, Fault::exec_not_found(&exec.to_string()));
        }
        self.after_command(id);
    }

    /// Runs one step of a command, and does what follows from it.
    pub(super) fn with(&mut self, exec: ExecId, step: impl FnOnce(&mut Command, &mut Tools) -> Next) {
        // An unknown id is a late event (invariant 11).
        let Some(command) = self.commands.get_mut(&exec) else { return };
        match step(command, &mut self.tools) {
            Next::Stay => {}
            Next::Finish => self.finish(exec),
            Next::GiveUp => self.give_up(exec),
        }
        self.serve_reads(exec);
    }

    pub(super) fn ready(&mut self, exec: ExecId, pipe: Pipe) {
        if let Some((_, child)) = self.graveyard.get(&exec) {
            if child.has_ended()
                && let Some((session, child)) = self.graveyard.remove(&exec)
                && let Err(child) = child.reap()
            {
                self.graveyard.insert(exec, (session, child));
            }
            return;
        }
        match self.commands.get(&exec) {
            Some(command) if command.hosts => {
                let session = command.session;
                self.shell_event(exec, session, pipe);
            }
            Some(_) => self.with(exec, |command, tools| command.ready(pipe, tools)),
            None => self.read_on(exec, pipe),
        }
    }

    pub(super) fn due(&mut self, exec: ExecId, due: Due) {
        match due {
            Due::Waited(request) => self.waited(exec, request),
            Due::Forget => self.forget(exec),
            Due::Rearm(pipe) if self.lingering.contains_key(&exec) => self.listen_on(exec, pipe),
            Due::Rearm(_) if self.commands.get(&exec).is_some_and(|command| command.hosts) => {
                self.listen_to_reports(exec)
            }
            due => self.with(exec, |command, tools| command.due(due, tools)),
        }
    }

    /// A command that is over; nothing of it is left but itself.
    pub(super) fn take(&mut self, exec: ExecId) -> Option<Command> {
        let command = self.commands.remove(&exec)?;
        self.streams.remove(&command.request);
        command.forget_dues(&mut self.tools);
        Some(command)
    }

    pub(super) fn finish(&mut self, exec: ExecId) {
        let Some(mut command) = self.take(exec) else { return };
        if command.hosts {
            return self.shell_ended(command);
        }
        if command.is_in_shell() {
            self.leave_shell(&mut command);
        }
        // None: it was told as unkillable before; now the slot is free.
        if let Some(finished) = command.reap() {
            self.tell_record(&mut command, &finished);
        }
        self.left(&command);
    }

    /// The record is told, and the command stays until it is gone.
    pub(super) fn give_up(&mut self, exec: ExecId) {
        let Some(mut command) = self.commands.remove(&exec) else { return };
        if command.hosts {
            let session = command.session;
            self.commands.insert(exec, command);
            return self.shell_given_up(exec, session);
        }
        let finished = command.unkillable();
        self.tell_record(&mut command, &finished);
        let id = command.session;
        self.commands.insert(exec, command);
        self.after_command(id);
    }

    /// Counts a finished command in its session, frees its slot where it is gone, and answers.
    pub(super) fn tell_record(&mut self, command: &mut Command, finished: &Finished) {
        let [stdout, stderr] = command.outputs();
        self.tools.tally.bytes_dropped += stdout.dropped() + stderr.dropped();
        self.tools.tally_since.get_or_insert_with(Instant::now);
        if let Some(session) = self.sessions.get_mut(&command.session) {
            let ran = Ran {
                record: finished.without_output(&stdout, &stderr),
                cpu: finished.cpu,
                output_bytes: stdout.total + stderr.total,
            };
            let history_max = self.tools.setup.config.sessions.max_history as usize;
            for forgotten in session.command_gone(command.exec, Some(ran), history_max) {
                self.forget(forgotten);
            }
        }
        let (base64, account) = (command.base64(), command.account().clone());
        let outcome = Outcome { finished: finished.clone(), stdout, stderr, base64, account };
        self.retain(command, &outcome);
        if !command.given_up {
            self.free_slot(command, finished);
        }
        self.tell_waiting(command.exec, command.session, &outcome);
        if command.keyed && !command.background {
            let told = Arc::new(Told::Ended(Box::new(outcome)));
            return self.answer(command.session, ToGateway::Kept { request: command.request, told });
        }
        if !std::mem::take(&mut command.wanted) {
            // Nobody is answered, and yet somebody may wait for the slot.
            self.tools.gateway.wake();
            return;
        }
        if command.background {
            // It was given up before it had started.
            return self.tools.gateway.tell(command.started_answer());
        }
        self.tell_body(command.request, Some(command.session), &outcome.account, outcome.body());
    }

    pub(super) fn free_slot(&mut self, command: &Command, finished: &Finished) {
        let counted = std::mem::take(&mut self.tools.tally);
        self.tools.tally_since = None;
        let end = CommandEnd::Finished {
            status: finished.ended.status,
            bytes_read: counted.bytes_read,
            bytes_dropped: counted.bytes_dropped,
            spawn_us: finished.spawn.as_micros() as u64,
            cpu: finished.cpu,
            output_bytes: command.output_bytes(),
            total_us: command.asked_at.elapsed().as_micros() as u64,
        };
        self.tools.gateway.leave(ToGateway::CommandGone { exec: command.exec, session: command.session, end });
    }

    /// A command is no more; one that was given up frees its slot only now.
    pub(super) fn left(&mut self, command: &Command) {
        if command.given_up {
            log::info!("session={} exec={} is gone at last", command.session, command.exec);
            self.free_slot(command, &command.unkillable());
            self.tools.gateway.wake();
        }
        self.after_command(command.session);
        self.tell_if_empty();
    }

    pub(super) fn after_command(&mut self, id: SessionId) {
        self.close_when_idle(id);
        self.close_if_empty(id);
    }

    /// The socket has taken what it was given of an answer or a stream.
    pub(super) fn more(&mut self, request: RequestId) {
        if let Some(exec) = self.streams.get(&request) {
            return self.with(*exec, |command, tools| command.taken(tools));
        }
        let Some(answer) = self.answers.get_mut(&request) else { return };
        let want = answer.piece_bytes();
        let mut body = Vec::with_capacity(want + want / 2);
        answer.body.encode(want, &mut body);
        let more = !answer.body.is_empty();
        if !more {
            self.answers.remove(&request);
        }
        self.tools.gateway.tell(ToGateway::Piece { request, body, more });
    }

    /// Whoever was to read an answer, or a stream, is gone.
    pub(super) fn forget_request(&mut self, request: RequestId) {
        self.answers.remove(&request);
        self.unwait(request);
        if let Some(exec) = self.streams.get(&request) {
            self.with(*exec, |command, tools| command.unheard(tools));
        }
    }

    pub(super) fn claim(&self, orphans: &[Orphan]) {
        let of_shell = |orphan: &Orphan| {
            self.sessions.values().filter_map(|session| session.shell.as_ref()).any(|shell| shell.claims(orphan))
        };
        let claimed =
            |orphan: &&Orphan| self.commands.values().any(|command| command.claims(orphan)) || of_shell(orphan);
        let pids = orphans.iter().filter(claimed).map(|orphan| orphan.stat.pid).collect();
        self.tools.reaper.tell(ToReaper::OrphansClaimed { pids });
    }
}

/// SPAWN_FAILED: the step and the errno say exactly what was wrong. `what` is the directory where that is at fault, or else
/// the program.
pub(super) fn spawn_fault(fault: SpawnFault, what: &str) -> Fault {
    let SpawnFault { stage, errno } = fault;
    let message = match stage {
        // Not the program: whoever reads that /bin/sh is missing looks in the wrong place.
        Stage::Cwd => format!("cannot enter {what}: {}", errno.desc()),
        _ => format!("cannot start {what}: {}: {}", stage.name(), errno.desc()),
    };
    Fault::new(Reason::SpawnFailed, message).text("stage", stage.name()).text("errno", format!("{errno:?}"))
}
