//! The process tree of a command: what belongs to it, what it uses, and how what is left of it is ended.
//!
//! Runs on an errand thread, for reading /proc may block. While a command's main process lives its tree hangs below
//! it; afterwards its orphans are children of our main thread, for we are a subreaper, and the rest hangs below them.

use std::collections::HashSet;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::proc::{self, Adopted, Environ, Stat};
use crate::sys::clone::{Identity, Report, kill_all_of};
use crate::sys::process::{pidfd_open, pidfd_signal_by_number};

/// By what a process is known to belong to a command.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    /// Its main process, which leads a session and a process group of its own.
    pub leader: i32,
    /// `COFFERDAM_EXEC=…` as it stood in its first environment.
    pub environ: Vec<u8>,
    /// An identity whose uid no other command runs under now.
    pub identity: Option<Identity>,
    /// What earlier sweeps have killed: dead, it shows no other mark.
    pub killed: Vec<Named>,
    /// The main process is a shell that others use too: its session and group say nothing.
    pub in_shell: bool,
    /// Processes that belong to earlier commands of the shell, with all below them.
    pub spared: Vec<Named>,
}

/// A process by its number and the time of its start, which no other ever has.
pub type Named = (i32, u64);

/// Processes of one command looked at in one turn; what is beyond is found in the next.
const PROCESSES_MAX: usize = 4096;

impl Marks {
    /// The cheap marks first: the environment is read only of what hides its session and group.
    fn whose(&self, stat: &Stat) -> Whose {
        let in_group = !self.in_shell && (stat.session == self.leader || stat.group == self.leader);
        let marked = in_group
            || self.killed.contains(&(stat.pid, stat.started))
            || self.uid().is_some_and(|uid| proc::uid(stat.pid) == Some(uid));
        if marked {
            return Whose::Own;
        }
        if !stat.is_alive() {
            return Whose::Other;
        }
        match proc::environ(stat.pid, self.prefix()) {
            Environ::Line(line) if line == self.environ => Whose::Own,
            Environ::Line(_) | Environ::Without => Whose::Other,
            Environ::InExec => Whose::Unknown,
        }
    }

    /// The name of the variable that it is known by, of its commands or of a whole session.
    fn prefix(&self) -> &[u8] {
        let end = self.environ.iter().position(|byte| *byte == b'=');
        &self.environ[..end.map_or(0, |end| end + 1)]
    }

    fn uid(&self) -> Option<u32> {
        self.identity.map(|identity| identity.uid)
    }

    fn own(&self, stat: &Stat) -> bool {
        self.whose(stat) == Whose::Own
    }

    /// Whether an orphan that was looked at already is one of these.
    pub fn claim(&self, orphan: &Orphan) -> bool {
        let Orphan { stat, uid, marks } = orphan;
        let by_number = self.leader != 0 && (stat.session == self.leader || stat.group == self.leader);
        let by_uid = self.uid().is_some_and(|own| *uid == Some(own));
        by_number || by_uid || marks.contains(&self.environ)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Own,
    Other,
    /// It has left the session, and shows no environment in the middle of its exec: a later look will tell.
    Unknown,
}

const EXEC_MARK: &[u8] = b"COFFERDAM_EXEC=";
pub const SESSION_MARK: &[u8] = b"COFFERDAM_SESSION=";

/// A process that outlived its parent, and `COFFERDAM_EXEC` and `COFFERDAM_SESSION` of its first environment.
#[derive(Debug, Clone)]
pub struct Orphan {
    pub stat: Stat,
    pub uid: Option<u32>,
    pub marks: Vec<Vec<u8>>,
}

impl Orphan {
    /// Commands lead sessions of their own, and never join that of the program that runs them.
    pub fn is_of_another_session(&self) -> bool {
        nix::unistd::getsid(None).is_ok_and(|own| own.as_raw() != self.stat.session)
    }

    /// Whether it was dead, and is gone now.
    pub fn reap(&self) -> bool {
        reap(self.stat.pid)
    }
}

/// Reaps an orphan if it is dead; never waits.
#[allow(clippy::disallowed_methods, reason = "a named child of our main thread, which starts none")]
pub fn reap(orphan: i32) -> bool {
    waitpid(Pid::from_raw(orphan), Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some())
}

/// Every orphan there is, dead ones included.
pub fn census(adopted: &Adopted) -> Vec<Orphan> {
    let mark = |pid, name| match proc::environ(pid, name) {
        Environ::Line(line) => Some(line),
        Environ::Without | Environ::InExec => None,
    };
    let marks = |pid| [EXEC_MARK, SESSION_MARK].into_iter().filter_map(|name| mark(pid, name)).collect();
    let orphan = |stat: Stat| Orphan { uid: proc::uid(stat.pid), marks: marks(stat.pid), stat };
    adopted.pids().into_iter().filter_map(proc::stat).map(orphan).collect()
}

/// The processes that stand below this one.
pub fn descendants(leader: i32) -> Vec<Named> {
    descendants_of(proc::stat(leader))
}

/// The same of one that was looked at.
pub fn descendants_of(leader: Option<Stat>) -> Vec<Named> {
    let Some(leader) = leader else { return Vec::new() };
    let tree = with_descendants(vec![leader], &[]);
    let below = tree.iter().filter(|stat| stat.pid != leader.pid && stat.is_alive());
    below.map(|stat| (stat.pid, stat.started)).collect()
}

/// The processes that a command of a shell has started and that live, but for those that have left the shell's tree.
pub fn in_shell(marks: &Marks) -> Vec<Stat> {
    let tree = with_descendants(proc::stat(marks.leader).into_iter().collect(), &marks.spared);
    tree.into_iter().filter(|stat| stat.pid != marks.leader && stat.is_alive()).collect()
}

/// Signals processes of one command, all of them. Before a SIGKILL they are stopped, so that they fork no further.
pub fn signal_all(found: &[Stat], signal: Signal) {
    for signal in [Signal::SIGSTOP, signal].into_iter().skip(usize::from(signal != Signal::SIGKILL)) {
        for stat in found {
            signal_exactly(stat, signal);
        }
    }
}

/// What one sweep found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Swept {
    /// There is no orphan at all: the tree is certainly gone.
    Proven,
    /// None of the tree was seen. One scan can miss a process that forks again and again.
    NoneSeen,
    /// These were killed, and may be dying still; what those had used that no earlier sweep killed.
    Killed { which: Vec<Named>, cpu: Duration },
}

/// Kills what is left of a tree whose main process has ended: stops it first, so that it forks no further.
pub fn sweep(marks: &Marks, adopted: &Adopted) -> Swept {
    if adopted.is_empty() {
        return Swept::Proven;
    }
    let pids = adopted.pids();
    let mut unknown = false;
    let own = |stat: &Stat| {
        let whose = marks.whose(stat);
        unknown |= whose == Whose::Unknown;
        whose == Whose::Own
    };
    let orphans: Vec<Stat> = pids.iter().copied().filter_map(proc::stat).filter(own).collect();
    for dead in orphans.iter().filter(|stat| !stat.is_alive()) {
        reap(dead.pid);
    }
    let tree = with_descendants(orphans, &[]);
    let alive: Vec<&Stat> = tree.iter().filter(|stat| stat.is_alive()).collect();
    if let (Some(identity), false) = (marks.identity, alive.is_empty()) {
        // One call that nothing can outrun, where the uid is this command's alone.
        kill_all_of(identity, &Report::default());
    }
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for stat in &alive {
            signal_exactly(stat, signal);
        }
    }
    if !alive.is_empty() {
        let which: Vec<Named> = alive.iter().map(|stat| (stat.pid, stat.started)).collect();
        let fresh = alive.iter().filter(|stat| !marks.killed.contains(&(stat.pid, stat.started)));
        return Swept::Killed { which, cpu: Duration::from_millis(cpu_ms(fresh.copied())) };
    }
    // Two readings that are the same have missed nothing: whatever forks and ends meanwhile changes the list.
    let proven = (tree.is_empty() && !unknown && adopted.pids() == pids) || adopted.is_empty();
    if proven { Swept::Proven } else { Swept::NoneSeen }
}

/// Signals a process found in /proc, unless its number means another one by now.
pub fn signal_exactly(stat: &Stat, signal: Signal) {
    signal_by_number(stat, signal as i32);
}

/// The same for signals that have no name as well.
pub fn signal_by_number(stat: &Stat, signal: i32) {
    let Ok(pidfd) = pidfd_open(Pid::from_raw(stat.pid)) else { return };
    if proc::stat(stat.pid).is_some_and(|now| now.started == stat.started) {
        let _ = pidfd_signal_by_number(&pidfd, signal);
    }
}

/// These processes and all below them, but for those that are spared and what is below these.
fn with_descendants(roots: Vec<Stat>, spared: &[Named]) -> Vec<Stat> {
    let mut seen: HashSet<i32> = roots.iter().map(|stat| stat.pid).collect();
    let mut tree = roots;
    let mut at = 0;
    while at < tree.len() && tree.len() < PROCESSES_MAX {
        let parent = tree[at];
        at += 1;
        if !parent.is_alive() {
            continue;
        }
        let children = proc::children(parent.pid, parent.threads);
        let children = children.into_iter().filter(|pid| seen.insert(*pid)).filter_map(proc::stat);
        tree.extend(children.filter(|stat| !spared.contains(&(stat.pid, stat.started))));
    }
    tree
}

/// CPU time of these and of what they have waited for.
fn cpu_ms<'a>(stats: impl IntoIterator<Item = &'a Stat>) -> u64 {
    stats.into_iter().map(|stat| stat.cpu_ticks).sum::<u64>() * 1000 / proc::ticks_a_second()
}

/// What a running tree uses now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample {
    pub rss_bytes: u64,
    /// The largest address space of one process.
    pub vm_bytes: u64,
    pub cpu_ms: u64,
    /// Processes beside the main one.
    pub descendants: u64,
    /// CPU time of those that are spared, as far as they live.
    pub spared: Vec<(Named, u64)>,
}

/// The CPU time of each of these that lives.
pub fn cpu_of(processes: &[Named]) -> Vec<(Named, u64)> {
    let cpu_ms = |named: Named| {
        let stat = proc::stat(named.0).filter(|stat| stat.started == named.1)?;
        Some((named, stat.cpu_ticks * 1000 / proc::ticks_a_second()))
    };
    processes.iter().copied().filter_map(cpu_ms).collect()
}

/// Adds up a tree whose main process is alive, orphans included.
pub fn sample(marks: &Marks, adopted: &Adopted) -> Sample {
    let mut roots: Vec<Stat> = proc::stat(marks.leader).into_iter().collect();
    if !adopted.is_empty() {
        roots.extend(adopted.pids().into_iter().filter_map(proc::stat).filter(|stat| marks.own(stat)));
    }
    let tree = with_descendants(roots, &marks.spared);
    let alive = tree.iter().filter(|stat| stat.is_alive());
    Sample {
        rss_bytes: alive.clone().map(|stat| stat.rss_bytes).sum(),
        vm_bytes: alive.clone().map(|stat| stat.vm_bytes).max().unwrap_or(0),
        cpu_ms: cpu_ms(&tree),
        descendants: alive.filter(|stat| stat.pid != marks.leader).count() as u64,
        spared: cpu_of(&marks.spared),
    }
}
