//! What a command of a shell can ask for, what it cannot, and what counts for each by itself.

use crate::support::{Daemon, json};
use crate::{says, shells};

#[test]
fn what_the_shell_has_since_its_start_is_refused() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"shell": true}));
    for name in ["address_space_bytes", "nproc", "nofile", "fsize_bytes", "core_bytes"] {
        let most = client.ok("session.info", json!({"session": session}))["limits"][name].clone();
        let params = json!({"session": session, "cmd": "true", "limits": {name: most}});
        let error = client.refused("exec.run", params.clone(), "INVALID_PARAMS");
        assert_eq!(error["data"]["field"], format!("limits.{name}"), "{error}");
        client.refused("exec.start", params, "INVALID_PARAMS");
        client.ok("exec.run", json!({"session": session, "argv": ["true"], "limits": {name: most}}));
    }
    let pty = json!({"session": session, "cmd": "true", "pty": {"cols": 80, "rows": 24}});
    let error = client.refused("exec.start", pty, "INVALID_PARAMS");
    assert_eq!(error["data"]["field"], "pty", "{error}");
    assert_eq!(daemon.stats()["commands"]["started"], 5);
}

#[test]
fn the_session_s_limits_hold_in_the_shell() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let limits = json!({"nofile": 99, "fsize_bytes": 1 << 20, "cpu_sec": 7});
        let session = client.open(json!({"shell": shell, "limits": limits}));
        assert_eq!(says(&mut client, &session, "ulimit -n; ulimit -Hn; ulimit -t"), "99\n99\nunlimited\n");
    }
}

#[test]
fn cpu_time_counts_for_each_command_by_itself() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell, "limits": {"cpu_sec": 1}}));
        // Each takes about half of what one may have; together they take more.
        for _ in 0..3 {
            let record = client.run_in(&session, "timeout 0.5 sh -c 'while :; do :; done'");
            assert_eq!(record["status"], "exited", "{record}");
        }
        says(&mut client, &session, "x=kept");
        let record = client.run_in(&session, "sh -c 'while :; do :; done'");
        assert_eq!((&record["status"], &record["limit"]), (&json!("cpu_limit"), &json!("cpu_sec")), "{record}");
        assert_eq!(says(&mut client, &session, "echo $x"), "kept\n");
        let used =
            record["usage"]["cpu_user_ms"].as_f64().unwrap() + record["usage"]["cpu_system_ms"].as_f64().unwrap();
        assert!((900.0..3000.0).contains(&used), "{record}");
    }
}

#[test]
fn memory_counts_for_each_command_by_itself() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        says(&mut client, &session, "x=kept");
        let hog = "sh -c 'x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; sleep 0.05; done'";
        let params = json!({"session": session, "cmd": hog, "limits": {"memory_bytes": 32 << 20}});
        let record = client.ok("exec.run", params);
        assert_eq!((&record["status"], &record["limit"]), (&json!("memory_limit"), &json!("memory_bytes")), "{record}");
        assert_eq!(says(&mut client, &session, "echo $x"), "kept\n");
        // The shell itself is the one: it cannot be kept.
        let hog = "x=aaaaaaaaaaaaaaaa; while :; do x=$x$x; sleep 0.05; done";
        let params = json!({"session": session, "cmd": hog, "limits": {"memory_bytes": 32 << 20}});
        let record = client.ok("exec.run", params);
        assert_eq!(record["status"], "memory_limit", "{record}");
        assert_eq!(says(&mut client, &session, "echo ${#x}"), "0\n");
    }
}

#[test]
fn too_much_output_ends_a_command_that_asked_for_it() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        let params = json!({"session": session, "cmd": "yes", "output_limit_bytes": 1000, "on_output_limit": "kill"});
        let record = client.ok("exec.run", params);
        assert_eq!((&record["status"], &record["limit"]), (&json!("output_limit"), &json!("output_limit_bytes")));
        assert_eq!(says(&mut client, &session, "echo on"), "on\n");
    }
}

#[test]
fn one_cmd_at_a_time_whatever_is_configured_and_argv_beside_it() {
    let daemon = Daemon::start(&[("commands.max_commands_per_session", json!(3))]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        let gate = daemon.launch.folder.gate();
        let run = client.ask("exec.run", json!({"session": session, "cmd": gate.wait()}));
        daemon.wait_running(1);
        let error = client.refused("exec.run", json!({"session": session, "cmd": "true"}), "SESSION_BUSY");
        assert_eq!((&error["data"]["limit"], &error["data"]["usage"]), (&json!(1), &json!(1)), "{error}");
        // It ends, and what it has started with it; the shell and its command do not.
        let beside = json!({"session": session, "argv": ["sh", "-c", "sleep 1000 & echo beside"]});
        let record = client.ok("exec.run", beside);
        assert_eq!((&record["stdout"], &record["descendants_killed"]), (&json!("beside\n"), &json!(1)), "{record}");
        gate.open();
        assert_eq!(client.answer(&run)["result"]["status"], "exited");
        assert_eq!(says(&mut client, &session, "echo on"), "on\n");
    }
}
