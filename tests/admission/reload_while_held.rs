//! SIGHUP while much is in use: nothing is taken from anybody, and the books are right afterwards.

use crate::reload::{reloaded, room, start};
use crate::support::{Conn, Value, json};
use crate::view::*;

/// A configuration of places for sessions.
fn places(count: i64) -> Value {
    json!({"sessions": {"max_sessions": count}, "quotas": {"registered": {
        "sessions": -1, "commands": -1, "memory_bytes": -1, "processes": -1, "buffer_bytes": -1}}})
}

/// Opens sessions until the daemon is full.
#[track_caller]
fn fill(client: &mut Conn) -> Vec<String> {
    let mut sessions = Vec::new();
    loop {
        let answer = client.request("session.open", json!({}));
        match answer["result"]["session"].as_str() {
            Some(session) => sessions.push(session.to_owned()),
            None => {
                assert_eq!(answer["error"]["data"]["resource"], "sessions", "{answer}");
                return sessions;
            }
        }
    }
}

/// The uids of the commands of these sessions, each of which runs one.
#[track_caller]
fn uids(client: &mut Conn, sessions: &[String]) -> Vec<String> {
    let mut uids: Vec<String> =
        sessions.iter().map(|session| client.run_in(session, "id -u")["stdout"].as_str().unwrap().to_owned()).collect();
    uids.sort();
    uids.dedup();
    uids
}

#[test]
fn fewer_places_than_sessions_end_none_and_admit_none() {
    let daemon = start(places(4));
    let mut client = daemon.tcp_as(1);
    let mut sessions = fill(&mut client);
    assert_eq!(sessions.len(), 4);
    reloaded(&daemon, &places(2));
    let error = changes_nothing(&daemon, &ip(1), || client.refused("session.open", json!({}), "CAPACITY"));
    expect_capacity(&error, "sessions", 2, 4);
    let own = if crate::support::is_root() { 4 } else { 1 };
    assert_eq!(uids(&mut client, &sessions).len(), own);
    for session in sessions.drain(..2) {
        client.ok("session.close", json!({"session": session}));
        client.refused("session.open", json!({}), "CAPACITY");
    }
    client.ok("session.close", json!({"session": sessions.remove(0)}));
    sessions.extend(fill(&mut client));
    assert_eq!(sessions.len(), 2);
    reloaded(&daemon, &places(6));
    sessions.extend(fill(&mut client));
    assert_eq!(sessions.len(), 6);
    let own = if crate::support::is_root() { 6 } else { 1 };
    assert_eq!(uids(&mut client, &sessions).len(), own, "each has a uid of its own");
    assert_eq!(daemon.stats()["sessions"]["max"], 6);
}

#[test]
fn fewer_slots_than_commands_end_none_and_admit_none() {
    let config = |slots: i64| json!({"commands": {"max_commands": slots}});
    let daemon = start(config(3));
    let mut client = daemon.tcp_as(1);
    let gates = [(); 3].map(|()| daemon.launch.folder.gate());
    let ids: Vec<Value> = gates.iter().map(|gate| hold(&daemon, &mut client, gate, json!({}))).collect();
    reloaded(&daemon, &config(1));
    for at in 0..3 {
        let error = client.refused("exec.run", json!({"cmd": "true"}), "CAPACITY");
        expect_capacity(&error, "commands", 1, 3 - at);
        gates[at as usize].open();
        expect_done(&mut client, &ids[at as usize]);
    }
    assert_eq!(client.run("echo room")["stdout"], "room\n");
}

#[test]
fn less_memory_than_is_held_takes_none_away() {
    let config = |bytes: i64| json!({"commands": {"max_buffer_bytes": bytes}});
    let daemon = start(config(1 << 20));
    let mut client = daemon.tcp_as(1);
    let gate = daemon.launch.folder.gate();
    let cmd = format!("head -c 400000 /dev/zero; {}; printf END", gate.wait());
    let id = client.ask("exec.run", json!({"cmd": cmd, "encoding": "base64"}));
    daemon.stats_show("it has written", |stats| (stats["output"]["buffered_bytes"].as_u64()? >= 400_000).then_some(()));
    reloaded(&daemon, &config(128 << 10));
    let error = daemon.tcp_as(2).refused("exec.run", json!({"cmd": "true"}), "CAPACITY");
    assert_eq!((&error["data"]["resource"], &error["data"]["limit"]), (&json!("buffer_bytes"), &json!(128 << 10)));
    gate.open();
    let record = expect_done(&mut client, &id);
    assert_eq!(record["stdout_bytes"], 400_003);
    assert!(crate::exec_support::out(&record).ends_with(b"END"), "the newest is kept");
    assert_eq!(daemon.tcp_as(2).run("echo room")["stdout"], "room\n");
    wait_unused(&daemon, &ip(1));
}

/// Two teams; 127.0.0.2 is in one of them, and 127.0.0.3 in the second.
fn teams(of_two: &str) -> Value {
    json!({"quotas": {"model": "strict_two_level",
        "registered": {"sessions": 9, "commands": -1, "memory_bytes": -1, "processes": -1, "buffer_bytes": -1},
        "clients": {"one": {"sessions": 3}, "two": {"sessions": 3}, ip(2): {"parent": of_two}, ip(3): {"parent": "two"}}}})
}

#[test]
fn a_client_that_moves_takes_its_usage_with_it() {
    let daemon = start(teams("one"));
    let (mut moving, mut other) = (daemon.tcp_as(2), daemon.tcp_as(3));
    let sessions = [(); 2].map(|()| moving.open(json!({})));
    assert_eq!((room(&mut moving), room(&mut other)), (1, 3));
    reloaded(&daemon, &teams("two"));
    assert_eq!((room(&mut moving), room(&mut other)), (1, 1));
    moving.ok("session.close", json!({"session": sessions[0]}));
    assert_eq!((room(&mut moving), room(&mut other)), (2, 2));
    reloaded(&daemon, &teams("one"));
    assert_eq!((room(&mut moving), room(&mut other)), (2, 3));
    moving.ok("session.close", json!({"session": sessions[1]}));
    assert_eq!((room(&mut moving), room(&mut other)), (3, 3));
}

#[test]
fn whoever_waits_for_time_or_slot_is_not_forgotten() {
    let config = |burst: i64| json!({"rate": {"rate": "600r/m", "burst": burst}, "commands": {"max_commands": 1}});
    let daemon = start(config(10));
    let (mut holder, mut client) = (daemon.unix(), daemon.tcp_as(2));
    let gate = daemon.launch.folder.gate();
    let running = hold(&daemon, &mut holder, &gate, json!({}));
    let ids: Vec<Value> = (0..8).map(|_| client.ask("exec.run", waiting("echo waited"))).collect();
    client.ping();
    // Some wait for their time, some for the slot, and some for one after the other.
    reloaded(&daemon, &config(0));
    reloaded(&daemon, &json!({"commands": {"max_commands": 1, "max_queued": 1}}));
    gate.open();
    expect_done(&mut holder, &running);
    for id in &ids {
        let answer = client.answer(id);
        match answer.get("error") {
            // More than may wait now: told, not forgotten.
            Some(error) => assert_eq!(error["data"]["reason"], "CAPACITY", "{answer}"),
            None => assert_eq!(answer["result"]["stdout"], "waited\n", "{answer}"),
        }
    }
}
