//! JSON out: objects written straight into a buffer, and outputs encoded piece by piece. Pure.

use std::ops::Range;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// An object that is being written; [`Object::end`] closes it.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    first: bool,
}

impl<'a> Object<'a> {
    pub fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Object { out, first: true }
    }

    pub fn end(self) {
        self.out.push(b'}');
    }

    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        if !std::mem::take(&mut self.first) {
            self.out.push(b',');
        }
        string(self.out, key);
        self.out.push(b':');
        self.out
    }

    pub fn str(&mut self, key: &str, value: &str) {
        string(self.key(key), value);
    }

    pub fn opt_str(&mut self, key: &str, value: Option<&str>) {
        match value {
            Some(value) => self.str(key, value),
            None => self.null(key),
        }
    }

    pub fn int(&mut self, key: &str, value: impl Into<i128>) {
        integer(self.key(key), value.into());
    }

    pub fn opt_int(&mut self, key: &str, value: Option<impl Into<i128>>) {
        match value {
            Some(value) => self.int(key, value),
            None => self.null(key),
        }
    }

    pub fn bool(&mut self, key: &str, value: bool) {
        self.key(key).extend_from_slice(if value { b"true" } else { b"false" });
    }

    pub fn null(&mut self, key: &str) {
        self.key(key).extend_from_slice(b"null");
    }

    /// A number of milliseconds from microseconds, with at most three decimals.
    pub fn ms(&mut self, key: &str, micros: u64) {
        let out = self.key(key);
        integer(out, i128::from(micros / 1000));
        let rest = micros % 1000;
        if rest > 0 {
            let digits = format!(".{rest:03}");
            out.extend_from_slice(digits.trim_end_matches('0').as_bytes());
        }
    }

    pub fn float(&mut self, key: &str, value: f64) {
        let text = if value.is_finite() { format!("{value}") } else { "null".to_owned() };
        self.key(key).extend_from_slice(text.as_bytes());
    }

    /// A value that is JSON already.
    pub fn raw(&mut self, key: &str, json: &[u8]) {
        self.key(key).extend_from_slice(json);
    }

    /// Members that are JSON already, with the commas between them.
    pub fn members(&mut self, json: &[u8]) {
        if !json.is_empty() {
            if !std::mem::take(&mut self.first) {
                self.out.push(b',');
            }
            self.out.extend_from_slice(json);
        }
    }

    pub fn object(&mut self, key: &str) -> Object<'_> {
        Object::begin(self.key(key))
    }

    pub fn strings<'s>(&mut self, key: &str, values: impl IntoIterator<Item = &'s str>) {
        let out = self.key(key);
        out.push(b'[');
        for (at, value) in values.into_iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            string(out, value);
        }
        out.push(b']');
    }
}

fn integer(out: &mut Vec<u8>, value: i128) {
    use std::io::Write;
    let _ = write!(out, "{value}"); // a Vec takes all that is written
}

/// Appends a JSON string, quotes included.
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    escape(out, text.as_bytes());
    out.push(b'"');
}

/// Appends UTF-8 text with what JSON wants escaped.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    loop {
        let (plain, behind) = rest.split_at(plain_prefix(rest));
        out.extend_from_slice(plain);
        let Some((&byte, behind)) = behind.split_first() else { return };
        rest = behind;
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            _ => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
}

/// How many bytes stand before the first that is to be escaped. Eight at a time: outputs are mostly plain.
fn plain_prefix(text: &[u8]) -> usize {
    let words = text.chunks_exact(8).take_while(|word| is_plain(word)).count() * 8;
    words + text[words..].iter().take_while(|byte| ESCAPED_BYTES[usize::from(**byte)] == 1).count()
}

/// Whether none of eight bytes is to be escaped: no control character, quote or backslash.
fn is_plain(word: &[u8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = ONES << 7;
    let Ok(word) = word.try_into().map(u64::from_ne_bytes) else { return false };
    // The highest bit of a byte is set where a subtraction borrows and the byte itself had it not: it was less.
    let less = |word: u64, than: u64| word.wrapping_sub(ONES * than) & !word & HIGH;
    let is = |byte: u8| less(word ^ (ONES * u64::from(byte)), 1);
    less(word, 0x20) | is(b'"') | is(b'\\') == 0
}

/// Appends an output as a JSON string, quotes included.
pub fn output(out: &mut Vec<u8>, bytes: &[u8], encoding: Encoding) {
    out.push(b'"');
    match encoding {
        Encoding::Utf8 => escape(out, bytes),
        Encoding::Base64 => {
            let start = out.len();
            out.resize(start + base64_bytes(bytes.len()), 0);
            let wrote = STANDARD.encode_slice(bytes, &mut out[start..]);
            debug_assert_eq!(wrote, Ok(out.len() - start));
        }
    }
    out.push(b'"');
}

/// Bytes of base64 for so many.
pub fn base64_bytes(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// How many bytes each byte of a text takes within a JSON string.
const ESCAPED_BYTES: [u8; 256] = {
    let mut table = [1u8; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = 6;
        byte += 1;
    }
    let short = [b'"', b'\\', b'\n', b'\r', b'\t', 0x08, 0x0c];
    let mut at = 0;
    while at < short.len() {
        table[short[at] as usize] = 2;
        at += 1;
    }
    table
};

/// How bytes of an output stand in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Utf8,
    Base64,
}

impl Encoding {
    pub fn name(self) -> &'static str {
        match self {
            Encoding::Utf8 => "utf8",
            Encoding::Base64 => "base64",
        }
    }

    /// Text where it is valid UTF-8 and no longer than its base64: an answer never exceeds 1.4 times the bytes.
    pub fn of(bytes: &[u8], always_base64: bool) -> Encoding {
        if always_base64 || std::str::from_utf8(bytes).is_err() {
            return Encoding::Base64;
        }
        let width = |bytes: &[u8]| bytes.iter().map(|&byte| usize::from(ESCAPED_BYTES[usize::from(byte)])).sum();
        let words = bytes.chunks_exact(8);
        let rest: usize = width(words.remainder());
        let text: usize = words.map(|word| if is_plain(word) { 8 } else { width(word) }).sum();
        if text + rest <= base64_bytes(bytes.len()) { Encoding::Utf8 } else { Encoding::Base64 }
    }
}

/// A JSON value that is encoded as it is asked for: written parts, and outputs between them.
#[derive(Debug, Default)]
pub struct Body {
    parts: std::collections::VecDeque<Part>,
}

struct Part {
    bytes: Bytes,
    at: usize,
    end: usize,
    form: Form,
}

/// Bytes that several bodies may encode, and whoever keeps them besides.
pub type Shared = Arc<dyn AsRef<[u8]> + Send + Sync>;

enum Bytes {
    Own(Vec<u8>),
    Shared(Shared),
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        match self {
            Bytes::Own(bytes) => bytes,
            Bytes::Shared(bytes) => (**bytes).as_ref(),
        }
    }
}

impl std::fmt::Debug for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Part").field("left", &(self.end - self.at)).field("form", &self.form).finish()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Escaped,
    Base64,
}

/// Of an output encoded at once, or a part of it where less is wanted. Multiples of 3, so that base64 needs no padding
/// before the end.
const CHUNK_BYTES: usize = 24 * 1024;

impl Body {
    pub fn json(&mut self, bytes: Vec<u8>) {
        let end = bytes.len();
        self.parts.push_back(Part { bytes: Bytes::Own(bytes), at: 0, end, form: Form::Json });
    }

    /// A part of an output that others hold as well, quotes included.
    pub fn shared(&mut self, bytes: Shared, range: Range<usize>, encoding: Encoding) {
        let form = match encoding {
            Encoding::Utf8 => Form::Escaped,
            Encoding::Base64 => Form::Base64,
        };
        self.json(b"\"".to_vec());
        self.parts.push_back(Part { bytes: Bytes::Shared(bytes), at: range.start, end: range.end, form });
        self.json(b"\"".to_vec());
    }

    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Appends about `want` bytes more, or all that is left.
    pub fn encode(&mut self, want: usize, out: &mut Vec<u8>) {
        let until = out.len() + want;
        let chunk_bytes = (want / 3 * 3).clamp(3, CHUNK_BYTES);
        while out.len() < until {
            let Some(part) = self.parts.front_mut() else { return };
            let end = part.end.min(part.at + chunk_bytes);
            let chunk = &part.bytes.as_ref()[part.at..end];
            match part.form {
                Form::Json => out.extend_from_slice(chunk),
                Form::Escaped => escape(out, chunk),
                Form::Base64 => out.extend_from_slice(STANDARD.encode(chunk).as_bytes()),
            }
            part.at = end;
            if end == part.end {
                self.parts.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(body: &mut Body, want: usize) -> String {
        let mut out = Vec::new();
        while !body.is_empty() {
            body.encode(want, &mut out);
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_stays_text_unless_its_json_is_longer_than_base64() {
        assert_eq!(Encoding::of(b"hi\n", false), Encoding::Utf8);
        assert_eq!(Encoding::of(b"", false), Encoding::Utf8);
        assert_eq!(Encoding::of("ä€😀".as_bytes(), false), Encoding::Utf8);
        assert_eq!(Encoding::of(b"\n\n\n", false), Encoding::Base64);
        assert_eq!(Encoding::of(b"\0", false), Encoding::Base64);
        assert_eq!(Encoding::of(b"\xff", false), Encoding::Base64);
        assert_eq!(Encoding::of(b"hi\n", true), Encoding::Base64);
    }

    #[test]
    fn pieces_join_to_the_whole() {
        let text: String = "a\"\\\n\u{1}\u{7f}é".repeat(10_000);
        let mut body = Body::default();
        body.json(b"[".to_vec());
        body.shared(Arc::new(text.clone()), 0..text.len(), Encoding::Utf8);
        body.json(b",".to_vec());
        body.shared(Arc::new(text.clone()), 0..text.len(), Encoding::Base64);
        body.json(b"]".to_vec());
        let [plain, coded]: [String; 2] = serde_json::from_str(&all(&mut body, 1)).unwrap();
        assert_eq!(plain, text);
        assert_eq!(STANDARD.decode(coded).unwrap(), text.as_bytes());
    }

    #[test]
    fn milliseconds_keep_three_decimals_at_most() {
        let mut out = Vec::new();
        let mut object = Object::begin(&mut out);
        for micros in [0, 1, 1930, 2_000_000, 1_050] {
            object.ms("t", micros);
        }
        object.end();
        assert_eq!(out, br#"{"t":0,"t":0.001,"t":1.93,"t":2000,"t":1.05}"#);
    }

    #[test]
    fn eight_bytes_at_a_time_are_looked_at_as_one_by_one() {
        let mut seed = 7u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as u8
        };
        for round in 0..20_000 {
            // Mostly letters, some rounds with every byte there is.
            let bytes: Vec<u8> =
                (0..round % 40).map(|_| if round % 3 == 0 || random() < 10 { random() } else { b'a' }).collect();
            let first = bytes.iter().position(|byte| ESCAPED_BYTES[usize::from(*byte)] > 1).unwrap_or(bytes.len());
            assert_eq!(plain_prefix(&bytes), first, "{bytes:?}");
        }
        for byte in 0..=255 {
            for at in 0..8 {
                let mut word = [b'a'; 8];
                word[at] = byte;
                assert_eq!(is_plain(&word), ESCAPED_BYTES[usize::from(byte)] == 1, "{byte} at {at}");
            }
        }
    }

    #[test]
    fn an_output_at_once_is_as_in_pieces() {
        for (bytes, encoding) in
            [(&b""[..], Encoding::Utf8), ("a\"\u{1}é\n".as_bytes(), Encoding::Utf8), (b"\xff\0ab", Encoding::Base64)]
        {
            let mut body = Body::default();
            body.shared(Arc::new(bytes.to_vec()), 0..bytes.len(), encoding);
            let mut at_once = Vec::new();
            output(&mut at_once, bytes, encoding);
            assert_eq!(String::from_utf8(at_once).unwrap(), all(&mut body, 1));
        }
    }
}
