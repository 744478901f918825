//! The guard: the parent of the runtime, which holds the lifeline of everything that runs in it.
//!
//! Runs on the only thread of a process of its own. It parses nothing, opens nothing, and sleeps until a signal comes.
//! Both processes are child subreapers: when the runtime ends, in whatever way, all that it left becomes the guard's
//! children, and the guard kills and reaps until there is none.

use std::io::Write;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, getpid, getppid, setsid};

use crate::process::proc;
use crate::sys::process::{fork_alone, give_back_text, normalise_descriptors, normalise_signals, settle_allocator};

/// Passed on to the runtime. SIGKILL and SIGSTOP cannot be; the rest has no meaning for it.
const FORWARDED: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];
/// What outlives SIGKILL for so long hangs in the kernel, and is left to the host's own init.
const CLEANUP_MAX: Duration = Duration::from_secs(5);
/// A runtime that somebody stops goes on: as often as this within so long. Whoever stops it more often than that means
/// it, and then it is ended, with all that runs in it, rather than hold everybody up.
const STOPS_MAX: usize = 3;
const STOPS_WITHIN: Duration = Duration::from_secs(10);
/// Between two looks at processes that are dying.
const CLEANUP_EVERY_MS: u16 = 2;

/// Runs `runtime` in a child process under the guard, and gives its exit code, or `crashed` where it was ended by a
/// signal. To be called while the process has one thread.
#[allow(clippy::disallowed_methods, reason = "the runtime's process ends here; nothing of it is left to unwind")]
pub fn enclose(crashed: i32, runtime: impl FnOnce() -> i32) -> i32 {
    normalise_descriptors();
    normalise_signals();
    settle_allocator();
    // Nothing may come between the fork and the first wait.
    let _ = SigSet::all().thread_block();
    let guard = getpid();
    match (prctl::set_child_subreaper(true), fork_alone()) {
        (Ok(()), Ok(ForkResult::Parent { child })) => watch(child, crashed),
        (Ok(()), Ok(ForkResult::Child)) => {
            settle(guard);
            std::process::exit(runtime())
        }
        (subreaper, fork) => {
            let errno = subreaper.err().or(fork.err()).unwrap_or(Errno::UnknownErrno);
            say(&format!("cofferdam: cannot start the guard: {errno}"));
            crashed
        }
    }
}

/// The runtime's first steps.
#[allow(clippy::disallowed_methods, reason = "the guard is gone before anything was started")]
fn settle(guard: Pid) {
    let _ = prctl::set_child_subreaper(true);
    // A signal that can be caught: the runtime then ends every tree itself.
    let _ = prctl::set_pdeathsig(Signal::SIGTERM);
    if getppid() != guard {
        std::process::exit(1);
    }
    // A session of its own: Ctrl-C reaches the guard, which passes it on once; and no command finds a terminal.
    let _ = setsid();
    // Signals stay blocked until the reaper has its handlers: one that comes before waits for them.
}

fn watch(runtime: Pid, crashed: i32) -> i32 {
    give_back_text();
    let signals = SigSet::all();
    let mut stops = Stops::default();
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => match look(runtime) {
                Some(WaitStatus::Stopped(_, signal)) => resume(runtime, signal, &mut stops),
                Some(status) => return conclude(status, crashed),
                None => {}
            },
            Ok(signal) if FORWARDED.contains(&signal) => pass_on(runtime, signal),
            Ok(_) | Err(_) => {}
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the runtime is our unreaped child")]
fn pass_on(runtime: Pid, signal: Signal) {
    let _ = kill(runtime, signal);
}

/// Reaps whatever has ended; that the runtime has ended or stopped, if it was among it.
#[allow(clippy::disallowed_methods, reason = "every child of this process is its to reap")]
fn look(runtime: Pid) -> Option<WaitStatus> {
    let mut told = None;
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED)) {
        match status.pid() {
            None => break,
            Some(pid) if pid == runtime => told = Some(status),
            Some(_) => {}
        }
    }
    told
}

/// The last times at which the runtime was stopped.
#[derive(Default)]
struct Stops([Option<Instant>; STOPS_MAX]);

impl Stops {
    /// Counts one more; whether it is one too many.
    fn is_too_many(&mut self, now: Instant) -> bool {
        let oldest = self.0[0];
        self.0.rotate_left(1);
        self.0[STOPS_MAX - 1] = Some(now);
        oldest.is_some_and(|oldest| now.saturating_duration_since(oldest) < STOPS_WITHIN)
    }
}

/// A command of our own uid can stop the runtime: nobody's time-out would come then.
#[allow(clippy::disallowed_methods, reason = "the runtime is our unreaped child")]
fn resume(runtime: Pid, by: Signal, stops: &mut Stops) {
    let (signal, done) = match stops.is_too_many(Instant::now()) {
        true => (Signal::SIGKILL, "once more within 10 s, and is killed"),
        false => (Signal::SIGCONT, "and goes on"),
    };
    say(&format!("cofferdam: the runtime was stopped by {by} {done}"));
    let _ = kill(runtime, signal);
}

fn conclude(status: WaitStatus, crashed: i32) -> i32 {
    let killed = end_children();
    match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => {
            say(&format!("cofferdam: the runtime was ended by {signal}; {killed} processes that it left were killed"));
            crashed
        }
        _ => crashed,
    }
}

/// Kills and reaps every child until there is none. What a dying child leaves becomes our child before the child can
/// be reaped, so no child at all means that the whole tree is gone.
#[allow(clippy::disallowed_methods, reason = "all of them are our unreaped children")]
pub fn end_children() -> usize {
    let deadline = Instant::now() + CLEANUP_MAX;
    let mut killed = std::collections::BTreeSet::new();
    loop {
        for pid in own_children() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            killed.insert(pid);
        }
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) => {}
                Err(_) => return killed.len(),
            }
        }
        if Instant::now() >= deadline {
            say(&format!("cofferdam: these outlive SIGKILL: {:?}", own_children()));
            return killed.len();
        }
        let _ = poll(&mut [], PollTimeout::from(CLEANUP_EVERY_MS));
    }
}

/// The children of all our threads: one that hangs keeps its own.
fn own_children() -> Vec<i32> {
    let own = std::process::id() as i32;
    proc::children(own, u64::MAX)
}

/// One line on stderr; nobody is left to tell when that fails.
fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fourth_stop_within_ten_seconds_is_one_too_many() {
        let (mut stops, start) = (Stops::default(), Instant::now());
        let mut at = |s: u64| stops.is_too_many(start + Duration::from_secs(s));
        assert_eq!([0, 1, 2, 10, 11, 12, 13].map(&mut at), [false, false, false, false, false, false, true]);
        assert_eq!([40, 41, 42, 43].map(at), [false, false, false, true]);
    }
}
