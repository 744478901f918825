//! Commands in the background claim and give back as those in the foreground do.

use crate::support::{Conn, DEADLINE, Daemon, Value, json, wait_until};
use crate::view::*;

/// Starts a command in the background: its exec id.
#[track_caller]
fn start(client: &mut Conn, session: &str, cmd: &str) -> Value {
    client.ok("exec.start", json!({"session": session, "cmd": cmd}))["exec"].clone()
}

#[test]
fn a_command_in_the_background_claims_until_it_ends() {
    let daemon = Daemon::start(&[registered(json!({"commands": 1}))]);
    let (mut client, mut admin) = (daemon.tcp_as(1), daemon.unix());
    let session = client.open(json!({}));
    let spare = client.open(json!({}));
    let gate = daemon.launch.folder.gate();
    let exec = start(&mut client, &session, &gate.wait());
    assert_eq!(usage(&mut admin, &ip(1), "commands"), 1);
    for method in ["exec.start", "exec.run"] {
        let error = changes_nothing(&daemon, &ip(1), || {
            client.refused(method, json!({"session": spare, "cmd": "true"}), "OVER_LIMIT")
        });
        expect_over(&error, &ip(1), &[("commands", 1, 1, 1)], true);
        client.refused(method, json!({"session": session, "cmd": "true"}), "SESSION_BUSY");
    }
    // Whoever waits in the foreground gets the slot of one in the background.
    let waiter = enqueue(&mut client, waiting_in(&spare, "echo waited"));
    gate.open();
    assert_eq!(expect_done(&mut client, &waiter)["stdout"], "waited\n");
    assert_eq!(client.ok("exec.wait", json!({"exec": exec, "wait_s": 10}))["status"], "exited");
    assert_eq!(usage(&mut admin, &ip(1), "commands"), 0);
    for session in [session, spare] {
        client.ok("session.close", json!({"session": session}));
    }
    wait_unused(&daemon, &ip(1));
}

#[test]
fn one_that_cannot_start_claims_nothing() {
    let daemon = Daemon::start(&[registered(json!({"commands": 1}))]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({"budget": {"commands": 1}}));
    for _ in 0..3 {
        let asked = json!({"session": session, "argv": ["/no/such/program"]});
        changes_nothing(&daemon, &ip(1), || client.refused("exec.start", asked, "SPAWN_FAILED"));
    }
    start(&mut client, &session, "true");
    wait_until("it has ended", DEADLINE, || (usage(&mut daemon.unix(), &ip(1), "commands") == 0).then_some(()));
    client.refused("exec.start", json!({"session": session, "cmd": "true"}), "BUDGET_EXHAUSTED");
}

#[test]
fn none_in_the_background_waits_for_a_slot() {
    let daemon = one_slot(&[]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({}));
    expect_bad(&mut client, "exec.start", json!({"session": session, "cmd": "true", "queue_ms": 5}), "queue_ms");
    stand(&daemon, &mut client, json!({}));
    let asked = json!({"session": session, "cmd": "true"});
    let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.start", asked, "CAPACITY"));
    expect_capacity(&error, "commands", 1, 1);
}

#[test]
fn inv9_one_that_is_killed_or_whose_session_ends_gives_all_back() {
    let daemon = Daemon::start(&[registered(json!({"commands": 1, "sessions": 1}))]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({}));
    let exec = start(&mut client, &session, STANDING);
    client.ok("exec.kill", json!({"exec": exec}));
    wait_until("its slot is free", DEADLINE, || (usage(&mut daemon.unix(), &ip(1), "commands") == 0).then_some(()));
    let exec = start(&mut client, &session, STANDING);
    client.ok("exec.signal", json!({"exec": exec, "signal": "TERM"}));
    assert_eq!(client.ok("exec.wait", json!({"exec": exec, "wait_s": 10}))["status"], "signaled");
    start(&mut client, &session, STANDING);
    client.ok("session.close", json!({"session": session}));
    wait_unused(&daemon, &ip(1));
    let session = client.open(json!({}));
    start(&mut client, &session, STANDING);
    drop(client);
    wait_unused(&daemon, &ip(1));
}

#[test]
fn what_is_kept_of_one_that_has_ended_counts_until_it_goes() {
    let daemon = Daemon::start(&[("commands.max_buffer_bytes", json!(4 << 20))]);
    let (mut client, mut admin) = (daemon.tcp_as(1), daemon.unix());
    let session = client.open(json!({}));
    let exec = start(&mut client, &session, "head -c 1000000 /dev/zero");
    client.ok("exec.wait", json!({"exec": exec, "wait_s": 10}));
    let held = usage(&mut admin, &ip(1), "buffer_bytes");
    assert!(held >= 1_000_000, "{held} bytes are counted");
    client.ok("session.close", json!({"session": session}));
    wait_unused(&daemon, &ip(1));
}

#[test]
fn inv7_what_is_kept_of_those_that_have_ended_makes_room_for_those_that_come() {
    let daemon = Daemon::start(&[("commands.max_buffer_bytes", json!(4 << 20)), ("commands.retain_s", json!(3600))]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({}));
    let mut last = Value::Null;
    for _ in 0..10 {
        last = start(&mut client, &session, "head -c 1000000 /dev/zero | tr '\\0' a; printf END");
        assert_eq!(client.ok("exec.wait", json!({"exec": last, "wait_s": 10}))["status"], "exited");
    }
    let stats = daemon.stats();
    assert!(stats["output"]["buffered_bytes"].as_i64().unwrap() <= 4 << 20, "{stats}");
    // The newest is there, and somebody else's command finds room.
    let asked = json!({"exec": last, "stream": "stdout", "offset": 999_990});
    assert_eq!(client.ok("exec.read", asked)["data"], "aaaaaaaaaaEND");
    assert_eq!(daemon.tcp_as(2).run("echo room")["stdout"], "room\n");
}
