//! The statistics: every field, and counters that agree.

use crate::support::daemon::stats as daemon_stats;
use crate::support::{Daemon, Value, json, procs};

#[track_caller]
fn assert_numbers(stats: &Value, group: &str, names: &[&str]) {
    for name in names {
        assert!(stats[group][name].is_number(), "{group}.{name}: {stats}");
    }
}

#[test]
fn stats_have_every_field() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.run("echo hi");
    let stats = daemon.stats();
    assert!(stats["uptime_ms"].is_number());
    assert_numbers(&stats, "process", &["rss_bytes", "threads", "fds", "cpu_ms"]);
    assert_numbers(&stats, "connections", &["current", "total", "rejected"]);
    assert_numbers(&stats, "sessions", &["current", "max", "opened", "closed", "reaped_idle", "rejected"]);
    assert_numbers(&stats, "commands", &["running", "max", "started", "finished", "rejected"]);
    assert_numbers(&stats, "output", &["bytes_read", "bytes_dropped", "buffered_bytes", "max_buffer_bytes"]);
    assert_numbers(&stats, "requests", &["total", "rate_limited"]);
    assert!(stats["requests"]["errors"].is_object());
    for name in ["ping", "exec_spawn", "exec_total"] {
        for field in ["p50", "p99", "max", "count"] {
            assert!(stats["latency_ms"][name].get(field).is_some(), "latency_ms.{name}.{field}: {stats}");
        }
    }
    assert_numbers(&stats, "reaper", &["sweeps", "orphans_killed", "zombies_reaped"]);
    assert_numbers(&stats, "host", &["mem_total_bytes", "mem_available_bytes", "swap_free_bytes", "load1"]);
    let pressure = &stats["host"]["psi_memory_some_avg10"];
    assert!(pressure.is_null() || pressure.is_number(), "{stats}");
    assert!(stats["host"].as_object().unwrap().contains_key("psi_memory_some_avg10"), "{stats}");
}

#[test]
fn stats_of_the_process_are_those_of_the_runtime() {
    let daemon = Daemon::start(&[("stats.interval_ms", json!(100))]);
    let stats = daemon.stats();
    assert!(stats["process"]["rss_bytes"].as_u64().unwrap() > 100_000, "{stats}");
    assert!(stats["process"]["threads"].as_u64().unwrap() >= 4, "{stats}");
    daemon.stats_show("it counts its threads", |stats| {
        (stats["process"]["threads"] == procs::threads(daemon.runtime_pid).len()).then_some(())
    });
}

#[test]
fn counters_count_what_happened_and_agree() {
    let daemon = Daemon::start(&[]);
    let before = daemon.stats();
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    client.run_in(&session, "echo 12345; echo 123 >&2");
    client.run_in(&session, "exit 3");
    client.run_in(&session, "kill -SEGV $$");
    client.ok("exec.run", json!({"session": session, "cmd": "sleep 1000", "timeout_s": 0.05}));
    client.refused("exec.run", json!({"session": session, "argv": ["/no/such"]}), "SPAWN_FAILED");
    client.refused("exec.run", json!({"session": "none", "cmd": "true"}), "SESSION_NOT_FOUND");
    client.refused("no.such", json!({}), "METHOD_NOT_FOUND");
    client.refused("no.such", json!({}), "METHOD_NOT_FOUND");
    client.run("true");
    client.ok("session.close", json!({"session": session}));
    let after = daemon.stats_show("the session of one command is closed", |stats| {
        (stats["sessions"]["current"] == 0).then(|| stats.clone())
    });
    assert_eq!(after["commands"]["started"], 5);
    assert_eq!(after["commands"]["finished"], 5);
    assert_eq!(after["commands"]["by_status"]["exited"], 3);
    assert_eq!(after["commands"]["by_status"]["signaled"], 1);
    assert_eq!(after["commands"]["by_status"]["timed_out"], 1);
    assert_eq!(after["commands"]["rejected"], 2);
    assert_eq!(after["sessions"]["opened"], 2);
    assert_eq!(after["sessions"]["closed"], 2);
    assert_eq!(after["output"]["bytes_read"], 10);
    assert_eq!(after["requests"]["errors"]["METHOD_NOT_FOUND"], 2);
    assert_eq!(after["requests"]["errors"]["SPAWN_FAILED"], 1);
    assert_eq!(after["requests"]["errors"]["SESSION_NOT_FOUND"], 1);
    assert_eq!(after["latency_ms"]["exec_total"]["count"], 5);
    assert_only_grown(&before, &after);
}

/// Counters only grow.
#[track_caller]
fn assert_only_grown(before: &Value, after: &Value) {
    let counters = [
        ("connections", vec!["total", "rejected"]),
        ("sessions", vec!["opened", "closed", "reaped_idle", "rejected"]),
        ("commands", vec!["started", "finished", "rejected"]),
        ("output", vec!["bytes_read", "bytes_dropped"]),
        ("requests", vec!["total", "rate_limited"]),
        ("reaper", vec!["sweeps", "orphans_killed", "zombies_reaped"]),
    ];
    for (group, names) in counters {
        for name in names {
            let (old, new) = (before[group][name].as_u64().unwrap(), after[group][name].as_u64().unwrap());
            assert!(old <= new, "{group}.{name} went from {old} to {new}");
        }
    }
}

#[test]
fn inv16_the_counters_agree_at_every_moment_under_load() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let mut control = daemon.unix();
    let mut last = daemon_stats(&mut control);
    for _ in 0..20 {
        let ids: Vec<Value> = (0..8)
            .map(|number| match number % 4 {
                0 => json!({"cmd": "exit 1"}),
                1 => json!({"argv": ["/no/such"]}),
                2 => json!({"cmd": "sleep 1000", "timeout_s": 0.01, "kill_grace_ms": 0}),
                _ => json!({"cmd": "true & echo x"}),
            })
            .map(|params| client.ask("exec.run", params))
            .collect();
        for id in ids {
            client.answer(&id);
            let now = daemon_stats(&mut control);
            assert_only_grown(&last, &now);
            last = now;
        }
    }
    assert_eq!(last["commands"]["finished"], 120);
    assert_eq!(last["commands"]["rejected"], 40);
}

#[test]
fn output_that_is_dropped_is_counted_and_buffers_are_given_back() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let params = json!({"cmd": "head -c 300000 /dev/zero", "output_limit_bytes": 1000});
    let record = client.ok("exec.run", params);
    assert_eq!(record["stdout_dropped"], 299_000);
    daemon.stats_show("nothing is buffered any more", |stats| {
        assert_eq!(stats["output"]["bytes_dropped"], 299_000);
        assert_eq!(stats["output"]["max_buffer_bytes"], 64 << 20);
        (stats["output"]["buffered_bytes"] == 0).then_some(())
    });
}

#[test]
fn orphans_that_the_reaper_finds_are_counted() {
    let daemon = Daemon::start(&[("reaper.interval_ms", json!(50))]);
    let mut client = daemon.tcp();
    for _ in 0..5 {
        let record = client.run("(setsid sleep 1000 &); setsid sleep 1000 & exit 5");
        assert_eq!(record["exit_code"], 5, "{record}");
        assert!(record["descendants_killed"].as_u64().unwrap() >= 2, "{record}");
    }
    assert!(daemon.commands().is_empty());
    daemon.stats_show("the sweeps are counted", |stats| (stats["reaper"]["sweeps"].as_u64()? > 1).then_some(()));
}

/// Each link starts the next in a session of its own and exits: orphans that live for ten milliseconds.
const CHAIN: &str = "sleep 0.01; setsid sh -c \"$CHAIN\" & exit 0";

#[test]
fn the_reaper_spares_the_orphans_of_a_command_that_runs() {
    let daemon = Daemon::start(&[("reaper.interval_ms", json!(20)), ("limits.limit_nproc", json!(1000))]);
    let mut client = daemon.tcp();
    let cmd = "for i in 1 2 3; do sh -c \"$CHAIN\" & done; sleep 2";
    client.ask("exec.run", json!({"cmd": cmd, "env": {"CHAIN": CHAIN}}));
    let killed = |stats: &Value| stats["reaper"]["orphans_killed"].as_u64().unwrap();
    let last = daemon.stats_show("the command ends", |stats| {
        let has_ended = stats["commands"]["finished"] == 1;
        assert!(has_ended || killed(stats) == 0, "an orphan of a live command was killed: {stats}");
        has_ended.then(|| stats.clone())
    });
    assert_eq!(last["commands"]["by_status"]["exited"], 1);
}

#[test]
fn orphans_that_die_do_not_use_up_the_processes_of_a_command() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let cmd = "for i in 1 2 3; do sh -c \"$CHAIN\" & done; sleep 2; echo end";
    let record = client.ok("exec.run", json!({"cmd": cmd, "env": {"CHAIN": CHAIN}}));
    assert_eq!(record["stdout"], "end\n");
    assert_eq!(record["stderr"], "", "{record}");
    assert_eq!(record["status"], "exited");
}
