//! Waiting for one named child, with what it used.

use std::mem::MaybeUninit;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
}

/// What a process and the descendants that it waited for have used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rusage {
    pub user: Duration,
    pub system: Duration,
    pub max_rss_bytes: u64,
}

/// Reaps a child that has ended; never waits for one that has not.
pub fn reap(pid: Pid) -> Result<Option<(Exit, Rusage)>, Errno> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: both pointers are to live memory of the right types; wait4 keeps nothing.
    let found = unsafe { libc::wait4(pid.as_raw(), &raw mut status, libc::WNOHANG | libc::__WALL, usage.as_mut_ptr()) };
    match found {
        0 => return Ok(None),
        -1 => return Err(Errno::last()),
        _ => {}
    }
    // SAFETY: zeroed bytes are a valid rusage, whether the kernel wrote all of it or not.
    let usage = unsafe { usage.assume_init() };
    let exit = if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    };
    let time = |time: libc::timeval| Duration::new(time.tv_sec.max(0) as u64, time.tv_usec.max(0) as u32 * 1000);
    let max_rss_bytes = (usage.ru_maxrss.max(0) as u64).saturating_mul(1024);
    Ok(Some((exit, Rusage { user: time(usage.ru_utime), system: time(usage.ru_stime), max_rss_bytes })))
}
