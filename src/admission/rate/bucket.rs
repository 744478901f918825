//! The arithmetic of one bucket. Pure; the order of multiplications and divisions is nginx's, and counts.

use super::{MILLI, Rate, Rule};

/// A longer step back of the clock is taken for a new time, a shorter one for none.
const STEP_BACK_MS_MAX: u64 = 60_000;

/// A bucket that leaked out is forgotten after this long.
const REST_MS: u64 = 60_000;

/// Requests over the rate, in thousandths, as of the last one that was let through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bucket {
    excess: u64,
    last_ms: u64,
}

impl Bucket {
    /// After the first request, which is free.
    pub(super) fn new(now_ms: u64) -> Bucket {
        Bucket { excess: 0, last_ms: now_ms }
    }

    fn elapsed_ms(&self, now_ms: u64) -> u64 {
        match now_ms.checked_sub(self.last_ms) {
            Some(elapsed_ms) => elapsed_ms,
            None if self.last_ms - now_ms > STEP_BACK_MS_MAX => 1,
            None => 0,
        }
    }

    /// What it would hold with one request more, now.
    pub(super) fn with_one_more(&self, rate: Rate, now_ms: u64) -> u64 {
        (self.excess + MILLI).saturating_sub(leaked(rate, self.elapsed_ms(now_ms)))
    }

    pub(super) fn accept(&mut self, excess: u64, now_ms: u64) {
        // Not within the same millisecond, nor before the clock has caught up: it would leak the same time twice.
        if self.elapsed_ms(now_ms) != 0 {
            self.last_ms = now_ms;
        }
        self.excess = excess;
    }

    /// The first moment from `from_ms` on when one request more is within the burst.
    pub(super) fn within_from(&self, rule: &Rule, from_ms: u64) -> u64 {
        if self.with_one_more(rule.rate, from_ms) <= rule.burst_milli() {
            return from_ms;
        }
        // It is over now, so this is more than nothing, and more than a step back of the clock lets leak.
        let to_leak = self.excess + MILLI - rule.burst_milli();
        let needed_ms = (to_leak * 1000).div_ceil(rule.rate.milli_per_s());
        self.last_ms.saturating_add(needed_ms).max(from_ms)
    }

    /// Nobody could tell it from none.
    pub(super) fn is_as_good_as_new(&self, rate: Rate, now_ms: u64) -> bool {
        let elapsed_ms = self.elapsed_ms(now_ms);
        elapsed_ms >= REST_MS && leaked(rate, elapsed_ms) >= self.excess + MILLI
    }
}

fn leaked(rate: Rate, elapsed_ms: u64) -> u64 {
    rate.milli_per_s().saturating_mul(elapsed_ms) / 1000
}
