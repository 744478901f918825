//! Who gets a session or a command. What is claimed here is given back in `session_gone` and `command_gone`, and
//! nowhere else.

use std::time::Instant;

use mio::Token;

use super::buffers;
use super::descriptors::refusal;
use super::entries::InShell;
use super::inflight::Work;
use super::queue::Waiter;
use super::quotas::over_limit;
use super::{Asked, Decision, Desk, Entry, EntryState, Slot};
use crate::admission::budget::Spent;
use crate::admission::buffers::{Claim as Buffers, Need};
use crate::admission::quota::{Amount, Claim, OverLimit, Resource};
use crate::enforcement::descriptors::Cost;
use crate::gateway::book::Book;
use crate::gateway::socket::Peer;
use crate::ids::{ClientName, ExecId, RequestId, SessionId};
use crate::message::{CommandEnd, Left, Opening, Running, ToWorker};
use crate::protocol::budget::Budget;
use crate::protocol::fault::Fault;
use crate::protocol::limits::Limits;
use crate::protocol::request::{OpenSession, Run};
use crate::worker::too_long;

/// Why a command cannot start now. It is told only where the command does not wait, so it is put into words no sooner.
pub(super) enum Refusal {
    /// It never will.
    Lasting(Fault),
    /// So many commands of its session run, as many as may.
    Busy {
        limit: u64,
        usage: u64,
    },
    Quota(OverLimit),
    /// All slots of the daemon are taken.
    Full(Fault),
}

impl Refusal {
    /// It could when a command ends.
    pub fn passes(&self) -> bool {
        match self {
            Refusal::Lasting(_) => false,
            // Who may run nothing at all would wait in vain.
            Refusal::Quota(over) => over.retryable,
            Refusal::Busy { .. } | Refusal::Full(_) => true,
        }
    }

    pub fn tell(self, session: SessionId) -> Fault {
        match self {
            Refusal::Lasting(fault) | Refusal::Full(fault) => fault,
            Refusal::Busy { limit, usage } => Fault::session_busy(session, limit, usage),
            Refusal::Quota(over) => over_limit(over),
        }
    }
}

/// What a session claims.
fn claims_of_session(limits: &Limits) -> [(Resource, Amount); 3] {
    let amount = |ceiling: Option<u64>| ceiling.map_or(Amount::Unlimited, Amount::Of);
    [
        (Resource::Sessions, Amount::Of(1)),
        (Resource::MemoryBytes, amount(limits.memory_bytes)),
        (Resource::Processes, amount(limits.nproc)),
    ]
}

impl Desk {
    pub(super) fn open(&mut self, asked: &Asked, book: &mut Book, spec: OpenSession) -> Result<Decision, Fault> {
        if self.draining {
            return Err(Fault::shutting_down());
        }
        let limits = self.ceilings.lowered(&spec.limits)?;
        let owner = (!spec.persist).then_some(asked.token);
        let shell = if spec.shell.is_some() { InShell::Idle } else { InShell::None };
        let params = self.hold_params(&asked.peer.client, spec.weight())?;
        let session = self.claim_session(asked.peer, limits, EntryState::Opening, owner, shell)?;
        if let Some(entry) = self.sessions.get_mut(&session) {
            (entry.params, entry.env_bytes) = (params, spec.env.weight());
            entry.budget = spec.budget;
        }
        if owner.is_some() {
            book.sessions.push(session);
        }
        let opening = self.opening(session, Some(asked.request), spec);
        let worker = self.sessions[&session].worker;
        self.tell_worker(worker, ToWorker::Open { session, opening: Box::new(opening) });
        Ok(Decision::Later(Work::Worker(worker)))
    }

    fn claim_session(
        &mut self,
        peer: &Peer,
        limits: Limits,
        state: EntryState,
        owner: Option<Token>,
        shell: InShell,
    ) -> Result<SessionId, Fault> {
        let client = peer.client.clone();
        let claim = self.ledger.claim(&client, &claims_of_session(&limits), &|_| 0).map_err(over_limit)?;
        self.slots.check_session()?;
        let descriptors = (shell != InShell::None).then(|| self.descriptors.shell()).transpose();
        let descriptors = descriptors.map_err(refusal)?;
        let uid = self.leftovers.claim_uid(self.config.sessions.max_sessions);
        self.prepare_uids();
        let (place, clean_at_end) = uid.ok_or_else(|| self.no_uid())?;
        self.slots.claim_session();
        self.last_session += 1;
        let session = SessionId(self.last_session);
        let worker = session.worker(self.workers.len());
        let (budget, spent) = (Budget::default(), Spent::nothing(Instant::now()));
        let (running, commands_max, counted) = (0, 1, false);
        let entry = Entry {
            worker,
            client,
            by_unix: peer.is_by_unix(),
            limits,
            place,
            clean_at_end,
            claim,
            state,
            running,
            commands_max,
            budget,
            spent,
            owner,
            counted,
            shell,
            _descriptors: descriptors,
            params: None,
            env_bytes: 0,
        };
        self.sessions.insert(session, entry);
        Ok(session)
    }

    fn opening(&self, session: SessionId, request: Option<RequestId>, spec: OpenSession) -> Opening {
        let entry = &self.sessions[&session];
        let (client, limits, place, clean_at_end) =
            (entry.client.clone(), entry.limits, entry.place, entry.clean_at_end);
        Opening { request, client, limits, place, clean_at_end, spec }
    }

    /// All uids of the pool that are not in use have something of a session left.
    fn no_uid(&self) -> Fault {
        let mut fault = Fault::capacity("sessions", self.config.sessions.max_sessions, self.slots.sessions());
        let aside = self.leftovers.set_aside();
        fault.message = format!(
            "no uid is left for a session: {aside} are set aside, for something of their last sessions is left"
        );
        fault
    }

    /// Runs a command at once, lets it wait for a slot, or refuses it.
    pub(super) fn run(&mut self, asked: &Asked, run: Box<Run>) -> Result<Decision, Fault> {
        if self.draining {
            return Err(Fault::shutting_down());
        }
        let (session, limits) = match &run.session {
            Some(session) => {
                let ceilings = self.ceilings;
                let (id, entry) = self.session(asked.peer, session)?;
                if entry.is_for_shell(run.is_line()) {
                    run.check_in_shell()?;
                }
                (id, entry.limits.within(&ceilings).lowered(&run.limits)?)
            }
            None => {
                let limits = self.ceilings.lowered(&run.limits)?;
                (self.claim_ephemeral(asked.peer, limits, run.queue_ms > 0)?, limits)
            }
        };
        let id = asked.id.map(Box::from);
        let waiter = Waiter { request: asked.request, session, limits, id, run, params: None };
        match self.refusal(session, waiter.run.is_line()) {
            Some(refusal) if !refusal.passes() || waiter.run.queue_ms == 0 => {
                self.unclaim_ephemeral(session);
                Err(refusal.tell(session))
            }
            _ if self.is_too_long(session, &waiter.run) => {
                self.unclaim_ephemeral(session);
                Err(too_long(&waiter.run))
            }
            Some(_) => self.enqueue(waiter).map(Decision::Later),
            None => self.start(waiter).map(Decision::Later),
        }
    }

    /// Whether the kernel would refuse a command for its length, whatever else is in its environment: nothing is claimed
    /// or built for it, and it need not wait. A line for a shell is no argument of a program.
    fn is_too_long(&self, session: SessionId, run: &Run) -> bool {
        let in_shell = self.sessions.get(&session).is_some_and(|entry| entry.is_for_shell(run.is_line()));
        !in_shell && run.is_too_long_with(&run.env)
    }

    /// A session for one command. What is over is told at once for both, for neither is of use without the other.
    fn claim_ephemeral(&mut self, peer: &Peer, limits: Limits, may_wait: bool) -> Result<SessionId, Fault> {
        let [sessions, memory, processes] = claims_of_session(&limits);
        let both = [sessions, memory, processes, (Resource::Commands, Amount::Of(1))];
        match self.ledger.claim(&peer.client, &both, &|_| 0) {
            // Each has a claim of its own from here on.
            Ok(claim) => self.ledger.release(claim),
            Err(over)
                if may_wait
                    && over.retryable
                    && over.over.iter().all(|row| row.resource == Resource::Commands.name()) => {}
            Err(over) => return Err(over_limit(over)),
        }
        self.claim_session(peer, limits, EntryState::Ephemeral, None, InShell::None)
    }

    /// The session of a command that will not start, if it was its own; no worker knows of it.
    pub(super) fn unclaim_ephemeral(&mut self, session: SessionId) {
        if self.sessions.get(&session).is_some_and(|entry| entry.state == EntryState::Ephemeral) {
            self.session_gone(session, false, Left::nothing());
        }
    }

    /// Why one more command cannot start in a session now, if it cannot.
    pub(super) fn refusal(&mut self, session: SessionId, is_line: bool) -> Option<Refusal> {
        let Some(entry) = self.sessions.get(&session).filter(|entry| entry.state != EntryState::Closing) else {
            return Some(Refusal::Lasting(Fault::session_not_found(&session.to_string())));
        };
        if let Err(fault) = entry.within_budget(session, Instant::now()) {
            return Some(Refusal::Lasting(fault));
        }
        if matches!(entry.shell, InShell::Runs(_)) && entry.is_for_shell(is_line) {
            return Some(Refusal::Busy { limit: 1, usage: 1 });
        }
        let max = entry.commands_max(&self.config);
        if entry.running >= max {
            return Some(Refusal::Busy { limit: max, usage: entry.running });
        }
        let (client, by_unix) = (entry.client.clone(), entry.by_unix);
        self.over_quota(&client).or_else(|| {
            let full = self.slots.check_command().and_then(|()| self.check_descriptors(by_unix));
            full.err().map(Refusal::Full)
        })
    }

    /// Why one more command of a client cannot start now, if that is for its quota.
    pub(super) fn over_quota(&mut self, client: &ClientName) -> Option<Refusal> {
        self.ledger.check(client, &[(Resource::Commands.name(), 1)], &|_| 0).err().map(Refusal::Quota)
    }

    /// Starts a command that nothing refuses; its session goes with it where it cannot start all the same.
    pub(super) fn start(&mut self, waiter: Waiter) -> Result<Work, Fault> {
        let Waiter { request, session, limits, id, run, params } = waiter;
        // What it runs with is claimed in its place.
        drop(params);
        let Some(entry) = self.sessions.get_mut(&session) else {
            return Err(Fault::session_not_found(&session.to_string()));
        };
        let (worker, client, by_unix) = (entry.worker, entry.client.clone(), entry.by_unix);
        let cost = Cost::of(&run, entry.is_for_shell(run.is_line()));
        let need = buffers::need(&run, entry.weight_started(&run));
        let claimed = self.claim_command(&client, need, &limits);
        let claimed = claimed.and_then(|claims| Ok((claims, self.claim_descriptors(cost, by_unix)?)));
        let ((claim, buffers), descriptors) = claimed.inspect_err(|_| self.unclaim_ephemeral(session))?;
        self.slots.claim_command();
        self.last_exec += 1;
        let exec = ExecId(self.last_exec);
        let mut own = false;
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.commands_max = entry.commands_max(&self.config);
            entry.running += 1;
            own = entry.state == EntryState::Ephemeral;
            if entry.is_for_shell(run.is_line()) {
                entry.shell = InShell::Runs(exec);
            }
        }
        let ephemeral = own.then(|| Box::new(self.opening(session, None, OpenSession::default())));
        self.commands.insert(exec, Slot { session, claim, descriptors, cost });
        let id = run.stream.then(|| id.unwrap_or_else(|| Box::from("null")));
        let asked_at = Instant::now();
        let running = Running { ephemeral, limits, spec: *run, id, asked_at, buffers };
        self.tell_worker(worker, ToWorker::Run { request, exec, session, running: Box::new(running) });
        Ok(Work::Command { exec, worker })
    }

    /// What a command claims: its quota, its buffers, and room on the host. All of it or nothing.
    fn claim_command(&mut self, client: &ClientName, need: Need, limits: &Limits) -> Result<(Claim, Buffers), Fault> {
        let bytes = Amount::Of(need.total() as u64);
        let (accounts, both) = (&self.accounts, [(Resource::Commands, Amount::Of(1)), (Resource::BufferBytes, bytes)]);
        let claim = self.ledger.claim(client, &both, &|client| accounts.used(client)).map_err(over_limit)?;
        let buffers = self.claim_buffers(client, need);
        match buffers.and_then(|buffers| self.check_headroom(limits).map(|()| buffers)) {
            Ok(buffers) => Ok((claim, buffers)),
            Err(fault) => {
                self.ledger.release(claim);
                Err(fault)
            }
        }
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
    pub fn session_gone(&mut self, session: SessionId, idle: bool, left: Left) -> Option<Token> {
        let entry = self.sessions.remove(&session)?;
        self.execs.session_gone(session);
        self.slots.release_session();
        self.take_leftovers(session, entry.place, left);
        self.ledger.release(entry.claim);
        if entry.counted {
            self.tally.sessions_closed += 1;
            self.tally.sessions_reaped_idle += u64::from(idle);
        } else {
            self.tally.sessions_rejected += 1;
        }
        self.refuse_waiters_of(session);
        entry.owner
    }

    pub fn command_started(&mut self, exec: ExecId) {
        if let Some(slot) = self.commands.get_mut(&exec) {
            // The command's own ends of its pipes are closed.
            slot.descriptors.resize(slot.cost.running as usize);
            self.tally.commands_started += 1;
        }
    }

    pub fn command_gone(&mut self, exec: ExecId, session: SessionId, end: CommandEnd) {
        let Some(slot) = self.commands.remove(&exec) else { return };
        self.exec_gone(exec, session, end);
        self.slots.release_command();
        self.ledger.release(slot.claim);
        // Before anybody looks whether a command that waits can have them.
        drop(slot.descriptors);
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.running -= 1;
            if entry.shell == InShell::Runs(exec) {
                entry.shell = InShell::Idle;
            }
            if let CommandEnd::Finished { cpu, output_bytes, .. } = end {
                entry.spent.count(cpu, output_bytes);
            }
        }
        match end {
            CommandEnd::NotStarted => self.tally.commands_rejected += 1,
            CommandEnd::Finished { status, spawn_us, total_us, bytes_read, bytes_dropped, .. } => {
                self.tally.bytes_read += bytes_read;
                self.tally.bytes_dropped += bytes_dropped;
                self.tally.finished(status);
                self.tally.exec_spawn.record(spawn_us);
                self.tally.exec_total.record(total_us);
            }
        }
        self.start_waiters();
    }
}
