//! Removes trees that others have made, so that no name, permission, race or mount point in them stops or delays it.
//!
//! What is to go is first moved into a folder of ours that nobody else can enter, so nobody reaches it by a path any
//! more. Every directory becomes ours before it is read, so nobody adds to it by a descriptor that is open still. What
//! is no directory is unlinked; a directory that is not empty is moved up into our folder under a number, and its turn
//! comes there: a few descriptors whatever the depth, no recursion, and no memory that grows with the tree. A mount
//! point cannot be moved, and so nothing in it is ever touched.
//!
//! Runs on an errand, and at the start and end of the daemon. Blocks for as long as the file system likes, but works no
//! longer than [`WORK_MAX`]: what is left stays in our folder, where the next call finds it.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

/// How a removal went.
pub type Removed = Result<(), Errno>;

/// Flags for a directory that is to be read: no link is followed, and nothing is waited for.
pub const OPEN_DIR: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK);

/// Flags for a directory that is only to be held: this needs no permission of the directory itself.
const HOLD_DIR: OFlag = OPEN_DIR.union(OFlag::O_PATH);

/// One call works no longer. Whoever adds to a tree through descriptors of directories that were not reached yet, or
/// as our own uid, delays a caller by so much and no more. Millions of files go in less.
pub const WORK_MAX: Duration = Duration::from_secs(60);

/// Numbers of what is moved. No number is used twice in a run, so names collide only where somebody means them to.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The folder for what is to go. It lies beside what it takes in, on the same file system, and is ours alone.
#[derive(Debug)]
pub struct Outgoing {
    folder: OwnedFd,
}

impl Outgoing {
    /// Opens the folder of this name, and makes it if need be.
    pub fn open(parent: impl AsFd, name: &CStr) -> Result<Outgoing, Errno> {
        Ok(Outgoing { folder: open_private(parent, name)? })
    }

    /// Removes these entries of `from` with all that is in them, and what an earlier call for the same `heap` has left.
    /// One that is not there is no error; with `Ok` nothing of any is left. One that cannot be removed does not keep
    /// the rest: the error is the first of all. `EAGAIN`: another call for the same heap is under way.
    pub fn remove(&self, from: impl AsFd, names: &[&CStr], heap: &CStr, until: Instant) -> Removed {
        let mut work = Work { until, first: None };
        // Two at once would take each other's progress for none of their own.
        let lock = Flock::lock(open_private(&self.folder, heap)?, FlockArg::LockExclusiveNonblock);
        let opened = lock.map_err(|(_, errno)| errno)?;
        let mut taken = true;
        for name in names {
            let result = work.take(&from, name, &opened);
            taken &= result.is_ok();
            work.note(result);
        }
        work.empty(&opened, false);
        match unlinkat(&self.folder, heap, UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) if taken => Ok(()),
            Ok(()) => Err(work.first.unwrap_or(Errno::EBUSY)),
            Err(errno) => Err(work.first.unwrap_or(errno)),
        }
    }
}

/// Opens a directory that only we may enter, and makes it if need be.
fn open_private(parent: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    match mkdirat(&parent, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    let held = openat(&parent, name, HOLD_DIR, Mode::empty())?;
    if fstat(&held)?.st_uid != Uid::effective().as_raw() {
        return Err(Errno::EPERM);
    }
    // The umask may be anything.
    change_mode(&held, Mode::S_IRWXU)?;
    openat(&held, c".", OPEN_DIR, Mode::empty())
}

/// Changes the mode of a directory that is held. `fchmod` refuses a descriptor that only holds.
pub fn change_mode(held: &OwnedFd, mode: Mode) -> Result<(), Errno> {
    let path = format!("/proc/self/fd/{}", held.as_raw_fd());
    fchmodat(AT_FDCWD, path.as_str(), mode, FchmodatFlags::FollowSymlink)
}

/// What became of one entry.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Gone,
    /// A directory with something in it.
    Full,
    Stays,
}

/// One removal under way.
struct Work {
    until: Instant,
    /// The first error.
    first: Option<Errno>,
}

impl Work {
    fn note<T>(&mut self, result: Result<T, Errno>) {
        if let Err(errno) = result {
            self.first.get_or_insert(errno);
        }
    }

    fn is_late(&mut self) -> bool {
        let late = Instant::now() >= self.until;
        if late {
            self.first.get_or_insert(Errno::ETIMEDOUT);
        }
        late
    }

    /// Empties a directory of ours until nothing more can be done; whether anything was. `inner`: it lies in the
    /// folder of ours and is not that folder itself.
    fn empty(&mut self, heap: &OwnedFd, inner: bool) -> bool {
        let mut ever = false;
        loop {
            let mut changed = false;
            let read = each(heap, |name, kind| {
                changed |= match self.discard(heap, name, kind) {
                    Fate::Full => self.dismantle(heap, name, inner),
                    fate => fate == Fate::Gone,
                };
                !self.is_late()
            });
            self.note(read);
            ever |= changed;
            if !changed || self.is_late() {
                return ever;
            }
        }
    }

    /// Makes one directory of the heap ours, unlinks what is in it, and moves its directories into the heap; whether
    /// anything has changed.
    fn dismantle(&mut self, heap: &OwnedFd, name: &CStr, inner: bool) -> bool {
        let directory = match self.take_over(heap, name) {
            Ok(directory) => directory,
            Err(errno) => {
                self.note(Err::<(), _>(errno));
                return false;
            }
        };
        let (mut changed, mut fenced) = (false, false);
        let read = each(&directory, |name, kind| {
            match self.discard(&directory, name, kind) {
                Fate::Gone => changed = true,
                Fate::Stays => {}
                Fate::Full => match self.take(&directory, name, heap) {
                    Ok(()) => changed = true,
                    Err(Errno::EXDEV) if !inner => fenced = true,
                    refused => self.note(refused),
                },
            }
            !self.is_late()
        });
        self.note(read);
        if fenced {
            // A subvolume: what is in it can be moved within it alone, so it serves as its own heap.
            changed |= self.empty(&directory, true);
        }
        changed | unlinkat(heap, name, UnlinkatFlags::RemoveDir).is_ok()
    }

    /// Removes one entry that is no directory, or an empty one.
    fn discard(&mut self, parent: &OwnedFd, name: &CStr, kind: Option<Type>) -> Fate {
        let mut unlinked = Errno::EISDIR;
        if kind != Some(Type::Directory) {
            match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) => return Fate::Gone,
                // A file system that does not tell the kind of its entries is asked by trying.
                Err(errno @ (Errno::EISDIR | Errno::EPERM)) => unlinked = errno,
                Err(errno) => return self.stays(errno),
            }
        }
        match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
            Ok(()) => Fate::Gone,
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => Fate::Full,
            Err(Errno::ENOTDIR) => self.stays(unlinked),
            Err(errno) => self.stays(errno),
        }
    }

    fn stays(&mut self, errno: Errno) -> Fate {
        // Somebody else was first.
        if errno != Errno::ENOENT {
            self.note(Err::<(), _>(errno));
        }
        Fate::Stays
    }

    /// Moves an entry into the heap. One that is not there is no error.
    fn take(&mut self, from: impl AsFd, name: &CStr, heap: &OwnedFd) -> Result<(), Errno> {
        let mut ours = false;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
            match renameat(&from, name, heap, number.as_str()) {
                Ok(()) | Err(Errno::ENOENT) => return Ok(()),
                Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR | Errno::EISDIR) if !self.is_late() => {}
                // A directory that is moved is written to, for its `..` changes.
                Err(Errno::EACCES | Errno::EPERM) if !ours => {
                    ours = true;
                    self.take_over(&from, name)?;
                }
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Makes a directory ours and closed to others, through a descriptor of it. Where that is refused it is still
    /// worth a try to empty it.
    fn take_over(&mut self, parent: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
        let held = openat(parent, name, HOLD_DIR, Mode::empty())?;
        let facts = fstat(&held)?;
        // First the owner, who could change the mode back.
        if Uid::effective().is_root() && facts.st_uid != 0 {
            let root = (Some(Uid::from_raw(0)), Some(Gid::from_raw(0)));
            self.note(fchownat(&held, c"", root.0, root.1, AtFlags::AT_EMPTY_PATH));
        }
        if facts.st_mode & 0o7777 != 0o700 {
            self.note(change_mode(&held, Mode::S_IRWXU));
        }
        Ok(held)
    }
}

/// Hands each entry of a directory over as it is read, until told to stop. They may be removed meanwhile.
pub fn each(directory: impl AsFd, mut go_on: impl FnMut(&CStr, Option<Type>) -> bool) -> Result<(), Errno> {
    // A description of its own, so that each reading starts at the beginning.
    let mut directory = Dir::openat(directory, c".", OPEN_DIR, Mode::empty())?;
    for entry in directory.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." && !go_on(name, entry.file_type()) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
