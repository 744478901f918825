//! Several commands at a time: in one session, in several, and at the limit of the daemon.

use crate::exec_support::*;
use crate::support::*;

/// Shell text that makes `own` and waits for `other`: two such commands end only if they run at the same time.
fn meet(shared: &Shared, own: &str, other: &str) -> String {
    format!(": >{}; while [ ! -e {} ]; do sleep 0.02; done", shared.text(own), shared.text(other))
}

#[test]
fn two_commands_run_at_a_time_in_one_session_that_may() {
    let daemon = Daemon::start(&[("commands.max_commands_per_session", json!(2))]);
    let mut conn = daemon.tcp();
    let shared = Shared::new();
    let session = conn.open(json!({}));

    let first = conn.ask("exec.run", json!({"session": session, "cmd": meet(&shared, "a", "b")}));
    let second = conn.ask("exec.run", json!({"session": session, "cmd": meet(&shared, "b", "a")}));

    assert_eq!(end(&record_of(&mut conn, &first)), exited(0));
    assert_eq!(end(&record_of(&mut conn, &second)), exited(0));
}

#[test]
fn one_command_more_than_a_session_may_run_is_busy() {
    let daemon = Daemon::start(&[("commands.max_commands_per_session", json!(2))]);
    let mut conn = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let session = conn.open(json!({}));

    let ids = [0, 1].map(|_| conn.ask("exec.run", json!({"session": session, "cmd": gate.wait()})));
    daemon.wait_running(2);
    let error = conn.refused("exec.run", json!({"session": session, "cmd": "true"}), "SESSION_BUSY");
    assert_eq!((&error["data"]["limit"], &error["data"]["usage"]), (&json!(2), &json!(2)), "{error}");
    assert_eq!(error["data"]["session"], json!(session));
    let info = conn.ok("session.info", json!({"session": session}));
    assert_eq!((&info["busy"], info["running"].as_array().map(Vec::len)), (&json!(true), Some(2)), "{info}");
    gate.open();

    for id in &ids {
        assert_eq!(end(&record_of(&mut conn, id)), exited(0));
    }
    assert_eq!(end(&run(&mut conn, json!({"session": session, "cmd": "true"}))), exited(0));
}

#[test]
fn a_session_runs_one_command_at_a_time_by_default() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let session = conn.open(json!({}));

    let id = conn.ask("exec.run", json!({"session": session, "cmd": gate.wait()}));
    let error = conn.refused("exec.run", json!({"session": session, "cmd": "true"}), "SESSION_BUSY");
    assert_eq!((&error["data"]["limit"], &error["data"]["usage"]), (&json!(1), &json!(1)), "{error}");
    gate.open();

    assert_eq!(end(&record_of(&mut conn, &id)), exited(0));
}

#[test]
fn a_full_daemon_says_which_resource_is_full() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(1))]);
    let mut conn = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let session = conn.open(json!({}));

    let id = conn.ask("exec.run", json!({"session": session, "cmd": gate.wait()}));
    daemon.wait_running(1);
    let error = conn.refused("exec.run", json!({"cmd": "true"}), "CAPACITY");
    assert_eq!(error["data"]["resource"], "commands", "{error}");
    assert_eq!((&error["data"]["limit"], &error["data"]["usage"]), (&json!(1), &json!(1)), "{error}");
    gate.open();

    assert_eq!(end(&record_of(&mut conn, &id)), exited(0));
    assert_eq!(end(&sh(&mut conn, "true")), exited(0));
    wait_stats(&daemon, "/commands/rejected", 1);
    wait_stats(&daemon, "/commands/started", 2);
}

#[test]
fn inv9_every_slot_comes_back_however_a_command_ends() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(1))]);
    let mut conn = daemon.tcp();

    // Each of them would find the only slot taken if the one before had kept it.
    spawn_failure(&mut conn, json!({"argv": ["/nope"]}));
    conn.refused("exec.run", json!({"cmd": "true", "timeout_s": 0}), "INVALID_PARAMS");
    assert_eq!(end(&sh(&mut conn, "kill -9 $$")).0, "signaled");
    assert_eq!(end(&run(&mut conn, json!({"cmd": "sleep 60", "timeout_s": 0.1, "kill_grace_ms": 0}))).0, "timed_out");
    let limited = json!({"cmd": "yes", "output_limit_bytes": 9, "on_output_limit": "kill"});
    assert_eq!(end(&run(&mut conn, limited)).0, "output_limit");
    let mut other = daemon.unix();
    other.ask("exec.run", json!({"cmd": "sleep 60"}));
    daemon.wait_running(1);
    drop(other);
    daemon.wait_running(0);
    assert_eq!(end(&sh(&mut conn, "true")), exited(0));
}

#[test]
fn inv9_the_place_of_a_command_is_free_when_its_record_is_there() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(1)), ("sessions.max_sessions", json!(1))]);
    let mut conn = daemon.tcp();

    // One after the other, each in the only session that there may be; some leave files to be removed.
    for number in 0..60 {
        let record = sh(&mut conn, if number % 2 == 0 { "exit 0" } else { "mkdir a; : >a/b; exit 0" });
        assert_eq!(end(&record), exited(0));
    }
}

#[test]
fn commands_of_many_sessions_run_at_the_same_time() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let shared = Shared::new();
    let names: Vec<String> = (0..12).map(|number| format!("n{number}")).collect();

    // A ring: each waits for the next, so that all must run at once.
    let ids: Vec<Value> = (0..12)
        .map(|number| {
            let cmd = meet(&shared, &names[number], &names[(number + 1) % 12]);
            conn.ask("exec.run", json!({"cmd": format!("{cmd}; echo {number}")}))
        })
        .collect();

    for (number, id) in ids.iter().enumerate() {
        assert_eq!(text(&record_of(&mut conn, id)), format!("{number}\n"));
    }
}

#[test]
fn commands_end_in_any_order_and_keep_their_outputs_apart() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let ids: Vec<Value> = (0..12)
        .map(|number| {
            conn.ask("exec.run", json!({"cmd": format!("sleep 0.{}; yes {number} | head -c 50000", (number * 7) % 5)}))
        })
        .collect();

    for (number, id) in ids.iter().enumerate() {
        let expected: String = format!("{number}\n").repeat(30_000);
        let record = record_of(&mut conn, id);
        assert!(
            text(&record) == expected[..50_000],
            "{number} differs: {}",
            &brief(&record)[brief(&record).len() - 400..]
        );
    }
}

#[test]
fn the_control_lane_is_open_when_all_slots_are_taken() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(2))]);
    let mut conn = daemon.tcp();
    let mark = mark();
    let sessions: Vec<String> = (0..2).map(|_| conn.open(json!({}))).collect();

    for session in &sessions {
        conn.ask("exec.run", json!({"session": session, "cmd": format!("sleep {mark}")}));
    }
    wait_living(&mark, 2);
    let mut control = daemon.tcp();
    control.ping();
    assert_eq!(control.ok("session.list", json!({}))["sessions"].as_array().map(Vec::len), Some(2));
    for session in &sessions {
        control.ok("session.info", json!({"session": session}));
        close(&mut control, session);
    }

    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
}
