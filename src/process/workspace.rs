//! The private working directory of a session: made for it, owned by its uid, removed behind it.
//!
//! A worker makes them; an errand removes what is not empty, for that may take long. Nothing here follows a link or
//! joins a path below a directory that a command could write: all goes through held descriptors.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, open, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use crate::sys::clone::Identity;

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
    folder: OnceLock<Result<Flock<OwnedFd>, Errno>>,
}

/// How the removal of a workspace went.
pub type Removed = Result<(), Errno>;

/// What the folder of a session's shell is named with.
const SHELL_PREFIX: &str = "sh-";
/// What every run's own folder is named with.
const PREFIX: &str = "cofferdam-";

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
        self.folder()?;
        if !self.configured {
            clear_dead_runs(&std::env::temp_dir());
        }
        Ok(())
    }

    fn folder(&self) -> Result<&OwnedFd, Errno> {
        let make = || if self.configured { self.open_configured() } else { self.make_own() };
        self.folder.get_or_init(make).as_deref().map_err(|errno| *errno)
    }

    fn mode(&self) -> Mode {
        if self.shared { Mode::S_IRWXU | Mode::S_IXGRP | Mode::S_IXOTH } else { Mode::S_IRWXU }
    }

    fn open_configured(&self) -> Result<Flock<OwnedFd>, Errno> {
        match mkdirat(AT_FDCWD, &self.path, self.mode()) {
            Ok(()) => fchmodat(AT_FDCWD, &self.path, self.mode(), FchmodatFlags::FollowSymlink)?,
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        let folder = || open(&self.path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY, Mode::empty());
        if let Ok(alone) = Flock::lock(folder()?, FlockArg::LockExclusiveNonblock) {
            for (name, is_dir) in entries(&alone)? {
                if is_dir && is_session(&name) {
                    clear(&alone, &name);
                }
            }
        }
        Flock::lock(folder()?, FlockArg::LockShared).map_err(|(_, errno)| errno)
    }

    fn make_own(&self) -> Result<Flock<OwnedFd>, Errno> {
        // Under another name until it is locked: nobody may take it for a dead run's.
        let fresh = self.path.with_file_name(format!(".{PREFIX}{}", self.run));
        mkdirat(AT_FDCWD, &fresh, self.mode())?;
        fchmodat(AT_FDCWD, &fresh, self.mode(), FchmodatFlags::FollowSymlink)?;
        let folder = open(&fresh, OPEN_DIR, Mode::empty())?;
        let locked = Flock::lock(folder, FlockArg::LockShared).map_err(|(_, errno)| errno)?;
        renameat(AT_FDCWD, &fresh, AT_FDCWD, &self.path)?;
        Ok(locked)
    }

    fn name(&self, session: impl std::fmt::Display) -> String {
        format!("{session}-{}", self.run)
    }

    /// Makes a session's directory, 0700, its own uid's.
    pub fn make(&self, session: impl std::fmt::Display, identity: Option<Identity>) -> Result<PathBuf, Errno> {
        let (name, folder) = (self.name(session), self.folder()?);
        mkdirat(folder, name.as_str(), Mode::S_IRWXU)?;
        // The umask may be anything; a workspace is its owner's alone.
        fchmodat(folder, name.as_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
        if let Some(Identity { uid, gid, .. }) = identity {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            fchownat(folder, name.as_str(), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        Ok(self.path.join(name))
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
        fchmodat(folder, name.as_str(), self.mode(), FchmodatFlags::FollowSymlink)?;
        let opened = openat(folder, name.as_str(), OPEN_DIR, Mode::empty())?;
        Ok((opened, self.path.join(name)))
    }

    /// Removes the folder of a session's shell, and the few pipes in it; whether it is gone.
    fn remove_shell_folder(&self, session: impl std::fmt::Display) -> bool {
        let Some(Ok(folder)) = self.folder.get() else { return true };
        let name = format!("{SHELL_PREFIX}{}", self.name(session));
        let Ok(opened) = openat(&**folder, name.as_str(), OPEN_DIR, Mode::empty()) else { return true };
        for (entry, _) in entries(&opened).unwrap_or_default() {
            let _ = unlinkat(&opened, entry.as_c_str(), UnlinkatFlags::NoRemoveDir);
        }
        matches!(unlinkat(&**folder, name.as_str(), UnlinkatFlags::RemoveDir), Ok(()) | Err(Errno::ENOENT))
    }

    /// Removes a directory that is empty, as most are; whether it is gone.
    pub fn remove_empty(&self, session: impl std::fmt::Display) -> bool {
        let Some(Ok(folder)) = self.folder.get() else { return true };
        if !self.remove_shell_folder(&session) {
            return false;
        }
        let removed = unlinkat(&**folder, self.name(session).as_str(), UnlinkatFlags::RemoveDir);
        matches!(removed, Ok(()) | Err(Errno::ENOENT))
    }

    /// Removes a directory and all in it, however deep and whatever its permissions.
    pub fn remove(&self, session: impl std::fmt::Display) -> Removed {
        let name = self.name(session);
        for name in [format!("{SHELL_PREFIX}{name}"), name] {
            let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
            match remove_tree(self.folder()?, &name) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

impl Drop for Workspaces {
    fn drop(&mut self) {
        if !self.configured
            && matches!(self.folder.get(), Some(Ok(_)))
            && let Err(error) = std::fs::remove_dir(&self.path)
        {
            log::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Removes the folders of our own runs that nobody holds.
fn clear_dead_runs(base: &Path) {
    // A folder that others own may let us in and not let us look around.
    let Ok(base) = open(base, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY, Mode::empty()) else { return };
    for (name, is_dir) in entries(&base).unwrap_or_default() {
        if is_dir && is_run(&name) && is_dead(&base, &name) {
            clear(&base, &name);
        }
    }
}

/// Whether a name is one that we give to a run's folder: `cofferdam-0123456789abcdef`. Anything else that happens to
/// begin like it is somebody's.
fn is_run(name: &CStr) -> bool {
    let run = name.to_str().ok().and_then(|name| name.strip_prefix(PREFIX));
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

fn clear(base: &OwnedFd, name: &CStr) {
    match remove_tree(base, name) {
        Ok(()) => log::info!("removed {name:?}, which a run that was killed had left"),
        Err(errno) => log::warn!("cannot remove {name:?}, which a run that was killed had left: {errno}"),
    }
}

const OPEN_DIR: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK);

/// Empties `top` and removes it. A directory found in it is emptied of what is no directory, its own directories are
/// moved up into `top`, and then it goes: two descriptors whatever the depth, and no recursion.
pub fn remove_tree(parent: &OwnedFd, top_name: &CStr) -> Removed {
    let top = match open_owned(parent, top_name) {
        Err(Errno::ENOENT) => return Ok(()),
        top => top?,
    };
    let mut moved = 0u64;
    loop {
        let found = entries(&top)?;
        if found.is_empty() {
            return unlinkat(parent, top_name, UnlinkatFlags::RemoveDir);
        }
        for (name, is_dir) in found {
            if !is_dir || unlinkat(&top, name.as_c_str(), UnlinkatFlags::RemoveDir).is_ok() {
                if !is_dir {
                    unlinkat(&top, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
                }
                continue;
            }
            let below = open_owned(&top, &name)?;
            for (name, is_dir) in entries(&below)? {
                if !is_dir {
                    unlinkat(&below, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
                } else if unlinkat(&below, name.as_c_str(), UnlinkatFlags::RemoveDir).is_err() {
                    moved += 1;
                    let _ = open_owned(&below, &name)?; // a directory that is moved must be writable itself
                    renameat(&below, name.as_c_str(), &top, format!(".moved-{moved}").as_str())?;
                }
            }
            unlinkat(&top, name.as_c_str(), UnlinkatFlags::RemoveDir)?;
        }
    }
}

/// Opens a directory without following a link; where its permissions forbid it, they are changed through the handle.
fn open_owned(parent: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let held = openat(parent, name, OPEN_DIR | OFlag::O_PATH, Mode::empty())?;
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&held));
    let owner_may = fstat(held.as_fd())?.st_mode & 0o700 == 0o700;
    if !owner_may {
        fchmodat(AT_FDCWD, path.as_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
    }
    openat(parent, name, OPEN_DIR, Mode::empty())
}

/// Entries taken at a time: a directory of millions must not become a list of millions.
const ENTRIES_MAX: usize = 4096;

fn entries(dir: &OwnedFd) -> Result<Vec<(CString, bool)>, Errno> {
    // A description of its own, so that each reading starts at the beginning.
    let mut dir = Dir::openat(dir, c".", OPEN_DIR, Mode::empty())?;
    let mut found = Vec::new();
    for entry in dir.iter().take(ENTRIES_MAX) {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        // A file system that does not tell the type is asked by trying: rmdir of a file fails with ENOTDIR.
        found.push((name.to_owned(), entry.file_type() == Some(Type::Directory)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn workspaces(test: &str) -> (Workspaces, PathBuf) {
        let root = std::env::temp_dir().join(format!("cofferdam-test-{}-{test}", std::process::id()));
        (Workspaces::new(Some(&root), "run", false), root)
    }

    #[test]
    fn a_workspace_is_private_and_goes_with_its_session() {
        let (all, root) = workspaces("private");
        let path = all.make("s1", None).unwrap();
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
    fn what_dead_runs_left_goes_and_what_live_ones_have_stays() {
        let (live, root) = workspaces("stale");
        let (kept, other, dead) =
            (live.make("s1", None).unwrap(), root.join("other"), root.join("s7-0123456789abcdef"));
        std::fs::create_dir_all(dead.join("below")).unwrap();
        std::fs::create_dir(&other).unwrap();
        let start = || Workspaces::new(Some(&root), "0000000000000001", false).open().unwrap();
        start();
        assert!(dead.exists() && kept.exists(), "somebody has the folder");
        drop(live);
        start();
        assert!(!dead.exists() && kept.exists() && other.exists(), "only what bears a session's name goes");
        let (run, somebodys) = (root.join("cofferdam-0123456789abcdef"), root.join("cofferdam-backup"));
        std::fs::create_dir_all(run.join("s1")).unwrap();
        std::fs::create_dir(&somebodys).unwrap();
        clear_dead_runs(&root);
        assert!(!run.exists() && other.exists());
        assert!(somebodys.exists(), "only what bears a run's name goes");
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn depth_links_and_permissions_do_not_hinder_the_removal() {
        let (all, root) = workspaces("deep");
        let path = all.make("s2", None).unwrap();
        let outside = root.join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, path.join("link")).unwrap();
        std::os::unix::fs::symlink("..", path.join("loop")).unwrap();
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        std::fs::write(path.join("a/b/file"), "x").unwrap();
        std::fs::set_permissions(path.join("a/b"), std::fs::Permissions::from_mode(0o0)).unwrap();
        std::fs::set_permissions(path.join("a"), std::fs::Permissions::from_mode(0o0)).unwrap();
        let mut deep = openat(AT_FDCWD, &path, OPEN_DIR, Mode::empty()).unwrap();
        for _ in 0..3000 {
            mkdirat(&deep, "d", Mode::S_IRWXU).unwrap();
            deep = openat(&deep, "d", OPEN_DIR, Mode::empty()).unwrap();
        }
        for file in 0..5000 {
            std::fs::write(path.join(format!("f{file}")), "").unwrap();
        }
        all.remove("s2").unwrap();
        assert!(!path.exists());
        assert!(outside.join("kept").exists());
        drop(all);
        std::fs::remove_dir_all(root).unwrap();
    }
}
