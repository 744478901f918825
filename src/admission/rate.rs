//! How often a client may ask: the leaky bucket of nginx's `limit_req`, in integers, its quirks included. Pure: time
//! comes in as milliseconds of a monotonic clock.
//!
//! A bucket holds the requests that came faster than the rate, its *excess*, in thousandths; it leaks at the rate. A
//! request that would bring it over `burst` is refused and leaves no trace: whoever hammers still gets the rate. What is
//! over `delay` and not over `burst` waits until the bucket has leaked down to `delay`. The first request of a key finds
//! no bucket and is free, so that a burst of 10 lets 11 through at once. As in nginx:
//!
//! - a rate a minute is cut to thousandths of a request a second: `1r/m` is one in 62.5 s;
//! - credit never accumulates: without a burst, and at 5 a second, one each 199 ms loses every second request;
//! - a clock that steps back leaks nothing until it has caught up, unless the step is over a minute: then the next
//!   request that is let through starts from the new time.
//!
//! A thousand clients more or less cost nothing to speak of, and the number of those remembered is bounded: the one that
//! was not heard of for longest goes first, and has its burst again.
//!
//! ```
//! use cofferdam::admission::rate::{Limiter, Outcome, Rate, Rule};
//!
//! let rule = Rule { burst: 1, ..Rule::new("5r/s".parse::<Rate>()?) };
//! let mut limiter = Limiter::new(rule, 10_000);
//! assert_eq!(limiter.decide("uid:1000", 0).outcome, Outcome::Pass);
//! assert_eq!(limiter.decide("uid:1000", 0).outcome, Outcome::Delay { ms: 200 });
//! assert_eq!(limiter.decide("uid:1000", 50).outcome, Outcome::Reject { retry_after_ms: 150 });
//! assert_eq!(limiter.decide("uid:1001", 50).outcome, Outcome::Pass);
//! # Ok::<(), cofferdam::admission::rate::RateError>(())
//! ```

mod bucket;
mod keys;
#[cfg(test)]
mod model;
mod rule;
#[cfg(test)]
mod tests;

use self::bucket::Bucket;
use self::keys::Keys;
use crate::config;

pub use self::rule::{Rate, RateError, Rule};

/// A longer key is not limited, nor is an empty one.
pub const KEY_BYTES_MAX: usize = 65_535;

/// Thousandths of a request: what excess and rates are counted in.
const MILLI: u64 = 1000;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on at once.
    Pass,
    /// It goes on after this time, whatever comes meanwhile; its place is taken.
    Delay {
        /// From now.
        ms: u64,
    },
    /// It is refused, and has cost nothing.
    Reject {
        /// The shortest wait after which the same request is not refused, if no other takes its place.
        retry_after_ms: u64,
    },
}

/// A decision, and what it rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What the rule says.
    pub outcome: Outcome,
    /// The bucket with this request in it, in thousandths of a request; of several, the one that decided.
    pub excess: u64,
    /// No limit looked at it: its keys were empty, or too long.
    pub skipped: bool,
    /// What the rule says is not done.
    pub dry_run: bool,
}

impl Decision {
    /// What is to be done.
    pub fn enforced(&self) -> Outcome {
        if self.dry_run { Outcome::Pass } else { self.outcome }
    }

    /// nginx's word for it, as in `$limit_req_status`.
    pub fn status(&self) -> &'static str {
        match (self.outcome, self.dry_run) {
            _ if self.skipped => "",
            (Outcome::Pass, _) => "PASSED",
            (Outcome::Delay { .. }, false) => "DELAYED",
            (Outcome::Delay { .. }, true) => "DELAYED_DRY_RUN",
            (Outcome::Reject { .. }, false) => "REJECTED",
            (Outcome::Reject { .. }, true) => "REJECTED_DRY_RUN",
        }
    }
}

/// One rule, and a bucket for each key that it was asked about lately.
#[derive(Debug)]
pub struct Limiter {
    rule: Rule,
    keys: Keys,
}

impl Limiter {
    /// Remembers at most `keys_max` keys, and one at least.
    pub fn new(rule: Rule, keys_max: usize) -> Limiter {
        Limiter { rule, keys: Keys::new(keys_max) }
    }

    /// The limiter of a configuration, if it asks for one.
    pub fn of_config(config: &config::Rate) -> Result<Option<Limiter>, RateError> {
        Ok(Rule::of_config(config)?.map(|rule| Limiter::new(rule, keys_max(config))))
    }

    /// Changes the rule; what the buckets hold stays, as far as there is still room for them.
    pub fn reconfigure(&mut self, rule: Rule, keys_max: usize) {
        self.rule = rule;
        self.keys.resize(keys_max);
    }

    /// Makes `limiter` what a configuration asks for now, with the buckets that it has.
    pub fn follow_config(limiter: &mut Option<Limiter>, config: &config::Rate) -> Result<(), RateError> {
        match (Rule::of_config(config)?, limiter.as_mut()) {
            (Some(rule), Some(limiter)) => limiter.reconfigure(rule, keys_max(config)),
            (Some(rule), None) => *limiter = Some(Limiter::new(rule, keys_max(config))),
            (None, _) => *limiter = None,
        }
        Ok(())
    }

    /// The rule in effect.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.keys.len() == 0
    }

    /// Decides about one request of `key`, and counts it unless it is refused.
    pub fn decide(&mut self, key: &str, now_ms: u64) -> Decision {
        let dry_run = self.rule.dry_run;
        decide_all(&mut [(self, key)], dry_run, now_ms)
    }

    /// The bucket with one request more in it, if that is within the burst. The key is the latest heard of, whatever
    /// comes of it.
    fn look(&mut self, key: &str, now_ms: u64) -> Look {
        if !is_limited(key) {
            return Look::Skip;
        }
        let excess = self.keys.heard_of(key).map_or(0, |bucket| bucket.with_one_more(self.rule.rate, now_ms));
        if excess > self.rule.burst_milli() { Look::Over(excess) } else { Look::Within(excess) }
    }

    /// Counts a request that every limit lets through; the bucket with it.
    fn charge(&mut self, key: &str, now_ms: u64) -> Option<u64> {
        if !is_limited(key) {
            return None;
        }
        let rate = self.rule.rate;
        let Some(bucket) = self.keys.heard_of(key) else {
            self.keys.insert(key, Bucket::new(now_ms), |oldest| oldest.is_as_good_as_new(rate, now_ms));
            return Some(0);
        };
        let excess = bucket.with_one_more(rate, now_ms);
        bucket.accept(excess, now_ms);
        Some(excess)
    }

    /// The first moment from `from_ms` on when a request of `key` is within the burst.
    fn within_from(&self, key: &str, from_ms: u64) -> u64 {
        self.keys.get(key).map_or(from_ms, |bucket| bucket.within_from(&self.rule, from_ms))
    }
}

fn keys_max(config: &config::Rate) -> usize {
    usize::try_from(config.max_keys).unwrap_or(usize::MAX)
}

fn is_limited(key: &str) -> bool {
    !key.is_empty() && key.len() <= KEY_BYTES_MAX
}

enum Look {
    Skip,
    Within(u64),
    Over(u64),
}

/// Decides about one request under several limits, each with its own key. They are looked at in order, and the first
/// that is over refuses for all: none is charged, and those behind it are not looked at. Otherwise all are charged, and
/// the longest delay counts.
///
/// nginx also makes a bucket for a key that a later limit then refuses, which can drive out another's; here what is
/// refused changes nothing.
pub fn decide_all(limits: &mut [(&mut Limiter, &str)], dry_run: bool, now_ms: u64) -> Decision {
    let mut decision = Decision { outcome: Outcome::Pass, excess: 0, skipped: true, dry_run };
    for at in 0..limits.len() {
        let (limiter, key) = &mut limits[at];
        match limiter.look(key, now_ms) {
            Look::Skip => {}
            Look::Within(excess) => (decision.excess, decision.skipped) = (excess, false),
            Look::Over(excess) => {
                let outcome = Outcome::Reject { retry_after_ms: retry_after_ms(limits, now_ms) };
                return Decision { outcome, excess, skipped: false, dry_run };
            }
        }
    }
    // From the last to the first, as nginx does: of equal delays the last limit's is told.
    let mut longest_ms = 0;
    for (limiter, key) in limits.iter_mut().rev() {
        let Some(excess) = limiter.charge(key, now_ms) else { continue };
        let ms = limiter.rule.delay_ms(excess);
        if ms > longest_ms {
            longest_ms = ms;
            (decision.outcome, decision.excess) = (Outcome::Delay { ms }, excess);
        }
    }
    decision
}

/// The shortest wait after which all of them let the request through. A bucket is full until one moment and not after
/// it, so that each limit moves the time at most once.
fn retry_after_ms(limits: &[(&mut Limiter, &str)], now_ms: u64) -> u64 {
    let mut at_ms = now_ms;
    loop {
        let within_ms = limits.iter().fold(at_ms, |at_ms, (limiter, key)| limiter.within_from(key, at_ms));
        if within_ms == at_ms {
            // One at least, even at the end of time: a client must not spin.
            return (at_ms - now_ms).max(1);
        }
        at_ms = within_ms;
    }
}
