//! inv15: no child survives the daemon, however it ends, and the daemon does not end with a child left.

use crate::exec_support::*;
use crate::support::*;

/// A tree that goes every way out: same group, sessions of its own, two generations, ignored signals.
fn tree(mark: &str) -> String {
    format!(
        "trap '' TERM HUP; sleep {mark} & setsid sleep {mark} & (setsid sh -c 'sleep {mark} & sleep {mark}' &); \
         env -i setsid sleep {mark} & sleep {mark}; sleep {mark}"
    )
}

/// Processes of the tree that show the mark at least: its shell and six sleeps.
const IN_TREE: usize = 7;

/// A daemon with two such trees.
#[track_caller]
fn with_trees(settings: &[(&str, Value)], mark: &str) -> (Daemon, Conn) {
    let daemon = Daemon::start(settings);
    let mut conn = daemon.tcp();
    for _ in 0..2 {
        conn.ask("exec.run", json!({"cmd": tree(mark)}));
    }
    wait_living(mark, 2 * IN_TREE);
    (daemon, conn)
}

#[test]
fn inv15_no_process_survives_a_killed_runtime() {
    let Some(_) = tool("setsid") else { return };
    let mark = mark();
    let (mut daemon, _conn) = with_trees(&[], &mark);

    daemon.killed = true;
    daemon.signal_runtime(Signal::SIGKILL);

    let status = daemon.exit();
    assert!(!status.success(), "a service manager must see it: {status}");
    assert!(living(&mark).is_empty(), "the guard exits when none is left: {:?}", living(&mark));
}

#[test]
fn inv15_no_process_survives_a_runtime_that_aborts() {
    let Some(_) = tool("setsid") else { return };
    let mark = mark();
    let (mut daemon, _conn) = with_trees(&[], &mark);

    daemon.killed = true;
    daemon.signal_runtime(Signal::SIGABRT);

    assert!(!daemon.exit().success());
    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
}

#[test]
fn inv15_no_process_survives_a_killed_guard() {
    let Some(_) = tool("setsid") else { return };
    let mark = mark();
    let (mut daemon, _conn) = with_trees(&[], &mark);

    daemon.killed = true;
    daemon.signal(Signal::SIGKILL);

    daemon.exit();
    wait_gone(&mark);
    wait_until("the runtime is gone too", DEADLINE, || (!procs::is_alive(daemon.runtime_pid)).then_some(()));
}

#[test]
fn inv15_no_process_survives_a_stopped_daemon() {
    let Some(_) = tool("setsid") else { return };
    let mark = mark();
    let (mut daemon, conn) = with_trees(&[("shutdown.drain_s", json!(0.1))], &mark);

    drop(conn);
    daemon.terminate();

    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
}

#[test]
fn a_second_signal_cuts_the_wait_short() {
    let mark = mark();
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(3000))]);
    let mut conn = daemon.tcp();
    let id = conn.ask("exec.run", json!({"cmd": format!("trap '' TERM; sleep {mark}; sleep {mark}")}));
    wait_living(&mark, 2);

    daemon.signal(Signal::SIGTERM);
    wait_until("it drains", DEADLINE, || {
        let answer = conn.request("session.open", json!({}));
        (answer["error"]["data"]["reason"] == "SHUTTING_DOWN").then_some(())
    });
    daemon.signal(Signal::SIGTERM);

    assert_eq!(end(&record_of(&mut conn, &id)).0, "shutdown");
    daemon.expect_clean_exit();
    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
}

#[test]
fn every_client_is_told_when_a_busy_daemon_stops() {
    let mark = mark();
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(0.1))]);
    let mut conns: Vec<Conn> = (0..8).map(|_| daemon.tcp()).collect();
    let cmd = format!("trap '' TERM INT HUP QUIT; echo told; while :; do sleep {mark}; done");
    let ids: Vec<Value> = conns.iter_mut().map(|conn| conn.ask("exec.run", json!({"cmd": cmd}))).collect();
    wait_living(&mark, 16);

    daemon.signal(Signal::SIGINT);

    for (conn, id) in conns.iter_mut().zip(&ids) {
        let record = record_of(conn, id);
        assert_eq!((end(&record).0, text(&record).as_str()), ("shutdown", "told\n"));
    }
    daemon.expect_clean_exit();
    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
}

#[test]
fn inv15_no_process_survives_a_kill_in_the_middle_of_spawning() {
    let mark = mark();

    for round in 0..8 {
        let mut daemon = Daemon::start(&[]);
        let mut conn = daemon.tcp();
        daemon.killed = true;
        for _ in 0..16 {
            conn.ask("exec.run", json!({"cmd": format!("sleep {mark} & sleep {mark}")}));
        }
        // The kill falls at another point of the sixteen spawns each time.
        wait_living(&mark, round * 4);
        daemon.signal_runtime(Signal::SIGKILL);
        daemon.exit();
        wait_gone(&mark);
    }
}
