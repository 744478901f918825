//! What these tests do again and again.

use crate::exec_support::{check_record, decode};
use crate::support::*;

/// Starts a line of shell in this session: its id.
#[track_caller]
pub fn start(conn: &mut Conn, session: &str, cmd: &str) -> String {
    start_with(conn, json!({"session": session, "cmd": cmd}))
}

#[track_caller]
pub fn start_with(conn: &mut Conn, params: Value) -> String {
    let session = params["session"].clone();
    let started = conn.ok("exec.start", params);
    assert_eq!(started["session"], session, "{started}");
    assert!(started["pid"].as_i64().is_some_and(|pid| pid > 1), "{started}");
    started["exec"].as_str().unwrap_or_else(|| panic!("no exec id: {started}")).to_owned()
}

/// Waits for the record of a command.
#[track_caller]
pub fn wait(conn: &mut Conn, exec: &str) -> Value {
    let record = conn.ok("exec.wait", json!({"exec": exec}));
    assert_eq!(record["exec"], exec, "{record}");
    check_record(&record, record["stdout"].is_null());
    record
}

/// A part of an output, as it was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    pub bytes: Vec<u8>,
    pub offset: u64,
    pub dropped: u64,
    pub eof: bool,
}

impl Part {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes).unwrap()
    }
}

/// `exec.read` of stdout; the numbers of the answer add up.
#[track_caller]
pub fn read(conn: &mut Conn, exec: &str, offset: u64, more: Value) -> Part {
    let mut params = json!({"exec": exec, "stream": "stdout", "offset": offset});
    params.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    part(conn.ok("exec.read", params), offset)
}

#[track_caller]
pub fn part(answer: Value, asked: u64) -> Part {
    let bytes = decode(answer["data"].as_str().unwrap(), answer["encoding"].as_str().unwrap());
    let number = |name: &str| answer[name].as_u64().unwrap_or_else(|| panic!("no {name}: {answer}"));
    let (offset, dropped) = (number("offset"), number("dropped"));
    assert_eq!(offset, asked + dropped, "{answer}");
    assert_eq!(number("next_offset"), offset + bytes.len() as u64, "{answer}");
    Part { bytes, offset, dropped, eof: answer["eof"].as_bool().unwrap() }
}

/// Reads on, waiting, until `until` holds for all that was read from the beginning.
#[track_caller]
pub fn read_until(conn: &mut Conn, exec: &str, until: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut all = Vec::new();
    while !until(&all) {
        let part = read(conn, exec, all.len() as u64, json!({"wait_s": 10}));
        assert_eq!(part.dropped, 0);
        assert!(!(part.eof && part.bytes.is_empty()), "the end comes after {:?}", String::from_utf8_lossy(&all));
        all.extend(part.bytes);
    }
    all
}

/// Reads to the end, in parts of this size.
#[track_caller]
pub fn read_all(conn: &mut Conn, exec: &str, max_bytes: u64) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let part = read(conn, exec, all.len() as u64, json!({"wait_s": 10, "max_bytes": max_bytes}));
        assert_eq!(part.dropped, 0);
        assert!(part.bytes.len() as u64 <= max_bytes);
        all.extend(part.bytes);
        if part.eof {
            return all;
        }
    }
}

#[track_caller]
pub fn write(conn: &mut Conn, exec: &str, data: &str) {
    let accepted = conn.ok("exec.write", json!({"exec": exec, "data": data}));
    assert_eq!(accepted, json!({"accepted_bytes": data.len()}));
}

#[track_caller]
pub fn eof(conn: &mut Conn, exec: &str) {
    assert_eq!(conn.ok("exec.write", json!({"exec": exec, "eof": true})), json!({"accepted_bytes": 0}));
}
