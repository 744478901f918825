//! The slots of the whole daemon: how many sessions and commands there may be at once. Pure.
//!
//! A slot is claimed before the effect and given back exactly once, whatever happens between (invariant 9).

use crate::protocol::fault::Fault;

/// Slots of sessions and commands.
#[derive(Debug)]
pub struct Slots {
    sessions_max: u64,
    sessions: u64,
    commands_max: u64,
    commands: u64,
}

impl Slots {
    pub fn new(sessions_max: u64, commands_max: u64) -> Self {
        Slots { sessions_max, sessions: 0, commands_max, commands: 0 }
    }

    /// Other maxima. Fewer than are taken is allowed, and only stops new claims.
    pub fn resize(&mut self, sessions_max: u64, commands_max: u64) {
        (self.sessions_max, self.commands_max) = (sessions_max, commands_max);
    }

    pub fn sessions(&self) -> u64 {
        self.sessions
    }

    pub fn commands(&self) -> u64 {
        self.commands
    }

    /// Whether there is a slot for one more session.
    pub fn check_session(&self) -> Result<(), Fault> {
        if self.sessions >= self.sessions_max {
            return Err(Fault::capacity("sessions", self.sessions_max, self.sessions));
        }
        Ok(())
    }

    pub fn claim_session(&mut self) {
        self.sessions += 1;
    }

    pub fn release_session(&mut self) {
        debug_assert!(self.sessions > 0, "a slot is given back once");
        self.sessions -= 1;
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
        for _ in 0..2 {
            assert_eq!(slots.check_session(), Ok(()));
            slots.claim_session();
        }
        assert_eq!(slots.check_session(), Err(Fault::capacity("sessions", 2, 2)));
        slots.release_session();
        assert_eq!((slots.check_session(), slots.sessions()), (Ok(()), 1));
        assert_eq!(slots.check_command(), Ok(()));
        slots.claim_command();
        assert!(slots.check_command().is_err());
        slots.release_command();
        assert_eq!(slots.commands(), 0);
    }

    #[test]
    fn other_maxima_bind_new_claims_only() {
        let mut slots = Slots::new(2, 2);
        (0..2).for_each(|_| slots.claim_session());
        (0..2).for_each(|_| slots.claim_command());
        slots.resize(1, 1);
        assert_eq!(slots.check_session(), Err(Fault::capacity("sessions", 1, 2)));
        assert_eq!(slots.check_command(), Err(Fault::capacity("commands", 1, 2)));
        slots.release_session();
        slots.release_command();
        assert!(slots.check_session().is_err() && slots.check_command().is_err());
        slots.resize(2, 2);
        assert_eq!((slots.check_session(), slots.check_command()), (Ok(()), Ok(())));
    }
}
