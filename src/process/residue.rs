//! What the processes of a uid have left when all of them are gone: IPC objects, keys, files in the folders that everybody
//! may write to. It is removed before the uid is another session's.
//!
//! Runs on an errand thread. Many uids are cleaned in one pass, so that a pass costs no more where sessions come and go
//! by the hundred.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::proc;
use super::removal::{Outgoing, each};
use super::spawn::Ticket;
use super::workspace::RUN_PREFIX;
use crate::sys::clone::c_string;
use crate::sys::residue::{Objects, clear_persistent_keyring, mount_queues, remove_as};

/// Uids that were to be cleaned, and what is left of each, if anything is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cleaned {
    pub tried: HashMap<u32, Option<String>>,
}

impl Cleaned {
    fn of_all(uids: &[u32]) -> Cleaned {
        Cleaned { tried: uids.iter().map(|uid| (*uid, None)).collect() }
    }

    /// None of them was cleaned.
    pub fn nothing(uids: &[u32], why: &str) -> Cleaned {
        Cleaned { tried: uids.iter().map(|uid| (*uid, Some(why.to_owned()))).collect() }
    }

    /// Whether one of them is clean, or why not.
    pub fn of(mut self, uid: u32) -> Result<(), String> {
        self.tried.remove(&uid).flatten().map_or(Ok(()), Err)
    }

    fn note(&mut self, uid: u32, what: impl FnOnce() -> String) {
        self.tried.entry(uid).or_default().get_or_insert_with(what);
    }
}

/// Where every uid may leave files on most hosts.
const FOLDERS: [&CStr; 3] = [c"/tmp", c"/var/tmp", c"/dev/shm"];

/// Removes what these uids have left, and tells of which something is left all the same. `helper` tells of the process
/// that does a part of it, while there is one.
pub fn clean(uids: &[u32], helper: &Ticket) -> Cleaned {
    let wanted: HashSet<u32> = uids.iter().copied().collect();
    let mut cleaned = Cleaned::of_all(uids);
    look_for_processes(&wanted, &mut cleaned);
    remove_objects(&wanted, helper, &mut cleaned);
    if let Some(queues) = queues() {
        remove_files(queues, "the message queues", &wanted, &mut cleaned);
    }
    let mut seen = HashSet::new();
    for path in FOLDERS {
        let Ok(folder) = open(path, FOLDER, Mode::empty()) else { continue };
        // One of them may be a link to another.
        if fstat(folder.as_fd()).is_ok_and(|facts| seen.insert((facts.st_dev, facts.st_ino))) {
            remove_files(&folder, &path.to_string_lossy(), &wanted, &mut cleaned);
        }
    }
    look_for_processes(&wanted, &mut cleaned);
    cleaned
}

fn look_for_processes(uids: &HashSet<u32>, cleaned: &mut Cleaned) {
    for pid in proc::all_pids() {
        let uid = proc::uid(pid).filter(|uid| uids.contains(uid));
        if let Some(uid) = uid
            && proc::lives_as(pid, uid)
        {
            cleaned.note(uid, || format!("pid {pid} lives"));
        }
    }
}

/// Whether the queues of messages can be looked through; where they cannot, commands must not make any.
pub fn can_list_queues() -> bool {
    queues().is_some()
}

/// The message queues of our IPC namespace, as a folder that nobody else sees.
fn queues() -> Option<&'static OwnedFd> {
    static QUEUES: OnceLock<Option<OwnedFd>> = OnceLock::new();
    let opened = || {
        mount_queues().ok().or_else(|| {
            let folder = open(c"/dev/mqueue", FOLDER, Mode::empty()).ok()?;
            let kind = nix::sys::statfs::fstatfs(&folder).ok()?.filesystem_type();
            (kind.0 == MQUEUE_MAGIC).then_some(folder)
        })
    };
    QUEUES.get_or_init(opened).as_ref()
}

/// `MQUEUE_MAGIC` of the kernel.
const MQUEUE_MAGIC: nix::libc::__fsword_t = 0x1980_0202;

// Objects that are found by number.

fn remove_objects(uids: &HashSet<u32>, helper: &Ticket, cleaned: &mut Cleaned) {
    for (uid, objects) in objects(uids) {
        remove_as(uid, &objects, &helper.report);
    }
    for uid in objects(uids).into_keys() {
        cleaned.note(uid, || "its System V IPC objects cannot be removed".to_owned());
    }
    for &uid in uids {
        if let Err(errno) = clear_persistent_keyring(uid) {
            cleaned.note(uid, || format!("its keys cannot be removed: {}", errno.desc()));
        }
    }
}

fn objects(uids: &HashSet<u32>) -> HashMap<u32, Objects> {
    let mut found: HashMap<u32, Objects> = HashMap::new();
    let table = |name: &str| std::fs::read_to_string(format!("/proc/sysvipc/{name}")).unwrap_or_default();
    for (id, uid) in owned(&table("shm"), uids) {
        found.entry(uid).or_default().shm.push(id);
    }
    for (id, uid) in owned(&table("msg"), uids) {
        found.entry(uid).or_default().msg.push(id);
    }
    for (id, uid) in owned(&table("sem"), uids) {
        found.entry(uid).or_default().sem.push(id);
    }
    found
}

/// The objects of a table of /proc/sysvipc that these uids own or have made.
fn owned(table: &str, uids: &HashSet<u32>) -> Vec<(i32, u32)> {
    let mut lines = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let head = lines.next().unwrap_or_default();
    let column = |name: &str| head.iter().position(|column| *column == name);
    let (Some(uid), Some(cuid)) = (column("uid"), column("cuid")) else { return Vec::new() };
    let row = |fields: Vec<&str>| {
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u32>().ok());
        let owner = [number(uid), number(cuid)].into_iter().flatten().find(|uid| uids.contains(uid))?;
        Some((fields.get(1)?.parse().ok()?, owner))
    };
    lines.filter_map(row).collect()
}

// Files.

const FOLDER: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC).union(OFlag::O_NONBLOCK);

/// Removes what belongs to these uids in a folder that everybody may write to.
fn remove_files(folder: &OwnedFd, name: &str, uids: &HashSet<u32>, cleaned: &mut Cleaned) {
    let until = Instant::now() + FOLDER_MAX;
    let read = each(folder, |file, _| {
        let Ok(facts) = fstatat(folder, file, AtFlags::AT_SYMLINK_NOFOLLOW) else { return true };
        if uids.contains(&facts.st_uid)
            && let Err(errno) = remove(folder, file, &facts, until)
        {
            cleaned.note(facts.st_uid, || format!("{file:?} in {name} cannot be removed: {}", errno.desc()));
        }
        Instant::now() < until
    });
    if let Err(errno) = read.and_then(|()| if Instant::now() < until { Ok(()) } else { Err(Errno::ETIMEDOUT) }) {
        // What was not seen may be anybody's.
        uids.iter().for_each(|uid| cleaned.note(*uid, || format!("{name} cannot be read: {}", errno.desc())));
    }
}

/// One folder is looked at for so long: a million files are read in less.
const FOLDER_MAX: Duration = Duration::from_secs(3);

fn remove(folder: &OwnedFd, file: &CStr, facts: &FileStat, until: Instant) -> Result<(), Errno> {
    let is_dir = facts.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR;
    let flags = if is_dir { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
    match unlinkat(folder, file, flags) {
        Err(Errno::ENOENT) => Ok(()),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
            let outgoing = outgoing_name();
            let removed = Outgoing::open(folder, &outgoing)?.remove(folder, &[file], c"uid", until);
            let _ = unlinkat(folder, &*outgoing, UnlinkatFlags::RemoveDir);
            removed
        }
        removed => removed,
    }
}

/// A name that nobody can have taken before us, and that a later start knows for one of ours.
fn outgoing_name() -> CString {
    let random = RandomState::new().build_hasher().finish();
    c_string(format!("{RUN_PREFIX}{random:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_found_by_their_owner_and_their_maker() {
        let table = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid\n\
                     388111     7  600  4096 1 2 0   810000 810000 810000 810000\n\
                     388112     8  600  4096 1 2 0   1 1 810001 810001\n\
                     388113     9  600  4096 1 2 0   1 1 1 1\n";
        let uids = HashSet::from([810_000, 810_001]);
        assert_eq!(owned(table, &uids), [(7, 810_000), (8, 810_001)]);
        assert_eq!(owned("", &uids), []);
        assert_eq!(owned("key msqid\n1 2\n", &uids), []);
    }
}
