//! What runs that were killed have left in our folders, removed at the start.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use nix::dir::Type;
use nix::fcntl::{Flock, FlockArg, OFlag, open, openat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::Uid;

use super::Workspaces;
use super::names::{is_outgoing, is_run, is_session};
use crate::process::removal::{OPEN_DIR, WORK_MAX, each};

/// Where in that folder the leavings of other runs go.
const OF_DEAD_RUNS: &CStr = c"dead";
/// Names that a start clears from one folder: the rest is for the next one.
const CLEARED_MAX: usize = 4096;

impl Workspaces {
    /// Removes what dead runs have left in a folder that nobody else has now.
    pub(super) fn clear_folder(&self, folder: &OwnedFd) {
        let own = self.outgoing_name();
        self.clear(folder, folder, |name| is_session(name) || (is_outgoing(name) && name != &*own));
    }

    /// Removes the folders of our own runs that nobody holds.
    pub(super) fn clear_dead_runs(&self, folder: &OwnedFd, base: &Path) {
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

/// Whether a run's folder is ours by its owner, and nobody's by its lock.
fn is_dead(base: &OwnedFd, name: &CStr) -> bool {
    let Ok(folder) = openat(base, name, OPEN_DIR, Mode::empty()) else { return false };
    let owned = fstat(folder.as_fd()).is_ok_and(|facts| facts.st_uid == Uid::effective().as_raw());
    owned && Flock::lock(folder, FlockArg::LockExclusiveNonblock).is_ok()
}
