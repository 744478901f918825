//! The sessions of a worker: opened, told of, closed. Closing ends what runs, waits for it as a state, and only then
//! answers.

use std::time::Instant;

use super::Worker;
use super::command::Next;
use super::commands::spawn_fault;
use super::record::Verdict;
use super::session::{Session, State};
use crate::ids::{ExecId, RequestId, SessionId};
use crate::message::{CommandEnd, Opening, ToGateway, ToReaper};
use crate::process::errands::{Errand, Task};
use crate::process::spawn::SpawnFault;
use crate::protocol::fault::Fault;
use crate::protocol::limits::Limits;
use crate::sys::clone::Stage;

impl Worker {
    pub(super) fn commands_max(&self) -> usize {
        self.tools.setup.config.commands.max_commands_per_session as usize
    }

    /// The configured limits: a reload may have lowered them since a session was opened.
    pub(super) fn ceilings(&self) -> Limits {
        Limits::of_config(&self.tools.setup.config.limits)
    }

    pub(super) fn tell_of(&self, request: RequestId, session: SessionId, tell: impl FnOnce(&Session) -> Vec<u8>) {
        self.tools.gateway.tell(match self.sessions.get(&session) {
            Some(session) if session.state == State::Open => {
                ToGateway::Answer { request, body: tell(session), more: false }
            }
            Some(_) | None => ToGateway::Refused { request, fault: Fault::session_not_found(&session.to_string()) },
        });
    }

    pub(super) fn list(&self, request: RequestId, client: Option<&str>) {
        let mut body = Vec::new();
        let mut all: Vec<&Session> = self.sessions.values().filter(|session| !session.is_closing()).collect();
        all.sort_unstable_by_key(|session| session.id);
        for session in all {
            let opening = matches!(session.state, State::Opening { .. });
            if !opening && client.is_none_or(|client| client == &*session.client) {
                if !body.is_empty() {
                    body.push(b',');
                }
                session.info(&mut body, self.commands_max(), &self.ceilings());
            }
        }
        self.tools.gateway.tell(ToGateway::Fragment { request, body });
    }

    pub(super) fn open(&mut self, id: SessionId, opening: Opening) {
        let request = opening.request;
        let probe = opening.spec.cwd.is_some();
        match self.make_session(id, opening) {
            Err(fault) => {
                self.tools.gateway.tell(ToGateway::SessionGone { session: id, idle: false });
                if let Some(request) = request {
                    self.tools.gateway.tell(ToGateway::Refused { request, fault });
                }
            }
            // Its start tells whether the directory can be used.
            Ok(()) if self.sessions[&id].has_shell() => self.start_shell(id),
            Ok(()) if probe => {
                // Nobody can say whether a directory can be used but by using it.
                let session = &self.sessions[&id];
                let environment = session.environment(None, &[], &self.tools.setup);
                let place = session.place(&session.cwd);
                let plan = self.tools.setup.common.plan(None, &environment, place, &session.limits, session.identity);
                let task = Task::Probe { session: id, plan: Box::new(plan) };
                self.tools.errand(Errand::ForWorker { worker: self.tools.own.clone(), task });
            }
            Ok(()) => self.opened(id),
        }
    }

    pub(super) fn make_session(&mut self, id: SessionId, opening: Opening) -> Result<(), Fault> {
        let setup = &self.tools.setup;
        let identity = setup.policy.of_session(opening.place);
        // One that names its own directory needs no other.
        let workspace = match &opening.spec.cwd {
            Some(cwd) if cwd.starts_with('/') => None,
            Some(_) | None => Some(setup.workspaces.make(id, identity).map_err(|errno| {
                spawn_fault(SpawnFault { stage: Stage::Workspace, errno }, "the session's directory")
            })?),
        };
        let session = Session::new(id, opening, workspace, setup);
        self.sessions.insert(id, session);
        Ok(())
    }

    pub(super) fn probed(&mut self, id: SessionId, probed: Result<(), SpawnFault>) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        match (&session.state, probed) {
            (State::Opening { .. }, Ok(())) => self.opened(id),
            (State::Opening { request }, Err(fault)) => {
                let fault = spawn_fault(fault, &session.cwd);
                // Told when it is gone, and its place free.
                session.farewell.push(ToGateway::Refused { request: *request, fault });
                self.close(id, None, false);
            }
            (State::Open, probed) => self.directory_tried(id, probed),
            (State::Closing { .. }, _) => {}
        }
    }

    pub(super) fn opened(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let State::Opening { request } = std::mem::replace(&mut session.state, State::Open) else { return };
        let idle_ms = session.idle.as_millis() as u64;
        self.tools.reaper.leave(ToReaper::SessionOpened { session: id, worker: self.index, idle_ms });
        self.tools.gateway.leave(ToGateway::SessionOpened { session: id });
        self.tools.gateway.tell(ToGateway::Answer { request, body: session.opened_body(), more: false });
        if self.ending {
            self.close(id, None, false);
        }
    }

    /// Ends what runs in a session; when that is gone, removes its directory, and answers.
    pub(super) fn close(&mut self, id: SessionId, request: Option<RequestId>, idle: bool) {
        let Some(session) = self.sessions.get_mut(&id) else {
            if let Some(request) = request {
                let fault = Fault::session_not_found(&id.to_string());
                self.tools.gateway.tell(ToGateway::Refused { request, fault });
            }
            return;
        };
        match &mut session.state {
            State::Closing { requests, .. } => return requests.extend(request),
            State::Opening { .. } | State::Open => {}
        }
        session.state = State::Closing { requests: request.into_iter().collect(), idle };
        for exec in session.running.clone() {
            self.with(exec, |command, tools| {
                command.hang_up(tools);
                command.next()
            });
        }
        self.close_if_empty(id);
    }

    pub(super) fn close_if_empty(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        if !session.is_closing() || !session.running.is_empty() || session.removing {
            return;
        }
        if self.end_shell(id) {
            return;
        }
        self.forget_all_lingering(id);
        let workspaces = &self.tools.setup.workspaces;
        if workspaces.remove_empty(id) {
            self.gone(id);
        } else if let Some(session) = self.sessions.get_mut(&id) {
            session.removing = true;
            let task = Task::RemoveWorkspace { session: id, workspaces: workspaces.clone() };
            self.tools.errand(Errand::ForWorker { worker: self.tools.own.clone(), task });
        }
    }

    pub(super) fn gone(&mut self, id: SessionId) {
        self.forget_all(id);
        let Some(session) = self.sessions.remove(&id) else { return };
        let body = session.closed_body();
        let State::Closing { requests, idle } = session.state else { return };
        if !session.ephemeral {
            self.tools.reaper.leave(ToReaper::SessionGone { session: id });
        }
        self.tools.gateway.tell(ToGateway::SessionGone { session: id, idle });
        for request in requests {
            self.tools.gateway.tell(ToGateway::Answer { request, body: body.clone(), more: false });
        }
        for farewell in session.farewell {
            self.tools.gateway.tell(farewell);
        }
        self.tell_if_empty();
    }

    /// A command that waits for a slot keeps its session from being idle.
    pub(super) fn expect(&mut self, id: SessionId, more: bool) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.expected = if more { session.expected + 1 } else { session.expected.saturating_sub(1) };
        session.touch();
        self.close_when_idle(id);
    }

    /// The connection that opened it is gone: what runs is cancelled, unless it may finish.
    pub(super) fn abandon(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.close_when_idle = true;
        let running = session.running.clone();
        let finishing = running.iter().any(|exec| self.commands.get(exec).is_some_and(|c| c.finish_on_disconnect));
        if !finishing {
            return self.close(id, None, false);
        }
        for exec in running {
            self.with(exec, |command, tools| {
                if !command.finish_on_disconnect {
                    command.hang_up(tools);
                }
                command.next()
            });
        }
    }

    pub(super) fn check_idle(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        let now = Instant::now();
        if session.is_idle() && session.idle_due() <= now {
            log::info!("session={id} was idle for {} s and closes", session.idle.as_secs_f64());
            return self.close(id, None, true);
        }
        let due = if session.is_idle() { session.idle_due() } else { now + session.idle };
        self.tools.reaper.tell(ToReaper::SessionIdleUntil { session: id, due });
    }

    pub(super) fn end_all(&mut self, at_once: bool) {
        self.ending = true;
        for exec in self.commands.keys().copied().collect::<Vec<_>>() {
            self.with(exec, |command, tools| {
                match at_once {
                    // It goes with its session.
                    _ if command.hosts => {}
                    true => command.kill(Verdict::Shutdown, tools),
                    false => command.ask(Verdict::Shutdown, tools),
                }
                if command.is_in_shell() { command.next() } else { Next::Stay }
            });
        }
        for (id, session) in &mut self.sessions {
            session.close_when_idle = true;
            log::debug!("session={id} closes with the daemon");
        }
        for id in self.sessions.keys().copied().collect::<Vec<_>>() {
            self.close_when_idle(id);
        }
        self.tell_if_empty();
    }

    pub(super) fn close_when_idle(&mut self, id: SessionId) {
        let closes = |session: &Session| session.close_when_idle && session.is_idle();
        if self.sessions.get(&id).is_some_and(closes) {
            self.close(id, None, false);
        }
    }

    pub(super) fn tell_if_empty(&self) {
        if self.ending && self.sessions.is_empty() && self.commands.values().all(|command| command.given_up) {
            for command in self.commands.values() {
                log::error!("exec={} pid={:?} may outlive the daemon", command.exec, command.pid());
            }
            self.tools.reaper.tell(ToReaper::WorkerEmpty { worker: self.index });
        }
    }

    /// After a fault of ours: every command of the session is ended and answered, and the session is gone.
    pub(super) fn end_faulty(&mut self, id: SessionId) {
        let faulty: Vec<ExecId> =
            self.commands.values().filter(|command| command.session == id).map(|command| command.exec).collect();
        // Told when all is ended and every place is free.
        let mut unanswered = Vec::new();
        for exec in faulty {
            let Some(command) = self.take(exec) else { continue };
            let (request, wanted) = (command.request, command.wanted);
            if command.has_started() {
                self.free_slot(&command, &command.unkillable());
            } else {
                self.tools.gateway.leave(ToGateway::CommandGone { exec, session: id, end: CommandEnd::NotStarted });
            }
            if let Some(child) = command.abandon() {
                self.graveyard.insert(exec, (id, child));
            }
            unanswered.extend(wanted.then_some(request));
            unanswered.extend(self.all_waiting(exec).into_iter().map(|(request, _)| request));
        }
        self.forget_all(id);
        self.forget_all_lingering(id);
        if let Some(session) = self.sessions.remove(&id) {
            self.tools.gateway.tell(ToGateway::SessionGone { session: id, idle: false });
            self.tools.reaper.tell(ToReaper::SessionGone { session: id });
            for farewell in session.farewell {
                self.tools.gateway.tell(farewell);
            }
            match session.state {
                State::Opening { request } => unanswered.push(request),
                State::Closing { requests, .. } => unanswered.extend(requests),
                State::Open => {}
            }
            let task = Task::RemoveWorkspace { session: id, workspaces: self.tools.setup.workspaces.clone() };
            self.tools.errand(Errand::ForWorker { worker: self.tools.own.clone(), task });
        }
        for request in unanswered {
            let fault = Fault::internal("a fault of the daemon; the session is ended");
            self.tools.gateway.tell(ToGateway::Refused { request, fault });
        }
        self.tools.tell_orphans_seen();
        self.tell_if_empty();
    }
}
