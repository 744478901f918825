//! Ending everything that runs under a uid, by one system call that nothing can outrun.

use std::ffi::{c_int, c_long, c_void};
use std::sync::atomic::Ordering;

use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Identity, Report, Stack, exit};
use crate::sys::starter::{Header, Sets};

/// What the child of [`kill_all_of`] reads.
struct Killing<'a> {
    identity: Identity,
    parent: libc::pid_t,
    report: &'a Report,
}

/// Kills every process of a uid, by a child that takes the uid on for that: whatever forks meanwhile is hit too. We
/// stand still until the child has ended; another thread may end it through `report`. Whether it has done its work.
/// The caller's signals must all be blocked.
#[allow(clippy::disallowed_methods, reason = "waits for one named child, which does a single thing and ends")]
pub fn kill_all_of(identity: Identity, report: &Report) -> bool {
    let mut stack = Stack::new();
    let top = stack.0.as_mut_ptr_range().end.cast::<c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let killing = Killing { identity, parent: std::process::id() as libc::pid_t, report };
    let pointer = (&raw const killing).cast_mut().cast::<c_void>();
    // SAFETY: as in `clone_child`: we stand still until the child has ended, so stack and `killing` outlive its use of
    // them.
    let pid = unsafe { libc::clone(kill_as, top, flags, pointer) };
    if pid < 0 {
        return false;
    }
    report.forget();
    let ended = waitpid(Pid::from_raw(pid), None);
    matches!(ended, Ok(WaitStatus::Exited(_, 0)))
}

/// Runs in the child of [`kill_all_of`].
extern "C" fn kill_as(killing: *mut c_void) -> c_int {
    // SAFETY: the pointer is the parent's `Killing`, alive and unchanged until our end.
    let killing = unsafe { &*killing.cast::<Killing>() };
    let Identity { uid, neutral, .. } = killing.identity;
    killing.report.pid.store(raw!(libc::SYS_getpid) as i32, Ordering::Release);
    // First of all: a process of ours that hangs is not to hold our listeners and the pipes of others.
    raw!(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
    if uid == 0 || neutral == uid || raw!(libc::SYS_setresuid, neutral, uid, neutral) != 0 {
        exit(1);
    }
    // The change of uid has taken our capabilities, unless the host's program changed that for itself: then this would
    // kill every process of the host.
    let header = Header::of_this_thread();
    let none = [Sets::default(); 2];
    if raw!(libc::SYS_capset, &raw const header, none.as_ptr()) != 0 {
        exit(1);
    }
    raw!(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
    // After the change of uid, which would clear it.
    raw!(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
    if raw!(libc::SYS_getppid) != c_long::from(killing.parent) {
        exit(1);
    }
    // This reaches processes of `uid` and of `neutral`, and nobody else.
    raw!(libc::SYS_kill, -1, libc::SIGKILL);
    exit(0)
}
