//! Where several refusals hold, the first of the contract's order is told: malformed, rate, unknown session, budget,
//! busy, quota, capacity, memory.

use crate::support::{Daemon, Value, json};
use crate::view::*;

/// More memory than any host has.
const ALL_MEMORY: (&str, i64) = ("memory.reserve_bytes", 1 << 50);

fn memory() -> (&'static str, Value) {
    (ALL_MEMORY.0, json!(ALL_MEMORY.1))
}

#[test]
fn malformed_comes_before_rate() {
    let daemon = Daemon::start(&[("rate.rate", json!("1r/m"))]);
    let mut client = daemon.tcp_as(1);
    client.ok("limit.show", json!({}));
    client.refused("exec.run", json!({"cmd": "true"}), "RATE_LIMITED");
    for params in [
        json!({}),
        json!({"cmd": "true", "argv": ["true"]}),
        json!({"cmd": 5}),
        json!({"cmd": "true", "timeout_s": 1e9}),
        json!({"cmd": "true", "limits": {"nofile": 100_000}}),
        json!({"cmd": "true", "session": 7}),
        json!({"cmd": "true", "queue_ms": -1}),
        json!({"cmd": "true", "key": 5}),
    ] {
        client.refused("exec.run", params, "INVALID_PARAMS");
    }
    client.refused("session.open", json!({"budget": {"commands": "many"}}), "INVALID_PARAMS");
    client.refused("session.open", json!({"idle_s": 1e9}), "INVALID_PARAMS");
    client.refused("limit.check", json!({"claims": 1}), "INVALID_PARAMS");
    client.refused("no.such", json!({}), "METHOD_NOT_FOUND");
}

#[test]
fn rate_comes_before_everything_else() {
    let settings = [
        ("rate.rate", json!("1r/m")),
        ("rate.burst", json!(1)),
        ("rate.delay", json!("nodelay")),
        ("commands.max_commands", json!(1)),
        registered(json!({"commands": 1, "sessions": 1})),
    ];
    let daemon = Daemon::start(&settings);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({"budget": {"commands": 1}}));
    stand(&daemon, &mut client, json!({"session": session}));
    for session in [json!(session), json!("s404"), Value::Null] {
        client.refused("exec.run", json!({"session": session, "cmd": "true"}), "RATE_LIMITED");
    }
    client.refused("session.open", json!({}), "RATE_LIMITED");
}

#[test]
fn an_unknown_session_comes_before_what_is_full() {
    let settings = [registered(json!({"commands": 0})), ("commands.max_commands", json!(1)), memory()];
    let daemon = Daemon::start(&settings);
    let mut client = daemon.tcp_as(1);
    client.refused("exec.run", json!({"session": "s404", "cmd": "true"}), "SESSION_NOT_FOUND");
    client.refused("exec.run", json!({"cmd": "true"}), "OVER_LIMIT");
}

#[test]
fn budget_comes_before_busy() {
    let daemon = Daemon::start(&[registered(json!({"commands": 1})), ("commands.max_commands", json!(1))]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({"budget": {"commands": 1}}));
    stand(&daemon, &mut client, json!({"session": session}));
    let asked = json!({"session": session, "cmd": "true"});
    changes_nothing(&daemon, &ip(1), || client.refused("exec.run", asked, "BUDGET_EXHAUSTED"));
}

#[test]
fn busy_comes_before_quota() {
    let daemon = Daemon::start(&[registered(json!({"commands": 1})), ("commands.max_commands", json!(1))]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({}));
    stand(&daemon, &mut client, json!({"session": session}));
    let asked = json!({"session": session, "cmd": "true"});
    let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", asked, "SESSION_BUSY"));
    let expected = json!({"reason": "SESSION_BUSY", "retryable": true, "session": session, "limit": 1, "usage": 1});
    assert_eq!(error["data"], expected, "{error}");
}

#[test]
fn quota_comes_before_capacity() {
    let settings = [
        registered(json!({"commands": 1, "sessions": 2})),
        ("commands.max_commands", json!(1)),
        ("sessions.max_sessions", json!(2)),
    ];
    let daemon = Daemon::start(&settings);
    let (mut client, mut other) = (daemon.tcp_as(1), daemon.tcp_as(2));
    let spare = client.open(json!({}));
    stand(&daemon, &mut client, json!({}));
    let asked = json!({"session": spare, "cmd": "true"});
    let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", asked, "OVER_LIMIT"));
    expect_over(&error, &ip(1), &[("commands", 1, 1, 1)], true);
    let error = changes_nothing(&daemon, &ip(1), || client.refused("session.open", json!({}), "OVER_LIMIT"));
    expect_over(&error, &ip(1), &[("sessions", 2, 2, 1)], true);
    // Whoever has room in the quota is told that the daemon is full.
    let error = changes_nothing(&daemon, &ip(2), || other.refused("session.open", json!({}), "CAPACITY"));
    expect_capacity(&error, "sessions", 2, 2);
}

#[test]
fn what_is_refused_for_capacity_has_claimed_nothing() {
    let daemon = Daemon::start(&[registered(json!({"commands": 9})), ("commands.max_commands", json!(1))]);
    let (mut client, mut other) = (daemon.tcp_as(1), daemon.tcp_as(2));
    let session = other.open(json!({}));
    stand(&daemon, &mut client, json!({}));
    for session in [json!(session), Value::Null] {
        let asked = json!({"session": session, "cmd": "true"});
        let error = changes_nothing(&daemon, &ip(2), || other.refused("exec.run", asked, "CAPACITY"));
        expect_capacity(&error, "commands", 1, 1);
    }
}

#[test]
fn capacity_comes_before_memory() {
    let daemon = Daemon::start(&[("commands.max_buffer_bytes", json!(128 << 10)), memory()]);
    let mut client = daemon.tcp_as(1);
    let stdin = "x".repeat(64 << 10);
    let error = client.refused("exec.run", json!({"cmd": "cat", "stdin": stdin}), "CAPACITY");
    assert_eq!(error["data"]["resource"], "buffer_bytes", "{error}");
    let error = client.refused("exec.run", json!({"cmd": "true", "merge_stderr": true}), "CAPACITY");
    assert_eq!(error["data"]["resource"], "memory", "{error}");
}
