//! Who gets a session or a command. What is claimed here is given back in `session_gone` and `command_gone`, and
//! nowhere else.

use std::time::Instant;

use mio::Token;

use super::inflight::Work;
use super::{Desk, Entry, EntryState};
use crate::gateway::connection::{Book, Peer};
use crate::ids::{ExecId, RequestId, SessionId};
use crate::message::{CommandEnd, Opening, Running, ToWorker};
use crate::protocol::fault::Fault;
use crate::protocol::limits::Limits;
use crate::protocol::request::{OpenSession, Run};

impl Desk {
    pub(super) fn open(
        &mut self,
        token: Token,
        peer: &Peer,
        book: &mut Book,
        spec: OpenSession,
    ) -> Result<(RequestId, Work), Fault> {
        if self.draining {
            return Err(Fault::shutting_down());
        }
        let limits = self.ceilings.lowered(&spec.limits)?;
        let owner = (!spec.persist).then_some(token);
        let (session, worker, place) = self.claim_session(peer, limits, EntryState::Opening, owner)?;
        if owner.is_some() {
            book.sessions.push(session);
        }
        let request = self.next_request();
        let opening = Opening { request: Some(request), client: peer.client.clone(), limits, place, spec };
        self.tell_worker(worker, ToWorker::Open { session, opening: Box::new(opening) });
        Ok((request, Work::Worker(worker)))
    }

    fn claim_session(
        &mut self,
        peer: &Peer,
        limits: Limits,
        state: EntryState,
        owner: Option<Token>,
    ) -> Result<(SessionId, usize, u32), Fault> {
        let place = self.slots.claim_session()?;
        self.last_session += 1;
        let session = SessionId(self.last_session);
        let worker = (self.last_session % self.workers.len() as u64) as usize;
        let client = peer.client.clone();
        let entry = Entry { worker, client, limits, place, state, running: 0, owner, counted: false };
        self.sessions.insert(session, entry);
        Ok((session, worker, place))
    }

    pub(super) fn run(&mut self, peer: &Peer, id: Option<&str>, run: Run) -> Result<(RequestId, Work), Fault> {
        if self.draining {
            return Err(Fault::shutting_down());
        }
        let per_session = self.config.commands.max_commands_per_session;
        let (session, worker, limits, ephemeral) = match &run.session {
            Some(session) => {
                let (id, entry) = self.session(peer, session)?;
                let limits = entry.limits.lowered(&run.limits)?;
                if entry.running >= per_session {
                    let running = entry.running;
                    return Err(Fault::session_busy(id, per_session, running));
                }
                let worker = entry.worker;
                self.slots.claim_command()?;
                (id, worker, limits, None)
            }
            None => {
                let limits = self.ceilings.lowered(&run.limits)?;
                self.slots.claim_command()?;
                let claimed = self.claim_session(peer, limits, EntryState::Ephemeral, None);
                let (id, worker, place) = claimed.inspect_err(|_| {
                    self.slots.release_command();
                })?;
                let spec = OpenSession::default();
                let opening = Opening { request: None, client: peer.client.clone(), limits, place, spec };
                (id, worker, limits, Some(Box::new(opening)))
            }
        };
        self.last_exec += 1;
        let exec = ExecId(self.last_exec);
        self.commands.insert(exec, session);
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.running += 1;
        }
        let request = self.next_request();
        let id = run.stream.then(|| Box::from(id.unwrap_or("null")));
        let running = Running { ephemeral, limits, spec: run, id, asked_at: Instant::now() };
        self.tell_worker(worker, ToWorker::Run { request, exec, session, running: Box::new(running) });
        Ok((request, Work::Command { exec, worker }))
    }

    pub fn session_opened(&mut self, session: SessionId) {
        let Some(entry) = self.sessions.get_mut(&session) else { return };
        if entry.state == EntryState::Opening {
            entry.state = EntryState::Open;
        }
        entry.counted = true;
        self.tally.sessions_opened += 1;
    }

    /// A session is no more; the connection that owned it, if one did.
    pub fn session_gone(&mut self, session: SessionId, idle: bool) -> Option<Token> {
        let entry = self.sessions.remove(&session)?;
        self.slots.release_session(entry.place);
        if entry.counted {
            self.tally.sessions_closed += 1;
            self.tally.sessions_reaped_idle += u64::from(idle);
        } else {
            self.tally.sessions_rejected += 1;
        }
        entry.owner
    }

    pub fn command_started(&mut self, exec: ExecId) {
        if self.commands.contains_key(&exec) {
            self.tally.commands_started += 1;
        }
    }

    pub fn command_gone(&mut self, exec: ExecId, session: SessionId, end: CommandEnd) {
        if self.commands.remove(&exec).is_none() {
            return;
        }
        self.slots.release_command();
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.running -= 1;
        }
        match end {
            CommandEnd::NotStarted => self.tally.commands_rejected += 1,
            CommandEnd::Finished { status, spawn_us, total_us, bytes_read, bytes_dropped } => {
                self.tally.bytes_read += bytes_read;
                self.tally.bytes_dropped += bytes_dropped;
                self.tally.finished(status);
                self.tally.exec_spawn.record(spawn_us);
                self.tally.exec_total.record(total_us);
            }
        }
    }
}
