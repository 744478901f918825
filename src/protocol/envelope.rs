//! From a line to requests whose params are not looked at yet. Pure.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::encode;
use super::fault::{Fault, Reason};
use super::json::{self, MembersError};

/// What one line holds.
pub enum Incoming<'a> {
    One(Result<Envelope<'a>, Malformed<'a>>),
    Batch(Vec<Result<Envelope<'a>, Malformed<'a>>>),
}

/// A well-formed request; its method may be unknown and its params wrong.
#[derive(Debug)]
pub struct Envelope<'a> {
    /// As it was sent; none: a notification.
    pub id: Option<&'a str>,
    pub method: Cow<'a, str>,
    pub params: Option<&'a RawValue>,
}

/// Not a request; the id is told where it could be read.
#[derive(Debug)]
pub struct Malformed<'a> {
    pub id: Option<&'a str>,
    pub fault: Fault,
}

/// Bytes of a string that serves as an id.
pub const ID_BYTES_MAX: usize = 128;
const ID_INTEGER_MAX: u64 = 1 << 53;
/// Members of a request, known or not: JSON-RPC has four.
const MEMBERS_MAX: usize = 16;

/// Reads a line. An error is about the line as a whole and has no id.
pub fn parse_line(line: &[u8], batch_max: usize) -> Result<Incoming<'_>, Fault> {
    let wrong = |what: &str| Fault::new(Reason::ParseError, what);
    let text = std::str::from_utf8(line).map_err(|_| wrong("the line is not UTF-8"))?;
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    if !json::is_shallow(text.as_bytes()) {
        return Err(wrong(&format!("the JSON is nested deeper than {} levels", json::DEPTH_MAX)));
    }
    let syntax = |error: &serde_json::Error| wrong(&format!("the line is not JSON: {error}"));
    if text.starts_with('[') {
        let found = json::elements(text, batch_max).map_err(|error| syntax(&error))?;
        let request = |what: String| Fault::new(Reason::InvalidRequest, what);
        return match found {
            None => Err(request(format!("a batch holds at most {batch_max} requests"))),
            Some(found) if found.is_empty() => Err(request("a batch holds at least one request".into())),
            Some(found) => Ok(Incoming::Batch(found.into_iter().map(|raw| envelope(raw.get())).collect())),
        };
    }
    if !text.starts_with('{') {
        // Valid JSON of another kind is not a request; anything else is not JSON.
        return match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => Err(Fault::new(Reason::InvalidRequest, "a request is a JSON object")),
            Err(error) => Err(syntax(&error)),
        };
    }
    match envelope(text) {
        Err(Malformed { fault, .. }) if fault.reason == Reason::ParseError => Err(fault),
        one => Ok(Incoming::One(one)),
    }
}

fn envelope(text: &str) -> Result<Envelope<'_>, Malformed<'_>> {
    #[derive(Default)]
    struct Seen<'a> {
        version: Option<&'a RawValue>,
        id: Option<&'a RawValue>,
        method: Option<&'a RawValue>,
        params: Option<&'a RawValue>,
        others: Vec<String>,
    }
    let request = |what: String| Fault::new(Reason::InvalidRequest, what);
    let mut seen = Seen::default();
    let read = json::members(text, |name, value| {
        let place = match &*name {
            "jsonrpc" => &mut seen.version,
            "id" => &mut seen.id,
            "method" => &mut seen.method,
            "params" => &mut seen.params,
            _ => {
                // Members that JSON-RPC does not know are let pass, as its implementations do; twice is twice.
                if seen.others.iter().any(|other| *other == name) || seen.others.len() == MEMBERS_MAX {
                    return Err("a member of the request stands twice, or there are too many".to_owned());
                }
                seen.others.push(name.into_owned());
                return Ok(());
            }
        };
        match place.replace(value) {
            None => Ok(()),
            Some(_) => Err(format!("{name} stands twice")),
        }
    });
    let id = match seen.id.map(|raw| valid_id(raw).ok_or(raw)).transpose() {
        Ok(id) => id,
        Err(_) => {
            let what = format!("id must be null, an integer within ±2^53, or a string of at most {ID_BYTES_MAX} bytes");
            return Err(Malformed { id: None, fault: request(what) });
        }
    };
    match read {
        Ok(()) => {}
        Err(MembersError::NotAnObject) => {
            return Err(Malformed { id: None, fault: request("a request is a JSON object".into()) });
        }
        Err(MembersError::Syntax(error)) => {
            let fault = Fault::new(Reason::ParseError, format!("the line is not JSON: {error}"));
            return Err(Malformed { id: None, fault });
        }
        Err(MembersError::Refused(what)) => return Err(Malformed { id: None, fault: request(what) }),
    }
    let malformed = |what: &str| Malformed { id, fault: request(what.into()) };
    if seen.version.is_some_and(|version| version.get() != "\"2.0\"") {
        return Err(malformed("jsonrpc must be \"2.0\", or left out"));
    }
    let method = seen.method.ok_or_else(|| malformed("method is missing"))?;
    let method = json::text(method).ok_or_else(|| malformed("method must be a string"))?;
    Ok(Envelope { id, method, params: seen.params })
}

fn valid_id(raw: &RawValue) -> Option<&str> {
    let text = raw.get();
    let valid = match text.as_bytes().first()? {
        b'n' => true,
        b'"' => json::text(raw)?.len() <= ID_BYTES_MAX,
        _ => text.parse::<i64>().ok()?.unsigned_abs() <= ID_INTEGER_MAX,
    };
    valid.then_some(text)
}

/// An id in a form in which equal ones are equal; null is nobody's.
pub fn plain_id(id: &str) -> Option<Arc<str>> {
    match id.as_bytes().first()? {
        b'n' => None,
        b'"' if id.contains('\\') => {
            let raw: &RawValue = serde_json::from_str(id).ok()?;
            let mut plain = Vec::new();
            encode::string(&mut plain, &json::text(raw)?);
            String::from_utf8(plain).ok().map(Arc::from)
        }
        b'"' => Some(Arc::from(id)),
        _ => Some(Arc::from(id.parse::<i64>().ok()?.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Result<Envelope<'_>, Malformed<'_>> {
        match parse_line(line.as_bytes(), 4) {
            Ok(Incoming::One(one)) => one,
            Ok(Incoming::Batch(_)) => panic!("a batch"),
            Err(fault) => Err(Malformed { id: None, fault }),
        }
    }

    #[test]
    fn a_request_is_read() {
        let request = one(r#" {"id":"a\u0062","method":"system.ping","params":{"x":[1]},"extra":1} "#).unwrap();
        assert_eq!((request.id, &*request.method), (Some(r#""a\u0062""#), "system.ping"));
        assert_eq!(request.params.unwrap().get(), r#"{"x":[1]}"#);
        assert_eq!(one(r#"{"method":"m"}"#).unwrap().id, None);
        assert_eq!(one(r#"{"method":"m","id":null}"#).unwrap().id, Some("null"));
        assert_eq!(one(r#"{"method":"m","id":-9007199254740992}"#).unwrap().id, Some("-9007199254740992"));
    }

    #[test]
    fn what_is_no_request_is_told_apart() {
        let reason = |line: &str| one(line).unwrap_err().fault.reason;
        for line in ["nonsense", "{", r#"{"a":1"#, r#"{"method":"m"} x"#, "GET / HTTP/1.1", "\u{16}\u{3}", r#"{"a":}"#]
        {
            assert_eq!(reason(line), Reason::ParseError, "{line}");
        }
        for line in [
            "1",
            "\"x\"",
            "null",
            "{}",
            r#"{"method":1}"#,
            r#"{"method":"m","id":1.5}"#,
            r#"{"method":"m","id":{}}"#,
            r#"{"method":"m","id":9007199254740993}"#,
            r#"{"method":"m","method":"m"}"#,
            r#"{"method":"m","id":1,"id":1}"#,
            r#"{"method":"m","jsonrpc":"1.0"}"#,
            r#"{"method":"m","x":1,"x":2}"#,
            r#"{"method":"m","jsonrpc":2}"#,
        ] {
            assert_eq!(reason(line), Reason::InvalidRequest, "{line}");
        }
        assert_eq!(one(r#"{"id":7,"jsonrpc":"1.0","method":"m"}"#).unwrap_err().id, Some("7"));
        assert_eq!(parse_line(b"{\"a\":\"\xff\"}", 4).err().unwrap().reason, Reason::ParseError);
        let long = |n| format!(r#"{{"method":"m","id":"{}"}}"#, "x".repeat(n));
        assert!(one(&long(128)).is_ok());
        assert_eq!(reason(&long(129)), Reason::InvalidRequest);
    }

    #[test]
    fn a_batch_has_one_to_max_members() {
        let batch = |line: &str| match parse_line(line.as_bytes(), 2) {
            Ok(Incoming::Batch(all)) => Ok(all.iter().map(Result::is_ok).collect::<Vec<_>>()),
            Ok(Incoming::One(_)) => panic!("one"),
            Err(fault) => Err(fault.reason),
        };
        assert_eq!(batch(r#"[{"method":"m"},[1]]"#), Ok(vec![true, false]));
        assert_eq!(batch("[]"), Err(Reason::InvalidRequest));
        assert_eq!(batch("[1,2,3]"), Err(Reason::InvalidRequest));
        assert_eq!(batch("[1,2"), Err(Reason::ParseError));
    }

    #[test]
    fn an_id_is_the_same_however_it_is_written() {
        for (one, other) in
            [(r#""a\u0062""#, r#""ab""#), (r#""\/""#, r#""/""#), (r#""\n""#, r#""\u000a""#), ("-0", "0")]
        {
            assert_eq!(plain_id(one), plain_id(other), "{one} {other}");
        }
        assert_ne!(plain_id("1"), plain_id("\"1\""));
        assert_eq!(plain_id("null"), None);
    }
}
