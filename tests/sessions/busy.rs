//! How many commands a session and the daemon run at once.

use crate::support::{Daemon, json};

#[test]
fn a_session_runs_one_command_at_a_time_unless_configured_otherwise() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let session = client.open(json!({}));
    let run = client.ask("exec.run", json!({"session": session, "cmd": gate.wait()}));
    let error = client.refused("exec.run", json!({"session": session, "cmd": "true"}), "SESSION_BUSY");
    assert_eq!(error["data"]["session"], json!(session));
    assert_eq!(error["data"]["limit"], 1);
    assert_eq!(error["data"]["usage"], 1);
    assert_eq!(error["data"]["retryable"], true);
    gate.open();
    assert_eq!(client.answer(&run)["result"]["status"], "exited");
    assert_eq!(client.run_in(&session, "echo free")["stdout"], "free\n");
    assert_eq!(daemon.stats()["commands"]["rejected"], 1);
}

#[test]
fn a_session_is_free_as_soon_as_its_record_is_there() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    for _ in 0..200 {
        assert_eq!(client.run_in(&session, "true")["status"], "exited");
    }
}

#[test]
fn info_shows_that_a_session_is_busy_and_with_what() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let session = client.open(json!({}));
    let run = client.ask("exec.run", json!({"session": session, "cmd": gate.wait()}));
    daemon.wait_running(1);
    let info = client.ok("session.info", json!({"session": session}));
    assert_eq!(info["busy"], true);
    assert_eq!(info["running"].as_array().unwrap().len(), 1);
    let exec = info["running"][0].clone();
    gate.open();
    let record = client.answer(&run);
    assert_eq!(record["result"]["exec"], exec);
    let info = client.ok("session.info", json!({"session": session}));
    assert_eq!(info["busy"], false);
    assert_eq!(info["running"], json!([]));
}

#[test]
fn a_session_runs_as_many_commands_as_configured() {
    let daemon = Daemon::start(&[("commands.max_commands_per_session", json!(2))]);
    let mut client = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let session = client.open(json!({}));
    let first = client.ask("exec.run", json!({"session": session, "cmd": gate.wait()}));
    daemon.wait_running(1);
    assert_eq!(client.ok("session.info", json!({"session": session}))["busy"], false);
    let second = client.ask("exec.run", json!({"session": session, "cmd": gate.wait()}));
    daemon.wait_running(2);
    let error = client.refused("exec.run", json!({"session": session, "cmd": "true"}), "SESSION_BUSY");
    assert_eq!(error["data"]["limit"], 2);
    assert_eq!(error["data"]["usage"], 2);
    gate.open();
    for id in [first, second] {
        assert_eq!(client.answer(&id)["result"]["status"], "exited");
    }
}

#[test]
fn inv7_the_whole_daemon_runs_max_commands() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(2))]);
    let mut client = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let runs = [0; 2].map(|_| client.ask("exec.run", json!({"cmd": gate.wait()})));
    daemon.wait_running(2);
    let session = client.open(json!({}));
    for params in [json!({"cmd": "true"}), json!({"session": session, "cmd": "true"})] {
        let error = client.refused("exec.run", params, "CAPACITY");
        assert_eq!(error["data"]["resource"], "commands");
        assert_eq!(error["data"]["limit"], 2);
        assert_eq!(error["data"]["usage"], 2);
    }
    // What was refused has left nothing: neither a session of its own nor a place taken.
    assert_eq!(daemon.stats()["sessions"]["current"], 3);
    gate.open();
    for id in runs {
        assert_eq!(client.answer(&id)["result"]["status"], "exited");
    }
    assert_eq!(client.run("echo free")["stdout"], "free\n");
}

#[test]
fn busy_is_told_before_capacity() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(1))]);
    let mut client = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let session = client.open(json!({}));
    let run = client.ask("exec.run", json!({"session": session, "cmd": gate.wait()}));
    daemon.wait_running(1);
    client.refused("exec.run", json!({"session": session, "cmd": "true"}), "SESSION_BUSY");
    gate.open();
    client.answer(&run);
}

#[test]
fn inv9_a_place_is_given_back_however_a_command_ends() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(1)), ("commands.kill_grace_ms", json!(20))]);
    let mut client = daemon.tcp();
    let endings = [
        json!({"cmd": "exit 3"}),
        json!({"cmd": "kill -SEGV $$"}),
        json!({"cmd": "sleep 1000", "timeout_s": 0.05}),
        json!({"cmd": "trap '' TERM; sleep 1000", "timeout_s": 0.05}),
        json!({"cmd": "head -c 100000 /dev/zero", "output_limit_bytes": 10, "on_output_limit": "kill"}),
    ];
    for ending in endings {
        client.ok("exec.run", ending);
        client.refused("exec.run", json!({"argv": ["/no/such/program"]}), "SPAWN_FAILED");
        assert_eq!(client.run("echo free")["stdout"], "free\n");
    }
}
