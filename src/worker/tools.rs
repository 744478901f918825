//! What commands and sessions use of their worker, and what is settled for all workers at the start.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use mio::Registry;

use super::command::{Due, Pipe};
use super::relief::Relief;
use crate::admission::account::Share;
use crate::admission::descriptors::Descriptors;
use crate::config::Config;
use crate::deadlines::Deadlines;
use crate::ids::{ExecId, SessionId};
use crate::mailbox::Mailbox;
use crate::message::{ToGateway, ToReaper, ToStats, ToWorker};
use crate::process::errands::Errand;
use crate::process::identity::{BaseEnvironment, Policy};
use crate::process::launch::Common;
use crate::process::living::Living;
use crate::process::spawn::{Ticket, Wiring};
use crate::process::workspace::Workspaces;
use crate::stats::Tally;
use crate::sys::clone::Plan;

/// What is the same for every worker; a reload replaces it whole.
#[derive(Debug, Clone)]
pub struct Setup {
    pub config: Arc<Config>,
    /// In the names that must not be met again after a restart or in another daemon.
    pub run: String,
    pub environment: BaseEnvironment,
    pub policy: Policy,
    pub common: Common,
    pub workspaces: Arc<Workspaces>,
    /// Bytes of outputs of commands that have ended and are kept, of all workers.
    pub retained_bytes: Arc<AtomicU64>,
    /// How large address spaces get is asked for, so it is looked at from the beginning.
    pub watch_vm: bool,
}

impl Setup {
    /// An id that is unique across daemons and restarts.
    pub fn unique(&self, id: impl std::fmt::Display) -> String {
        format!("{}-{id}", self.run)
    }
}

/// What commands use of their worker.
pub struct Tools {
    pub setup: Arc<Setup>,
    pub registry: Registry,
    pub deadlines: Deadlines<(ExecId, Due)>,
    pub relief: Arc<Relief>,
    pub descriptors: Descriptors,
    pub own: Mailbox<ToWorker>,
    pub gateway: Mailbox<ToGateway>,
    pub reaper: Mailbox<ToReaper>,
    pub stats: crossbeam_channel::Sender<ToStats>,
    /// Commands to start at the end of this turn.
    pub starts: VecDeque<Start>,
    /// What is read goes through here.
    pub scratch: Vec<u8>,
    /// Pipes whose turn ended with more to read.
    pub ready: VecDeque<(ExecId, Pipe)>,
    pub tally: Tally,
    pub tally_since: Option<Instant>,
}

impl Tools {
    pub fn count_read(&mut self, bytes: usize) {
        self.tally.bytes_read += bytes as u64;
        self.tally_since.get_or_insert_with(Instant::now);
    }

    /// Has something done that may block.
    pub fn errand(&self, errand: Errand) {
        self.relief.errands.submit(errand);
        self.relief.watch();
    }

    pub fn living(&self) -> &Arc<Living> {
        self.relief.errands.living()
    }

    pub fn tell_orphans_seen(&self) {
        self.reaper.tell(ToReaper::OrphansSeen);
    }

    /// Hands over what was counted; where the statistics are behind, it is kept and goes with the next (invariant 16).
    pub fn report_tally(&mut self) {
        if self.tally_since.take().is_some() {
            self.tally.report(&self.stats);
        }
    }
}

/// A command that is ready to be started.
pub struct Start {
    pub exec: ExecId,
    pub session: SessionId,
    pub plan: Box<Plan>,
    pub wiring: Wiring,
    pub ticket: Arc<Ticket>,
    /// What the plan takes, until the command has started.
    pub params: Option<Share>,
}
