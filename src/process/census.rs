//! Strays that belong to nobody: found from time to time, and killed.
//!
//! Runs on an errand thread. A command's own end takes what it left along; here is what hid from that, or came after a
//! fault of ours.

use std::collections::HashSet;

use nix::sys::signal::Signal;

use super::identity::Policy;
use super::living::{Living, is_of_own_session};
use super::proc::{self, Environ, Stat};
use super::tree::{EXEC_MARK, Named, SESSION_MARK, signal_all};
use crate::sys::clone::Identity;

/// Whose processes the strays of this process are.
#[derive(Debug, Clone)]
pub struct Ground {
    /// The process has no children but ours: every stray is ours to end and to reap.
    pub exclusive: bool,
    /// Whose uid they run under.
    pub policy: Policy,
}

impl Ground {
    /// The identity of a process that runs under a uid which nobody but one session has.
    fn alone(&self, pid: i32) -> Option<Identity> {
        self.policy.of_pool(proc::uid(pid)?)
    }
}

/// What the last census has seen.
#[derive(Debug, Default)]
pub struct Census {
    /// Strays that showed no sign of a command that lives: one may have been looked at in the middle of its exec.
    suspects: HashSet<Named>,
    /// Dead strays, where the process is not ours alone.
    strangers: HashSet<Named>,
}

/// What came of a census.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    pub killed: u64,
    pub reaped: u64,
    /// Another is to follow soon.
    pub again: bool,
}

/// A process that forks and ends all the time is a new one at each look: after a census that saw something suspicious the
/// next looks so often at once. One look takes about a tenth of the life of the fastest such process that was measured.
const LOOKS_MAX: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Lives,
    /// Nobody has that uid any more.
    OfNoSession(Identity),
    /// No command that lives shows in its facts.
    Suspect,
    /// A later look will tell.
    NotNow,
}

impl Census {
    /// Looks at every stray: reaps the dead, and kills what belongs to nobody. `kill_all` kills every process of a uid.
    pub fn take(&mut self, living: &Living, ground: &Ground, kill_all: impl Fn(Identity)) -> Counted {
        let mut counted = Counted::default();
        let before = std::mem::take(&mut self.suspects);
        let strangers = std::mem::take(&mut self.strangers);
        let mut killed = HashSet::new();
        for look in 0..LOOKS_MAX {
            let strays = living.strays();
            counted.again |= !strays.are_all;
            let mut caught = Vec::new();
            for stray in strays.look() {
                let name = (stray.pid, stray.started);
                if !stray.is_alive() {
                    let is_reaped = self.reap(&stray, living, ground, &strangers);
                    counted.reaped += u64::from(is_reaped);
                    counted.again |= is_reaped;
                    continue;
                }
                match judge(&stray, living, ground) {
                    Verdict::Lives => {}
                    Verdict::OfNoSession(identity) => {
                        kill_all(identity);
                        killed.insert(name);
                    }
                    Verdict::NotNow => drop(self.suspects.insert(name)),
                    Verdict::Suspect if before.contains(&name) || (ground.exclusive && !before.is_empty()) => {
                        caught.push(stray);
                    }
                    Verdict::Suspect => drop(self.suspects.insert(name)),
                }
            }
            signal_all(&caught, Signal::SIGKILL);
            for stray in &caught {
                if killed.insert((stray.pid, stray.started)) {
                    log::info!("pid={} is an orphan of no command that runs; it is killed", stray.pid);
                }
            }
            if before.is_empty() || (caught.is_empty() && look > 0) {
                break;
            }
        }
        // One that is gone has left another behind, or nothing: the next census is to be as watchful.
        self.suspects.extend(killed.iter().copied());
        counted.killed = killed.len() as u64;
        counted.again |= !self.suspects.is_empty();
        counted
    }

    /// Whether a dead stray was reaped. In a program that embeds us it bears no mark any more: what is known of it is
    /// that our commands' sessions are never the program's own, and that a child of the program itself would have been
    /// waited for by the next census.
    fn reap(&mut self, stray: &Stat, living: &Living, ground: &Ground, before: &HashSet<Named>) -> bool {
        let name = (stray.pid, stray.started);
        let is_ours = ground.exclusive || ground.alone(stray.pid).is_some();
        if !is_ours && is_of_own_session(stray) {
            return false;
        }
        if !is_ours && !before.contains(&name) {
            self.strangers.insert(name);
            return false;
        }
        living.reap(stray.pid)
    }
}

fn judge(stray: &Stat, living: &Living, ground: &Ground) -> Verdict {
    if is_of_own_session(stray) {
        // A child of ours before its exec, or a child of the program that embeds us.
        return Verdict::Lives;
    }
    if let Some(identity) = ground.alone(stray.pid) {
        return match living.may_live_under(identity.uid) {
            Some(true) => Verdict::Lives,
            Some(false) | None => Verdict::OfNoSession(identity),
        };
    }
    if living.is_led(stray) {
        return Verdict::Lives;
    }
    let mut is_marked = false;
    for name in [EXEC_MARK, SESSION_MARK] {
        match proc::environ(stray.pid, name) {
            Environ::Line(line) if living.has_mark(&line) => return Verdict::Lives,
            Environ::Line(_) => is_marked = true,
            Environ::Without => {}
            Environ::NotNow => return Verdict::NotNow,
        }
    }
    // In a program that embeds us, only what bears our mark is known to be ours.
    if ground.exclusive || is_marked { Verdict::Suspect } else { Verdict::Lives }
}
