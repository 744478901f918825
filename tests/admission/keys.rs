//! Retry keys: a command that is asked for again is not run again.

use crate::support::{DEADLINE, Daemon, Value, json, wait_until};
use crate::view::*;

fn keyed(key: &str, cmd: &str) -> Value {
    json!({"key": key, "cmd": cmd})
}

#[test]
fn the_same_key_gets_the_first_runs_record() {
    let daemon = Daemon::start(&[]);
    let (mut client, log) = (daemon.tcp_as(1), Log::new());
    let asked = keyed("k1", &format!("{}; echo out; echo err >&2; exit 3", log.say("ran")));
    let first = client.ok("exec.run", asked.clone());
    assert_eq!(
        (&first["exit_code"], &first["stdout"], &first["stderr"]),
        (&json!(3), &json!("out\n"), &json!("err\n"))
    );
    for mut client in [client, daemon.tcp_as(1)] {
        assert_eq!(client.ok("exec.run", asked.clone()), first);
    }
    assert_eq!(log.words(), ["ran"]);
    let stats = daemon.stats();
    assert_eq!((&stats["commands"]["started"], &stats["sessions"]["opened"]), (&json!(1), &json!(1)), "{stats}");
}

#[test]
fn another_key_or_none_runs_again() {
    let daemon = Daemon::start(&[]);
    let (mut client, log) = (daemon.tcp_as(1), Log::new());
    for key in [json!("a"), json!("b"), Value::Null, Value::Null] {
        client.ok("exec.run", json!({"key": key, "cmd": log.say("ran")}));
    }
    assert_eq!(log.words().len(), 4);
}

#[test]
fn the_same_key_waits_for_a_run_that_is_not_over() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(1))]);
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let asked = keyed("k", &format!("{}; {}; echo done", log.say("ran"), gate.wait()));
    let mut clients = [daemon.tcp_as(1), daemon.tcp_as(1), daemon.tcp_as(1)];
    let first = clients[0].ask("exec.run", asked.clone());
    daemon.wait_running(1);
    // They need no slot of their own, and hold no session.
    let mut ids = vec![first];
    for client in &mut clients[1..] {
        ids.push(enqueue(client, asked.clone()));
    }
    ids.push(enqueue(&mut clients[0], asked));
    assert_eq!(daemon.stats()["sessions"]["current"], 1);
    gate.open();
    let records: Vec<Value> = ids.iter().zip([0, 1, 2, 0]).map(|(id, at)| expect_done(&mut clients[at], id)).collect();
    assert!(records.iter().all(|record| *record == records[0]), "{records:?}");
    assert_eq!(log.words(), ["ran"]);
}

#[test]
fn other_params_under_the_same_key_are_refused() {
    let daemon = Daemon::start(&[]);
    let (mut client, log) = (daemon.tcp_as(1), Log::new());
    let session = client.open(json!({}));
    let asked = json!({"key": "k", "cmd": log.say("ran"), "env": {"A": "1", "B": "2"}, "timeout_s": 30});
    let first = client.ok("exec.run", asked.clone());
    for (name, value) in [
        ("cmd", json!(log.say("other"))),
        ("env", json!({"A": "1", "B": "3"})),
        ("timeout_s", json!(31)),
        ("stdin", json!("x")),
        ("session", json!(session)),
        ("output_limit_bytes", json!(5)),
        ("encoding", json!("base64")),
        ("limits", json!({"nofile": 20})),
    ] {
        let mut other = asked.clone();
        other[name] = value;
        changes_nothing(&daemon, &ip(1), || expect_bad(&mut client, "exec.run", other, "key"));
    }
    assert_eq!(log.words(), ["ran"]);
    // The same ones in another order, with their defaults spelt out, are the same.
    let env = "{\"B\":\"2\",\"A\":\"1\"}";
    let cmd = json!(log.say("ran"));
    client.send_line(format!(
        "{{\"id\":\"again\",\"method\":\"exec.run\",\"params\":{{\"timeout_s\":30,\"env\":{env},\"cmd\":{cmd},\"key\":\"k\"}}}}"
    ));
    assert_eq!(client.answer(&json!("again"))["result"], first);
}

#[test]
fn other_params_are_refused_while_the_first_runs_too() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    let mut first = keyed("k", STANDING);
    client.ask("exec.run", first.clone());
    daemon.wait_running(1);
    first["timeout_s"] = json!(7);
    changes_nothing(&daemon, &ip(1), || expect_bad(&mut client, "exec.run", first, "key"));
}

#[test]
fn a_key_is_one_clients() {
    let daemon = Daemon::start(&[]);
    let log = Log::new();
    let mut clients = [daemon.tcp_as(1), daemon.tcp_as(2), daemon.unix()];
    let records: Vec<Value> =
        clients.iter_mut().map(|client| client.ok("exec.run", keyed("k", &log.say("ran")))).collect();
    assert_eq!(log.words().len(), 3);
    assert_ne!(records[0]["exec"], records[1]["exec"]);
    // Nobody is told that another has it, either.
    clients[1].ok("exec.run", keyed("mine", "true"));
    clients[0].ok("exec.run", keyed("mine", "false"));
}

#[test]
fn a_run_that_was_refused_is_not_remembered() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(1))]);
    let (mut client, mut holder) = (daemon.tcp_as(1), daemon.unix());
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut holder, &gate, json!({}));
    client.refused("exec.run", keyed("k", &log.say("ran")), "CAPACITY");
    client.refused("exec.run", json!({"key": "k", "cmd": log.say("ran"), "queue_ms": 20}), "CAPACITY");
    client.refused("exec.run", json!({"key": "k", "cmd": "true", "session": "s404"}), "SESSION_NOT_FOUND");
    gate.open();
    expect_done(&mut holder, &running);
    client.refused("exec.run", json!({"key": "k", "argv": ["/no/such/program"]}), "SPAWN_FAILED");
    // Other params, the same key: nothing was remembered of it.
    client.ok("exec.run", keyed("k", &log.say("ran")));
    client.ok("exec.run", keyed("k", &log.say("ran")));
    assert_eq!(log.words(), ["ran"]);
}

#[test]
fn a_run_that_a_disconnect_cancelled_is_not_remembered() {
    let daemon = Daemon::start(&[]);
    let log = Log::new();
    let shared = daemon.launch.folder.gate();
    let asked = keyed("k", &format!("{}; {}", log.say("ran"), shared.wait()));
    let mut client = daemon.tcp_as(1);
    client.ask("exec.run", asked.clone());
    wait_until("it runs", DEADLINE, || (log.words().len() == 1).then_some(()));
    drop(client);
    daemon.stats_show("it is cancelled", |stats| (stats["commands"]["by_status"]["cancelled"] == 1).then_some(()));
    shared.open();
    let record = daemon.tcp_as(1).ok("exec.run", asked);
    assert_eq!(record["status"], "exited", "{record}");
    assert_eq!(log.words(), ["ran", "ran"]);
}

#[test]
fn whoever_waits_is_served_although_the_first_to_ask_has_gone() {
    let daemon = Daemon::start(&[]);
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let asked = keyed("k", &format!("{}; {}; echo served", log.say("ran"), gate.wait()));
    let (mut first, mut second) = (daemon.tcp_as(1), daemon.tcp_as(1));
    first.ask("exec.run", asked.clone());
    daemon.wait_running(1);
    let id = enqueue(&mut second, asked.clone());
    drop(first);
    wait_connections(&daemon, 1);
    gate.open();
    // Whether it is the first run, which somebody still waits for, or one of its own: it is served.
    assert_eq!(expect_done(&mut second, &id)["stdout"], "served\n");
    let ran = log.words().len();
    second.ok("exec.run", asked);
    assert_eq!(log.words().len(), ran);
}

/// Its output has no reader: it goes nowhere, and holds nothing up.
#[test]
fn a_stream_whose_reader_left_the_queue_runs_for_whoever_waits_with_it() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(1))]);
    let (mut holder, mut first, mut second) = (daemon.tcp_as(2), daemon.tcp_as(1), daemon.tcp_as(1));
    let gate = daemon.launch.folder.gate();
    let running = hold(&daemon, &mut holder, &gate, json!({}));
    let mut streamed = keyed("k", "head -c 2000000 /dev/zero");
    streamed["queue_ms"] = json!(600_000);
    streamed["stream"] = json!(true);
    enqueue(&mut first, streamed.clone());
    let id = enqueue(&mut second, streamed);
    drop(first);
    wait_connections(&daemon, 2);
    gate.open();
    expect_done(&mut holder, &running);
    assert_eq!(expect_done(&mut second, &id)["stdout_bytes"], 2_000_000);
    wait_unused(&daemon, &ip(1));
}

#[test]
fn a_stream_whose_reader_left_it_runs_on_for_whoever_waits_with_it() {
    let daemon = Daemon::start(&[]);
    let (mut first, mut second) = (daemon.tcp_as(1), daemon.tcp_as(1));
    let mut streamed = keyed("k", "head -c 20000000 /dev/zero");
    streamed["stream"] = json!(true);
    // It does not read, so the command waits for it.
    enqueue(&mut first, streamed.clone());
    daemon.wait_running(1);
    let id = enqueue(&mut second, streamed);
    drop(first);
    assert_eq!(expect_done(&mut second, &id)["stdout_bytes"], 20_000_000);
    wait_unused(&daemon, &ip(1));
}

#[test]
fn a_run_that_was_killed_is_remembered() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    let asked = json!({"key": "k", "cmd": "sleep 1000", "timeout_s": 0.05, "kill_grace_ms": 20});
    let first = client.ok("exec.run", asked.clone());
    assert_eq!(first["status"], "timed_out", "{first}");
    assert_eq!(client.ok("exec.run", asked), first);
    assert_eq!(daemon.stats()["commands"]["started"], 1);
}

#[test]
fn the_window_counts_from_the_end() {
    let daemon = Daemon::start(&[("commands.key_window_s", json!(4))]);
    let (mut client, log) = (daemon.tcp_as(1), Log::new());
    // It runs for longer than the window.
    let asked = keyed("k", &format!("{}; sleep 4.5", log.say("ran")));
    let first = client.ok("exec.run", asked.clone());
    assert_eq!(client.ok("exec.run", asked), first, "forgotten at its end");
    assert_eq!(log.words(), ["ran"]);
}

#[test]
fn after_the_window_it_runs_again() {
    let daemon = Daemon::start(&[("commands.key_window_s", json!(0.3))]);
    let (mut client, log) = (daemon.tcp_as(1), Log::new());
    let first = client.ok("exec.run", keyed("k", &log.say("ran")));
    wait_until("the window is over", DEADLINE, || {
        let record = client.ok("exec.run", keyed("k", &log.say("ran")));
        (record["exec"] != first["exec"]).then_some(())
    });
    assert_eq!(log.words().len(), 2);
}

#[test]
fn a_key_works_in_a_session_too() {
    let daemon = Daemon::start(&[]);
    let (mut client, log) = (daemon.tcp_as(1), Log::new());
    let session = client.open(json!({}));
    let asked = json!({"key": "k", "session": session, "cmd": log.say("ran")});
    let first = client.ok("exec.run", asked.clone());
    assert_eq!(client.ok("exec.run", asked), first);
    assert_eq!(client.ok("session.info", json!({"session": session}))["commands"], 1);
    assert_eq!(log.words(), ["ran"]);
}

#[test]
fn what_waits_in_the_queue_has_its_key_as_well() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(1))]);
    let (mut client, mut again, mut holder) = (daemon.tcp_as(1), daemon.tcp_as(1), daemon.unix());
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut holder, &gate, json!({}));
    let asked = json!({"key": "k", "cmd": log.say("ran"), "queue_ms": 600_000});
    let first = enqueue(&mut client, asked.clone());
    let second = enqueue(&mut again, asked);
    gate.open();
    expect_done(&mut holder, &running);
    assert_eq!(expect_done(&mut client, &first), expect_done(&mut again, &second));
    assert_eq!(log.words(), ["ran"]);
}

#[test]
fn a_key_is_a_string_of_reasonable_length() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    for bad in [json!(5), json!(true), json!(["k"]), json!({}), json!("k".repeat(100_000))] {
        expect_bad(&mut client, "exec.run", json!({"key": bad, "cmd": "true"}), "key");
    }
    client.ok("exec.run", json!({"key": "0f8fad5b-d9cb-469f-a165-70867728950e", "cmd": "true"}));
}

#[test]
fn inv9_keys_hold_no_claim() {
    let daemon = Daemon::start(&[registered(json!({"sessions": 1, "commands": 1}))]);
    let mut client = daemon.tcp_as(1);
    for number in 0..20 {
        client.ok("exec.run", json!({"key": format!("k{number}"), "cmd": "true", "queue_ms": 60_000}));
        wait_unused(&daemon, &ip(1));
    }
    // A record that is only told again needs no room.
    stand(&daemon, &mut client, json!({}));
    client.ok("exec.run", json!({"key": "k3", "cmd": "true", "queue_ms": 60_000}));
}

#[test]
fn two_members_of_a_batch_with_one_key_are_one_run() {
    let daemon = Daemon::start(&[]);
    let (mut client, log) = (daemon.tcp_as(1), Log::new());
    let member = |id: i64| json!({"id": id, "method": "exec.run", "params": keyed("k", &log.say("ran"))});
    client.send(&json!([member(1), member(2), member(3)]));
    let answers = client.recv();
    assert_eq!(answers[0]["result"]["status"], "exited", "{answers}");
    for at in [1, 2] {
        assert_eq!(answers[at]["result"], answers[0]["result"], "{answers}");
    }
    assert_eq!(log.words(), ["ran"]);
}

#[test]
fn a_streamed_run_is_remembered_without_its_pieces() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    let asked = json!({"key": "k", "cmd": "echo piece", "stream": true});
    let id = client.ask("exec.run", asked.clone());
    let (pieces, first) = crate::exec_support::pieces_and_record(&mut client, &id);
    assert_eq!(crate::exec_support::joined(&pieces, "stdout"), b"piece\n");
    let mut again = daemon.tcp_as(1);
    assert_eq!(again.ok("exec.run", asked), first);
    // What comes next on that connection is not a piece.
    again.ping();
    assert_eq!(daemon.stats()["commands"]["started"], 1);
}

#[test]
fn inv7_what_is_remembered_is_bounded() {
    let daemon = Daemon::start(&[("commands.max_buffer_bytes", json!(8 << 20))]);
    let mut client = daemon.tcp_as(1);
    let before = crate::support::procs::peak_rss_bytes(daemon.runtime_pid);
    // 100 MB of output, all of it under keys whose window is not over.
    for number in 0..100 {
        let asked = json!({"key": format!("k{number}"), "cmd": "head -c 1000000 /dev/zero | tr '\\0' a"});
        let record = client.ok("exec.run", asked);
        assert_eq!(record["stdout_bytes"], 1_000_000);
    }
    let grown = crate::support::procs::peak_rss_bytes(daemon.runtime_pid) - before;
    assert!(grown < 40 << 20, "it grew by {grown} bytes");
    // The last one is remembered for sure: what goes first is what is oldest.
    let asked = json!({"key": "small", "cmd": "echo small"});
    let first = client.ok("exec.run", asked.clone());
    assert_eq!(client.ok("exec.run", asked), first);
}
