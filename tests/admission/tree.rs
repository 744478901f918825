//! The model of two levels: a parent and all its children together stay within the parent's limit.

use std::sync::{Arc, Barrier};

use crate::support::{Conn, Daemon, Value, json};
use crate::view::*;

/// A team of 127.0.0.2, 127.0.0.3 and 127.0.0.4, and nobody else in it.
fn team(registered_sessions: i64, team_sessions: i64, more: Value) -> Daemon {
    let mut clients = json!({"team": {"sessions": team_sessions}});
    for number in 2..=4 {
        clients[ip(number)] = json!({"parent": "team"});
    }
    for (client, limits) in more.as_object().unwrap() {
        clients[client].as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
    }
    let quota = registered(json!({"sessions": registered_sessions}));
    let settings = [quota, ("quotas.model", json!("strict_two_level")), ("quotas.clients", clients)];
    Daemon::start(&settings)
}

/// Opens so many sessions, none of which may be refused.
#[track_caller]
fn open(client: &mut Conn, count: usize) {
    for _ in 0..count {
        client.open(json!({}));
    }
}

/// One more session is over: scope, limit and usage.
#[track_caller]
fn expect_full(daemon: &Daemon, client: &mut Conn, name: &str, scope: &str, limit: i64, usage: i64, retryable: bool) {
    let error = changes_nothing(daemon, name, || client.refused("session.open", json!({}), "OVER_LIMIT"));
    let row = json!({"resource": "sessions", "limit": limit, "usage": usage, "delta": 1, "scope": scope});
    let expected = json!({"reason": "OVER_LIMIT", "retryable": retryable, "client": name, "over": [row]});
    assert_eq!(error["data"], expected, "{error}");
}

#[test]
fn a_child_is_bound_by_its_own_limit_and_by_the_tree() {
    let daemon = team(2, 3, json!({}));
    let (mut two, mut three, mut four) = (daemon.tcp_as(2), daemon.tcp_as(3), daemon.tcp_as(4));
    open(&mut two, 2);
    expect_full(&daemon, &mut two, &ip(2), "client", 2, 2, true);
    open(&mut three, 1);
    expect_full(&daemon, &mut three, &ip(3), "tree", 3, 3, true);
    expect_full(&daemon, &mut four, &ip(4), "tree", 3, 3, true);
    // A client of no team is not held up by it, and has the scope of a client.
    let mut alone = daemon.tcp_as(1);
    open(&mut alone, 2);
    let error = alone.refused("session.open", json!({}), "OVER_LIMIT");
    let row = &error["data"]["over"][0];
    assert_eq!((&row["limit"], &row["usage"]), (&json!(2), &json!(2)), "{error}");
    assert!(["client", "tree"].iter().any(|scope| row["scope"] == *scope), "{error}");
    // What one child gives back another may have.
    drop(two);
    wait_unused(&daemon, &ip(2));
    open(&mut four, 2);
}

#[test]
fn both_spellings_of_the_model_are_one() {
    for model in ["strict_two_level", "strict-two-level"] {
        let clients = json!({"team": {"sessions": 1}, ip(2): {"parent": "team"}});
        let daemon = Daemon::start(&[("quotas.model", json!(model)), ("quotas.clients", clients)]);
        assert_eq!(daemon.unix().ok("limit.show", json!({}))["model"], "strict_two_level");
        let mut client = daemon.tcp_as(2);
        open(&mut client, 1);
        assert_eq!(client.refused("session.open", json!({}), "OVER_LIMIT")["data"]["over"][0]["limit"], 1);
    }
}

#[test]
fn a_child_without_a_limit_of_its_own_has_the_smaller_of_the_default_and_the_parents() {
    // H11: registered 10, the parent 6.
    let daemon = team(10, 6, json!({}));
    let mut child = daemon.tcp_as(2);
    open(&mut child, 6);
    let error = child.refused("session.open", json!({}), "OVER_LIMIT");
    let row = &error["data"]["over"][0];
    assert_eq!((&row["limit"], &row["usage"], &row["delta"]), (&json!(6), &json!(6), &json!(1)), "{error}");
}

#[test]
fn the_tighter_scope_is_told_where_both_are_over() {
    // Its own: 4, of which it has 1; the tree: 5, of which all are taken.
    let daemon = team(4, 5, json!({}));
    let (mut two, mut three) = (daemon.tcp_as(2), daemon.tcp_as(3));
    open(&mut two, 1);
    open(&mut three, 4);
    let check = |client: &mut Conn, n: i64| {
        client.refused("limit.check", json!({"claims": {"sessions": n}}), "OVER_LIMIT")["data"]["over"].clone()
    };
    let tree = |delta: i64| json!([{"resource": "sessions", "limit": 5, "usage": 5, "delta": delta, "scope": "tree"}]);
    assert_eq!(check(&mut two, 1), tree(1));
    assert_eq!(check(&mut two, 4), tree(4));
    drop(three);
    wait_unused(&daemon, &ip(3));
    // Its own has room for 3, the tree for 4: 5 are over both.
    let own = json!([{"resource": "sessions", "limit": 4, "usage": 1, "delta": 5, "scope": "client"}]);
    assert_eq!(check(&mut two, 5), own);
}

#[test]
fn a_child_may_have_more_than_the_default_if_the_tree_has() {
    let daemon = team(1, 5, json!({ip(2): {"sessions": 3}}));
    let (mut two, mut three) = (daemon.tcp_as(2), daemon.tcp_as(3));
    open(&mut two, 3);
    expect_full(&daemon, &mut two, &ip(2), "client", 3, 3, true);
    open(&mut three, 1);
    expect_full(&daemon, &mut three, &ip(3), "client", 1, 1, true);
}

#[test]
fn the_parent_itself_counts_in_the_tree() {
    // The parent is a client too: it connects from 127.0.0.2.
    let clients = json!({ip(2): {"sessions": 3}, ip(3): {"parent": ip(2)}});
    let settings =
        [registered(json!({"sessions": 2})), ("quotas.model", json!("strict_two_level")), ("quotas.clients", clients)];
    let daemon = Daemon::start(&settings);
    let (mut parent, mut child) = (daemon.tcp_as(2), daemon.tcp_as(3));
    open(&mut child, 2);
    open(&mut parent, 1);
    // H3: the tree is full for the parent as well.
    let error = changes_nothing(&daemon, &ip(2), || parent.refused("session.open", json!({}), "OVER_LIMIT"));
    let row = &error["data"]["over"][0];
    assert_eq!((&row["limit"], &row["usage"], &row["scope"]), (&json!(3), &json!(3), &json!("tree")), "{error}");
    drop(child);
    wait_unused(&daemon, &ip(3));
    open(&mut parent, 2);
}

#[test]
fn limit_show_carries_the_scope() {
    let daemon = team(2, 3, json!({}));
    let mut admin = daemon.unix();
    let mut three = daemon.tcp_as(3);
    open(&mut three, 2);
    let shown = admin.ok("limit.show", json!({"client": ip(2)}));
    assert_eq!(shown["model"], "strict_two_level");
    for resource in RESOURCES {
        let row = &shown["limits"][resource];
        assert!(["client", "tree"].iter().any(|scope| row["scope"] == *scope), "{resource}: {shown}");
    }
    let team = row(&mut admin, "team", "sessions");
    assert_eq!((&team["limit"], &team["source"]), (&json!(3), &json!("client")), "{team}");
}

#[test]
fn a_limit_that_breaks_the_rule_of_the_tree_is_refused() {
    let daemon = team(2, 5, json!({ip(2): {"sessions": 4}}));
    let mut admin = daemon.unix();
    let set = |client: &str, limit: i64| json!({"resource": "sessions", "client": client, "limit": limit});
    // A child over its parent, and a parent under its child.
    expect_bad(&mut admin, "limit.set", set(&ip(3), 6), "limit");
    expect_bad(&mut admin, "limit.set", set("team", 3), "limit");
    expect_bad(&mut admin, "limit.set", set("team", 0), "limit");
    assert_eq!(row(&mut admin, "team", "sessions")["limit"], 5);
    assert_eq!(row(&mut admin, &ip(3), "sessions")["source"], "registered");
    // Equality is fine, and so is a sum of children over their parent.
    admin.ok("limit.set", set(&ip(3), 5));
    admin.ok("limit.set", set("team", -1));
    admin.ok("limit.set", set(&ip(3), 100));
    expect_bad(&mut admin, "limit.set", set("team", 99), "limit");
    admin.ok("limit.set", set("team", 100));
    admin.ok("limit.set", set(&ip(2), 0));
    let mut two = daemon.tcp_as(2);
    let error = two.refused("session.open", json!({}), "OVER_LIMIT");
    assert_eq!(error["data"]["over"][0]["limit"], 0, "{error}");
}

#[test]
fn inv9_of_children_who_race_for_the_last_of_the_tree_exactly_its_limit_get_it() {
    let daemon = Arc::new(team(3, 4, json!({})));
    for _ in 0..5 {
        let start = Arc::new(Barrier::new(9));
        let racers: Vec<_> = (0..9)
            .map(|racer| {
                let (daemon, start) = (Arc::clone(&daemon), Arc::clone(&start));
                std::thread::spawn(move || {
                    let mut client = daemon.tcp_as(2 + racer % 3);
                    start.wait();
                    let answer = client.request("session.open", json!({}));
                    (client, answer)
                })
            })
            .collect();
        let ended: Vec<_> = racers.into_iter().map(|racer| racer.join().unwrap()).collect();
        assert_eq!(ended.iter().filter(|(_, answer)| answer.get("result").is_some()).count(), 4);
        drop(ended);
        for number in 2..=4 {
            wait_unused(&daemon, &ip(number));
        }
    }
}

#[test]
fn every_resource_has_its_tree() {
    const MIB: i64 = 1 << 20;
    let of_team = json!({"commands": 2, "memory_bytes": 40 * MIB, "processes": 5000, "buffer_bytes": 300 << 10});
    let mut clients = json!({"team": of_team});
    for number in 2..=3 {
        clients[ip(number)] = json!({"parent": "team"});
    }
    let settings =
        [("quotas.model", json!("strict_two_level")), ("quotas.clients", clients), ("limits.limit_nproc", json!(4096))];
    let daemon = Daemon::start(&settings);
    let (mut two, mut three) = (daemon.tcp_as(2), daemon.tcp_as(3));
    let limits = json!({"memory_bytes": 16 * MIB, "nproc": 2000});
    stand(&daemon, &mut two, json!({"limits": limits}));
    let second = stand(&daemon, &mut three, json!({"limits": limits}));
    let asked = json!({"cmd": "true", "limits": limits});
    let error = changes_nothing(&daemon, &ip(3), || three.refused("exec.run", asked, "OVER_LIMIT"));
    let row = |resource: &str, limit: i64, usage: i64, delta: i64| json!({"resource": resource, "limit": limit, "usage": usage, "delta": delta, "scope": "tree"});
    let over = [
        row("commands", 2, 2, 1),
        row("memory_bytes", 40 * MIB, 32 * MIB, 16 * MIB),
        row("processes", 5000, 4000, 2000),
    ];
    let told: Vec<&Value> =
        error["data"]["over"].as_array().unwrap().iter().filter(|row| row["resource"] != "buffer_bytes").collect();
    assert_eq!(json!(told), json!(over), "{error}");
    let check = json!({"claims": {"buffer_bytes": 128 << 10}});
    let error = three.refused("limit.check", check, "OVER_LIMIT");
    assert_eq!(error["data"]["over"], json!([row("buffer_bytes", 300 << 10, 256 << 10, 128 << 10)]), "{error}");
    drop((two, three, second));
    for number in 2..=3 {
        wait_unused(&daemon, &ip(number));
    }
    assert_eq!(usage(&mut daemon.unix(), "team", "commands"), 0);
}
