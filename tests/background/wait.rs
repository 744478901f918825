//! `exec.wait`: the record when there is one, and no thread that waits for it.

use super::steps::*;
use crate::exec_support::*;
use crate::support::*;

#[test]
fn a_wait_that_is_over_says_that_it_runs() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let gate = daemon.launch.folder.gate();
    let exec = start(&mut conn, &session, &gate.wait());

    for wait_s in [json!(0), json!(0.05)] {
        let running = conn.ok("exec.wait", json!({"exec": exec, "wait_s": wait_s}));
        assert_eq!(running, json!({"exec": exec, "status": "running"}));
    }
    conn.refused("exec.wait", json!({"exec": exec, "wait_s": -1}), "INVALID_PARAMS");
    let waiting = conn.ask("exec.wait", json!({"exec": exec, "wait_s": 60}));
    gate.open();

    assert_eq!(end(&record_of(&mut conn, &waiting)), exited(0));
}

#[test]
fn everybody_who_waits_gets_the_whole_record() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.tcp(), daemon.tcp());
    let session = conn.open(json!({}));
    let gate = daemon.launch.folder.gate();
    let exec = start(&mut conn, &session, &format!("{}; seq 1 100000", gate.wait()));

    let waiting: Vec<Value> = (0..5).map(|_| conn.ask("exec.wait", json!({"exec": exec}))).collect();
    let of_other = other.ask("exec.wait", json!({"exec": exec}));
    conn.ping();
    other.ping();
    gate.open();

    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    for id in &waiting {
        assert!(text(&record_of(&mut conn, id)) == expected, "the output differs");
    }
    assert!(text(&record_of(&mut other, &of_other)) == expected, "the output differs");
    assert!(text(&wait(&mut conn, &exec)) == expected, "and later");
}

#[test]
fn who_waits_for_a_command_of_exec_run_gets_its_record_too() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.tcp(), daemon.tcp());
    let gate = daemon.launch.folder.gate();
    let id = conn.ask("exec.run", json!({"cmd": format!("echo a; {}", gate.wait())}));
    daemon.wait_running(1);
    let listed = other.ok("exec.list", json!({}));
    let exec = listed["commands"][0]["exec"].as_str().unwrap().to_owned();

    let waiting = other.ask("exec.wait", json!({"exec": exec}));
    other.ping();
    gate.open();

    let record = record_of(&mut conn, &id);
    assert_eq!(record_of(&mut other, &waiting), record);
    // It had an ephemeral session: nothing of it is kept.
    other.refused("exec.wait", json!({"exec": exec}), "EXEC_NOT_FOUND");
}

#[test]
fn inv6_hundreds_of_waits_hold_no_thread_and_vanish_with_their_connections() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.unix();
    let session = conn.open(json!({}));
    let exec = start(&mut conn, &session, "exec sleep 60");
    let threads = daemon.stats()["process"]["threads"].as_u64().unwrap();

    // On a Unix socket a close shows at once, and not only when something is written to it.
    let mut waiters: Vec<Conn> = (0..8).map(|_| daemon.unix()).collect();
    for waiter in &mut waiters {
        for number in 0..100 {
            match number % 2 {
                0 => waiter.ask("exec.wait", json!({"exec": exec})),
                _ => waiter.ask("exec.read", json!({"exec": exec, "stream": "stdout", "offset": 0, "wait_s": 50})),
            };
        }
        waiter.ping();
    }
    assert!(daemon.stats()["process"]["threads"].as_u64().unwrap() <= threads);
    waiters.truncate(4);
    daemon.stats_show("four are gone", |stats| (stats["connections"]["current"] == 6).then_some(()));
    conn.ok("exec.kill", json!({"exec": exec}));

    for waiter in &mut waiters {
        for _ in 0..100 {
            let result = granted(waiter.recv());
            assert!(result["status"] == "cancelled" || result["eof"] == true, "{result}");
        }
    }
}

fn granted(answer: Value) -> Value {
    crate::support::conn::granted(answer)
}

#[test]
fn waits_in_a_batch_are_answered_in_its_order() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let exec = start(&mut conn, &session, "sleep 0.2; seq 1 50000");

    let wait = json!({"id": "w", "method": "exec.wait", "params": {"exec": exec}});
    let params = json!({"exec": exec, "stream": "stdout", "offset": 288_000, "max_bytes": 1_000_000, "wait_s": 20});
    let read = json!({"id": "r", "method": "exec.read", "params": params});
    conn.send(&json!([wait, read, {"id": "p", "method": "system.ping"}]));

    let answers = conn.recv();
    assert_eq!(answers[0]["result"]["stdout_bytes"], 288_894, "{}", brief(&answers));
    assert!(answers[1]["result"]["next_offset"].as_u64().unwrap() > 288_000, "{}", brief(&answers));
    assert_eq!(answers[2]["result"]["pong"], true, "{}", brief(&answers));
}
