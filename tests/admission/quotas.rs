//! Quotas of clients by themselves: what is over, by how much, and that equality passes.

use std::sync::{Arc, Barrier};

use crate::support::{Daemon, Value, json};
use crate::view::*;

const MIB: i64 = 1 << 20;

#[test]
fn the_default_quotas_are_eight_sessions_and_eight_commands() {
    let daemon = crate::support::Launch::new().without("quotas.registered").start();
    let mut client = daemon.tcp_as(1);
    let shown = client.ok("limit.show", json!({}));
    assert_eq!(shown["client"], ip(1));
    assert_eq!(shown["model"], "flat");
    let expected = json!({
        "sessions": {"limit": 8, "usage": 0, "source": "registered"},
        "commands": {"limit": 8, "usage": 0, "source": "registered"},
        "memory_bytes": {"limit": -1, "usage": 0, "source": "registered"},
        "processes": {"limit": -1, "usage": 0, "source": "registered"},
        "buffer_bytes": {"limit": -1, "usage": 0, "source": "registered"},
    });
    assert_eq!(shown["limits"], expected);
}

#[test]
fn a_client_has_as_many_sessions_as_its_quota_and_no_more() {
    let daemon = Daemon::start(&[registered(json!({"sessions": 2}))]);
    let mut client = daemon.tcp_as(1);
    let first = client.open(json!({}));
    client.open(json!({}));
    let told = changes_nothing(&daemon, &ip(1), || {
        [client.refused("session.open", json!({}), "OVER_LIMIT"), {
            // An ephemeral session counts like any other.
            client.refused("exec.run", json!({"cmd": "true"}), "OVER_LIMIT")
        }]
    });
    for error in &told {
        expect_over(error, &ip(1), &[("sessions", 2, 2, 1)], true);
    }
    assert_eq!(usage(&mut daemon.unix(), &ip(1), "sessions"), 2);
    client.ok("session.close", json!({"session": first}));
    client.open(json!({}));
    let stats = daemon.stats();
    assert_eq!((&stats["sessions"]["rejected"], &stats["commands"]["rejected"]), (&json!(1), &json!(1)), "{stats}");
    assert_eq!(stats["requests"]["errors"]["OVER_LIMIT"], 2, "{stats}");
}

#[test]
fn the_quota_of_one_client_is_not_that_of_another() {
    let daemon = Daemon::start(&[registered(json!({"sessions": 1}))]);
    let mut clients = [daemon.tcp_as(1), daemon.tcp_as(2), daemon.tcp_as(3), daemon.unix()];
    let names = [ip(1), ip(2), ip(3), own_uid()];
    for (client, name) in clients.iter_mut().zip(&names) {
        client.open(json!({}));
        let error = client.refused("session.open", json!({}), "OVER_LIMIT");
        expect_over(&error, name, &[("sessions", 1, 1, 1)], true);
        assert_eq!(client.ok("limit.show", json!({}))["client"], json!(name));
    }
}

#[test]
fn two_connections_of_one_client_share_its_quota() {
    let daemon = Daemon::start(&[registered(json!({"sessions": 1}))]);
    let (mut one, mut two) = (daemon.tcp_as(1), daemon.tcp_as(1));
    one.open(json!({}));
    expect_over(&two.refused("session.open", json!({}), "OVER_LIMIT"), &ip(1), &[("sessions", 1, 1, 1)], true);
}

#[test]
fn a_client_runs_as_many_commands_as_its_quota() {
    let daemon = Daemon::start(&[registered(json!({"commands": 2}))]);
    let (mut client, mut other) = (daemon.tcp_as(1), daemon.tcp_as(2));
    let spare = client.open(json!({}));
    let runs = [(); 2].map(|()| stand(&daemon, &mut client, json!({})));
    let told = changes_nothing(&daemon, &ip(1), || {
        [json!({"cmd": "true"}), json!({"cmd": "true", "session": spare})]
            .map(|params| client.refused("exec.run", params, "OVER_LIMIT"))
    });
    for error in &told {
        expect_over(error, &ip(1), &[("commands", 2, 2, 1)], true);
    }
    assert_eq!(other.run("echo unhindered")["stdout"], "unhindered\n");
    assert_eq!(usage(&mut daemon.unix(), &ip(1), "commands"), 2);
    drop(client);
    wait_unused(&daemon, &ip(1));
    assert_eq!(runs.len(), 2);
}

#[test]
fn a_session_claims_its_memory_and_its_processes() {
    let quota = registered(json!({"memory_bytes": 64 * MIB, "processes": 10_000}));
    let daemon = Daemon::start(&[quota, ("limits.limit_nproc", json!(4096))]);
    let (mut client, mut admin) = (daemon.tcp_as(1), daemon.unix());
    let session = client.open(json!({"limits": {"memory_bytes": 48 * MIB, "nproc": 3000}}));
    assert_eq!(usage(&mut admin, &ip(1), "memory_bytes"), 48 * MIB);
    assert_eq!(usage(&mut admin, &ip(1), "processes"), 3000);
    let asked = json!({"limits": {"memory_bytes": 17 * MIB, "nproc": 3000}});
    let error = changes_nothing(&daemon, &ip(1), || client.refused("session.open", asked, "OVER_LIMIT"));
    expect_over(&error, &ip(1), &[("memory_bytes", 64 * MIB, 48 * MIB, 17 * MIB)], true);
    // Equality passes.
    let second = client.open(json!({"limits": {"memory_bytes": 16 * MIB, "nproc": 3000}}));
    assert_eq!(usage(&mut admin, &ip(1), "memory_bytes"), 64 * MIB);
    // A command within its session's limits claims none of it again.
    let asked = json!({"session": session, "cmd": "true", "limits": {"memory_bytes": 8 * MIB}});
    assert_eq!(client.ok("exec.run", asked)["status"], "exited");
    for session in [session, second] {
        client.ok("session.close", json!({"session": session}));
    }
    wait_unused(&daemon, &ip(1));
}

#[test]
fn an_ephemeral_session_claims_what_its_command_asks_for() {
    let daemon = Daemon::start(&[registered(json!({"memory_bytes": 64 * MIB}))]);
    let mut client = daemon.tcp_as(1);
    let limits = json!({"memory_bytes": 40 * MIB});
    stand(&daemon, &mut client, json!({"limits": limits}));
    assert_eq!(usage(&mut daemon.unix(), &ip(1), "memory_bytes"), 40 * MIB);
    let error = changes_nothing(&daemon, &ip(1), || {
        client.refused("exec.run", json!({"cmd": "true", "limits": limits}), "OVER_LIMIT")
    });
    expect_over(&error, &ip(1), &[("memory_bytes", 64 * MIB, 40 * MIB, 40 * MIB)], true);
}

#[test]
fn all_that_is_over_is_told_sorted_and_nothing_else() {
    let quota = registered(json!({"sessions": 1, "memory_bytes": 32 * MIB, "processes": 100, "commands": 1}));
    let daemon = Daemon::start(&[quota, ("limits.limit_nproc", json!(4096))]);
    let mut client = daemon.tcp_as(1);
    client.open(json!({"limits": {"memory_bytes": 30 * MIB, "nproc": 90}}));
    let asked = |memory: i64, nproc: i64| json!({"limits": {"memory_bytes": memory, "nproc": nproc}});
    let mut refused =
        |params| changes_nothing(&daemon, &ip(1), || client.refused("session.open", params, "OVER_LIMIT"));
    let all = [("memory_bytes", 32 * MIB, 30 * MIB, 3 * MIB), ("processes", 100, 90, 11), ("sessions", 1, 1, 1)];
    expect_over(&refused(asked(3 * MIB, 11)), &ip(1), &all, true);
    expect_over(&refused(asked(3 * MIB, 10)), &ip(1), &[all[0], all[2]], true);
    expect_over(&refused(asked(2 * MIB, 11)), &ip(1), &all[1..], true);
}

#[test]
fn a_command_of_its_own_session_is_told_of_both() {
    let quota = registered(json!({"sessions": 1, "commands": 1, "memory_bytes": 32 * MIB}));
    let daemon = Daemon::start(&[quota]);
    let mut client = daemon.tcp_as(1);
    stand(&daemon, &mut client, json!({"limits": {"memory_bytes": 20 * MIB}}));
    let asked = json!({"cmd": "true", "limits": {"memory_bytes": 20 * MIB}});
    let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", asked, "OVER_LIMIT"));
    let all = [("commands", 1, 1, 1), ("memory_bytes", 32 * MIB, 20 * MIB, 20 * MIB), ("sessions", 1, 1, 1)];
    expect_over(&error, &ip(1), &all, true);
}

#[test]
fn what_is_over_by_itself_is_not_worth_a_retry() {
    let daemon = Daemon::start(&[registered(json!({"memory_bytes": 16 * MIB, "sessions": 1}))]);
    let mut client = daemon.tcp_as(1);
    let asked = json!({"limits": {"memory_bytes": 17 * MIB}});
    let error = changes_nothing(&daemon, &ip(1), || client.refused("session.open", asked.clone(), "OVER_LIMIT"));
    expect_over(&error, &ip(1), &[("memory_bytes", 16 * MIB, 0, 17 * MIB)], false);
    // Of several, one is enough: it will not pass whatever is given back.
    client.open(json!({"limits": {"memory_bytes": 8 * MIB}}));
    let error = client.refused("session.open", asked, "OVER_LIMIT");
    let both = [("memory_bytes", 16 * MIB, 8 * MIB, 17 * MIB), ("sessions", 1, 1, 1)];
    expect_over(&error, &ip(1), &both, false);
}

#[test]
fn a_resource_that_is_not_registered_has_the_limit_zero() {
    // Where it stands in a configuration, it replaces the default whole.
    let daemon = Daemon::start(&[("quotas.registered", json!({"sessions": 5}))]);
    let mut client = daemon.tcp_as(1);
    let shown = client.ok("limit.show", json!({}));
    for resource in ["commands", "memory_bytes", "processes", "buffer_bytes"] {
        let expected = json!({"limit": 0, "usage": 0, "source": "unregistered"});
        assert_eq!(shown["limits"][resource], expected, "{resource}: {shown}");
    }
    assert_eq!(shown["limits"]["sessions"], json!({"limit": 5, "usage": 0, "source": "registered"}));
    let asked = json!({"limits": {"memory_bytes": MIB, "nproc": 7}});
    let error = changes_nothing(&daemon, &ip(1), || client.refused("session.open", asked, "OVER_LIMIT"));
    expect_over(&error, &ip(1), &[("memory_bytes", 0, 0, MIB), ("processes", 0, 0, 7)], false);
}

#[test]
fn a_session_without_a_limit_fits_under_no_finite_quota() {
    let unlimited = ("limits.limit_memory_bytes", json!(-1));
    let daemon = Daemon::start(&[unlimited, registered(json!({"memory_bytes": 1_i64 << 50}))]);
    let mut client = daemon.tcp_as(1);
    let error = changes_nothing(&daemon, &ip(1), || client.refused("session.open", json!({}), "OVER_LIMIT"));
    let over = error["data"]["over"].as_array().unwrap();
    assert_eq!(over.len(), 1, "{error}");
    assert_eq!((&over[0]["resource"], &over[0]["limit"]), (&json!("memory_bytes"), &json!(1_i64 << 50)), "{error}");
    assert_eq!(error["data"]["retryable"], false, "{error}");
    client.open(json!({"limits": {"memory_bytes": 8 * MIB}}));
    assert_eq!(usage(&mut daemon.unix(), &ip(1), "memory_bytes"), 8 * MIB);
}

#[test]
fn a_session_without_a_limit_claims_nothing_of_what_is_unlimited() {
    let daemon = Daemon::start(&[("limits.limit_memory_bytes", json!(-1))]);
    let mut client = daemon.tcp_as(1);
    client.open(json!({}));
    let shown = row(&mut daemon.unix(), &ip(1), "memory_bytes");
    assert_eq!(shown, json!({"limit": -1, "usage": 0, "source": "registered"}));
}

#[test]
fn a_client_of_the_configuration_has_its_own_limits() {
    let clients = json!({ip(2): {"sessions": 3}, ip(3): {"sessions": 0}, own_uid(): {"sessions": -1}});
    let daemon = Daemon::start(&[registered(json!({"sessions": 1})), ("quotas.clients", clients)]);
    let mut admin = daemon.unix();
    for (client, limit, source) in
        [(ip(1), 1, "registered"), (ip(2), 3, "client"), (ip(3), 0, "client"), (own_uid(), -1, "client")]
    {
        let expected = json!({"limit": limit, "usage": 0, "source": source});
        assert_eq!(row(&mut admin, &client, "sessions"), expected, "{client}");
    }
    let mut higher = daemon.tcp_as(2);
    for _ in 0..3 {
        higher.open(json!({}));
    }
    expect_over(&higher.refused("session.open", json!({}), "OVER_LIMIT"), &ip(2), &[("sessions", 3, 3, 1)], true);
    let mut none = daemon.tcp_as(3);
    expect_over(&none.refused("session.open", json!({}), "OVER_LIMIT"), &ip(3), &[("sessions", 0, 0, 1)], false);
    for _ in 0..9 {
        admin.open(json!({}));
    }
    assert_eq!(usage(&mut admin, &own_uid(), "sessions"), 9);
}

#[test]
fn inv9_of_many_who_race_for_the_last_exactly_the_limit_get_it() {
    const RACERS: usize = 12;
    let daemon = Daemon::start(&[registered(json!({"sessions": 5})), ("sessions.max_sessions", json!(64))]);
    let daemon = Arc::new(daemon);
    for _ in 0..5 {
        let start = Arc::new(Barrier::new(RACERS));
        let racers: Vec<_> = (0..RACERS)
            .map(|_| {
                let (daemon, start) = (Arc::clone(&daemon), Arc::clone(&start));
                std::thread::spawn(move || {
                    let mut client = daemon.tcp_as(1);
                    start.wait();
                    let answer = client.request("session.open", json!({}));
                    (client, answer)
                })
            })
            .collect();
        let ended: Vec<_> = racers.into_iter().map(|racer| racer.join().unwrap()).collect();
        let admitted = ended.iter().filter(|(_, answer)| answer.get("result").is_some()).count();
        assert_eq!(admitted, 5);
        for (_, answer) in ended.iter().filter(|(_, answer)| answer.get("error").is_some()) {
            expect_over(&answer["error"], &ip(1), &[("sessions", 5, 5, 1)], true);
        }
        assert_eq!(usage(&mut daemon.unix(), &ip(1), "sessions"), 5);
        drop(ended);
        wait_unused(&daemon, &ip(1));
    }
}

#[test]
fn inv9_many_clients_at_once_never_get_more_than_each_may_have() {
    let daemon = Arc::new(Daemon::start(&[registered(json!({"commands": 1}))]));
    let clients: Vec<_> = (1..=4)
        .map(|number| {
            let daemon = Arc::clone(&daemon);
            std::thread::spawn(move || race_of_commands(&daemon, number))
        })
        .collect();
    let ran: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    for number in 1..=4 {
        wait_unused(&daemon, &ip(number));
    }
    let stats = daemon.stats();
    assert_eq!(stats["commands"]["finished"], ran, "{stats}");
    assert_eq!(stats["requests"]["errors"]["OVER_LIMIT"], stats["commands"]["rejected"], "{stats}");
}

/// Pipelines commands of one client, more than it may run; how many ran.
fn race_of_commands(daemon: &Daemon, number: u8) -> u64 {
    let mut client = daemon.tcp_as(number);
    let mut ran = 0;
    for _ in 0..10 {
        let ids: Vec<Value> = (0..3).map(|_| client.ask("exec.run", json!({"cmd": "exit 0"}))).collect();
        let answers: Vec<Value> = ids.iter().map(|id| client.answer(id)).collect();
        let refused = answers.iter().filter_map(|answer| answer.get("error"));
        for error in refused {
            assert_eq!(error["data"]["client"], ip(number), "{error}");
            let over = error["data"]["over"].as_array().unwrap();
            assert!(over.iter().all(|row| row["usage"] == row["limit"]), "over with room left: {error}");
        }
        let done = answers.iter().filter(|answer| answer.get("result").is_some()).count() as u64;
        assert!(done >= 1, "the first of them had room: {answers:?}");
        ran += done;
    }
    ran
}
