//! What a uid leaves in the kernel: System V IPC objects and keys. They are removed, and keyrings sealed, when no process
//! of the uid lives: nobody is there then who could get at a helper that takes the uid on.

use std::ffi::{c_int, c_long, c_void};
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc;

use super::clone::{Report, help};

/// System V IPC objects of one uid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    pub shm: Vec<c_int>,
    pub msg: Vec<c_int>,
    pub sem: Vec<c_int>,
}

/// Removes them, by a helper that takes the uid on for that. Whether any is left is for the caller to look.
pub fn remove_as(uid: u32, objects: &Objects, report: &Report) {
    // A group of its own has the number of its user in a pool.
    let _ = help(Some([uid; 3]), Some(uid), remove, std::ptr::from_ref(objects).cast(), report);
}

/// The work of the helper.
fn remove(objects: *const c_void) {
    // SAFETY: the pointer is to the objects of `remove_as`, alive until the helper's end and unchanged.
    let objects = unsafe { &*objects.cast::<Objects>() };
    let none = 0 as c_long;
    let rmid = c_long::from(libc::IPC_RMID);
    for id in &objects.shm {
        let _ = call(libc::SYS_shmctl, [c_long::from(*id), rmid, none]);
    }
    for id in &objects.msg {
        let _ = call(libc::SYS_msgctl, [c_long::from(*id), rmid, none]);
    }
    for id in &objects.sem {
        let _ = call(libc::SYS_semctl, [c_long::from(*id), none, rmid]);
    }
}

/// Operations of keyctl(2).
const GET_KEYRING_ID: c_long = 0;
const SETPERM: c_long = 5;
const CLEAR: c_long = 7;
const GET_PERSISTENT: c_long = 22;
/// Special keyrings of keyctl(2).
const THREAD_KEYRING: c_long = -1;
const USER_KEYRING: c_long = -4;
const USER_SESSION_KEYRING: c_long = -5;

/// Empties the persistent keyring of a uid, which its owner cannot forbid. The kernel makes one where there is none, as
/// nobody can ask whether there is, and removes it some days later. The other keyrings of the uid are sealed.
pub fn clear_persistent_keyring(uid: u32) -> Result<(), Errno> {
    // Who has its link may empty it.
    let keyring = match call(libc::SYS_keyctl, [GET_PERSISTENT, uid.into(), THREAD_KEYRING]) {
        Ok(keyring) => keyring,
        // Where keys are out of reach altogether, they are so for commands too.
        Err(libc::ENOSYS | libc::EPERM | libc::EOPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(Errno::from_raw(errno)),
    };
    let cleared = call(libc::SYS_keyctl, [CLEAR, keyring, 0]);
    let _ = call(libc::SYS_keyctl, [CLEAR, THREAD_KEYRING, 0]);
    cleared.map(drop).map_err(Errno::from_raw)
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
