//! What a thread that starts commands does to itself once, so that its children inherit nothing of whoever started us.
//!
//! All of it belongs to the thread, and a child takes it over when it is cloned: a command then costs nothing for it.

use std::ffi::c_long;

use nix::errno::Errno;
use nix::libc;

/// Header of capset(2).
#[repr(C)]
pub struct Header {
    version: u32,
    pid: i32,
}

impl Header {
    pub fn of_this_thread() -> Header {
        /// The version with 64 capabilities, in two halves.
        const VERSION_3: u32 = 0x2008_0522;
        Header { version: VERSION_3, pid: 0 }
    }
}

/// Half of the capability sets: 32 of each.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Sets {
    pub effective: u32,
    pub permitted: u32,
    pub inheritable: u32,
}

/// capabilities(7); its bit in the first half.
pub const CAP_KILL: u32 = 5;

fn system(number: c_long, arguments: [c_long; 5]) -> Result<c_long, Errno> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the callers pass plain numbers, or addresses of what they own and that has the size the call expects.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e) })
}

/// The capabilities that an exec keeps: none. Those that this thread may use stay.
pub fn keep_no_capability_across_exec() -> Result<(), Errno> {
    let mut header = Header::of_this_thread();
    let mut sets = [Sets::default(); 2];
    let addresses = [(&raw mut header) as c_long, sets.as_mut_ptr() as c_long, 0, 0, 0];
    system(libc::SYS_capget, addresses)?;
    for half in &mut sets {
        half.inheritable = 0;
    }
    let addresses = [(&raw mut header) as c_long, sets.as_mut_ptr() as c_long, 0, 0, 0];
    system(libc::SYS_capset, addresses)?;
    let ambient = [libc::PR_CAP_AMBIENT.into(), libc::PR_CAP_AMBIENT_CLEAR_ALL.into(), 0, 0, 0];
    match system(libc::SYS_prctl, ambient) {
        // A kernel that knows no ambient capabilities has none.
        Ok(_) | Err(Errno::EINVAL) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Children are neither real-time nor of a negative nice value, unless that is given to them afterwards. What makes
/// them weaker than others (SCHED_BATCH, SCHED_IDLE, a positive nice value) is theirs too.
pub fn reset_priority_of_children(nice: i32) -> Result<(), Errno> {
    let policy = system(libc::SYS_sched_getscheduler, [0; 5])? as i32;
    // As the kernel tells it, from 40 for the strongest to 1.
    let own_nice = 20 - system(libc::SYS_getpriority, [libc::PRIO_PROCESS.into(), 0, 0, 0, 0])?;
    let is_real_time = [libc::SCHED_FIFO, libc::SCHED_RR].contains(&(policy & !libc::SCHED_RESET_ON_FORK));
    if !is_real_time && (own_nice >= 0 || nice < 0) {
        return Ok(());
    }
    let mut priority: libc::c_int = 0;
    let address = (&raw mut priority) as c_long;
    system(libc::SYS_sched_getparam, [0, address, 0, 0, 0])?;
    let policy = policy | libc::SCHED_RESET_ON_FORK;
    system(libc::SYS_sched_setscheduler, [0, policy.into(), address, 0, 0]).map(drop)
}

/// The I/O priority that follows from the nice value.
pub fn reset_io_priority() -> Result<(), Errno> {
    const IOPRIO_WHO_PROCESS: c_long = 1;
    match system(libc::SYS_ioprio_set, [IOPRIO_WHO_PROCESS, 0, 0, 0, 0]) {
        // A kernel without block devices.
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Leaves the session keyring of whoever started us for one that stays empty. Each command gets another one of its own;
/// one for which the kernel has no room any more is left with this one. It may be searched, or every request for a key
/// would fail, and nothing else, also by its owner.
pub fn leave_session_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_long = 1;
    const KEYCTL_SETPERM: c_long = 5;
    const POSSESSOR_SEARCHES: c_long = 0x0800_0000;
    let joined = system(libc::SYS_keyctl, [KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0]);
    match joined.and_then(|keyring| system(libc::SYS_keyctl, [KEYCTL_SETPERM, keyring, POSSESSOR_SEARCHES, 0, 0])) {
        // A kernel without keyrings, or a container in which nobody can use them.
        Ok(_) | Err(Errno::ENOSYS | Errno::EPERM) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Whether a change of uid leaves the capabilities as they are: SECBIT_NO_SETUID_FIXUP.
pub fn keeps_capabilities_across_uids() -> bool {
    const NO_SETUID_FIXUP: c_long = 1 << 2;
    system(libc::SYS_prctl, [libc::PR_GET_SECUREBITS.into(), 0, 0, 0, 0]).is_ok_and(|bits| bits & NO_SETUID_FIXUP != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION_KEYRING: c_long = -3;

    /// keyctl(2).
    fn keyctl(command: c_long, arguments: [c_long; 4]) -> Result<c_long, Errno> {
        let [a, b, c, d] = arguments;
        system(libc::SYS_keyctl, [command, a, b, c, d])
    }

    fn put() -> Result<c_long, Errno> {
        let (kind, name, value) = (c"user", c"cofferdam-unit", "x");
        let texts = [kind.as_ptr() as c_long, name.as_ptr() as c_long, value.as_ptr() as c_long, 1, SESSION_KEYRING];
        system(libc::SYS_add_key, texts)
    }

    /// A key is this thread's alone, and goes with it.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test's own thread")]
    fn inv14_the_keyring_that_is_left_can_be_searched_and_nothing_else() {
        const CLEAR: c_long = 7;
        const SEARCH: c_long = 10;
        const SETPERM: c_long = 5;
        std::thread::spawn(|| {
            if keyctl(1, [0; 4]).is_err() || put().is_err() {
                // A kernel without keyrings, or a container in which nobody can use them.
                return;
            }
            leave_session_keyring().unwrap();
            let (kind, name) = (c"user".as_ptr() as c_long, c"cofferdam-unit".as_ptr() as c_long);
            assert_eq!(keyctl(SEARCH, [SESSION_KEYRING, kind, name, 0]), Err(Errno::ENOKEY));
            assert_eq!(put(), Err(Errno::EACCES));
            assert_eq!(keyctl(CLEAR, [SESSION_KEYRING, 0, 0, 0]), Err(Errno::EACCES));
            assert_eq!(keyctl(SETPERM, [SESSION_KEYRING, 0x3f3f_0000, 0, 0]), Err(Errno::EACCES));
        })
        .join()
        .unwrap();
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test's own thread")]
    fn each_step_can_be_taken_without_any_right() {
        std::thread::spawn(|| {
            keep_no_capability_across_exec().unwrap();
            reset_priority_of_children(0).unwrap();
            reset_io_priority().unwrap();
        })
        .join()
        .unwrap();
    }
}
