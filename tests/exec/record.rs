//! The record: every field, and numbers that agree.

use std::collections::BTreeSet;

use crate::exec_support::*;
use crate::support::*;

const FIELDS: [&str; 18] = [
    "exec",
    "session",
    "status",
    "limit",
    "exit_code",
    "signal",
    "stdout",
    "stdout_encoding",
    "stdout_bytes",
    "stdout_dropped",
    "stderr",
    "stderr_encoding",
    "stderr_bytes",
    "stderr_dropped",
    "wall_ms",
    "spawn_ms",
    "usage",
    "descendants_killed",
];

#[test]
fn a_record_has_all_fields_and_no_other() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = run(&mut conn, json!({"cmd": "echo hi"}));

    let fields: BTreeSet<&str> = record.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, FIELDS.into_iter().collect());
    let expected = json!({"status": "exited", "limit": null, "exit_code": 0, "signal": null,
        "stdout": "hi\n", "stdout_encoding": "utf8", "stdout_bytes": 3, "stdout_dropped": 0,
        "stderr": "", "stderr_encoding": "utf8", "stderr_bytes": 0, "stderr_dropped": 0, "descendants_killed": 0});
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&record[field], value, "{field}");
    }
}

#[test]
fn a_record_tells_its_time() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = sh(&mut conn, "sleep 0.2");

    let (wall_ms, spawn_ms) = (record["wall_ms"].as_f64().unwrap(), record["spawn_ms"].as_f64().unwrap());
    assert!(wall_ms >= 200.0, "{record}");
    assert!(spawn_ms > 0.0 && spawn_ms <= wall_ms, "{record}");
}

#[test]
fn a_record_tells_its_usage() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    // dd counts in the kernel, the loop in user mode.
    let record =
        sh(&mut conn, "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; head -c 30000000 /dev/zero >/dev/null");

    let usage = &record["usage"];
    assert!(usage["cpu_user_ms"].as_f64().is_some_and(|ms| ms > 1.0), "{record}");
    assert!(usage["cpu_system_ms"].as_f64().is_some_and(|ms| ms >= 0.0), "{record}");
    assert!(usage["max_rss_bytes"].as_u64().is_some_and(|bytes| bytes > 100_000), "bytes, not KiB: {record}");
    for peak in ["memory_peak_bytes", "processes_peak"] {
        let value = usage.get(peak).unwrap_or_else(|| panic!("no {peak}: {record}"));
        assert!(value.is_null() || value.is_u64(), "{peak}: {record}");
    }
}

#[test]
fn the_two_outputs_are_told_apart_and_counted() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = sh(&mut conn, "echo to the one; echo to the other >&2; exit 255");

    assert_eq!(end(&record), exited(255));
    assert_eq!(out(&record), b"to the one\n");
    assert_eq!(err(&record), b"to the other\n");
    assert_eq!((&record["stdout_bytes"], &record["stderr_bytes"]), (&json!(11), &json!(13)));
}

#[test]
fn ids_of_commands_and_sessions_are_not_used_twice() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let (mut execs, mut sessions) = (BTreeSet::new(), BTreeSet::new());

    for _ in 0..20 {
        let record = sh(&mut conn, ":");
        assert!(execs.insert(record["exec"].as_str().unwrap().to_owned()), "{record}");
        assert!(sessions.insert(record["session"].as_str().unwrap().to_owned()), "{record}");
    }
}

#[test]
fn a_command_in_a_session_says_so() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));

    let record = run(&mut conn, json!({"session": session, "cmd": "true"}));

    assert_eq!(record["session"], json!(session));
    let history = conn.ok("session.history", json!({"session": session}));
    assert_eq!(history["commands"][0]["exec"], record["exec"], "{history}");
}

#[test]
fn a_command_without_a_session_has_one_that_closes_with_it() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = run(&mut conn, json!({"cmd": "pwd"}));

    conn.refused("session.info", json!({"session": record["session"]}), "SESSION_NOT_FOUND");
    let folder = text(&record);
    wait_until("the folder of the ephemeral session is removed", DEADLINE, || {
        (!std::path::Path::new(folder.trim_end()).exists()).then_some(())
    });
    daemon.stats_show("one session is opened and closed", |stats| {
        let sessions = &stats["sessions"];
        (sessions["opened"] == 1 && sessions["closed"] == 1 && stats["commands"]["by_status"]["exited"] == 1)
            .then_some(())
    });
}

#[test]
fn a_command_without_a_session_counts_as_one() {
    let daemon = Daemon::start(&[("sessions.max_sessions", json!(1)), ("commands.max_commands", json!(1))]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));

    let error = conn.refused("exec.run", json!({"cmd": "true"}), "CAPACITY");

    assert_eq!(error["data"]["resource"], "sessions", "{error}");
    assert_eq!((&error["data"]["limit"], &error["data"]["usage"]), (&json!(1), &json!(1)), "{error}");
    close(&mut conn, &session);
    assert_eq!(end(&sh(&mut conn, "true")), exited(0));
}

#[test]
fn inv4_every_command_has_one_record_and_every_request_one_answer() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(8))]);
    let mut conn = daemon.tcp();
    let sessions: Vec<String> = (0..4).map(|_| conn.open(json!({}))).collect();

    // A hundred requests at once over four sessions of one command each: most are refused, none is lost.
    let ids: Vec<Value> = (0..100)
        .map(|number| conn.ask("exec.run", json!({"session": sessions[number % 4], "cmd": "exit 0"})))
        .collect();
    let answers: Vec<Value> = ids.iter().map(|id| conn.answer(id)).collect();

    let ran = answers.iter().filter(|answer| answer["result"]["status"] == "exited").count();
    let refused = answers.iter().filter(|answer| answer["error"]["data"]["reason"] == "SESSION_BUSY").count();
    assert_eq!(ran + refused, ids.len(), "{answers:?}");
    wait_stats(&daemon, "/commands/finished", ran);
    conn.ping();
}
