//! The process tree of a command: what belongs to it, what it uses, and how what is left of it is ended.
//!
//! Runs on an errand thread, for reading /proc may block. While a command's main process lives its tree hangs below
//! it; afterwards its orphans are children of our main thread, for we are a subreaper, and the rest hangs below them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nix::poll::{PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::living::{Living, Others};
use super::proc::{self, Environ, Stat};
use crate::ids::SessionId;
use crate::sys::clone::Identity;
use crate::sys::process::{pidfd_open, pidfd_signal_by_number};

/// By what a process is known to belong to a command, or to a session's shell.
#[derive(Debug, Clone)]
pub struct Marks {
    pub session: SessionId,
    /// Its main process, which leads a session and a process group of its own.
    pub leader: i32,
    /// `COFFERDAM_EXEC=…` as it stood in its first environment; `COFFERDAM_SESSION=…` of a shell.
    pub environ: Vec<u8>,
    /// The uid that it runs under. A mark in the environment of another uid's process is made up.
    pub uid: u32,
    /// Nobody but its session runs under that uid: what belongs to nobody else of the session is its own, whatever
    /// environment it shows.
    pub alone: Option<Identity>,
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
    /// The facts of the kernel first; the environment is read only of what hides its session and group.
    fn whose(&self, stat: &Stat, others: &Others) -> Whose {
        let in_group = !self.in_shell && (stat.session == self.leader || stat.group == self.leader);
        if in_group || self.killed.contains(&(stat.pid, stat.started)) {
            return Whose::Own;
        }
        if proc::uid(stat.pid) != Some(self.uid) || others.lead(stat) {
            return Whose::Other;
        }
        let by_uid = self.alone.is_some() && !self.in_shell;
        if by_uid && others.are_none() {
            return Whose::Own;
        }
        if !stat.is_alive() {
            return Whose::Other;
        }
        match proc::environ(stat.pid, self.prefix()) {
            Environ::Line(line) if line == self.environ => Whose::Own,
            // It bears the mark of a command that is over.
            Environ::Line(line) if by_uid && !others.has_shell && !others.marks.contains(&line) => Whose::Own,
            // Jobs of a shell that have cleared their environment may be older than the command, and nothing else.
            Environ::Without if by_uid && !(others.has_shell && self.is_older(stat)) => Whose::Own,
            Environ::Line(_) | Environ::Without => Whose::Other,
            Environ::NotNow => Whose::Unknown,
        }
    }

    /// Whether a process was there before the main process.
    fn is_older(&self, stat: &Stat) -> bool {
        proc::stat(self.leader).is_none_or(|leader| stat.started < leader.started)
    }

    /// The name of the variable that it is known by, of its commands or of a whole session.
    fn prefix(&self) -> &[u8] {
        let end = self.environ.iter().position(|byte| *byte == b'=');
        &self.environ[..end.map_or(0, |end| end + 1)]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    Own,
    Other,
    /// It has left the session, and shows no environment in the middle of its exec: a later look will tell.
    Unknown,
}

/// What a command's processes bear in their first environment.
pub const EXEC_MARK: &[u8] = b"COFFERDAM_EXEC=";
/// What all processes of a session do.
pub const SESSION_MARK: &[u8] = b"COFFERDAM_SESSION=";

/// The processes that stand below this one, as many as can be found without holding up a worker.
pub fn descendants(leader: i32) -> Vec<Named> {
    let tree = with_descendants_up_to(DESCENDANTS_MAX, proc::stat(leader).into_iter().collect(), &[]);
    let below = tree.iter().filter(|stat| stat.pid != leader && stat.is_alive());
    below.map(|stat| (stat.pid, stat.started)).collect()
}

/// Looking at one process takes some 15 µs; those beyond are counted by the sweep that finds them.
const DESCENDANTS_MAX: usize = 64;

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

/// All that stands below a process.
pub fn below(pid: i32) -> Vec<Stat> {
    let roots = proc::stat(pid).into_iter().collect();
    with_descendants(roots, &[]).into_iter().filter(|stat| stat.pid != pid).collect()
}

/// These processes, those that live, and all that stands below them.
pub fn with_below(named: &[Named]) -> Vec<Stat> {
    let found = |named: &Named| proc::stat(named.0).filter(|stat| stat.started == named.1);
    with_descendants(named.iter().filter_map(found).collect(), &[])
}

/// These, and all that stands below them.
pub fn all_below(roots: Vec<Stat>) -> Vec<Stat> {
    with_descendants(roots, &[])
}

/// The strays that belong to a command, or to a shell.
pub fn strays_of(marks: &Marks, living: &Living) -> Vec<Stat> {
    let others = living.others(marks.session, marks.leader, &marks.environ);
    let own = |stat: &Stat| marks.whose(stat, &others) == Whose::Own;
    living.strays_beside(marks.session).look().into_iter().filter(own).collect()
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
    /// It hangs, or there was no thread for it.
    NotLooked,
    /// These were killed, and may be dying still; what those had used that no earlier sweep killed.
    Killed { which: Vec<Named>, cpu: Duration },
}

/// Kills what is left of a tree whose main process has ended: stops it first, so that it forks no further. `kill_all`
/// kills every process of a uid in one call, which nothing can outrun.
pub fn sweep(marks: &Marks, living: &Living, kill_all: impl Fn(Identity)) -> Swept {
    let seen = living.strays_beside(marks.session);
    let others = living.others(marks.session, marks.leader, &marks.environ);
    let mut unknown = false;
    let own = |stat: &Stat| {
        let whose = marks.whose(stat, &others);
        unknown |= whose == Whose::Unknown;
        whose == Whose::Own
    };
    let strays: Vec<Stat> = seen.look().into_iter().filter(own).collect();
    for dead in strays.iter().filter(|stat| !stat.is_alive()) {
        living.reap(dead.pid);
    }
    let tree = with_descendants(strays, &[]);
    let alive: Vec<&Stat> = tree.iter().filter(|stat| stat.is_alive()).collect();
    // Asked again: an errand that was given up comes back when the uid is somebody else's.
    let is_alone = |identity: &Identity| others.are_none() && living.has_uid(marks.session, identity.uid);
    if let (Some(identity), false) = (marks.alone.filter(is_alone), alive.is_empty()) {
        kill_all(identity);
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
    let is_same = || seen.are_all && living.strays_beside(marks.session) == seen;
    let proven = (tree.is_empty() && !unknown && is_same()) || living.has_no_strays(marks.session);
    if proven { Swept::Proven } else { Swept::NoneSeen }
}

/// Two looks that found nothing lie so far apart: one alone can miss what forks again and again.
const SECOND_LOOK_MS: u16 = 50;
/// What was killed is looked for again so soon.
const KILLED_LOOK_MS: u16 = 2;

/// Ends every process of a uid that is one session's alone, until two looks through /proc have found none. Whether they
/// are gone: not if some outlive SIGKILL until `until`.
pub fn end_all_of(
    session: SessionId,
    identity: Identity,
    living: &Living,
    kill_all: impl Fn(Identity),
    until: Instant,
) -> bool {
    let mut found_none = false;
    loop {
        for stray in living.strays_beside(session).pids {
            // What is alive, or not of this uid, is let be.
            if proc::uid(stray) == Some(identity.uid) {
                living.reap(stray);
            }
        }
        let are_gone = !proc::all_pids().into_iter().any(|pid| proc::lives_as(pid, identity.uid));
        let pause_ms = match (are_gone, found_none) {
            (true, true) => return true,
            (true, false) => SECOND_LOOK_MS,
            (false, _) => {
                kill_all(identity);
                KILLED_LOOK_MS
            }
        };
        found_none = are_gone;
        if Instant::now() >= until {
            return false;
        }
        // Nothing wakes it: it is a pause.
        let _ = poll(&mut [], PollTimeout::from(pause_ms));
    }
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
    with_descendants_up_to(PROCESSES_MAX, roots, spared)
}

fn with_descendants_up_to(max: usize, roots: Vec<Stat>, spared: &[Named]) -> Vec<Stat> {
    let mut seen: HashSet<i32> = roots.iter().map(|stat| stat.pid).collect();
    let mut tree = roots;
    let mut at = 0;
    while at < tree.len() && tree.len() < max {
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
    stats.into_iter().map(Stat::cpu_ms).sum()
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
        Some((named, stat.cpu_ms()))
    };
    processes.iter().copied().filter_map(cpu_ms).collect()
}

/// Adds up a tree whose main process is alive, strays included.
pub fn sample(marks: &Marks, living: &Living) -> Sample {
    let mut roots: Vec<Stat> = proc::stat(marks.leader).into_iter().collect();
    if !living.has_no_strays(marks.session) {
        roots.extend(strays_of(marks, living));
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
