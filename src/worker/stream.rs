//! An output that is sent as it comes: in order, without a gap, no character split, and no faster than it is taken.

use crate::admission::buffers::{Account, OUTPUT_BYTES, Share};
use crate::ids::{ExecId, RequestId};
use crate::mailbox::Mailbox;
use crate::message::ToGateway;
use crate::protocol::encode::{Encoding, Object, base64_bytes, output};

/// Notifications under way to one reader, of both outputs together at most twice as many.
const PIECES_MAX: u32 = 4;
/// A piece's line, however it is encoded: 64 KiB as base64, and what stands around.
const LINE_BYTES_MAX: u64 = 90 * 1024;
/// A piece that goes even where there is no memory for it, lest the reader waits for ever.
const SHORT_BYTES: usize = 4096;

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
    /// What is left of the memory that it has for itself; a piece takes a part of it along where the account has no
    /// more, and this one is whole again before the next.
    reserve: Share,
    /// There is no memory for a second piece under way.
    short: bool,
    /// Nobody takes it any more; it is counted, and that is all.
    deaf: bool,
}

impl Stream {
    pub fn new(
        request: RequestId,
        id: &str,
        exec: ExecId,
        name: &'static str,
        base64: bool,
        gateway: &Mailbox<ToGateway>,
        reserve: Share,
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
            reserve,
            short: false,
            deaf: false,
        }
    }

    pub fn total(&self) -> u64 {
        self.offset + self.partial.len() as u64
    }

    /// The reader is behind: the pipe is left alone, and so the command waits.
    pub fn is_blocked(&self) -> bool {
        !self.deaf && (self.under_way >= PIECES_MAX || self.short)
    }

    /// How much may be read for it now; 0 while it is blocked. Where memory is short it has one piece under way, from
    /// its reserve; where even that was taken by others in the meantime, a small one.
    pub fn room(&mut self) -> usize {
        if self.deaf {
            return usize::MAX;
        }
        let whole = self.reserve.bytes() >= OUTPUT_BYTES || self.reserve.resize(OUTPUT_BYTES);
        self.short = !whole && self.under_way > 0;
        if self.is_blocked() {
            0
        } else if whole && self.reserve.account().room() >= LINE_BYTES_MAX {
            usize::MAX
        } else {
            // Encoded it is a third longer.
            (self.reserve.bytes() / 4 * 3).max(SHORT_BYTES)
        }
    }

    pub fn account(&self) -> &Account {
        self.reserve.account()
    }

    /// The connection that it went to is gone.
    pub fn deafen(&mut self) {
        self.deaf = true;
        self.reserve.resize(0);
        self.offset += std::mem::take(&mut self.partial).len() as u64;
    }

    /// The reader has taken a piece.
    pub fn taken(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
        self.short = false;
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        if self.deaf {
            self.offset += bytes.len() as u64;
            return;
        }
        let mut piece = std::mem::take(&mut self.partial);
        let bytes = if piece.is_empty() {
            bytes
        } else {
            piece.extend_from_slice(bytes);
            &piece
        };
        let (whole, partial) = bytes.split_at(bytes.len() - if self.base64 { 0 } else { split_tail(bytes) });
        self.partial = partial.to_vec();
        self.send(whole);
    }

    /// What is left of a character that never came whole goes as it is.
    pub fn end(&mut self) {
        let rest = std::mem::take(&mut self.partial);
        self.send(&rest);
    }

    fn send(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let (length, encoding) = (bytes.len() as u64, Encoding::of(bytes, self.base64));
        // As text it is no longer.
        let mut line = Vec::with_capacity(base64_bytes(bytes.len()) + 512);
        let mut head = Object::begin(&mut line);
        head.str("jsonrpc", "2.0");
        head.str("method", "exec.output");
        let mut params = head.object("params");
        params.raw("id", self.id.as_bytes());
        params.str("exec", &self.exec.to_string());
        params.str("stream", self.name);
        params.int("offset", self.offset);
        params.raw("data", b"");
        output(&mut line, bytes, encoding);
        line.extend_from_slice(format!(",\"encoding\":\"{}\"}}}}\n", encoding.name()).as_bytes());
        self.offset += length;
        self.under_way += 1;
        let share = self.share(line.len());
        self.gateway.tell(ToGateway::Stream { request: self.request, line, share });
    }

    /// Of what the account has left, else of the reserve. What is read at the end, when nobody waits for a reader, may
    /// be over both.
    fn share(&mut self, bytes: usize) -> Share {
        Share::take(self.reserve.account(), bytes).unwrap_or_else(|_| {
            let mut share = self.reserve.split(bytes);
            share.force(bytes);
            share
        })
    }
}

/// How many bytes at the end begin a character that is not complete. Only what more bytes could mend is held back.
pub fn split_tail(bytes: &[u8]) -> usize {
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
