//! What admission knows of sessions and commands. Pure.

use std::time::Instant;

use mio::Token;

use crate::admission::budget::Spent;
use crate::admission::buffers::Share;
use crate::admission::quota::Claim;
use crate::config::Config;
use crate::enforcement::descriptors::Cost;
use crate::ids::{ClientName, ExecId, SessionId};
use crate::protocol::budget::Budget;
use crate::protocol::fault::Fault;
use crate::protocol::limits::Limits;
use crate::protocol::request::Run;

/// What admission knows of a session.
pub(super) struct Entry {
    pub worker: usize,
    pub client: ClientName,
    /// What is kept for the Unix socket is for its commands too.
    pub by_unix: bool,
    pub limits: Limits,
    /// The number of its uid, where they come from a pool.
    pub place: u32,
    pub clean_at_end: bool,
    pub claim: Claim,
    pub state: EntryState,
    pub running: u64,
    /// Commands at once: as configured when the first of those that run was claimed.
    pub commands_max: u64,
    pub budget: Budget,
    pub spent: Spent,
    /// The connection that it lives as long as.
    pub owner: Option<Token>,
    pub counted: bool,
    pub shell: InShell,
    /// Those of its shell; given back with it.
    pub _descriptors: Option<Share>,
    /// What it keeps of its params takes, where that is counted.
    pub params: Option<Share>,
    /// Bytes of its environment, of which each command is started with a copy.
    pub env_bytes: usize,
}

/// Whether a session has a shell, and what runs in it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum InShell {
    None,
    Idle,
    Runs(ExecId),
}

impl Entry {
    /// A command line of a session with a shell is that shell's.
    pub fn is_for_shell(&self, is_line: bool) -> bool {
        is_line && self.shell != InShell::None
    }

    /// Bytes that its worker keeps of a command's params until it has started, or its shell has read it.
    pub fn weight_started(&self, run: &Run) -> usize {
        match self.is_for_shell(run.is_line()) {
            true => run.weight_in_shell(),
            false => run.weight_started() + self.env_bytes,
        }
    }

    /// Commands that may run in it at once. A command that was started alone in its session stays so, whatever is
    /// configured meanwhile.
    pub fn commands_max(&self, config: &Config) -> u64 {
        if self.running == 0 { config.commands.max_commands_per_session } else { self.commands_max }
    }

    /// BUDGET_EXHAUSTED where the session has used up what it was given; a command that runs counts already.
    pub fn within_budget(&self, id: SessionId, now: Instant) -> Result<(), Fault> {
        let spent = Spent { commands: self.spent.commands + self.running, ..self.spent };
        let over = spent.exhausted(&self.budget, now);
        over.map_or(Ok(()), |over| Err(Fault::budget_exhausted(id, over.resource, over.limit, over.usage)))
    }
}

/// What admission knows of a command.
pub(super) struct Slot {
    pub session: SessionId,
    pub claim: Claim,
    pub descriptors: Share,
    /// What it takes of them.
    pub cost: Cost,
}

#[derive(PartialEq, Eq, Clone, Copy)]
pub(super) enum EntryState {
    Opening,
    Open,
    /// A command's own, without a name for others.
    Ephemeral,
    Closing,
}
