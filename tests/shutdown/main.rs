//! Shutdown, section 9 of the protocol: in order, in haste, and when somebody is killed. And odd starts.
#![allow(clippy::disallowed_methods, reason = "a test starts programs and threads as anybody does")]

#[path = "../support/mod.rs"]
mod support;

mod killed;
mod odd_starts;
mod orderly;

use support::{Conn, DEADLINE, Daemon, Value, json, wait_until};

/// A tree that does all it can to get away: a child, one in a session of its own, one orphaned twice over, all of them
/// deaf to what can be ignored.
pub const TREE: &str = "trap '' TERM HUP INT; sleep 1000 & setsid sleep 1000 & (setsid sh -c 'sleep 1000 & sleep 1000' &) ; \
                    (nohup setsid sleep 1000 >/dev/null 2>&1 &) ; sleep 1000";

/// Starts [`TREE`] in so many sessions and waits until all of it runs.
#[track_caller]
pub fn start_trees(daemon: &Daemon, client: &mut Conn, count: usize) -> Vec<Value> {
    let ids = (0..count).map(|_| client.ask("exec.run", json!({"cmd": TREE}))).collect();
    wait_until("the trees run", DEADLINE, || {
        let sleepers = daemon.commands().iter().filter(|one| one.command.starts_with("sleep 1000")).count();
        (sleepers == 6 * count).then_some(())
    });
    ids
}
