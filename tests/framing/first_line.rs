//! The first line decides: until one request was well-formed, a bad line is answered once and ends the connection.

use crate::support::{Conn, DEADLINE, Daemon, Value, json, wait_until};

const PING: &str = r#"{"id":1,"method":"system.ping"}"#;

/// Sends `bytes` as the first of a connection: exactly one answer, with id null, and the end.
#[track_caller]
fn refused_and_closed(daemon: &Daemon, bytes: &[u8]) -> Value {
    let mut client = daemon.tcp();
    client.send_bytes(bytes);
    let answer = client.recv();
    client.expect_end();
    assert_eq!(answer["id"], Value::Null, "{answer}");
    answer["error"]["data"]["reason"].clone()
}

#[test]
fn a_first_line_that_is_not_json_is_answered_once_and_ends_the_connection() {
    let daemon = Daemon::start(&[]);
    for line in ["hello\n", "{\"id\":1,\n", "{'id':1}\n", "{\"id\":1} x\n", "\u{0}\n", "}\n", "{\"id\":NaN}\n"] {
        assert_eq!(refused_and_closed(&daemon, line.as_bytes()), "PARSE_ERROR", "{line:?}");
    }
}

#[test]
fn a_first_line_that_is_json_but_no_request_is_answered_once_and_ends_the_connection() {
    let daemon = Daemon::start(&[]);
    for line in ["42\n", "\"system.ping\"\n", "null\n", "true\n", "{}\n", "[]\n", "{\"method\":7}\n"] {
        assert_eq!(refused_and_closed(&daemon, line.as_bytes()), "INVALID_REQUEST", "{line:?}");
    }
}

#[test]
fn a_batch_of_no_requests_is_a_bad_first_line() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.send_line(r#"[1,"system.ping",{}]"#);
    let answer = client.recv();
    client.expect_end();
    let reasons: Vec<&Value> = answer.as_array().unwrap().iter().map(|one| &one["error"]["data"]["reason"]).collect();
    assert_eq!(reasons, ["INVALID_REQUEST"; 3]);
}

#[test]
fn an_array_is_never_read_as_a_request() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.send_line(PING);
    client.recv();
    client.send_line(r#"["2.0",1,"system.ping",{}]"#);
    let answer = client.recv();
    for one in answer.as_array().unwrap() {
        assert_eq!(one["error"]["data"]["reason"], "INVALID_REQUEST", "{answer}");
    }
}

#[test]
fn the_body_of_an_http_post_never_runs() {
    let daemon = Daemon::start(&[]);
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"exec.run","params":{"cmd":"true"}}"#;
    let post = format!("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}\n", body.len() + 1);
    assert_eq!(refused_and_closed(&daemon, post.as_bytes()), "PARSE_ERROR");
    assert_eq!(daemon.stats()["commands"]["started"], 0);
}

#[test]
fn the_body_of_an_http_post_never_runs_when_it_comes_alone() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.send_bytes("POST / HTTP/1.1\r\n");
    assert_eq!(client.recv()["error"]["data"]["reason"], "PARSE_ERROR");
    let _ = client.try_send_bytes("{\"id\":1,\"method\":\"exec.run\",\"params\":{\"cmd\":\"true\"}}\n");
    client.expect_end();
    assert_eq!(daemon.stats()["commands"]["started"], 0);
}

#[test]
fn the_start_of_another_protocol_is_answered_at_once_though_it_holds_no_end_of_line() {
    // A TLS client waits for an answer to its hello; nothing but this would ever end the wait.
    let daemon = Daemon::start(&[("connections.line_timeout_s", json!(3600))]);
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 client random and so on";
    for start in [&hello[..], b"GET / HTTP/1.1", b"\x00", b"  SSH-2.0-x"] {
        assert_eq!(refused_and_closed(&daemon, start), "PARSE_ERROR", "{start:?}");
    }
}

#[test]
fn what_was_pipelined_behind_a_bad_first_line_never_runs() {
    let daemon = Daemon::start(&[]);
    let lines = format!("garbage\n{}\n", r#"{"id":1,"method":"exec.run","params":{"cmd":"true"}}"#);
    refused_and_closed(&daemon, lines.as_bytes());
    assert_eq!(daemon.stats()["commands"]["started"], 0);
}

#[test]
fn blank_lines_do_not_decide_anything() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.send_bytes(format!("\n\r\n\n{PING}\n"));
    assert_eq!(client.recv(), crate::support::shape::pong(1));
    assert_eq!(refused_and_closed(&daemon, b"\n\nhello\n"), "PARSE_ERROR");
}

#[test]
fn a_well_formed_request_counts_even_if_it_is_refused() {
    let daemon = Daemon::start(&[]);
    for (method, reason) in [("no.such", "METHOD_NOT_FOUND"), ("session.open", "INVALID_PARAMS")] {
        let mut client = daemon.tcp();
        client.refused(method, json!({"no_such": 1}), reason);
        client.send_line("hello");
        assert_eq!(client.recv()["error"]["data"]["reason"], "PARSE_ERROR");
        client.ping();
    }
}

#[test]
fn inv7_bad_lines_are_answered_up_to_their_number_and_one_more_ends_the_connection() {
    let daemon = Daemon::start(&[("connections.max_bad_lines", json!(3))]);
    let mut client = daemon.tcp();
    client.ping();
    for _ in 0..3 {
        bad_line(&mut client, "hello");
        client.ping();
    }
    bad_line(&mut client, "hello");
    client.expect_end();
}

#[test]
fn inv7_lines_that_are_too_long_count_as_bad_lines() {
    let settings = [("connections.max_bad_lines", json!(2)), ("connections.max_line_bytes", json!(4096))];
    let daemon = Daemon::start(&settings);
    let mut client = daemon.tcp();
    client.ping();
    bad_line(&mut client, &"x".repeat(5000));
    bad_line(&mut client, "42");
    client.ping();
    bad_line(&mut client, &"x".repeat(5000));
    client.expect_end();
}

#[test]
fn a_first_line_ends_one_connection_and_no_other() {
    let daemon = Daemon::start(&[]);
    let mut neighbour = daemon.tcp();
    neighbour.ping();
    refused_and_closed(&daemon, b"hello\n");
    neighbour.ping();
    wait_until("the closed one is forgotten", DEADLINE, || {
        (neighbour.ok("system.stats", json!({}))["connections"]["current"] == 1).then_some(())
    });
}

#[track_caller]
fn bad_line(client: &mut Conn, line: &str) {
    client.send_line(line);
    let answer = client.recv();
    assert!(answer.get("error").is_some(), "{answer}");
    assert_eq!(answer["id"], Value::Null, "{answer}");
}
