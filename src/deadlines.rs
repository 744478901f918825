//! What is due when. Pure: time comes in, what is due goes out.
//!
//! A thing is due at one time at most: setting it again moves it. Whoever is reminded looks at its own state first, so a
//! reminder that no longer holds does no harm; but none outlives what it is for.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub struct Deadlines<K> {
    order: BTreeSet<(Instant, K)>,
    at: HashMap<K, Instant>,
}

impl<K> Default for Deadlines<K> {
    fn default() -> Self {
        Deadlines { order: BTreeSet::new(), at: HashMap::new() }
    }
}

impl<K: Copy + Ord + Hash> Deadlines<K> {
    pub fn set(&mut self, what: K, at: Instant) {
        if let Some(before) = self.at.insert(what, at) {
            self.order.remove(&(before, what));
        }
        self.order.insert((at, what));
    }

    pub fn clear(&mut self, what: &K) {
        if let Some(at) = self.at.remove(what) {
            self.order.remove(&(at, *what));
        }
    }

    /// The next thing that is due, if any is.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        let (at, what) = *self.order.first()?;
        if at > now {
            return None;
        }
        self.clear(&what);
        Some(what)
    }

    /// All of it is due at this time, if not before.
    pub fn hasten(&mut self, to: Instant) {
        let later: Vec<K> = self.order.iter().filter(|(at, _)| *at > to).map(|(_, what)| *what).collect();
        later.into_iter().for_each(|what| self.set(what, to));
    }

    /// How long to sleep at most.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        self.order.first().map(|(at, _)| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_in_order_and_not_before() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut all = Deadlines::default();
        for ms in [30, 10, 20] {
            all.set(ms, at(ms));
        }
        assert_eq!(all.wait(start), Some(Duration::from_millis(10)));
        assert_eq!(all.pop_due(at(9)), None);
        assert_eq!(all.pop_due(at(20)), Some(10));
        assert_eq!(all.pop_due(at(20)), Some(20));
        assert_eq!(all.pop_due(at(20)), None);
        assert_eq!(all.wait(at(40)), Some(Duration::ZERO));
    }

    #[test]
    fn what_is_hastened_keeps_no_later_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut all = Deadlines::default();
        for ms in [30, 10, 20, 40] {
            all.set(ms, at(ms));
        }
        all.hasten(at(20));
        assert_eq!((all.pop_due(at(15)), all.pop_due(at(15))), (Some(10), None));
        let rest: Vec<u64> = std::iter::from_fn(|| all.pop_due(at(20))).collect();
        assert_eq!(rest, [20, 30, 40]);
        assert_eq!((all.order.len(), all.at.len()), (0, 0));
    }

    #[test]
    fn inv7_a_thing_is_due_once_and_what_is_cleared_is_gone() {
        let start = Instant::now();
        let mut all = Deadlines::default();
        for second in 0..1000 {
            all.set('a', start + Duration::from_secs(second));
        }
        assert_eq!((all.order.len(), all.at.len()), (1, 1));
        all.clear(&'a');
        all.clear(&'a');
        assert_eq!((all.order.len(), all.at.len()), (0, 0));
        assert_eq!(all.wait(start), None);
    }
}
