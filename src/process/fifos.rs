//! The named pipes between a session's shell and us, in a folder of their own.
//!
//! A shell that lives long cannot be handed descriptors; it opens these by name for each command. A pipe that everybody
//! has closed at the end of a command serves the next one; one that a background job keeps is that job's from then on,
//! and the next command gets a fresh one, so that no byte of a job ever stands in the output of another command.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, mkfifoat, unlinkat};

use super::workspace::Workspaces;
use crate::sys::clone::Identity;

/// The folder, as we hold it.
#[derive(Debug)]
pub struct Fifos {
    folder: OwnedFd,
    path: PathBuf,
    identity: Option<Identity>,
    made: u32,
}

/// One pipe, open on our side.
#[derive(Debug)]
pub struct Fifo {
    name: String,
    /// Its path.
    pub path: String,
    pub end: OwnedFd,
}

/// Which side of a pipe is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Read,
    /// And read, as far as the kernel goes: so it can be opened before anybody reads.
    Write,
}

impl Fifos {
    pub fn make(
        workspaces: &Workspaces,
        session: impl std::fmt::Display,
        identity: Option<Identity>,
    ) -> Result<Fifos, Errno> {
        let (folder, path) = workspaces.make_shell_folder(session)?;
        Ok(Fifos { folder, path, identity, made: 0 })
    }

    /// Uses no name that these have used.
    pub fn go_on_from(&mut self, before: Option<&Fifos>) {
        self.made = before.map_or(0, |before| before.made);
    }

    /// Makes a pipe under a name that was never used.
    pub fn pipe(&mut self, side: Side) -> Result<Fifo, Errno> {
        self.made += 1;
        // Short: some shells read what we write byte by byte.
        let name = format!("{:x}", self.made);
        let _ = unlinkat(&self.folder, name.as_str(), UnlinkatFlags::NoRemoveDir);
        mkfifoat(&self.folder, name.as_str(), Mode::S_IRUSR | Mode::S_IWUSR)?;
        let mode = if side == Side::Read { OFlag::O_RDONLY } else { OFlag::O_RDWR };
        let flags = mode | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let end = openat(&self.folder, name.as_str(), flags, Mode::empty())?;
        // Where the session runs as we do, it can put something else there.
        if fstat(&end)?.st_mode & libc::S_IFMT != libc::S_IFIFO {
            return Err(Errno::ENXIO);
        }
        if let Some(Identity { uid, gid, .. }) = self.identity {
            fchown(&end, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        let path = self.path.join(&name).to_string_lossy().into_owned();
        Ok(Fifo { name, path, end })
    }

    /// Nobody is to open it any more; whoever has it keeps it.
    pub fn retire(&self, fifo: &Fifo) {
        let _ = unlinkat(&self.folder, fifo.name.as_str(), UnlinkatFlags::NoRemoveDir);
    }
}
