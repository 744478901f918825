//! What a session has used up of its budget, and what of it is left. Pure: time comes in.
//!
//! Kept twice, because two threads decide: the gateway refuses the next command by what finished ones have used, the
//! worker ends running ones by what it sees of them as well. Both are told of a finished command by the same figures.

use std::time::{Duration, Instant};

use crate::protocol::budget::Budget;
use crate::protocol::limits::Limits;

/// What a session has used up.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// Commands that ran, and those that have their place and may still fail to start.
    pub commands: u64,
    pub cpu: Duration,
    pub output_bytes: u64,
    /// Since when the session's age counts.
    pub opened: Instant,
}

/// A resource that is used up; limit and usage in the unit of its name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exhausted {
    pub resource: &'static str,
    pub limit: f64,
    pub usage: f64,
}

impl Spent {
    pub fn nothing(opened: Instant) -> Spent {
        Spent { commands: 0, cpu: Duration::ZERO, output_bytes: 0, opened }
    }

    /// A command that ran is over.
    pub fn count(&mut self, cpu: Duration, output_bytes: u64) {
        self.commands += 1;
        self.cpu = self.cpu.saturating_add(cpu);
        self.output_bytes = self.output_bytes.saturating_add(output_bytes);
    }

    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.opened)
    }

    /// The first resource that is used up, in the order of their names. What is used to the last bit is used up: the
    /// next command could use nothing of it.
    pub fn exhausted(&self, budget: &Budget, now: Instant) -> Option<Exhausted> {
        let count = |resource, limit: Option<u64>, usage: u64| {
            let limit = limit.filter(|limit| usage >= *limit)?;
            Some(Exhausted { resource, limit: limit as f64, usage: usage as f64 })
        };
        let time = |resource, limit: Option<Duration>, usage: Duration| {
            let limit = limit.filter(|limit| usage >= *limit)?;
            Some(Exhausted { resource, limit: limit.as_secs_f64(), usage: usage.as_micros() as f64 / 1e6 })
        };
        count("commands", budget.commands, self.commands)
            .or_else(|| time("cpu_sec", budget.cpu, self.cpu))
            .or_else(|| count("output_bytes", budget.output_bytes, self.output_bytes))
            .or_else(|| time("wall_s", budget.wall, self.age(now)))
    }

    /// What one more command may use.
    pub fn left(&self, budget: &Budget) -> Left {
        // At least one: what has nothing left is refused.
        let cpu_ms = |all: Duration| (all.saturating_sub(self.cpu).as_micros().div_ceil(1000) as u64).max(1);
        Left { cpu_ms: budget.cpu.map(cpu_ms), until: budget.wall.map(|wall| self.opened + wall) }
    }
}

/// What is left of a budget for one more command, and ends it when it is used up; none is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    pub cpu_ms: Option<u64>,
    pub until: Option<Instant>,
}

impl Left {
    /// Lowers the limits of a command to what is left; whether its CPU time is bounded by the budget now, and no more
    /// by its own limit.
    pub fn lower(&self, limits: &mut Limits) -> bool {
        let lower = self.cpu_ms.filter(|left| limits.cpu_ms.is_none_or(|limit| *left < limit));
        limits.cpu_ms = lower.or(limits.cpu_ms);
        lower.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn all() -> Budget {
        Budget { commands: Some(3), cpu: Some(MS * 1500), output_bytes: Some(1000), wall: Some(MS * 60_000) }
    }

    fn resource(spent: &Spent, budget: &Budget, now: Instant) -> Option<&'static str> {
        spent.exhausted(budget, now).map(|exhausted| exhausted.resource)
    }

    #[test]
    fn each_resource_lasts_to_its_edge() {
        let now = Instant::now();
        let fresh = Spent::nothing(now);
        let cases: [(&str, Spent, Spent); 3] = [
            ("commands", Spent { commands: 2, ..fresh }, Spent { commands: 3, ..fresh }),
            ("cpu_sec", Spent { cpu: MS * 1500 - MS / 1000, ..fresh }, Spent { cpu: MS * 1500, ..fresh }),
            ("output_bytes", Spent { output_bytes: 999, ..fresh }, Spent { output_bytes: 1000, ..fresh }),
        ];
        for (name, before, at) in cases {
            assert_eq!(resource(&before, &all(), now), None, "{name}");
            assert_eq!(resource(&at, &all(), now), Some(name));
        }
        assert_eq!(resource(&fresh, &all(), now + MS * 60_000 - MS / 1000), None);
        assert_eq!(resource(&fresh, &all(), now + MS * 60_000), Some("wall_s"));
    }

    #[test]
    fn limit_and_usage_are_in_the_unit_of_the_name() {
        let now = Instant::now();
        let cpu = Spent { cpu: MS * 1750, ..Spent::nothing(now) };
        assert_eq!(cpu.exhausted(&all(), now), Some(Exhausted { resource: "cpu_sec", limit: 1.5, usage: 1.75 }));
        let output = Spent { output_bytes: 5000, ..Spent::nothing(now) };
        let told = Exhausted { resource: "output_bytes", limit: 1000.0, usage: 5000.0 };
        assert_eq!(output.exhausted(&all(), now), Some(told));
    }

    #[test]
    fn several_that_are_used_up_are_told_in_the_order_of_their_names() {
        let now = Instant::now();
        let spent = Spent { commands: 9, cpu: MS * 9000, output_bytes: 9000, opened: now };
        let late = now + MS * 90_000;
        let mut budget = all();
        assert_eq!(resource(&spent, &budget, late), Some("commands"));
        budget.commands = None;
        assert_eq!(resource(&spent, &budget, late), Some("cpu_sec"));
        budget.cpu = None;
        assert_eq!(resource(&spent, &budget, late), Some("output_bytes"));
        budget.output_bytes = None;
        assert_eq!(resource(&spent, &budget, late), Some("wall_s"));
        budget.wall = None;
        assert_eq!(resource(&spent, &budget, late), None);
    }

    #[test]
    fn without_a_budget_nothing_is_used_up_and_nothing_overflows() {
        let now = Instant::now();
        let mut spent = Spent::nothing(now);
        for _ in 0..3 {
            spent.count(Duration::from_secs(1 << 40), u64::MAX);
        }
        assert_eq!(spent.exhausted(&Budget::default(), now), None);
        assert_eq!(spent.left(&Budget::default()), Left { cpu_ms: None, until: None });
        assert_eq!(spent.output_bytes, u64::MAX);
    }

    #[test]
    fn what_is_left_is_rounded_up_to_something() {
        let opened = Instant::now();
        let mut spent = Spent::nothing(opened);
        assert_eq!(spent.left(&all()), Left { cpu_ms: Some(1500), until: Some(opened + MS * 60_000) });
        spent.count(MS * 1400 + MS / 4, 0);
        assert_eq!(spent.left(&all()).cpu_ms, Some(100));
        spent.count(MS * 9000, 0);
        assert_eq!(spent.left(&all()).cpu_ms, Some(1));
    }

    #[test]
    fn inv13_what_is_left_lowers_a_limit_and_never_raises_it() {
        let lowered = |left, limit| {
            let mut limits = Limits { cpu_ms: limit, ..Limits::default() };
            let of_budget = Left { cpu_ms: left, until: None }.lower(&mut limits);
            (limits.cpu_ms, of_budget)
        };
        assert_eq!(lowered(Some(500), Some(1000)), (Some(500), true));
        assert_eq!(lowered(Some(500), None), (Some(500), true));
        assert_eq!(lowered(Some(1000), Some(1000)), (Some(1000), false));
        assert_eq!(lowered(Some(2000), Some(1000)), (Some(1000), false));
        assert_eq!(lowered(None, Some(1000)), (Some(1000), false));
        assert_eq!(lowered(None, None), (None, false));
    }

    /// Seeded, so that a failure can be run again.
    #[test]
    fn a_long_life_agrees_with_plain_sums() {
        let mut seed = 42u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..1000 {
            let opened = Instant::now();
            let budget = Budget {
                commands: (random(2) == 0).then(|| random(20) + 1),
                cpu: (random(2) == 0).then(|| MS * (random(2000) as u32 + 1)),
                output_bytes: (random(2) == 0).then(|| random(5000) + 1),
                wall: (random(2) == 0).then(|| MS * (random(5000) as u32 + 1)),
            };
            let mut spent = Spent::nothing(opened);
            let (mut commands, mut cpu_us, mut bytes, mut age_ms) = (0, 0, 0, 0);
            for _ in 0..30 {
                let (us, more) = (random(300_000), random(900));
                spent.count(Duration::from_micros(us), more);
                age_ms += random(400);
                (commands, cpu_us, bytes) = (commands + 1, cpu_us + us, bytes + more);
                let over = [
                    ("commands", budget.commands.is_some_and(|limit| commands >= limit)),
                    ("cpu_sec", budget.cpu.is_some_and(|limit| u128::from(cpu_us) >= limit.as_micros())),
                    ("output_bytes", budget.output_bytes.is_some_and(|limit| bytes >= limit)),
                    ("wall_s", budget.wall.is_some_and(|limit| u128::from(age_ms) >= limit.as_millis())),
                ];
                let expected = over.iter().find(|(_, over)| *over).map(|(name, _)| *name);
                assert_eq!(resource(&spent, &budget, opened + MS * age_ms as u32), expected, "{budget:?} {spent:?}");
            }
        }
    }
}
