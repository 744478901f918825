//! What is known of a child while the thread that started it stands still, and how another thread ends it.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What the child says through the memory that it shares with us; another thread may read it while we stand still.
#[derive(Debug, Default)]
pub struct Report {
    pub(super) pid: AtomicI32,
    pub(super) stage: AtomicI32,
    pub(super) errno: AtomicI32,
    /// Held while the child is killed by its number, and while that number is forgotten before the child is reaped.
    killing: Mutex<()>,
}

impl Report {
    /// The child, as soon as it runs; pinned until the thread that started it has reaped it or given it away.
    pub fn pid(&self) -> Option<Pid> {
        Some(self.pid.load(Ordering::Acquire)).filter(|pid| *pid > 0).map(Pid::from_raw)
    }

    /// Kills the child while the thread that started it stands still; nothing where it is not there yet or any more.
    #[allow(clippy::disallowed_methods, reason = "the number is forgotten under the same lock before it is reaped")]
    pub fn kill(&self) {
        let _killing = self.killing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pid) = self.pid() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// To be called by whoever is about to reap the child: nobody kills it by its number from here on.
    pub fn forget(&self) {
        let _killing = self.killing.lock().unwrap_or_else(PoisonError::into_inner);
        self.pid.store(0, Ordering::Release);
    }
}
