//! The limiter against a reference of a few lines: nginx's formulas in wide signed integers, keys in a list.

use super::*;
use crate::admission::seeded::Seeded;

/// Keys from the one heard of last, each with its excess and the time of the last request that was let through.
struct Reference {
    rule: Rule,
    keys_max: usize,
    keys: Vec<(String, i128, i128)>,
}

impl Reference {
    fn excess(&self, at: usize, now: i128) -> i128 {
        let (_, excess, last) = &self.keys[at];
        let ms = match now - last {
            back if back < -60_000 => 1,
            back if back < 0 => 0,
            ms => ms,
        };
        (excess - i128::from(self.rule.rate.milli_per_s()) * ms / 1000 + 1000).max(0)
    }

    /// Up to two of the oldest, if nothing is left in them for as long as the clock goes on.
    fn forget_two(&mut self, now: i128) {
        for _ in 0..2 {
            let Some((_, excess, last)) = self.keys.last() else { return };
            let (rested, leaked) = (now - last, i128::from(self.rule.rate.milli_per_s()) * (now - last) / 1000);
            if rested < 60_000 || leaked < excess + 1000 {
                return;
            }
            self.keys.pop();
        }
    }

    /// The delay, or none for a refusal; and the excess.
    fn decide(&mut self, key: &str, now: i128) -> (Option<i128>, i128) {
        let Some(at) = self.keys.iter().position(|(known, ..)| known == key) else {
            self.forget_two(now);
            self.keys.insert(0, (key.to_owned(), 0, now));
            self.keys.truncate(self.keys_max);
            return (Some(0), 0);
        };
        let excess = self.excess(at, now);
        let (key, before, last) = self.keys.remove(at);
        if excess > i128::from(self.rule.burst) * 1000 {
            self.keys.insert(0, (key, before, last));
            return (None, excess);
        }
        let caught_up = now > last || now < last - 60_000;
        self.keys.insert(0, (key, excess, if caught_up { now } else { last }));
        let delay = self.rule.delay.map_or(i128::MAX, |requests| i128::from(requests) * 1000);
        let over = (excess - delay.min(excess)).max(0);
        (Some(over * 1000 / i128::from(self.rule.rate.milli_per_s())), excess)
    }
}

fn some_rule(seeded: &mut Seeded) -> Rule {
    let rate = seeded.one_of(&["1r/m", "7r/m", "100r/m", "1r/s", "3r/s", "5r/s", "999r/s", "2000r/s", "1000000r/s"]);
    let delay = seeded.one_of(&[None, Some(0), Some(1), Some(3), Some(u32::MAX)]);
    let burst = seeded.one_of(&[0, 0, 1, 2, 5, 20, 1_000_000, u32::MAX]);
    Rule { burst, delay, ..Rule::new(rate.parse().unwrap()) }
}

fn later(seeded: &mut Seeded, now: u64) -> u64 {
    match seeded.below(100) {
        0 => now.saturating_sub(seeded.below(200_000)),
        1..=3 => now.saturating_sub(seeded.below(1000)),
        4 => now + seeded.below(200_000),
        5..=40 => now,
        _ => now + seeded.below(400),
    }
}

#[test]
fn agrees_with_a_simple_reference() {
    const ROUNDS: u64 = 60;
    const REQUESTS: u64 = 2_000;
    let (mut refused, mut delayed, mut passed) = (0, 0, 0);
    for seed in 0..ROUNDS {
        let mut seeded = Seeded(seed);
        let rule = some_rule(&mut seeded);
        let (keys, keys_max) = (1 + seeded.below(12), 1 + seeded.below(10) as usize);
        let mut limiter = Limiter::new(rule, keys_max);
        let mut reference = Reference { rule, keys_max, keys: Vec::new() };
        let mut now = seeded.below(200_000);
        for nth in 0..REQUESTS {
            now = later(&mut seeded, now);
            if seeded.below(500) == 0 {
                let (rule, keys_max) = (some_rule(&mut seeded), 1 + seeded.below(10) as usize);
                limiter.reconfigure(rule, keys_max);
                (reference.rule, reference.keys_max) = (rule, keys_max);
                reference.keys.truncate(keys_max);
            }
            let key = format!("ip:2001:db8::{}", seeded.below(keys));
            let decision = limiter.decide(&key, now);
            let (expected, excess) = reference.decide(&key, i128::from(now));
            let found = match decision.outcome {
                Outcome::Pass => Some(0),
                Outcome::Delay { ms } => Some(i128::from(ms)),
                Outcome::Reject { .. } => None,
            };
            let place = format!("seed {seed}, request {nth}, {key} at {now}: {decision:?}");
            assert_eq!((found, i128::from(decision.excess)), (expected, excess), "{place}");
            assert_ne!(decision.outcome, Outcome::Delay { ms: 0 }, "{place}");
            assert_eq!(limiter.len(), reference.keys.len(), "{place}");
            match decision.outcome {
                Outcome::Pass => passed += 1,
                Outcome::Delay { .. } => delayed += 1,
                Outcome::Reject { retry_after_ms } => {
                    refused += 1;
                    let (at, burst) = (now + retry_after_ms, i128::from(reference.rule.burst) * 1000);
                    assert!(reference.excess(0, i128::from(at)) <= burst, "{place}");
                    assert!(reference.excess(0, i128::from(at - 1)) > burst, "{place}");
                }
            }
        }
    }
    assert!(refused > 1000 && delayed > 1000 && passed > 1000, "{refused} refused, {delayed} delayed, {passed} passed");
}

/// `retry_after_ms` of several limits: at that moment it passes, and at none before.
#[test]
fn a_refusal_by_several_limits_names_the_first_moment_that_suits_all() {
    let mut refused = 0;
    for seed in 0..300 {
        let mut seeded = Seeded(seed);
        let mut rule = || Rule { burst: seeded.below(4) as u32, ..some_rule(&mut seeded) };
        let rules = [rule(), rule(), rule()];
        let mut limiters = rules.map(|rule| Limiter::new(rule, 4));
        let mut now = 1_000_000;
        for _ in 0..60 {
            now = later(&mut seeded, now);
            // Some requests are under one of them alone, so that each is full at another time.
            match seeded.below(2) {
                0 => drop(limiters[seeded.below(3) as usize].decide("k", now)),
                _ => {
                    let [a, b, c] = &mut limiters;
                    let decision = decide_all(&mut [(a, "k"), (b, "k"), (c, "k")], false, now);
                    let Outcome::Reject { retry_after_ms } = decision.outcome else { continue };
                    refused += 1;
                    let all_within = |at| limiters.iter().all(|limiter| limiter.within_from("k", at) == at);
                    assert!(all_within(now + retry_after_ms), "seed {seed} at {now}: {decision:?}");
                    let before = (now..now + retry_after_ms).rev().take(500);
                    assert_eq!(before.clone().find(|at| all_within(*at)), None, "seed {seed} at {now}: {decision:?}");
                }
            }
        }
    }
    assert!(refused > 1000, "{refused}");
}

/// Any time after any other, under any rule: an answer, and no overflow.
#[test]
fn no_input_panics() {
    let edges = [0, 1, 59_999, 60_000, 60_001, 1 << 31, 1 << 32, u64::MAX / 1000, u64::MAX - 1, u64::MAX];
    let mut seeded = Seeded(1);
    for _ in 0..300 {
        let mut limiter = Limiter::new(some_rule(&mut seeded), seeded.one_of(&[0, 1, 2, usize::MAX]));
        for _ in 0..100 {
            let key = seeded.one_of(&["", "a", "b", "c", "\u{0}", "\u{10ffff}"]);
            if let Outcome::Reject { retry_after_ms } = limiter.decide(key, seeded.one_of(&edges)).outcome {
                assert!(retry_after_ms > 0);
            }
        }
    }
}
