//! A shell at its prompt: job control without warnings, and the hang-up at the end.

use super::typist::Typist;
use crate::exec_support::*;
use crate::support::*;

/// The shells to be at home on a terminal; those that are here.
fn shells() -> Vec<Vec<&'static str>> {
    let bash = tool("bash").map(|bash| vec![bash, "--norc", "--noprofile", "-i"]);
    [Some(vec!["/bin/sh", "-i"]), bash].into_iter().flatten().collect()
}

#[test]
fn job_control_works_and_nobody_complains() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    for shell in shells() {
        let session = conn.open(json!({"env": {"PS1": "ready> "}}));
        let mut typist = Typist::start(&mut conn, &session, &shell);
        // What a shell without a terminal of its own would say comes before the first prompt.
        let greeting = typist.sees("ready> ");
        for complaint in ["job control", "tty", "ioctl", "cannot"] {
            assert!(!greeting.contains(complaint), "{shell:?}: {greeting}");
        }
        typist.types("stty -echo\n");
        typist.sees("ready> ");
        typist.types("cat\n");
        typist.types("back\n");
        typist.sees("back\r\n");
        typist.types("\u{1a}");
        typist.sees("Stopped");
        typist.sees("ready> ");
        typist.types("jobs\n");
        typist.sees("Stopped");
        typist.sees("ready> ");
        typist.types("fg\n");
        typist.sees("cat");
        typist.types("fore\n");
        typist.sees("fore\r\n");
        typist.types("\u{3}");
        typist.sees("ready> ");
        typist.types("sleep 60\n\u{3}");
        typist.sees("ready> ");
        typist.types("cd /; pwd; exit 6\n");
        typist.sees("/\r\n");
        let (shown, record) = typist.ends();
        assert_eq!(end(&record), exited(6), "{shell:?}: {shown}");
        close(&mut conn, &session);
    }
}

#[test]
fn a_session_that_closes_hangs_up() {
    let daemon = Daemon::start(&[("commands.kill_grace_ms", json!(10_000))]);
    let mut conn = daemon.tcp();
    let shared = Shared::new();
    let session = conn.open(json!({}));
    let cmd = format!("trap 'echo hup >{}; exit' HUP; echo ready; while :; do sleep 0.02; done", shared.text("hup"));
    let params = json!({"session": session, "cmd": cmd, "pty": {"cols": 80, "rows": 24}});
    let mut typist = Typist::start_with(&mut conn, params);
    typist.sees("ready\r\n");
    let exec = typist.exec.clone();
    let waiting = conn.ask("exec.wait", json!({"exec": exec}));

    close(&mut conn, &session);

    assert!(shared.path("hup").exists(), "it did not see the line drop");
    let record = record_of(&mut conn, &waiting);
    assert_eq!((end(&record).0, text(&record).as_str()), ("cancelled", "ready\r\n"));
}

#[test]
fn who_ignores_the_hang_up_is_killed_with_all_jobs() {
    let daemon = Daemon::start(&[("commands.kill_grace_ms", json!(100))]);
    let mut conn = daemon.tcp();
    let mark = mark();
    let session = conn.open(json!({}));
    let cmd = format!("trap '' HUP; set -m; sleep {mark} & sleep {mark} & echo ready; while :; do sleep 0.1; done");
    let params = json!({"session": session, "cmd": cmd, "pty": {"cols": 80, "rows": 24}});
    let mut typist = Typist::start_with(&mut conn, params);
    typist.sees("ready\r\n");

    close(&mut conn, &session);

    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
}

#[test]
fn a_connection_that_is_lost_hangs_up_too() {
    let daemon = Daemon::start(&[("commands.kill_grace_ms", json!(10_000))]);
    let mut conn = daemon.unix();
    let shared = Shared::new();
    let cmd = format!("trap 'echo hup >{}; exit' HUP; echo ready; while :; do sleep 0.02; done", shared.text("hup"));
    let pty = json!({"cols": 80, "rows": 24});
    let id = conn.ask("exec.run", json!({"cmd": cmd, "pty": pty, "stream": true}));
    assert_eq!(piece(&conn.recv(), &id).bytes, b"ready\r\n");

    drop(conn);

    shared.wait_for("hup");
    wait_stats(&daemon, "/commands/by_status/cancelled", 1);
}

#[test]
fn a_kill_ends_jobs_in_groups_of_their_own() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mark = mark();
    let session = conn.open(json!({}));
    let mut typist = Typist::start(&mut conn, &session, &["/bin/sh", "-i"]);
    typist.types(&format!("sleep {mark} & sleep {mark} & sleep {mark}\n"));
    wait_living(&mark, 3);

    let exec = typist.exec.clone();
    typist.conn.ok("exec.kill", json!({"exec": exec}));

    let (_, record) = typist.ends();
    assert_eq!(end(&record).0, "cancelled");
    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
    assert!(record["descendants_killed"].as_u64().unwrap() >= 3, "{record}");
}
