//! `limit.show`, `limit.check`, `limit.set` and `limit.unset`: what they take, who may ask, what they change.

use std::os::unix::process::CommandExt;

use crate::support::{Conn, Daemon, Value, is_root, json, skip};
use crate::view::*;

#[track_caller]
fn set(admin: &mut Conn, client: Option<&str>, resource: &str, limit: i64) {
    let done = admin.ok("limit.set", json!({"client": client, "resource": resource, "limit": limit}));
    assert_eq!(done, json!({}));
}

#[track_caller]
fn unset(admin: &mut Conn, client: Option<&str>, resource: &str) {
    assert_eq!(admin.ok("limit.unset", json!({"client": client, "resource": resource})), json!({}));
}

#[test]
fn a_check_passes_up_to_the_limit() {
    let daemon = Daemon::start(&[registered(json!({"sessions": 3, "commands": 2}))]);
    let mut client = daemon.tcp_as(1);
    client.open(json!({}));
    let mut check = |claims: Value| client.request("limit.check", json!({ "claims": claims }));
    let ok = json!({"ok": true});
    for claims in [
        json!({"sessions": 2}),
        json!({"sessions": 0}),
        json!({"sessions": 2, "commands": 2}),
        json!({"memory_bytes": 1_i64 << 52, "buffer_bytes": 7}),
    ] {
        let answer = changes_nothing(&daemon, &ip(1), || check(claims.clone()));
        assert_eq!(answer["result"], ok, "{claims}: {answer}");
    }
    let error = changes_nothing(&daemon, &ip(1), || check(json!({"sessions": 3, "commands": 2}))["error"].take());
    expect_over(&error, &ip(1), &[("sessions", 3, 1, 3)], true);
    let error = check(json!({"sessions": 4, "commands": 3}))["error"].take();
    expect_over(&error, &ip(1), &[("commands", 2, 0, 3), ("sessions", 3, 1, 4)], false);
}

#[test]
fn a_check_of_nothing_asks_whether_present_usage_is_within_the_limit() {
    let daemon = Daemon::start(&[registered(json!({"sessions": 2}))]);
    let (mut client, mut admin) = (daemon.tcp_as(1), daemon.unix());
    client.open(json!({}));
    client.open(json!({}));
    let nothing = json!({"claims": {"sessions": 0}});
    assert_eq!(client.ok("limit.check", nothing.clone()), json!({"ok": true}));
    set(&mut admin, None, "sessions", 1);
    let error = client.refused("limit.check", nothing.clone(), "OVER_LIMIT");
    expect_over(&error, &ip(1), &[("sessions", 1, 2, 0)], true);
    set(&mut admin, None, "sessions", -1);
    assert_eq!(client.ok("limit.check", nothing), json!({"ok": true}));
}

#[test]
fn a_name_that_is_no_resource_has_the_limit_zero() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    assert_eq!(client.ok("limit.check", json!({"claims": {"gpus": 0}})), json!({"ok": true}));
    let error = client.refused("limit.check", json!({"claims": {"gpus": 1, "Zebras": 2, "sessions": 1}}), "OVER_LIMIT");
    // Sorted by code point, as are all.
    expect_over(&error, &ip(1), &[("Zebras", 0, 0, 2), ("gpus", 0, 0, 1)], false);
}

#[test]
fn a_check_must_be_an_object_of_whole_numbers() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    for claims in [json!([]), json!("sessions"), json!(1), json!({}), Value::Null] {
        expect_bad(&mut client, "limit.check", json!({ "claims": claims }), "claims");
    }
    expect_bad(&mut client, "limit.check", json!({}), "claims");
    for n in [json!("1"), json!(1.5), json!(null), json!([1]), json!(1e30)] {
        let params = json!({"claims": {"sessions": n}});
        let error = client.refused("limit.check", params, "INVALID_PARAMS");
        let field = error["data"]["field"].as_str().unwrap_or_default();
        assert!(field == "claims" || field == "claims.sessions", "{error}");
    }
    client.refused("limit.check", json!({"claims": {"sessions": 1}, "more": 1}), "INVALID_PARAMS");
    client.refused("limit.show", json!({"more": 1}), "INVALID_PARAMS");
}

#[test]
fn another_clients_limits_are_for_an_admin_to_see() {
    let daemon = Daemon::start(&[registered(json!({"sessions": 1}))]);
    let (mut client, mut admin) = (daemon.tcp_as(1), daemon.unix());
    client.open(json!({}));
    // One's own name is no other client.
    assert_eq!(client.ok("limit.show", json!({"client": ip(1)}))["limits"]["sessions"]["usage"], 1);
    client.refused("limit.check", json!({"client": ip(1), "claims": {"sessions": 1}}), "OVER_LIMIT");
    for method in ["limit.show", "limit.check"] {
        let mut params = json!({"client": own_uid()});
        if method == "limit.check" {
            params["claims"] = json!({"sessions": 1});
        }
        let error = client.refused(method, params, "FORBIDDEN");
        assert_eq!((&error["code"], &error["data"]["retryable"]), (&json!(-32002), &json!(false)), "{error}");
    }
    assert_eq!(admin.ok("limit.show", json!({"client": ip(1)}))["limits"]["sessions"]["usage"], 1);
    let asked = json!({"client": ip(1), "claims": {"sessions": 1}});
    expect_over(&admin.refused("limit.check", asked, "OVER_LIMIT"), &ip(1), &[("sessions", 1, 1, 1)], true);
    // A client that nobody has seen yet has the registered limits.
    let shown = admin.ok("limit.show", json!({"client": "ip:192.0.2.7"}));
    assert_eq!(shown["limits"]["sessions"], json!({"limit": 1, "usage": 0, "source": "registered"}));
}

#[test]
fn limits_are_for_an_admin_to_set() {
    let daemon = Daemon::start(&[registered(json!({"sessions": 1}))]);
    let mut client = daemon.tcp_as(1);
    for params in
        [json!({"resource": "sessions", "limit": 9}), json!({"resource": "sessions", "limit": 9, "client": ip(1)})]
    {
        client.refused("limit.set", params, "FORBIDDEN");
    }
    for params in [json!({"resource": "sessions"}), json!({"resource": "sessions", "client": ip(1)})] {
        client.refused("limit.unset", params, "FORBIDDEN");
    }
    let expected = json!({"limit": 1, "usage": 0, "source": "registered"});
    assert_eq!(row(&mut daemon.unix(), &ip(1), "sessions"), expected);
}

#[test]
fn a_limit_that_is_set_counts_from_then_on_and_unset_no_longer() {
    let daemon = Daemon::start(&[registered(json!({"sessions": 1}))]);
    let (mut client, mut admin) = (daemon.tcp_as(1), daemon.unix());
    client.open(json!({}));
    client.refused("session.open", json!({}), "OVER_LIMIT");
    set(&mut admin, Some(&ip(1)), "sessions", 2);
    assert_eq!(row(&mut admin, &ip(1), "sessions"), json!({"limit": 2, "usage": 1, "source": "client"}));
    assert_eq!(row(&mut admin, &ip(2), "sessions"), json!({"limit": 1, "usage": 0, "source": "registered"}));
    client.open(json!({}));
    unset(&mut admin, Some(&ip(1)), "sessions");
    assert_eq!(row(&mut admin, &ip(1), "sessions"), json!({"limit": 1, "usage": 2, "source": "registered"}));
    client.refused("session.open", json!({}), "OVER_LIMIT");
    // Nothing is there to unset any more, and nothing is wrong with that.
    unset(&mut admin, Some(&ip(1)), "sessions");
}

#[test]
fn the_registered_limit_is_everybodys_but_who_has_an_own_one() {
    let daemon =
        Daemon::start(&[registered(json!({"sessions": 1})), ("quotas.clients", json!({ip(2): {"sessions": 5}}))]);
    let mut admin = daemon.unix();
    set(&mut admin, None, "sessions", 3);
    assert_eq!(row(&mut admin, &ip(1), "sessions"), json!({"limit": 3, "usage": 0, "source": "registered"}));
    assert_eq!(row(&mut admin, &ip(2), "sessions"), json!({"limit": 5, "usage": 0, "source": "client"}));
    // Over what the configuration says of this client; unset, that is what counts again.
    set(&mut admin, Some(&ip(2)), "sessions", 7);
    assert_eq!(limit(&mut admin, &ip(2), "sessions"), 7);
    unset(&mut admin, Some(&ip(2)), "sessions");
    assert_eq!(row(&mut admin, &ip(2), "sessions"), json!({"limit": 5, "usage": 0, "source": "client"}));
    unset(&mut admin, None, "sessions");
    assert_eq!(limit(&mut admin, &ip(1), "sessions"), 1);
}

#[test]
fn a_resource_becomes_registered_by_being_set() {
    let daemon = Daemon::start(&[("quotas.registered", json!({"memory_bytes": -1, "processes": -1}))]);
    let (mut client, mut admin) = (daemon.tcp_as(1), daemon.unix());
    assert_eq!(row(&mut admin, &ip(1), "sessions"), json!({"limit": 0, "usage": 0, "source": "unregistered"}));
    // A client's own limit counts although nothing is registered.
    set(&mut admin, Some(&ip(1)), "sessions", 1);
    assert_eq!(row(&mut admin, &ip(1), "sessions"), json!({"limit": 1, "usage": 0, "source": "client"}));
    client.open(json!({}));
    set(&mut admin, None, "sessions", 2);
    assert_eq!(row(&mut admin, &ip(2), "sessions"), json!({"limit": 2, "usage": 0, "source": "registered"}));
    unset(&mut admin, None, "sessions");
    assert_eq!(row(&mut admin, &ip(2), "sessions"), json!({"limit": 0, "usage": 0, "source": "unregistered"}));
}

#[test]
fn a_limit_below_present_usage_ends_nothing_and_stops_new_claims() {
    let daemon = Daemon::start(&[]);
    let (mut client, mut admin) = (daemon.tcp_as(1), daemon.unix());
    let sessions: Vec<String> = (0..3).map(|_| client.open(json!({}))).collect();
    let run = stand(&daemon, &mut client, json!({"session": sessions[0]}));
    set(&mut admin, Some(&ip(1)), "sessions", 1);
    set(&mut admin, Some(&ip(1)), "commands", 0);
    let error = changes_nothing(&daemon, &ip(1), || client.refused("session.open", json!({}), "OVER_LIMIT"));
    expect_over(&error, &ip(1), &[("sessions", 1, 3, 1)], true);
    let asked = json!({"session": sessions[1], "cmd": "true"});
    let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", asked.clone(), "OVER_LIMIT"));
    expect_over(&error, &ip(1), &[("commands", 0, 1, 1)], false);
    assert_eq!(daemon.stats()["commands"]["running"], 1);
    // Two must go before one may come.
    client.ok("session.close", json!({"session": sessions[2]}));
    client.refused("session.open", json!({}), "OVER_LIMIT");
    client.ok("session.close", json!({"session": sessions[0]}));
    assert_eq!(record(client.answer(&run))["status"], "cancelled");
    client.refused("session.open", json!({}), "OVER_LIMIT");
    client.ok("session.close", json!({"session": sessions[1]}));
    client.open(json!({}));
}

#[test]
fn what_cannot_be_a_limit_is_refused_and_changes_nothing() {
    let daemon = Daemon::start(&[registered(json!({"sessions": 4}))]);
    let mut admin = daemon.unix();
    for limit in [json!(-2), json!(-100), json!(1.5), json!("5"), json!(true), json!(1e40), Value::Null] {
        expect_bad(&mut admin, "limit.set", json!({"resource": "sessions", "limit": limit}), "limit");
    }
    expect_bad(&mut admin, "limit.set", json!({"resource": "sessions"}), "limit");
    for resource in [json!("gpus"), json!(""), json!(5), json!("Sessions"), Value::Null] {
        expect_bad(&mut admin, "limit.set", json!({"resource": resource, "limit": 5}), "resource");
        expect_bad(&mut admin, "limit.unset", json!({"resource": resource}), "resource");
    }
    for method in ["limit.set", "limit.unset", "limit.show"] {
        let mut params = json!({"client": ""});
        if method != "limit.show" {
            params["resource"] = json!("sessions");
        }
        if method == "limit.set" {
            params["limit"] = json!(5);
        }
        expect_bad(&mut admin, method, params, "client");
    }
    assert_eq!(row(&mut admin, &ip(1), "sessions"), json!({"limit": 4, "usage": 0, "source": "registered"}));
}

#[test]
fn inv7_limits_of_clients_that_nobody_knows_are_bounded_or_cheap() {
    // An admin may name whom they like: each name is bounded in its length.
    let daemon = Daemon::start(&[]);
    let mut admin = daemon.unix();
    let long = "x".repeat(100_000);
    expect_bad(&mut admin, "limit.set", json!({"resource": "sessions", "limit": 1, "client": long}), "client");
    // Asking about many leaves nothing behind that would have to be kept.
    for number in 0..200 {
        admin.ok("limit.show", json!({"client": format!("ip:198.51.100.{number}")}));
    }
}

#[test]
fn over_the_unix_socket_root_and_the_daemons_own_user_are_admins_and_nobody_else() {
    const STRANGER: u32 = 65533;
    if !is_root() {
        return skip("only root can call as somebody else");
    }
    let daemon = Daemon::start(&[("unix_socket_mode", json!("0666")), registered(json!({"sessions": 3}))]);
    let address = format!("unix:{}", daemon.launch.socket().display());
    let call = |method: &str, params: Value| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cofferdam"));
        command.args(["call", method, &params.to_string(), "--addr", &address]).uid(STRANGER).gid(STRANGER);
        command.output()
    };
    let Ok(shown) = call("limit.show", json!({})) else { return skip("the program is closed to others") };
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown["client"], format!("uid:{STRANGER}"));
    assert_eq!(shown["limits"]["sessions"]["limit"], 3, "{shown}");
    for (method, params) in [
        ("limit.set", json!({"resource": "sessions", "limit": 9})),
        ("limit.unset", json!({"resource": "sessions"})),
        ("limit.show", json!({"client": own_uid()})),
        ("limit.check", json!({"client": own_uid(), "claims": {"sessions": 1}})),
        ("system.drain", json!({})),
    ] {
        let told = call(method, params).unwrap();
        assert_eq!(told.status.code(), Some(1), "{method}: {told:?}");
        let error: Value = serde_json::from_slice(&told.stderr).unwrap();
        assert_eq!(crate::support::find(&error, "reason"), Some(&json!("FORBIDDEN")), "{method}: {error}");
    }
    assert_eq!(limit(&mut daemon.unix(), &ip(1), "sessions"), 3);
}
