//! The uids of a pool: which one is the next session's. Pure; each is known by its number, from 0.
//!
//! Of those that are clean the one that was unused for longest is given out, so that each rests as long as the pool
//! allows. One comes round only when what its last session has left is gone: it *rests* until somebody has looked, and is *set aside* where something
//! could not be removed, until that is gone as well.

use std::collections::{BTreeMap, HashMap, HashSet};

/// The uids of a pool.
#[derive(Debug)]
pub struct Uids {
    /// As many as there are.
    count: u32,
    /// Those from here on were never given out.
    unused_from: u32,
    /// Those from here on are not prepared to be given out.
    unprepared_from: u32,
    /// Never to be given out: they could not be prepared.
    unusable: HashSet<u32>,
    /// Clean, by when they came out of use.
    clean: BTreeMap<u64, u32>,
    /// To be cleaned, likewise.
    resting: BTreeMap<u64, u32>,
    /// Being cleaned, or set aside, and when they came out of use.
    others: HashMap<u32, Other>,
    last_release: u64,
}

#[derive(Debug, Clone, Copy)]
struct Other {
    released: u64,
    aside: bool,
}

/// What became of a uid when its session was gone, or when it was cleaned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Clean,
    Rests,
    SetAside,
}

impl Uids {
    pub fn new(count: u32) -> Uids {
        let (clean, resting) = (BTreeMap::new(), BTreeMap::new());
        let (others, unusable) = (HashMap::new(), HashSet::new());
        Uids { count, unused_from: 0, unprepared_from: 0, unusable, clean, resting, others, last_release: 0 }
    }

    pub fn count(&self) -> u32 {
        self.count
    }

    /// Uids that can be given out now.
    pub fn free(&self) -> u64 {
        u64::from(self.count - self.unused_from) + self.clean.len() as u64
    }

    /// Whether less than half of them can be given out now.
    pub fn is_half_used(&self) -> bool {
        self.free() * 2 < u64::from(self.count)
    }

    pub fn set_aside(&self) -> u64 {
        (self.others.values().filter(|other| other.aside).count() + self.unusable.len()) as u64
    }

    /// Those that are to be prepared next, as first and count, where fewer than `ahead` are ready.
    pub fn to_prepare(&self, ahead: u32) -> Option<(u32, u32)> {
        let left = self.count - self.unprepared_from;
        let short = self.unprepared_from - self.unused_from < ahead;
        (short && left > 0).then_some((self.unprepared_from, left.min(ahead)))
    }

    /// So many more are prepared, but for those that cannot be used.
    pub fn prepared(&mut self, count: u32, unusable: impl IntoIterator<Item = u32>) {
        self.unprepared_from += count;
        self.unusable.extend(unusable);
    }

    pub fn claim(&mut self) -> Option<u32> {
        while self.unused_from < self.unprepared_from {
            self.unused_from += 1;
            if !self.unusable.contains(&(self.unused_from - 1)) {
                return Some(self.unused_from - 1);
            }
        }
        self.clean.pop_first().map(|(_, uid)| uid)
    }

    /// Takes back what was given out, or what was to be cleaned.
    pub fn release(&mut self, uid: u32, fate: Fate) {
        let released = match self.others.remove(&uid) {
            Some(other) => other.released,
            None => {
                self.last_release += 1;
                self.last_release
            }
        };
        let before = match fate {
            Fate::Clean => self.clean.insert(released, uid),
            Fate::Rests => self.resting.insert(released, uid),
            Fate::SetAside => self.others.insert(uid, Other { released, aside: true }).map(|_| uid),
        };
        debug_assert_eq!(before, None, "each comes back once");
    }

    /// Whether some are to be cleaned.
    pub fn rest(&self) -> bool {
        !self.resting.is_empty()
    }

    /// Takes those that are to be cleaned, so many at most; each comes back by `release`. `aside`: also those whose
    /// cleaning has failed before.
    pub fn take_to_clean(&mut self, most: usize, aside: bool) -> Vec<u32> {
        let mut uids = Vec::new();
        if aside {
            uids.extend(self.others.iter().filter(|(_, other)| other.aside).map(|(uid, _)| *uid).take(most));
        }
        while uids.len() < most
            && let Some((released, uid)) = self.resting.pop_first()
        {
            self.others.insert(uid, Other { released, aside: false });
            uids.push(uid);
        }
        uids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inv9_each_uid_is_given_out_in_turn_through_the_whole_pool() {
        let mut uids = Uids::new(4);
        uids.prepared(4, []);
        for round in 0..3 {
            for expected in 0..4 {
                assert_eq!(uids.claim(), Some(expected), "round {round}");
                uids.release(expected, Fate::Clean);
            }
        }
        let all: Vec<_> = (0..5).map(|_| uids.claim()).collect();
        assert_eq!(all, [Some(0), Some(1), Some(2), Some(3), None]);
        assert_eq!(uids.free(), 0);
    }

    #[test]
    fn one_is_given_out_only_when_it_is_prepared() {
        let mut uids = Uids::new(5);
        assert_eq!((uids.claim(), uids.to_prepare(4), uids.free()), (None, Some((0, 4)), 5));
        uids.prepared(4, [1]);
        assert_eq!(uids.to_prepare(4), None);
        assert_eq!((uids.claim(), uids.claim(), uids.set_aside()), (Some(0), Some(2), 1));
        assert_eq!(uids.to_prepare(4), Some((4, 1)));
        uids.prepared(1, []);
        assert_eq!((uids.claim(), uids.claim(), uids.claim(), uids.to_prepare(4)), (Some(3), Some(4), None, None));
    }

    #[test]
    fn one_comes_round_only_when_it_is_clean() {
        let mut uids = Uids::new(2);
        uids.prepared(2, []);
        let (one, two) = (uids.claim().unwrap(), uids.claim().unwrap());
        uids.release(one, Fate::Rests);
        uids.release(two, Fate::SetAside);
        assert_eq!((uids.claim(), uids.free(), uids.set_aside(), uids.rest()), (None, 0, 1, true));
        assert_eq!(uids.take_to_clean(8, false), [one]);
        assert!(!uids.rest() && uids.take_to_clean(8, false).is_empty());
        uids.release(one, Fate::Clean);
        // What is set aside stays so while it is tried again.
        assert_eq!((uids.take_to_clean(8, true), uids.set_aside()), (vec![two], 1));
        uids.release(two, Fate::SetAside);
        assert_eq!((uids.claim(), uids.claim()), (Some(one), None));
        uids.release(two, Fate::Clean);
        assert_eq!((uids.claim(), uids.set_aside()), (Some(two), 0));
        // The order is that of their last use, and not of their cleaning.
        uids.release(one, Fate::Rests);
        uids.release(two, Fate::Clean);
        assert_eq!(uids.take_to_clean(1, true), [one]);
        uids.release(one, Fate::Clean);
        assert_eq!((uids.claim(), uids.claim()), (Some(one), Some(two)));
    }
}
