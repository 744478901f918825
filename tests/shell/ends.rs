//! How commands of a shell end: exact codes, the shell's own end, time-outs, signals.

use crate::support::{Conn, DEADLINE, Daemon, Value, json, skip, wait_until};
use crate::{exits, is_bash, says, shells};

#[test]
fn codes_are_exact() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        for code in [0, 1, 2, 77, 126, 127, 128, 255] {
            exits(&mut client, &session, code, &format!("(exit {code})"));
            exits(&mut client, &session, code, &format!("sh -c 'exit {code}'"));
        }
        exits(&mut client, &session, 127, "no-such-program 2>/dev/null");
        exits(&mut client, &session, 137, "sh -c 'kill -9 $$'");
        exits(&mut client, &session, 0, "false | true");
    }
}

#[test]
fn a_syntax_error_leaves_the_shell_as_it_is() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        says(&mut client, &session, "x=kept");
        for wrong in
            ["echo 'open", "if true; then", "fi", "echo \"", "((", "a() {", "case x in", ")", "<", "&& x", "-x"]
        {
            let record = client.run_in(&session, wrong);
            assert_eq!(record["status"], "exited", "{wrong}: {record}");
            assert_ne!(record["exit_code"], 0, "{wrong}: {record}");
            let record = client.run_in(&session, "echo $x");
            assert_eq!(record["stdout"], "kept\n", "after {wrong}: {record}");
            assert!(record.get("shell_restarted").is_none(), "after {wrong}: {record}");
        }
    }
}

#[test]
fn a_shell_that_exits_is_followed_by_a_fresh_one() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let opened = client.ok("session.open", json!({"shell": shell, "env": {"E": "session"}}));
        let session = opened["session"].as_str().unwrap();
        for (cmd, code) in
            [("exit 3", 3), ("exit 0", 0), ("false; exit", 1), ("exec true", 0), ("set -e; false; echo no", 1)]
        {
            says(&mut client, session, "cd /usr; x=5; E=changed; echo here");
            exits(&mut client, session, code, cmd);
            let record = client.run_in(session, "echo [$x] $E; pwd");
            assert_eq!(record["stdout"], "[] session\n/usr\n", "{cmd}: {record}");
            assert_eq!(record["shell_restarted"], true, "{cmd}: {record}");
            let record = client.run_in(session, "true");
            assert!(record.get("shell_restarted").is_none(), "{cmd}: {record}");
        }
        let record = client.run_in(session, "trap 'echo bye' EXIT; echo now; exit 4");
        assert_eq!((&record["stdout"], &record["exit_code"]), (&json!("now\nbye\n"), &json!(4)));
        let record = client.run_in(session, "echo last words; kill -9 $$");
        assert_eq!((&record["status"], &record["signal"]), (&json!("signaled"), &json!("SIGKILL")), "{record}");
        assert_eq!(record["stdout"], "last words\n");
        assert_eq!(client.run_in(session, "pwd")["shell_restarted"], true);
    }
}

#[test]
fn a_fresh_shell_whose_directory_is_gone_starts_in_the_root() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"shell": true}));
    says(&mut client, &session, "mkdir d; cd d; rmdir ../d");
    exits(&mut client, &session, 1, "exit 1");
    let record = client.run_in(&session, "pwd");
    assert_eq!((&record["stdout"], &record["cwd"]), (&json!("/\n"), &json!("/")), "{record}");
}

#[track_caller]
fn times_out(client: &mut Conn, session: &str, cmd: &str) -> Value {
    let record = client.ok("exec.run", json!({"session": session, "cmd": cmd, "timeout_s": 0.2, "kill_grace_ms": 100}));
    assert_eq!((&record["status"], &record["limit"]), (&json!("timed_out"), &json!("timeout_s")), "{cmd}: {record}");
    record
}

#[test]
fn a_time_out_ends_the_command_and_not_the_shell() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        says(&mut client, &session, "x=kept; f() { sleep 1000; }");
        for cmd in [
            "echo first; sleep 1000",
            "f",
            "sleep 1000 | cat",
            "(sleep 1000)",
            "x=kept; sh -c \"trap '' TERM; sleep 1000; sleep 1000\"",
        ] {
            let record = times_out(&mut client, &session, cmd);
            assert_eq!(record["stdout"] == "first\n", cmd.contains("first"), "{record}");
            let record = client.run_in(&session, "echo $x");
            assert_eq!(record["stdout"], "kept\n", "after {cmd}: {record}");
            assert!(record.get("shell_restarted").is_none(), "after {cmd}: {record}");
        }
        assert!(daemon.commands().iter().all(|process| !process.command.contains("sleep")), "{:?}", daemon.commands());
    }
}

#[test]
fn a_shell_that_is_busy_itself_is_interrupted_or_replaced() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let opened = client.ok("session.open", json!({"shell": shell, "env": {"E": "session"}}));
        let session = opened["session"].as_str().unwrap();
        for cmd in [
            "while :; do :; done; echo after",
            "while :; do sleep 1000; done",
            "trap '' INT TERM; while :; do :; done",
            "trap '' INT TERM; while :; do sleep 1000; done",
            "exec sleep 1000",
        ] {
            says(&mut client, session, "cd /usr; echo here");
            let record = times_out(&mut client, session, cmd);
            assert_eq!(record["stdout"], "", "{record}");
            assert_eq!(record["cwd"], "/usr", "{record}");
            assert_eq!(says(&mut client, session, "echo $E; pwd"), "session\n/usr\n", "after {cmd}");
        }
        if !is_bash(&shell) {
            says(&mut client, session, "trap - INT TERM; x=kept");
            times_out(&mut client, session, "while :; do :; done");
            assert_eq!(says(&mut client, session, "echo $x"), "kept\n");
        }
    }
}

#[test]
fn no_grace_kills_at_once() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        says(&mut client, &session, "x=kept");
        let params = json!({"session": session, "cmd": "sleep 1000", "timeout_s": 0.1, "kill_grace_ms": 0});
        let record = client.ok("exec.run", params);
        assert_eq!((&record["status"], &record["signal"]), (&json!("timed_out"), &json!("SIGKILL")), "{record}");
        assert_eq!(says(&mut client, &session, "echo $x"), "kept\n");
    }
}

#[test]
fn a_signal_goes_to_the_command_and_not_to_the_shell() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        let pid = says(&mut client, &session, "x=kept; echo $$");
        let cmd = "sh -c 'trap \"echo got it; exit 5\" USR1; echo ready; while :; do sleep 0.01; done'";
        let started = client.ok("exec.start", json!({"session": session, "cmd": cmd}));
        assert_eq!(started["pid"].to_string(), pid.trim());
        let read = json!({"exec": started["exec"], "stream": "stdout", "offset": 0, "wait_s": 20});
        assert_eq!(client.ok("exec.read", read)["data"], "ready\n");
        client.ok("exec.signal", json!({"exec": started["exec"], "signal": "USR1"}));
        let record = client.ok("exec.wait", json!({"exec": started["exec"]}));
        assert_eq!((&record["exit_code"], &record["stdout"]), (&json!(5), &json!("ready\ngot it\n")), "{record}");
        let started = client.ok("exec.start", json!({"session": session, "cmd": "sleep 1000"}));
        wait_for_sleep(&daemon);
        client.ok("exec.signal", json!({"exec": started["exec"], "signal": "TERM"}));
        let record = client.ok("exec.wait", json!({"exec": started["exec"]}));
        assert_eq!((&record["status"], &record["signal"]), (&json!("signaled"), &json!("SIGTERM")), "{record}");
        assert_eq!(says(&mut client, &session, "echo $x"), "kept\n");
    }
}

/// A shell that waits for a program is not the one that a signal ends.
#[track_caller]
fn wait_for_sleep(daemon: &Daemon) {
    wait_until("the sleep runs", DEADLINE, || {
        daemon.commands().iter().any(|process| process.command.starts_with("sleep 1000")).then_some(())
    });
}

#[test]
fn a_killed_command_and_a_disconnect_are_cancelled() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell, "persist": true}));
        says(&mut client, &session, "x=kept");
        let started = client.ok("exec.start", json!({"session": session, "cmd": "sleep 1000"}));
        wait_for_sleep(&daemon);
        client.ok("exec.kill", json!({"exec": started["exec"]}));
        let record = client.ok("exec.wait", json!({"exec": started["exec"]}));
        assert_eq!(record["status"], "cancelled", "{record}");
        assert_eq!(says(&mut client, &session, "echo $x"), "kept\n");
        let mut other = daemon.tcp();
        other.ask("exec.run", json!({"session": session, "cmd": "sleep 1000"}));
        wait_for_sleep(&daemon);
        other.reset();
        daemon.wait_running(0);
        assert_eq!(says(&mut client, &session, "echo $x"), "kept\n");
        client.ok("session.close", json!({"session": session}));
    }
}

#[test]
fn a_shell_that_can_start_nothing_still_runs_what_it_can_itself() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    if !std::path::Path::new("/bin/dash").exists() {
        return skip("there is no /bin/dash here, and others try again for long");
    }
    let session = client.open(json!({"shell": "/bin/dash"}));
    assert_eq!(says(&mut client, &session, "ulimit -p 1"), "");
    let record = client.ok("exec.run", json!({"session": session, "cmd": "env"}));
    assert_ne!(record["exit_code"], 0, "{record}");
    for text in ["on", "on and on"] {
        assert_eq!(says(&mut client, &session, &format!("echo {text}")), format!("{text}\n"));
    }
}
