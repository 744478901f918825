//! What lives for as long as one of these is held.

use std::sync::Arc;

use nix::unistd::Pid;

use super::Living;
use crate::ids::{ExecId, SessionId};
use crate::process::spawn::Ticket;

/// A thread that starts commands.
#[derive(Debug)]
pub struct Joined {
    pub(super) living: Arc<Living>,
    pub(super) worker: usize,
    pub(super) tid: i32,
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.living.lock(self.worker).lists.retain(|list| list.tid != self.tid);
    }
}

/// A start under way.
#[derive(Debug)]
pub struct Starting {
    pub(super) living: Arc<Living>,
    pub(super) session: SessionId,
    pub(super) ticket: Arc<Ticket>,
}

impl Starting {
    /// There is a main process.
    pub fn started(&self, pid: Pid) -> Leader {
        self.living.part_of(self.session).leaders.insert(pid.as_raw(), self.session);
        Leader { living: self.living.clone(), session: self.session, pid: pid.as_raw() }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.living.part_of(self.session).starting.retain(|(_, ticket)| !Arc::ptr_eq(ticket, &self.ticket));
    }
}

/// A main process; to be dropped when it is reaped, and no sooner.
#[derive(Debug)]
pub struct Leader {
    pub(super) living: Arc<Living>,
    pub(super) session: SessionId,
    pub(super) pid: i32,
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.living.part_of(self.session).leaders.remove(&self.pid);
    }
}

/// A session that lives.
#[derive(Debug)]
pub struct LivingSession {
    pub(super) living: Arc<Living>,
    pub(super) session: SessionId,
}

impl Drop for LivingSession {
    fn drop(&mut self) {
        self.living.part_of(self.session).sessions.remove(&self.session);
    }
}

/// A command that lives.
#[derive(Debug)]
pub struct LivingCommand {
    pub(super) living: Arc<Living>,
    pub(super) session: SessionId,
    pub(super) exec: ExecId,
}

impl Drop for LivingCommand {
    fn drop(&mut self) {
        self.living.part_of(self.session).commands.remove(&self.exec);
    }
}
