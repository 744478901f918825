//! A child that is not reaped yet. Owned by one command of one worker; reaping consumes it, and with it the chance to
//! signal a process that it no longer is (invariant 1).

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use crossbeam_channel::{Receiver, Sender, bounded};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::living::Leader;
use crate::sys::process::{pidfd_signal, signal_group};
use crate::sys::wait::{self, Exit, Rusage};

/// The main process of a command: leader of a session and of a process group of its own.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    /// Go with the handle.
    unreaped: Option<Sender<()>>,
    known: Option<Leader>,
}

impl Child {
    pub fn new(pid: Pid, pidfd: OwnedFd) -> Self {
        Child { pid, pidfd, unreaped: None, known: None }
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// The descriptor that gets readable when the process ends.
    pub fn exit_fd(&self) -> RawFd {
        self.pidfd.as_raw_fd()
    }

    /// Counts it among those of the thread that started it, and among what lives.
    pub fn join(&mut self, children: &Children, known: Leader) {
        (self.unreaped, self.known) = (Some(children.unreaped.clone()), Some(known));
    }

    /// Signals the process and its whole group. The unreaped leader pins the number, so no stranger can be hit.
    #[allow(clippy::disallowed_methods, reason = "the leader is not reaped: it pins the number of its group")]
    pub fn signal_group(&self, signal: Signal) {
        // ESRCH cannot be, EPERM means that what is left has changed its uid: the sweep of the tree sees to it.
        let _ = kill(Pid::from_raw(-self.pid.as_raw()), signal);
        let _ = pidfd_signal(&self.pidfd, signal);
    }

    /// Sends any signal to its whole group, also one without a name.
    pub fn signal_group_by_number(&self, signal: i32) {
        // As above: an error would mean that nobody of the group is left to be told.
        let _ = signal_group(self.pid, signal);
    }

    /// A handle by which the process alone can be signalled, also when it is no more.
    pub fn handle(&self) -> std::io::Result<OwnedFd> {
        self.pidfd.try_clone()
    }

    /// Whether the process has ended, without reaping it (invariant 2).
    #[allow(clippy::disallowed_methods, reason = "peeks at one named child, and leaves it to be reaped")]
    pub fn has_ended(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        !matches!(waitid(Id::Pid(self.pid), flags), Ok(WaitStatus::StillAlive))
    }

    /// Reaps the process; gives it back where it has not ended.
    pub fn reap(self) -> Result<(Exit, Rusage), Child> {
        match wait::reap(self.pid) {
            Ok(Some(ended)) => Ok(ended),
            Ok(None) => Err(self),
            Err(errno) => {
                // Somebody else reaped our child: a fault of the program that we are embedded in. The exit is lost.
                debug_assert_eq!(errno, Errno::ECHILD);
                log::error!("pid={} was reaped by somebody else ({errno})", self.pid);
                Ok((Exit::Signal(Signal::SIGKILL as i32), Rusage::default()))
            }
        }
    }
}

/// The children that a thread has started. They die with it, for parent-death signals follow the thread, and one that
/// is not reaped by then passes for an orphan: so a thread that has nothing else to do any more outlives them.
pub struct Children {
    unreaped: Sender<()>,
    reaped: Receiver<()>,
}

impl Children {
    pub fn none() -> Children {
        let (unreaped, reaped) = bounded(0);
        Children { unreaped, reaped }
    }

    /// Returns when the last of them is reaped.
    pub fn outlive(self) {
        drop(self.unreaped);
        // Nobody ever sends: it is an error that all senders are gone.
        let _ = self.reaped.recv();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use crossbeam_channel::TryRecvError;

    use super::*;
    use crate::ids::SessionId;
    use crate::process::launch::NprocRule;
    use crate::process::living::Living;
    use crate::process::proc;
    use crate::process::spawn::{Spawner, Started, Ticket, Wiring};
    use crate::protocol::request::Program;
    use crate::strings::Strings;
    use crate::sys::clone::{Plan, Stack, c_string};

    fn start(line: &str) -> Started {
        let plan = Plan {
            programs: vec![c_string("/bin/sh")],
            searched: false,
            argv: Program::argv(&["/bin/sh", "-c", line]).arguments(),
            envp: Strings::of(&[b"PATH=/usr/bin:/bin"]),
            workspace: None,
            cwd: None,
            limits: Vec::new(),
            nproc: None,
            oom_score_adj: None,
            nice: 0,
            umask: 0o77,
            identity: None,
            no_new_privs: true,
            drop_capabilities: false,
            fresh_keyring: true,
            terminal: false,
            signals: u64::MAX,
        };
        let spawner = Spawner::new(NprocRule::Exempt, File::open("/dev/null").unwrap().into());
        let wiring = Wiring { stdin: false, merge_stderr: true, terminal: None, mute: false };
        spawner.spawn(plan, wiring, &Ticket::default(), &mut Stack::new()).unwrap()
    }

    fn wait_for(what: &str, mut fact: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !fact() {
            assert!(Instant::now() < deadline, "not in time: {what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn inv2_group_is_dead_before_leader_is_reaped() {
        let mut started = start("sleep 1000 & echo $!");
        let mut line = String::new();
        let mut output = File::from(started.stdout.unwrap());
        wait_for("the number of the other process", || {
            use std::io::Read;
            let mut piece = [0; 64];
            if let Ok(read) = output.read(&mut piece) {
                line.push_str(std::str::from_utf8(&piece[..read]).unwrap());
            }
            line.ends_with('\n')
        });
        let member: i32 = line.trim().parse().unwrap();
        wait_for("the leader's end", || started.child.has_ended());
        // Peeked, not reaped: its number, and with it the group's, is nobody else's.
        let leader = started.child.pid().as_raw();
        assert_eq!(proc::stat(leader).unwrap().state, b'Z');
        assert!(proc::stat(member).unwrap().is_alive());
        started.child.signal_group(Signal::SIGKILL);
        wait_for("the member's end", || proc::stat(member).is_none_or(|stat| !stat.is_alive()));
        assert_eq!(proc::stat(leader).unwrap().state, b'Z');
        let children = Children::none();
        let living = Living::new(1);
        let starting = living.starting(SessionId(1), &Arc::default());
        started.child.join(&children, starting.started(started.child.pid()));
        assert_eq!(children.reaped.try_recv(), Err(TryRecvError::Empty));
        let (exit, _) = started.child.reap().unwrap();
        assert_eq!(exit, Exit::Code(0));
        assert!(proc::stat(leader).is_none());
        // Whoever started it hears that it is gone.
        children.outlive();
    }

    #[test]
    fn inv3_a_child_that_lives_is_given_back_and_never_waited_for() {
        let started = start("sleep 1000");
        assert!(!started.child.has_ended());
        let child = started.child.reap().unwrap_err();
        child.signal_group(Signal::SIGKILL);
        wait_for("its end", || child.has_ended());
        assert_eq!(child.reap().unwrap().0, Exit::Signal(9));
    }
}
