//! Opening a session, and what is told about it.

use std::collections::BTreeSet;

use crate::support::{DEADLINE, Daemon, Value, json, wait_until};

#[test]
fn an_open_session_is_given_an_id_a_directory_and_its_limits() {
    let daemon = Daemon::start(&[("limits.limit_nofile", json!(123)), ("limits.limit_cpu_sec", json!(7))]);
    let mut client = daemon.tcp();
    let opened = client.ok("session.open", json!({}));
    assert!(opened["session"].as_str().is_some_and(|id| !id.is_empty()), "{opened}");
    assert!(opened["cwd"].as_str().is_some_and(|path| path.starts_with('/')), "{opened}");
    let limits = &opened["limits"];
    assert_eq!(limits["nofile"], 123);
    assert_eq!(limits["cpu_sec"].as_f64(), Some(7.0));
    for name in ["memory_bytes", "address_space_bytes", "nproc", "fsize_bytes", "core_bytes"] {
        assert!(limits[name].is_i64(), "{name}: {limits}");
    }
}

#[test]
fn info_tells_all_about_a_session() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let opened = client.ok("session.open", json!({"name": "build", "cwd": "/"}));
    let session = opened["session"].as_str().unwrap();
    let info = client.ok("session.info", json!({"session": session}));
    assert_eq!(info["session"], opened["session"]);
    assert_eq!(info["name"], "build");
    assert_eq!(info["client"], "ip:127.0.0.1");
    assert_eq!(info["cwd"], "/");
    assert!(matches!(info["shell"], Value::Null | Value::Bool(false)), "{info}");
    assert_eq!(info["persist"], false);
    assert_eq!(info["busy"], false);
    assert_eq!(info["running"], json!([]));
    assert_eq!(info["commands"], 0);
    assert_eq!(info["limits"], opened["limits"]);
    for name in ["created_ms_ago", "idle_ms"] {
        assert!(info[name].as_f64().is_some_and(|ms| ms >= 0.0), "{name}: {info}");
    }
    for name in ["cpu_ms", "output_bytes", "wall_ms"] {
        assert!(info["usage"][name].is_number(), "usage.{name}: {info}");
    }
}

#[test]
fn a_session_without_a_name_has_none() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    let info = client.ok("session.info", json!({"session": session}));
    assert_eq!(info["name"], Value::Null);
}

#[test]
fn list_gives_the_info_of_each_open_session() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    assert_eq!(client.ok("session.list", json!({})), json!({"sessions": []}));
    let ids: BTreeSet<String> = (0..3).map(|_| client.open(json!({}))).collect();
    let list = client.ok("session.list", json!({}));
    let listed = list["sessions"].as_array().unwrap();
    let seen: BTreeSet<String> = listed.iter().map(|info| info["session"].as_str().unwrap().to_owned()).collect();
    assert_eq!(seen, ids);
    let info = client.ok("session.info", json!({"session": listed[0]["session"]}));
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&info), keys(&listed[0]));
}

#[test]
fn close_tells_what_the_session_has_used() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    client.run_in(&session, "echo 12345");
    client.run_in(&session, "echo 12345 >&2; exit 3");
    let closed = client.ok("session.close", json!({"session": session}));
    assert_eq!(closed["closed"], true);
    assert_eq!(closed["commands"], 2);
    assert_eq!(closed["usage"]["output_bytes"], 12);
    assert!(closed["usage"]["cpu_ms"].as_f64().unwrap() > 0.0, "{closed}");
    assert!(closed["usage"]["wall_ms"].as_f64().unwrap() > 0.0, "{closed}");
}

#[test]
fn a_closed_session_is_not_found_any_more() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    client.ok("session.close", json!({"session": session}));
    for method in ["session.close", "session.info", "session.history"] {
        let error = client.refused(method, json!({"session": session}), "SESSION_NOT_FOUND");
        assert_eq!(error["data"]["session"], json!(session));
    }
    client.refused("exec.run", json!({"session": session, "cmd": "true"}), "SESSION_NOT_FOUND");
}

#[test]
fn inv11_the_ids_of_sessions_are_never_used_again() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let mut seen = BTreeSet::new();
    for _ in 0..100 {
        let session = client.open(json!({}));
        client.ok("session.close", json!({"session": session}));
        assert!(seen.insert(session.clone()), "{session} was given out twice");
    }
}

#[test]
fn malformed_comes_before_unknown_session() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let params = json!({"session": "none", "cmd": "true", "timeout_s": -1});
    client.refused("exec.run", params, "INVALID_PARAMS");
    client.refused("exec.run", json!({"session": "none", "cmd": "true"}), "SESSION_NOT_FOUND");
}

#[test]
fn inv9_over_max_sessions_nothing_is_opened_and_nothing_is_left() {
    let workspaces = |daemon: &Daemon| std::fs::read_dir(daemon.launch.folder.join("w")).unwrap().count();
    let daemon = Daemon::start(&[("sessions.max_sessions", json!(3)), ("children.workspaces", json!("w"))]);
    let mut client = daemon.tcp();
    let sessions: Vec<String> = (0..3).map(|_| client.open(json!({}))).collect();
    let before = workspaces(&daemon);
    for _ in 0..5 {
        let error = client.refused("session.open", json!({}), "CAPACITY");
        assert_eq!(error["data"]["resource"], "sessions", "{error}");
        assert_eq!(error["data"]["limit"], 3);
        assert_eq!(error["data"]["usage"], 3);
        // A session for one command counts like any other.
        let error = client.refused("exec.run", json!({"cmd": "true"}), "CAPACITY");
        assert_eq!(error["data"]["resource"], "sessions", "{error}");
    }
    assert_eq!(workspaces(&daemon), before);
    let stats = daemon.stats();
    assert_eq!(stats["sessions"]["current"], 3);
    assert_eq!(stats["sessions"]["opened"], 3);
    assert!(stats["sessions"]["rejected"].as_u64().unwrap() >= 5, "{stats}");
    assert_eq!(stats["commands"]["rejected"], 5, "{stats}");
    // The place of one that closes is free again at once.
    client.ok("session.close", json!({"session": sessions[0]}));
    client.open(json!({}));
    client.refused("session.open", json!({}), "CAPACITY");
}

#[test]
fn inv9_a_session_that_cannot_be_opened_leaves_its_place_free() {
    let daemon = Daemon::start(&[("sessions.max_sessions", json!(1))]);
    let mut client = daemon.tcp();
    for _ in 0..3 {
        client.refused("session.open", json!({"cwd": "/no/such/folder"}), "SPAWN_FAILED");
        client.refused("session.open", json!({"limits": {"nofile": 1}}), "INVALID_PARAMS");
    }
    client.open(json!({}));
}

#[test]
fn a_session_of_one_command_closes_with_it() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let record = client.run("echo hi");
    assert_eq!(record["stdout"], "hi\n");
    wait_until("its session is closed", DEADLINE, || {
        let list = client.ok("session.list", json!({}));
        list["sessions"].as_array().unwrap().is_empty().then_some(())
    });
    let stats = daemon.stats();
    assert_eq!(stats["sessions"]["opened"], 1);
    assert_eq!(stats["sessions"]["closed"], 1);
}
