//! What a shell session has left in the background: which processes those are, what they use together, and their end.
//!
//! Runs on an errand thread.

use nix::sys::signal::Signal;

use super::living::Living;
use super::proc::{self, Environ, Stat};
use super::tree::{self, EXEC_MARK, Marks, Named};

/// Whose processes are looked for.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// Those of the session's shell.
    pub marks: Marks,
    /// The command that runs in the shell: its processes are its own, and not in the background.
    pub running: Option<Running>,
}

#[derive(Debug, Clone)]
pub struct Running {
    /// `COFFERDAM_EXEC=…`.
    pub environ: Vec<u8>,
    /// What ran in the shell before the command began.
    pub spared: Vec<Named>,
}

/// What runs in the background now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Background {
    pub rss_bytes: u64,
    pub processes: Vec<Job>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    pub named: Named,
    pub parent: i32,
    /// Of itself and of what it has waited for.
    pub cpu_ms: u64,
}

/// Adds up what runs in the background of a session.
pub fn look(jobs: &Jobs, living: &Living) -> Background {
    let found = find(jobs, living);
    let job = |stat: &Stat| Job { named: (stat.pid, stat.started), parent: stat.parent, cpu_ms: stat.cpu_ms() };
    Background { rss_bytes: found.iter().map(|stat| stat.rss_bytes).sum(), processes: found.iter().map(job).collect() }
}

/// Looks at which something was still found before this gives up; the next look goes on.
const ROUNDS_MAX: usize = 16;

/// Kills what runs in the background of a session; how many processes there were.
pub fn end(jobs: &Jobs, living: &Living) -> u64 {
    let mut killed: Vec<Named> = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let found = find(jobs, living);
        let fresh = found.iter().map(|stat| (stat.pid, stat.started)).filter(|named| !killed.contains(named));
        let fresh: Vec<Named> = fresh.collect();
        // What was killed is found until it is dead; what is new may have been forked meanwhile.
        if fresh.is_empty() {
            break;
        }
        killed.extend(fresh);
        tree::signal_all(&found, Signal::SIGKILL);
    }
    killed.len() as u64
}

/// The processes themselves, those that live.
fn find(jobs: &Jobs, living: &Living) -> Vec<Stat> {
    let shell = jobs.marks.leader;
    let mut found = match &jobs.running {
        None => tree::below(shell),
        Some(running) => tree::with_below(&running.spared),
    };
    if !living.has_no_strays(jobs.marks.session) {
        let is_of_command = |stat: &Stat| {
            let Some(running) = &jobs.running else { return false };
            proc::environ(stat.pid, EXEC_MARK) == Environ::Line(running.environ.clone())
        };
        let mut strays = tree::strays_of(&jobs.marks, living);
        strays.retain(|stat| !is_of_command(stat));
        found.extend(tree::all_below(strays));
    }
    found.retain(|stat| stat.is_alive() && stat.pid != shell);
    found.sort_unstable_by_key(|stat| stat.pid);
    found.dedup_by_key(|stat| stat.pid);
    found
}
