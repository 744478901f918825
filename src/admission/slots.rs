//! The slots of the whole daemon: how many sessions and commands there may be at once. Pure.
//!
//! A slot is claimed before the effect and given back exactly once, whatever happens between (invariant 9).

use std::collections::VecDeque;

use crate::protocol::fault::Fault;

/// Slots of sessions and commands.
#[derive(Debug)]
pub struct Slots {
    sessions_max: u64,
    commands_max: u64,
    commands: u64,
    /// Places among all sessions that can be open; the one that was free for longest is given next, so that whatever
    /// is tied to a place (a uid) rests before it is used again.
    free_places: VecDeque<u32>,
}

impl Slots {
    pub fn new(sessions_max: u64, commands_max: u64) -> Self {
        let places = u32::try_from(sessions_max).unwrap_or(u32::MAX);
        Slots { sessions_max, commands_max, commands: 0, free_places: (0..places).collect() }
    }

    pub fn commands(&self) -> u64 {
        self.commands
    }

    pub fn claim_session(&mut self) -> Result<u32, Fault> {
        self.free_places.pop_front().ok_or_else(|| Fault::capacity("sessions", self.sessions_max, self.sessions_max))
    }

    pub fn release_session(&mut self, place: u32) {
        debug_assert!(!self.free_places.contains(&place), "a place is given back once");
        self.free_places.push_back(place);
    }

    pub fn claim_command(&mut self) -> Result<(), Fault> {
        if self.commands >= self.commands_max {
            return Err(Fault::capacity("commands", self.commands_max, self.commands));
        }
        self.commands += 1;
        Ok(())
    }

    pub fn release_command(&mut self) {
        debug_assert!(self.commands > 0, "a slot is given back once");
        self.commands -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inv9_slots_end_at_the_bound_and_come_back() {
        let mut slots = Slots::new(2, 1);
        assert_eq!(slots.claim_session(), Ok(0));
        assert_eq!(slots.claim_session(), Ok(1));
        assert!(slots.claim_session().is_err());
        slots.release_session(0);
        assert_eq!(slots.free_places.len(), 1);
        assert_eq!(slots.claim_session(), Ok(0));
        assert_eq!(slots.claim_command(), Ok(()));
        assert!(slots.claim_command().is_err());
        slots.release_command();
        assert_eq!(slots.commands(), 0);
    }
}
