//! Runs on `stats`. Owns the counters and histograms of the whole daemon, and looks at /proc when somebody asks.
//!
//! Every thread counts for itself in a [`Tally`] and hands it over from time to time; nobody waits for the statistics,
//! and nothing that was counted is lost when they are behind (invariant 16). What must add up (started = running +
//! finished) is counted by one thread, the gateway.

use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::admission::buffers::Account;
use crate::admission::headroom;
use crate::config::Config;
use crate::mailbox::Mailbox;
use crate::message::{ToGateway, ToStats};
use crate::protocol::encode::Object;
use crate::protocol::fault::Reason;
use crate::protocol::record::Status;

/// What was counted since it was last handed over.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub connections_total: u64,
    pub connections_rejected: u64,
    pub sessions_opened: u64,
    pub sessions_closed: u64,
    pub sessions_reaped_idle: u64,
    pub sessions_rejected: u64,
    pub commands_started: u64,
    pub commands_rejected: u64,
    pub by_status: [u64; STATUSES.len()],
    pub bytes_read: u64,
    pub bytes_dropped: u64,
    pub requests_total: u64,
    pub rate_limited: u64,
    pub errors: [u64; Reason::ALL.len()],
    pub sweeps: u64,
    pub orphans_killed: u64,
    pub zombies_reaped: u64,
    pub ping: Histogram,
    pub exec_spawn: Histogram,
    pub exec_total: Histogram,
    /// Levels, not counts: the last one told is the one that holds.
    pub connections_current: u64,
    pub uids_set_aside: u64,
}

pub const STATUSES: [Status; 9] = [
    Status::Exited,
    Status::Signaled,
    Status::TimedOut,
    Status::CpuLimit,
    Status::MemoryLimit,
    Status::OutputLimit,
    Status::Cancelled,
    Status::Shutdown,
    Status::Unkillable,
];

impl Tally {
    pub fn finished(&mut self, status: Status) {
        let at = STATUSES.iter().position(|known| *known == status).expect("every status stands in the table");
        self.by_status[at] += 1;
    }

    /// Hands over what was counted, unless the statistics are behind: then it is kept.
    pub fn report(&mut self, stats: &Sender<ToStats>) {
        let counted = Box::new(std::mem::take(self));
        if let Err(TrySendError::Full(ToStats::Count(counted))) = stats.try_send(ToStats::Count(counted)) {
            *self = *counted;
        }
    }

    fn add(&mut self, other: &Tally) {
        let pairs = [
            (&mut self.connections_total, other.connections_total),
            (&mut self.connections_rejected, other.connections_rejected),
            (&mut self.sessions_opened, other.sessions_opened),
            (&mut self.sessions_closed, other.sessions_closed),
            (&mut self.sessions_reaped_idle, other.sessions_reaped_idle),
            (&mut self.sessions_rejected, other.sessions_rejected),
            (&mut self.commands_started, other.commands_started),
            (&mut self.commands_rejected, other.commands_rejected),
            (&mut self.bytes_read, other.bytes_read),
            (&mut self.bytes_dropped, other.bytes_dropped),
            (&mut self.requests_total, other.requests_total),
            (&mut self.rate_limited, other.rate_limited),
            (&mut self.sweeps, other.sweeps),
            (&mut self.orphans_killed, other.orphans_killed),
            (&mut self.zombies_reaped, other.zombies_reaped),
        ];
        let tables = [(&mut self.by_status[..], &other.by_status[..]), (&mut self.errors[..], &other.errors[..])];
        for (sum, more) in pairs {
            *sum += more;
        }
        for (sum, more) in tables.into_iter().flat_map(|(sums, more)| sums.iter_mut().zip(more)) {
            *sum += more;
        }
        for (sum, more) in [
            (&mut self.ping, &other.ping),
            (&mut self.exec_spawn, &other.exec_spawn),
            (&mut self.exec_total, &other.exec_total),
        ] {
            sum.add(more);
        }
    }
}

/// Latencies in classes that grow by a quarter: 128 numbers, from a microsecond to an hour.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    classes: Option<Box<[u64; CLASSES]>>,
    count: u64,
    max_us: u64,
}

const CLASSES: usize = 128;

impl Histogram {
    pub fn record(&mut self, micros: u64) {
        let classes = self.classes.get_or_insert_with(|| Box::new([0; CLASSES]));
        classes[class(micros)] += 1;
        self.count += 1;
        self.max_us = self.max_us.max(micros);
    }

    fn add(&mut self, other: &Histogram) {
        let Some(more) = &other.classes else { return };
        let classes = self.classes.get_or_insert_with(|| Box::new([0; CLASSES]));
        for (sum, more) in classes.iter_mut().zip(more.iter()) {
            *sum += more;
        }
        self.count += other.count;
        self.max_us = self.max_us.max(other.max_us);
    }

    /// The upper end of the class that holds the given share of all, in microseconds.
    fn quantile(&self, share: f64) -> u64 {
        let wanted = (self.count as f64 * share).ceil() as u64;
        let mut seen = 0;
        let classes = self.classes.iter().flat_map(|classes| classes.iter());
        for (at, count) in classes.enumerate() {
            seen += count;
            if seen >= wanted.max(1) {
                return upper_end(at).min(self.max_us);
            }
        }
        0
    }

    fn encode(&self, object: &mut Object) {
        object.ms("p50", self.quantile(0.50));
        object.ms("p99", self.quantile(0.99));
        object.ms("max", self.max_us);
        object.int("count", self.count);
    }
}

/// Four classes to each doubling.
fn class(micros: u64) -> usize {
    let value = micros + 4;
    let doubling = 63 - value.leading_zeros() as usize;
    let quarter = (value >> (doubling - 2)) as usize & 3;
    ((doubling - 2) * 4 + quarter).min(CLASSES - 1)
}

fn upper_end(class: usize) -> u64 {
    let (doubling, quarter) = (class / 4 + 2, class as u64 % 4);
    ((4 + quarter + 1) << (doubling - 2)) - 4 - 1
}

/// The thread's state.
pub struct Stats {
    inbox: Receiver<ToStats>,
    gateway: Mailbox<ToGateway>,
    total: Tally,
    /// What the daemon holds for all clients.
    buffers: Account,
    max_sessions: u64,
    max_commands: u64,
    start: Instant,
}

impl Stats {
    pub fn new(inbox: Receiver<ToStats>, gateway: Mailbox<ToGateway>, buffers: Account, config: &Config) -> Self {
        Stats {
            inbox,
            gateway,
            total: Tally::default(),
            buffers,
            max_sessions: config.sessions.max_sessions,
            max_commands: config.commands.max_commands,
            start: Instant::now(),
        }
    }

    fn set_maxima(&mut self, config: &Config) {
        self.max_sessions = config.sessions.max_sessions;
        self.max_commands = config.commands.max_commands;
    }

    pub fn run(mut self) {
        while let Ok(message) = self.inbox.recv() {
            match message {
                ToStats::Count(tally) => self.total.add(&tally),
                ToStats::Snapshot { request, tally } => {
                    self.total.add(&tally);
                    self.total.connections_current = tally.connections_current;
                    self.total.uids_set_aside = tally.uids_set_aside;
                    let mut body = b"\"result\":".to_vec();
                    self.encode(&mut body);
                    self.gateway.tell(ToGateway::Answer { request, body, more: false });
                }
                ToStats::Reload { config } => self.set_maxima(&config),
                ToStats::Stop => return,
            }
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let total = &self.total;
        let finished: u64 = total.by_status.iter().sum();
        let mut all = Object::begin(out);
        all.int("uptime_ms", self.start.elapsed().as_millis() as u64);
        let mut process = all.object("process");
        encode_process(&mut process);
        process.end();
        let mut connections = all.object("connections");
        connections.int("current", total.connections_current);
        connections.int("total", total.connections_total);
        connections.int("rejected", total.connections_rejected);
        connections.end();
        let mut sessions = all.object("sessions");
        sessions.int("current", total.sessions_opened - total.sessions_closed);
        sessions.int("max", self.max_sessions);
        sessions.int("opened", total.sessions_opened);
        sessions.int("closed", total.sessions_closed);
        sessions.int("reaped_idle", total.sessions_reaped_idle);
        sessions.int("rejected", total.sessions_rejected);
        sessions.int("uids_set_aside", total.uids_set_aside);
        sessions.end();
        let mut commands = all.object("commands");
        commands.int("running", total.commands_started - finished);
        commands.int("max", self.max_commands);
        commands.int("started", total.commands_started);
        commands.int("finished", finished);
        commands.int("rejected", total.commands_rejected);
        let mut by_status = commands.object("by_status");
        for (status, count) in STATUSES.iter().zip(total.by_status) {
            by_status.int(status.as_str(), count);
        }
        by_status.end();
        commands.end();
        let mut output = all.object("output");
        output.int("bytes_read", total.bytes_read);
        output.int("bytes_dropped", total.bytes_dropped);
        output.int("buffered_bytes", self.buffers.used());
        output.int("max_buffer_bytes", self.buffers.max());
        output.end();
        let mut requests = all.object("requests");
        requests.int("total", total.requests_total);
        let mut errors = requests.object("errors");
        for (reason, count) in Reason::ALL.iter().zip(total.errors).filter(|(_, count)| *count > 0) {
            errors.int(reason.name(), count);
        }
        errors.end();
        requests.int("rate_limited", total.rate_limited);
        requests.end();
        let mut latency = all.object("latency_ms");
        for (name, histogram) in
            [("ping", &total.ping), ("exec_spawn", &total.exec_spawn), ("exec_total", &total.exec_total)]
        {
            let mut one = latency.object(name);
            histogram.encode(&mut one);
            one.end();
        }
        latency.end();
        let mut reaper = all.object("reaper");
        reaper.int("sweeps", total.sweeps);
        reaper.int("orphans_killed", total.orphans_killed);
        reaper.int("zombies_reaped", total.zombies_reaped);
        reaper.end();
        let mut host = all.object("host");
        encode_host(&mut host);
        host.end();
        all.end();
    }
}

fn encode_process(object: &mut Object) {
    let entries = |path: &str| std::fs::read_dir(path).map_or(0, |entries| entries.count() as u64);
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    object.int("rss_bytes", pages * crate::process::proc::page_bytes());
    object.int("threads", entries("/proc/self/task"));
    // The look itself holds one.
    object.int("fds", entries("/proc/self/fd").saturating_sub(1));
    let cpu = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    let millis = |time: nix::sys::time::TimeVal| (time.tv_sec() * 1000 + time.tv_usec() / 1000).max(0) as u64;
    object.int("cpu_ms", cpu.map_or(0, |cpu| millis(cpu.user_time()) + millis(cpu.system_time())));
}

fn encode_host(object: &mut Object) {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
    };
    object.int("mem_total_bytes", kilobytes("MemTotal"));
    object.int("mem_available_bytes", kilobytes("MemAvailable"));
    object.int("swap_free_bytes", kilobytes("SwapFree"));
    let first = |path: &str, at: usize| -> Option<f64> {
        let text = std::fs::read_to_string(path).ok()?;
        let word = text.split_whitespace().nth(at)?;
        word.rsplit('=').next()?.parse().ok()
    };
    object.float("load1", first("/proc/loadavg", 0).unwrap_or(0.0));
    // Missing where the kernel has no PSI; there but unreadable where it is switched off.
    let pressure = std::fs::read_to_string("/proc/pressure/memory").ok();
    match pressure.and_then(|text| headroom::psi_some_avg10(&text)) {
        Some(share) => object.float("psi_memory_some_avg10", share),
        None => object.null("psi_memory_some_avg10"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_what_it_says() {
        let mut last = 0;
        for micros in (0..10_000).chain([60_000_000, 3_600_000_000, u64::MAX / 2]) {
            let class = class(micros);
            assert!(class >= last, "{micros}");
            last = class;
            if class < CLASSES - 1 {
                assert!(micros <= upper_end(class), "{micros} in {class}");
                assert!(class == 0 || micros > upper_end(class - 1), "{micros} in {class}");
            }
        }
    }

    #[test]
    fn quantiles_are_near_the_truth() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|micros| histogram.record(micros));
        assert!((500..=640).contains(&histogram.quantile(0.5)));
        assert!((990..=1000).contains(&histogram.quantile(0.99)));
        assert_eq!(Histogram::default().quantile(0.99), 0);
    }

    #[test]
    fn inv16_what_cannot_be_handed_over_is_kept() {
        let (sender, receiver) = crossbeam_channel::bounded(1);
        let mut tally = Tally { bytes_read: 1, ..Tally::default() };
        tally.report(&sender);
        tally.bytes_read = 5;
        tally.report(&sender);
        assert_eq!(tally.bytes_read, 5);
        drop(receiver);
    }
}
