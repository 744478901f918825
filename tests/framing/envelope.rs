//! The envelope of a request: jsonrpc, id, method, params; notifications.

use crate::support::{Conn, Daemon, Value, json, shape::pong};

/// Sends one line to a connection that has proved itself, and gives the answer.
#[track_caller]
fn answer_to(client: &mut Conn, line: &str) -> Value {
    client.send_line(line);
    client.recv()
}

#[track_caller]
fn refused(client: &mut Conn, line: &str, reason: &str) -> Value {
    let answer = answer_to(client, line);
    assert_eq!(answer["error"]["data"]["reason"], reason, "{line}: {answer}");
    answer
}

fn started(settings: &[(&str, Value)]) -> (Daemon, Conn) {
    let daemon = Daemon::start(settings);
    let mut client = daemon.tcp();
    client.ping();
    (daemon, client)
}

#[test]
fn jsonrpc_may_be_left_out_and_must_be_2_0_where_it_stands() {
    let (_daemon, mut client) = started(&[("connections.max_bad_lines", json!(100))]);
    assert_eq!(answer_to(&mut client, r#"{"id":1,"method":"system.ping"}"#), pong(1));
    assert_eq!(answer_to(&mut client, r#"{"jsonrpc":"2.0","id":2,"method":"system.ping"}"#), pong(2));
    for version in [r#""1.0""#, r#""2""#, "2.0", "2", "true", "[]", "{}", r#""""#] {
        let line = format!(r#"{{"jsonrpc":{version},"id":1,"method":"system.ping"}}"#);
        refused(&mut client, &line, "INVALID_REQUEST");
    }
}

#[test]
fn an_id_comes_back_exactly_as_it_was_sent() {
    let (_daemon, mut client) = started(&[]);
    let ids = [
        "1",
        "0",
        "-7",
        "null",
        r#""""#,
        r#""a b""#,
        r#""\u0041\n\t\\\"\/""#,
        r#""\ud83d\ude00 é 😀""#,
        "9007199254740992",
        "-9007199254740992",
    ];
    for id in ids {
        client.send_line(format!(r#"{{"id":{id},"method":"system.ping"}}"#));
        let answer = String::from_utf8(client.recv_bytes().unwrap()).unwrap();
        assert!(answer.contains(&format!(r#""id":{id},"#)) || answer.contains(&format!(r#""id":{id}}}"#)), "{answer}");
        assert!(answer.contains("pong"), "{answer}");
    }
}

#[test]
fn inv7_an_id_of_128_bytes_is_taken_and_one_of_129_is_not() {
    let (_daemon, mut client) = started(&[]);
    let id = "i".repeat(128);
    assert_eq!(answer_to(&mut client, &format!(r#"{{"id":"{id}","method":"system.ping"}}"#)), pong(id.as_str()));
    let answer = refused(&mut client, &format!(r#"{{"id":"{id}i","method":"system.ping"}}"#), "INVALID_REQUEST");
    assert_eq!(answer["id"], Value::Null);
}

#[test]
fn an_id_is_an_integer_within_two_to_the_53rd_a_string_or_null() {
    let (_daemon, mut client) = started(&[("connections.max_bad_lines", json!(100))]);
    let bad = [
        "9007199254740993",
        "-9007199254740993",
        "18446744073709551616",
        "1.5",
        "1e308",
        "-0.1",
        "true",
        "false",
        "[]",
        "[1]",
        "{}",
        r#"{"id":1}"#,
    ];
    for id in bad {
        let answer = refused(&mut client, &format!(r#"{{"id":{id},"method":"system.ping"}}"#), "INVALID_REQUEST");
        assert_eq!(answer["id"], Value::Null, "{id}");
    }
}

#[test]
fn an_id_in_flight_is_refused_with_id_null_and_may_be_used_again_afterwards() {
    let (daemon, mut client) = started(&[]);
    let gate = daemon.launch.folder.gate();
    client.send(&json!({"id": "twice", "method": "exec.run", "params": {"cmd": gate.wait()}}));
    let answer = refused(&mut client, r#"{"id":"twice","method":"system.ping"}"#, "INVALID_REQUEST");
    assert_eq!(answer["id"], Value::Null);
    gate.open();
    assert_eq!(client.recv()["result"]["status"], "exited");
    assert_eq!(answer_to(&mut client, r#"{"id":"twice","method":"system.ping"}"#), pong("twice"));
}

#[test]
fn ids_in_flight_are_told_apart_by_type_and_by_connection() {
    let (daemon, mut client) = started(&[]);
    let gate = daemon.launch.folder.gate();
    client.send(&json!({"id": 7, "method": "exec.run", "params": {"cmd": gate.wait()}}));
    assert_eq!(answer_to(&mut client, r#"{"id":"7","method":"system.ping"}"#), pong("7"));
    let mut other = daemon.tcp();
    assert_eq!(answer_to(&mut other, r#"{"id":7,"method":"system.ping"}"#), pong(7));
    gate.open();
    assert_eq!(client.recv()["id"], 7);
}

#[test]
fn a_field_of_the_envelope_that_stands_twice_is_an_invalid_request() {
    let (daemon, mut client) = started(&[]);
    let lines = [
        r#"{"id":1,"id":2,"method":"system.ping"}"#,
        r#"{"id":1,"method":"system.ping","method":"exec.run"}"#,
        r#"{"id":1,"method":"exec.run","params":{},"params":{"cmd":"true"}}"#,
        r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"system.ping"}"#,
        r#"{"id":1,"\u0069d":2,"method":"system.ping"}"#,
    ];
    for line in lines {
        refused(&mut client, line, "INVALID_REQUEST");
    }
    assert_eq!(daemon.stats()["commands"]["started"], 0);
}

#[test]
fn a_method_must_be_there_and_be_a_string() {
    let (_daemon, mut client) = started(&[]);
    for line in [r#"{"id":1}"#, r#"{"id":1,"method":7}"#, r#"{"id":1,"method":null}"#, r#"{"id":1,"method":["a"]}"#] {
        refused(&mut client, line, "INVALID_REQUEST");
    }
}

#[test]
fn an_unknown_method_is_not_found_and_costs_nothing() {
    let (_daemon, mut client) = started(&[("connections.max_bad_lines", json!(1))]);
    for method in ["", "no.such", "system", "system.ping ", "SYSTEM.PING", "system.ping\\u0000", "é"] {
        let line = format!(r#"{{"id":1,"method":"{method}"}}"#);
        let answer = refused(&mut client, &line, "METHOD_NOT_FOUND");
        assert_eq!(answer["id"], 1);
    }
    client.ping();
}

#[test]
fn params_are_an_object_or_absent() {
    let (_daemon, mut client) = started(&[]);
    for params in ["[]", "[1]", "1", "\"x\"", "true"] {
        let line = format!(r#"{{"id":1,"method":"system.ping","params":{params}}}"#);
        assert_eq!(refused(&mut client, &line, "INVALID_PARAMS")["id"], 1);
    }
    assert_eq!(answer_to(&mut client, r#"{"id":1,"method":"system.ping","params":{}}"#), pong(1));
}

#[test]
fn params_of_500_brackets_are_a_parse_error() {
    let (_daemon, mut client) = started(&[]);
    let params = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let line = format!(r#"{{"id":1,"method":"exec.run","params":{params}}}"#);
    refused(&mut client, &line, "PARSE_ERROR");
    client.ping();
}

#[test]
fn a_notification_is_carried_out_and_never_answered() {
    let (daemon, mut client) = started(&[]);
    client.send_line(r#"{"method":"session.open","params":{"name":"quiet"}}"#);
    client.send_line(r#"{"jsonrpc":"2.0","method":"exec.run","params":{"cmd":"echo never seen"}}"#);
    daemon.stats_show("both were carried out", |stats| {
        (stats["commands"]["finished"] == 1 && stats["sessions"]["current"] == 1).then_some(())
    });
    client.ping();
    let list = client.ok("session.list", json!({}));
    assert_eq!(list["sessions"][0]["name"], "quiet");
}

#[test]
fn a_notification_that_is_refused_is_not_answered_either() {
    let (_daemon, mut client) = started(&[]);
    client.send_line(r#"{"method":"no.such"}"#);
    client.send_line(r#"{"method":"session.open","params":{"no_such":1}}"#);
    client.send_line(r#"{"method":"session.close","params":{"session":"none"}}"#);
    assert_eq!(answer_to(&mut client, r#"{"id":1,"method":"system.ping"}"#), pong(1));
}

#[test]
fn a_request_with_id_null_is_no_notification() {
    let (_daemon, mut client) = started(&[]);
    assert_eq!(answer_to(&mut client, r#"{"id":null,"method":"system.ping"}"#), pong(Value::Null));
}
