//! When free memory goes back to the system. Pure but for that.
//!
//! What is freed in small blocks stays with the allocator, in case that it is asked for again; behind a client that has
//! sent or kept much, that would be most of our memory for good. All that is large is counted (`admission::buffers`), so
//! it is enough to look how that falls.

use std::time::{Duration, Instant};

use crate::sys::process::give_back_memory;

/// So much less is held than before: worth a look at what is free.
const LARGE_BYTES: u64 = 1 << 20;
/// Given back so long after the last large fall: what comes and goes more often is kept. So it happens once in this time
/// at most.
const QUIET: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct FreeMemory {
    /// The most that was held since the last large fall.
    peak_bytes: u64,
    due: Option<Instant>,
}

impl FreeMemory {
    /// So much is held for clients now.
    pub fn look(&mut self, held_bytes: u64, now: Instant) {
        self.peak_bytes = self.peak_bytes.max(held_bytes);
        if self.peak_bytes - held_bytes >= LARGE_BYTES {
            (self.peak_bytes, self.due) = (held_bytes, Some(now + QUIET));
        }
    }

    /// How long until it is time.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(now))
    }

    /// Nobody has asked for anything just now: if it is time, free memory goes back.
    pub fn rest(&mut self, now: Instant) {
        if self.is_due(now) {
            give_back_memory();
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_back_a_second_after_the_last_large_fall_and_once() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut memory = FreeMemory::default();
        memory.look(LARGE_BYTES - 1, at(0));
        memory.look(0, at(1));
        assert_eq!(memory.wait(at(1)), None, "a small fall");
        memory.look(LARGE_BYTES, at(2));
        memory.look(LARGE_BYTES / 2, at(3));
        memory.look(0, at(4));
        assert_eq!(memory.wait(at(4)), Some(QUIET), "a large one in two steps");
        memory.look(3 * LARGE_BYTES, at(500));
        memory.look(LARGE_BYTES, at(600));
        assert_eq!(memory.wait(at(1100)), Some(Duration::from_millis(500)), "another one puts it off");
        assert!(!memory.is_due(at(1599)) && memory.is_due(at(1600)) && !memory.is_due(at(9000)));
        memory.look(LARGE_BYTES, at(9000));
        memory.look(1, at(9000));
        assert_eq!(memory.wait(at(9000)), None, "what has fallen once does not fall again");
    }
}
