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

/// A buffer up to this size is kept; one that grew beyond it is given back as soon as little or nothing is in it.
pub const FREE_BYTES: usize = 16 * 1024;
/// A long line's buffer is larger than what is in it by no more than this.
pub const GROW_BYTES: usize = 256 * 1024;

impl Framer {
    pub fn new(line_bytes_max: usize) -> Self {
        Framer { bytes: Vec::new(), start: 0, scanned: 0, line_bytes_max, discarding: false }
    }

    /// Another longest line, the one that is coming included.
    pub fn set_line_bytes_max(&mut self, line_bytes_max: usize) {
        self.line_bytes_max = line_bytes_max;
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
        self.grow(read.len());
        self.bytes.extend_from_slice(read);
    }

    /// To twice what is needed, but not past the bounds above for the sake of that.
    fn grow(&mut self, more: usize) {
        let needed = self.bytes.len() + more;
        if needed > self.bytes.capacity() {
            let size = if needed <= FREE_BYTES { FREE_BYTES.min(needed * 2) } else { needed + needed.min(GROW_BYTES) };
            self.bytes.reserve_exact(size - self.bytes.len());
        }
    }

    /// Bytes that are not carried out.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Memory that it takes.
    pub fn held(&self) -> usize {
        self.bytes.capacity()
    }

    /// Gives back what a long turn has left unused.
    pub fn compact(&mut self) {
        if self.bytes.capacity() > FREE_BYTES && self.len() < self.bytes.capacity() / 4 {
            self.bytes = self.bytes[self.start..].to_vec();
            self.scanned -= self.start;
            self.start = 0;
        }
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
        if self.start == self.bytes.len() && self.bytes.capacity() > FREE_BYTES {
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
            assert!(framer.bytes.capacity() <= FREE_BYTES);
        }
        assert_eq!(told, 1);
    }

    #[test]
    fn inv7_a_buffer_is_little_larger_than_what_is_in_it() {
        let mut framer = Framer::new(8 << 20);
        let mut sent = 0;
        while sent < 4 << 20 {
            framer.push(&[b'x'; 5000]);
            assert!(framer.next_line().is_none());
            sent += 5000;
            assert!(framer.held() <= FREE_BYTES.max(sent * 2).min(FREE_BYTES + sent + GROW_BYTES), "{sent}");
        }
        assert_eq!(framer.len(), sent);
        assert_eq!(lines(&mut framer, b"\n{\"id\"").len(), 1);
        framer.compact();
        assert!(framer.held() <= FREE_BYTES);
        assert_eq!(lines(&mut framer, b":1}\n"), [ok("{\"id\":1}")]);
    }
}
