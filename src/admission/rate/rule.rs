//! How fast, how much at once, and what waits: as it is written and as it is counted. Pure.

use std::fmt;
use std::str::FromStr;

use super::MILLI;
use crate::config;

/// Requests a second, in thousandths; never none at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    milli_per_s: u64,
}

impl Rate {
    /// The most requests a second or minute that can be written.
    pub const REQUESTS_MAX: u32 = 1_000_000;

    /// Thousandths of a request a second.
    pub fn milli_per_s(self) -> u64 {
        self.milli_per_s
    }
}

impl FromStr for Rate {
    type Err = RateError;

    /// Reads `"5r/s"` or `"300r/m"`: a whole number of at least 1, and its unit. That nginx also takes a number without
    /// one (and means a second) is left out: it is as often meant as a minute.
    fn from_str(text: &str) -> Result<Rate, RateError> {
        let wrong = || RateError { text: text.chars().take(64).collect() };
        let (count, seconds) = match (text.strip_suffix("r/s"), text.strip_suffix("r/m")) {
            (Some(count), _) => (count, 1),
            (None, Some(count)) => (count, 60),
            (None, None) => return Err(wrong()),
        };
        if !count.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        match count.parse::<u32>() {
            Ok(count @ 1..=Self::REQUESTS_MAX) => Ok(Rate { milli_per_s: u64::from(count) * MILLI / seconds }),
            _ => Err(wrong()),
        }
    }
}

/// A text that is no rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateError {
    text: String,
}

impl fmt::Display for RateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = Rate::REQUESTS_MAX;
        write!(f, "{:?} is not a rate: 1 to {most} requests a second or minute, as \"5r/s\" or \"300r/m\"", self.text)
    }
}

impl std::error::Error for RateError {}

/// What holds for each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// How fast a bucket leaks.
    pub rate: Rate,
    /// Requests over the rate that are not refused.
    pub burst: u32,
    /// Of those, how many pass at once, before the rest is delayed; none: all of them.
    pub delay: Option<u32>,
    /// Counts as ever, and lets everything pass.
    pub dry_run: bool,
}

impl Rule {
    /// This rate, no burst, no delay.
    pub fn new(rate: Rate) -> Rule {
        Rule { rate, burst: 0, delay: Some(0), dry_run: false }
    }

    /// The rule of a configuration, if it has one.
    pub fn of_config(config: &config::Rate) -> Result<Option<Rule>, RateError> {
        let count = |requests: u64| u32::try_from(requests).unwrap_or(u32::MAX);
        let Some(text) = &config.rate else { return Ok(None) };
        let delay = match config.delay {
            config::Delay::All => Some(0),
            config::Delay::After(requests) => Some(count(requests)),
            config::Delay::None => None,
        };
        Ok(Some(Rule { rate: text.parse()?, burst: count(config.burst), delay, dry_run: config.dry_run }))
    }

    pub(super) fn burst_milli(&self) -> u64 {
        u64::from(self.burst) * MILLI
    }

    /// How long a request waits that finds this excess.
    pub(super) fn delay_ms(&self, excess: u64) -> u64 {
        let Some(delay) = self.delay else { return 0 };
        excess.saturating_sub(u64::from(delay) * MILLI) * 1000 / self.rate.milli_per_s
    }
}
