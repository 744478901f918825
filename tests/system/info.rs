//! What the daemon says it is, where it listens, and by what its limits bind.

use crate::support::{DEADLINE, Daemon, Value, find, is_root, json, procs, skip, wait_until};

#[test]
fn ping_is_answered() {
    let daemon = Daemon::start(&[]);
    for mut client in [daemon.tcp(), daemon.unix()] {
        assert_eq!(client.ok("system.ping", json!({})), json!({"pong": true}));
    }
}

#[test]
fn the_ready_line_names_the_guard_and_where_to_connect() {
    let daemon = Daemon::start(&[]);
    assert_eq!(daemon.ready["ready"], true);
    assert_eq!(daemon.ready["pid"], daemon.pid);
    assert_eq!(daemon.ready["unix_socket"], json!(daemon.launch.socket()));
    let listen = daemon.ready["listen"].as_str().unwrap();
    assert!(listen.starts_with("127.0.0.1:") && !listen.ends_with(":0"), "{listen}");
    assert_ne!(daemon.runtime_pid, daemon.pid);
    let runtime = procs::one(daemon.runtime_pid).unwrap();
    assert_eq!(runtime.parent, daemon.pid);
}

#[test]
fn the_unix_socket_has_the_configured_permissions() {
    use std::os::unix::fs::PermissionsExt;
    for (configured, expected) in [(None, 0o600), (Some("0660"), 0o660)] {
        let settings: Vec<_> = configured.iter().map(|mode| ("unix_socket_mode", json!(mode))).collect();
        let daemon = Daemon::start(&settings);
        let mode = std::fs::metadata(daemon.launch.socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, expected);
    }
}

#[test]
fn info_tells_what_this_is_and_what_it_allows() {
    let settings = [
        ("sessions.max_sessions", json!(17)),
        ("commands.max_commands", json!(5)),
        ("commands.max_timeout_s", json!(77)),
    ];
    let daemon = Daemon::start(&settings);
    let info = daemon.tcp().ok("system.info", json!({}));
    assert_eq!(info["name"], "cofferdam");
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["protocol"], 1);
    assert_eq!(info["pid"], daemon.runtime_pid);
    assert!(info["uptime_ms"].as_f64().unwrap() >= 0.0);
    assert!(!info["platform"].is_null(), "{info}");
    assert!(info["features"].as_array().unwrap().iter().all(Value::is_string), "{info}");
    let limits = &info["limits"];
    for (name, value) in [("max_sessions", 17), ("max_commands", 5), ("max_connections", 256), ("max_batch", 64)] {
        assert_eq!(find(limits, name), Some(&json!(value)), "{name}: {limits}");
    }
    for (name, value) in [("max_timeout_s", 77.0), ("limit_cpu_sec", 60.0), ("limit_nofile", 256.0)] {
        assert_eq!(find(limits, name).and_then(Value::as_f64), Some(value), "{name}: {limits}");
    }
}

#[test]
fn info_reports_honestly_by_what_each_limit_binds() {
    let daemon = Daemon::start(&[]);
    let info = daemon.tcp().ok("system.info", json!({}));
    let enforcement = info["enforcement"].as_object().unwrap();
    for name in ["cpu_sec", "memory_bytes", "address_space_bytes", "nproc", "nofile", "fsize_bytes", "core_bytes"] {
        let row = enforcement.get(name).unwrap_or_else(|| panic!("{name} is missing: {info}"));
        let by = row["by"].as_str().unwrap();
        assert!(["rlimit", "watchdog", "cgroup", "none"].contains(&by), "{name}: {row}");
    }
    for name in ["cpu_sec", "address_space_bytes", "nofile", "fsize_bytes"] {
        assert!(["rlimit", "cgroup"].contains(&enforcement[name]["by"].as_str().unwrap()), "{name}: {info}");
    }
    assert!(["watchdog", "cgroup"].contains(&enforcement["memory_bytes"]["by"].as_str().unwrap()), "{info}");
    for (name, row) in enforcement {
        assert!(row["by"].is_string(), "{name}: {row}");
        assert!(row["by"] != "none" || row["note"].as_str().is_some_and(|note| !note.is_empty()), "{name}: {row}");
    }
}

#[test]
fn info_says_that_nproc_does_not_bind_root() {
    if !is_root() {
        return skip("only root is exempt from RLIMIT_NPROC");
    }
    let daemon = Daemon::start(&[("children.run_as", json!("same"))]);
    let info = daemon.tcp().ok("system.info", json!({}));
    let row = &info["enforcement"]["nproc"];
    assert!(row["note"].as_str().is_some_and(|note| note.contains("root")), "{row}");
    wait_until("it is logged", DEADLINE, || daemon.log().contains("nproc").then_some(()));
}
