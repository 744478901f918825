//! Lines out of a stream of bytes. Pure; bounded by the longest line allowed.

use memchr::memchr;

/// Cuts what a connection sends into lines, and never holds more than one line that is too long to finish.
#[derive(Debug)]
pub struct Framer {
    bytes: Vec<u8>,
    /// Where the next line starts.
    start: usize,
    /// Up to here there is no line end.
    scanned: usize,
    line_bytes_max: usize,
    /// The rest of a line that was too long is dropped as it comes.
    discarding: bool,
}

/// What was cut out.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line without its end; never empty.
    Whole(&'a [u8]),
    /// A line is over the limit: told once, as soon as it is.
    TooLong,
}

/// A buffer that grew beyond this is given back once it is empty.
const KEEP_BYTES: usize = 16 * 1024;

impl Framer {
    pub fn new(line_bytes_max: usize) -> Self {
        Framer { bytes: Vec::new(), start: 0, scanned: 0, line_bytes_max, discarding: false }
    }

    /// Takes what was read. Call [`Framer::next_line`] until it is empty before the next push.
    pub fn push(&mut self, read: &[u8]) {
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.scanned = 0;
            self.start = 0;
        } else if self.start > 0 {
            self.bytes.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        self.bytes.extend_from_slice(read);
    }

    pub fn next_line(&mut self) -> Option<Line<'_>> {
        loop {
            let end = memchr(b'\n', &self.bytes[self.scanned..]).map(|at| self.scanned + at);
            if self.discarding {
                self.discarding = end.is_none();
                self.start = end.map_or(self.bytes.len(), |end| end + 1);
                self.scanned = self.start;
                if self.discarding {
                    self.give_back();
                    return None;
                }
                continue;
            }
            let Some(end) = end else {
                self.scanned = self.bytes.len();
                // The last byte may be the \r of a line end that has not come yet.
                let open = self.bytes.len() - self.start - usize::from(self.bytes.last() == Some(&b'\r'));
                if open > self.line_bytes_max {
                    self.start = self.bytes.len();
                    self.discarding = true;
                    self.give_back();
                    return Some(Line::TooLong);
                }
                self.give_back();
                return None;
            };
            let start = std::mem::replace(&mut self.start, end + 1);
            self.scanned = self.start;
            let mut stop = end;
            if stop > start && self.bytes[stop - 1] == b'\r' {
                stop -= 1;
            }
            if stop - start > self.line_bytes_max {
                return Some(Line::TooLong);
            }
            if self.bytes[start..stop].iter().any(|byte| !byte.is_ascii_whitespace()) {
                return Some(Line::Whole(&self.bytes[start..stop]));
            }
        }
    }

    /// A line was begun and has not ended.
    pub fn is_mid_line(&self) -> bool {
        self.discarding || self.start < self.bytes.len()
    }

    /// The first byte of a line that has not ended, past white space.
    pub fn first_byte(&self) -> Option<u8> {
        self.bytes[self.start..].iter().copied().find(|byte| !byte.is_ascii_whitespace())
    }

    fn give_back(&mut self) {
        if self.start == self.bytes.len() && self.bytes.capacity() > KEEP_BYTES {
            self.bytes = Vec::new();
            self.start = 0;
            self.scanned = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(framer: &mut Framer, read: &[u8]) -> Vec<Result<String, ()>> {
        framer.push(read);
        let mut found = Vec::new();
        while let Some(line) = framer.next_line() {
            found.push(match line {
                Line::Whole(bytes) => Ok(String::from_utf8_lossy(bytes).into_owned()),
                Line::TooLong => Err(()),
            });
        }
        found
    }

    fn ok(text: &str) -> Result<String, ()> {
        Ok(text.to_owned())
    }

    #[test]
    fn cuts_lines_whatever_the_pieces() {
        let mut framer = Framer::new(100);
        assert_eq!(lines(&mut framer, b"one\r\n\n  \r\ntwo\nth"), [ok("one"), ok("two")]);
        assert!(framer.is_mid_line());
        assert_eq!(lines(&mut framer, b"ree"), []);
        assert_eq!(lines(&mut framer, b"\n"), [ok("three")]);
        assert!(!framer.is_mid_line());
    }

    #[test]
    fn inv7_a_line_of_the_limit_passes_and_one_byte_more_does_not() {
        let mut framer = Framer::new(4);
        assert_eq!(lines(&mut framer, b"1234\n"), [ok("1234")]);
        assert_eq!(lines(&mut framer, b"1234\r"), []);
        assert_eq!(lines(&mut framer, b"\n"), [ok("1234")]);
        assert_eq!(lines(&mut framer, b"12345\nok\n"), [Err(()), ok("ok")]);
        assert_eq!(lines(&mut framer, b"12345"), [Err(())]);
        assert_eq!(lines(&mut framer, b"6789"), []);
        assert_eq!(lines(&mut framer, b"abc"), []);
        assert_eq!(lines(&mut framer, b"d\nok\n"), [ok("ok")]);
    }

    #[test]
    fn inv7_the_rest_of_a_long_line_is_not_held() {
        let mut framer = Framer::new(1 << 10);
        let mut told = 0;
        for _ in 0..1000 {
            told += lines(&mut framer, &[b'x'; 4096]).len();
            assert!(framer.bytes.capacity() <= KEEP_BYTES);
        }
        assert_eq!(told, 1);
    }
}
