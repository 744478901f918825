//! How a command comes to its end: asked, killed, peeked at, its tree swept, its pipes drained; or given up.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::{Command, Due, JANITOR, Next, Phase, Pipe, RESWEEP, SECOND_SCAN};
use crate::process::child::Child;
use crate::process::errands::Task;
use crate::process::tree::{self, Named, Swept};
use crate::worker::record::Verdict;
use crate::worker::tools::Tools;

/// Killed processes that are remembered until they are reaped.
const KILLED_MAX: usize = 4096;

impl Command {
    /// Ends it by SIGTERM and, after the grace, SIGKILL.
    pub fn ask(&mut self, verdict: Verdict, tools: &mut Tools) {
        let grace = match verdict {
            // A client's grace may be an hour; the daemon's end is not to wait for that.
            Verdict::Shutdown => self.hang_up_grace(tools),
            _ => self.grace,
        };
        if grace.is_zero() {
            return self.kill(verdict, tools);
        }
        if self.is_in_shell() && self.phase == Phase::Running {
            return self.ask_in_shell(verdict, Instant::now() + grace, tools);
        }
        match (self.phase, &self.child) {
            (Phase::Running, Some(child)) => {
                child.signal_group(Signal::SIGTERM);
                self.asked(verdict, Instant::now() + grace, tools);
            }
            (Phase::Launching, _) => self.kill(verdict, tools),
            _ => {}
        }
    }

    /// It was told to leave; what is still there then is killed.
    pub fn asked(&mut self, verdict: Verdict, until: Instant, tools: &mut Tools) {
        self.verdict.get_or_insert(verdict);
        self.phase = Phase::Asked;
        self.remind(until, Due::Kill, tools);
    }

    pub fn is_running(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Nobody waits longer for one whose client is gone than the daemon would.
    pub fn hang_up_grace(&self, tools: &Tools) -> Duration {
        self.grace.min(Duration::from_millis(tools.setup.config.commands.kill_grace_ms))
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self, verdict: Verdict, tools: &mut Tools) {
        let now = Instant::now();
        if self.is_in_shell() {
            if !matches!(self.phase, Phase::Killed | Phase::Ended) {
                self.kill_in_shell(verdict, tools);
            }
            return;
        }
        match self.phase {
            Phase::Running | Phase::Asked => {
                self.verdict.get_or_insert(verdict);
                self.phase = Phase::Killed;
                if let Some(child) = &self.child {
                    let below = tree::descendants(self.marks.leader);
                    child.signal_group(Signal::SIGKILL);
                    self.has_killed(below);
                }
            }
            Phase::Launching => {
                // Its start may hang before the exec: cancel what has not begun, kill what has.
                self.verdict.get_or_insert(verdict);
                self.ticket.cancelled.store(true, Ordering::Release);
                self.ticket.report.kill();
            }
            Phase::Killed | Phase::Ended => return,
        }
        self.give_up_after(now, tools);
    }

    pub(super) fn give_up_after(&mut self, now: Instant, tools: &mut Tools) {
        let at = now + Duration::from_millis(tools.setup.config.commands.unkillable_after_ms);
        self.give_up_at = Some(at);
        self.remind(at, Due::GiveUp, tools);
    }

    pub(super) fn look_for_end(&mut self, tools: &mut Tools) {
        if self.phase != Phase::Ended && self.child.as_ref().is_some_and(Child::has_ended) {
            self.main_process_ended(tools);
        }
    }

    pub(super) fn main_process_ended(&mut self, tools: &mut Tools) {
        let now = Instant::now();
        self.phase = Phase::Ended;
        self.ended_at = Some(now);
        (self.input, self.terminal) = (None, None);
        let drain = Duration::from_millis(tools.setup.config.commands.drain_ms);
        self.remind(now + drain, Due::Drained, tools);
        self.give_up_after(now, tools);
        if (self.hosts && !self.sweeps) || tools.relief.errands.no_orphans() {
            self.tree_is_gone(tools);
        } else {
            self.sweep(tools);
        }
    }

    /// Whatever is in the pipes now is the last of it.
    pub(super) fn tree_is_gone(&mut self, tools: &mut Tools) {
        self.tree_gone = true;
        self.read_rest(tools);
    }

    pub(super) fn read_rest(&mut self, tools: &mut Tools) {
        for pipe in [Pipe::Stdout, Pipe::Stderr] {
            self.read(pipe, tools);
            // Somebody outside the tree may hold it still, until the drain is over.
            self.listen(pipe, tools);
        }
    }

    pub(super) fn sweep(&mut self, tools: &mut Tools) {
        if !self.sweeping && !self.tree_gone {
            self.sweeping = true;
            self.submit(Task::Sweep { exec: self.exec, marks: self.marks.clone() }, tools);
        }
    }

    /// An errand has looked for what is left of the tree.
    pub fn swept(&mut self, swept: Swept, tools: &mut Tools) -> Next {
        let now = Instant::now();
        self.sweeping = false;
        match swept {
            Swept::Proven => self.tree_is_gone(tools),
            Swept::NoneSeen => match self.none_seen_at {
                Some(before) if now >= before + SECOND_SCAN => self.tree_is_gone(tools),
                Some(before) => self.remind(before + SECOND_SCAN, Due::Sweep, tools),
                None => {
                    self.none_seen_at = Some(now);
                    self.remind(now + SECOND_SCAN, Due::Sweep, tools);
                }
            },
            Swept::Killed { which, cpu } => {
                self.none_seen_at = None;
                self.cpu_left_behind += cpu;
                self.has_killed(which);
                let pause = if self.given_up { JANITOR } else { RESWEEP };
                self.remind(now + pause, Due::Sweep, tools);
                tools.tell_orphans_seen();
            }
        }
        self.next()
    }

    /// Counts what was killed, once: it is found again until it is dead.
    pub(super) fn has_killed(&mut self, mut killed: Vec<Named>) {
        killed.retain(|named| !self.marks.killed.contains(named));
        self.killed += killed.len() as u64;
        self.marks.killed.append(&mut killed);
        self.marks.killed.truncate(KILLED_MAX);
    }

    pub(super) fn give_up(&mut self, tools: &mut Tools) -> Next {
        let before = self.phase;
        if self.is_in_shell() && self.phase == Phase::Killed {
            self.look_in_shell(tools);
        }
        self.look_for_end(tools);
        if self.phase != before {
            return self.next();
        }
        let stuck = match self.phase {
            Phase::Killed => true,
            Phase::Launching => self.verdict.is_some(),
            Phase::Ended => !self.tree_gone,
            Phase::Running | Phase::Asked => false,
        };
        if !stuck || self.given_up {
            return self.next();
        }
        self.given_up = true;
        // From now on other commands may run under the uid.
        self.marks.identity = None;
        log::warn!(
            "session={} exec={} pid={:?} outlives SIGKILL; its slot stays taken",
            self.session,
            self.exec,
            self.pid()
        );
        self.verdict = Some(match self.phase {
            // Nothing of it runs: its start hangs before there is a process.
            Phase::Launching if self.ticket.report.pid().is_none() => self.verdict.unwrap_or(Verdict::Timeout),
            _ => Verdict::Unkillable,
        });
        self.remind(Instant::now() + JANITOR, Due::Sweep, tools);
        Next::GiveUp
    }

    /// Ends what can be ended of it and lets go, after a fault of ours: the child is killed, and reaped by whoever holds it.
    pub fn abandon(mut self) -> Option<Child> {
        self.ticket.cancelled.store(true, Ordering::Release);
        let child = self.child.take()?;
        child.signal_group(Signal::SIGKILL);
        Some(child)
    }
}
