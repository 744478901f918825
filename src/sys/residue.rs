//! Removing what a uid has left in the kernel: System V IPC objects and keys, by a helper that takes the uid on for that.
//!
//! To be used when no process of the uid lives: nobody is there then who could get at the helper.

use std::ffi::{c_int, c_long, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::libc;

use super::clone::{Report, help};

/// What there is of one uid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leavings {
    pub shm: Vec<c_int>,
    pub msg: Vec<c_int>,
    pub sem: Vec<c_int>,
    /// It has keys.
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
    if !help([uid; 3], Some(uid), remove, (&raw const script).cast(), report) {
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
const JOIN_SESSION_KEYRING: c_long = 1;
const SETPERM: c_long = 5;
const CLEAR: c_long = 7;
const GET_PERSISTENT: c_long = 22;
/// Special keyrings of keyctl(2).
const PROCESS_KEYRING: c_long = -2;
const USER_KEYRING: c_long = -4;
const USER_SESSION_KEYRING: c_long = -5;
/// What the kernel gives to a user's keyring when it makes it.
const DEFAULT_PERMISSIONS: c_long = 0x1f3f_0000;

/// Empties the keyrings of the uid that we have, and sees that another can use them.
fn remove_keys() -> Result<(), c_int> {
    keyctl([JOIN_SESSION_KEYRING, 0, 0])?;
    for keyring in [USER_KEYRING, USER_SESSION_KEYRING] {
        keyctl([SETPERM, keyring, DEFAULT_PERMISSIONS])?;
        keyctl([CLEAR, keyring, 0])?;
        // One that takes no key is restricted, for ever.
        add_key(keyring)?;
        keyctl([CLEAR, keyring, 0])?;
    }
    // None: the uid has none, or this kernel knows none.
    match call(libc::SYS_keyctl, [GET_PERSISTENT, -1, PROCESS_KEYRING]) {
        Ok(keyring) => keyctl([CLEAR, keyring, 0]),
        Err(_) => Ok(()),
    }
}

/// Where keys are out of reach altogether, they are so for commands too.
fn keyctl(arguments: [c_long; 3]) -> Result<(), c_int> {
    match call(libc::SYS_keyctl, arguments) {
        Ok(_) | Err(libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP | libc::ENOKEY) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn add_key(keyring: c_long) -> Result<(), c_int> {
    let (kind, name, value) = (c"user", c"cofferdam", c"x");
    // SAFETY: a raw system call; the strings are constants, and the kernel copies them.
    let added =
        unsafe { libc::syscall(libc::SYS_add_key, kind.as_ptr(), name.as_ptr(), value.as_ptr(), 1 as c_long, keyring) };
    match added {
        -1 => match Errno::last_raw() {
            libc::ENOSYS | libc::EPERM => Ok(()),
            errno => Err(errno),
        },
        _ => Ok(()),
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
