//! Statistics that come by themselves.

use crate::support::{Conn, DEADLINE, Daemon, json, shape, wait_until};

#[test]
fn a_subscription_delivers_the_statistics_until_it_is_ended() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    assert_eq!(client.ok("system.subscribe", json!({"interval_ms": 100})), json!({"subscribed": true}));
    for _ in 0..3 {
        let notification = client.recv();
        assert_eq!(notification["method"], "system.stats");
        shape::check_identities(&notification["params"]);
        assert!(notification["params"]["uptime_ms"].is_number());
    }
    let id = client.ask("system.unsubscribe", json!({}));
    while client.recv()["id"] != id {}
    let start = uptime_ms(&mut client);
    wait_until("three intervals go by", DEADLINE, || (uptime_ms(&mut client) > start + 300.0).then_some(()));
    client.ping();
    client.half_close();
    client.expect_end();
}

#[track_caller]
fn uptime_ms(client: &mut Conn) -> f64 {
    client.ok("system.stats", json!({}))["uptime_ms"].as_f64().unwrap()
}

#[test]
fn asked_again_the_new_interval_of_a_subscription_counts() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.ok("system.subscribe", json!({"interval_ms": 60_000}));
    client.ok("system.subscribe", json!({"interval_ms": 100}));
    for _ in 0..2 {
        assert_eq!(client.recv()["method"], "system.stats");
    }
}

#[test]
fn a_subscription_does_not_hold_a_connection_open_or_slow_it_down() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.ok("system.subscribe", json!({"interval_ms": 100}));
    for _ in 0..50 {
        client.ping();
    }
    drop(client);
    daemon.stats_show("it is gone", |stats| (stats["connections"]["current"] == 1).then_some(()));
}

#[test]
fn the_interval_of_a_subscription_is_bounded() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for bad in [json!(99), json!(0), json!(-1), json!(60_001), json!(1e308), json!("100"), json!(null)] {
        let error = client.refused("system.subscribe", json!({"interval_ms": bad}), "INVALID_PARAMS");
        assert_eq!(error["data"]["field"], "interval_ms", "{error}");
    }
    for good in [100, 60_000] {
        client.ok("system.subscribe", json!({"interval_ms": good}));
    }
    assert_eq!(client.ok("system.unsubscribe", json!({})), json!({}));
    assert_eq!(client.ok("system.unsubscribe", json!({})), json!({}));
}
