//! Commands as clients ask for them by id: which run, which have ended and are known still, and who takes the streams
//! of those that go on by themselves.

use std::collections::{HashMap, VecDeque};

use mio::Token;

use super::inflight::Work;
use super::{Asked, Decision, Desk, EntryState};
use crate::ids::{ExecId, RequestId, SessionId};
use crate::message::{CommandEnd, ToWorker};
use crate::protocol::fault::Fault;
use crate::protocol::request::{ExecRef, Order, SessionRef};

/// Commands that have ended, as long as their session is there and remembers them (`max_history`); and streams.
#[derive(Debug, Default)]
pub(super) struct Execs {
    ended: HashMap<ExecId, Ended>,
    of_session: HashMap<SessionId, VecDeque<ExecId>>,
    /// Streams of started commands, by the request that started them; as many as commands run.
    streams: HashMap<RequestId, Heard>,
}

#[derive(Debug)]
struct Ended {
    session: SessionId,
    /// Its worker has the record and the output.
    kept: bool,
}

/// Who takes a stream, and whose it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heard {
    pub token: Token,
    pub exec: ExecId,
    pub worker: usize,
}

impl Execs {
    /// A command was answered: where it still runs, its stream goes on without the request.
    pub fn may_stream(&mut self, request: RequestId, heard: Heard, runs: bool) {
        if runs {
            self.streams.insert(request, heard);
        }
    }

    pub fn stream_of(&self, request: RequestId) -> Option<(Token, usize)> {
        self.streams.get(&request).map(|heard| (heard.token, heard.worker))
    }

    pub fn session_gone(&mut self, session: SessionId) {
        for exec in self.of_session.remove(&session).unwrap_or_default() {
            self.ended.remove(&exec);
        }
    }

    /// Remembers that a command has ended, and no more of them than the session's history has.
    fn remember(&mut self, exec: ExecId, session: SessionId, max: usize) {
        let order = self.of_session.entry(session).or_default();
        order.push_back(exec);
        self.ended.entry(exec).or_insert(Ended { session, kept: false });
        while order.len() > max {
            if let Some(oldest) = order.pop_front() {
                self.ended.remove(&oldest);
            }
        }
    }
}

impl Desk {
    /// What is asked of one command; another client's is as unknown as one that never was.
    pub(super) fn exec(&mut self, asked: &Asked, exec: &ExecRef, order: Order) -> Result<Decision, Fault> {
        let not_found = || Fault::exec_not_found(&exec.text);
        let id = exec.id.ok_or_else(not_found)?;
        let asks_only = matches!(order, Order::Wait { .. } | Order::Read(_));
        let ended = self.execs.ended.get(&id);
        let running = self.commands.get(&id).map(|slot| &slot.session);
        let session = running.or(ended.map(|ended| &ended.session)).ok_or_else(not_found)?;
        let entry = self.sessions.get(session).ok_or_else(not_found)?;
        let seen = asked.peer.admin || entry.client == asked.peer.client;
        if !seen || (ended.is_some() && entry.state != EntryState::Open) {
            return Err(not_found());
        }
        let worker = entry.worker;
        match ended {
            Some(_) if !asks_only => return Err(Fault::exec_finished(&exec.text)),
            Some(Ended { kept: false, .. }) if !self.commands.contains_key(&id) => return Err(not_found()),
            Some(_) | None => {}
        }
        self.tell_worker(worker, ToWorker::Exec { request: asked.request, exec: id, order: Box::new(order) });
        Ok(Decision::Later(Work::Worker(worker)))
    }

    pub(super) fn ask_commands(&mut self, asked: &Asked, session: Option<&SessionRef>) -> Result<Decision, Fault> {
        let Asked { request, peer, .. } = *asked;
        let of =
            session.map(|session| self.session(peer, session).map(|(id, entry)| (id, entry.worker))).transpose()?;
        let client = (!peer.admin).then(|| peer.client.clone());
        let ask = |session| ToWorker::ListCommands { request, client: client.clone(), session };
        let missing = match of {
            Some((session, worker)) => {
                self.tell_worker(worker, ask(Some(session)));
                1
            }
            None => {
                self.workers.iter().for_each(|worker| worker.tell(ask(None)));
                self.workers.len()
            }
        };
        Ok(Decision::Later(Work::Gather { of: "commands", missing, parts: Vec::new() }))
    }

    /// Its worker keeps a command that has ended.
    pub fn command_kept(&mut self, exec: ExecId) {
        if let Some(slot) = self.commands.get(&exec) {
            self.execs.ended.insert(exec, Ended { session: slot.session, kept: true });
        }
    }

    pub fn command_forgotten(&mut self, exec: ExecId) {
        if let Some(ended) = self.execs.ended.get_mut(&exec) {
            ended.kept = false;
        }
    }

    /// A command has left its slot.
    pub(super) fn exec_gone(&mut self, exec: ExecId, session: SessionId, end: CommandEnd) {
        self.execs.streams.retain(|_, heard| heard.exec != exec);
        let open = self.sessions.get(&session).is_some_and(|entry| entry.state == EntryState::Open);
        if open && end != CommandEnd::NotStarted {
            self.execs.remember(exec, session, self.config.sessions.max_history as usize);
        } else {
            self.execs.ended.remove(&exec);
        }
    }

    /// A connection is gone, and nobody takes the streams that went to it.
    pub(super) fn unheard(&mut self, token: Token) {
        let of_it = |(request, heard): (&RequestId, &Heard)| (heard.token == token).then_some((*request, *heard));
        let silent: Vec<_> = self.execs.streams.iter().filter_map(of_it).collect();
        for (request, Heard { exec, worker, .. }) in silent {
            self.execs.streams.remove(&request);
            self.tell_worker(worker, ToWorker::Unheard { exec });
        }
    }
}
