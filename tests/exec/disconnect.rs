//! What becomes of a command whose client went away.

use crate::exec_support::*;
use crate::support::*;

#[test]
fn a_command_whose_client_vanishes_is_cancelled() {
    let daemon = Daemon::start(&[]);
    let mut watcher = daemon.unix();
    let session = watcher.open(json!({"persist": true}));
    let mark = mark();

    let mut conn = daemon.unix();
    conn.ask("exec.run", json!({"session": session, "cmd": format!("trap '' TERM HUP; sleep {mark}; sleep {mark}")}));
    wait_living(&mark, 2);
    drop(conn);

    wait_gone(&mark);
    let record = wait_until("the record is in the history", DEADLINE, || {
        let history = watcher.ok("session.history", json!({"session": session}));
        history["commands"].as_array()?.last().cloned()
    });
    assert_eq!((end(&record).0, end(&record).1, end(&record).2), ("cancelled", None, None));
    assert_eq!(end(&run(&mut watcher, json!({"session": session, "cmd": "true"}))), exited(0));
}

#[test]
fn a_reset_cancels_too() {
    let daemon = Daemon::start(&[]);
    let mark = mark();

    let mut conn = daemon.tcp();
    conn.ask("exec.run", json!({"cmd": format!("sleep {mark} & sleep {mark}")}));
    wait_living(&mark, 2);
    conn.reset();

    wait_gone(&mark);
    daemon.stats_show("the command is cancelled", |stats| {
        (stats["commands"]["by_status"]["cancelled"] == 1).then_some(())
    });
}

#[test]
fn a_command_may_finish_without_its_client() {
    let daemon = Daemon::start(&[]);
    let shared = Shared::new();
    let gate = daemon.launch.folder.gate();
    let cmd = format!("{}; echo done >{}", gate.wait(), shared.text("done"));

    let mut conn = daemon.unix();
    conn.ask("exec.run", json!({"cmd": cmd, "on_disconnect": "finish"}));
    daemon.wait_running(1);
    drop(conn);
    // The watcher of the statistics is the only connection left when the hang-up has been seen.
    daemon.stats_show("the client is gone", |stats| (stats["connections"]["current"] == 1).then_some(()));
    gate.open();

    shared.wait_for("done");
    let stats = daemon
        .stats_show("its session closes after it", |stats| (stats["sessions"]["current"] == 0).then(|| stats.clone()));
    assert_eq!(stats["commands"]["by_status"]["exited"], 1, "{stats}");
}

#[test]
fn a_stream_without_a_reader_holds_up_no_command_that_may_finish() {
    let daemon = Daemon::start(&[]);
    let shared = Shared::new();
    let cmd = format!("head -c 20000000 /dev/zero; echo done >{}", shared.text("done"));

    let mut conn = daemon.unix();
    conn.ask("exec.run", json!({"cmd": cmd, "stream": true, "on_disconnect": "finish"}));
    daemon.wait_running(1);
    drop(conn);

    shared.wait_for("done");
    daemon.stats_show("it is over", |stats| (stats["commands"]["by_status"]["exited"] == 1).then_some(()));
}

#[test]
fn a_session_closes_after_the_command_that_may_finish() {
    let daemon = Daemon::start(&[]);
    let shared = Shared::new();
    let gate = daemon.launch.folder.gate();

    let mut conn = daemon.unix();
    let session = conn.open(json!({}));
    let cmd = format!("{}; pwd >{}", gate.wait(), shared.text("done"));
    conn.ask("exec.run", json!({"session": session, "cmd": cmd, "on_disconnect": "finish"}));
    daemon.wait_running(1);
    drop(conn);
    daemon.stats_show("the client is gone", |stats| (stats["connections"]["current"] == 1).then_some(()));
    gate.open();

    shared.wait_for("done");
    daemon.stats_show("its session closes after it", |stats| (stats["sessions"]["current"] == 0).then_some(()));
    daemon.control().refused("session.info", json!({"session": session}), "SESSION_NOT_FOUND");
}

#[test]
fn a_command_that_may_finish_still_keeps_its_time_out() {
    let daemon = Daemon::start(&[]);
    let mark = mark();

    let mut conn = daemon.unix();
    conn.ask("exec.run", json!({"cmd": format!("exec sleep {mark}"), "on_disconnect": "finish", "timeout_s": 1}));
    wait_living(&mark, 1);
    drop(conn);

    wait_gone(&mark);
    daemon.stats_show("it timed out", |stats| (stats["commands"]["by_status"]["timed_out"] == 1).then_some(()));
}

#[test]
fn a_half_closed_client_gets_its_record() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let id = conn.ask("exec.run", json!({"cmd": "sleep 0.1; echo done"}));
    conn.half_close();

    assert_eq!(text(&record_of(&mut conn, &id)), "done\n");
    conn.expect_end();
}

#[test]
fn all_sessions_of_a_client_that_vanishes_are_closed() {
    let daemon = Daemon::start(&[]);
    let mark = mark();

    let mut conn = daemon.unix();
    for _ in 0..4 {
        let session = conn.open(json!({}));
        conn.ask("exec.run", json!({"session": session, "cmd": format!("setsid sleep {mark} & sleep {mark}")}));
    }
    wait_living(&mark, 8);
    drop(conn);

    wait_gone(&mark);
    daemon.stats_show("no session is left", |stats| (stats["sessions"]["current"] == 0).then_some(()));
}
