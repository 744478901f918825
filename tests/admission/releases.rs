//! inv9: what was claimed is given back exactly once, whatever becomes of a session or a command.

use crate::support::{Conn, DEADLINE, Daemon, Value, json, wait_until};
use crate::view::*;

const MIB: i64 = 1 << 20;

/// A client may have one of everything: what is not given back shows at once.
fn tight(more: &[(&str, Value)]) -> Daemon {
    let quota = registered(json!({"sessions": 1, "commands": 1, "memory_bytes": 32 * MIB, "processes": 5000}));
    let mut settings = vec![
        quota,
        ("limits.limit_memory_bytes", json!(32 * MIB)),
        ("limits.limit_nproc", json!(4096)),
        ("commands.kill_grace_ms", json!(20)),
        ("reaper.interval_ms", json!(20)),
    ];
    settings.extend_from_slice(more);
    Daemon::start(&settings)
}

/// The commands that end in each of the ways that there are, and the status of each.
fn endings() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"cmd": "exit 3"}), "exited"),
        (json!({"cmd": "kill -KILL $$"}), "signaled"),
        (json!({"cmd": "setsid sleep 1000 & exit 0"}), "exited"),
        (json!({"cmd": "sleep 1000", "timeout_s": 0.05}), "timed_out"),
        (json!({"cmd": "trap '' TERM; sleep 1000", "timeout_s": 0.05}), "timed_out"),
        (json!({"cmd": "sleep 1000", "stall_timeout_s": 0.05}), "timed_out"),
        (json!({"cmd": "yes", "output_limit_bytes": 10, "on_output_limit": "kill"}), "output_limit"),
        (json!({"cmd": "while :; do :; done", "limits": {"cpu_sec": 1}}), "cpu_limit"),
        (json!({"cmd": "exec yes >f", "limits": {"fsize_bytes": 100_000}}), "output_limit"),
    ]
}

#[test]
fn inv9_a_command_of_its_own_session_gives_all_back() {
    let daemon = tight(&[]);
    let mut client = daemon.tcp_as(1);
    for (params, status) in endings() {
        let record = client.ok("exec.run", params.clone());
        assert_eq!(record["status"], status, "{params}: {record}");
        wait_unused(&daemon, &ip(1));
    }
}

#[test]
fn inv9_a_command_of_a_session_gives_back_its_own_with_its_record() {
    let daemon = tight(&[]);
    let (mut client, mut admin) = (daemon.tcp_as(1), daemon.unix());
    let session = client.open(json!({}));
    for (mut params, status) in endings() {
        params["session"] = json!(session);
        let record = client.ok("exec.run", params.clone());
        assert_eq!(record["status"], status, "{params}: {record}");
        // The answer follows the effect: nothing to wait for.
        assert_eq!(usage(&mut admin, &ip(1), "commands"), 0, "{params}");
        assert_eq!(usage(&mut admin, &ip(1), "sessions"), 1, "{params}");
    }
    client.ok("session.close", json!({"session": session}));
    assert_eq!(usage(&mut admin, &ip(1), "sessions"), 0);
    wait_unused(&daemon, &ip(1));
}

#[test]
fn inv9_what_never_ran_gives_all_back() {
    let daemon = tight(&[]);
    let mut client = daemon.tcp_as(1);
    for params in [
        json!({"argv": ["/no/such/program"]}),
        json!({"argv": ["/etc"]}),
        json!({"cmd": "true", "cwd": "/no/such/folder"}),
        json!({"argv": ["true", "x".repeat(300_000)]}),
    ] {
        client.refused("exec.run", params, "SPAWN_FAILED");
        wait_unused(&daemon, &ip(1));
    }
    for params in [json!({"cwd": "/no/such/folder"}), json!({"cwd": "/etc/passwd"})] {
        client.refused("session.open", params, "SPAWN_FAILED");
        wait_unused(&daemon, &ip(1));
    }
    client.open(json!({}));
}

#[test]
fn inv9_a_command_that_is_killed_gives_all_back() {
    let daemon = tight(&[]);
    let (mut client, mut admin) = (daemon.tcp_as(1), daemon.unix());
    let session = client.open(json!({}));
    let run = stand(&daemon, &mut client, json!({"session": session}));
    let info = admin.ok("session.info", json!({"session": session}));
    client.ok("exec.kill", json!({"exec": info["running"][0]}));
    assert_eq!(record(client.answer(&run))["status"], "cancelled");
    assert_eq!(usage(&mut admin, &ip(1), "commands"), 0);
    // The processes of a command may be killed by others as well.
    let run = stand(&daemon, &mut client, json!({"session": session}));
    let processes = daemon.commands();
    let pid = nix::unistd::Pid::from_raw(processes.first().expect("it runs").pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    assert_eq!(record(client.answer(&run))["status"], "signaled");
    client.ok("session.close", json!({"session": session}));
    wait_unused(&daemon, &ip(1));
}

#[test]
fn inv9_a_session_that_is_closed_gives_all_back() {
    let daemon = tight(&[]);
    let mut client = daemon.tcp_as(1);
    for _ in 0..3 {
        let session = client.open(json!({}));
        let run = stand(&daemon, &mut client, json!({"session": session}));
        client.ok("session.close", json!({"session": session}));
        assert_eq!(record(client.answer(&run))["status"], "cancelled");
        wait_unused(&daemon, &ip(1));
    }
}

#[test]
fn inv9_a_session_that_expires_gives_all_back() {
    let daemon = tight(&[]);
    let mut client = daemon.tcp_as(1);
    client.open(json!({"idle_s": 0.1}));
    daemon.stats_show("it expires", |stats| (stats["sessions"]["reaped_idle"] == 1).then_some(()));
    wait_unused(&daemon, &ip(1));
    client.open(json!({}));
}

#[test]
fn inv9_a_client_that_goes_away_gives_all_back() {
    let daemon = tight(&[]);
    for connect in [Daemon::unix, |daemon: &Daemon| daemon.tcp_as(1)] {
        // With a command running, with a session open, and with each of them asked for and not yet there.
        let mut client = connect(&daemon);
        let name = client.ok("limit.show", json!({}))["client"].as_str().unwrap().to_owned();
        stand(&daemon, &mut client, json!({}));
        drop(client);
        wait_unused(&daemon, &name);

        let mut client = connect(&daemon);
        let session = client.open(json!({}));
        stand(&daemon, &mut client, json!({"session": session}));
        drop(client);
        wait_unused(&daemon, &name);

        for (method, params) in [("session.open", json!({})), ("exec.run", json!({"cmd": STANDING}))] {
            for _ in 0..10 {
                let mut client = connect(&daemon);
                client.ask(method, params.clone());
                drop(client);
                wait_connections(&daemon, 0);
                wait_unused(&daemon, &name);
            }
        }
    }
}

#[test]
fn inv9_a_command_that_may_finish_without_its_client_gives_all_back_then() {
    let daemon = tight(&[]);
    let (gate, mut client) = (daemon.launch.folder.gate(), daemon.tcp_as(1));
    hold(&daemon, &mut client, &gate, json!({"on_disconnect": "finish"}));
    drop(client);
    wait_connections(&daemon, 0);
    assert_eq!(usage(&mut daemon.unix(), &ip(1), "commands"), 1);
    daemon.tcp_as(1).refused("exec.run", json!({"cmd": "true"}), "OVER_LIMIT");
    gate.open();
    wait_unused(&daemon, &ip(1));
}

#[test]
fn inv9_a_persistent_session_keeps_its_claim_without_its_client() {
    let daemon = tight(&[]);
    let session = daemon.tcp_as(1).open(json!({"persist": true}));
    wait_connections(&daemon, 0);
    let mut again = daemon.tcp_as(1);
    let error = again.refused("session.open", json!({}), "OVER_LIMIT");
    assert_eq!(error["data"]["over"].as_array().map(Vec::len), Some(3), "sessions, memory and processes: {error}");
    again.ok("session.close", json!({"session": session}));
    wait_unused(&daemon, &ip(1));
}

#[test]
fn inv9_an_admin_who_closes_a_session_gives_it_back_to_its_client() {
    let daemon = tight(&[]);
    let (mut client, mut admin) = (daemon.tcp_as(1), daemon.unix());
    let session = client.open(json!({}));
    // What an admin runs in it is the admin's command.
    let run = stand(&daemon, &mut admin, json!({"session": session}));
    let counted: Vec<i64> = [ip(1), own_uid()].iter().map(|name| usage(&mut daemon.unix(), name, "commands")).collect();
    assert_eq!(counted.iter().sum::<i64>(), 1, "it counts for one of the two: {counted:?}");
    admin.ok("session.close", json!({"session": session}));
    assert_eq!(record(admin.answer(&run))["status"], "cancelled");
    for name in [ip(1), own_uid()] {
        wait_unused(&daemon, &name);
    }
    client.open(json!({}));
}

#[test]
fn inv9_memory_that_is_over_gives_all_back() {
    let daemon = tight(&[]);
    let mut client = daemon.tcp_as(1);
    let record = client.ok("exec.run", json!({"cmd": "(head -c 67108864 /dev/zero; sleep 1000) | tail -n 1"}));
    assert_eq!(record["status"], "memory_limit", "{record}");
    wait_unused(&daemon, &ip(1));
}

#[test]
fn inv9_many_sessions_and_commands_at_random_leave_nothing() {
    let daemon = Daemon::start(&[registered(json!({"sessions": 6, "commands": 4})), ("reaper.interval_ms", json!(20))]);
    // A fixed order of events, odd enough to meet most of the ways in which they can overlap.
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut clients: Vec<Conn> = (1..=3).map(|number| daemon.tcp_as(number)).collect();
    for _ in 0..150 {
        let at = random(3) as usize;
        let client = &mut clients[at];
        match random(6) {
            0 => drop(client.ask("session.open", json!({"idle_s": 0.05}))),
            1 => drop(client.ask("session.open", json!({}))),
            2 => drop(client.ask("exec.run", json!({"cmd": "sleep 0.05", "timeout_s": 0.02}))),
            3 => drop(client.ask("exec.run", json!({"cmd": "true & exit 0", "queue_ms": 50}))),
            4 => drop(client.ask("exec.run", json!({"argv": ["/no/such"]}))),
            _ => {
                let fresh = daemon.tcp_as(at as u8 + 1);
                drop(std::mem::replace(client, fresh));
            }
        }
    }
    for client in &mut clients {
        client.ping();
    }
    drop(clients);
    for number in 1..=3 {
        wait_unused(&daemon, &ip(number));
    }
    wait_until("no session is left", DEADLINE, || (daemon.stats()["sessions"]["current"] == 0).then_some(()));
}
