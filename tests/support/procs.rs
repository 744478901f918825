//! Reading /proc: who runs, who belongs to whom, who carries a mark.

use std::fs;

/// A process as /proc shows it.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub state: char,
    pub uid: u32,
    /// Start time in clock ticks: with the pid, it names a process for good.
    pub started: u64,
    pub command: String,
}

/// Every process, zombies included.
pub fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| read(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
}

fn read(pid: i32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name may hold anything, closing parentheses included: the last one ends it.
    let (head, tail) = stat.rsplit_once(')')?;
    let mut fields = tail.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 22 of stat; 3 and 4 are taken above.
    let started = fields.nth(17)?.parse().ok()?;
    let uid = status_field(pid, "Uid:")?.split_whitespace().next()?.parse().ok()?;
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = match line.is_empty() {
        true => head.to_owned(),
        false => String::from_utf8_lossy(&line).replace('\0', " "),
    };
    Some(Process { pid, parent, state, uid, started, command })
}

/// The rest of the line of /proc/PID/status that starts with `name`.
pub fn status_field(pid: i32, name: &str) -> Option<String> {
    let status = fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    status.lines().find_map(|line| line.strip_prefix(name)).map(|rest| rest.trim().to_owned())
}

/// Highest resident memory so far, in bytes.
pub fn peak_rss_bytes(pid: i32) -> u64 {
    let kib = status_field(pid, "VmHWM:").unwrap();
    kib.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Children of `parent`, zombies included.
pub fn children(parent: i32) -> Vec<Process> {
    all().into_iter().filter(|process| process.parent == parent).collect()
}

/// Live processes whose initial environment holds `mark`.
pub fn marked(mark: &str) -> Vec<Process> {
    all().into_iter().filter(|process| process.state != 'Z' && carries(process.pid, mark)).collect()
}

/// Live processes of a uid in the range.
pub fn of_uids(range: std::ops::Range<u32>) -> Vec<Process> {
    all().into_iter().filter(|process| process.state != 'Z' && range.contains(&process.uid)).collect()
}

/// One process, if there is one of this number.
pub fn one(pid: i32) -> Option<Process> {
    read(pid)
}

pub fn is_alive(pid: i32) -> bool {
    read(pid).is_some_and(|process| process.state != 'Z')
}

fn carries(pid: i32, mark: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.windows(mark.len()).any(|window| window == mark.as_bytes())
}

/// Open descriptors and threads, where /proc lets us see both. One folder, that of the workspaces, is opened at the first
/// session and kept: it counts from the start. Threads for errands do not count: they come when they are needed, up to
/// sixteen, and stay.
pub fn descriptors_and_threads(pid: i32) -> Option<(usize, usize)> {
    let entries: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().collect();
    let folders = entries.iter().filter(|entry| fs::metadata(entry.path()).is_ok_and(|target| target.is_dir())).count();
    let threads = threads(pid).into_iter().filter(|name| !name.starts_with("errand-")).count();
    Some((entries.len() - folders + folders.max(1), threads))
}

/// The names of its threads.
pub fn threads(pid: i32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}
