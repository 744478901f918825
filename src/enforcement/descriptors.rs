//! Descriptors: what each thing that a client may have takes of them, and what all together need. Pure.

use super::{Host, Row, shown};
use crate::config::Config;
use crate::protocol::request::Run;

/// A socket.
pub const CONNECTION: u64 = 1;
/// What a command needs at most while it starts: three pipes, both ends of each, and its pidfd.
pub const COMMAND: u64 = 7;
/// A shell: its input, its pidfd twice, two files of /proc, the folder of its pipes, the report, two outputs.
pub const SHELL: u64 = 9;
/// The outputs of a command that is over, read on for the background jobs that have them open.
pub const JOB: u64 = 2;
/// So many such commands are in the claim of every shell.
pub const JOBS_CLAIMED: u64 = 4;
/// Such commands of one session; beyond it the oldest are closed, and whoever writes there gets SIGPIPE.
pub const JOBS_MAX: u64 = 32;
/// What is open for moments only: trials and walks of /proc on all errand threads, files being written, and a connection
/// that is accepted to be refused.
pub const WORK: u64 = 64;
/// What the daemon has open for as long as it runs, without its workers: listeners, pollers, wakers, locks, the log.
const OWN: u64 = 32;
/// A poll, its registry, and both ends of a waker.
const WORKER: u64 = 4;
/// `sessions.threads` 0 comes to no more.
const WORKERS_MAX: u64 = 4;

/// What one command takes: while it starts, and as long as it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    pub starting: u64,
    pub running: u64,
}

impl Cost {
    pub fn of(run: &Run, in_shell: bool) -> Cost {
        let pipes = 1 + u64::from(!run.merge_stderr) + u64::from(run.stdin.is_some() || run.stdin_open);
        let constant = |count| Cost { starting: count, running: count };
        match (&run.pty, in_shell) {
            // The master twice, the other side, the pidfd.
            (Some(_), _) => constant(4),
            // Named pipes, of which only we hand in our end; the process is the shell's.
            (None, true) => constant(pipes),
            (None, false) => Cost { starting: 2 * pipes + 1, running: pipes + 1 },
        }
    }
}

/// What the configured maxima need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Those that are for the Unix socket alone are not in it.
    pub connections: u64,
    pub reserved_connections: u64,
    /// For one command of the Unix socket, whatever others run.
    pub reserved_command: u64,
    pub commands: u64,
    /// A shell in each session, with what it claims.
    pub shells: u64,
    /// The background jobs beyond that.
    pub jobs: u64,
}

impl Needs {
    pub fn of(config: &Config) -> Needs {
        let (connections, unix) = (&config.connections, config.unix_socket.is_some());
        let reserved = if unix { connections.reserved_connections } else { 0 };
        let sessions = config.sessions.max_sessions;
        Needs {
            connections: connections.max_connections.saturating_sub(reserved) * CONNECTION,
            reserved_connections: reserved * CONNECTION,
            reserved_command: if unix { COMMAND } else { 0 },
            commands: config.commands.max_commands * COMMAND,
            shells: sessions * (SHELL + JOBS_CLAIMED * JOB),
            jobs: sessions * (JOBS_MAX - JOBS_CLAIMED) * JOB,
        }
    }

    /// Without the background jobs that are in no claim.
    fn claims(&self) -> u64 {
        let reserved = self.reserved_connections + self.reserved_command;
        reserved + self.connections + self.commands + self.shells
    }
}

/// The daemon raises its soft limit to the hard one, and no further.
pub(super) fn connections(config: &Config, host: &Host) -> Row {
    let needs = Needs::of(config);
    let workers = if config.sessions.threads == 0 { WORKERS_MAX } else { config.sessions.threads };
    let least = OWN + workers * WORKER + WORK + needs.claims();
    let (most, available) = (least + needs.jobs, host.hard.nofile);
    let row = Row::new("max_connections", config.connections.max_connections.to_string(), "admission");
    let all = "with max_commands, a shell in each of max_sessions and their background jobs";
    let advice = format!("start it with LimitNOFILE={most} (ulimit -Hn)");
    if available >= most {
        return row.note(format!("{all} up to {most} descriptors, of {}", shown(available)));
    }
    if available >= least {
        return row.advise(advice).note(format!(
            "{all} up to {most} descriptors, and the daemon may open {}: of the background jobs of a shell more than \
             {JOBS_CLAIMED} may lose their outputs",
            shown(available)
        ));
    }
    row.cannot()
        .note(format!("{all} up to {most} descriptors, and the daemon may open {}", shown(available)))
        .advise(format!("{advice}, or lower max_connections, max_commands or max_sessions: {least} are the least"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::request::Program;

    #[test]
    fn a_command_costs_what_its_wiring_has() {
        let mut run = Run::of_host(Program::Shell(String::new()));
        (run.merge_stderr, run.stdin, run.stdin_open) = (false, None, false);
        assert_eq!(Cost::of(&run, false), Cost { starting: 5, running: 3 });
        assert_eq!(Cost::of(&run, true), Cost { starting: 2, running: 2 });
        run.stdin = Some(Vec::new());
        assert_eq!(Cost::of(&run, false), Cost { starting: COMMAND, running: 4 });
        run.merge_stderr = true;
        assert_eq!(Cost::of(&run, true), Cost { starting: 2, running: 2 });
    }

    #[test]
    fn what_is_kept_for_the_unix_socket_is_kept_where_there_is_one() {
        let mut config = Config::default();
        let without = Needs::of(&config);
        assert_eq!((without.connections, without.reserved_connections, without.reserved_command), (256, 0, 0));
        config.unix_socket = Some("/s".into());
        let with = Needs::of(&config);
        assert_eq!((with.connections, with.reserved_connections, with.reserved_command), (252, 4, COMMAND));
        assert_eq!(with.claims(), without.claims() + COMMAND);
    }
}
