//! What a shell's commands have left in the background: bound, all of it together, by the session's limits on memory and
//! CPU time, as a command is by its own. What is over one is killed without a record, and counted in `session.info`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::super::Worker;
use super::super::command::Due;
use super::super::session::Session;
use super::Stand;
use crate::ids::{ExecId, SessionId};
use crate::process::background::{Background, Job, Jobs as Wanted, Running};
use crate::process::errands::{Errand, Task};
use crate::process::tree::{Marks, Named};

/// As often as the watchdog looks at a command.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// As with a command, the limit of each process comes first.
const CPU_SLACK_MS: u64 = 50;

/// What is known of the background jobs of one shell.
#[derive(Debug, Default)]
pub struct Jobs {
    /// What the next look is due by, while there is something to look at: a number of its own, for the shell may be
    /// replaced meanwhile.
    watched: Option<ExecId>,
    seen: HashMap<Named, Job>,
    /// CPU time of those that have ended, and whose parent did not wait for them.
    gone_cpu_ms: u64,
    /// Killed, for together they were over a limit.
    pub killed: u64,
}

impl Jobs {
    /// Takes what was seen; the CPU time of all together, since there were any.
    fn count(&mut self, seen: &[Job]) -> u64 {
        let now: HashMap<Named, Job> = seen.iter().map(|job| (job.named, *job)).collect();
        let has_parent = |job: &Job| now.keys().any(|named| named.0 == job.parent);
        let gone = self.seen.values().filter(|job| !now.contains_key(&job.named) && !has_parent(job));
        self.gone_cpu_ms += gone.map(|job| job.cpu_ms).sum::<u64>();
        if now.is_empty() {
            self.gone_cpu_ms = 0;
        }
        self.seen = now;
        self.gone_cpu_ms + self.seen.values().map(|job| job.cpu_ms).sum::<u64>()
    }
}

impl Worker {
    /// A command of a shell is over, and may have left something.
    pub(super) fn watch_jobs(&mut self, id: SessionId) {
        let living = self.tools.relief.errands.living();
        let Some(session) = self.sessions.get_mut(&id) else { return };
        let limited = session.limits.memory_bytes.is_some() || session.limits.cpu_ms.is_some();
        let Some(shell) = session.shell.as_deref_mut().filter(|_| limited) else { return };
        let is_childless = shell.process.as_ref().is_none_or(|process| process.gauge.is_childless());
        if shell.jobs.watched.is_none() && !(is_childless && living.has_no_strays(id)) {
            let key = self.next_host();
            if let Some(shell) = self.shell(id) {
                shell.jobs.watched = Some(key);
            }
            self.look_again(id);
        }
    }

    fn look_again(&mut self, id: SessionId) {
        if let Some(key) = self.shell(id).and_then(|shell| shell.jobs.watched) {
            self.tools.deadlines.set((key, Due::Jobs), Instant::now() + LOOK_EVERY);
        }
    }

    /// It is time to look at those that this is the key of.
    pub(in super::super) fn look_at_jobs(&mut self, key: ExecId) {
        let is_of = |session: &&Session| session.shell.as_ref().is_some_and(|shell| shell.jobs.watched == Some(key));
        let Some(id) = self.sessions.values().find(is_of).map(|session| session.id) else { return };
        if let Some(jobs) = self.jobs_of(id) {
            let task = Task::LookAtJobs { session: id, jobs: Box::new(jobs) };
            self.tools.errand(Errand::ForWorker { worker: self.tools.own.clone(), task });
        }
    }

    fn jobs_of(&mut self, id: SessionId) -> Option<Wanted> {
        let shell = self.sessions.get(&id)?.shell.as_deref()?;
        let running = match shell.stand {
            Stand::Runs(exec) => self.commands.get(&exec).and_then(|command| command.in_foreground()),
            Stand::Off | Stand::Starting | Stand::Ready => None,
        };
        let running = running.map(|(environ, spared)| Running { environ, spared });
        let leader = shell.process.as_ref().map_or(0, |process| process.pid);
        Some(Wanted { marks: Marks { leader, ..shell.marks.clone() }, running })
    }

    pub(in super::super) fn jobs_seen(&mut self, id: SessionId, background: Option<Background>) {
        let Some(session) = self.sessions.get_mut(&id).filter(|session| !session.is_closing()) else { return };
        let limits = session.limits;
        let Some(shell) = session.shell.as_deref_mut() else { return };
        let Some(background) = background else { return self.look_again(id) };
        let cpu_ms = shell.jobs.count(&background.processes);
        if background.processes.is_empty() {
            shell.jobs.watched = None;
            return;
        }
        let over = match limits {
            _ if limits.memory_bytes.is_some_and(|limit| background.rss_bytes > limit) => Some("memory_bytes"),
            _ if limits.cpu_ms.is_some_and(|limit| cpu_ms > limit + CPU_SLACK_MS) => Some("cpu_sec"),
            _ => None,
        };
        let Some(limit) = over else { return self.look_again(id) };
        log::info!("session={id} what runs in its background is over {limit} and is ended");
        if let Some(jobs) = self.jobs_of(id) {
            let task = Task::EndJobs { session: id, jobs: Box::new(jobs) };
            self.tools.errand(Errand::ForWorker { worker: self.tools.own.clone(), task });
        }
    }

    pub(in super::super) fn jobs_ended(&mut self, id: SessionId, killed: u64) {
        let Some(session) = self.sessions.get_mut(&id).filter(|session| !session.is_closing()) else { return };
        let Some(shell) = session.shell.as_deref_mut() else { return };
        shell.jobs.killed += killed;
        // What is there still, or new, begins to count anew.
        (shell.jobs.gone_cpu_ms, shell.jobs.seen) = (0, HashMap::new());
        self.look_again(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(pid: i32, parent: i32, cpu_ms: u64) -> Job {
        Job { named: (pid, 1), parent, cpu_ms }
    }

    #[test]
    fn cpu_time_is_counted_once() {
        let mut jobs = Jobs::default();
        assert_eq!(jobs.count(&[job(2, 1, 10), job(3, 2, 5)]), 15);
        // The parent has waited for its child, and has its time.
        assert_eq!(jobs.count(&[job(2, 1, 16)]), 16);
        // The shell has waited for this one, and nobody else has its time.
        assert_eq!(jobs.count(&[job(4, 1, 3)]), 19);
        assert_eq!(jobs.count(&[]), 0);
        assert_eq!(jobs.count(&[job(5, 1, 1)]), 1);
    }
}
