//! Somebody at a terminal of the daemon: types, and waits for what shows.

use crate::exec_support::check_record;
use crate::exec_support::decode;
use crate::support::*;

/// A command on a terminal, started by `exec.start`, and what it has shown so far.
pub struct Typist<'c> {
    pub conn: &'c mut Conn,
    pub exec: String,
    pub pid: i32,
    shown: Vec<u8>,
    /// What was waited for ends here.
    seen: usize,
}

impl<'c> Typist<'c> {
    #[track_caller]
    pub fn start(conn: &'c mut Conn, session: &str, argv: &[&str]) -> Typist<'c> {
        Typist::start_with(conn, json!({"session": session, "argv": argv, "pty": {"cols": 80, "rows": 24}}))
    }

    #[track_caller]
    pub fn start_with(conn: &'c mut Conn, params: Value) -> Typist<'c> {
        let started = conn.ok("exec.start", params);
        let exec = started["exec"].as_str().unwrap().to_owned();
        Typist { conn, exec, pid: started["pid"].as_i64().unwrap() as i32, shown: Vec::new(), seen: 0 }
    }

    #[track_caller]
    pub fn types(&mut self, data: &str) {
        let accepted = self.conn.ok("exec.write", json!({"exec": self.exec, "data": data}));
        assert_eq!(accepted, json!({"accepted_bytes": data.len()}));
    }

    #[track_caller]
    pub fn eof(&mut self) {
        let accepted = self.conn.ok("exec.write", json!({"exec": self.exec, "eof": true}));
        assert_eq!(accepted, json!({"accepted_bytes": 0}));
    }

    /// Waits until `text` shows behind what was seen before; what stands between.
    #[track_caller]
    pub fn sees(&mut self, text: &str) -> String {
        loop {
            let new = &self.shown[self.seen..];
            if let Some(at) = new.windows(text.len()).position(|window| window == text.as_bytes()) {
                let between = String::from_utf8_lossy(&new[..at]).into_owned();
                self.seen += at + text.len();
                return between;
            }
            assert!(self.read(), "the end comes before {text:?}: {:?}", String::from_utf8_lossy(&self.shown));
        }
    }

    /// Reads more of it; false at the end.
    #[track_caller]
    fn read(&mut self) -> bool {
        let params = json!({"exec": self.exec, "stream": "stdout", "offset": self.shown.len(), "wait_s": 15});
        let part = self.conn.ok("exec.read", params);
        let bytes = decode(part["data"].as_str().unwrap(), part["encoding"].as_str().unwrap());
        let nothing = bytes.is_empty();
        assert!(
            !nothing || part["eof"] == true,
            "nothing more within 15 s: {:?}",
            String::from_utf8_lossy(&self.shown)
        );
        self.shown.extend(bytes);
        !nothing
    }

    /// Waits for its end: all that it showed, and its record.
    #[track_caller]
    pub fn ends(mut self) -> (String, Value) {
        while self.read() {}
        let record = self.conn.ok("exec.wait", json!({"exec": self.exec}));
        check_record(&record, false);
        (String::from_utf8_lossy(&self.shown).into_owned(), record)
    }
}
