//! Requests in flight: answered as they are ready, and bounded by back-pressure, never by an error.

use crate::support::{Daemon, Value, json};

#[test]
fn answers_come_as_they_are_ready() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    client.send(&json!({"id": "slow", "method": "exec.run", "params": {"cmd": gate.wait()}}));
    client.send(&json!({"id": "fast", "method": "exec.run", "params": {"cmd": "true"}}));
    client.send(&json!({"id": "ping", "method": "system.ping"}));
    let mut first = [client.recv()["id"].clone(), client.recv()["id"].clone()];
    first.sort_by_key(|id| id.to_string());
    assert_eq!(first, ["fast", "ping"]);
    gate.open();
    assert_eq!(client.recv()["id"], "slow");
}

#[test]
fn inv4_each_of_many_pipelined_requests_is_answered_once() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let lines: String = (0..2000).map(|id| format!("{{\"id\":{id},\"method\":\"system.ping\"}}\n")).collect();
    client.send_bytes(lines);
    let mut seen: Vec<u64> = (0..2000).map(|_| client.recv()["id"].as_u64().unwrap()).collect();
    seen.sort();
    assert_eq!(seen, (0..2000).collect::<Vec<u64>>());
    client.ping();
}

#[test]
fn inv4_each_of_many_pipelined_commands_is_answered_once() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(100))]);
    let mut client = daemon.tcp();
    for id in 0..60 {
        client.send(&json!({"id": id, "method": "exec.run", "params": {"cmd": format!("echo {id}")}}));
    }
    let mut seen = [false; 60];
    for _ in 0..60 {
        let answer = client.recv();
        let id = answer["id"].as_u64().unwrap();
        assert_eq!(answer["result"]["stdout"], format!("{id}\n"), "{answer}");
        assert!(!std::mem::replace(&mut seen[id as usize], true), "{id} was answered twice");
    }
    assert_eq!(daemon.stats()["commands"]["by_status"]["exited"], 60);
}

#[test]
fn inv7_past_the_requests_in_flight_a_connection_is_not_read_and_nothing_is_refused() {
    let daemon = Daemon::start(&[("connections.max_inflight_per_connection", json!(4))]);
    let mut client = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    for id in 0..4 {
        client.send(&json!({"id": id, "method": "exec.run", "params": {"cmd": gate.wait()}}));
    }
    client.send(&json!({"id": "behind", "method": "system.ping"}));
    daemon.wait_running(4);
    // Other connections are read all the same.
    let mut other = daemon.tcp();
    for _ in 0..20 {
        other.ping();
    }
    gate.open();
    let ids: Vec<Value> = (0..5).map(|_| client.recv()).map(|answer| answer["id"].clone()).collect();
    assert_ne!(ids[0], "behind", "the fifth was read before one of the four was answered: {ids:?}");
    assert!(ids.contains(&json!("behind")));
}

#[test]
fn inv7_a_flood_of_requests_is_answered_whole_two_in_flight_at_a_time() {
    let daemon = Daemon::start(&[("connections.max_inflight_per_connection", json!(2))]);
    let mut client = daemon.tcp();
    let lines: String = (0..1000)
        .map(|id| match id % 100 {
            0 => format!("{{\"id\":{id},\"method\":\"exec.run\",\"params\":{{\"cmd\":\"true\"}}}}\n"),
            _ => format!("{{\"id\":{id},\"method\":\"system.ping\"}}\n"),
        })
        .collect();
    client.send_bytes(lines);
    for _ in 0..1000 {
        let answer = client.recv();
        assert!(answer.get("result").is_some(), "{answer}");
    }
}

#[test]
fn inv4_hundreds_of_commands_that_exit_at_once_each_give_one_record() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    for _ in 0..500 {
        let record = client.ok("exec.run", json!({"session": session, "argv": ["/bin/true"]}));
        assert_eq!(record["status"], "exited");
        assert_eq!(record["exit_code"], 0);
    }
    assert_eq!(client.ok("session.close", json!({"session": session}))["commands"], 500);
}
