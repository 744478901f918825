//! Commands that wait for a slot: in turn between clients, first come first served within one. By the
//! order in which things happen, never by how long they take.

use crate::support::{Conn, DEADLINE, Daemon, Value, json, wait_until};
use crate::view::*;

fn names(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}{number}")).collect()
}

#[test]
fn a_command_that_may_wait_runs_when_there_is_a_slot() {
    let daemon = one_slot(&[]);
    let mut client = daemon.tcp_as(1);
    let gate = daemon.launch.folder.gate();
    let first = hold(&daemon, &mut client, &gate, json!({}));
    let second = enqueue(&mut client, waiting("echo second"));
    let stats = daemon.stats();
    // It runs nowhere until it starts; its own session is claimed at once.
    assert_eq!(stats["commands"]["running"], 1, "{stats}");
    assert_eq!(stats["commands"]["started"], 1, "{stats}");
    assert_eq!(usage(&mut daemon.unix(), &ip(1), "sessions"), 2);
    assert_eq!(usage(&mut daemon.unix(), &ip(1), "commands"), 1);
    gate.open();
    expect_done(&mut client, &first);
    assert_eq!(expect_done(&mut client, &second)["stdout"], "second\n");
    wait_unused(&daemon, &ip(1));
}

#[test]
fn a_free_slot_is_not_waited_for() {
    let daemon = one_slot(&[]);
    let mut client = daemon.tcp_as(1);
    assert_eq!(client.ok("exec.run", waiting("echo at once"))["stdout"], "at once\n");
}

#[test]
fn no_wait_is_no_wait() {
    let daemon = one_slot(&[]);
    let mut client = daemon.tcp_as(1);
    stand(&daemon, &mut client, json!({}));
    for queue_ms in [json!(0), Value::Null] {
        let asked = json!({"cmd": "true", "queue_ms": queue_ms});
        let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", asked, "CAPACITY"));
        expect_capacity(&error, "commands", 1, 1);
    }
    for bad in [json!(-1), json!("1"), json!(true)] {
        expect_bad(&mut client, "exec.run", json!({"cmd": "true", "queue_ms": bad}), "queue_ms");
    }
}

#[test]
fn within_one_client_first_come_is_first_served() {
    let daemon = one_slot(&[]);
    let (mut one, mut two) = (daemon.tcp_as(1), daemon.tcp_as(1));
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let first = hold(&daemon, &mut one, &gate, json!({}));
    // From two connections, one after the other.
    let mut ids = Vec::new();
    for number in 0..6 {
        let conn = if number % 2 == 0 { &mut one } else { &mut two };
        ids.push(enqueue(conn, waiting(&log.say(&format!("w{number}")))));
    }
    gate.open();
    expect_done(&mut one, &first);
    for (number, id) in ids.iter().enumerate() {
        expect_done(if number % 2 == 0 { &mut one } else { &mut two }, id);
    }
    assert_eq!(log.words(), names("w", 6));
}

#[test]
fn another_clients_first_command_starts_after_at_most_one_slots_turn() {
    let daemon = one_slot(&[("sessions.max_sessions", json!(40))]);
    let (mut greedy, mut modest) = (daemon.tcp_as(1), daemon.tcp_as(2));
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut greedy, &gate, json!({}));
    let many = line_up(&mut greedy, &log, "greedy", 16);
    let few = line_up(&mut modest, &log, "modest", 1);
    gate.open();
    expect_done(&mut greedy, &running);
    few.iter().for_each(|id| drop(expect_done(&mut modest, id)));
    many.iter().for_each(|id| drop(expect_done(&mut greedy, id)));
    let words = log.words();
    let turn = words.iter().position(|word| word == "modest0").unwrap();
    assert!(turn <= 1, "{words:?}");
    let own: Vec<String> = words.into_iter().filter(|word| word.starts_with("greedy")).collect();
    assert_eq!(own, names("greedy", 16));
}

#[test]
fn slots_go_to_clients_in_turn() {
    let daemon = one_slot(&[("sessions.max_sessions", json!(40))]);
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let mut holder = daemon.unix();
    let running = hold(&daemon, &mut holder, &gate, json!({}));
    let mut clients = [2, 3, 4].map(|number| daemon.tcp_as(number));
    let ids: Vec<Vec<Value>> = clients
        .iter_mut()
        .zip([5, 3, 1])
        .enumerate()
        .map(|(at, (client, count))| line_up(client, &log, &format!("c{at}-"), count))
        .collect();
    gate.open();
    expect_done(&mut holder, &running);
    for (client, ids) in clients.iter_mut().zip(&ids) {
        ids.iter().for_each(|id| drop(expect_done(client, id)));
    }
    let words = log.words();
    // Whoever has something waiting gets one in each round, whichever of them is first.
    let mut rounds = [words[..3].to_vec(), words[3..5].to_vec(), words[5..7].to_vec(), words[7..].to_vec()];
    rounds.iter_mut().for_each(|round| round.sort());
    assert_eq!(rounds[0], ["c0-0", "c1-0", "c2-0"], "{words:?}");
    assert_eq!(rounds[1], ["c0-1", "c1-1"], "{words:?}");
    assert_eq!(rounds[2], ["c0-2", "c1-2"], "{words:?}");
    assert_eq!(rounds[3], ["c0-3", "c0-4"], "{words:?}");
}

#[test]
fn whoever_waits_for_their_own_session_holds_up_no_other() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(2))]);
    let (mut client, mut other) = (daemon.tcp_as(1), daemon.tcp_as(2));
    let gate = daemon.launch.folder.gate();
    let session = client.open(json!({}));
    let first = hold(&daemon, &mut client, &gate, json!({"session": session}));
    let second = enqueue(&mut client, waiting_in(&session, "echo in turn"));
    let info = client.ok("session.info", json!({"session": session}));
    assert_eq!(info["running"].as_array().map(Vec::len), Some(1), "{info}");
    // There is a slot free, though none in that session.
    assert_eq!(client.ok("exec.run", waiting("echo beside"))["stdout"], "beside\n");
    assert_eq!(other.run("echo other")["stdout"], "other\n");
    gate.open();
    expect_done(&mut client, &first);
    assert_eq!(expect_done(&mut client, &second)["stdout"], "in turn\n");
}

#[test]
fn whoever_waits_for_their_quota_holds_up_no_other() {
    let daemon = Daemon::start(&[registered(json!({"commands": 1})), ("commands.max_commands", json!(2))]);
    let (mut client, mut other) = (daemon.tcp_as(1), daemon.tcp_as(2));
    let gate = daemon.launch.folder.gate();
    let first = hold(&daemon, &mut client, &gate, json!({}));
    let second = enqueue(&mut client, waiting("echo in turn"));
    assert_eq!(other.ok("exec.run", waiting("echo other"))["stdout"], "other\n");
    gate.open();
    expect_done(&mut client, &first);
    assert_eq!(expect_done(&mut client, &second)["stdout"], "in turn\n");
}

#[test]
fn more_than_commands_over_is_not_waited_for() {
    let quota = registered(json!({"commands": 1, "sessions": 1}));
    let daemon = Daemon::start(&[quota]);
    let mut client = daemon.tcp_as(1);
    let gate = daemon.launch.folder.gate();
    let session = client.open(json!({}));
    let first = hold(&daemon, &mut client, &gate, json!({"session": session}));
    // One with a session of its own is over in sessions too, and told so at once.
    let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", waiting("true"), "OVER_LIMIT"));
    let over = error["data"]["over"].as_array().unwrap();
    assert!(over.iter().any(|row| row["resource"] == "sessions"), "{error}");
    gate.open();
    expect_done(&mut client, &first);
}

/// It would wait in vain, in a place that others could have.
#[test]
fn whoever_may_run_nothing_at_all_does_not_wait() {
    let daemon = one_slot(&[registered(json!({"commands": 0}))]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({}));
    for own in [json!(null), json!(session)] {
        let mut asked = waiting("true");
        asked["session"] = own;
        let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", asked, "OVER_LIMIT"));
        expect_over(&error, &ip(1), &[("commands", 0, 0, 1)], false);
    }
}

#[test]
fn an_ephemeral_session_is_claimed_at_once() {
    let daemon = one_slot(&[("sessions.max_sessions", json!(2))]);
    let mut client = daemon.tcp_as(1);
    let gate = daemon.launch.folder.gate();
    let first = hold(&daemon, &mut client, &gate, json!({}));
    let second = enqueue(&mut client, waiting("true"));
    let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", waiting("true"), "CAPACITY"));
    expect_capacity(&error, "sessions", 2, 2);
    gate.open();
    expect_done(&mut client, &first);
    expect_done(&mut client, &second);
}

#[test]
fn many_wait_and_all_of_them_run() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(3)), ("sessions.max_sessions", json!(64))]);
    let log = Log::new();
    let mut clients: Vec<Conn> = (1..=4).map(|number| daemon.tcp_as(number)).collect();
    let ids: Vec<Vec<Value>> = clients
        .iter_mut()
        .map(|client| (0..12).map(|_| client.ask("exec.run", waiting(&log.say("ran")))).collect())
        .collect();
    for (client, ids) in clients.iter_mut().zip(&ids) {
        ids.iter().for_each(|id| drop(expect_done(client, id)));
    }
    assert_eq!(log.words().len(), 48);
    drop(clients);
    wait_until("nothing is left", DEADLINE, || (daemon.stats()["sessions"]["current"] == 0).then_some(()));
    for number in 1..=4 {
        wait_unused(&daemon, &ip(number));
    }
}

#[test]
fn a_quota_that_is_raised_starts_whoever_waited_for_it() {
    let daemon = Daemon::start(&[registered(json!({"commands": 1}))]);
    let (mut client, mut admin) = (daemon.tcp_as(1), daemon.unix());
    stand(&daemon, &mut client, json!({}));
    let id = enqueue(&mut client, waiting("echo waited"));
    admin.ok("limit.set", json!({"client": ip(1), "resource": "commands", "limit": 2}));
    assert_eq!(expect_done(&mut client, &id)["stdout"], "waited\n");
    let id = enqueue(&mut client, waiting("echo again"));
    assert_eq!(expect_done(&mut client, &id)["stdout"], "again\n");
}
