//! The private working directory of a session: made for it, owned by its uid, removed behind it.
//!
//! A worker makes them; an errand removes what is not empty (`removal`), for that may take long. Nothing here follows a
//! link or joins a path below a directory that a command could write: all goes through held descriptors.

mod left;
mod names;

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

pub use self::names::PREFIX as RUN_PREFIX;
use self::names::{OUTGOING_PREFIX, PREFIX, SHELL_PREFIX};
use super::removal::{OPEN_DIR, Outgoing, Removed, WORK_MAX, change_mode, each};
use crate::ownership::{Asked, Facts, Foreign};
use crate::sys::clone::{Folder, Identity};

/// The folder of the workspaces, locked as long as the run lives: what is found with no lock on it was left by a run
/// that was killed, and goes.
#[derive(Debug)]
pub struct Workspaces {
    path: PathBuf,
    /// The folder is configured, and may be other runs' too; else it is this run's alone, and goes with it.
    configured: bool,
    /// In each name, so that runs which share a folder never meet.
    run: String,
    /// Other uids must be able to pass through to their own.
    shared: bool,
    folder: OnceLock<Result<Folder, Unusable>>,
}

/// Why there is no folder of the workspaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    Failed(Errno),
    /// As root: somebody else could put things there, and take ours away.
    Foreign(Foreign),
}

impl Unusable {
    fn errno(self) -> Errno {
        match self {
            Unusable::Failed(errno) => errno,
            Unusable::Foreign(_) => Errno::EPERM,
        }
    }
}

impl From<Errno> for Unusable {
    fn from(errno: Errno) -> Unusable {
        Unusable::Failed(errno)
    }
}

/// A session's directory.
#[derive(Debug, Clone)]
pub struct Workspace {
    pub path: String,
    /// How it is entered: the path could lead elsewhere by then.
    pub folder: Folder,
    pub name: CString,
}

impl Workspaces {
    /// In the configured folder, or in one of this run's own in the system's temporary folder.
    pub fn new(configured: Option<&Path>, run: &str, shared: bool) -> Self {
        let own = || std::env::temp_dir().join(format!("{PREFIX}{run}"));
        Workspaces {
            path: configured.map_or_else(own, Path::to_owned),
            configured: configured.is_some(),
            run: run.to_owned(),
            shared,
            folder: OnceLock::new(),
        }
    }

    /// Makes the folder now, so that one that cannot be made is known at the start; removes what dead runs left.
    pub fn open(&self) -> Result<(), Unusable> {
        let folder = self.held()?;
        if !self.configured {
            self.clear_dead_runs(folder, &std::env::temp_dir());
        }
        Ok(())
    }

    fn held(&self) -> Result<&Folder, Unusable> {
        let make = || if self.configured { self.open_configured() } else { Ok(self.make_own()?) };
        self.folder.get_or_init(|| make().map(Arc::new)).as_ref().map_err(|unusable| *unusable)
    }

    fn folder(&self) -> Result<&OwnedFd, Errno> {
        Ok(self.held().map_err(Unusable::errno)?)
    }

    /// The folder, if there was a use for it.
    fn opened(&self) -> Option<&OwnedFd> {
        self.folder.get()?.as_ref().ok().map(|folder| &***folder)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn mode(&self) -> Mode {
        if self.shared { Mode::S_IRWXU | Mode::S_IXGRP | Mode::S_IXOTH } else { Mode::S_IRWXU }
    }

    fn open_configured(&self) -> Result<Flock<OwnedFd>, Unusable> {
        let made = match mkdirat(AT_FDCWD, &self.path, self.mode()) {
            Ok(()) => Some(settle(AT_FDCWD, &self.path, self.mode(), None)?),
            Err(Errno::EEXIST) => None,
            Err(errno) => return Err(errno.into()),
        };
        let folder = match made {
            Some(made) => openat(&made, c".", OPEN_DIR, Mode::empty())?,
            None => open(&self.path, OPEN_DIR.difference(OFlag::O_NOFOLLOW), Mode::empty())?,
        };
        if let Some(foreign) = Facts::from(&fstat(&folder)?).foreign_to_root(Asked::OursAlone) {
            return Err(Unusable::Foreign(foreign));
        }
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(alone) => {
                self.outgoing(&*alone)?;
                self.clear_folder(&alone);
                alone.relock(FlockArg::LockShared)?;
                Ok(alone)
            }
            Err((folder, _)) => {
                self.outgoing(&folder)?;
                Flock::lock(folder, FlockArg::LockShared).map_err(|(_, errno)| errno.into())
            }
        }
    }

    fn make_own(&self) -> Result<Flock<OwnedFd>, Errno> {
        // Under another name until it is locked: nobody may take it for a dead run's.
        let fresh = self.path.with_file_name(format!(".{PREFIX}{}", self.run));
        mkdirat(AT_FDCWD, &fresh, self.mode())?;
        let made = settle(AT_FDCWD, &fresh, self.mode(), None)?;
        let folder = openat(&made, c".", OPEN_DIR, Mode::empty())?;
        let locked = Flock::lock(folder, FlockArg::LockShared).map_err(|(_, errno)| errno)?;
        self.outgoing(&*locked)?;
        renameat(AT_FDCWD, &fresh, AT_FDCWD, &self.path)?;
        Ok(locked)
    }

    /// The folder of ours for what is removed.
    fn outgoing(&self, folder: impl AsFd) -> Result<Outgoing, Errno> {
        Outgoing::open(folder, &self.outgoing_name())
    }

    fn outgoing_name(&self) -> CString {
        c_name(format!("{OUTGOING_PREFIX}{}", self.run))
    }

    fn name(&self, session: impl std::fmt::Display) -> String {
        format!("{session}-{}", self.run)
    }

    /// Makes a session's directory, 0700, its own uid's.
    pub fn make(&self, session: impl std::fmt::Display, identity: Option<Identity>) -> Result<Workspace, Errno> {
        let (name, held) = (c_name(self.name(session)), self.held().map_err(Unusable::errno)?);
        let folder: &OwnedFd = held;
        mkdirat(folder, &*name, Mode::S_IRWXU)?;
        if let Err(errno) = settle(folder, &*name, Mode::S_IRWXU, identity) {
            let _ = unlinkat(folder, &*name, UnlinkatFlags::RemoveDir);
            return Err(errno);
        }
        let path = self.path.join(&*name.to_string_lossy()).to_string_lossy().into_owned();
        Ok(Workspace { path, folder: held.clone(), name })
    }

    /// Makes the folder of a session's shell: the session may pass through it, and where it has a uid of its own it can
    /// change nothing there.
    pub fn make_shell_folder(&self, session: impl std::fmt::Display) -> Result<(OwnedFd, PathBuf), Errno> {
        let (name, folder) = (format!("{SHELL_PREFIX}{}", self.name(session)), self.folder()?);
        match mkdirat(folder, name.as_str(), self.mode()) {
            // A shell before this one had it.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        let made = settle(folder, name.as_str(), self.mode(), None)?;
        Ok((openat(&made, c".", OPEN_DIR, Mode::empty())?, self.path.join(name)))
    }

    /// Removes the folder of a session's shell, and the few pipes in it; whether it is gone.
    fn remove_shell_folder(&self, session: impl std::fmt::Display) -> bool {
        let Some(folder) = self.opened() else { return true };
        let name = format!("{SHELL_PREFIX}{}", self.name(session));
        let Ok(opened) = openat(folder, name.as_str(), OPEN_DIR, Mode::empty()) else { return true };
        let mut pipes = 0;
        let _ = each(&opened, |entry, _| {
            let _ = unlinkat(&opened, entry, UnlinkatFlags::NoRemoveDir);
            pipes += 1;
            pipes < PIPES_MAX
        });
        matches!(unlinkat(folder, name.as_str(), UnlinkatFlags::RemoveDir), Ok(()) | Err(Errno::ENOENT))
    }

    /// Removes a directory that is empty, as most are; whether it is gone.
    pub fn remove_empty(&self, session: impl std::fmt::Display) -> bool {
        let Some(folder) = self.opened() else { return true };
        if !self.remove_shell_folder(&session) {
            return false;
        }
        let removed = unlinkat(folder, self.name(session).as_str(), UnlinkatFlags::RemoveDir);
        matches!(removed, Ok(()) | Err(Errno::ENOENT))
    }

    /// Removes a session's directory and all in it, whatever it is, and what an earlier call has left of it. With `Ok`
    /// nothing is left; after an error another call goes on where this one has stopped.
    pub fn remove(&self, session: impl std::fmt::Display) -> Removed {
        let folder = self.folder()?;
        let name = self.name(&session);
        let (name, of_shell) = (c_name(name.as_str()), c_name(format!("{SHELL_PREFIX}{name}")));
        let heap = c_name(session.to_string());
        self.outgoing(folder)?.remove(folder, &[&name, &of_shell], &heap, Instant::now() + WORK_MAX)
    }
}

impl Drop for Workspaces {
    fn drop(&mut self) {
        let Some(folder) = self.opened() else { return };
        let outgoing = self.outgoing_name();
        if let Err(errno @ (Errno::ENOTEMPTY | Errno::EEXIST)) = unlinkat(folder, &*outgoing, UnlinkatFlags::RemoveDir)
        {
            let path = self.path.join(&*outgoing.to_string_lossy());
            log::warn!("{} holds what could not be removed; the next start tries again: {errno}", path.display());
        }
        if !self.configured
            && let Err(error) = std::fs::remove_dir(&self.path)
        {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// The pipes of a shell are two or three at a time; a folder with more in it is no worker's to empty.
const PIPES_MAX: usize = 64;

/// Gives a directory that was just made its mode and owner, through a descriptor: no link in its place is followed, and
/// the umask may be anything.
fn settle<P: nix::NixPath + ?Sized>(
    parent: impl AsFd,
    name: &P,
    mode: Mode,
    identity: Option<Identity>,
) -> Result<OwnedFd, Errno> {
    let held = openat(parent, name, OPEN_DIR | OFlag::O_PATH, Mode::empty())?;
    if fstat(&held)?.st_uid != Uid::effective().as_raw() {
        return Err(Errno::EPERM);
    }
    change_mode(&held, mode)?;
    if let Some(Identity { uid, gid, .. }) = identity {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        fchownat(&held, c"", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
    }
    Ok(held)
}

/// Names of ours hold no NUL.
fn c_name(name: impl Into<Vec<u8>>) -> CString {
    crate::sys::clone::c_string(name)
}

#[cfg(test)]
mod tests;
