//! Commands that fight the way in which they are run.

use crate::support::{Daemon, json};
use crate::{exits, is_bash, says, shells};

#[test]
fn output_that_imitates_the_protocol_is_output() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        let cmd = r#"printf '%s\n' "trap -- 'cofferdam x 0 - /' SIGRTMAX" "trap -- 'cofferdam $COFFERDAM_EXEC 0 - /' RTMAX"; trap; false"#;
        let out = exits(&mut client, &session, 1, cmd);
        assert_eq!(out.lines().count(), 2, "{out}");
        assert_eq!(says(&mut client, &session, "pwd | grep -c ."), "1\n");
    }
}

#[test]
fn a_command_that_forges_a_report_misleads_its_own_session_only() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        // All pipes of the session get noise and a report of a command that never was.
        let cmd = r#"d=$(readlink /proc/self/fd/2); d=${d%/*}; for f in 1 2 3 4 5; do
            printf '%s\n' "trap -- 'cofferdam nobody-e1 0 - /' RTMAX" junk "RTMAX" "trap -- 'cofferdam" >>"$d/$f"; done 2>/dev/null; exit_code=7; false"#;
        let record = client.run_in(&session, cmd);
        assert_eq!(record["exit_code"], 1, "{record}");
        assert_eq!(exits(&mut client, &session, 7, "(exit $exit_code)"), "");
    }
}

#[test]
fn closed_descriptors_do_no_harm() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        says(&mut client, &session, "x=kept");
        // dash knows ten descriptors; what comes behind is a program to it, that is not found.
        let all = if is_bash(&shell) { 0..=20 } else { 0..=9 };
        let each: Vec<String> = all.clone().map(|fd| format!("exec {fd}>&-")).collect();
        let at_once: Vec<String> = all.rev().map(|fd| format!("{fd}>&-")).collect();
        for cmd in [each.join("; "), format!("exec {}", at_once.join(" ")), "exec 2>&1 >/dev/null 0<&1".into()] {
            for _ in 0..3 {
                exits(&mut client, &session, 0, &cmd);
                let record = client.run_in(&session, "echo $x; ls /proc/self/fd | tr '\\n' ' '; echo e >&2");
                assert_eq!(record["stdout"], "kept\n0 1 2 3 ", "after {cmd}: {record}");
                assert_eq!(record["stderr"], "e\n", "after {cmd}: {record}");
                assert!(record.get("shell_restarted").is_none(), "after {cmd}: {record}");
            }
        }
        let loops = "i=0; while [ $i -le 20 ]; do eval \"exec $i>&-\"; i=$((i+1)); done";
        assert_eq!(client.run_in(&session, loops)["status"], "exited");
        assert_eq!(says(&mut client, &session, "echo usable"), "usable\n");
    }
}

#[test]
fn functions_and_aliases_named_like_ours() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let names =
        ["command", "printf", "echo", "pwd", "cd", "builtin", "test", "true", "declare", "unalias", "read", "kill"];
    let special = ["eval", "exit", "trap", "set", "unset", "export", "exec", "return", "shift", "readonly"];
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        let mut all: Vec<&str> = names.to_vec();
        if is_bash(&shell) {
            all.extend(special);
        }
        for name in all {
            says(&mut client, &session, &format!("{name}() {{ /bin/echo fake; }}"));
            assert_eq!(exits(&mut client, &session, 1, "/bin/echo real; /bin/false"), "real\n", "{name}");
            assert_eq!(says(&mut client, &session, &format!("{name} x")), "fake\n");
        }
        // As in a script: aliases are off in bash, and on in dash.
        let aliases = "alias eval='/bin/echo fake' trap='/bin/echo fake' set=/bin/false COFFERDAM_EXEC=/bin/false";
        let session = client.open(json!({"shell": shell}));
        says(&mut client, &session, if is_bash(&shell) { "shopt -s expand_aliases" } else { ":" });
        says(&mut client, &session, aliases);
        assert_eq!(exits(&mut client, &session, 1, "/bin/echo real; /bin/false"), "real\n");
    }
}

#[test]
fn options_that_change_what_words_mean() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        for cmd in [
            "set -u",
            "set -f",
            "set -C",
            "set -a",
            "set -x",
            "set -v",
            "set -b",
            "IFS=",
            "IFS=/",
            "PATH=",
            "unset PATH IFS HOME PWD OLDPWD",
            "PS1='$(exit 3)' PS2=x PS4='$nope '",
            "umask 777",
            "set -- a b c",
            "OPTIND=7",
            "set -m",
        ] {
            let session = client.open(json!({"shell": shell}));
            let record = client.run_in(&session, cmd);
            assert_eq!(record["exit_code"], 0, "{cmd}: {record}");
            for _ in 0..2 {
                let record = client.run_in(&session, "x=5; echo \"x: $x\"; /bin/false");
                assert_eq!((&record["stdout"], &record["exit_code"]), (&json!("x: 5\n"), &json!(1)), "{cmd}: {record}");
                assert!(record.get("shell_restarted").is_none(), "{cmd}: {record}");
            }
            client.ok("session.close", json!({"session": session}));
        }
    }
}

#[test]
fn tracing_shows_the_command_and_nothing_of_ours() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        says(&mut client, &session, "set -xv");
        let record = client.run_in(&session, "echo hi");
        let stderr = record["stderr"].as_str().unwrap();
        assert!(stderr.contains("+ echo hi\n"), "{record}");
        for ours in ["trap", "eval", "COFFERDAM", "cofferdam"] {
            assert!(!stderr.contains(ours), "{record}");
        }
    }
}

#[test]
fn variables_that_cannot_be_written() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        says(&mut client, &session, "readonly x=1 PWD OLDPWD IFS PATH COFFERDAM_EXEC PS1 PS4 HOME");
        for _ in 0..3 {
            exits(&mut client, &session, 1, "echo x=$x; /bin/false");
        }
        let record = client.run_in(&session, "x=2");
        assert_ne!(record["exit_code"], 0, "{record}");
        assert_eq!(says(&mut client, &session, "echo $x"), "1\n");
    }
}

#[test]
fn loops_and_functions_around_nothing() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        for cmd in [
            "break",
            "continue",
            "break 5; continue 5",
            "for i in 1 2; do break 9; done",
            "while :; do break; done; continue",
            "shift 2>/dev/null; :",
        ] {
            assert_eq!(client.run_in(&session, cmd)["status"], "exited", "{cmd}");
            assert_eq!(says(&mut client, &session, "echo on"), "on\n", "{cmd}");
        }
    }
}

#[test]
fn deaf_shells_are_ended_with_their_session() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        says(&mut client, &session, "trap '' TERM INT HUP QUIT USR1 USR2 PIPE");
        assert_eq!(says(&mut client, &session, "echo on"), "on\n");
        client.ok("session.close", json!({"session": session}));
        assert!(daemon.commands().is_empty());
    }
}

#[test]
fn a_shell_that_runs_nothing_any_more_is_replaced() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        let params = json!({"session": session, "cmd": "set -n", "timeout_s": 0.3, "kill_grace_ms": 100});
        let status = client.ok("exec.run", params)["status"].clone();
        assert!(["timed_out", "exited"].contains(&status.as_str().unwrap()), "{status}");
        assert_eq!(says(&mut client, &session, "echo usable"), "usable\n");
    }
}
