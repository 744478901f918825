//! The descriptors that may be open for clients: what the daemon may open, less what it has open itself. Pure but for the
//! atomics of its accounts.
//!
//! Each kind of thing has a part of its own, so that none takes what another needs: whoever opens shells and leaves
//! background jobs in them keeps nobody from connecting or running a command. Where all that is configured fits, no part
//! ever ends before its maximum is reached; where it does not, each kind ends before the daemon does.

use super::account::{Account, Share, Short};
use crate::enforcement::descriptors::{COMMAND, CONNECTION, JOB, JOBS_CLAIMED, Needs, SHELL, WORK};

/// The accounts; cheap to clone.
#[derive(Debug, Clone)]
pub struct Descriptors {
    /// Above all of them.
    all: Account,
    connections: Account,
    commands: Account,
    shells: Account,
    /// Of what is for shells, for background jobs that are in no shell's claim.
    jobs: Account,
    /// For the Unix socket alone, when the other parts are used up.
    reserved_connections: Account,
    reserved_command: Account,
}

/// What of all descriptors is for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parts {
    reserved_connections: u64,
    reserved_command: u64,
    connections: u64,
    commands: u64,
    shells: u64,
    jobs: u64,
}

/// A shell's claim.
const SHELL_CLAIM: u64 = SHELL + JOBS_CLAIMED * JOB;

/// What is left for clients, where the daemon may open so many and has so many open before any of them comes.
pub fn available(may_open: u64, open: u64) -> u64 {
    // Very few are not worth much; what is kept for moments is not to take them all.
    may_open.saturating_sub(open).saturating_sub(WORK.min(may_open / 16))
}

impl Descriptors {
    /// There is nothing to be had before it is divided.
    pub fn new() -> Descriptors {
        let all = Account::of_daemon(0);
        let shells = all.part(0);
        Descriptors {
            connections: all.part(0),
            commands: all.part(0),
            jobs: shells.part(0),
            shells,
            reserved_connections: all.part(0),
            reserved_command: all.part(0),
            all,
        }
    }

    /// There are so many for clients.
    pub fn have(&self, available: u64, needs: &Needs) {
        self.all.set_max(available);
        self.divide(needs);
        let short =
            [(&self.connections, needs.connections), (&self.commands, needs.commands), (&self.shells, needs.shells)];
        if short.iter().any(|(part, need)| part.max() < *need) {
            log::warn!(
                "{available} descriptors are free for clients: room for {} connections, {} commands and {} shells",
                self.connections.max() + self.reserved_connections.max(),
                self.commands.max() / COMMAND,
                self.shells.max() / SHELL_CLAIM
            );
        }
    }

    /// Other maxima are configured. What is taken stays taken.
    pub fn divide(&self, needs: &Needs) {
        let parts = divided(self.all.max(), needs);
        self.reserved_connections.set_max(parts.reserved_connections);
        self.reserved_command.set_max(parts.reserved_command);
        self.connections.set_max(parts.connections);
        self.commands.set_max(parts.commands);
        self.shells.set_max(parts.shells);
        self.jobs.set_max(parts.jobs);
    }

    /// For one more connection.
    pub fn connection(&self, by_unix: bool) -> Result<Share, Short> {
        let share = Share::take(&self.connections, CONNECTION as usize);
        share.or_else(|short| match by_unix {
            true => Share::take(&self.reserved_connections, CONNECTION as usize).map_err(|_| short),
            false => Err(short),
        })
    }

    /// Whether any command could start now.
    pub fn check_command(&self, by_unix: bool) -> Result<(), Short> {
        self.command(COMMAND, by_unix).map(drop)
    }

    /// For a command that takes so many while it starts.
    pub fn command(&self, count: u64, by_unix: bool) -> Result<Share, Short> {
        let share = Share::take(&self.commands, count as usize);
        share.or_else(|short| match by_unix {
            true => Share::take(&self.reserved_command, count as usize).map_err(|_| short),
            false => Err(short),
        })
    }

    /// For a session with a shell, a few background jobs included.
    pub fn shell(&self) -> Result<Share, Short> {
        Share::take(&self.shells, SHELL_CLAIM as usize)
    }

    /// For the outputs of a background job that are in no shell's claim.
    pub fn job(&self) -> Option<Share> {
        Share::take(&self.jobs, JOB as usize).ok()
    }
}

/// Everything that is needed where there is enough. Where there is not: an eighth at most for the Unix socket; of the rest
/// one command always, half at most for connections, half of what is left then for commands; the others for shells. Of
/// these jobs have what all shells together could not claim, and a quarter at least, for one person with few shells.
fn divided(all: u64, needs: &Needs) -> Parts {
    let reserved_connections = needs.reserved_connections.min(all / 8);
    let reserved_command = if all / 8 >= needs.reserved_command { needs.reserved_command } else { 0 };
    let rest = all - reserved_connections - reserved_command;
    let beside_one_command = rest.saturating_sub(COMMAND).min(rest / 2).max(CONNECTION);
    let connections = needs.connections.min(beside_one_command);
    let rest = rest.saturating_sub(connections);
    let half = (rest / 2).max(COMMAND).min(rest);
    // What is too little for a shell is better spent on commands.
    let for_commands = if rest - half < SHELL_CLAIM { rest } else { half };
    let commands = needs.commands.min(for_commands);
    let shells = (rest - commands).min(needs.shells + needs.jobs);
    let jobs = shells.saturating_sub(needs.shells).max(shells / 4).min(needs.jobs);
    Parts { reserved_connections, reserved_command, connections, commands, shells, jobs }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn needs() -> Needs {
        Needs::of(&Config { unix_socket: Some("/s".into()), ..Config::default() })
    }

    #[test]
    fn where_there_is_enough_everything_configured_can_be_had() {
        let needs = needs();
        let all = 256 + 16 * COMMAND + COMMAND + 64 * SHELL_CLAIM;
        for available in [all, all + 1, all + 64 * 28 * JOB, u64::MAX] {
            let parts = divided(available, &needs);
            assert_eq!(parts.connections + parts.reserved_connections, 256);
            assert_eq!((parts.commands, parts.reserved_command), (16 * COMMAND, COMMAND));
            // Every shell, and the jobs take nothing from them but a quarter where there is no more.
            assert!(parts.shells >= 64 * SHELL_CLAIM, "{parts:?}");
        }
        assert_eq!(divided(u64::MAX, &needs).jobs, 64 * 28 * JOB);
    }

    #[test]
    fn no_kind_takes_what_another_has_and_all_together_fit() {
        let needs = needs();
        for all in 0..4000 {
            let parts = divided(all, &needs);
            let sum =
                parts.reserved_connections + parts.reserved_command + parts.connections + parts.commands + parts.shells;
            assert!(sum <= all.max(CONNECTION), "{all}: {parts:?}");
            assert!(parts.jobs <= parts.shells, "{all}: {parts:?}");
            if all >= COMMAND + CONNECTION + 2 {
                assert!(parts.commands >= COMMAND && parts.connections >= 1, "{all}: {parts:?}");
            }
            if all >= 250 {
                assert!(parts.reserved_connections == 4 && parts.reserved_command == COMMAND, "{all}: {parts:?}");
                assert!(parts.shells >= 3 * SHELL_CLAIM, "{all}: {parts:?}");
            }
        }
    }

    #[test]
    fn a_thousand_leave_room_for_every_connection_and_command() {
        let parts = divided(available(1024, 36), &needs());
        assert_eq!((parts.connections, parts.commands), (252, 112));
        assert!(parts.shells / SHELL_CLAIM >= 30, "{parts:?}");
    }

    #[test]
    fn inv9_the_unix_socket_has_a_few_when_all_others_are_taken() {
        let descriptors = Descriptors::new();
        assert!(descriptors.connection(true).is_err(), "nothing is to be had before it is divided");
        descriptors.have(100, &needs());
        let mut taken: Vec<Share> = std::iter::from_fn(|| descriptors.connection(false).ok()).collect();
        taken.extend(std::iter::from_fn(|| descriptors.command(COMMAND, false).ok()));
        taken.extend(std::iter::from_fn(|| descriptors.shell().ok()));
        taken.extend(std::iter::from_fn(|| descriptors.job()));
        let unix: Vec<Share> = std::iter::from_fn(|| descriptors.connection(true).ok()).collect();
        assert_eq!(unix.len(), 4);
        let command = descriptors.command(5, true).unwrap();
        assert!(descriptors.check_command(true).is_err() && descriptors.check_command(false).is_err());
        drop(command);
        assert!(descriptors.check_command(true).is_ok());
        drop((taken, unix));
        assert_eq!(descriptors.all.used(), 0);
    }
}
