//! What is asked of sessions and commands that there are: their workers answer.

use super::Desk;
use super::entries::{Entry, EntryState};
use super::inflight::Work;
use super::routing::{Asked, Decision};
use crate::gateway::socket::Peer;
use crate::ids::{RequestId, SessionId};
use crate::message::ToWorker;
use crate::protocol::fault::Fault;
use crate::protocol::request::SessionRef;

impl Desk {
    pub(super) fn ask_sessions(&mut self, asked: &Asked) -> Decision {
        let client = (!asked.peer.admin).then(|| asked.peer.client.clone());
        for worker in &self.workers {
            worker.tell(ToWorker::List { request: asked.request, client: client.clone() });
        }
        Decision::Later(Work::Gather { of: "sessions", missing: self.workers.len(), parts: Vec::new() })
    }

    /// The session that a client means, unless it is closed, unknown, or another client's: one and the same answer.
    pub(super) fn session(&mut self, peer: &Peer, session: &SessionRef) -> Result<(SessionId, &mut Entry), Fault> {
        let seen =
            |entry: &&mut Entry| matches!(entry.state, EntryState::Open) && (peer.admin || entry.client == peer.client);
        session
            .id
            .and_then(|id| self.sessions.get_mut(&id).filter(seen).map(|entry| (id, entry)))
            .ok_or_else(|| Fault::session_not_found(&session.text))
    }

    pub(super) fn ask_session(
        &mut self,
        asked: &Asked,
        session: &SessionRef,
        message: impl FnOnce(RequestId, SessionId) -> ToWorker,
    ) -> Result<Decision, Fault> {
        let (id, entry) = self.session(asked.peer, session)?;
        let worker = entry.worker;
        self.tell_worker(worker, message(asked.request, id));
        Ok(Decision::Later(Work::Worker(worker)))
    }

    pub(super) fn close(&mut self, asked: &Asked, session: &SessionRef) -> Result<Decision, Fault> {
        let closing = self.ask_session(asked, session, |request, session| ToWorker::Close { request, session })?;
        if let Some((id, entry)) = session.id.and_then(|id| Some((id, self.sessions.get_mut(&id)?))) {
            entry.state = EntryState::Closing;
            self.refuse_waiters_of(id);
        }
        Ok(closing)
    }
}
