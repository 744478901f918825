//! `exec.start`: answered when the command runs; it goes on by itself, under the limits of any command.

use super::steps::*;
use crate::exec_support::*;
use crate::support::*;

#[test]
fn a_command_goes_on_by_itself_and_its_record_is_there_later() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let gate = daemon.launch.folder.gate();

    let exec = start(&mut conn, &session, &format!("echo begun; {}; echo done; exit 3", gate.wait()));
    let info = conn.ok("session.info", json!({"session": session}));
    assert_eq!((&info["running"], &info["busy"]), (&json!([exec]), &json!(true)));
    conn.refused("exec.start", json!({"session": session, "cmd": "true"}), "SESSION_BUSY");
    gate.open();

    let record = wait(&mut conn, &exec);
    assert_eq!((end(&record), text(&record).as_str()), (exited(3), "begun\ndone\n"));
    assert_eq!(record["session"], json!(session));
    assert_eq!(run(&mut conn, json!({"session": session, "cmd": "echo after"}))["stdout"], "after\n");
    wait_stats(&daemon, "/commands/by_status/exited", 2);
}

#[test]
fn the_pid_is_the_command_s() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));

    let started = conn.ok("exec.start", json!({"session": session, "cmd": "echo $$"}));

    let record = wait(&mut conn, started["exec"].as_str().unwrap());
    assert_eq!(text(&record).trim(), started["pid"].to_string());
}

#[test]
fn what_never_runs_is_refused_and_leaves_nothing() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));

    let error = conn.refused("exec.start", json!({"session": session, "argv": ["/nonexistent"]}), "SPAWN_FAILED");
    assert_eq!((&error["data"]["stage"], &error["data"]["errno"]), (&json!("exec"), &json!("ENOENT")), "{error}");
    for (bad, field) in [
        (json!({"cmd": "true"}), "session"),
        (json!({"session": session}), "cmd"),
        (json!({"session": session, "cmd": "true", "queue_ms": 0}), "queue_ms"),
        (json!({"session": session, "cmd": "true", "stdin_open": 1}), "stdin_open"),
        (json!({"session": session, "cmd": "true", "pty": {"cols": 80}}), "pty.rows"),
        (json!({"session": session, "cmd": "true", "pty": {"cols": 0, "rows": 1}}), "pty.cols"),
        (json!({"session": session, "cmd": "true", "pty": true}), "pty"),
    ] {
        let error = conn.refused("exec.start", bad.clone(), "INVALID_PARAMS");
        assert_eq!(error["data"]["field"], field, "{bad}: {error}");
    }
    conn.refused("exec.start", json!({"session": "s99", "cmd": "true"}), "SESSION_NOT_FOUND");
    conn.refused("exec.run", json!({"session": session, "cmd": "true", "stdin_open": true}), "INVALID_PARAMS");

    let stats = daemon.stats();
    assert_eq!((&stats["commands"]["started"], &stats["commands"]["running"]), (&json!(0), &json!(0)));
    let info = conn.ok("session.info", json!({"session": session}));
    assert_eq!((&info["commands"], &info["running"]), (&json!(0), &json!([])));
    assert_eq!(text(&wait_started(&mut conn, &session, "echo well")), "well\n");
}

#[track_caller]
fn wait_started(conn: &mut Conn, session: &str, cmd: &str) -> Value {
    let exec = start(conn, session, cmd);
    wait(conn, &exec)
}

#[test]
fn limits_and_time_outs_hold_as_for_any_command() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));

    let exec = start_with(&mut conn, json!({"session": session, "cmd": "echo a; exec sleep 60", "timeout_s": 0.3}));
    let record = wait(&mut conn, &exec);
    assert_eq!((end(&record).0, end(&record).1, text(&record).as_str()), ("timed_out", Some("timeout_s"), "a\n"));

    let params = json!({"session": session, "cmd": "while :; do :; done", "limits": {"cpu_sec": 1}});
    let exec = start_with(&mut conn, params);
    assert_eq!(end(&wait(&mut conn, &exec)).0, "cpu_limit");

    let params = json!({"session": session, "cmd": "exec yes", "output_limit_bytes": 5000, "on_output_limit": "kill"});
    let exec = start_with(&mut conn, params);
    assert_eq!(end(&wait(&mut conn, &exec)).0, "output_limit");
}

#[test]
fn a_command_ends_with_its_session_and_with_the_connection_that_owns_it() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.unix(), daemon.unix());
    let mark = mark();

    let session = other.open(json!({}));
    let exec = start(&mut other, &session, &format!("sleep {mark} & sleep {mark}"));
    wait_living(&mark, 2);
    let waiting = conn.ask("exec.wait", json!({"exec": exec}));
    drop(other);
    wait_gone(&mark);
    assert_eq!(end(&record_of(&mut conn, &waiting)).0, "cancelled");

    let session = conn.open(json!({}));
    let exec = start(&mut conn, &session, &format!("sleep {mark} & sleep {mark}"));
    close(&mut conn, &session);
    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
    conn.refused("exec.wait", json!({"exec": exec}), "EXEC_NOT_FOUND");
}

#[test]
fn in_a_persistent_session_a_command_outlives_the_connection_that_started_it() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.unix();
    let gate = daemon.launch.folder.gate();

    let session = conn.open(json!({"persist": true}));
    let exec = start(&mut conn, &session, &format!("{}; echo on", gate.wait()));
    drop(conn);
    daemon.stats_show("its connection is gone", |stats| (stats["connections"]["current"] == 1).then_some(()));
    gate.open();

    let mut other = daemon.unix();
    assert_eq!(text(&wait(&mut other, &exec)), "on\n");
}

#[test]
fn another_client_s_commands_are_as_unknown_as_those_that_never_were() {
    let daemon = Daemon::start(&[]);
    // Over TCP nobody is an admin, and a client is an address.
    let (mut admin, mut stranger) = (daemon.unix(), daemon.tcp());
    let session = admin.open(json!({}));
    let running = start(&mut admin, &session, "exec sleep 60");

    for (method, params) in [
        ("exec.wait", json!({"wait_s": 0})),
        ("exec.read", json!({"stream": "stdout", "offset": 0})),
        ("exec.write", json!({"eof": true})),
        ("exec.signal", json!({"signal": "TERM"})),
        ("exec.kill", json!({})),
        ("exec.resize", json!({"cols": 1, "rows": 1})),
    ] {
        for exec in [running.as_str(), "e9999", "nonsense"] {
            let mut params = params.clone();
            params["exec"] = json!(exec);
            let error = stranger.refused(method, params, "EXEC_NOT_FOUND");
            assert_eq!(error["data"]["exec"], exec, "{error}");
        }
    }
    assert_eq!(stranger.ok("exec.list", json!({})), json!({"commands": []}));
    stranger.refused("exec.list", json!({"session": session}), "SESSION_NOT_FOUND");
    assert_eq!(admin.ok("exec.wait", json!({"exec": running, "wait_s": 0}))["status"], "running");
}

#[test]
fn a_drain_ends_what_was_started_and_tells_who_waits() {
    let daemon = Daemon::start(&[("shutdown.drain_s", json!(0.2))]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let exec = start(&mut conn, &session, "exec sleep 60");
    let waiting = conn.ask("exec.wait", json!({"exec": exec}));
    conn.ping();

    daemon.signal(Signal::SIGTERM);

    assert_eq!(end(&record_of(&mut conn, &waiting)).0, "shutdown");
    let mut daemon = daemon;
    daemon.expect_clean_exit();
}

#[test]
fn the_same_key_starts_it_once() {
    let daemon = Daemon::start(&[("commands.max_commands_per_session", json!(4))]);
    let (mut conn, mut other) = (daemon.tcp(), daemon.tcp());
    let session = conn.open(json!({}));
    let params = json!({"session": session, "cmd": "exec sleep 60", "key": "once"});

    let first = conn.ok("exec.start", params.clone());
    assert_eq!(conn.ok("exec.start", params.clone()), first);
    assert_eq!(other.ok("exec.start", params.clone()), first);
    conn.refused("exec.run", params, "INVALID_PARAMS");
    assert_eq!(daemon.stats()["commands"]["started"], 1);

    let exec = first["exec"].as_str().unwrap();
    conn.ok("exec.kill", json!({"exec": exec}));
    assert_eq!(end(&wait(&mut conn, exec)).0, "cancelled");
}
