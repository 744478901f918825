//! Batches: one array in, one array out, in the order of the requests.

use crate::support::{Conn, Daemon, Value, json, shape::pong};

fn started(settings: &[(&str, Value)]) -> (Daemon, Conn) {
    let daemon = Daemon::start(settings);
    let mut client = daemon.tcp();
    client.ping();
    (daemon, client)
}

#[track_caller]
fn answer_to(client: &mut Conn, batch: Value) -> Value {
    client.send(&batch);
    client.recv()
}

fn ping(id: u64) -> Value {
    json!({"id": id, "method": "system.ping"})
}

#[test]
fn a_batch_is_answered_as_one_array_in_the_order_of_its_requests() {
    let (_daemon, mut client) = started(&[]);
    let slow = json!({"id": 1, "method": "exec.run", "params": {"cmd": "sleep 0.1; echo slow"}});
    let fast = json!({"id": 2, "method": "exec.run", "params": {"cmd": "echo fast"}});
    let answer = answer_to(&mut client, json!([slow, fast, ping(3)]));
    assert_eq!(answer.as_array().unwrap().len(), 3);
    assert_eq!(answer[0]["id"], 1);
    assert_eq!(answer[0]["result"]["stdout"], "slow\n");
    assert_eq!(answer[1]["id"], 2);
    assert_eq!(answer[1]["result"]["stdout"], "fast\n");
    assert_eq!(answer[2], pong(3));
}

#[test]
fn a_batch_may_be_the_first_line() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    assert_eq!(answer_to(&mut client, json!([ping(1)])), json!([pong(1)]));
    client.ping();
}

#[test]
fn an_empty_batch_is_an_invalid_request() {
    let (_daemon, mut client) = started(&[]);
    let answer = answer_to(&mut client, json!([]));
    assert_eq!(answer["error"]["data"]["reason"], "INVALID_REQUEST");
    assert_eq!(answer["id"], Value::Null);
    client.ping();
}

#[test]
fn inv7_a_batch_of_max_batch_runs_and_of_one_more_none_of_it_runs() {
    let (daemon, mut client) = started(&[("connections.max_batch", json!(3))]);
    let open = |id: u64| json!({"id": id, "method": "session.open"});
    let answer = answer_to(&mut client, json!([open(1), open(2), open(3), open(4)]));
    assert_eq!(answer["error"]["data"]["reason"], "INVALID_REQUEST");
    assert_eq!(answer["id"], Value::Null);
    assert_eq!(daemon.stats()["sessions"]["opened"], 0);
    assert_eq!(answer_to(&mut client, json!([open(1), open(2), open(3)])).as_array().unwrap().len(), 3);
    assert_eq!(daemon.stats()["sessions"]["opened"], 3);
}

#[test]
fn inv7_a_batch_of_50_000_is_refused_with_one_line() {
    let (_daemon, mut client) = started(&[]);
    client.send_line(format!("[{}{{}}]", "{},".repeat(50_000)));
    assert_eq!(client.recv()["error"]["data"]["reason"], "INVALID_REQUEST");
    client.ping();
}

#[test]
fn a_bad_member_is_answered_in_its_place_and_the_others_run() {
    let (_daemon, mut client) = started(&[]);
    let batch = json!([
        ping(1),
        7,
        {"id": 2, "method": "no.such"},
        [ping(3)],
        {"id": 4},
        {"id": 5, "method": "system.ping", "params": {"x": 1}},
        ping(6),
    ]);
    let answer = answer_to(&mut client, batch);
    let reasons: Vec<&Value> = answer.as_array().unwrap().iter().map(|one| &one["error"]["data"]["reason"]).collect();
    let expected = [
        Value::Null,
        json!("INVALID_REQUEST"),
        json!("METHOD_NOT_FOUND"),
        json!("INVALID_REQUEST"),
        json!("INVALID_REQUEST"),
        json!("INVALID_PARAMS"),
        Value::Null,
    ];
    assert_eq!(reasons, expected.iter().collect::<Vec<_>>(), "{answer}");
    assert_eq!(answer[0], pong(1));
    assert_eq!(answer[6], pong(6));
}

#[test]
fn notifications_in_a_batch_leave_no_place_in_the_answer() {
    let (_daemon, mut client) = started(&[]);
    let answer = answer_to(&mut client, json!([{"method": "system.ping"}, ping(1), {"method": "no.such"}]));
    assert_eq!(answer, json!([pong(1)]));
}

#[test]
fn a_batch_of_notifications_alone_is_not_answered() {
    let (_daemon, mut client) = started(&[]);
    client.send(&json!([{"method": "system.ping"}, {"method": "system.ping"}]));
    client.ping();
}

#[test]
fn streams_and_subscriptions_have_no_place_in_a_batch() {
    let (daemon, mut client) = started(&[]);
    let stream = json!({"id": 1, "method": "exec.run", "params": {"cmd": "true", "stream": true}});
    let subscribe = json!({"id": 2, "method": "system.subscribe", "params": {"interval_ms": 100}});
    let answer = answer_to(&mut client, json!([stream, subscribe, ping(3)]));
    assert_eq!(answer[0]["error"]["data"]["reason"], "INVALID_PARAMS");
    assert_eq!(answer[1]["error"]["data"]["reason"], "INVALID_PARAMS");
    assert_eq!(answer[2], pong(3));
    assert_eq!(daemon.stats()["commands"]["started"], 0);
}

#[test]
fn an_id_that_stands_twice_in_a_batch_is_refused_the_second_time() {
    let (daemon, mut client) = started(&[]);
    let gate = daemon.launch.folder.gate();
    let held = json!({"id": 1, "method": "exec.run", "params": {"cmd": gate.wait()}});
    client.send(&json!([held, ping(1)]));
    daemon.wait_running(1);
    gate.open();
    let answer = client.recv();
    assert_eq!(answer[0]["result"]["status"], "exited");
    assert_eq!(answer[1]["error"]["data"]["reason"], "INVALID_REQUEST");
    assert_eq!(answer[1]["id"], Value::Null);
}

#[test]
fn a_batch_larger_than_the_requests_in_flight_is_answered_whole() {
    let (_daemon, mut client) = started(&[("connections.max_inflight_per_connection", json!(2))]);
    let batch: Vec<Value> = (0..20).map(ping).collect();
    assert_eq!(answer_to(&mut client, json!(batch)).as_array().unwrap().len(), 20);
    client.ping();
}

#[test]
fn a_batch_that_holds_up_nobody_else_on_its_connection() {
    let (daemon, mut client) = started(&[]);
    let gate = daemon.launch.folder.gate();
    client.send(&json!([{"id": "held", "method": "exec.run", "params": {"cmd": gate.wait()}}]));
    client.ping();
    gate.open();
    assert_eq!(client.recv()[0]["id"], "held");
}

#[test]
fn inv4_many_batches_at_once_are_each_answered_once() {
    let (_daemon, mut client) = started(&[]);
    let mut lines = String::new();
    for batch in 0..50 {
        let requests: Vec<Value> = (0..10).map(|member| ping(batch * 10 + member)).collect();
        lines += &format!("{}\n", json!(requests));
    }
    client.send_bytes(lines);
    let mut seen: Vec<u64> = (0..50)
        .flat_map(|_| client.recv().as_array().unwrap().clone())
        .map(|answer| answer["id"].as_u64().unwrap())
        .collect();
    seen.sort();
    assert_eq!(seen, (0..500).collect::<Vec<u64>>());
}
