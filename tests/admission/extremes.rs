//! Numbers at the ends of their ranges, and beyond: told or taken, never a fault of the daemon.

use crate::support::{Conn, Daemon, Launch, Value, json, skip};
use crate::view::*;

/// The answer is a result, or a refusal for one of these reasons.
#[track_caller]
fn expect_sane(client: &mut Conn, method: &str, params: Value, reasons: &[&str]) {
    let answer = client.request(method, params.clone());
    if let Some(error) = answer.get("error") {
        let reason = error["data"]["reason"].as_str().unwrap();
        assert!(reasons.contains(&reason), "{method} {params}: {answer}");
    }
}

#[test]
fn a_claim_may_be_of_any_size() {
    let daemon = Daemon::start(&[registered(json!({"sessions": 1_i64 << 60, "commands": 3}))]);
    let (mut client, mut admin) = (daemon.tcp_as(1), daemon.unix());
    client.open(json!({}));
    for n in [json!(i64::MAX), json!(i64::MAX - 1), json!(u64::MAX), json!(i64::MIN), json!(-1), json!(1_i64 << 53)] {
        for resource in ["sessions", "commands", "memory_bytes", "buffer_bytes", "gpus"] {
            let params = json!({"claims": {resource: n}});
            expect_sane(&mut client, "limit.check", params, &["OVER_LIMIT", "INVALID_PARAMS"]);
        }
    }
    for limit in [i64::MAX, i64::MAX - 1, 0, -1] {
        let params = json!({"resource": "sessions", "limit": limit});
        expect_sane(&mut admin, "limit.set", params, &["INVALID_PARAMS"]);
        assert!(usage(&mut admin, &ip(1), "sessions") == 1);
    }
    client.ping();
}

#[test]
fn claims_that_add_up_to_more_than_can_be_counted_are_still_counted() {
    let largest = json!(1_i64 << 62);
    let Some(daemon) = start_if_valid(&[("limits.limit_memory_bytes", largest)]) else { return };
    let mut client = daemon.tcp_as(1);
    let sessions: Vec<String> = (0..5).map(|_| client.open(json!({}))).collect();
    let held = usage(&mut daemon.unix(), &ip(1), "memory_bytes");
    assert!(held >= 1_i64 << 62, "{held}");
    for session in sessions {
        client.ok("session.close", json!({"session": session}));
    }
    wait_unused(&daemon, &ip(1));
}

/// A daemon with these settings, if it accepts them.
fn start_if_valid(settings: &[(&str, Value)]) -> Option<Daemon> {
    let launch = Launch::new().set_all(settings);
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    check.arg("check").current_dir(launch.folder.path());
    let config = settings.iter().fold(json!({}), |mut config, (key, value)| {
        let (group, name) = key.split_once('.').unwrap();
        config[group][name] = value.clone();
        config
    });
    let launch = launch.with_config(&config);
    if check.output().unwrap().status.code() == Some(2) {
        skip("it is over what the configuration accepts");
        return None;
    }
    Some(launch.start())
}

#[test]
fn a_wait_may_be_of_any_length() {
    let daemon = one_slot(&[]);
    let mut client = daemon.tcp_as(1);
    for queue_ms in [json!(i64::MAX), json!(u64::MAX), json!(1_i64 << 53), json!(1e300)] {
        let gate = daemon.launch.folder.gate();
        let running = hold(&daemon, &mut client, &gate, json!({}));
        let id = enqueue(&mut client, json!({"cmd": "echo waited", "queue_ms": queue_ms}));
        gate.open();
        expect_done(&mut client, &running);
        let answer = client.answer(&id);
        match answer.get("error") {
            Some(error) => assert_eq!(error["data"]["field"], "queue_ms", "{answer}"),
            None => assert_eq!(answer["result"]["stdout"], "waited\n", "{answer}"),
        }
    }
}

#[test]
fn a_budget_may_be_of_any_size() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    for name in ["commands", "cpu_sec", "output_bytes", "wall_s"] {
        for amount in [json!(i64::MAX), json!(u64::MAX), json!(1_i64 << 53), json!(1e300), json!(1e-300)] {
            let answer = client.request("session.open", json!({"budget": {name: amount}}));
            let Some(session) = answer["result"]["session"].as_str() else {
                assert_eq!(answer["error"]["data"]["field"], format!("budget.{name}"), "{answer}");
                continue;
            };
            let asked = json!({"session": session, "cmd": "echo on"});
            expect_sane(&mut client, "exec.run", asked, &["BUDGET_EXHAUSTED"]);
            client.ok("session.close", json!({"session": session}));
        }
    }
}

#[test]
fn the_fastest_rate_and_the_largest_burst_are_no_rate_at_all() {
    let settings = [("rate.rate", json!("1000000r/s")), ("rate.burst", json!(1_000_000)), ("rate.max_keys", json!(1))];
    let daemon = Daemon::start(&settings);
    let mut clients = [2, 3].map(|number| daemon.tcp_as(number));
    for _ in 0..100 {
        for client in &mut clients {
            client.ok("limit.show", json!({}));
        }
    }
    assert_eq!(daemon.stats()["requests"]["rate_limited"], 0);
}

#[test]
fn a_client_of_the_other_internet_protocol_is_its_address_too() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return skip("this host has no IPv6");
    }
    let (key, limits) = registered(json!({"sessions": 1}));
    let daemon = Launch::new().listen("[::1]:0").set(key, limits).start();
    let mut client = daemon.tcp();
    client.open(json!({}));
    let error = client.refused("session.open", json!({}), "OVER_LIMIT");
    expect_over(&error, "ip:::1", &[("sessions", 1, 1, 1)], true);
}
