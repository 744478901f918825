//! What a process does to itself at its start, and to others by pidfd.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{ForkResult, Pid};

/// Forks. To be called while the process has one thread.
pub fn fork_alone() -> Result<ForkResult, Errno> {
    // SAFETY: the caller has not started a thread yet, so the child finds no lock held by a thread that it lacks.
    unsafe { nix::unistd::fork() }
}

/// A handle on a process that no reuse of its number can redirect.
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: a system call on plain numbers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = Errno::result(fd)? as i32;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends a signal by pidfd.
pub fn pidfd_signal(pidfd: impl AsFd, signal: Signal) -> Result<(), Errno> {
    pidfd_signal_by_number(pidfd, signal as i32)
}

/// The same for signals that have no name as well.
pub fn pidfd_signal_by_number(pidfd: impl AsFd, signal: i32) -> Result<(), Errno> {
    let fd = pidfd.as_fd().as_raw_fd();
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is borrowed, so it is open; a null siginfo is allowed.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, none, 0) };
    Errno::result(sent).map(drop)
}

/// Every signal to its default but SIGPIPE, which is ignored: inherited oddities (an ignored SIGCHLD makes waits fail)
/// end here.
pub fn normalise_signals() {
    for each in Signal::iterator() {
        if each == Signal::SIGKILL || each == Signal::SIGSTOP {
            continue;
        }
        let handler = if each == Signal::SIGPIPE { SigHandler::SigIgn } else { SigHandler::SigDfl };
        // SAFETY: neither handler runs code of ours.
        let _ = unsafe { signal(each, handler) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// Makes sure that descriptors 0, 1 and 2 are open, and that none above them reaches a command.
pub fn normalise_descriptors() {
    loop {
        // SAFETY: a system call on a constant path; the result is checked.
        let fd = unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        if fd > 2 {
            // SAFETY: it was opened by the line above and is ours.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            break;
        }
        if fd < 0 {
            break;
        }
    }
    // SAFETY: a system call on plain numbers that closes nothing, and marks what was inherited.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

/// Gives back the pages of our program's text; what is still run is mapped again when it is. For a process that has
/// done all its work at the start and only waits from now on.
pub fn give_back_text() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let text = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let of_a_file = rest.starts_with("r-xp") && rest.contains('/');
        let (from, to) = range.split_once('-').filter(|_| of_a_file)?;
        Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
    };
    for (from, to) in maps.lines().filter_map(text) {
        // SAFETY: the range is one mapping of ours, of a file, executable and not writable: its pages hold what the
        // file holds, and the kernel reads them again from there.
        unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_DONTNEED) };
    }
}

/// What the allocator takes from the system by itself and gives back as soon as it is free: a long line, a large output.
/// Lines of a stream stay below it, for they come and go too often.
#[cfg(target_env = "gnu")]
const OWN_MAPPING_BYTES: libc::c_int = 1 << 20;
/// What may stay free at the end of an arena.
#[cfg(target_env = "gnu")]
const FREE_END_BYTES: libc::c_int = 2 << 20;

/// The allocator's settings are ours, and so is all of the process's memory.
static ALLOCATOR_IS_OURS: AtomicBool = AtomicBool::new(false);

/// Settles how the allocator of our own process keeps memory. Two arenas instead of eight a core: threads here allocate
/// little, and arenas keep what they had. And fixed thresholds: by itself it raises them to 32 MiB behind the first large
/// block, and keeps as much for good.
pub fn settle_allocator() {
    ALLOCATOR_IS_OURS.store(true, Ordering::Relaxed);
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, OWN_MAPPING_BYTES), (libc::M_TRIM_THRESHOLD, FREE_END_BYTES)]
    {
        // SAFETY: mallopt may be called at any time; before other threads exist it settles their number.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives the pages of free memory back to the system. In a program that embeds us it is for that program to say.
pub fn give_back_memory() {
    if !ALLOCATOR_IS_OURS.load(Ordering::Relaxed) {
        return;
    }
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim may be called at any time; it takes the allocator's own locks and touches free blocks alone.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// A resource limit of ours, soft and hard; none: the kernel does not know it.
pub fn limit(resource: u32) -> Option<(u64, u64)> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one limit to where `limit` is, and reads nothing.
    let got = unsafe { libc::prlimit64(0, resource as _, std::ptr::null(), &raw mut limit) };
    (got == 0).then_some((limit.rlim_cur, limit.rlim_max))
}

/// Signals a process group by number, also with signals that have no name. The caller pins the group: its leader is an
/// unreaped child.
pub fn signal_group(group: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: a system call on plain numbers; it touches no memory of ours.
    Errno::result(unsafe { libc::kill(-group.as_raw(), signal) }).map(drop)
}
