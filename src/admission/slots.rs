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
    /// Places that were ever made, taken ones included.
    places: u32,
    /// Places among all sessions that can be open; the one that was free for longest is given next, so that whatever
    /// is tied to a place (a uid) rests before it is used again.
    free_places: VecDeque<u32>,
}

impl Slots {
    pub fn new(sessions_max: u64, commands_max: u64) -> Self {
        let mut slots =
            Slots { sessions_max: 0, commands_max: 0, commands: 0, places: 0, free_places: VecDeque::new() };
        slots.resize(sessions_max, commands_max);
        slots
    }

    /// Other maxima. Fewer than are taken is allowed, and only stops new claims; a place stays what it is, for a uid is
    /// tied to it.
    pub fn resize(&mut self, sessions_max: u64, commands_max: u64) {
        let places = u32::try_from(sessions_max).unwrap_or(u32::MAX);
        self.free_places.extend(self.places..places);
        self.places = self.places.max(places);
        (self.sessions_max, self.commands_max) = (sessions_max, commands_max);
    }

    pub fn sessions(&self) -> u64 {
        u64::from(self.places) - self.free_places.len() as u64
    }

    pub fn commands(&self) -> u64 {
        self.commands
    }

    pub fn claim_session(&mut self) -> Result<u32, Fault> {
        let free = self.sessions() < self.sessions_max;
        let place = if free { self.free_places.pop_front() } else { None };
        place.ok_or_else(|| Fault::capacity("sessions", self.sessions_max, self.sessions()))
    }

    pub fn release_session(&mut self, place: u32) {
        debug_assert!(!self.free_places.contains(&place), "a place is given back once");
        self.free_places.push_back(place);
    }

    /// Whether there is a slot for one more command.
    pub fn check_command(&self) -> Result<(), Fault> {
        if self.commands >= self.commands_max {
            return Err(Fault::capacity("commands", self.commands_max, self.commands));
        }
        Ok(())
    }

    pub fn claim_command(&mut self) {
        self.commands += 1;
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
        assert_eq!(slots.check_command(), Ok(()));
        slots.claim_command();
        assert!(slots.check_command().is_err());
        slots.release_command();
        assert_eq!(slots.commands(), 0);
    }

    #[test]
    fn other_maxima_bind_new_claims_only_and_make_no_place_twice() {
        let mut slots = Slots::new(2, 2);
        let taken = [slots.claim_session().unwrap(), slots.claim_session().unwrap()];
        slots.claim_command();
        slots.claim_command();
        slots.resize(1, 1);
        assert_eq!(slots.claim_session(), Err(Fault::capacity("sessions", 1, 2)));
        assert_eq!(slots.check_command(), Err(Fault::capacity("commands", 1, 2)));
        slots.release_session(taken[0]);
        slots.release_command();
        assert!(slots.claim_session().is_err() && slots.check_command().is_err());
        slots.resize(4, 3);
        let mut places: Vec<u32> = (0..3).map(|_| slots.claim_session().unwrap()).collect();
        places.push(taken[1]);
        places.sort_unstable();
        assert_eq!(places, [0, 1, 2, 3]);
        assert!(slots.claim_session().is_err());
        assert_eq!(slots.sessions(), 4);
    }
}
