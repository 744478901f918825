//! The end of a command against everything else that may end it: one answer each, nothing left.

use crate::exec_support::*;
use crate::support::*;

#[test]
fn a_close_in_the_same_packet_as_a_command_leaves_nothing() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mark = mark();

    for number in 0..100 {
        let session = conn.open(json!({}));
        let (exec, closing) = (format!("e{number}"), format!("c{number}"));
        let lines = [
            json!({"id": exec, "method": "exec.run", "params": {"session": session, "cmd": format!("sleep {mark} & sleep {mark}")}}),
            json!({"id": closing, "method": "session.close", "params": {"session": session}}),
        ];
        conn.send_bytes(format!("{}\n{}\n", lines[0], lines[1]));

        let closed = conn.answer(&json!(closing));
        assert_eq!(closed["result"]["closed"], true, "{closed}");
        let answer = conn.answer(&json!(exec));
        let reason = answer["error"]["data"]["reason"].as_str().unwrap_or("none");
        assert!(answer["result"]["status"] == "cancelled" || reason == "SESSION_NOT_FOUND", "{answer}");
    }
    wait_gone(&mark);
}

#[test]
fn a_close_against_an_end_gives_one_answer_each() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.unix(), daemon.unix());

    // The command takes from nothing to some milliseconds, the close comes some pings after it.
    for number in 0..100 {
        let session = conn.open(json!({}));
        let id = conn.ask(
            "exec.run",
            json!({"session": session, "cmd": format!("i=0; while [ $i -lt {} ]; do i=$((i+1)); done", number * 20)}),
        );
        for _ in 0..number % 10 {
            other.ping();
        }
        close(&mut other, &session);

        let answer = conn.answer(&id);
        let status = answer["result"]["status"].as_str().unwrap_or("none");
        let reason = answer["error"]["data"]["reason"].as_str().unwrap_or("none");
        assert!(["exited", "cancelled"].contains(&status) || reason == "SESSION_NOT_FOUND", "{answer}");
    }
    conn.ping();
}

#[test]
fn a_time_out_against_an_end_gives_one_record() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for number in 0..60 {
        let timeout_s = 0.001 + f64::from(number) * 0.0002;
        let record = run(&mut conn, json!({"cmd": "exit 3", "timeout_s": timeout_s, "kill_grace_ms": 0}));
        assert!(end(&record) == exited(3) || end(&record).0 == "timed_out", "{record}");
    }
    wait_stats(&daemon, "/commands/finished", 60);
}

#[test]
fn a_disconnect_against_a_spawn_leaves_nothing() {
    let daemon = Daemon::start(&[]);
    let mark = mark();

    for number in 0..60 {
        let mut conn = daemon.unix();
        conn.ask("exec.run", json!({"cmd": format!("sleep {mark} & sleep {mark}")}));
        if number % 3 == 0 {
            daemon.control().ping();
        }
        drop(conn);
    }

    wait_gone(&mark);
    let stats = daemon.stats_show("no session is left", |stats| {
        (stats["sessions"]["current"] == 0 && stats["commands"]["running"] == 0).then(|| stats.clone())
    });
    assert_eq!(stats["commands"]["by_status"]["exited"].as_u64().unwrap_or(0), 0, "{stats}");
}
