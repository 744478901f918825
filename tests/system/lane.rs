//! Drain, and the control lane: answered whatever the commands do.

use crate::support::{Daemon, Value, json};

#[test]
fn nobody_on_tcp_may_drain() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.refused("system.drain", json!({}), "FORBIDDEN");
    assert_eq!(client.run("echo on")["stdout"], "on\n");
}

#[test]
fn the_daemon_s_own_user_may_drain_over_the_unix_socket() {
    let mut daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let run = client.ask("exec.run", json!({"cmd": gate.wait()}));
    daemon.wait_running(1);
    let mut admin = daemon.unix();
    assert_eq!(admin.ok("system.drain", json!({})), json!({"draining": true}));
    client.refused("session.open", json!({}), "SHUTTING_DOWN");
    gate.open();
    assert_eq!(client.answer(&run)["result"]["status"], "exited");
    daemon.expect_clean_exit();
}

#[test]
fn the_control_lane_answers_while_every_place_is_taken_and_floods_run() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(3)), ("sessions.max_sessions", json!(4))]);
    let mut flooder = daemon.tcp();
    let sessions = [0; 3].map(|_| flooder.open(json!({})));
    let floods = ["yes", "while :; do printf x; done", "yes >&2 & cat /dev/zero"];
    let runs: Vec<Value> = sessions
        .iter()
        .zip(floods)
        .map(|(session, cmd)| flooder.ask("exec.run", json!({"session": session, "cmd": cmd})))
        .collect();
    daemon.wait_running(3);
    let mut client = daemon.tcp();
    let spare = client.open(json!({}));
    client.refused("session.open", json!({}), "CAPACITY");
    client.refused("exec.run", json!({"session": spare, "cmd": "true"}), "CAPACITY");
    for _ in 0..50 {
        client.ping();
        client.ok("system.info", json!({}));
        client.ok("system.stats", json!({}));
        client.ok("session.list", json!({}));
        assert_eq!(client.ok("session.info", json!({"session": sessions[0]}))["busy"], true);
    }
    for session in &sessions {
        client.ok("session.close", json!({"session": session}));
    }
    for run in runs {
        assert_eq!(flooder.answer(&run)["result"]["status"], "cancelled");
    }
    client.ok("session.close", json!({"session": spare}));
}

#[test]
fn a_fault_of_one_client_is_no_other_client_s() {
    let daemon = Daemon::start(&[]);
    let mut good = daemon.tcp();
    let session = good.open(json!({}));
    for turn in 0..30 {
        let mut bad = daemon.tcp();
        let garbage: &[u8] = [&b"\0\xff\xfe garbage\n"[..], b"[[[[[[", b"{\"id\":{}}\n"][turn % 3];
        bad.send_bytes(garbage);
        assert_eq!(good.run_in(&session, "echo on")["stdout"], "on\n");
    }
}
