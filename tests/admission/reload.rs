//! SIGHUP: what is written in the file counts for what comes after, and no session notices.

use std::fs;

use crate::support::{Conn, DEADLINE, Daemon, Launch, Signal, Value, json, wait_until};
use crate::view::*;

/// A daemon that has its quotas from a file.
pub fn start(config: Value) -> Daemon {
    Launch::new().without("quotas.registered").with_config(&config).start()
}

fn sessions_quota(limit: i64) -> Value {
    let (_, limits) = registered(json!({ "sessions": limit }));
    json!({"quotas": {"registered": limits}})
}

/// How old the daemon is in milliseconds, and what `system.info` says of the last reload.
#[track_caller]
fn last_reload(daemon: &Daemon) -> (i64, Value) {
    let info = daemon.unix().ok("system.info", json!({}));
    let reload = info.get("reload").unwrap_or_else(|| panic!("info shows the last reload: {info}")).clone();
    (info["uptime_ms"].as_i64().unwrap(), reload)
}

/// Puts this into the file, asks for it to be read, and waits until that is over: what `system.info` says of it.
#[track_caller]
fn reload(daemon: &Daemon, text: &str) -> Value {
    fs::write(daemon.launch.config(), text).unwrap();
    hang_up(daemon)
}

#[track_caller]
fn hang_up(daemon: &Daemon) -> Value {
    // Whatever there was has been there by now; what comes later than some milliseconds from now is the next one.
    let (now, _) = last_reload(daemon);
    wait_until("the clock has moved on", DEADLINE, || (last_reload(daemon).0 >= now + 5).then_some(()));
    daemon.signal(Signal::SIGHUP);
    wait_until("it has reloaded", DEADLINE, || {
        let (uptime, reload) = last_reload(daemon);
        (uptime - reload["ms_ago"].as_i64()? > now + 2).then_some(reload)
    })
}

#[track_caller]
pub fn reloaded(daemon: &Daemon, config: &Value) -> Value {
    let told = reload(daemon, &config.to_string());
    assert_eq!((&told["ok"], &told["error"]), (&json!(true), &Value::Null), "{told}");
    told
}

/// How many sessions a client may open now, on top of those it has; they are closed again.
#[track_caller]
pub fn room(client: &mut Conn) -> usize {
    let mut opened = Vec::new();
    loop {
        let answer = client.request("session.open", json!({}));
        match answer["result"]["session"].as_str() {
            Some(session) => opened.push(session.to_owned()),
            None => break assert_eq!(answer["error"]["data"]["reason"], "OVER_LIMIT", "{answer}"),
        }
    }
    for session in &opened {
        client.ok("session.close", json!({"session": session}));
    }
    opened.len()
}

#[test]
fn changed_quotas_count_for_what_comes_after_and_no_session_is_dropped() {
    let daemon = start(sessions_quota(3));
    let mut client = daemon.tcp_as(1);
    assert_eq!(last_reload(&daemon).1, Value::Null);
    let gate = daemon.launch.folder.gate();
    let session = client.open(json!({}));
    let run = hold(&daemon, &mut client, &gate, json!({"session": session}));
    assert_eq!(room(&mut client), 2);
    reloaded(&daemon, &sessions_quota(5));
    assert_eq!(room(&mut client), 4);
    // Lower than what there is: nothing ends, and nothing is added.
    client.open(json!({}));
    reloaded(&daemon, &sessions_quota(1));
    let error = changes_nothing(&daemon, &ip(1), || client.refused("session.open", json!({}), "OVER_LIMIT"));
    expect_over(&error, &ip(1), &[("sessions", 1, 2, 1)], true);
    gate.open();
    expect_done(&mut client, &run);
    assert_eq!(client.run_in(&session, "echo still there")["stdout"], "still there\n");
}

#[test]
fn clients_and_the_model_change_too() {
    let mut config = sessions_quota(2);
    let daemon = start(config.clone());
    let mut client = daemon.tcp_as(2);
    client.open(json!({}));
    assert_eq!(room(&mut client), 1);
    config["quotas"]["clients"] = json!({ip(2): {"sessions": 4}});
    reloaded(&daemon, &config);
    assert_eq!(room(&mut client), 3);
    // What it has counts in the tree from the start.
    config["quotas"]["model"] = json!("strict_two_level");
    config["quotas"]["clients"] =
        json!({"team": {"sessions": 3}, ip(2): {"parent": "team"}, ip(3): {"parent": "team", "sessions": 3}});
    reloaded(&daemon, &config);
    assert_eq!(daemon.unix().ok("limit.show", json!({}))["model"], "strict_two_level");
    assert_eq!(room(&mut daemon.tcp_as(3)), 2);
    assert_eq!(room(&mut client), 1);
    reloaded(&daemon, &sessions_quota(2));
    assert_eq!(daemon.unix().ok("limit.show", json!({}))["model"], "flat");
    assert_eq!(room(&mut client), 1);
    assert_eq!(usage(&mut daemon.unix(), &ip(2), "sessions"), 1);
    drop(client);
    wait_unused(&daemon, &ip(2));
}

#[test]
fn a_limit_that_was_set_wins_over_a_file_that_is_read_again() {
    let daemon = start(sessions_quota(3));
    let mut admin = daemon.unix();
    admin.ok("limit.set", json!({"resource": "sessions", "limit": 2}));
    reloaded(&daemon, &sessions_quota(7));
    assert_eq!(limit(&mut admin, &ip(1), "sessions"), 2);
    admin.ok("limit.unset", json!({"resource": "sessions"}));
    assert_eq!(limit(&mut admin, &ip(1), "sessions"), 7);
}

#[test]
fn slots_and_rates_change() {
    let daemon = start(json!({"commands": {"max_commands": 1}}));
    let (mut client, mut other) = (daemon.tcp_as(1), daemon.tcp_as(2));
    stand(&daemon, &mut client, json!({}));
    other.refused("exec.run", json!({"cmd": "true"}), "CAPACITY");
    let waiter = enqueue(&mut other, json!({"cmd": "echo waited", "queue_ms": 600_000}));
    reloaded(&daemon, &json!({"commands": {"max_commands": 2}, "rate": {"rate": "1r/m"}}));
    // The slot that there is now goes to whoever waited for it.
    assert_eq!(expect_done(&mut other, &waiter)["stdout"], "waited\n");
    other.ok("limit.show", json!({}));
    other.refused("limit.show", json!({}), "RATE_LIMITED");
    let info = other.ok("system.info", json!({}));
    assert_eq!(crate::support::find(&info["limits"], "max_commands"), Some(&json!(2)), "{info}");
    reloaded(&daemon, &json!({"commands": {"max_commands": 1}}));
    other.ok("limit.show", json!({}));
    let error = other.refused("exec.run", json!({"cmd": "true"}), "CAPACITY");
    expect_capacity(&error, "commands", 1, 1);
}

#[test]
fn limits_of_commands_change_for_what_comes_after() {
    let daemon = start(json!({"limits": {"limit_nofile": 100}}));
    let mut client = daemon.tcp_as(1);
    assert_eq!(client.run("ulimit -n")["stdout"], "100\n");
    let changed = json!({"limits": {"limit_nofile": 50}, "commands": {"max_timeout_s": 5, "default_timeout_s": 5}});
    reloaded(&daemon, &changed);
    assert_eq!(client.run("ulimit -n")["stdout"], "50\n");
    expect_bad(&mut client, "exec.run", json!({"cmd": "true", "timeout_s": 6}), "timeout_s");
    expect_bad(&mut client, "session.open", json!({"limits": {"nofile": 51}}), "limits.nofile");
    assert_eq!(client.ok("session.open", json!({}))["limits"]["nofile"], 50);
}

#[test]
fn a_bad_file_is_logged_and_the_old_one_stays() {
    let daemon = start(sessions_quota(3));
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({}));
    let bad = [
        ("{\"quotas\":{\"registered\":{\"sessions\":-5}}}", "quotas.registered.sessions"),
        ("{\"commands\":{\"max_comands\":5}}", "max_comands"),
        ("{\"commands\":{\"max_commands\":\"many\"}}", "commands.max_commands"),
        ("{\"commands\":", "config.json"),
        ("", "config.json"),
    ];
    for (text, named) in bad {
        let told = reload(&daemon, text);
        assert_eq!(told["ok"], false, "{text}: {told}");
        assert!(told["error"].as_str().is_some_and(|error| error.contains(named)), "{text}: {told}");
        wait_log(&daemon, named);
        assert_eq!(limit(&mut daemon.unix(), &ip(1), "sessions"), 3);
    }
    // All that is wrong is told at once, and none of what is right is taken.
    let text = "{\"commands\":{\"max_commands\":1,\"max_queued\":-1},\"limits\":{\"limit_nofile\":1}}";
    let told = reload(&daemon, text);
    for named in ["commands.max_queued", "limits.limit_nofile"] {
        assert!(told["error"].as_str().is_some_and(|error| error.contains(named)), "{named}: {told}");
    }
    let info = client.ok("system.info", json!({}));
    assert_eq!(crate::support::find(&info["limits"], "max_commands"), Some(&json!(16)), "{info}");
    assert_eq!(client.run_in(&session, "echo on")["stdout"], "on\n");
    reloaded(&daemon, &sessions_quota(4));
    assert_eq!(limit(&mut daemon.unix(), &ip(1), "sessions"), 4);
}

#[test]
fn a_file_that_is_gone_is_a_bad_file() {
    let daemon = start(sessions_quota(3));
    fs::remove_file(daemon.launch.config()).unwrap();
    let told = hang_up(&daemon);
    assert_eq!(told["ok"], false, "{told}");
    assert_eq!(limit(&mut daemon.unix(), &ip(1), "sessions"), 3);
}

#[test]
fn a_key_that_needs_a_restart_is_named_and_keeps_its_value() {
    let daemon = start(sessions_quota(3));
    let folder = daemon.launch.folder.join("elsewhere");
    let mut config = sessions_quota(4);
    config["state_dir"] = json!(folder);
    config["sessions"] = json!({"threads": 3});
    let told = reloaded(&daemon, &config);
    for key in ["state_dir", "sessions.threads"] {
        let named = told["restart_needed"].as_array().unwrap();
        assert!(named.contains(&json!(key)), "{key}: {told}");
        wait_log(&daemon, key);
    }
    assert!(!folder.exists());
    // The rest of the file counts all the same.
    assert_eq!(limit(&mut daemon.unix(), &ip(1), "sessions"), 4);
}

#[test]
fn what_was_set_at_the_start_stays_on_top() {
    let (key, limits) = registered(json!({"sessions": 2}));
    let config = json!({"listen": "127.0.0.1:1", "unix_socket": "other", "commands": {"max_commands": 9}});
    let launch = Launch::new().set(key, limits).set("commands.max_commands", json!(1)).with_config(&config);
    let daemon = launch.start();
    let mut client = daemon.tcp_as(1);
    let mut changed = sessions_quota(50);
    changed["listen"] = json!("127.0.0.1:2");
    changed["commands"] = json!({"max_commands": 8});
    let told = reloaded(&daemon, &changed);
    // The address of the file has never counted: there is nothing to restart for.
    let named = told["restart_needed"].as_array().unwrap();
    assert!(!named.contains(&json!("listen")), "{told}");
    assert_eq!(limit(&mut daemon.unix(), &ip(1), "sessions"), 2);
    stand(&daemon, &mut client, json!({}));
    let error = daemon.tcp_as(2).refused("exec.run", json!({"cmd": "true"}), "CAPACITY");
    expect_capacity(&error, "commands", 1, 1);
}

#[test]
fn many_hang_ups_under_load_lose_no_answer() {
    let daemon = start(sessions_quota(20));
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({}));
    for round in 0..30 {
        fs::write(daemon.launch.config(), sessions_quota(20 + round).to_string()).unwrap();
        let ids: Vec<Value> =
            (0..4).map(|_| client.ask("exec.run", json!({"cmd": "echo on", "queue_ms": 60_000}))).collect();
        daemon.signal(Signal::SIGHUP);
        for id in &ids {
            assert_eq!(expect_done(&mut client, id)["stdout"], "on\n");
        }
    }
    let mut admin = daemon.unix();
    wait_until("the last one counts", DEADLINE, || (limit(&mut admin, &ip(1), "sessions") == 49).then_some(()));
    client.ok("session.info", json!({"session": session}));
}
