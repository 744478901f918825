//! The rate of a client's requests: what passes, what waits, what is refused, and when to come back.
//!
//! A rate of one a minute leaves the same bucket a minute long, so that no test depends on how fast it is.

use std::time::{Duration, Instant};

use crate::support::{Conn, DEADLINE, Daemon, Signal, Value, json, wait_until};
use crate::view::*;

/// A rate and more of its group.
pub fn daemon(rate: &str, more: &[(&str, Value)]) -> Daemon {
    let mut settings = vec![("rate.rate", json!(rate))];
    settings.extend_from_slice(more);
    Daemon::start(&settings)
}

pub fn burst(requests: i64) -> (&'static str, Value) {
    ("rate.burst", json!(requests))
}

pub fn nodelay() -> (&'static str, Value) {
    ("rate.delay", json!("nodelay"))
}

/// A request that the rate is for, and nothing else.
pub const ASK: (&str, &str) = ("limit.show", "{}");

/// Sends so many of them at once, then a ping: their ids, and the ping's.
#[track_caller]
pub fn ask_many(client: &mut Conn, count: usize) -> (Vec<Value>, Value) {
    let ids = (0..count).map(|number| json!(format!("r{number}"))).collect::<Vec<_>>();
    let mut lines: String =
        ids.iter().map(|id| format!("{{\"id\":{id},\"method\":\"{}\",\"params\":{}}}\n", ASK.0, ASK.1)).collect();
    lines.push_str("{\"id\":\"ping\",\"method\":\"system.ping\"}\n");
    client.send_bytes(lines);
    (ids, json!("ping"))
}

/// The next answers are to these, in this order.
#[track_caller]
fn expect_only(client: &mut Conn, ids: &[&Value]) {
    let came: Vec<Value> = ids.iter().map(|_| client.recv()["id"].clone()).collect();
    assert_eq!(came.iter().collect::<Vec<_>>(), ids);
}

/// One request passes.
#[track_caller]
pub fn passes(client: &mut Conn) {
    client.ok(ASK.0, json!({}));
}

/// One request is refused: when to come back.
#[track_caller]
pub fn limited(client: &mut Conn) -> u64 {
    let error = client.refused(ASK.0, json!({}), "RATE_LIMITED");
    retry_after_ms(&error)
}

#[track_caller]
fn retry_after_ms(error: &Value) -> u64 {
    assert_eq!(error["code"], -32022, "{error}");
    let data = error["data"].as_object().unwrap();
    assert_eq!((&data["reason"], &data["retryable"]), (&json!("RATE_LIMITED"), &json!(true)), "{error}");
    assert_eq!(data.len(), 3, "{error}");
    let ms = data["retry_after_ms"].as_u64().unwrap_or_else(|| panic!("when to come back: {error}"));
    assert!(ms > 0, "{error}");
    ms
}

/// Waits as long as one was told to.
fn wait_ms(ms: u64) {
    let start = Instant::now();
    let end = Duration::from_millis(ms);
    wait_until("it is time to come back", DEADLINE + end, || (start.elapsed() > end).then_some(()));
}

#[test]
fn there_is_no_rate_unless_one_is_set() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    let (ids, ping) = ask_many(&mut client, 100);
    for id in ids.iter().chain([&ping]) {
        assert!(client.answer(id).get("result").is_some());
    }
    assert_eq!(daemon.stats()["requests"]["rate_limited"], 0);
}

#[test]
fn without_a_burst_the_second_request_is_refused() {
    let daemon = daemon("1r/m", &[]);
    let mut client = daemon.tcp_as(1);
    passes(&mut client);
    // One a minute is 16 thousandths of one a second: 62.5 s each.
    let first = limited(&mut client);
    assert!(first <= 62_500, "{first}");
    let second = limited(&mut client);
    assert!(second <= first, "what was refused costs nothing: {second} after {first}");
    let stats = daemon.stats();
    assert_eq!(stats["requests"]["rate_limited"], 2, "{stats}");
    assert_eq!(stats["requests"]["errors"]["RATE_LIMITED"], 2, "{stats}");
}

#[test]
fn whoever_comes_back_when_told_to_passes() {
    let daemon = daemon("2r/s", &[]);
    let mut client = daemon.tcp_as(1);
    passes(&mut client);
    for _ in 0..3 {
        // In between, asking too early costs nothing. On a slow machine there may be no too early.
        let answer = client.request(ASK.0, json!({}));
        if let Some(error) = answer.get("error") {
            wait_ms(retry_after_ms(error));
            passes(&mut client);
        }
    }
}

#[test]
fn a_burst_passes_at_once_without_delay() {
    let daemon = daemon("1r/m", &[burst(3), nodelay()]);
    let mut client = daemon.tcp_as(1);
    // The first is free; then the burst.
    for _ in 0..4 {
        passes(&mut client);
    }
    limited(&mut client);
}

#[test]
fn the_first_few_of_an_excess_pass_at_once_where_delay_says_so() {
    let daemon = daemon("1r/m", &[burst(3), ("rate.delay", json!(2))]);
    let mut client = daemon.tcp_as(1);
    let (ids, ping) = ask_many(&mut client, 5);
    // The first, then two of the excess; the fourth waits for a minute, the fifth is over the burst.
    expect_only(&mut client, &[&ids[0], &ids[1], &ids[2], &ids[4], &ping]);
    client.ping();
}

#[test]
fn a_request_that_waits_holds_up_nobody_and_leaves_with_its_client() {
    let mut daemon = daemon("1r/m", &[burst(50)]);
    let mut client = daemon.tcp_as(1);
    let (ids, ping) = ask_many(&mut client, 50);
    expect_only(&mut client, &[&ids[0], &ping]);
    let mut other = daemon.tcp_as(2);
    assert_eq!(other.run("echo at once")["stdout"], "at once\n");
    let threads = daemon.stats()["process"]["threads"].as_u64().unwrap();
    assert!(threads < 40, "a thread for each that waits: {threads}");
    drop(client);
    wait_connections(&daemon, 1);
    drop(other);
    daemon.finish();
}

#[test]
fn requests_that_wait_do_not_hold_up_the_end_of_the_daemon() {
    let mut daemon = daemon("1r/m", &[burst(5)]);
    let mut client = daemon.tcp_as(1);
    let (ids, ping) = ask_many(&mut client, 5);
    expect_only(&mut client, &[&ids[0], &ping]);
    daemon.terminate();
}

#[test]
fn at_shutdown_requests_that_wait_for_their_time_are_told() {
    let mut daemon = daemon("1r/m", &[burst(10)]);
    let mut client = daemon.tcp_as(1);
    client.ok("limit.show", json!({}));
    let run = client.ask("exec.run", json!({"cmd": "true"}));
    let open = client.ask("session.open", json!({}));
    let show = client.ask("limit.show", json!({}));
    client.ping();
    daemon.signal(Signal::SIGTERM);
    for id in [&run, &open] {
        expect_refusal(&mut client, id, "SHUTTING_DOWN");
    }
    assert_eq!(client.answer(&show)["result"]["client"], ip(1));
    daemon.expect_clean_exit();
}

#[test]
fn a_session_whose_opening_waits_is_opened_for_nobody_once_its_client_is_gone() {
    let daemon = daemon("30r/m", &[burst(1)]);
    let mut client = daemon.tcp_as(1);
    passes(&mut client);
    client.ask("session.open", json!({"persist": true}));
    client.ping();
    drop(client);
    wait_connections(&daemon, 0);
    // Its turn would have come after two seconds; this one's comes later.
    let mut again = daemon.tcp_as(1);
    wait_until("a later request passes", DEADLINE, || again.request(ASK.0, json!({})).get("result").map(|_| ()));
    assert_eq!(daemon.stats()["sessions"]["opened"], 0);
}

#[test]
fn members_of_a_batch_wait_for_their_time_and_are_answered_together() {
    let daemon = daemon("600r/m", &[burst(3)]);
    let mut client = daemon.tcp_as(1);
    let batch: Vec<Value> = (0..4).map(|id| json!({"id": id, "method": ASK.0})).collect();
    client.send(&json!(batch));
    client.send_line("{\"id\":\"ping\",\"method\":\"system.ping\"}");
    assert_eq!(client.recv()["id"], "ping");
    let answers = client.recv();
    let ids: Vec<Value> = answers.as_array().unwrap().iter().map(|answer| answer["id"].clone()).collect();
    assert_eq!(json!(ids), json!([0, 1, 2, 3]));
    assert!(answers.as_array().unwrap().iter().all(|answer| answer["result"].is_object()), "{answers}");
}

#[test]
fn whoever_has_only_shut_the_writing_side_is_still_answered_in_time() {
    let daemon = daemon("600r/m", &[burst(3)]);
    let mut client = daemon.tcp_as(1);
    let (ids, ping) = ask_many(&mut client, 4);
    client.half_close();
    for id in ids.iter().chain([&ping]) {
        assert!(client.answer(id).get("result").is_some());
    }
    client.expect_end();
}

#[test]
fn an_excess_request_waits_and_the_control_lane_passes_it() {
    // 30 a minute: the second waits two seconds, the third four.
    let daemon = daemon("30r/m", &[burst(2)]);
    let mut client = daemon.tcp_as(1);
    let (ids, ping) = ask_many(&mut client, 4);
    let order: Vec<Value> = (0..5).map(|_| client.recv()).collect();
    let came = |line: &Value| line["id"].clone();
    // The fourth is over the burst; the ping came after all of them.
    assert_eq!(
        order.iter().map(came).collect::<Vec<_>>(),
        [&ids[0], &ids[3], &ping, &ids[1], &ids[2]].map(Value::clone)
    );
    retry_after_ms(&order[1]["error"]);
    for line in [&order[0], &order[3], &order[4]] {
        assert_eq!(line["result"]["client"], ip(1), "{line}");
    }
}
