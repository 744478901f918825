//! The budget of a session while its commands run. Each begins with what is left for it as a limit of its own; what
//! several use at the same time is added up here.

use std::time::{Duration, Instant};

use super::Worker;
use super::command::Next;
use super::record::Verdict;
use super::session::Session;
use crate::admission::budget::{Left, Spent};
use crate::ids::{ExecId, SessionId};
use crate::process::tree::Sample;
use crate::protocol::fault::Fault;

impl Session {
    /// What is left for one more command, of CPU time and of the session's age; the rest is counted at the end of a
    /// command only, and the gateway has looked at that.
    pub(super) fn budget_left(&self, cpu_seen: Duration) -> Result<Left, Fault> {
        let spent = Spent { cpu: self.spent.cpu.saturating_add(cpu_seen), commands: 0, output_bytes: 0, ..self.spent };
        match spent.exhausted(&self.budget, Instant::now()) {
            Some(over) => Err(Fault::budget_exhausted(self.id, over.resource, over.limit, over.usage)),
            None => Ok(spent.left(&self.budget)),
        }
    }
}

impl Worker {
    /// CPU time of the commands that run in a session, as far as it is known.
    pub(super) fn cpu_seen(&self, id: SessionId) -> Duration {
        let running = self.sessions.get(&id).map_or(&[][..], |session| &session.running);
        running.iter().filter_map(|exec| self.commands.get(exec)).map(|command| command.cpu_seen()).sum()
    }

    pub(super) fn sampled(&mut self, exec: ExecId, sample: Option<Sample>) {
        self.with(exec, |command, tools| {
            command.sampled(sample, tools);
            Next::Stay
        });
        if let Some(session) = self.commands.get(&exec).map(|command| command.session) {
            self.enforce_budget(session);
        }
    }

    /// Ends what runs in a session that has used up its CPU time. Every command of a session with such a budget is
    /// looked at by the watchdog, so asking after each look is often enough.
    fn enforce_budget(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        let Some(limit) = session.budget.cpu else { return };
        if session.spent.cpu.saturating_add(self.cpu_seen(id)) < limit {
            return;
        }
        for exec in session.running.clone() {
            self.with(exec, |command, tools| {
                command.kill(Verdict::BudgetCpu, tools);
                Next::Stay
            });
        }
    }
}
