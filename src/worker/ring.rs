//! What is kept of one output. Pure; bounded by its cap, and by the memory that all rings share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::protocol::request::Keep;

/// The memory that all rings and inputs of the daemon may take together.
#[derive(Debug, Clone)]
pub struct Pool {
    used: Arc<AtomicU64>,
    max: u64,
}

impl Pool {
    pub fn new(max: u64) -> Self {
        Pool { used: Arc::default(), max }
    }

    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let add = |used: u64| used.checked_add(bytes as u64).filter(|sum| *sum <= self.max);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

/// A share of the pool; given back when it goes, whatever happens (invariant 9).
#[derive(Debug)]
pub struct Share {
    pool: Pool,
    bytes: usize,
}

impl Share {
    pub fn none(pool: &Pool) -> Self {
        Share { pool: pool.clone(), bytes: 0 }
    }

    /// Makes the share so large, if the pool has it.
    pub fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes && !self.pool.take(bytes - self.bytes) {
            return false;
        }
        if bytes < self.bytes {
            self.pool.give(self.bytes - bytes);
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.pool.give(self.bytes);
    }
}

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
}

/// Rings grow by doubling from here: most outputs are a line or two.
const FIRST_BYTES: usize = 1024;

impl Ring {
    pub fn new(keep: Keep, cap: usize, pool: &Pool) -> Self {
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
            share: Share::none(pool),
        }
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
        let (part, max) = if tail { (&mut self.tail, self.tail_max) } else { (&mut self.head, self.head_max) };
        let needed = part.len() + wanted;
        if needed > part.capacity() {
            let size = needed.next_power_of_two().max(FIRST_BYTES).min(max);
            let before = part.capacity();
            if self.share.resize(self.share.bytes - before + size) && part.try_reserve_exact(size - part.len()).is_err()
            {
                self.share.resize(self.share.bytes + before - size);
            }
        }
        part.capacity() - part.len()
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
        let pool = self.share.pool.clone();
        let mut share = std::mem::replace(&mut self.share, Share::none(&pool));
        share.resize(kept.len());
        (kept, share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(keep: Keep, cap: usize, pieces: &[&[u8]]) -> (Vec<u8>, u64) {
        let pool = Pool::new(1 << 20);
        let mut ring = Ring::new(keep, cap, &pool);
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
        let pool = Pool::new(4096);
        let mut first = Ring::new(Keep::Tail, 1 << 20, &pool);
        first.feed(&[b'a'; 3000]);
        let mut second = Ring::new(Keep::Tail, 1 << 20, &pool);
        second.feed(&[b'b'; 100]);
        first.feed(&[b'c'; 3000]);
        assert!(pool.used() <= 4096);
        assert_eq!(first.total(), 6000);
        let (kept, share) = first.take();
        assert!(kept.len() >= 3000 && kept.ends_with(&[b'c'; 3000]));
        drop((kept, share, first, second));
        assert_eq!(pool.used(), 0);
    }
}
