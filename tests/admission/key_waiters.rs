//! Those who wait for the run of a key that somebody else, or they themselves, asked for before.

use crate::support::{Daemon, Signal, Value, json};
use crate::view::*;

fn keyed(cmd: &str, queue_ms: i64) -> Value {
    json!({"key": "k", "cmd": cmd, "queue_ms": queue_ms})
}

#[test]
fn the_next_runs_where_the_first_left_before_it_had_a_slot() {
    let daemon = one_slot(&[]);
    let (mut holder, mut first, mut second) = (daemon.unix(), daemon.tcp_as(1), daemon.tcp_as(1));
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut holder, &gate, json!({}));
    let asked = keyed(&log.say("ran"), 600_000);
    enqueue(&mut first, asked.clone());
    let id = enqueue(&mut second, asked);
    drop(first);
    wait_connections(&daemon, 2);
    gate.open();
    expect_done(&mut holder, &running);
    expect_done(&mut second, &id);
    assert_eq!(log.words(), ["ran"]);
    wait_unused(&daemon, &ip(1));
}

#[test]
fn whoever_waits_for_a_run_that_is_refused_in_the_end_is_answered_too() {
    let daemon = one_slot(&[]);
    let (mut holder, mut first, mut second) = (daemon.unix(), daemon.tcp_as(1), daemon.tcp_as(1));
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut holder, &gate, json!({}));
    let asked = keyed(&log.say("ran"), 200);
    let ids = [enqueue(&mut first, asked.clone()), enqueue(&mut second, asked.clone())];
    expect_refusal(&mut first, &ids[0], "CAPACITY");
    expect_refusal(&mut second, &ids[1], "CAPACITY");
    gate.open();
    expect_done(&mut holder, &running);
    assert_eq!(first.ok("exec.run", asked)["status"], "exited");
    assert_eq!(log.words(), ["ran"]);
    wait_unused(&daemon, &ip(1));
}

#[test]
fn whoever_waits_for_a_run_that_cannot_start_is_answered_too() {
    let daemon = one_slot(&[]);
    let (mut holder, mut client) = (daemon.unix(), daemon.tcp_as(1));
    let gate = daemon.launch.folder.gate();
    let running = hold(&daemon, &mut holder, &gate, json!({}));
    let asked = json!({"key": "k", "argv": ["/no/such/program"], "queue_ms": 600_000});
    let ids: Vec<Value> = (0..4).map(|_| enqueue(&mut client, asked.clone())).collect();
    gate.open();
    expect_done(&mut holder, &running);
    for id in &ids {
        expect_refusal(&mut client, id, "SPAWN_FAILED");
    }
    wait_unused(&daemon, &ip(1));
}

#[test]
fn a_waiter_that_leaves_does_not_end_the_run() {
    let daemon = Daemon::start(&[]);
    let (mut first, mut second) = (daemon.tcp_as(1), daemon.tcp_as(1));
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let asked = json!({"key": "k", "cmd": format!("{}; {}", log.say("ran"), gate.wait())});
    let id = first.ask("exec.run", asked.clone());
    daemon.wait_running(1);
    enqueue(&mut second, asked);
    drop(second);
    wait_connections(&daemon, 1);
    gate.open();
    expect_done(&mut first, &id);
    assert_eq!(log.words(), ["ran"]);
}

#[test]
fn many_who_ask_and_leave_leave_nothing() {
    let daemon = Daemon::start(&[registered(json!({"commands": 2, "sessions": 2}))]);
    let log = Log::new();
    for round in 0..30 {
        let gate = daemon.launch.folder.gate();
        let asked = json!({"key": format!("k{round}"), "cmd": format!("{}; {}", log.say("ran"), gate.wait())});
        let mut clients: Vec<_> = (0..4).map(|_| daemon.tcp_as(1)).collect();
        for client in &mut clients {
            enqueue(client, asked.clone());
        }
        // One after the other, from the first to the last or the other way round.
        if round % 2 == 0 {
            clients.reverse();
        }
        while clients.pop().is_some() {}
        wait_connections(&daemon, 0);
        wait_unused(&daemon, &ip(1));
    }
    let stats = daemon.stats();
    assert_eq!(stats["commands"]["running"], 0, "{stats}");
}

#[test]
fn at_shutdown_all_who_wait_for_a_run_get_its_record() {
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(0.2))]);
    let (mut first, mut second) = (daemon.tcp_as(1), daemon.tcp_as(1));
    let asked = json!({"key": "k", "cmd": STANDING});
    let ids = [first.ask("exec.run", asked.clone()), {
        daemon.wait_running(1);
        enqueue(&mut second, asked)
    }];
    daemon.signal(Signal::SIGTERM);
    let records = [record(first.answer(&ids[0])), record(second.answer(&ids[1]))];
    assert_eq!(records[0]["status"], "shutdown", "{}", records[0]);
    assert_eq!(records[0], records[1]);
    daemon.expect_clean_exit();
}

#[test]
fn a_record_of_the_largest_size_is_remembered() {
    let daemon = Daemon::start(&[]);
    let (mut first, mut second) = (daemon.tcp_as(1), daemon.tcp_as(1));
    let gate = daemon.launch.folder.gate();
    let (log, cmd) = (Log::new(), "head -c 4194304 /dev/zero | tr '\\0' a");
    let asked = json!({"key": "k", "cmd": format!("{}; {}; {cmd}; {cmd} >&2", log.say("ran"), gate.wait())});
    let ids = [first.ask("exec.run", asked.clone()), {
        daemon.wait_running(1);
        enqueue(&mut second, asked.clone())
    }];
    gate.open();
    let record = record(first.answer(&ids[0]));
    assert_eq!(record["stdout"].as_str().map(str::len), Some(4 << 20));
    assert_eq!(record["stderr"].as_str().map(str::len), Some(4 << 20));
    // Not by assert_eq: nobody wants to read it.
    assert!(second.answer(&ids[1])["result"] == record, "whoever waited has another one");
    assert!(first.ok("exec.run", asked) == record, "whoever comes later has another one");
    assert_eq!(log.words(), ["ran"]);
}
