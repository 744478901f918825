//! The host's memory that commands leave alone. Deciding is pure; what is available is asked of the kernel.
//!
//! No reservation: commands that were let in a moment ago and have not grown yet are not counted. Their own limits, and
//! what the kernel does when memory runs out all the same, come after this one.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// What the host has available, asked for at most once in a while.
#[derive(Debug)]
pub struct Headroom {
    meminfo: Option<File>,
    asked_at: Option<Instant>,
    available: Option<u64>,
}

/// An answer is good for so long. Asking takes 2 µs here and 30 µs on hosts with many processors: with this never
/// more than 3 % of the time.
const FRESH: Duration = Duration::from_millis(1);

/// Too little is available.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tight {
    /// What is available above the reserve.
    pub limit: u64,
    /// What was asked for; -1 is unlimited.
    pub usage: i64,
}

impl Headroom {
    pub fn new() -> Self {
        let meminfo = File::open("/proc/meminfo").inspect_err(|error| {
            log::warn!("cannot open /proc/meminfo, so memory.reserve_bytes does not bind: {error}");
        });
        Headroom { meminfo: meminfo.ok(), asked_at: None, available: None }
    }

    /// Bytes that could be had without swapping; none where the kernel does not tell.
    pub fn available(&mut self, now: Instant) -> Option<u64> {
        if self.asked_at.is_none_or(|at| now.saturating_duration_since(at) >= FRESH) {
            self.asked_at = Some(now);
            self.available = self.meminfo.as_ref().and_then(|file| {
                // The line is the third of the file.
                let mut text = [0; 256];
                let read = file.read_at(&mut text, 0).ok()?;
                parse_available(&text[..read])
            });
        }
        self.available
    }
}

/// Whether a command may start that asks for so much (`memory_bytes`; none: unlimited). Strict, all of it must be
/// available above the reserve, and unlimited never is; else only the reserve itself must be.
pub fn admits(available: u64, reserve: u64, strict: bool, memory_bytes: Option<u64>) -> Result<(), Tight> {
    let fits = available >= reserve && (!strict || memory_bytes.is_some_and(|asked| available - reserve >= asked));
    if fits {
        return Ok(());
    }
    let usage = memory_bytes.map_or(-1, |asked| i64::try_from(asked).unwrap_or(i64::MAX));
    Err(Tight { limit: available.saturating_sub(reserve), usage })
}

fn parse_available(meminfo: &[u8]) -> Option<u64> {
    let line = meminfo.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"MemAvailable:"))?;
    let number = std::str::from_utf8(line).ok()?.trim().strip_suffix(" kB")?;
    number.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Share of the last ten seconds in which some task waited for memory, in percent, from `/proc/pressure/memory`.
pub fn psi_some_avg10(pressure: &str) -> Option<f64> {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    let share = some.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?;
    share.parse().ok().filter(|share: &f64| share.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_must_be_there_and_strictly_what_is_asked_above_it() {
        let tight = |limit, usage| Err(Tight { limit, usage });
        assert_eq!(admits(100, 100, false, Some(50)), Ok(()));
        assert_eq!(admits(99, 100, false, Some(50)), tight(0, 50));
        assert_eq!(admits(99, 100, false, None), tight(0, -1));
        assert_eq!(admits(0, 0, false, None), Ok(()));
        assert_eq!(admits(150, 100, true, Some(50)), Ok(()));
        assert_eq!(admits(149, 100, true, Some(50)), tight(49, 50));
        assert_eq!(admits(u64::MAX, 0, true, None), tight(u64::MAX, -1));
        assert_eq!(admits(10, u64::MAX, true, Some(u64::MAX)), tight(0, i64::MAX));
    }

    #[test]
    fn meminfo_is_read_whatever_stands_around() {
        let text = b"MemTotal:       24684084 kB\nMemFree:  1 kB\nMemAvailable:   24321920 kB\nBuffers: ";
        assert_eq!(parse_available(text), Some(24_321_920 * 1024));
        for text in [&b""[..], b"MemAvailable:", b"MemAvailable: 12", b"MemAvailable: x kB\n", b"MemFree: 1 kB\n"] {
            assert_eq!(parse_available(text), None, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn this_host_tells_and_is_not_asked_all_the_time() {
        let mut headroom = Headroom::new();
        let now = Instant::now();
        let first = headroom.available(now).expect("Linux has told it since 3.14");
        assert!(first > 0);
        headroom.meminfo = None;
        assert_eq!(headroom.available(now + FRESH / 2), Some(first));
        assert_eq!(headroom.available(now + FRESH), None);
    }

    #[test]
    fn pressure_is_a_number_or_unknown() {
        let text = "some avg10=1.25 avg60=0.00 avg300=0.00 total=7\nfull avg10=9.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(psi_some_avg10(text), Some(1.25));
        assert_eq!(psi_some_avg10("full avg10=9.00\n"), None);
        assert_eq!(psi_some_avg10(""), None);
        assert_eq!(psi_some_avg10("some avg10=nan"), None);
    }
}
