//! What a shell reports, read out of its list of traps. Pure.
//!
//! A line is `trap -- 'cofferdam MARK CODE FLAGS REST' SIGRTMAX`; before it may stand the traps of commands, of any size and
//! with anything in them. A command can write here what it likes, but not the mark of what runs, and a report without that
//! counts for nothing.

use super::script::{BEGUN, READY};

/// One report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// It takes commands. `kind`: what it said of itself; nothing for the kin of dash.
    Ready { kind: String },
    /// The input of the command of this mark is open.
    Begun { mark: String },
    /// The command of this mark is over. `errexit`: the shell ends with the first command that fails.
    Over { mark: String, code: i32, errexit: bool, cwd: String },
}

/// The bytes of reports as they come.
#[derive(Debug, Default)]
pub struct Reports {
    bytes: Vec<u8>,
}

/// More than the longest report: a path of 4 KiB, each byte of it a quote.
const KEPT_BYTES: usize = 32 * 1024;
const START: &[u8] = b"trap -- 'cofferdam ";
const END: &[u8] = b"RTMAX\n";

impl Reports {
    /// Takes what came; the last whole report in it that begins like one of these. What else came, before or after it,
    /// hides it not.
    pub fn feed(&mut self, bytes: &[u8], awaited: &[String]) -> Option<Report> {
        self.bytes.extend_from_slice(bytes);
        let end = find_last(&self.bytes, END).map(|at| at + END.len());
        let report = end.and_then(|end| {
            let whole = &self.bytes[..end];
            let starts = awaited.iter().filter_map(|begin| find_last(whole, &[START, begin.as_bytes()].concat()));
            parse(&whole[starts.max()?..])
        });
        if report.is_some() {
            self.bytes.drain(..end.unwrap_or(0));
        }
        if self.bytes.len() > KEPT_BYTES {
            let excess = self.bytes.len() - KEPT_BYTES;
            self.bytes.drain(..excess);
        }
        report
    }

    /// What is left of an earlier shell is nobody's.
    pub fn clear(&mut self) {
        self.bytes.clear();
    }
}

fn find_last(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::rfind(bytes, what)
}

fn parse(line: &[u8]) -> Option<Report> {
    let text = String::from_utf8_lossy(&word(&line[b"trap -- ".len()..])).into_owned();
    let mut fields = text.strip_prefix("cofferdam ")?.splitn(4, ' ');
    let (mark, code, flags) = (fields.next()?.to_owned(), fields.next()?, fields.next()?);
    let rest = fields.next().unwrap_or_default().to_owned();
    let code: i32 = code.parse().ok()?;
    Some(match &*mark {
        READY => Report::Ready { kind: rest },
        BEGUN => Report::Begun { mark: rest },
        _ => Report::Over { mark, code, errexit: flags.contains('e'), cwd: rest },
    })
}

/// The word at the beginning, without its quotes: '…', "…" and \x, as shells print them.
fn word(line: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    let mut within = None;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match (within, byte) {
            (None, b'\'' | b'"') => within = Some(byte),
            (None, b' ') => break,
            (None | Some(b'"'), b'\\') => found.extend(bytes.next()),
            (Some(quote), _) if byte == quote => within = None,
            _ => found.push(byte),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn awaited() -> Vec<String> {
        ["ready ", "begun 0 - m'", "m ", "m-e1 "].map(str::to_owned).into()
    }

    fn feed(reports: &mut Reports, bytes: &[u8]) -> Option<Report> {
        reports.feed(bytes, &awaited())
    }

    fn over(mark: &str, code: i32, cwd: &str) -> Option<Report> {
        Some(Report::Over { mark: mark.into(), code, errexit: false, cwd: cwd.into() })
    }

    #[test]
    fn reports_are_found_behind_the_traps_of_commands() {
        let mut reports = Reports::default();
        assert_eq!(
            feed(&mut reports, b"trap -- 'cofferdam ready 0 - bash' SIGRTMAX\n"),
            Some(Report::Ready { kind: "bash".into() })
        );
        assert_eq!(
            feed(&mut reports, b"trap -- 'cofferdam ready 0 - ' RTMAX\n"),
            Some(Report::Ready { kind: String::new() })
        );
        assert_eq!(feed(&mut reports, b"trap -- 'x\ny' EXIT\ntrap -- 'cofferdam m-e1 3 hB /a b"), None);
        assert_eq!(feed(&mut reports, b"' RTMAX\n"), over("m-e1", 3, "/a b"));
        assert_eq!(feed(&mut reports, br"trap -- 'cofferdam m 0  /it'\''s' SIGRTMAX".as_slice()), None);
        assert_eq!(feed(&mut reports, b"\n"), over("m", 0, "/it's"));
        assert_eq!(feed(&mut reports, b"trap -- 'cofferdam m 0  /it'\"'\"'s' RTMAX\n"), over("m", 0, "/it's"));
        assert_eq!(
            feed(&mut reports, b"trap -- 'cofferdam begun 0 - m' RTMAX\n"),
            Some(Report::Begun { mark: "m".into() })
        );
        assert_eq!(feed(&mut reports, b"garbage RTMAX\ntrap -- 'cofferdam m x' RTMAX\n"), None);
    }

    #[test]
    fn a_report_is_found_among_made_up_ones() {
        let mut reports = Reports::default();
        let made_up = b"trap -- 'cofferdam x 0 - /' RTMAX\ntrap -- 'cofferdam begun 0 - mm' RTMAX\nRTMAX\n";
        assert_eq!(feed(&mut reports, made_up), None);
        let one = [made_up, &b"trap -- 'cofferdam m 7 s /' RTMAX\n"[..], made_up].concat();
        assert_eq!(feed(&mut reports, &one), over("m", 7, "/"));
        assert_eq!(feed(&mut reports, made_up), None, "it is told once");
        assert_eq!(reports.feed(&one, &[]), None, "nothing is waited for");
    }

    #[test]
    fn inv7_a_report_that_never_ends_is_not_kept() {
        let mut reports = Reports::default();
        for _ in 0..100 {
            assert_eq!(feed(&mut reports, &[b'x'; 4096]), None);
        }
        assert!(reports.bytes.len() <= KEPT_BYTES);
        assert_eq!(feed(&mut reports, b"\ntrap -- 'cofferdam m 0 s /' RTMAX\n"), over("m", 0, "/"));
    }
}
