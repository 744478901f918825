//! What is told of a command: how it ended, what it used, what is kept of its outputs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Command;
use crate::admission::buffers::Account;
use crate::message::ToGateway;
use crate::sys::wait::{Exit, Rusage};
use crate::worker::pipes::Sink;
use crate::worker::record::{BUDGET_CPU, Ended, Finished, Held, Kept, Verdict, ended};
use crate::worker::retained::{Told, started_body};

impl Command {
    /// The answer to who started it, or to all who start it with the same retry key.
    pub fn started_answer(&self) -> ToGateway {
        let (request, body) = (self.request, started_body(self.exec, self.session, self.pid()));
        if self.keyed {
            ToGateway::Kept { request, told: Arc::new(Told::Started(body)) }
        } else {
            ToGateway::Answer { request, body, more: false }
        }
    }

    /// It never ran, because we gave it up before it could; there is no process.
    pub fn not_launched(&mut self) -> Option<Finished> {
        let verdict = self.verdict?;
        Some(self.finished(ended(Some(verdict), None, &Rusage::default(), &self.limits), Rusage::default()))
    }

    /// Reaps the child: the command is over. None: it was told already, as unkillable.
    pub fn reap(&mut self) -> Option<Finished> {
        if self.is_in_shell() {
            let used = self.used_in_shell();
            self.look_at_outputs();
            return (!self.given_up).then(|| self.finished(self.ended(self.exit_in_shell(), &used), used));
        }
        let child = self.child.take()?;
        let (exit, used) = match child.reap() {
            Ok(ended) => ended,
            Err(child) => {
                debug_assert!(false, "peeked as ended");
                self.child = Some(child);
                return None;
            }
        };
        self.look_at_outputs();
        (!self.given_up).then(|| self.finished(self.ended(Some(exit), &used), used))
    }

    /// However fast it was gone, it has written too much.
    fn look_at_outputs(&mut self) {
        if self.kill_on_output_limit && self.stdout.total().max(self.stderr.total()) > self.output_limit {
            self.verdict.get_or_insert(Verdict::Output);
        }
    }

    fn ended(&self, exit: Option<Exit>, used: &Rusage) -> Ended {
        let mut ended = ended(self.verdict, exit, used, &self.limits);
        if self.cpu_of_budget && ended.limit == Some("cpu_sec") {
            ended.limit = Some(BUDGET_CPU);
        }
        ended
    }

    /// CPU time that it has used as far as is known, while it runs.
    pub fn cpu_seen(&self) -> Duration {
        self.cpu_seen
    }

    /// CPU time that its session has used up by it. Waiting tells exactly of the main process and of what that waited
    /// for; of the rest the watchdog and the sweeps know.
    fn cpu(&self, ended: &Ended, used: &Rusage) -> Duration {
        let cpu = (used.user + used.system + self.cpu_left_behind).max(self.cpu_seen);
        match self.limits.cpu_ms {
            // The kernel counts a limit in ticks and ends it a little early: what it calls used up is used up.
            Some(ms) if ended.limit == Some(BUDGET_CPU) && self.verdict != Some(Verdict::BudgetCpu) => {
                cpu.max(Duration::from_millis(ms))
            }
            Some(_) | None => cpu,
        }
    }

    /// The record of a command that is still there.
    pub fn unkillable(&self) -> Finished {
        self.finished(ended(self.verdict, None, &Rusage::default(), &self.limits), Rusage::default())
    }

    fn finished(&self, ended: Ended, used: Rusage) -> Finished {
        let end = self.ended_at.unwrap_or_else(Instant::now);
        Finished {
            exec: self.exec,
            session: self.session,
            cpu: self.cpu(&ended, &used),
            ended,
            wall: end.saturating_duration_since(self.started),
            spawn: self.spawn,
            used,
            vm_bytes_max: self.vm_bytes_max,
            descendants_killed: self.killed,
            after_shell: self.shelled.as_ref().map(|shelled| shelled.after.clone()),
        }
    }

    /// Bytes that it has written to its outputs so far.
    pub fn output_bytes(&self) -> u64 {
        self.stdout.total() + self.stderr.total()
    }

    /// Whose memory it takes.
    pub fn account(&self) -> &Account {
        match &self.stdout.sink {
            Sink::Ring(ring) => ring.account(),
            Sink::Stream(stream) => stream.account(),
        }
    }

    /// What was kept of the outputs.
    pub fn outputs(&mut self) -> [Kept; 2] {
        [&mut self.stdout, &mut self.stderr].map(|output| match &mut output.sink {
            Sink::Ring(ring) => {
                let (total, head) = (ring.total(), ring.parts()[0].len());
                let (bytes, share) = ring.take();
                Kept { held: Some(Arc::new(Held { bytes, head, _share: Some(share) })), total }
            }
            Sink::Stream(stream) => Kept { held: None, total: stream.total() },
        })
    }
}
