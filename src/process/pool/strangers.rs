//! Processes that live under uids of a range before we give them to anybody: strangers, with which the start is refused,
//! and survivors of a daemon that was killed together with its guard, which are ended.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, Uid, User};

use super::{contains, shown};
use crate::process::identity::Policy;
use crate::process::proc::{self, Environ};
use crate::process::tree::SESSION_MARK;
use crate::sys::process::{pidfd_open, pidfd_signal};

/// What a survivor may take to die after SIGKILL.
const DYING_MAX: Duration = Duration::from_secs(3);
/// Between two looks at whoever is in the middle of an exec, and shows no environment.
const LOOK_EVERY_MS: u16 = 2;

/// A process of one of the uids.
#[derive(Debug)]
struct Found {
    pid: i32,
    uid: u32,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A command of a daemon that is gone, or a child with which it acted as a command's uid.
    Survivor,
    /// It shows no environment now, in the middle of an exec.
    Unknown,
    /// The same of a daemon that lives: a guard is ending what its runtime has left, or it runs in a container that does
    /// not share our lock.
    Neighbour,
    Stranger,
}

/// Refuses ranges in which a process lives, whoever's it is; but not what a daemon does as one of these uids.
pub fn refuse(policy: &Policy, ranges: &[(u32, u32)]) -> Result<(), String> {
    let found = look(policy, ranges).into_iter().find(|found| found.kind == Kind::Stranger);
    found.map_or(Ok(()), |found| Err(told(&found, ranges)))
}

/// The same, after whatever a predecessor has left there is ended.
pub fn end_survivors(policy: &Policy, ranges: &[(u32, u32)]) -> Result<(), String> {
    let deadline = Instant::now() + DYING_MAX;
    loop {
        let found = look(policy, ranges);
        if let Some(stranger) = found.iter().find(|found| found.kind == Kind::Stranger) {
            return Err(told(stranger, ranges));
        }
        let Some(first) = found.first() else { return Ok(()) };
        if Instant::now() >= deadline {
            return Err(told(first, ranges));
        }
        let survivors: Vec<OwnedFd> = found.iter().filter_map(end).collect();
        for survivor in &survivors {
            wait_for(survivor, deadline);
        }
        if survivors.is_empty() {
            let _ = poll(&mut [], PollTimeout::from(LOOK_EVERY_MS));
        }
    }
}

fn look(policy: &Policy, ranges: &[(u32, u32)]) -> Vec<Found> {
    let found = |pid| {
        let (real, effective) = proc::uids(pid)?;
        let uid = [real, effective].into_iter().find(|uid| ranges.iter().any(|range| contains(*range, *uid)))?;
        proc::stat(pid).filter(proc::Stat::is_alive)?;
        Some(Found { pid, uid, kind: kind(pid, policy.acts(real, effective), ranges) })
    };
    proc::all_pids().into_iter().filter_map(found).collect()
}

fn kind(pid: i32, acts: bool, ranges: &[(u32, u32)]) -> Kind {
    match proc::environ(pid, SESSION_MARK) {
        Environ::Without if !acts => Kind::Stranger,
        Environ::NotNow if !acts => Kind::Unknown,
        _ if is_below_a_daemon(pid, ranges) => Kind::Neighbour,
        _ => Kind::Survivor,
    }
}

/// Whether the first of its ancestors that has a uid of its own is a daemon. One that is gone has left its commands to
/// somebody else.
fn is_below_a_daemon(pid: i32, ranges: &[(u32, u32)]) -> bool {
    /// No tree of a command is deeper than the processes that it may have.
    const DEPTH_MAX: usize = 4096;
    let mut at = pid;
    for _ in 0..DEPTH_MAX {
        let Some(parent) = proc::stat(at).map(|stat| stat.parent).filter(|parent| *parent > 0) else { return false };
        let Some((real, _)) = proc::uids(parent) else { return false };
        if !ranges.iter().any(|range| contains(*range, real)) {
            return proc::name(parent) == env!("CARGO_PKG_NAME");
        }
        at = parent;
    }
    false
}

/// Kills a survivor, and gives what tells of its end.
fn end(found: &Found) -> Option<OwnedFd> {
    let pidfd = pidfd_open(Pid::from_raw(found.pid)).ok()?;
    // The number may have become another's since it was looked at.
    let still = proc::uids(found.pid).is_some_and(|(real, effective)| [real, effective].contains(&found.uid));
    if found.kind != Kind::Survivor || !still {
        return None;
    }
    log::warn!(
        "uid={} pid={} ({}) has outlived its daemon, and is killed",
        found.uid,
        found.pid,
        proc::name(found.pid)
    );
    pidfd_signal(&pidfd, Signal::SIGKILL).ok()?;
    Some(pidfd)
}

fn wait_for(process: &OwnedFd, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
    let _ = poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], timeout);
}

fn told(found: &Found, ranges: &[(u32, u32)]) -> String {
    let Found { pid, uid, kind } = *found;
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let user = user.map(|user| format!(" ({})", user.name)).unwrap_or_default();
    let what = match kind {
        Kind::Stranger | Kind::Unknown => "is not one of this daemon's",
        Kind::Neighbour => "is a command of another daemon",
        Kind::Survivor => "is left of a daemon that is gone, and outlives SIGKILL",
    };
    let ranges: Vec<String> = ranges.iter().map(|range| shown(*range)).collect();
    format!(
        "children.uid_base: process {pid} ({}) runs as uid {uid}{user} and {what}; the uids {} have to be this daemon's \
         alone, which ends whatever runs under them: end the process, or set another uid_base",
        proc::name(pid),
        ranges.join(" and ")
    )
}
