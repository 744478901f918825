//! The uids of a pool: locked against other daemons, and looked at for strangers. Runs once, at the start.

use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::poll::{PollTimeout, poll};

use super::identity::Policy;
use super::proc;

/// The uids of a pool, locked: another daemon's range on this host cannot overlap it. A file lock per byte, a byte per
/// uid; the kernel gives it back whenever and however this process ends.
#[derive(Debug)]
pub struct UidRange {
    _lock: std::fs::File,
}

/// One place for all daemons of a host that can switch uids.
const UID_LOCKS: &str = "/run/cofferdam-uids.lock";

/// A predecessor that was killed ends its commands before it gives its uids back: a restart waits for that.
const PREDECESSOR: Duration = Duration::from_secs(3);
const PREDECESSOR_LOOK_MS: u16 = 20;

impl UidRange {
    pub fn lock(base: u32, count: u32) -> Result<UidRange, String> {
        let open = || {
            use std::os::unix::fs::OpenOptionsExt;
            std::fs::File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(UID_LOCKS)
        };
        let file = open().map_err(|error| format!("children.uid_base: cannot open {UID_LOCKS}: {error}"))?;
        let range = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: base.into(),
            l_len: count.into(),
            l_pid: 0,
        };
        let deadline = Instant::now() + PREDECESSOR;
        let mut locked = fcntl(&file, FcntlArg::F_OFD_SETLK(&range));
        while locked.is_err() && Instant::now() < deadline {
            let _ = poll(&mut [], PollTimeout::from(PREDECESSOR_LOOK_MS));
            locked = fcntl(&file, FcntlArg::F_OFD_SETLK(&range));
        }
        match locked {
            Ok(_) => Ok(UidRange { _lock: file }),
            Err(errno) => Err(format!(
                "children.uid_base: {base} with uid_count {count}: another daemon on this host has uids of that range \
                 ({errno}); give this one a range of its own"
            )),
        }
    }
}

/// Nobody else may have a neutral uid: who had could signal what we do as a command's uid.
pub fn refuse_neutral_processes(policy: &Policy) -> Result<(), String> {
    let Some((first, count)) = policy.neutrals() else { return Ok(()) };
    let found = proc::all_pids().into_iter().find_map(|pid| {
        let (real, effective) = proc::uids(pid)?;
        let is_stranger = real.wrapping_sub(first) < count && !policy.acts(real, effective);
        is_stranger.then(|| format!("process {pid} ({}) runs as uid {real}", proc::name(pid)))
    });
    match found {
        None => Ok(()),
        Some(found) => Err(format!(
            "children.uid_base: {found}, and the uids {first} to {} have to be nobody's, for the daemon has them while \
             it starts or ends a command: end it, or set another uid_base",
            first + (count - 1)
        )),
    }
}
