//! Opening: which shell, what cannot be one, how a session shows it.

use crate::support::{Daemon, json};
use crate::{says, shells};

#[test]
fn a_shell_is_true_or_a_path_and_shown_so() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        assert_eq!(client.ok("session.info", json!({"session": session}))["shell"], shell);
        assert_eq!(says(&mut client, &session, "echo $0"), format!("{}\n", shell.as_str().unwrap_or("/bin/sh")));
    }
    let session = client.open(json!({"shell": false}));
    assert_eq!(client.ok("session.info", json!({"session": session}))["shell"], false);
    assert!(client.run_in(&session, "true").get("cwd").is_none());
}

#[test]
fn what_cannot_be_a_shell_is_told_at_the_opening() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for (shell, errno) in
        [("/no/such/shell", "ENOENT"), ("no-such-shell", "ENOENT"), ("/etc/passwd", "EACCES"), ("/bin/true", "ENOEXEC")]
    {
        let error = client.refused("session.open", json!({"shell": shell}), "SPAWN_FAILED");
        assert_eq!((&error["data"]["stage"], &error["data"]["errno"]), (&json!("resolve"), &json!(errno)), "{error}");
    }
    let error = client.refused("session.open", json!({"shell": true, "cwd": "/no/such"}), "SPAWN_FAILED");
    assert_eq!((&error["data"]["stage"], &error["data"]["errno"]), (&json!("cwd"), &json!("ENOENT")), "{error}");
    for shell in [json!(""), json!(1), json!({}), json!("a\0b")] {
        let error = client.refused("session.open", json!({"shell": shell}), "INVALID_PARAMS");
        assert_eq!(error["data"]["field"], "shell", "{error}");
    }
    assert_eq!(daemon.stats()["sessions"]["current"], 0);
}

#[test]
fn the_environment_and_the_directory_are_the_session_s() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let opened = client.ok("session.open", json!({"shell": shell, "env": {"MINE": "it's \"so\""}, "cwd": "/usr"}));
        let session = opened["session"].as_str().unwrap();
        assert_eq!(
            says(&mut client, session, "pwd; echo $MINE; env | grep ^MINE"),
            "/usr\nit's \"so\"\nMINE=it's \"so\"\n"
        );
        let ids = says(&mut client, session, "echo $COFFERDAM_SESSION; env | grep ^COFFERDAM_EXEC");
        let record = client.run_in(session, "env | grep ^COFFERDAM_EXEC");
        let exec = record["exec"].as_str().unwrap();
        assert!(record["stdout"].as_str().unwrap().trim_end().ends_with(exec), "{record}");
        assert!(ids.contains(&format!("-{session}\n")), "{ids}");
    }
}

#[test]
fn closing_ends_everything_that_runs() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        says(&mut client, &session, "sleep 1000 & setsid sleep 1000 & (sleep 1000 &)");
        let mut other = daemon.tcp();
        let run =
            client.ask("exec.run", json!({"session": session, "cmd": "trap '' TERM INT HUP; sleep 1000; sleep 1000"}));
        daemon.wait_running(1);
        client.ok("session.close", json!({"session": session}));
        assert_eq!(client.answer(&run)["result"]["status"], "cancelled");
        assert!(daemon.commands().is_empty(), "{:?}", daemon.commands());
        other.ping();
    }
}
