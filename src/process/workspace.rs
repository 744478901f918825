//! The private working directory of a session: made for it, owned by its uid, removed behind it.
//!
//! A worker makes them; an errand removes what is not empty (`removal`), for that may take long. Nothing here follows a
//! link or joins a path below a directory that a command could write: all goes through held descriptors.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use super::removal::{OPEN_DIR, Outgoing, Removed, WORK_MAX, change_mode, each};
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
    folder: OnceLock<Result<Folder, Errno>>,
}

/// A session's directory.
#[derive(Debug, Clone)]
pub struct Workspace {
    pub path: String,
    /// How it is entered: the path could lead elsewhere by then.
    pub folder: Folder,
    pub name: CString,
}

/// What the folder of a session's shell is named with.
const SHELL_PREFIX: &str = "sh-";
/// What every run's own folder is named with.
const PREFIX: &str = "cofferdam-";
/// What the folder is named with that takes in what a run removes. No session's and no run's name begins so.
const OUTGOING_PREFIX: &str = ".outgoing-";
/// Where in that folder the leavings of other runs go.
const OF_DEAD_RUNS: &CStr = c"dead";
/// Names that a start clears from one folder: the rest is for the next one.
const CLEARED_MAX: usize = 4096;

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
    pub fn open(&self) -> Result<(), Errno> {
        let folder = self.folder()?;
        if !self.configured {
            self.clear_dead_runs(folder, &std::env::temp_dir());
        }
        Ok(())
    }

    fn held(&self) -> Result<&Folder, Errno> {
        let make = || if self.configured { self.open_configured() } else { self.make_own() };
        self.folder.get_or_init(|| make().map(Arc::new)).as_ref().map_err(|errno| *errno)
    }

    fn folder(&self) -> Result<&OwnedFd, Errno> {
        self.held().map(|folder| &***folder)
    }

    /// The folder, if there was a use for it.
    fn opened(&self) -> Option<&OwnedFd> {
        self.folder.get()?.as_ref().ok().map(|folder| &***folder)
    }

    fn mode(&self) -> Mode {
        if self.shared { Mode::S_IRWXU | Mode::S_IXGRP | Mode::S_IXOTH } else { Mode::S_IRWXU }
    }

    fn open_configured(&self) -> Result<Flock<OwnedFd>, Errno> {
        let made = match mkdirat(AT_FDCWD, &self.path, self.mode()) {
            Ok(()) => Some(settle(AT_FDCWD, &self.path, self.mode(), None)?),
            Err(Errno::EEXIST) => None,
            Err(errno) => return Err(errno),
        };
        let folder = match made {
            Some(made) => openat(&made, c".", OPEN_DIR, Mode::empty())?,
            None => open(&self.path, OPEN_DIR.difference(OFlag::O_NOFOLLOW), Mode::empty())?,
        };
        match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
            Ok(alone) => {
                self.outgoing(&*alone)?;
                self.clear_folder(&alone);
                alone.relock(FlockArg::LockShared)?;
                Ok(alone)
            }
            Err((folder, _)) => {
                self.outgoing(&folder)?;
                Flock::lock(folder, FlockArg::LockShared).map_err(|(_, errno)| errno)
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
        let (name, folder) = (c_name(self.name(session)), self.folder()?);
        mkdirat(folder, &*name, Mode::S_IRWXU)?;
        if let Err(errno) = settle(folder, &*name, Mode::S_IRWXU, identity) {
            let _ = unlinkat(folder, &*name, UnlinkatFlags::RemoveDir);
            return Err(errno);
        }
        let path = self.path.join(&*name.to_string_lossy()).to_string_lossy().into_owned();
        Ok(Workspace { path, folder: self.held()?.clone(), name })
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

    /// Removes what dead runs have left in a folder that nobody else has now.
    fn clear_folder(&self, folder: &OwnedFd) {
        let own = self.outgoing_name();
        self.clear(folder, folder, |name| is_session(name) || (is_outgoing(name) && name != &*own));
    }

    /// Removes the folders of our own runs that nobody holds.
    fn clear_dead_runs(&self, folder: &OwnedFd, base: &Path) {
        // A folder that others own may let us in and not let us look around.
        if let Ok(base) = open(base, OPEN_DIR.difference(OFlag::O_NOFOLLOW), Mode::empty()) {
            self.clear(folder, &base, |name| is_run(name) && is_dead(&base, name));
        }
    }

    fn clear(&self, folder: &OwnedFd, from: &OwnedFd, is_left: impl Fn(&CStr) -> bool) {
        let mut left: Vec<CString> = Vec::new();
        let _ = each(from, |name, kind| {
            if kind == Some(Type::Directory) && is_left(name) {
                left.push(name.to_owned());
            }
            left.len() < CLEARED_MAX
        });
        let until = Instant::now() + WORK_MAX;
        for name in left {
            let removed = self.outgoing(folder).and_then(|to| to.remove(from, &[&name], OF_DEAD_RUNS, until));
            match removed {
                Ok(()) => log::info!("removed {name:?}, which a run that was killed had left"),
                Err(errno) => log::warn!("cannot remove {name:?}, which a run that was killed had left: {errno}"),
            }
        }
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
    if let Some(Identity { uid, gid }) = identity {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        fchownat(&held, c"", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
    }
    Ok(held)
}

/// Names of ours hold no NUL.
fn c_name(name: impl Into<Vec<u8>>) -> CString {
    crate::sys::clone::c_string(name)
}

/// Whether a name is one that we give to a run's folder: `cofferdam-0123456789abcdef`. Anything else that happens to
/// begin like it is somebody's.
fn is_run(name: &CStr) -> bool {
    let run = name.to_str().ok().and_then(|name| name.strip_prefix(PREFIX));
    run.is_some_and(is_run_id)
}

/// Whether a name is that of a run's folder for what it removes.
fn is_outgoing(name: &CStr) -> bool {
    let run = name.to_str().ok().and_then(|name| name.strip_prefix(OUTGOING_PREFIX));
    run.is_some_and(is_run_id)
}

fn is_run_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a run's folder is ours by its owner, and nobody's by its lock.
fn is_dead(base: &OwnedFd, name: &CStr) -> bool {
    let Ok(folder) = openat(base, name, OPEN_DIR, Mode::empty()) else { return false };
    let owned = fstat(folder.as_fd()).is_ok_and(|facts| facts.st_uid == Uid::effective().as_raw());
    owned && Flock::lock(folder, FlockArg::LockExclusiveNonblock).is_ok()
}

/// Whether a name is one that we give to sessions' directories: `s12-0123456789abcdef`.
fn is_session(name: &CStr) -> bool {
    let whole = name.to_str().ok().map(|name| name.strip_prefix(SHELL_PREFIX).unwrap_or(name));
    let Some((session, run)) = whole.and_then(|name| name.split_once('-')) else { return false };
    crate::ids::SessionId::parse(session).is_some() && is_run_id(run)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn workspaces(test: &str) -> (Workspaces, PathBuf) {
        let root = std::env::temp_dir().join(format!("cofferdam-test-{}-{test}", std::process::id()));
        (Workspaces::new(Some(&root), "run", false), root)
    }

    fn path_of(workspace: Workspace) -> PathBuf {
        workspace.path.into()
    }

    #[test]
    fn a_workspace_is_private_and_goes_with_its_session() {
        let (all, root) = workspaces("private");
        let path = path_of(all.make("s1", None).unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(path.join("file"), "x").unwrap();
        assert!(!all.remove_empty("s1"));
        all.remove("s1").unwrap();
        assert!(!path.exists());
        assert!(all.remove_empty("s1"));
        drop(all);
        std::fs::remove_dir(root).unwrap();
    }

    #[test]
    fn a_removal_may_be_asked_for_again_and_again() {
        let (all, root) = workspaces("again");
        let path = path_of(all.make("s1", None).unwrap());
        let neighbour = path_of(all.make("s12", None).unwrap());
        all.make_shell_folder("s1").unwrap();
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        // What an earlier call has left.
        std::fs::create_dir_all(root.join(".outgoing-run/s1/7/x/y")).unwrap();
        for _ in 0..3 {
            all.remove("s1").unwrap();
            let left: Vec<_> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert_eq!(left.len(), 2, "{left:?}");
            assert!(neighbour.exists() && std::fs::read_dir(root.join(".outgoing-run")).unwrap().next().is_none());
        }
        drop(all);
        std::fs::remove_dir(neighbour).unwrap();
        std::fs::remove_dir(root).unwrap();
    }

    #[test]
    fn what_dead_runs_left_goes_and_what_live_ones_have_stays() {
        let (live, root) = workspaces("stale");
        let kept = path_of(live.make("s1", None).unwrap());
        let (other, dead) = (root.join("other"), root.join("s7-0123456789abcdef"));
        std::fs::create_dir_all(dead.join("below")).unwrap();
        let removing = root.join(".outgoing-0123456789abcdef");
        std::fs::create_dir_all(removing.join("s7/3/x")).unwrap();
        std::fs::create_dir(&other).unwrap();
        let start = || Workspaces::new(Some(&root), "0000000000000001", false).open().unwrap();
        start();
        assert!(dead.exists() && kept.exists(), "somebody has the folder");
        drop(live);
        start();
        assert!(!dead.exists() && kept.exists() && other.exists(), "only what bears a session's name goes");
        assert!(!removing.exists(), "and what a dead run was about to remove");
        let (run, somebodys) = (root.join("cofferdam-0123456789abcdef"), root.join("cofferdam-backup"));
        std::fs::create_dir_all(run.join("s1")).unwrap();
        std::fs::create_dir(&somebodys).unwrap();
        let last = Workspaces::new(Some(&root), "0000000000000001", false);
        last.clear_dead_runs(last.folder().unwrap(), &root);
        drop(last);
        assert!(!run.exists() && other.exists());
        assert!(somebodys.exists(), "only what bears a run's name goes");
        std::fs::remove_dir_all(root).unwrap();
    }
}
