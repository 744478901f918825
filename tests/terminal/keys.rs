//! Keys that mean something: Ctrl-C, Ctrl-D, Ctrl-Z.

use super::typist::Typist;
use crate::exec_support::*;
use crate::support::*;

#[test]
fn ctrl_c_interrupts_the_foreground() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let params = json!({"session": session, "cmd": "echo ready; exec sleep 60", "pty": {"cols": 80, "rows": 24}});
    let mut typist = Typist::start_with(&mut conn, params);
    typist.sees("ready\r\n");
    typist.types("\u{3}");
    let (shown, record) = typist.ends();
    assert_eq!(end(&record), ("signaled", None, None, Some("SIGINT")), "{shown}");
}

#[test]
fn ctrl_d_is_the_end_of_the_input_and_the_terminal_stays() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let params = json!({"session": session, "cmd": "cat; echo again; cat; echo end", "pty": {"cols": 80, "rows": 24}});
    let mut typist = Typist::start_with(&mut conn, params);
    typist.types("one\n");
    typist.sees("one\r\none\r\n");
    typist.eof();
    typist.sees("again\r\n");
    typist.types("two\n");
    typist.sees("two\r\ntwo\r\n");
    typist.types("\u{4}");
    let (shown, record) = typist.ends();
    assert!(shown.ends_with("end\r\n"), "{shown}");
    assert_eq!(end(&record), exited(0));
}

#[test]
fn the_end_may_be_said_with_the_last_line_and_again() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let params =
        json!({"session": session, "cmd": "stty -echo; echo ready; cat; exec cat", "pty": {"cols": 80, "rows": 24}});
    let mut typist = Typist::start_with(&mut conn, params);
    typist.sees("ready\r\n");
    let exec = typist.exec.clone();
    let accepted = typist.conn.ok("exec.write", json!({"exec": exec, "data": "last\n", "eof": true}));
    assert_eq!(accepted, json!({"accepted_bytes": 5}));
    typist.sees("last\r\n");
    typist.eof();
    let (_, record) = typist.ends();
    assert_eq!(end(&record), exited(0));
}
