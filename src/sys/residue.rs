//! Removing what a uid has left in the kernel: System V IPC objects and keys, by a helper that takes the uid on for that.
//!
//! To be used when no process of the uid lives: nobody is there then who could get at the helper.

use std::ffi::{c_int, c_long, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use nix::errno::Errno;
use nix::libc;

use super::clone::{Report, help};

/// What there is of one uid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leavings {
    pub shm: Vec<c_int>,
    pub msg: Vec<c_int>,
    pub sem: Vec<c_int>,
    /// It has keys in a keyring that is not sealed.
    pub keys: bool,
}

/// What the helper reads, and what it says.
struct Script<'a> {
    leavings: &'a Leavings,
    errno: AtomicI32,
}

/// Removes all of it; an error if keys are left. Whether IPC objects are left is for the caller to look.
pub fn remove_as(uid: u32, leavings: &Leavings, report: &Report) -> Result<(), Errno> {
    let script = Script { leavings, errno: AtomicI32::new(0) };
    // A group of its own has the number of its user in a pool.
    if !help(Some([uid; 3]), Some(uid), remove, (&raw const script).cast(), report) {
        return Err(Errno::EPERM);
    }
    match script.errno.load(Ordering::Acquire) {
        0 => Ok(()),
        errno => Err(Errno::from_raw(errno)),
    }
}

/// The work of the helper.
fn remove(script: *const c_void) {
    // SAFETY: the pointer is to the script of `remove_as`, alive until the helper's end and unchanged but for the atomic.
    let script = unsafe { &*script.cast::<Script>() };
    let none = 0 as c_long;
    let rmid = c_long::from(libc::IPC_RMID);
    for id in &script.leavings.shm {
        let _ = call(libc::SYS_shmctl, [c_long::from(*id), rmid, none]);
    }
    for id in &script.leavings.msg {
        let _ = call(libc::SYS_msgctl, [c_long::from(*id), rmid, none]);
    }
    for id in &script.leavings.sem {
        let _ = call(libc::SYS_semctl, [c_long::from(*id), none, rmid]);
    }
    if script.leavings.keys
        && let Err(errno) = remove_keys()
    {
        script.errno.store(errno, Ordering::Release);
    }
}

/// Operations of keyctl(2).
const GET_KEYRING_ID: c_long = 0;
const JOIN_SESSION_KEYRING: c_long = 1;
const SETPERM: c_long = 5;
const CLEAR: c_long = 7;
const GET_PERSISTENT: c_long = 22;
/// Special keyrings of keyctl(2).
const PROCESS_KEYRING: c_long = -2;
const USER_KEYRING: c_long = -4;
const USER_SESSION_KEYRING: c_long = -5;

/// Empties the persistent keyring of the uid that we have. Its owner cannot change who may do that; the other keyrings
/// of the uid are sealed.
fn remove_keys() -> Result<(), c_int> {
    // Where keys are out of reach altogether, they are so for commands too.
    let _ = call(libc::SYS_keyctl, [JOIN_SESSION_KEYRING, 0, 0]);
    // None: the uid has none, or this kernel knows none.
    match call(libc::SYS_keyctl, [GET_PERSISTENT, -1, PROCESS_KEYRING]) {
        Ok(keyring) => call(libc::SYS_keyctl, [CLEAR, keyring, 0]).map(drop),
        Err(_) => Ok(()),
    }
}

/// What the helper of [`seal_keyrings`] reads, and what it says: whether each is sealed.
struct Sealing<'a> {
    first: u32,
    sealed: &'a [AtomicBool],
}

/// Makes the user keyrings of these uids, and has nobody do anything with them ever again. They live for as long as the
/// host runs, a key in them would be the next session's, and their owner could see to it that nobody clears them. To be
/// done before anything runs under these uids. Of which that cannot be done: somebody has had them before us. None: the
/// helper did not come to its end, and all of it can be done again.
pub fn seal_keyrings(first: u32, count: u32, report: &Report) -> Option<Vec<u32>> {
    let sealed: Vec<AtomicBool> = (0..count).map(|_| AtomicBool::new(false)).collect();
    let sealing = Sealing { first, sealed: &sealed };
    if !help(None, None, seal, (&raw const sealing).cast(), report) {
        return None;
    }
    Some((first..).zip(&sealed).filter(|(_, sealed)| !sealed.load(Ordering::Acquire)).map(|(uid, _)| uid).collect())
}

/// The work of the helper: as each uid by its real and effective one, and back by the saved one.
fn seal(sealing: *const c_void) {
    // SAFETY: the pointer is to the `Sealing` of `seal_keyrings`, alive until the helper's end and unchanged but for its
    // atomics.
    let sealing = unsafe { &*sealing.cast::<Sealing>() };
    for (uid, sealed) in (sealing.first..).zip(sealing.sealed) {
        let uid = c_long::from(uid);
        if call(libc::SYS_setresuid, [uid, uid, 0]).is_err() {
            return;
        }
        let find = |keyring| call(libc::SYS_keyctl, [GET_KEYRING_ID, keyring, 1]);
        // Both are found before one is sealed: the kernel finds neither then, but by its number the other can be used.
        let both = [find(USER_KEYRING), find(USER_SESSION_KEYRING)];
        let are_sealed = match both {
            [Ok(one), Ok(other)] => [one, other].into_iter().all(|id| call(libc::SYS_keyctl, [SETPERM, id, 0]).is_ok()),
            // We have sealed them in an earlier life, or nobody can use keyrings here.
            [one, other] => one.is_err() && other.is_err(),
        };
        sealed.store(are_sealed, Ordering::Release);
        if call(libc::SYS_setresuid, [0, 0, 0]).is_err() {
            return;
        }
    }
}

fn call(number: c_long, [first, second, third]: [c_long; 3]) -> Result<c_long, c_int> {
    // SAFETY: a raw system call on plain numbers; it touches nothing of libc but errno, which is this thread's and the
    // parent's in turn, never at once.
    match unsafe { libc::syscall(number, first, second, third, 0 as c_long, 0 as c_long) } {
        -1 => Err(Errno::last_raw()),
        result => Ok(result),
    }
}

/// A mount of the message queues of our IPC namespace that stands nowhere in the tree of files.
pub fn mount_queues() -> Result<OwnedFd, Errno> {
    const FSOPEN_CLOEXEC: c_long = 1;
    const FSCONFIG_CMD_CREATE: c_long = 6;
    const FSMOUNT_CLOEXEC: c_long = 1;
    const NO_FLAGS: c_long = 0;
    // SAFETY: a raw system call on a constant string.
    let context = unsafe { libc::syscall(libc::SYS_fsopen, c"mqueue".as_ptr(), FSOPEN_CLOEXEC) };
    let context = owned(context)?;
    let fd = c_long::from(std::os::fd::AsRawFd::as_raw_fd(&context));
    // SAFETY: a raw system call on a descriptor that is open, plain numbers and null pointers.
    let made = unsafe { libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_CMD_CREATE, NO_FLAGS, NO_FLAGS, NO_FLAGS) };
    Errno::result(made)?;
    // SAFETY: a raw system call on a descriptor that is open, and plain numbers.
    owned(unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, NO_FLAGS) })
}

fn owned(fd: c_long) -> Result<OwnedFd, Errno> {
    let fd = Errno::result(fd)? as c_int;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
