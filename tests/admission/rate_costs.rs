//! What a request costs of its client's rate, what is free, and whose rate it is.

use crate::rate::{ASK, ask_many, burst, daemon, limited, nodelay, passes};
use crate::support::{Conn, Value, json};
use crate::view::*;

#[test]
fn a_refused_request_changes_nothing() {
    let daemon = daemon("1r/m", &[]);
    let mut client = daemon.tcp_as(1);
    passes(&mut client);
    let requests = [
        ("session.open", json!({})),
        ("exec.run", json!({"cmd": "true"})),
        ("session.history", json!({"session": "s1"})),
        ("limit.check", json!({"claims": {"sessions": 1}})),
    ];
    for (method, params) in requests {
        client.refused(method, params, "RATE_LIMITED");
    }
    let stats = daemon.stats();
    assert_eq!((&stats["commands"]["started"], &stats["sessions"]["opened"]), (&json!(0), &json!(0)), "{stats}");
    assert_eq!((&stats["commands"]["running"], &stats["sessions"]["current"]), (&json!(0), &json!(0)), "{stats}");
    assert_eq!((&stats["commands"]["rejected"], &stats["sessions"]["rejected"]), (&json!(1), &json!(1)), "{stats}");
}

#[test]
fn a_dry_run_refuses_nothing_and_counts_what_it_would_have() {
    let daemon = daemon("1r/m", &[("rate.dry_run", json!(true)), burst(1)]);
    let mut client = daemon.tcp_as(1);
    let (ids, ping) = ask_many(&mut client, 6);
    for id in ids.iter().chain([&ping]) {
        assert!(client.answer(id).get("result").is_some());
    }
    let stats = daemon.stats();
    // One free, one that would have waited, four that would have been refused.
    assert_eq!(stats["requests"]["rate_limited"], 4, "{stats}");
    assert_eq!(stats["requests"]["errors"]["RATE_LIMITED"].as_u64().unwrap_or(0), 0, "{stats}");
}

#[test]
fn each_element_of_a_batch_counts() {
    let daemon = daemon("1r/m", &[burst(2), nodelay()]);
    let mut client = daemon.tcp_as(1);
    let one = |id: i64, method: &str| json!({"id": id, "method": method});
    let batch = json!([
        one(1, ASK.0),
        one(2, "system.ping"),
        one(3, ASK.0),
        one(4, ASK.0),
        one(5, ASK.0),
        one(6, "session.list"),
    ]);
    client.send(&batch);
    let answers = client.recv();
    let reasons: Vec<Value> =
        answers.as_array().unwrap().iter().map(|answer| answer["error"]["data"]["reason"].clone()).collect();
    let passed = Value::Null;
    assert_eq!(json!(reasons), json!([passed, passed, passed, passed, "RATE_LIMITED", passed]), "{answers}");
    limited(&mut client);
}

#[test]
fn the_control_lane_is_never_limited_and_costs_nothing() {
    let daemon = daemon("1r/m", &[burst(1), nodelay()]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({}));
    let calls = [
        ("system.ping", json!({})),
        ("system.info", json!({})),
        ("system.stats", json!({})),
        ("system.subscribe", json!({"interval_ms": 60_000})),
        ("system.unsubscribe", json!({})),
        ("system.drain", json!({})),
        ("auth.login", json!({"token": "t"})),
        ("session.list", json!({})),
        ("session.info", json!({"session": session})),
        ("exec.kill", json!({"exec": "e9"})),
        ("exec.signal", json!({"exec": "e9", "signal": "TERM"})),
        ("exec.list", json!({})),
    ];
    let lane = |client: &mut Conn| {
        for (method, params) in &calls {
            let answer = client.request(method, params.clone());
            assert_ne!(answer["error"]["data"]["reason"], "RATE_LIMITED", "{method}: {answer}");
        }
    };
    lane(&mut client);
    // It has cost nothing: there is one left of the two.
    passes(&mut client);
    limited(&mut client);
    lane(&mut client);
    client.ok("session.close", json!({"session": session}));
    limited(&mut client);
}

#[test]
fn what_is_malformed_costs_nothing() {
    let daemon = daemon("1r/m", &[]);
    let mut client = daemon.tcp_as(1);
    client.ping();
    for _ in 0..3 {
        client.refused("session.open", json!({"nmae": "x"}), "INVALID_PARAMS");
        client.refused("exec.run", json!({"cmd": "true", "timeout_s": 0}), "INVALID_PARAMS");
        client.send_line("{\"id\":1,\"method\":7}");
        assert_eq!(client.recv()["error"]["data"]["reason"], "INVALID_REQUEST");
    }
    passes(&mut client);
    limited(&mut client);
}

#[test]
fn what_is_refused_later_has_cost_its_place() {
    let daemon = daemon("1r/m", &[]);
    for (number, method, params, reason) in [
        (2, "exec.run", json!({"session": "s404", "cmd": "true"}), "SESSION_NOT_FOUND"),
        (3, "exec.run", json!({"argv": ["/no/such/program"]}), "SPAWN_FAILED"),
        (4, "limit.check", json!({"claims": {"gpus": 1}}), "OVER_LIMIT"),
    ] {
        let mut client = daemon.tcp_as(number);
        client.refused(method, params, reason);
        limited(&mut client);
    }
}

#[test]
fn a_notification_counts_too() {
    let daemon = daemon("1r/m", &[]);
    let mut client = daemon.tcp_as(1);
    client.send_line("{\"method\":\"limit.show\"}");
    limited(&mut client);
}

#[test]
fn connections_of_a_client_share_its_rate_and_clients_do_not() {
    let daemon = daemon("1r/m", &[]);
    let (mut one, mut two) = (daemon.tcp_as(1), daemon.tcp_as(1));
    passes(&mut one);
    limited(&mut two);
    drop(one);
    wait_connections(&daemon, 1);
    limited(&mut daemon.tcp_as(1));
    passes(&mut daemon.tcp_as(2));
    let mut admin = daemon.unix();
    passes(&mut admin);
    limited(&mut admin);
}

#[test]
fn inv7_the_client_that_asked_longest_ago_is_forgotten_first() {
    let daemon = daemon("1r/m", &[("rate.max_keys", json!(2))]);
    let mut clients = [2, 3, 4].map(|number| daemon.tcp_as(number));
    passes(&mut clients[0]);
    passes(&mut clients[1]);
    // A request that is refused is a use as well.
    limited(&mut clients[0]);
    passes(&mut clients[2]);
    limited(&mut clients[0]);
    passes(&mut clients[1]);
}
