//! Which limits may be asked for: lowered, never raised, not below the floors.

use crate::exec_support::*;
use crate::support::*;

/// The defaults of the configuration, name by name.
fn configured() -> Value {
    json!({"cpu_sec": 60, "memory_bytes": 256 << 20, "address_space_bytes": 4_u64 << 30, "nproc": 64, "nofile": 256,
        "fsize_bytes": 256 << 20, "core_bytes": 0})
}

#[test]
fn the_limits_of_a_session_are_the_configured_ones() {
    let daemon = Daemon::start(&[("limits.limit_nproc", json!(64))]);
    let mut conn = daemon.tcp();

    let opened = conn.ok("session.open", json!({}));

    for (name, value) in configured().as_object().unwrap() {
        assert_eq!(opened["limits"][name].as_f64(), value.as_f64(), "{name}: {opened}");
    }
}

#[test]
fn a_session_may_lower_each_limit() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let asked = json!({"cpu_sec": 5, "memory_bytes": 64 << 20, "address_space_bytes": 1 << 30, "nproc": 32, "nofile": 32,
        "fsize_bytes": 1 << 20});

    let opened = conn.ok("session.open", json!({"limits": asked}));

    for (name, value) in asked.as_object().unwrap() {
        assert_eq!(opened["limits"][name].as_f64(), value.as_f64(), "{name}: {opened}");
    }
    assert_eq!(opened["limits"]["core_bytes"], 0, "what is not asked for stays: {opened}");
}

#[test]
fn no_limit_is_raised_over_the_configured_one() {
    let daemon = Daemon::start(&[("limits.limit_nproc", json!(64))]);
    let mut conn = daemon.tcp();

    for (name, value) in configured().as_object().unwrap() {
        for raised in [json!(value.as_u64().unwrap() + 1), json!(-1)] {
            conn.refused("exec.run", json!({"cmd": "true", "limits": {name: raised}}), "INVALID_PARAMS");
            conn.refused("session.open", json!({"limits": {name: raised}}), "INVALID_PARAMS");
        }
    }
    let stats = daemon.stats();
    assert_eq!((&stats["sessions"]["opened"], &stats["commands"]["started"]), (&json!(0), &json!(0)), "{stats}");
}

#[test]
fn inv13_no_limit_is_raised_over_that_of_the_session() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({"limits": {"nofile": 32, "cpu_sec": 5}}));
    let limited = |limits: Value| json!({"session": session, "cmd": "ulimit -n", "limits": limits});

    let error = conn.refused("exec.run", limited(json!({"nofile": 33})), "INVALID_PARAMS");
    assert!(error["data"]["field"].as_str().is_some_and(|field| field.ends_with("nofile")), "{error}");
    conn.refused("exec.run", limited(json!({"cpu_sec": 6})), "INVALID_PARAMS");

    assert_eq!(text(&run(&mut conn, limited(json!({"nofile": 31})))), "31\n");
    assert_eq!(text(&run(&mut conn, limited(json!({"nofile": 32})))), "32\n");
    assert_eq!(text(&run(&mut conn, limited(json!({})))), "32\n");
}

#[test]
fn limits_below_the_floors_are_refused() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for (name, below, floor) in [
        ("memory_bytes", json!((1 << 20) - 1), json!(1 << 20)),
        ("address_space_bytes", json!((1 << 20) - 1), json!(1 << 20)),
        ("nofile", json!(3), json!(4)),
        ("cpu_sec", json!(0.99), json!(1)),
    ] {
        conn.refused("exec.run", json!({"cmd": "true", "limits": {name: below}}), "INVALID_PARAMS");
        conn.refused("session.open", json!({"limits": {name: below}}), "INVALID_PARAMS");
        let opened = conn.ok("session.open", json!({"limits": {name: floor}}));
        close(&mut conn, opened["session"].as_str().unwrap());
    }
    assert_eq!(daemon.stats()["commands"]["started"], 0);
}

#[test]
fn a_command_starts_at_the_floor_of_descriptors() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    assert_eq!(end(&run(&mut conn, json!({"argv": ["true"], "limits": {"nofile": 4}}))), exited(0));
}

#[test]
fn unlimited_is_unlimited_where_it_is_configured() {
    let unlimited = json!(-1);
    let daemon = Daemon::start(&[
        ("limits.limit_fsize_bytes", unlimited.clone()),
        ("limits.limit_address_space_bytes", unlimited.clone()),
        ("limits.limit_cpu_sec", unlimited.clone()),
    ]);
    let mut conn = daemon.tcp();

    let record = run(&mut conn, json!({"cmd": "ulimit -v; ulimit -f; ulimit -t", "limits": {"fsize_bytes": -1}}));

    assert_eq!(text(&record), "unlimited\nunlimited\nunlimited\n");
}
