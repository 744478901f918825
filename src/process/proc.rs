//! What /proc tells about processes. Reads only, into buffers of a bounded size.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

/// One line of `/proc/PID/stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub pid: i32,
    pub state: u8,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// Clock ticks of the process itself, and of the children that it waited for.
    pub cpu_ticks: u64,
    /// Of the process itself alone.
    pub own_ticks: u64,
    /// Of these, those in the kernel.
    pub system_ticks: u64,
    pub threads: u64,
    /// When it was started; with the pid it names a process for good.
    pub started: u64,
    pub vm_bytes: u64,
    pub rss_bytes: u64,
}

impl Stat {
    /// CPU time of itself and of the children that it has waited for.
    pub fn cpu_ms(&self) -> u64 {
        self.cpu_ticks * 1000 / ticks_a_second()
    }

    pub fn is_alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X' | b'x') || self.is_headless()
    }

    /// The first thread has ended and others have not: the process lives on in them, and is a zombie to look at.
    fn is_headless(&self) -> bool {
        self.state == b'Z' && self.threads > 1
    }

    /// The same with the state and the memory of a thread that lives, where the first one shows neither any more.
    fn completed(self) -> Stat {
        if !self.is_headless() {
            return self;
        }
        match living_thread(self.pid) {
            Some((_, Stat { state, vm_bytes, rss_bytes, .. })) => Stat { state, vm_bytes, rss_bytes, ..self },
            None => self,
        }
    }
}

/// A process that is looked at again and again: its files stay open, and show nothing of any other process.
#[derive(Debug)]
pub struct Gauge {
    pid: i32,
    stat: File,
    children: File,
}

impl Gauge {
    pub fn open(pid: i32) -> std::io::Result<Gauge> {
        let stat = File::open(format!("/proc/{pid}/stat"))?;
        Ok(Gauge { pid, stat, children: File::open(format!("/proc/{pid}/task/{pid}/children"))? })
    }

    pub fn stat(&self) -> Option<Stat> {
        let mut buffer = [0; STAT_BYTES];
        let read = self.stat.read_at(&mut buffer, 0).ok()?;
        parse_stat(&buffer[..read], page_bytes()).map(|found| Stat { pid: self.pid, ..found }.completed())
    }

    /// Whether it has no child, not even a dead one.
    pub fn is_childless(&self) -> bool {
        matches!(self.children.read_at(&mut [0; 16], 0), Ok(0))
    }
}

/// Longer than any stat line: the name is 64 bytes at most, and there are 50 numbers.
const STAT_BYTES: usize = 2048;

pub fn stat(pid: i32) -> Option<Stat> {
    stat_at(&format!("/proc/{pid}")).map(|found| Stat { pid, ..found }.completed())
}

/// What the folder of a process, or of a thread, says.
fn stat_at(folder: &str) -> Option<Stat> {
    let mut buffer = [0; STAT_BYTES];
    parse_stat(read(&format!("{folder}/stat"), &mut buffer)?, page_bytes())
}

/// A thread that lives, by its folder.
fn living_thread(pid: i32) -> Option<(String, Stat)> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let lives = |task: std::fs::DirEntry| {
        let folder = task.path().display().to_string();
        let stat = stat_at(&folder).filter(|stat| !matches!(stat.state, b'Z' | b'X' | b'x'))?;
        Some((folder, stat))
    };
    tasks.flatten().find_map(lives)
}

fn parse_stat(text: &[u8], page_bytes: u64) -> Option<Stat> {
    let text = std::str::from_utf8(text.get(text.iter().rposition(|byte| *byte == b')')? + 2..)?).ok()?;
    let fields: Vec<&str> = text.split_ascii_whitespace().take(24).collect();
    let number = |at: usize| fields.get(at - 3)?.parse::<i64>().ok();
    Some(Stat {
        pid: 0,
        state: *fields.first()?.as_bytes().first()?,
        parent: number(4)? as i32,
        group: number(5)? as i32,
        session: number(6)? as i32,
        own_ticks: (number(14)? + number(15)?).max(0) as u64,
        cpu_ticks: (number(14)? + number(15)? + number(16)? + number(17)?).max(0) as u64,
        system_ticks: (number(15)? + number(17)?).max(0) as u64,
        threads: number(20)?.max(1) as u64,
        started: number(22)?.max(0) as u64,
        vm_bytes: number(23)?.max(0) as u64,
        rss_bytes: number(24)?.max(0) as u64 * page_bytes,
    })
}

pub fn page_bytes() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten().map_or(4096, |bytes| bytes as u64)
}

/// Clock ticks a second, as `/proc/PID/stat` counts them.
pub fn ticks_a_second() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().map_or(100, |ticks| ticks as u64)
}

/// The effective uid of a process, whether it is dumpable or not: nobody but the kernel decides it.
pub fn uid(pid: i32) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{pid}")).ok().map(|facts| facts.uid())
}

/// Whether a process lives, and runs under this uid by its real one as well. A process of ours that acts under a uid for a
/// moment has another real one.
pub fn lives_as(pid: i32, uid: u32) -> bool {
    self::uid(pid) == Some(uid) && stat(pid).is_some_and(|stat| stat.is_alive()) && uids(pid) == Some((uid, uid))
}

/// The real and the effective uid of a process.
pub fn uids(pid: i32) -> Option<(u32, u32)> {
    let mut buffer = [0; STATUS_BYTES];
    let text = String::from_utf8_lossy(read(&format!("/proc/{pid}/status"), &mut buffer)?).into_owned();
    let mut uids = text.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace();
    Some((uids.next()?.parse().ok()?, uids.next()?.parse().ok()?))
}

/// The uids stand among the first lines of a process's status.
const STATUS_BYTES: usize = 1024;

/// The name of the program that a process runs, as the kernel keeps it; none: it is gone.
pub fn name(pid: i32) -> String {
    let mut buffer = [0; 64];
    let name = read(&format!("/proc/{pid}/comm"), &mut buffer).unwrap_or_default();
    String::from_utf8_lossy(name).trim_end().to_owned()
}

/// Bytes of an environment that are looked at: ours stands first, as it was put there first.
const ENVIRON_BYTES: usize = 16 * 1024;

/// What the first environment of a process says of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Environ {
    /// Its line, `NAME=value`.
    Line(Vec<u8>),
    /// It is not there, or not for us to read.
    Without,
    /// The process is in the middle of an exec, the old environment gone and the new one not there yet, or it is ending:
    /// a later look will tell.
    NotNow,
}

/// The line of a process's first environment that begins so.
pub fn environ(pid: i32, start: &[u8]) -> Environ {
    let found = environ_at(&format!("/proc/{pid}"), start);
    if found != Environ::NotNow {
        return found;
    }
    // The first thread may have ended, and with it what it shows.
    living_thread(pid).map_or(found, |(folder, _)| environ_at(&folder, start))
}

fn environ_at(folder: &str, start: &[u8]) -> Environ {
    let mut buffer = vec![0; ENVIRON_BYTES];
    let Some(text) = read(&format!("{folder}/environ"), &mut buffer) else {
        // One that ends has no memory any more, and its environment is for nobody without capabilities to read.
        let has_memory = stat_at(folder).is_some_and(|stat| stat.vm_bytes > 0);
        return if has_memory { Environ::Without } else { Environ::NotNow };
    };
    if text.is_empty() && !has_empty_environment(folder) {
        return Environ::NotNow;
    }
    let line = text.split(|byte| *byte == 0).find(|line| line.starts_with(start));
    line.map_or(Environ::Without, |line| Environ::Line(line.to_vec()))
}

/// An environment that is empty begins and ends at one address. One that is still to come has none yet; and where it
/// has come since somebody found nothing, it ends after it begins.
fn has_empty_environment(folder: &str) -> bool {
    const ENV_START: usize = 50;
    let mut buffer = [0; STAT_BYTES];
    let text = read(&format!("{folder}/stat"), &mut buffer);
    let fields = text.and_then(|text| {
        let text = std::str::from_utf8(text.get(text.iter().rposition(|byte| *byte == b')')? + 2..)?).ok()?;
        let mut fields = text.split_ascii_whitespace().skip(ENV_START - 3);
        Some((fields.next()?, fields.next()?))
    });
    fields.is_some_and(|(start, end)| start == end && end != "0")
}

/// The children of all threads of a process.
pub fn children(pid: i32, threads: u64) -> Vec<i32> {
    if threads <= 1 {
        return listed(&format!("/proc/{pid}/task/{pid}/children"));
    }
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks.flatten().flat_map(|task| listed(&format!("{}/children", task.path().display()))).collect()
}

fn listed(path: &str) -> Vec<i32> {
    let mut text = String::new();
    let _ = File::open(path).map(|file| file.take(CHILDREN_BYTES).read_to_string(&mut text));
    numbers(text.as_bytes()).collect()
}

/// More children than this at a time are taken in the next turn.
const CHILDREN_BYTES: u64 = 64 * 1024;

/// The numbers in a list of processes.
pub fn numbers(text: &[u8]) -> impl Iterator<Item = i32> {
    text.split(|byte| !byte.is_ascii_digit()).filter_map(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
}

/// Signals that this process ignores or has a handler for; bit N-1 for signal N. All, where that cannot be read.
pub fn own_signals() -> u64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return u64::MAX };
    let mask = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    mask("SigIgn:").zip(mask("SigCgt:")).map_or(u64::MAX, |(ignored, caught)| ignored | caught)
}

/// Every process of the host.
pub fn all_pids() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Tasks (threads) of a uid on this host.
pub fn tasks_of(uid: u32) -> u64 {
    all_pids().into_iter().filter(|pid| self::uid(*pid) == Some(uid)).filter_map(stat).map(|stat| stat.threads).sum()
}

fn read<'a>(path: &str, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut file = File::open(path).ok()?;
    let mut read = 0;
    while read < buffer.len() {
        match file.read(&mut buffer[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(_) => return None,
        }
    }
    Some(&buffer[..read])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_brackets_does_not_shift_the_fields() {
        let line = b"42 (a) b (c)) S 1 40 39 0 -1 4194560 99 0 0 0 7 5 3 1 20 0 6 0 123 8192 2 18446744073709551615 0";
        let stat = parse_stat(line, 4096).unwrap();
        assert_eq!((stat.state, stat.parent, stat.group, stat.session), (b'S', 1, 40, 39));
        assert_eq!((stat.cpu_ticks, stat.threads, stat.started), (16, 6, 123));
        assert_eq!((stat.vm_bytes, stat.rss_bytes), (8192, 8192));
    }

    #[test]
    fn our_own_process_is_found() {
        let own = std::process::id() as i32;
        assert!(stat(own).unwrap().is_alive());
        assert!(all_pids().contains(&own));
        assert!(tasks_of(uid(own).unwrap()) >= 1);
    }
}
