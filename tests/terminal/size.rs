//! The size of a terminal: as asked, changed by `exec.resize`, told to the foreground by SIGWINCH.

use super::typist::Typist;
use crate::exec_support::*;
use crate::support::*;

#[test]
fn it_has_the_size_that_was_asked_for() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    for (cols, rows) in [(80, 24), (1, 1), (65535, 65535)] {
        let record = run(&mut conn, json!({"cmd": "stty size", "pty": {"cols": cols, "rows": rows}}));
        assert_eq!(text(&record), format!("{rows} {cols}\r\n"));
    }
}

#[test]
fn a_new_size_is_told_by_sigwinch() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    // A trap ends the read of dash and waits for that of bash: either way the line is read in the end.
    let cmd = "trap 'stty size' WINCH; echo ready; until read line; do :; done; echo end";
    let params = json!({"session": session, "cmd": cmd, "pty": {"cols": 80, "rows": 24}});
    let mut typist = Typist::start_with(&mut conn, params);
    typist.sees("ready\r\n");

    let exec = typist.exec.clone();
    assert_eq!(typist.conn.ok("exec.resize", json!({"exec": exec, "cols": 132, "rows": 50})), json!({}));
    typist.types("\n");
    typist.sees("50 132\r\n");

    let (shown, record) = typist.ends();
    assert!(shown.ends_with("end\r\n") && !shown.contains("24 80"), "{shown}");
    assert_eq!(end(&record), exited(0));
}

#[test]
fn without_a_terminal_there_is_no_size() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let exec = conn.ok("exec.start", json!({"session": session, "cmd": "exec sleep 60"}))["exec"].clone();

    conn.refused("exec.resize", json!({"exec": exec, "cols": 80, "rows": 24}), "INVALID_PARAMS");
    for bad in [json!({"cols": 80}), json!({"cols": 0, "rows": 1}), json!({"cols": 1, "rows": 65536})] {
        let mut bad = bad;
        bad["exec"] = exec.clone();
        conn.refused("exec.resize", bad, "INVALID_PARAMS");
    }
    conn.ok("exec.kill", json!({"exec": exec}));
    let error = conn.request("exec.resize", json!({"exec": exec, "cols": 80, "rows": 24}));
    assert!(error.get("error").is_some(), "{error}");
}
