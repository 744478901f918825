//! The uids that commands run under, made sure of at the start: locked against other daemons, nobody else's, and on a
//! host where a change of uid takes every right away.

mod entries;
mod strangers;

use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::poll::{PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow};

use super::identity::Policy;
use crate::enforcement::Host;
use crate::sys::clone::Report;
use crate::sys::residue::seal_keyrings;
use crate::sys::starter;

/// Makes sure of the uids of a policy; what it gives is to be kept for as long as they are used. An error says what was
/// found and what to do.
pub fn claim(policy: &Policy, host: &Host) -> Result<Option<UidRange>, String> {
    let Some((first_neutral, neutrals)) = policy.neutrals() else { return Ok(None) };
    check_host(host)?;
    let Some((first, count)) = policy.pool_range() else {
        strangers::refuse(policy, &[(first_neutral, neutrals)])?;
        return Ok(None);
    };
    let ranges = [(first, count), (first_neutral, neutrals)];
    let lock = UidRange::lock(&ranges)?;
    entries::refuse(&ranges)?;
    strangers::end_survivors(policy, &ranges)?;
    Ok(Some(lock))
}

/// Makes these uids ready for sessions, before anything runs under them. The ones that cannot be used.
pub fn prepare(first: u32, count: u32) -> Result<Vec<u32>, String> {
    // The helper shares our memory until it ends, and must run no handler of ours.
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).unwrap_or_else(|_| SigSet::empty());
    let unusable = seal_keyrings(first, count, &Report::default());
    let _ = before.thread_set_mask();
    unusable.ok_or_else(|| {
        format!(
            "children.run_as: the keyrings of uids {} cannot be sealed: a process of ours failed",
            shown((first, count))
        )
    })
}

/// Until its exec a child shares our memory, and has rights of ours that the change of its uid is to take away.
fn check_host(host: &Host) -> Result<(), String> {
    if host.suid_dumpable_debug {
        return Err("children.run_as: fs.suid_dumpable is 1, with which programs that have changed their uid can be \
                    traced by that uid, this daemon's children among them: sysctl fs.suid_dumpable=0 (or 2)"
            .into());
    }
    if starter::keeps_capabilities_across_uids() {
        return Err("children.run_as: this daemon was started with SECBIT_NO_SETUID_FIXUP, so its children \
                    keep its capabilities when they take on the uid of a command: start it without that bit (systemd: \
                    SecureBits=)"
            .into());
    }
    Ok(())
}

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
    fn lock(ranges: &[(u32, u32)]) -> Result<UidRange, String> {
        let open = || {
            use std::os::unix::fs::OpenOptionsExt;
            std::fs::File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(UID_LOCKS)
        };
        let file = open().map_err(|error| format!("children.uid_base: cannot open {UID_LOCKS}: {error}"))?;
        let deadline = Instant::now() + PREDECESSOR;
        for &(first, count) in ranges {
            let range = libc::flock {
                l_type: libc::F_WRLCK as i16,
                l_whence: libc::SEEK_SET as i16,
                l_start: first.into(),
                l_len: count.into(),
                l_pid: 0,
            };
            let mut locked = fcntl(&file, FcntlArg::F_OFD_SETLK(&range));
            while locked.is_err() && Instant::now() < deadline {
                let _ = poll(&mut [], PollTimeout::from(PREDECESSOR_LOOK_MS));
                locked = fcntl(&file, FcntlArg::F_OFD_SETLK(&range));
            }
            locked.map_err(|errno| {
                format!(
                    "children.uid_base: another daemon on this host has uids of {} ({errno}); give this one a range \
                     of its own",
                    shown((first, count))
                )
            })?;
        }
        Ok(UidRange { _lock: file })
    }
}

fn contains((first, count): (u32, u32), id: u32) -> bool {
    id.wrapping_sub(first) < count
}

fn shown((first, count): (u32, u32)) -> String {
    format!("{first} to {}", u64::from(first) + u64::from(count) - 1)
}
