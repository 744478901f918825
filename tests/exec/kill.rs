//! `exec.kill`: SIGKILL to the whole tree of a command, and to nothing else.

use crate::exec_support::*;
use crate::support::*;

/// The id of the only command that runs in a session.
#[track_caller]
fn running(conn: &mut Conn, session: &str) -> String {
    wait_until("a command runs", DEADLINE, || {
        let info = conn.ok("session.info", json!({"session": session}));
        Some(info["running"].as_array()?.first()?.as_str()?.to_owned())
    })
}

#[test]
fn a_killed_command_is_cancelled_with_its_tree() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.tcp(), daemon.tcp());
    let session = conn.open(json!({}));
    let mark = mark();

    let cmd = format!("trap '' TERM; echo a; (sleep {mark} &); sleep {mark} & sleep {mark}");
    let id = conn.ask("exec.run", json!({"session": session, "cmd": cmd}));
    wait_living(&mark, 4);
    let exec = running(&mut other, &session);
    assert_eq!(other.ok("exec.kill", json!({"exec": exec})), json!({"killed": true}));

    let record = record_of(&mut conn, &id);
    assert_eq!(end(&record), ("cancelled", None, None, Some("SIGKILL")), "{record}");
    assert_eq!((text(&record).as_str(), &record["exec"]), ("a\n", &json!(exec)));
    wait_gone(&mark);
    assert_eq!(end(&run(&mut conn, json!({"session": session, "cmd": "true"}))), exited(0), "the session goes on");
}

#[test]
fn a_command_that_has_ended_cannot_be_killed() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let record = run(&mut conn, json!({"session": session, "cmd": "true"}));

    let answer = conn.request("exec.kill", json!({"exec": record["exec"]}));

    let reason = answer["error"]["data"]["reason"].as_str().unwrap_or("none");
    assert!(["EXEC_FINISHED", "EXEC_NOT_FOUND"].contains(&reason), "{answer}");
}

#[test]
fn a_command_that_was_never_issued_is_not_found() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let error = conn.refused("exec.kill", json!({"exec": "e987654"}), "EXEC_NOT_FOUND");
    assert_eq!(error["data"]["exec"], "e987654", "{error}");
    for bad in [json!({}), json!({"exec": 1}), json!({"exec": "e1", "signal": 9})] {
        conn.refused("exec.kill", bad, "INVALID_PARAMS");
    }
}

#[test]
fn inv4_a_kill_against_an_end_gives_one_answer_each() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.tcp(), daemon.tcp());
    let session = conn.open(json!({}));
    let mut cancelled = 0;

    for number in 0..100 {
        let cmd = format!("i=0; while [ $i -lt {} ]; do i=$((i+1)); done; exit 3", number * 15);
        let id = conn.ask("exec.run", json!({"session": session, "cmd": cmd}));
        let info = other.ok("session.info", json!({"session": session}));
        let killed = info["running"][0].as_str().map(|exec| other.request("exec.kill", json!({"exec": exec})));

        let record = record_of(&mut conn, &id);
        match end(&record) {
            ("cancelled", ..) => cancelled += 1,
            other => assert_eq!(other, exited(3), "{record}"),
        }
        if let Some(answer) = killed {
            let reason = answer["error"]["data"]["reason"].as_str().unwrap_or("none");
            let is_fine = answer["result"]["killed"] == true || ["EXEC_FINISHED", "EXEC_NOT_FOUND"].contains(&reason);
            assert!(is_fine, "{answer}");
        }
    }

    wait_stats(&daemon, "/commands/finished", 100);
    wait_stats(&daemon, "/commands/by_status/cancelled", cancelled);
}
