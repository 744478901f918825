//! Commands that wait for a slot. A waiting command takes no thread: it is a line in a list, and a deadline.

use std::time::{Duration, Instant};

use super::Desk;
use super::inflight::Work;
use crate::admission::buffers::Share;
use crate::admission::queue::{Candidate, Queued, Ticket};
use crate::ids::{RequestId, SessionId};
use crate::message::ToWorker;
use crate::protocol::fault::Fault;
use crate::protocol::limits::Limits;
use crate::protocol::request::{Run, Starts};

/// A command that is to start in a session; one of its own has been claimed for it already.
#[derive(Debug)]
pub(super) struct Waiter {
    pub request: RequestId,
    pub session: SessionId,
    pub limits: Limits,
    /// The request's id as it was sent.
    pub id: Option<Box<str>>,
    pub run: Box<Run>,
    /// What its params take while it waits.
    pub params: Option<Share>,
}

impl Desk {
    /// Lets a command wait, if there is room for one that waits.
    pub(super) fn enqueue(&mut self, mut waiter: Waiter) -> Result<Work, Fault> {
        let (request, session) = (waiter.request, waiter.session);
        let until = Instant::now() + Duration::from_millis(waiter.run.queue_ms);
        let Some(entry) = self.sessions.get(&session) else {
            return Err(Fault::session_not_found(&session.to_string()));
        };
        let (client, worker) = (entry.client.clone(), entry.worker);
        let params = self.hold_bytes(&client, waiter.run.weight());
        waiter.params = Some(params.inspect_err(|_| self.unclaim_ephemeral(session))?);
        match self.queue.push(client, waiter) {
            Ok(Queued { ticket, gave_way }) => {
                self.waits.set(request, until);
                self.tell_worker(worker, ToWorker::Expect { session, more: true });
                if let Some(other) = gave_way {
                    self.make_way(&other);
                }
                Ok(Work::Queued(ticket))
            }
            Err(full) => {
                self.unclaim_ephemeral(session);
                Err(Fault::queue_full(full.limit as u64, full.usage as u64))
            }
        }
    }

    /// A waiter of the client that has the most has lost its place to one of a client that has fewer.
    fn make_way(&mut self, waiter: &Waiter) {
        self.has_left(waiter);
        self.unclaim_ephemeral(waiter.session);
        let fault = Fault::queue_full(self.config.commands.max_queued, self.queue.len() as u64);
        self.refuse_waiter(waiter.request, fault);
    }

    /// A waiter that will not start: what was claimed for it is given back.
    pub(super) fn leave_queue(&mut self, ticket: Ticket) -> Option<Waiter> {
        let waiter = self.queue.remove(ticket)?;
        self.has_left(&waiter);
        self.unclaim_ephemeral(waiter.session);
        Some(waiter)
    }

    fn has_left(&mut self, waiter: &Waiter) {
        self.waits.clear(&waiter.request);
        if let Some(entry) = self.sessions.get(&waiter.session) {
            self.tell_worker(entry.worker, ToWorker::Expect { session: waiter.session, more: false });
        }
    }

    /// Gives free slots to those who wait, client by client in turn.
    pub(super) fn start_waiters(&mut self) {
        while !self.queue.is_empty() && self.slots.check_command().is_ok() {
            // The queue is looked at while the rest of the desk tells whether a waiter can start.
            let mut queue = std::mem::take(&mut self.queue);
            let next = queue.take_next(|candidate| match candidate {
                Candidate::Client(client) => self.over_quota(client).is_none_or(|over| !over.passes()),
                // Who cannot start is passed over, but for those who never will: they are to hear why.
                Candidate::Waiter(waiter) => {
                    self.refusal(waiter.session, waiter.run.is_line()).is_none_or(|refusal| !refusal.passes())
                }
            });
            self.queue = queue;
            let Some(waiter) = next else { return };
            self.has_left(&waiter);
            let (request, session, is_line) = (waiter.request, waiter.session, waiter.run.is_line());
            let started = match self.refusal(session, is_line) {
                None => self.start(waiter),
                Some(refusal) => {
                    self.unclaim_ephemeral(session);
                    Err(refusal.tell(session))
                }
            };
            match started {
                Ok(work) => self.begin(request, work),
                Err(fault) => self.refuse_waiter(request, fault),
            }
        }
    }

    /// A waiter has become a command.
    fn begin(&mut self, request: RequestId, work: Work) {
        if let (Work::Command { worker, .. }, false) = (&work, self.requests.contains_key(&request)) {
            // Others with the same key wait for its record, but whoever would have read its stream is gone.
            self.tell_worker(*worker, ToWorker::Forget { request });
        }
        self.set_work(request, work);
    }

    /// Waiters whose time is over get the refusal that they would have had at first.
    pub fn refuse_late_waiters(&mut self, now: Instant) {
        while let Some(request) = self.waits.pop_due(now) {
            let Some(Work::Queued(ticket)) = self.work(request) else { continue };
            let ticket = *ticket;
            let waiter = self.queue.get(ticket).map(|waiter| (waiter.session, waiter.run.is_line()));
            let Some((session, is_line)) = waiter else { continue };
            let refusal = self.refusal(session, is_line);
            self.leave_queue(ticket);
            let max = self.config.commands.max_commands;
            let fault = refusal.map_or_else(
                || Fault::capacity("commands", max, self.slots.commands()),
                |refusal| refusal.tell(session),
            );
            self.refuse_waiter(request, fault);
        }
    }

    pub(super) fn refuse_waiters_of(&mut self, session: SessionId) {
        let fault = Fault::session_not_found(&session.to_string());
        self.refuse_waiters(&fault, |waiter| waiter.session == session);
    }

    pub(super) fn refuse_waiters(&mut self, fault: &Fault, which: impl Fn(&Waiter) -> bool) {
        let mut gone: Vec<Ticket> =
            self.queue.iter().filter(|(_, waiter)| which(waiter)).map(|(ticket, _)| ticket).collect();
        gone.sort_unstable();
        for ticket in gone {
            if let Some(waiter) = self.leave_queue(ticket) {
                self.refuse_waiter(waiter.request, fault.clone());
            }
        }
    }

    fn refuse_waiter(&mut self, request: RequestId, fault: Fault) {
        self.count_rejected(Starts::Command);
        self.refuse(request, fault);
    }

    /// What is done for a request, or for the command of its key.
    fn work(&self, request: RequestId) -> Option<&Work> {
        self.keyed.work(request).or_else(|| self.requests.get(&request).map(|pending| &pending.work))
    }

    fn set_work(&mut self, request: RequestId, work: Work) {
        let own = self.requests.get_mut(&request).map(|pending| &mut pending.work);
        if let Some(before) = self.keyed.work_mut(request).or(own) {
            *before = work;
        }
    }
}
