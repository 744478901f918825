//! Lines: their ends, their length, their bytes, and how deep the JSON in them may go.

use crate::support::{DEADLINE, Daemon, Value, json, procs, shape::pong, wait_until};

const LINE_BYTES_MAX: usize = 4096;

#[test]
fn a_line_may_end_with_a_carriage_return() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.send_bytes("{\"id\":1,\"method\":\"system.ping\"}\r\n");
    assert_eq!(client.recv(), pong(1));
}

#[test]
fn blank_lines_are_ignored() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.send_bytes(
        "\n\r\n  \n\t\n{\"id\":1,\"method\":\"system.ping\"}\n\n\r\n \r\n{\"id\":2,\"method\":\"system.ping\"}\n",
    );
    assert_eq!(client.recv(), pong(1));
    assert_eq!(client.recv(), pong(2));
}

#[test]
fn space_around_a_request_is_ignored() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.send_bytes(" \t {  \"id\" : 1 , \"method\" : \"system.ping\" }  \n");
    assert_eq!(client.recv(), pong(1));
}

#[test]
fn a_line_that_arrives_byte_by_byte_is_one_line() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for byte in b"{\"id\":\"\xc3\xa9\",\"method\":\"system.ping\"}\r\n" {
        client.send_bytes([*byte]);
    }
    assert_eq!(client.recv(), pong("é"));
}

#[test]
fn an_answer_is_one_line_whatever_the_output_holds() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let record = client.run(r#"printf 'one line\nand another\r\n\001\\"'"#);
    assert_eq!(record["stdout"], "one line\nand another\r\n\u{1}\\\"");
}

/// A ping of exactly so many bytes, its end not counted.
fn padded_ping(length: usize) -> String {
    let ping = r#"{"id":1,"method":"system.ping"}"#;
    format!("{ping}{}", " ".repeat(length - ping.len()))
}

#[test]
fn inv7_a_line_of_exactly_the_limit_is_read() {
    let daemon = Daemon::start(&[("connections.max_line_bytes", json!(LINE_BYTES_MAX))]);
    let mut client = daemon.tcp();
    client.send_line(padded_ping(LINE_BYTES_MAX));
    assert_eq!(client.recv(), pong(1));
    client.send_bytes(padded_ping(LINE_BYTES_MAX) + "\r\n");
    assert_eq!(client.recv(), pong(1));
}

#[test]
fn inv7_a_line_of_one_byte_more_is_too_large_and_the_connection_goes_on() {
    let daemon = Daemon::start(&[("connections.max_line_bytes", json!(LINE_BYTES_MAX))]);
    let mut client = daemon.tcp();
    client.ping();
    client.send_line(padded_ping(LINE_BYTES_MAX + 1));
    let answer = client.recv();
    assert_eq!(answer["error"]["data"]["reason"], "REQUEST_TOO_LARGE");
    assert_eq!(answer["error"]["data"]["limit"], LINE_BYTES_MAX);
    assert_eq!(answer["id"], Value::Null);
    client.ping();
}

#[test]
fn a_line_that_is_too_long_is_answered_before_its_end() {
    let daemon = Daemon::start(&[("connections.max_line_bytes", json!(LINE_BYTES_MAX))]);
    let mut client = daemon.tcp();
    client.ping();
    client.send_bytes(vec![b'{'; LINE_BYTES_MAX + 1]);
    assert_eq!(client.recv()["error"]["data"]["reason"], "REQUEST_TOO_LARGE");
    client.send_bytes("still the same line\n");
    client.ping();
}

#[test]
fn inv7_a_line_of_100_megabytes_is_answered_once_and_never_held() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.ping();
    let before = procs::peak_rss_bytes(daemon.runtime_pid);
    let piece = vec![b'['; 1 << 20];
    for _ in 0..100 {
        client.send_bytes(&piece);
    }
    client.send_bytes("\n");
    assert_eq!(client.recv()["error"]["data"]["reason"], "REQUEST_TOO_LARGE");
    client.ping();
    let grown = procs::peak_rss_bytes(daemon.runtime_pid) - before;
    // One line of 2 MiB may be held, and once more while its buffer grows; 100 MB may not.
    assert!(grown < 8 << 20, "grew by {grown} bytes");
}

#[test]
fn a_wide_line_costs_memory_in_proportion() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.ping();
    let before = procs::peak_rss_bytes(daemon.runtime_pid);
    // As a tree of values this is 95 times its size.
    let wide = format!("[{}{{\"\":0}}]", "{\"\":0},".repeat(250_000));
    client.send_line(format!(r#"{{"id":1,"method":"session.open","params":{{"name":{wide}}}}}"#));
    assert_eq!(client.recv()["error"]["data"]["reason"], "INVALID_PARAMS");
    let grown = procs::peak_rss_bytes(daemon.runtime_pid) - before;
    assert!(grown < 16 << 20, "a line of {} bytes cost {grown}", wide.len());
}

/// A ping whose params nest so deep that the whole request has `depth` levels.
fn nested_ping(depth: usize, open: &str, close: &str) -> String {
    let (open, close) = (open.repeat(depth - 2), close.repeat(depth - 2));
    format!(r#"{{"id":1,"method":"system.ping","params":{{"x":{open}0{close}}}}}"#)
}

#[test]
fn inv7_json_may_nest_64_levels_and_not_one_more() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        client.send_line(nested_ping(64, open, close));
        assert_eq!(client.recv()["error"]["data"]["reason"], "INVALID_PARAMS", "64 levels are read");
        client.send_line(nested_ping(65, open, close));
        assert_eq!(client.recv()["error"]["data"]["reason"], "PARSE_ERROR", "65 levels are not");
    }
    client.ping();
}

#[test]
fn inv7_a_batch_is_a_level_of_its_own() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.ping();
    client.send_line(format!("[{}]", nested_ping(63, "[", "]")));
    assert_eq!(client.recv()[0]["error"]["data"]["reason"], "INVALID_PARAMS");
    client.send_line(format!("[{}]", nested_ping(64, "[", "]")));
    assert_eq!(client.recv()["error"]["data"]["reason"], "PARSE_ERROR");
}

#[test]
fn inv7_nesting_of_100_000_levels_is_a_parse_error_and_nothing_else() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.ping();
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
        client.send_line(nested_ping(100_000, open, close));
        assert_eq!(client.recv()["error"]["data"]["reason"], "PARSE_ERROR");
        client.send_line(open.repeat(100_000));
        assert_eq!(client.recv()["error"]["data"]["reason"], "PARSE_ERROR");
    }
    client.ping();
    assert!(procs::is_alive(daemon.runtime_pid));
}

#[test]
fn brackets_in_a_string_do_not_nest() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.send_line(format!(r#"{{"id":"{}\"{}","method":"system.ping"}}"#, "[".repeat(40), "{".repeat(40)));
    assert_eq!(client.recv()["result"]["pong"], true);
}

#[test]
fn invalid_utf_8_is_a_parse_error() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.ping();
    // A lone byte, a cut sequence, an overlong one, a surrogate, past the last code point.
    let bad: [&[u8]; 5] = [b"\xff", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"];
    for bytes in bad {
        let line = [b"{\"id\":1,\"method\":\"system.ping", bytes, b"\"}\n"].concat();
        client.send_bytes(line);
        assert_eq!(client.recv()["error"]["data"]["reason"], "PARSE_ERROR", "{bytes:?}");
    }
    client.ping();
}

#[test]
fn invalid_utf_8_in_params_is_a_parse_error_and_nothing_runs() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.ping();
    client.send_bytes(b"{\"id\":1,\"method\":\"exec.run\",\"params\":{\"cmd\":\"true \xff\"}}\n");
    assert_eq!(client.recv()["error"]["data"]["reason"], "PARSE_ERROR");
    assert_eq!(daemon.stats()["commands"]["started"], 0);
}

#[test]
fn an_incomplete_line_that_is_too_old_closes_the_connection() {
    let daemon = Daemon::start(&[("connections.line_timeout_s", json!(0.4))]);
    let mut idle = daemon.tcp();
    idle.ping();
    let mut client = daemon.tcp();
    client.ping();
    client.send_bytes("{\"id\":1,");
    wait_until("the connection is closed", DEADLINE, || client.is_closed().then_some(()));
    // A connection without a line begun may be silent as long as it likes.
    idle.ping();
}

#[test]
fn the_age_of_a_line_counts_from_its_first_byte() {
    let daemon = Daemon::start(&[("connections.line_timeout_s", json!(0.4))]);
    let mut client = daemon.tcp();
    client.ping();
    client.send_bytes("{");
    wait_until("a trickle of bytes does not keep the line young", DEADLINE, || {
        let _ = client.try_send_bytes(" ");
        client.is_closed().then_some(())
    });
}

#[test]
fn what_is_discarded_of_a_line_that_is_too_long_may_not_take_for_ever_either() {
    let settings = [("connections.line_timeout_s", json!(0.4)), ("connections.max_line_bytes", json!(LINE_BYTES_MAX))];
    let daemon = Daemon::start(&settings);
    let mut client = daemon.tcp();
    client.ping();
    client.send_bytes(vec![b'x'; LINE_BYTES_MAX + 1]);
    wait_until("the connection is closed", DEADLINE, || {
        let _ = client.try_send_bytes("x");
        client.is_closed().then_some(())
    });
}
