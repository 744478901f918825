//! How a session closes: its commands are ended, then its shell, then whatever else lives of it; its directory goes, and
//! its uid is cleaned where that is needed at once. Each step is waited for as a state, and the answer comes last.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::Worker;
use super::session::State;
use crate::ids::{RequestId, SessionId};
use crate::message::{Left, ToGateway, ToReaper, UidFate};
use crate::process::errands::{Errand, Task};
use crate::process::removal::Removed;
use crate::protocol::fault::Fault;

impl Worker {
    /// Ends what runs in a session; when nothing is left of it, answers.
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

    /// Goes on with the end of a session in which no command runs any more.
    pub(super) fn close_if_empty(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        if !session.is_closing() || !session.running.is_empty() || session.ending.waits {
            return;
        }
        if self.end_shell(id) {
            return;
        }
        self.forget_all_lingering(id);
        if let Some(task) = self.next_step(id) {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.ending.waits = true;
            }
            return self.tools.errand(Errand::ForWorker { worker: self.tools.own.clone(), task });
        }
        self.gone(id);
    }

    /// What has to be done for the end of a session, if it may block; what need not is done at once.
    fn next_step(&mut self, id: SessionId) -> Option<Task> {
        let (setup, living) = (&self.tools.setup, self.tools.relief.errands.living());
        let session = self.sessions.get_mut(&id)?;
        let ending = &mut session.ending;
        if let (None, Some(identity)) = (ending.processes, session.alone) {
            if !living.is_over(id) {
                let until = Instant::now() + Duration::from_millis(setup.config.commands.unkillable_after_ms);
                return Some(Task::EndProcesses { session: id, identity, until });
            }
            ending.processes = Some(true);
        }
        if ending.workspace.is_none() {
            if !setup.workspaces.remove_empty(id) {
                return Some(Task::RemoveWorkspace { session: id, workspaces: setup.workspaces.clone() });
            }
            ending.workspace = Some(true);
        }
        match session.alone.filter(|_| session.clean_at_end && ending.processes == Some(true)) {
            Some(identity) if ending.uid.is_none() => Some(Task::CleanUid { session: id, uid: identity.uid }),
            Some(_) | None => None,
        }
    }

    fn step_done(&mut self, id: SessionId, note: impl FnOnce(&mut super::session::Ending)) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.ending.waits = false;
        note(&mut session.ending);
        self.close_if_empty(id);
    }

    pub(super) fn processes_ended(&mut self, id: SessionId, are_gone: bool) {
        if !are_gone {
            log::warn!("session={id} closes, and processes of it outlive SIGKILL; its uid is set aside");
        }
        self.step_done(id, |ending| ending.processes = Some(are_gone));
    }

    pub(super) fn workspace_removed(&mut self, id: SessionId, removed: Removed) {
        match removed {
            Ok(()) => {}
            Err(Errno::ETIMEDOUT) => log::warn!("session={id} its workspace is not removed yet; that goes on"),
            Err(errno) => log::warn!("session={id} its workspace cannot be removed yet: {errno}"),
        }
        self.step_done(id, |ending| ending.workspace = Some(removed.is_ok()));
    }

    pub(super) fn uid_cleaned(&mut self, id: SessionId, cleaned: Result<(), String>) {
        if let Err(left) = &cleaned {
            log::warn!("session={id} its uid is set aside: {left}");
        }
        self.step_done(id, |ending| ending.uid = Some(cleaned.is_ok()));
    }

    /// Nothing is left of a session that could be ended.
    fn gone(&mut self, id: SessionId) {
        self.forget_all(id);
        let Some(session) = self.sessions.remove(&id) else { return };
        let body = session.closed_body();
        let State::Closing { requests, idle } = session.state else { return };
        if !session.ephemeral {
            self.tools.reaper.leave(ToReaper::SessionGone { session: id });
        }
        let uid = match (session.ending.processes, session.ending.uid) {
            (Some(false), _) | (_, Some(false)) => UidFate::SetAside,
            (_, Some(true)) => UidFate::Clean,
            (_, None) => UidFate::Rests,
        };
        let left = Left { workspace: session.ending.workspace == Some(false), uid };
        self.tools.gateway.tell(ToGateway::SessionGone { session: id, idle, left });
        for request in requests {
            self.tools.gateway.tell(ToGateway::Answer { request, body: body.clone(), more: false });
        }
        for farewell in session.farewell {
            self.tools.gateway.tell(farewell);
        }
        self.tell_if_empty();
    }
}
