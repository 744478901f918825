//! Commands that wait for a slot: in turn between clients, first come first served within one, and gone with whoever
//! asked. By the order in which things happen, never by how long they take.

use crate::support::{Conn, DEADLINE, Daemon, Signal, Value, json, wait_until};
use crate::view::*;

/// Longer than any test runs.
const LONG_MS: i64 = 600_000;

/// A daemon with one slot.
fn one_slot(more: &[(&str, Value)]) -> Daemon {
    let mut settings = vec![("commands.max_commands", json!(1))];
    settings.extend_from_slice(more);
    Daemon::start(&settings)
}

/// What a command that waits for its turn asks for.
fn waiting(cmd: &str) -> Value {
    json!({"cmd": cmd, "queue_ms": LONG_MS})
}

/// Has so many commands of a client wait, each of which says its name and number.
#[track_caller]
fn line_up(client: &mut Conn, log: &Log, name: &str, count: usize) -> Vec<Value> {
    (0..count).map(|number| enqueue(client, waiting(&log.say(&format!("{name}{number}"))))).collect()
}

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
    let mut asked = waiting("echo in turn");
    asked["session"] = json!(session);
    let second = enqueue(&mut client, asked);
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
fn whoever_has_waited_long_enough_is_told_what_they_would_have_been_at_once() {
    let daemon = one_slot(&[registered(json!({"commands": 1}))]);
    let (mut client, mut other) = (daemon.tcp_as(1), daemon.tcp_as(2));
    let session = client.open(json!({}));
    stand(&daemon, &mut client, json!({"session": session}));
    let (name, name_of_other) = (ip(1), ip(2));
    let busy = changes_nothing(&daemon, &name, || {
        client.refused("exec.run", json!({"session": session, "cmd": "true", "queue_ms": 30}), "SESSION_BUSY")
    });
    assert_eq!((&busy["data"]["limit"], &busy["data"]["usage"]), (&json!(1), &json!(1)), "{busy}");
    // Its own session is given back, which a refusal need not wait for.
    let over = client.refused("exec.run", json!({"cmd": "true", "queue_ms": 30}), "OVER_LIMIT");
    expect_over(&over, &name, &[("commands", 1, 1, 1)], true);
    let full = other.refused("exec.run", json!({"cmd": "true", "queue_ms": 30}), "CAPACITY");
    expect_capacity(&full, "commands", 1, 1);
    wait_unused(&daemon, &name_of_other);
    let stats =
        daemon.stats_show("one session is left", |stats| (stats["sessions"]["current"] == 1).then(|| stats.clone()));
    assert_eq!((&stats["commands"]["rejected"], &stats["commands"]["started"]), (&json!(3), &json!(1)), "{stats}");
}

#[test]
fn a_waiter_whose_client_is_gone_leaves_the_queue() {
    let daemon = one_slot(&[]);
    let (mut holder, mut leaver, mut stayer) = (daemon.unix(), daemon.tcp_as(2), daemon.tcp_as(3));
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut holder, &gate, json!({}));
    line_up(&mut leaver, &log, "left", 3);
    let ids = line_up(&mut stayer, &log, "stayed", 1);
    assert_eq!(usage(&mut daemon.unix(), &ip(2), "sessions"), 3);
    drop(leaver);
    wait_connections(&daemon, 2);
    // What they had claimed is given back although nothing has moved in the queue.
    wait_unused(&daemon, &ip(2));
    gate.open();
    expect_done(&mut holder, &running);
    expect_done(&mut stayer, &ids[0]);
    assert_eq!(log.words(), ["stayed0"]);
    assert_eq!(daemon.stats()["commands"]["started"], 2);
}

#[test]
fn a_waiter_whose_session_is_closed_does_not_run() {
    let daemon = one_slot(&[]);
    let mut client = daemon.tcp_as(1);
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut client, &gate, json!({}));
    let session = client.open(json!({}));
    let mut asked = waiting(&log.say("ran"));
    asked["session"] = json!(session);
    let id = enqueue(&mut client, asked);
    client.ok("session.close", json!({"session": session}));
    expect_refusal(&mut client, &id, "SESSION_NOT_FOUND");
    gate.open();
    expect_done(&mut client, &running);
    client.run("true");
    assert_eq!(log.words(), [""; 0]);
}

#[test]
fn a_session_with_a_command_waiting_is_not_idle() {
    let daemon = one_slot(&[("reaper.interval_ms", json!(20))]);
    let mut client = daemon.tcp_as(1);
    let gate = daemon.launch.folder.gate();
    let running = hold(&daemon, &mut client, &gate, json!({}));
    let session = client.open(json!({"idle_s": 0.2}));
    let mut asked = waiting("echo in turn");
    asked["session"] = json!(session);
    let id = enqueue(&mut client, asked);
    // Another one, as old and as short-lived, expires meanwhile.
    client.open(json!({"idle_s": 0.3}));
    daemon.stats_show("one has expired", |stats| (stats["sessions"]["reaped_idle"] == 1).then_some(()));
    gate.open();
    expect_done(&mut client, &running);
    assert_eq!(expect_done(&mut client, &id)["stdout"], "in turn\n");
}

#[test]
fn inv7_no_more_wait_than_max_queued() {
    let daemon = one_slot(&[("commands.max_queued", json!(2))]);
    let (mut client, mut other) = (daemon.tcp_as(1), daemon.tcp_as(2));
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut client, &gate, json!({}));
    let waiters = line_up(&mut client, &log, "w", 2);
    let error = changes_nothing(&daemon, &ip(2), || other.refused("exec.run", waiting("true"), "CAPACITY"));
    assert_eq!(error["data"]["resource"], "commands", "{error}");
    assert!(error["data"]["limit"].is_i64() && error["data"]["usage"].is_i64(), "{error}");
    gate.open();
    for id in [running].iter().chain(&waiters) {
        expect_done(&mut client, id);
    }
    assert_eq!(other.ok("exec.run", waiting("echo room"))["stdout"], "room\n");
}

#[test]
fn where_nobody_may_wait_the_refusal_comes_at_once() {
    let daemon = one_slot(&[("commands.max_queued", json!(0))]);
    let mut client = daemon.tcp_as(1);
    stand(&daemon, &mut client, json!({}));
    let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", waiting("true"), "CAPACITY"));
    assert_eq!(error["data"]["resource"], "commands", "{error}");
}

#[test]
fn at_shutdown_whoever_waits_is_told() {
    let mut daemon = one_slot(&[("shutdown.drain_s", json!(3600))]);
    let mut client = daemon.tcp_as(1);
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut client, &gate, json!({}));
    let waiters = line_up(&mut client, &log, "w", 3);
    daemon.signal(Signal::SIGTERM);
    for id in &waiters {
        let error = expect_refusal(&mut client, id, "SHUTTING_DOWN");
        assert_eq!((&error["code"], &error["data"]["retryable"]), (&json!(-32040), &json!(false)), "{error}");
    }
    gate.open();
    // What ran may finish.
    expect_done(&mut client, &running);
    daemon.expect_clean_exit();
    assert_eq!(log.words(), [""; 0]);
}

#[test]
fn inv9_every_slot_comes_back_to_whoever_waits_however_a_command_ends() {
    let daemon = one_slot(&[("commands.kill_grace_ms", json!(20))]);
    let mut client = daemon.tcp_as(1);
    let endings = [
        json!({"cmd": "exit 3"}),
        json!({"cmd": "kill -KILL $$"}),
        json!({"argv": ["/no/such/program"]}),
        json!({"cmd": "sleep 1000", "timeout_s": 0.05}),
        json!({"cmd": "yes", "output_limit_bytes": 10, "on_output_limit": "kill"}),
        json!({"cmd": "true", "cwd": "/no/such/folder"}),
    ];
    // All of them wait for the one before; none would come if one kept its slot.
    let ids: Vec<Value> = endings
        .into_iter()
        .map(|mut params| {
            params["queue_ms"] = json!(LONG_MS);
            client.ask("exec.run", params)
        })
        .collect();
    for id in &ids {
        client.answer(id);
    }
    assert_eq!(client.run("echo free")["stdout"], "free\n");
    wait_unused(&daemon, &ip(1));
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
