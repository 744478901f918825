//! Log lines that never hold anybody up: a bounded queue, and a thread of its own that writes them.
//!
//! Runs on `log`. A sink that is stuck or full costs lines, which are counted and told when it is free again; it costs
//! no other thread a wait, and no panic.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

/// Lines that may wait. At a line of 200 bytes some 200 KiB.
const LINES_MAX: usize = 1000;
/// A line is cut there.
const LINE_BYTES_MAX: usize = 1024;
/// At the end, what was logged is waited for no longer than this.
const FLUSH: Duration = Duration::from_millis(500);

/// Ends the logging: what was logged before is written first, unless the sink is stuck.
pub struct Logging {
    queue: Sender<Message>,
}

enum Message {
    Line(Vec<u8>),
    Flush(Sender<()>),
}

/// Starts to log to stderr, filtered by `RUST_LOG`, or by the given level where that is not set.
pub fn start(level: &str) -> std::io::Result<Logging> {
    let (queue, lines) = bounded(LINES_MAX);
    let lost = Arc::new(AtomicU64::new(0));
    let sink = Sink { queue: queue.clone(), lost: lost.clone() };
    let env = env_logger::Env::default().default_filter_or(level);
    let mut builder = env_logger::Builder::from_env(env);
    builder.format(|out, record| writeln!(out, "{} {} {}", now(), record.level(), record.args()));
    builder.target(env_logger::Target::Pipe(Box::new(sink)));
    // A program that embeds us may have a logger of its own: then it is the one.
    let _ = builder.try_init();
    crate::threads::thread("log".into(), move || write_lines(&lines, &lost))?;
    Ok(Logging { queue })
}

impl Logging {
    /// Waits, not for long, until what was logged so far is written.
    pub fn flush(&self) {
        let (done, waited) = bounded(1);
        if self.queue.send_timeout(Message::Flush(done), FLUSH).is_ok() {
            let _ = waited.recv_timeout(FLUSH);
        }
    }
}

/// What the logger writes to: takes whole lines, and loses them rather than wait.
struct Sink {
    queue: Sender<Message>,
    lost: Arc<AtomicU64>,
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        let mut cut = line[..line.len().min(LINE_BYTES_MAX)].to_vec();
        if cut.len() < line.len() {
            cut.truncate(LINE_BYTES_MAX - 4);
            cut.extend_from_slice(b"...\n");
        }
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Line(cut)) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn write_lines(lines: &Receiver<Message>, lost: &AtomicU64) {
    let mut stderr = std::io::stderr();
    // The senders live as long as the process.
    while let Ok(message) = lines.recv() {
        match message {
            Message::Line(line) => {
                let missed = lost.swap(0, Ordering::Relaxed);
                if missed > 0 {
                    let _ =
                        writeln!(stderr, "{} WARN {missed} log lines were lost: the log could not be written", now());
                }
                let _ = stderr.write_all(&line);
            }
            Message::Flush(done) => {
                let _ = done.send(());
            }
        }
    }
}

/// The time as `2026-11-22T07:00:00.123Z`.
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    stamp(since.as_secs(), since.subsec_millis())
}

fn stamp(seconds: u64, millis: u32) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Civil from days, by Howard Hinnant: years begin in March, so that the leap day is the last.
    let days = days as i64 + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_people_read_them() {
        assert_eq!(stamp(0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(stamp(951_782_400, 7), "2000-02-29T00:00:00.007Z");
        assert_eq!(stamp(1_795_336_496, 120), "2026-11-22T08:34:56.120Z");
    }

    #[test]
    fn a_full_queue_loses_lines_and_counts_them() {
        let (queue, _lines) = bounded(1);
        let lost = Arc::new(AtomicU64::new(0));
        let mut sink = Sink { queue, lost: lost.clone() };
        for _ in 0..3 {
            assert_eq!(sink.write(b"line\n").unwrap(), 5);
        }
        assert_eq!(lost.load(Ordering::Relaxed), 2);
    }
}
