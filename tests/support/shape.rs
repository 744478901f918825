//! What every answer and every statistic must look like, checked on each that a test receives.

use super::{Value, json};

/// The table of section 2: reason, code, whether a retry may help (none: it depends).
const REASONS: [(&str, i64, Option<bool>); 20] = [
    ("PARSE_ERROR", -32700, Some(false)),
    ("INVALID_REQUEST", -32600, Some(false)),
    ("METHOD_NOT_FOUND", -32601, Some(false)),
    ("INVALID_PARAMS", -32602, Some(false)),
    ("INTERNAL", -32603, Some(false)),
    ("UNAUTHENTICATED", -32001, Some(false)),
    ("FORBIDDEN", -32002, Some(false)),
    ("SESSION_NOT_FOUND", -32010, Some(false)),
    ("SESSION_BUSY", -32011, Some(true)),
    ("EXEC_NOT_FOUND", -32012, Some(false)),
    ("EXEC_FINISHED", -32013, Some(false)),
    ("CAPACITY", -32020, Some(true)),
    ("OVER_LIMIT", -32021, None),
    ("RATE_LIMITED", -32022, Some(true)),
    ("REQUEST_TOO_LARGE", -32023, Some(false)),
    ("STDIN_TOO_LARGE", -32024, Some(false)),
    ("STDIN_FULL", -32025, Some(true)),
    ("BUDGET_EXHAUSTED", -32026, Some(false)),
    ("SPAWN_FAILED", -32030, Some(false)),
    ("SHUTTING_DOWN", -32040, Some(false)),
];

/// An answer, a batch of answers or a notification, whole and with nothing else in it.
#[track_caller]
pub fn check_line(line: &Value) {
    match line {
        Value::Array(answers) => answers.iter().for_each(check_answer),
        Value::Object(map) if map.contains_key("method") => {
            assert_eq!(line["jsonrpc"], "2.0", "{line}");
            assert!(!map.contains_key("id"), "a notification has no id: {line}");
        }
        _ => check_answer(line),
    }
}

#[track_caller]
fn check_answer(answer: &Value) {
    let map = answer.as_object().unwrap_or_else(|| panic!("an answer is an object: {answer}"));
    assert_eq!(answer["jsonrpc"], "2.0", "{answer}");
    assert!(map.contains_key("id"), "an answer has an id: {answer}");
    assert_eq!(map.len(), 3, "jsonrpc, id, and one of result and error: {answer}");
    match map.get("error") {
        Some(error) => check_error(error),
        None => assert!(map.contains_key("result"), "{answer}"),
    }
}

#[track_caller]
fn check_error(error: &Value) {
    let reason = error["data"]["reason"].as_str().unwrap_or_else(|| panic!("an error has a reason: {error}"));
    let row = REASONS.iter().find(|row| row.0 == reason).unwrap_or_else(|| panic!("not in the table: {error}"));
    assert_eq!(error["code"], row.1, "{error}");
    assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "an error has a message: {error}");
    let retryable = error["data"]["retryable"].as_bool().unwrap_or_else(|| panic!("retryable is missing: {error}"));
    assert!(row.2.is_none_or(|expected| expected == retryable), "retryable is wrong: {error}");
}

/// The identities that hold between the counters of `system.stats` at every moment.
#[track_caller]
pub fn check_identities(stats: &Value) {
    let number = |group: &str, name: &str| {
        stats[group][name].as_u64().unwrap_or_else(|| panic!("{group}.{name} is no counter: {stats}"))
    };
    let (commands, sessions) = (&stats["commands"], &stats["sessions"]);
    assert_eq!(
        number("commands", "started"),
        number("commands", "running") + number("commands", "finished"),
        "started = running + finished: {commands}"
    );
    assert_eq!(
        number("sessions", "opened"),
        number("sessions", "current") + number("sessions", "closed"),
        "opened = current + closed: {sessions}"
    );
    let by_status = commands["by_status"].as_object().unwrap_or_else(|| panic!("no by_status: {commands}"));
    let sum: u64 = by_status.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(sum, number("commands", "finished"), "the sum over by_status = finished: {commands}");
}

/// A whole answer with a result, as it must stand on the wire.
pub fn pong(id: impl Into<Value>) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "result": {"pong": true}})
}
