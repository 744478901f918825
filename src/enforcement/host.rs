//! What this host offers to hold limits with, read once from /proc, /sys and the daemon's own limits.
//!
//! Pure but for [`Host::probe`], which never fails: what cannot be read is not there. By files and not by versions,
//! since a container may hide what its kernel has; the one exception is said at `pidfd`.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, User, access, geteuid};
use rlimit::Resource;
use serde::Serialize;

/// Bits of capabilities(7).
const CAP_KILL: u32 = 5;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
const CAP_SYS_RESOURCE: u32 = 24;

/// The first kernel on which waitid takes a pidfd.
const PIDFD_SINCE: (u32, u32) = (5, 4);

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Host {
    /// The effective uid, and its name if it has one.
    pub uid: u32,
    pub user: Option<String>,
    /// The effective capabilities, a bit each.
    pub capabilities: u64,
    /// The uids that exist here, as (first, count), and whether they are those of the host itself.
    pub uid_map: Vec<(u32, u32)>,
    pub initial_user_namespace: bool,
    pub hard: HardLimits,
    /// What RLIMIT_NOFILE cannot pass, whoever asks.
    pub nr_open: u64,
    /// fs.suid_dumpable is 1: a program that has changed its uid can be traced by that uid.
    pub suid_dumpable_debug: bool,
    /// Core dumps go to a program, which a limit of 0 does not stop.
    pub core_pattern_is_pipe: bool,
    pub mem_total_bytes: Option<u64>,
    pub swap_total_bytes: u64,
    /// The daemon's own cgroup on a v2 hierarchy.
    pub cgroup: Option<OwnCgroup>,
    /// /proc/PID/task/TID/children is there: a tree is walked without reading all of /proc.
    pub children_files: bool,
    /// By version: a probe needs a system call of its own, and no file tells.
    pub pidfd: bool,
    pub oom_score_adj: i32,
}

/// The daemon's hard limits; `u64::MAX` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HardLimits {
    pub cpu_sec: u64,
    pub address_space_bytes: u64,
    pub nproc: u64,
    pub nofile: u64,
    pub fsize_bytes: u64,
    pub core_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OwnCgroup {
    pub folder: PathBuf,
    pub controllers: Vec<String>,
    /// Groups can be made and processes moved: it is delegated to us, or we are root.
    pub writable: bool,
}

impl Host {
    /// Looks at the host as the calling process sees it.
    pub fn probe() -> Host {
        let uid = geteuid();
        let meminfo = read("/proc/meminfo");
        let uid_map = uid_ranges(&read("/proc/self/uid_map"));
        Host {
            uid: uid.as_raw(),
            user: User::from_uid(uid).ok().flatten().map(|user| user.name),
            capabilities: effective_capabilities(&read("/proc/self/status")),
            initial_user_namespace: uid_map == [(0, 0, u32::MAX)],
            uid_map: uid_map.iter().map(|&(inside, _, count)| (inside, count)).collect(),
            hard: HardLimits::probe(),
            nr_open: read("/proc/sys/fs/nr_open").trim().parse().unwrap_or(u64::MAX),
            suid_dumpable_debug: read("/proc/sys/fs/suid_dumpable").trim() == "1",
            core_pattern_is_pipe: read("/proc/sys/kernel/core_pattern").starts_with('|'),
            mem_total_bytes: kib_of(&meminfo, "MemTotal:"),
            swap_total_bytes: kib_of(&meminfo, "SwapTotal:").unwrap_or(0),
            cgroup: own_cgroup(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup")).map(OwnCgroup::probe),
            children_files: Path::new("/proc/thread-self/children").exists(),
            pidfd: version(&read("/proc/sys/kernel/osrelease")).is_some_and(|v| v >= PIDFD_SINCE),
            oom_score_adj: read("/proc/self/oom_score_adj").trim().parse().unwrap_or(0),
        }
    }

    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Commands can be given another uid.
    pub fn can_switch_user(&self) -> bool {
        self.has(CAP_SETUID) && self.has(CAP_SETGID)
    }

    /// Processes of another uid can be signalled.
    pub fn can_kill(&self) -> bool {
        self.has(CAP_KILL)
    }

    /// Hard limits can be raised, and an oom_score_adj be made to stick. A capability of a user namespace does not
    /// count: the kernel asks for that of the host.
    pub fn can_raise_limits(&self) -> bool {
        self.has(CAP_SYS_RESOURCE) && self.initial_user_namespace
    }

    /// Whether each of these uids exists in our user namespace.
    pub fn maps(&self, first: u32, count: u32) -> bool {
        let end = u64::from(first) + u64::from(count);
        self.uid_map.iter().any(|&(from, n)| from <= first && end <= u64::from(from) + u64::from(n))
    }

    fn has(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }
}

impl HardLimits {
    fn probe() -> Self {
        let hard = |resource: Resource| resource.get_hard().map_or(u64::MAX, unlimited_is_max);
        HardLimits {
            cpu_sec: hard(Resource::CPU),
            address_space_bytes: hard(Resource::AS),
            nproc: hard(Resource::NPROC),
            nofile: hard(Resource::NOFILE),
            fsize_bytes: hard(Resource::FSIZE),
            core_bytes: hard(Resource::CORE),
        }
    }
}

impl OwnCgroup {
    fn probe(folder: PathBuf) -> Self {
        let controllers = read(folder.join("cgroup.controllers")).split_whitespace().map(str::to_owned).collect();
        let writable = |path: &Path| access(path, AccessFlags::W_OK).is_ok();
        let writable = writable(&folder) && writable(&folder.join("cgroup.procs"));
        OwnCgroup { folder, controllers, writable }
    }
}

/// RLIM_INFINITY is smaller than `u64::MAX` on some platforms.
fn unlimited_is_max(limit: u64) -> u64 {
    if limit == rlimit::INFINITY { u64::MAX } else { limit }
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn effective_capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}

/// (first here, first outside, count) a line: user_namespaces(7).
fn uid_ranges(map: &str) -> Vec<(u32, u32, u32)> {
    map.lines()
        .filter_map(|line| {
            let mut numbers = line.split_whitespace().map(|n| n.parse().ok());
            Some((numbers.next()??, numbers.next()??, numbers.next()??))
        })
        .collect()
}

fn kib_of(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// The folder of our own group on the first cgroup2 mount: proc_pid_mountinfo(5), cgroups(7).
fn own_cgroup(mountinfo: &str, cgroup: &str) -> Option<PathBuf> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        if file_system.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        let below = Path::new(path).strip_prefix(root).ok()?;
        let point = PathBuf::from(unescaped(point));
        // Joined with nothing it would end in a slash.
        Some(if below.as_os_str().is_empty() { point } else { point.join(below) })
    })
}

/// The kernel writes space, tab, newline and backslash of a path as an octal escape.
fn unescaped(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_can_be_probed() {
        let host = Host::probe();
        assert_eq!(host.uid, geteuid().as_raw());
        assert!(host.mem_total_bytes.is_some_and(|n| n > 1 << 20));
        assert!(host.maps(host.uid, 1));
        assert!(host.nr_open >= 1024 && host.hard.nofile <= host.nr_open);
    }

    #[test]
    fn capabilities_are_bits() {
        assert_eq!(effective_capabilities("CapPrm:\tff\nCapEff:\t0000000001000000\n"), 1 << CAP_SYS_RESOURCE);
        assert_eq!(effective_capabilities(""), 0);
    }

    #[test]
    fn uid_ranges_are_of_the_host_or_of_a_namespace() {
        assert_eq!(uid_ranges("         0          0 4294967295\n"), [(0, 0, u32::MAX)]);
        assert_eq!(uid_ranges("0 1000 1\n1 100000 65536\n"), [(0, 1000, 1), (1, 100_000, 65_536)]);
        assert!(uid_ranges("nonsense").is_empty());
    }

    #[test]
    fn memory_and_versions_are_numbers() {
        assert_eq!(kib_of("MemTotal:        2048 kB\nSwapTotal: 0 kB\n", "MemTotal:"), Some(2 << 20));
        assert_eq!(kib_of("", "MemTotal:"), None);
        assert_eq!(version("6.18.44-fc\n"), Some((6, 18)));
        assert_eq!(version("5.4\n"), Some((5, 4)));
        assert_eq!(version("x"), None);
    }

    #[test]
    fn the_own_cgroup_is_found_below_its_mount() {
        let unified = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(own_cgroup(unified, "0::/a/b\n"), Some("/sys/fs/cgroup/a/b".into()));
        // Hybrid: controllers on v1, and a path with a space; a container sees its own part of the tree.
        let hybrid =
            "32 31 0:29 / /c/cpu rw - cgroup cgroup rw,cpu\n41 31 0:38 /box /c/uni\\040fied rw - cgroup2 c rw\n";
        assert_eq!(own_cgroup(hybrid, "8:pids:/\n0::/box/d\n"), Some("/c/uni fied/d".into()));
        assert_eq!(own_cgroup(hybrid, "0::/elsewhere\n"), None);
        assert_eq!(own_cgroup(unified, "0::/\n").unwrap().as_os_str(), "/sys/fs/cgroup");
        assert_eq!(own_cgroup("", "0::/\n"), None);
        assert_eq!(own_cgroup(unified, "8:pids:/\n"), None);
    }
}
