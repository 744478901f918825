//! An output that is sent as it comes: in order, without a gap, no character split, and no faster than it is taken.

use crate::ids::{ExecId, RequestId};
use crate::mailbox::Mailbox;
use crate::message::ToGateway;
use crate::protocol::encode::{Body, Encoding, Object};

/// Notifications under way to one reader, of both outputs together at most twice as many.
const PIECES_MAX: u32 = 4;

/// One output of a streamed command.
#[derive(Debug)]
pub struct Stream {
    request: RequestId,
    /// The request's id, as it was sent.
    id: Box<str>,
    exec: ExecId,
    name: &'static str,
    base64: bool,
    gateway: Mailbox<ToGateway>,
    /// Where the next piece stands in the output.
    offset: u64,
    /// The beginning of a character whose rest has not come: at most three bytes.
    partial: Vec<u8>,
    under_way: u32,
}

impl Stream {
    pub fn new(
        request: RequestId,
        id: &str,
        exec: ExecId,
        name: &'static str,
        base64: bool,
        gateway: &Mailbox<ToGateway>,
    ) -> Self {
        Stream {
            request,
            id: id.into(),
            exec,
            name,
            base64,
            gateway: gateway.clone(),
            offset: 0,
            partial: Vec::new(),
            under_way: 0,
        }
    }

    pub fn total(&self) -> u64 {
        self.offset + self.partial.len() as u64
    }

    /// The reader is behind: the pipe is left alone, and so the command waits.
    pub fn is_blocked(&self) -> bool {
        self.under_way >= PIECES_MAX
    }

    /// The reader has taken a piece.
    pub fn taken(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        let mut piece = std::mem::take(&mut self.partial);
        piece.extend_from_slice(bytes);
        let whole = piece.len() - if self.base64 { 0 } else { split_tail(&piece) };
        self.partial = piece.split_off(whole);
        self.send(piece);
    }

    /// What is left of a character that never came whole goes as it is.
    pub fn end(&mut self) {
        let rest = std::mem::take(&mut self.partial);
        self.send(rest);
    }

    fn send(&mut self, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let (length, encoding) = (bytes.len() as u64, Encoding::of(&bytes, self.base64));
        let mut line = Vec::with_capacity(bytes.len() + bytes.len() / 2 + 256);
        let mut head = Object::begin(&mut line);
        head.str("jsonrpc", "2.0");
        head.str("method", "exec.output");
        let mut params = head.object("params");
        params.raw("id", self.id.as_bytes());
        params.str("exec", &self.exec.to_string());
        params.str("stream", self.name);
        params.int("offset", self.offset);
        params.raw("data", b"");
        let mut data = Body::default();
        data.output(bytes, encoding);
        while !data.is_empty() {
            data.encode(usize::MAX / 2, &mut line);
        }
        line.extend_from_slice(format!(",\"encoding\":\"{}\"}}}}\n", encoding.name()).as_bytes());
        self.offset += length;
        self.under_way += 1;
        self.gateway.tell(ToGateway::Stream { request: self.request, line });
    }
}

/// How many bytes at the end begin a character that is not complete. Only what more bytes could mend is held back.
fn split_tail(bytes: &[u8]) -> usize {
    let tail = &bytes[bytes.len().saturating_sub(3)..];
    let Some(start) = tail.iter().rposition(|byte| byte & 0xc0 != 0x80) else { return 0 };
    match std::str::from_utf8(&tail[start..]) {
        Err(error) if error.error_len().is_none() => tail.len() - start,
        Ok(_) | Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_is_split() {
        for (text, held) in [
            (&b"abc"[..], 0),
            (b"", 0),
            ("aé".as_bytes(), 0),
            (&"aé".as_bytes()[..2], 1),
            (&"€".as_bytes()[..2], 2),
            (&"😀".as_bytes()[..3], 3),
            (&"😀".as_bytes()[..1], 1),
            ("€€".as_bytes(), 0),
            (&"€€".as_bytes()[..5], 2),
            (b"\xff", 0),
            (b"a\xff\xff\xff", 0),
        ] {
            assert_eq!(split_tail(text), held, "{text:?}");
        }
    }
}
