//! Guard or runtime killed: whoever is left ends every tree.

use std::os::unix::process::ExitStatusExt;

use crate::start_trees;
use crate::support::{DEADLINE, Daemon, Launch, Signal, is_root, json, skip, wait_until};

#[test]
fn inv15_when_the_runtime_is_killed_the_guard_leaves_nothing_behind() {
    for signal in [Signal::SIGKILL, Signal::SIGABRT] {
        let mut daemon = Daemon::start(&[]);
        let mut client = daemon.tcp();
        start_trees(&daemon, &mut client, 3);
        daemon.signal_runtime(signal);
        let status = daemon.exit();
        let left = daemon.remains();
        assert!(left.is_empty(), "left behind: {left:?}");
        assert!(!status.success(), "a service manager must see an error, not {status}");
        assert!(status.code().is_some(), "the guard exits by itself, not {status}");
        daemon.killed = true;
    }
}

#[test]
fn inv15_a_runtime_killed_with_nothing_running_is_an_error_too() {
    let mut daemon = Daemon::start(&[]);
    daemon.signal_runtime(Signal::SIGKILL);
    assert!(!daemon.exit().success());
    daemon.killed = true;
}

#[test]
fn inv15_a_runtime_killed_between_spawns_leaves_nothing_behind() {
    for turn in 0..8 {
        let mut daemon = Daemon::start(&[]);
        let mut client = daemon.tcp();
        for _ in 0..8 {
            client.ask("exec.run", json!({"cmd": "setsid sleep 1000 & sleep 1000"}));
        }
        // At another point of the spawning each time.
        let commands = turn * 2;
        wait_until("so many processes run", DEADLINE, || (daemon.commands().len() >= commands).then_some(()));
        daemon.signal_runtime(Signal::SIGKILL);
        daemon.exit();
        let left = daemon.remains();
        assert!(left.is_empty(), "left behind: {left:?}");
        daemon.killed = true;
    }
}

#[test]
fn inv15_chains_that_fork_again_and_again_do_not_outrun_the_guard() {
    let mut daemon = Daemon::start(&[("limits.limit_nproc", json!(1000))]);
    let mut client = daemon.tcp();
    let chain = "sleep 0.01; setsid sh -c \"$CHAIN\" & exit 0";
    let cmd = "for i in 1 2 3; do sh -c \"$CHAIN\" & done; sleep 1000";
    client.ask("exec.run", json!({"cmd": cmd, "env": {"CHAIN": chain}}));
    wait_until("the chains run", DEADLINE, || (daemon.commands().len() >= 5).then_some(()));
    daemon.signal_runtime(Signal::SIGKILL);
    assert!(!daemon.exit().success());
    for _ in 0..10 {
        let left = daemon.remains();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
    daemon.killed = true;
}

#[test]
fn inv15_when_the_guard_is_killed_the_runtime_ends_every_tree_and_itself() {
    let mut daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    start_trees(&daemon, &mut client, 3);
    daemon.signal(Signal::SIGKILL);
    assert_eq!(daemon.exit().signal(), Some(9));
    daemon.killed = true;
    wait_until("everything is gone", DEADLINE, || daemon.remains().is_empty().then_some(()));
}

#[test]
fn inv15_an_idle_runtime_ends_with_its_guard() {
    let mut daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    daemon.signal(Signal::SIGKILL);
    daemon.exit();
    daemon.killed = true;
    client.expect_end();
    wait_until("everything is gone", DEADLINE, || daemon.remains().is_empty().then_some(()));
}

#[test]
fn after_a_kill_the_same_uids_can_be_used_at_once() {
    if !is_root() {
        return skip("only root has a pool of uids");
    }
    let mut first = Daemon::start(&[]);
    let mut client = first.tcp();
    start_trees(&first, &mut client, 2);
    let base = first.launch.uids.start;
    // The guard: the runtime lives on until it has ended what runs.
    first.signal(Signal::SIGKILL);
    let second = Launch::new().set("children.uid_base", json!(base)).start();
    second.tcp().ping();
    first.exit();
    first.killed = true;
}

#[test]
fn after_a_kill_the_same_address_can_be_used_at_once() {
    let mut first = Daemon::start(&[]);
    let mut client = first.tcp();
    start_trees(&first, &mut client, 1);
    let address = first.address.unwrap();
    first.signal_runtime(Signal::SIGKILL);
    first.exit();
    first.killed = true;
    // The stale socket of the first is in the way of the second.
    let launch = Launch::new().listen(&address.to_string());
    std::fs::rename(first.launch.socket(), launch.socket()).unwrap();
    let second = launch.start();
    assert_eq!(second.address, Some(address));
    second.tcp().ping();
    second.unix().ping();
}
