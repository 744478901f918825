//! `exec.read`: by offset, waiting without a thread, every byte once; what a ring has dropped is told.

use super::steps::*;
use crate::exec_support::*;
use crate::support::*;

#[test]
fn output_is_read_while_it_comes_and_after() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let gate = daemon.launch.folder.gate();
    let exec = start(&mut conn, &session, &format!("printf one; printf err >&2; {}; printf two", gate.wait()));

    let first = read(&mut conn, &exec, 0, json!({"wait_s": 10}));
    assert_eq!(first, Part { bytes: b"one".into(), offset: 0, dropped: 0, eof: false });
    let nothing = read(&mut conn, &exec, 3, json!({}));
    assert_eq!(nothing, Part { bytes: vec![], offset: 3, dropped: 0, eof: false });
    let nothing = read(&mut conn, &exec, 3, json!({"wait_s": 0.05}));
    assert_eq!(nothing, Part { bytes: vec![], offset: 3, dropped: 0, eof: false });
    let waiting = conn.ask("exec.read", json!({"exec": exec, "stream": "stdout", "offset": 3, "wait_s": 60}));
    conn.ping();
    gate.open();

    let second = part(crate::support::conn::granted(conn.answer(&waiting)), 3);
    assert_eq!(second.text(), "two");
    wait(&mut conn, &exec);
    let whole = read(&mut conn, &exec, 0, json!({}));
    assert_eq!(whole, Part { bytes: b"onetwo".into(), offset: 0, dropped: 0, eof: true });
    assert_eq!(read(&mut conn, &exec, 4, json!({"max_bytes": 1})).text(), "w");
    let end = read(&mut conn, &exec, 6, json!({"wait_s": 60}));
    assert_eq!(end, Part { bytes: vec![], offset: 6, dropped: 0, eof: true });
    let past = read(&mut conn, &exec, 600, json!({}));
    assert_eq!((past.bytes.len(), past.offset, past.eof), (0, 600, true));
    let params = json!({"exec": exec, "stream": "stderr", "offset": 0});
    assert_eq!(part(conn.ok("exec.read", params), 0).text(), "err");
}

#[test]
fn reads_of_any_size_give_every_byte_once() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let expected: String = (1..=30_000).map(|number| format!("{number} é€🦀\n")).collect();
    let cmd = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); echo \"$i é€🦀\"; done";

    let exec = start(&mut conn, &session, cmd);
    assert!(read_all(&mut conn, &exec, 5000) == expected.as_bytes(), "while it ran");
    wait(&mut conn, &exec);
    for max_bytes in [777, 65536, 1 << 40] {
        assert!(read_all(&mut conn, &exec, max_bytes) == expected.as_bytes(), "in parts of {max_bytes}");
    }
}

#[test]
fn a_ring_that_has_moved_on_says_what_is_gone() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let gate = daemon.launch.folder.gate();

    let cmd = format!("printf 0123456789; {}; printf abcdefghij", gate.wait());
    let params = json!({"session": session, "cmd": cmd, "output_limit_bytes": 8});
    let exec = start_with(&mut conn, params);
    let before = read(&mut conn, &exec, 0, json!({"wait_s": 10}));
    assert_eq!((before.text(), before.offset, before.dropped, before.eof), ("23456789", 2, 2, false));
    gate.open();
    let record = wait(&mut conn, &exec);
    assert_eq!((text(&record).as_str(), &record["stdout_dropped"]), ("cdefghij", &json!(12)));
    let after = read(&mut conn, &exec, 10, json!({}));
    assert_eq!((after.text(), after.offset, after.dropped, after.eof), ("cdefghij", 12, 2, true));
}

#[test]
fn the_other_ways_of_keeping_are_read_with_their_gaps() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let mut started = |keep: &str| {
        let cmd = "printf 0123456789abcdefghij";
        let params = json!({"session": session, "cmd": cmd, "output_limit_bytes": 6, "output_keep": keep});
        let exec = start_with(&mut conn, params);
        wait(&mut conn, &exec);
        let mut all = Vec::new();
        let mut offset = 0;
        loop {
            let part = read(&mut conn, &exec, offset, json!({}));
            all.push((part.text().to_owned(), part.dropped));
            offset = part.offset + part.bytes.len() as u64;
            if part.eof {
                return all;
            }
        }
    };

    assert_eq!(started("head"), [("012345".to_owned(), 0), (String::new(), 14)]);
    assert_eq!(started("both"), [("012".to_owned(), 0), ("hij".to_owned(), 14)]);
    assert_eq!(started("tail"), [("efghij".to_owned(), 14)]);
}

#[test]
fn a_flood_is_read_by_whoever_keeps_up_and_by_whoever_does_not() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.tcp(), daemon.tcp());
    let session = conn.open(json!({}));
    let exec = start(&mut conn, &session, "exec yes 0123456");

    let mut offset = 0;
    let mut dropped = 0;
    for _ in 0..40 {
        let part = read(&mut conn, &exec, offset, json!({"wait_s": 10, "max_bytes": 200_000}));
        let expected: Vec<u8> =
            (part.offset..).map(|at| b"0123456\n"[at as usize % 8]).take(part.bytes.len()).collect();
        assert!(part.bytes == expected, "wrong bytes at {}", part.offset);
        (offset, dropped) = (part.offset + part.bytes.len() as u64, dropped + part.dropped);
        assert_well(&mut other);
    }
    conn.ok("exec.kill", json!({"exec": exec}));
    let record = wait(&mut conn, &exec);
    assert!(record["stdout_bytes"].as_u64().unwrap() >= offset, "{offset} read, {dropped} dropped");
}

#[test]
fn bytes_that_are_no_text_are_read_as_base64() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));

    let exec = start(&mut conn, &session, r"printf '\377\000ok'");
    wait(&mut conn, &exec);
    let answer = conn.ok("exec.read", json!({"exec": exec, "stream": "stdout", "offset": 0}));
    assert_eq!((&answer["data"], &answer["encoding"]), (&json!("/wBvaw=="), &json!("base64")));
    assert_eq!(read(&mut conn, &exec, 2, json!({})).text(), "ok");
    let params = json!({"session": session, "cmd": "echo text", "encoding": "base64"});
    let exec = start_with(&mut conn, params);
    wait(&mut conn, &exec);
    let answer = conn.ok("exec.read", json!({"exec": exec, "stream": "stdout", "offset": 0}));
    assert_eq!(answer["encoding"], "base64");
}

#[test]
fn a_command_of_exec_run_is_read_while_it_runs() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.tcp(), daemon.tcp());
    let session = conn.open(json!({}));
    let gate = daemon.launch.folder.gate();
    let id = conn.ask("exec.run", json!({"session": session, "cmd": format!("echo so far; {}", gate.wait())}));
    daemon.wait_running(1);
    let listed = other.ok("exec.list", json!({"session": session}));
    let exec = listed["commands"][0]["exec"].as_str().unwrap().to_owned();

    assert_eq!(read(&mut other, &exec, 0, json!({"wait_s": 10})).text(), "so far\n");
    let waiting = other.ask("exec.read", json!({"exec": exec, "stream": "stdout", "offset": 7, "wait_s": 60}));
    other.ping();
    gate.open();

    assert_eq!(text(&record_of(&mut conn, &id)), "so far\n");
    assert!(part(crate::support::conn::granted(other.answer(&waiting)), 7).eof);
    other.refused("exec.read", json!({"exec": exec, "stream": "stdout", "offset": 0}), "EXEC_NOT_FOUND");
}

#[test]
fn a_streamed_command_keeps_nothing_to_read() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));

    let params = json!({"session": session, "cmd": "exec sleep 60", "stream": true});
    let exec = start_with(&mut conn, params);
    conn.refused("exec.read", json!({"exec": exec, "stream": "stdout", "offset": 0}), "INVALID_PARAMS");
    conn.ok("exec.kill", json!({"exec": exec}));
    wait(&mut conn, &exec);
    conn.refused("exec.read", json!({"exec": exec, "stream": "stdout", "offset": 0}), "INVALID_PARAMS");
}
