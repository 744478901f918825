//! What is kept of one output. Pure; bounded by its cap, and by the memory that all share.

use crate::admission::buffers::{Account, Share};
use crate::protocol::request::Keep;

/// Keeps the first, the last, or the first and last bytes of what it is fed, and counts all of them.
#[derive(Debug)]
pub struct Ring {
    head: Vec<u8>,
    head_max: usize,
    tail: Vec<u8>,
    tail_max: usize,
    /// Where the oldest byte of a full tail stands.
    tail_start: usize,
    total: u64,
    share: Share,
    /// Of the share, what it has from the beginning; it allocates only what it needs, but gives none of this back.
    reserved: usize,
}

/// Rings grow by doubling from here: most outputs are a line or two.
const FIRST_BYTES: usize = 1024;

impl Ring {
    /// Grows within its share, and beyond it as far as its account allows.
    pub fn new(keep: Keep, cap: usize, share: Share) -> Self {
        let (head_max, tail_max) = match keep {
            Keep::Head => (cap, 0),
            Keep::Tail => (0, cap),
            Keep::Both => (cap.div_ceil(2), cap / 2),
        };
        Ring {
            head: Vec::new(),
            head_max,
            tail: Vec::new(),
            tail_max,
            tail_start: 0,
            total: 0,
            reserved: share.bytes(),
            share,
        }
    }

    pub fn account(&self) -> &Account {
        self.share.account()
    }

    /// All bytes that it was ever fed.
    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn feed(&mut self, mut bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let head_room = self.head_max - self.head.len();
        if head_room > 0 && self.total - bytes.len() as u64 == self.head.len() as u64 {
            let wanted = bytes.len().min(head_room);
            let room = self.room(wanted, false);
            self.head.extend_from_slice(&bytes[..wanted.min(room)]);
            bytes = &bytes[wanted..];
        }
        if self.tail_max > 0 && !bytes.is_empty() {
            self.feed_tail(bytes);
        }
    }

    fn feed_tail(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(self.tail_max)..];
        let wanted = bytes.len().min(self.tail_max - self.tail.len());
        let grow = if self.tail_start == 0 { wanted.min(self.room(wanted, true)) } else { 0 };
        self.tail.extend_from_slice(&bytes[..grow]);
        let mut rest = &bytes[grow..];
        // The pool has no more: the ring stays as large as it is and drops its oldest bytes.
        rest = &rest[rest.len().saturating_sub(self.tail.len())..];
        while !rest.is_empty() {
            let run = rest.len().min(self.tail.len() - self.tail_start);
            self.tail[self.tail_start..self.tail_start + run].copy_from_slice(&rest[..run]);
            self.tail_start = (self.tail_start + run) % self.tail.len();
            rest = &rest[run..];
        }
    }

    /// Makes room for so many bytes more, as far as cap and pool allow; how many there is room for.
    fn room(&mut self, wanted: usize, tail: bool) -> usize {
        let other = if tail { self.head.capacity() } else { self.tail.capacity() };
        let (part, max) = if tail { (&mut self.tail, self.tail_max) } else { (&mut self.head, self.head_max) };
        let needed = part.len() + wanted;
        if needed > part.capacity() {
            let wished = needed.next_power_of_two().max(FIRST_BYTES).min(max);
            // As far as the account goes, or, where others were faster, as far as the share does.
            let room = usize::try_from(self.share.account().room()).unwrap_or(usize::MAX);
            let size = wished.min(self.share.bytes().saturating_add(room).saturating_sub(other));
            let own = self.share.bytes().saturating_sub(other).min(wished);
            let size = if self.share.resize((other + size).max(self.reserved)) { size } else { own };
            if size > part.capacity() && part.try_reserve_exact(size - part.len()).is_err() {
                self.share.resize((other + part.capacity()).max(self.reserved));
            }
        }
        part.capacity() - part.len()
    }

    /// What is kept now: the output's first bytes, and its last ones in two runs.
    pub fn parts(&self) -> [&[u8]; 3] {
        let (newer, older) = self.tail.split_at(self.tail_start);
        [&self.head, older, newer]
    }

    /// What was kept, in order, and its share of the pool; the ring is empty then.
    pub fn take(&mut self) -> (Vec<u8>, Share) {
        self.tail.rotate_left(self.tail_start);
        self.tail_start = 0;
        let mut kept = std::mem::take(&mut self.head);
        if kept.is_empty() {
            kept = std::mem::take(&mut self.tail);
        } else {
            // Both: the head is as large as the tail or larger, so its growth takes no more than was counted.
            kept.append(&mut self.tail);
        }
        kept.shrink_to_fit();
        let account = self.share.account().clone();
        let mut share = std::mem::replace(&mut self.share, Share::none(&account));
        self.reserved = 0;
        share.resize(kept.len());
        (kept, share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::buffers::Account;

    fn kept(keep: Keep, cap: usize, pieces: &[&[u8]]) -> (Vec<u8>, u64) {
        let pool = Account::of_daemon(1 << 20);
        // Some have all of it from the beginning, some a part, some nothing.
        let reserved = cap * (cap % 3) / 2;
        let mut ring = Ring::new(keep, cap, Share::take(&pool, reserved).unwrap());
        pieces.iter().for_each(|piece| ring.feed(piece));
        let total = ring.total();
        let (kept, share) = ring.take();
        drop((share, ring));
        assert_eq!(pool.used(), 0);
        (kept, total)
    }

    #[test]
    fn inv7_each_way_of_keeping_at_its_edges() {
        for pieces in [&[&b"abcdefgh"[..]][..], &[b"abc", b"defgh"], &[b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h"]]
        {
            for (keep, cap, expected) in [
                (Keep::Tail, 3, &b"fgh"[..]),
                (Keep::Tail, 8, b"abcdefgh"),
                (Keep::Tail, 7, b"bcdefgh"),
                (Keep::Head, 3, b"abc"),
                (Keep::Head, 9, b"abcdefgh"),
                (Keep::Both, 4, b"abgh"),
                (Keep::Both, 5, b"abcgh"),
                (Keep::Both, 8, b"abcdefgh"),
                (Keep::Both, 1, b"a"),
                (Keep::Tail, 0, b""),
                (Keep::Head, 0, b""),
            ] {
                assert_eq!(kept(keep, cap, pieces), (expected.to_vec(), 8), "{keep:?} {cap} {pieces:?}");
            }
        }
    }

    #[test]
    fn a_ring_is_what_a_simple_model_keeps() {
        let mut seed = 7u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize
        };
        for _ in 0..2000 {
            let cap = random() % 5000;
            let all: Vec<Vec<u8>> =
                (0..random() % 8).map(|_| (0..random() % 3000).map(|n| n as u8).collect()).collect();
            let pieces: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
            let whole = all.concat();
            let tail = |cap: usize| whole[whole.len() - cap.min(whole.len())..].to_vec();
            let head = |cap: usize| whole[..cap.min(whole.len())].to_vec();
            let both = if whole.len() <= cap { whole.clone() } else { [head(cap.div_ceil(2)), tail(cap / 2)].concat() };
            for (keep, expected) in [(Keep::Tail, tail(cap)), (Keep::Head, head(cap)), (Keep::Both, both)] {
                assert_eq!(kept(keep, cap, &pieces), (expected, whole.len() as u64), "{keep:?} {cap}");
            }
        }
    }

    #[test]
    fn inv7_a_pool_that_is_used_up_drops_the_oldest_and_is_never_passed() {
        let pool = Account::of_daemon(4096);
        let mut first = Ring::new(Keep::Tail, 1 << 20, Share::none(&pool));
        first.feed(&[b'a'; 3000]);
        let mut second = Ring::new(Keep::Tail, 1 << 20, Share::none(&pool));
        second.feed(&[b'b'; 100]);
        first.feed(&[b'c'; 3000]);
        assert!(pool.used() <= 4096);
        assert_eq!(first.total(), 6000);
        let (kept, share) = first.take();
        assert!(kept.len() >= 3000 && kept.ends_with(&[b'c'; 3000]));
        drop((kept, share, first, second));
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn what_was_reserved_is_there_when_the_pool_is_used_up() {
        let pool = Account::of_daemon(4096 + 2048);
        let share = Share::take(&pool, 2048).unwrap();
        let _others = Share::take(&pool, 4096).unwrap();
        let mut ring = Ring::new(Keep::Tail, 1 << 20, share);
        ring.feed(&[b'a'; 1000]);
        ring.feed(&[b'b'; 5000]);
        assert_eq!(pool.used(), 4096 + 2048);
        assert!(ring.take().0 == [b'b'; 2048]);
    }
}
