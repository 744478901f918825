//! The form of what the daemon says: answers and notifications. Pure.
//!
//! The body of an answer is its member `"result":…` or `"error":…`, without what stands around it.

use super::encode::Object;

/// Appends an answer up to its body.
pub fn begin(id: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id.as_bytes());
    out.push(b',');
}

/// Appends an answer around its body.
pub fn whole(id: &str, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    begin(id, out);
    body(out);
    out.push(b'}');
}

/// The body of an answer whose result is JSON already.
pub fn result(json: &[u8]) -> Vec<u8> {
    [RESULT, json].concat()
}

/// The body of an answer whose result is an object.
pub fn object(write: impl FnOnce(&mut Object)) -> Vec<u8> {
    let mut body = RESULT.to_vec();
    let mut object = Object::begin(&mut body);
    write(&mut object);
    object.end();
    body
}

/// The line of a notification whose params are the result of an answer with this body.
pub fn notification(method: &str, body: &[u8]) -> Vec<u8> {
    let params = body.strip_prefix(RESULT).unwrap_or(body);
    let mut line = Vec::with_capacity(params.len() + 96);
    let mut whole = Object::begin(&mut line);
    whole.str("jsonrpc", "2.0");
    whole.str("method", method);
    whole.raw("params", params);
    whole.end();
    line.push(b'\n');
    line
}

const RESULT: &[u8] = b"\"result\":";

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_answer_stands_around_its_body() {
        let mut out = Vec::new();
        whole("\"a\"", &mut out, |out| out.extend_from_slice(&result(b"{}")));
        assert_eq!(text(&out), r#"{"jsonrpc":"2.0","id":"a","result":{}}"#);
    }

    #[test]
    fn the_params_of_a_notification_are_the_result_of_an_answer() {
        let body = object(|object| object.int("n", 1));
        assert_eq!(text(&body), r#""result":{"n":1}"#);
        assert_eq!(text(&notification("m", &body)), "{\"jsonrpc\":\"2.0\",\"method\":\"m\",\"params\":{\"n\":1}}\n");
    }
}
