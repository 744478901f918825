//! Memory of the host, of which commands leave alone what is reserved.

use crate::exec_support::run;
use crate::support::{DEADLINE, Daemon, Launch, Signal, json, wait_until};
use crate::view::*;

const MIB: i64 = 1 << 20;

/// More than any host has.
const RESERVE: i64 = 1 << 50;

#[test]
fn no_command_starts_while_the_host_has_less_than_the_reserve() {
    let daemon = Daemon::start(&[("memory.reserve_bytes", json!(RESERVE))]);
    let mut client = daemon.tcp_as(1);
    // A session alone is no command.
    let session = client.open(json!({"limits": {"memory_bytes": 48 * MIB}}));
    for (asked, bytes) in [(json!({"cmd": "true"}), 256 * MIB), (json!({"cmd": "true", "session": session}), 48 * MIB)]
    {
        let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", asked, "CAPACITY"));
        let data = &error["data"];
        assert_eq!(data["resource"], "memory", "{error}");
        assert_eq!(data["retryable"], true, "{error}");
        // MemAvailable minus the reserve.
        assert!(data["limit"].as_i64().is_some_and(|limit| limit <= 0), "{error}");
        assert_eq!(data["usage"], bytes, "what was asked: {error}");
    }
    assert_eq!(daemon.stats()["commands"]["rejected"], 2);
}

#[test]
fn without_strict_a_command_may_ask_for_more_than_there_is() {
    let settings = [("limits.limit_memory_bytes", json!(RESERVE)), ("memory.reserve_bytes", json!(0))];
    let daemon = Daemon::start(&settings);
    assert_eq!(daemon.tcp_as(1).run("echo well")["stdout"], "well\n");
}

#[test]
fn with_strict_the_whole_of_a_command_must_fit_above_the_reserve() {
    let settings = [
        ("limits.limit_memory_bytes", json!(RESERVE)),
        ("memory.reserve_bytes", json!(MIB)),
        ("memory.strict", json!(true)),
    ];
    let daemon = Daemon::start(&settings);
    let mut client = daemon.tcp_as(1);
    let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", json!({"cmd": "true"}), "CAPACITY"));
    let available = daemon.stats()["host"]["mem_total_bytes"].as_i64().unwrap();
    let limit = error["data"]["limit"].as_i64().unwrap();
    assert!(0 < limit && limit < available, "{error}");
    assert_eq!((&error["data"]["resource"], &error["data"]["usage"]), (&json!("memory"), &json!(RESERVE)), "{error}");
    let record = run(&mut client, json!({"cmd": "echo small", "limits": {"memory_bytes": 16 * MIB}}));
    assert_eq!(record["stdout"], "small\n");
}

#[test]
fn a_reserve_that_is_lowered_lets_commands_in_again() {
    let config = |reserve: i64| json!({"memory": {"reserve_bytes": reserve}});
    let daemon = Launch::new().with_config(&config(RESERVE)).start();
    let mut client = daemon.tcp_as(1);
    client.refused("exec.run", json!({"cmd": "true"}), "CAPACITY");
    std::fs::write(daemon.launch.config(), config(MIB).to_string()).unwrap();
    daemon.signal(Signal::SIGHUP);
    wait_until("commands run again", DEADLINE, || {
        client.request("exec.run", json!({"cmd": "true"})).get("result").map(|_| ())
    });
}

#[test]
fn pressure_is_shown_where_the_kernel_tells_of_it() {
    let daemon = Daemon::start(&[]);
    let stats = daemon.stats();
    let host = stats["host"].as_object().unwrap();
    let pressure = host.get("psi_memory_some_avg10").expect("the field is always there");
    let told = std::fs::read_to_string("/proc/pressure/memory");
    match told {
        Ok(text) if text.starts_with("some avg10=") => {
            assert!(pressure.as_f64().is_some_and(|share| (0.0..=100.0).contains(&share)), "{stats}");
        }
        _ => assert!(pressure.is_null(), "{stats}"),
    }
}

#[test]
fn a_wait_is_for_a_slot_and_not_for_the_hosts_memory() {
    let daemon = Daemon::start(&[("memory.reserve_bytes", json!(RESERVE))]);
    let mut client = daemon.tcp_as(1);
    let asked = json!({"cmd": "true", "queue_ms": 30});
    let error = client.refused("exec.run", asked, "CAPACITY");
    assert_eq!(error["data"]["resource"], "memory", "{error}");
    wait_unused(&daemon, &ip(1));
}
