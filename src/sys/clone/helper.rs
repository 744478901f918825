//! A helper: a child of ours that takes on the uid of a session, does one thing, and ends.

use std::ffi::{c_int, c_long, c_void};
use std::sync::atomic::Ordering;

use nix::libc;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Identity, Report, Stack, exit};
use crate::sys::starter::{Header, Sets};

/// What a helper does when it has its ids: raw system calls alone, as `child` does.
pub type Work = fn(*const c_void);

/// What a helper reads.
struct Help<'a> {
    /// Real, effective and saved; none: it keeps ours, and our capabilities.
    uids: Option<[u32; 3]>,
    /// Groups are left alone without.
    gid: Option<u32>,
    work: Work,
    argument: *const c_void,
    parent: libc::pid_t,
    report: &'a Report,
}

/// Has a child of ours take on other ids, do one thing, and end. We stand still until then; another thread may end it
/// through `report`. Whether it has done its work. The caller's signals must all be blocked, and `argument` be what
/// `work` takes it for.
#[allow(clippy::disallowed_methods, reason = "waits for one named child, which does a single thing and ends")]
pub fn help(uids: Option<[u32; 3]>, gid: Option<u32>, work: Work, argument: *const c_void, report: &Report) -> bool {
    let mut stack = Stack::new();
    let top = stack.0.as_mut_ptr_range().end.cast::<c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let help = Help { uids, gid, work, argument, parent: std::process::id() as libc::pid_t, report };
    let pointer = (&raw const help).cast_mut().cast::<c_void>();
    // SAFETY: as in `clone_child`: we stand still until the child has ended, so stack and `help` outlive its use of them.
    let pid = unsafe { libc::clone(helper, top, flags, pointer) };
    if pid < 0 {
        return false;
    }
    report.forget();
    let ended = waitpid(Pid::from_raw(pid), None);
    matches!(ended, Ok(WaitStatus::Exited(_, 0)))
}

/// Runs in the child of [`help`].
extern "C" fn helper(help: *mut c_void) -> c_int {
    // SAFETY: the pointer is the parent's `Help`, alive and unchanged until our end.
    let help = unsafe { &*help.cast::<Help>() };
    help.report.pid.store(raw!(libc::SYS_getpid) as i32, Ordering::Release);
    // First of all: a process of ours that hangs is not to hold our listeners and the pipes of others.
    raw!(libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
    if let Some(gid) = help.gid {
        let none = std::ptr::null::<libc::gid_t>();
        if raw!(libc::SYS_setgroups, 0, none) != 0 || raw!(libc::SYS_setresgid, gid, gid, gid) != 0 {
            exit(1);
        }
    }
    if let Some(uids) = help.uids {
        take_on(uids);
    }
    // After the change of uid, which would clear it.
    raw!(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
    if raw!(libc::SYS_getppid) != c_long::from(help.parent) {
        exit(1);
    }
    (help.work)(help.argument);
    exit(0)
}

/// Runs in the child, and ends it where it fails.
fn take_on(uids: [u32; 3]) {
    let [real, effective, saved] = uids;
    if uids.contains(&0) || raw!(libc::SYS_setresuid, real, effective, saved) != 0 {
        exit(1);
    }
    // The change of uid has taken our capabilities, unless the host's program changed that for itself: then a helper that
    // kills would kill every process of the host.
    let header = Header::of_this_thread();
    let none = [Sets::default(); 2];
    if raw!(libc::SYS_capset, &raw const header, none.as_ptr()) != 0 {
        exit(1);
    }
    raw!(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
}

/// Kills every process of a uid, by a helper that takes the uid on for that: whatever forks meanwhile is hit too, and
/// nothing can signal the helper.
pub fn kill_all_of(Identity { uid, neutral, .. }: Identity, report: &Report) -> bool {
    neutral != uid && help(Some([neutral, uid, neutral]), None, kill_all, std::ptr::null(), report)
}

/// Without any capability this reaches processes of the effective uid and of the real one, and nobody else.
fn kill_all(_: *const c_void) {
    raw!(libc::SYS_kill, -1, libc::SIGKILL);
}
