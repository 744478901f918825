//! `stream` with `exec.start`: the pieces go to the connection that started it, while it lives.

use super::steps::*;
use crate::exec_support::*;
use crate::support::*;

/// Starts a streamed command: the id of the request, and its own.
#[track_caller]
fn start_streamed(conn: &mut Conn, session: &str, cmd: &str) -> (Value, String) {
    let id = conn.ask("exec.start", json!({"session": session, "cmd": cmd, "stream": true}));
    let started = crate::support::conn::granted(conn.answer(&id));
    (id, started["exec"].as_str().unwrap().to_owned())
}

#[test]
fn pieces_follow_the_answer_and_name_the_request() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let (id, exec) = start_streamed(&mut conn, &session, "seq 1 200000; echo err >&2");

    let waiting = conn.ask("exec.wait", json!({"exec": exec}));
    let mut pieces = Vec::new();
    let record = loop {
        let line = conn.recv();
        if line.get("method").is_none() {
            assert_eq!(line["id"], waiting);
            break line["result"].clone();
        }
        assert_eq!(line["params"]["exec"], json!(exec));
        pieces.push(piece(&line, &id));
    };

    let expected: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
    assert!(joined(&pieces, "stdout") == expected.as_bytes(), "the output differs");
    assert_eq!(joined(&pieces, "stderr"), b"err\n");
    check_record(&record, true);
    assert_eq!(record["stdout_bytes"], expected.len());
}

#[test]
fn when_the_connection_is_gone_the_command_goes_on_unheard() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.unix(), daemon.unix());
    let session = conn.open(json!({"persist": true}));
    let shared = Shared::new();
    let count = 20_000_000;

    // Far more than all buffers hold: it would stand still without a reader.
    let cmd = format!("yes 0123456 | head -c {count}; echo >{}", shared.text("through"));
    let (id, exec) = start_streamed(&mut conn, &session, &cmd);
    piece(&conn.recv(), &id);
    assert!(!shared.path("through").exists(), "nobody has read it, and the command is through");
    drop(conn);

    let record = wait(&mut other, &exec);
    assert_eq!((end(&record), &record["stdout_bytes"]), (exited(0), &json!(count)));
    assert!(shared.path("through").exists());
}

#[test]
fn a_reader_that_stops_holds_up_its_own_command_alone() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.tcp(), daemon.tcp());
    let (slow, quick) = (conn.open(json!({})), other.open(json!({})));
    let count = 30_000_000;
    let (id, exec) = start_streamed(&mut conn, &slow, &format!("yes 0123456 | head -c {count}"));

    for _ in 0..20 {
        let record = run(&mut other, json!({"session": quick, "cmd": "seq 1 10000", "stream": false}));
        assert_eq!(record["stdout_bytes"], 48_894);
    }
    let status = other.ok("exec.wait", json!({"exec": exec, "wait_s": 0}));
    assert_eq!(status["status"], "running", "nobody has read it, and it is through");

    let mut bytes = 0;
    while bytes < count {
        let piece = piece(&conn.recv(), &id);
        assert_eq!(piece.offset, bytes);
        bytes += piece.bytes.len() as u64;
    }
    assert_eq!(wait(&mut other, &exec)["stdout_bytes"], count);
}

#[test]
fn a_stream_is_not_started_in_a_batch() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let params = json!({"session": session, "cmd": "true", "stream": true});
    conn.send(&json!([{"id": 1, "method": "exec.start", "params": params}]));
    assert_eq!(conn.recv()[0]["error"]["data"]["reason"], "INVALID_PARAMS");
}

#[test]
fn a_keyed_stream_goes_on_for_those_who_wait_when_its_reader_has_gone() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.unix(), daemon.unix());
    let count = 20_000_000;
    // Far more than all buffers hold.
    let params = json!({"cmd": format!("yes 0123456 | head -c {count}"), "stream": true, "key": "k"});
    let id = conn.ask("exec.run", params.clone());
    piece(&conn.recv(), &id);
    let waiting = other.ask("exec.run", params);
    other.ping();

    drop(conn);

    let record = crate::support::conn::granted(other.answer(&waiting));
    assert_eq!((end(&record), &record["stdout_bytes"]), (exited(0), &json!(count)));
}

#[test]
fn a_keyed_stream_that_was_started_goes_to_whoever_started_it() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let params = json!({"session": session, "cmd": "sleep 0.1; echo late", "stream": true, "key": "k"});
    let id = conn.ask("exec.start", params);
    crate::support::conn::granted(conn.answer(&id));
    assert_eq!(piece(&conn.recv(), &id).bytes, b"late\n");
}
