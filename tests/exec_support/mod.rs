//! What the tests of commands share, on top of `support`: records, pieces of output, marks that tell a process apart,
//! folders that every uid may write.
#![allow(dead_code)]

pub mod lease;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::{Conn, DEADLINE, Daemon, Launch, Value, is_root, json, procs, skip, wait_until};

/// One `exec.run` that must give a record; what every record promises is checked each time.
#[track_caller]
pub fn run(conn: &mut Conn, params: Value) -> Value {
    let is_streamed = params["stream"] == true;
    let record = conn.ok("exec.run", params);
    check_record(&record, is_streamed);
    record
}

/// One line of shell, in a session of its own.
#[track_caller]
pub fn sh(conn: &mut Conn, cmd: &str) -> Value {
    run(conn, json!({ "cmd": cmd }))
}

/// The record in the answer to a request that was sent before.
#[track_caller]
pub fn record_of(conn: &mut Conn, id: &Value) -> Value {
    let answer = conn.answer(id);
    let record = answer.get("result").unwrap_or_else(|| panic!("refused: {answer}")).clone();
    check_record(&record, record["stdout"].is_null());
    record
}

/// The stage and the errno of an `exec.run` that must end in SPAWN_FAILED.
#[track_caller]
pub fn spawn_failure(conn: &mut Conn, params: Value) -> (String, String) {
    let error = conn.refused("exec.run", params, "SPAWN_FAILED");
    let field = |name: &str| error["data"][name].as_str().unwrap_or_default().to_owned();
    (field("stage"), field("errno"))
}

/// A stage and an errno as [`spawn_failure`] gives them.
pub fn failed(stage: &str, errno: &str) -> (String, String) {
    (stage.to_owned(), errno.to_owned())
}

#[track_caller]
pub fn close(conn: &mut Conn, session: &str) -> Value {
    let closed = conn.ok("session.close", json!({ "session": session }));
    assert_eq!(closed["closed"], true, "{closed}");
    closed
}

/// How a record says that the command ended: status, limit, exit code, signal.
pub type End<'r> = (&'r str, Option<&'r str>, Option<i64>, Option<&'r str>);

#[track_caller]
pub fn end(record: &Value) -> End<'_> {
    let status = record["status"].as_str().unwrap_or_else(|| panic!("no status in {record}"));
    (status, record["limit"].as_str(), record["exit_code"].as_i64(), record["signal"].as_str())
}

/// The end of a command that left by itself with this code.
pub fn exited(code: i64) -> End<'static> {
    ("exited", None, Some(code), None)
}

/// The kept standard output, decoded.
#[track_caller]
pub fn out(record: &Value) -> Vec<u8> {
    kept(record, "stdout")
}

/// The kept standard error, decoded.
#[track_caller]
pub fn err(record: &Value) -> Vec<u8> {
    kept(record, "stderr")
}

/// The kept standard output as text.
#[track_caller]
pub fn text(record: &Value) -> String {
    String::from_utf8_lossy(&out(record)).into_owned()
}

#[track_caller]
fn kept(record: &Value, stream: &str) -> Vec<u8> {
    let data = record[stream].as_str().unwrap_or_else(|| panic!("no {stream} in {}", brief(record)));
    decode(data, record[format!("{stream}_encoding")].as_str().unwrap_or_default())
}

/// The bytes that `data` stands for.
#[track_caller]
pub fn decode(data: &str, encoding: &str) -> Vec<u8> {
    match encoding {
        "utf8" => data.as_bytes().to_vec(),
        "base64" => STANDARD.decode(data).expect("base64 is valid"),
        other => panic!("encoding {other:?}"),
    }
}

/// What every record promises, whatever the command did.
#[track_caller]
pub fn check_record(record: &Value, is_streamed: bool) {
    let shown = brief(record);
    for stream in ["stdout", "stderr"] {
        let count = |what: &str| record[format!("{stream}_{what}")].as_u64().unwrap_or_else(|| panic!("{shown}"));
        if is_streamed {
            assert!(record[stream].is_null(), "a streamed record holds no {stream}: {shown}");
            assert_eq!(count("dropped"), 0, "{shown}");
        } else {
            let kept = kept(record, stream).len() as u64;
            assert_eq!(kept + count("dropped"), count("bytes"), "kept + dropped = bytes of {stream}: {shown}");
        }
    }
    let (status, limit, exit_code, signal) = end(record);
    let is_limit = matches!(status, "timed_out" | "cpu_limit" | "memory_limit" | "output_limit");
    assert_eq!(exit_code.is_some(), status == "exited", "{shown}");
    assert_eq!(limit.is_some(), is_limit, "{shown}");
    if matches!(status, "signaled" | "cpu_limit" | "memory_limit") {
        assert!(signal.is_some(), "{shown}");
    }
    assert!(status != "exited" || signal.is_none(), "{shown}");
    for number in ["wall_ms", "spawn_ms"] {
        assert!(record[number].as_f64().is_some_and(|ms| ms >= 0.0), "{number}: {shown}");
    }
    assert!(record["descendants_killed"].is_u64(), "{shown}");
}

/// A value as text, cut where it would flood the terminal.
pub fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(800) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

/// One piece of streamed output.
#[derive(Debug)]
pub struct Piece {
    pub stream: String,
    pub offset: u64,
    pub bytes: Vec<u8>,
    pub encoding: String,
}

/// The piece in an `exec.output` notification for the request `id`.
#[track_caller]
pub fn piece(line: &Value, id: &Value) -> Piece {
    assert_eq!(line["method"], "exec.output", "{}", brief(line));
    let params = &line["params"];
    assert_eq!(&params["id"], id, "{}", brief(line));
    let field = |name: &str| params[name].as_str().unwrap_or_else(|| panic!("no {name} in {}", brief(line)));
    Piece {
        stream: field("stream").to_owned(),
        offset: params["offset"].as_u64().unwrap_or_else(|| panic!("no offset in {}", brief(line))),
        bytes: decode(field("data"), field("encoding")),
        encoding: field("encoding").to_owned(),
    }
}

/// Takes pieces until the answer to `id`: all of them, and the record.
#[track_caller]
pub fn pieces_and_record(conn: &mut Conn, id: &Value) -> (Vec<Piece>, Value) {
    let mut pieces = Vec::new();
    loop {
        let line = conn.recv();
        if line.get("method").is_none() {
            assert_eq!(&line["id"], id, "{}", brief(&line));
            let record = line.get("result").unwrap_or_else(|| panic!("refused: {line}")).clone();
            check_record(&record, true);
            return (pieces, record);
        }
        pieces.push(piece(&line, id));
    }
}

/// The pieces of one stream put together; fails where one is missing, doubled or out of order.
#[track_caller]
pub fn joined(pieces: &[Piece], stream: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces.iter().filter(|piece| piece.stream == stream) {
        assert_eq!(piece.offset, bytes.len() as u64, "the pieces of {stream} are contiguous");
        assert!(!piece.bytes.is_empty(), "an empty piece of {stream} at {}", piece.offset);
        bytes.extend_from_slice(&piece.bytes);
    }
    bytes
}

/// The daemon answers, and still runs commands.
#[track_caller]
pub fn assert_well(conn: &mut Conn) {
    conn.ping();
    assert_eq!(text(&sh(conn, "echo well")), "well\n");
}

/// A number for `sleep` that no other process of the machine has on its command line.
pub fn mark() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("4000.{:07}{:04}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The processes whose command line holds `mark`, by pid. Unlike a variable it stays visible under any uid, and nobody
/// can drop it by cleaning the environment.
pub fn living(mark: &str) -> BTreeMap<i32, String> {
    let own = std::process::id() as i32;
    let found = procs::all().into_iter().filter(|one| one.state != 'Z' && one.pid != own && one.command.contains(mark));
    found.map(|one| (one.pid, one.command)).collect()
}

/// Waits until at least so many processes carry `mark`.
#[track_caller]
pub fn wait_living(mark: &str, count: usize) {
    wait_until(&format!("{count} processes of {mark}"), DEADLINE, || (living(mark).len() >= count).then_some(()));
}

/// Waits until no process carries `mark`; looks twice, because one look can miss.
#[track_caller]
pub fn wait_gone(mark: &str) {
    let is_empty = || living(mark).is_empty() && living(mark).is_empty();
    wait_until(&format!("no process of {mark} is left"), DEADLINE, || is_empty().then_some(()));
}

/// A folder that every uid may write, removed at the end.
pub struct Shared(PathBuf);

impl Shared {
    pub fn new() -> Shared {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("cof-shared-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        Shared(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The path of `name` in it, as text for a command.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("temporary paths are text").to_owned()
    }

    /// A file in it with these permissions; its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> String {
        fs::write(self.path(name), content).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
        self.text(name)
    }

    /// Waits until a command has made `name`.
    #[track_caller]
    pub fn wait_for(&self, name: &str) {
        wait_until(&format!("{name} is made"), DEADLINE, || self.path(name).exists().then_some(()));
    }
}

impl AsRef<Path> for Shared {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Fails only where a test left something that it was about to report anyway.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A Python that every uid may start; says so where there is none.
pub fn python() -> Option<&'static str> {
    tool("python3")
}

/// A program of the system's folders, not of somebody's home; says so where it is missing.
pub fn tool(name: &str) -> Option<&'static str> {
    let folders = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin"];
    let found = folders.into_iter().map(|folder| format!("{folder}/{name}")).find(|path| Path::new(path).exists());
    match found {
        Some(path) => Some(path.leak()),
        None => {
            skip(&format!("no {name} on this machine"));
            None
        }
    }
}

/// A daemon of an ordinary user, also where the tests run as root. It listens on TCP alone.
#[track_caller]
pub fn start_as_nobody() -> Daemon {
    const NOBODY: u32 = 65534;
    fn become_nobody() -> std::io::Result<()> {
        use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
        setgroups(&[])?;
        setgid(Gid::from_raw(NOBODY))?;
        setuid(Uid::from_raw(NOBODY))?;
        Ok(())
    }
    let launch = Launch::new().without_unix();
    if !is_root() {
        return launch.start();
    }
    // It keeps the workspaces in its folder.
    std::os::unix::fs::chown(launch.folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    launch.before_exec(become_nobody).start()
}

/// Waits until the statistics show `value` at `pointer`, as `/commands/finished`.
#[track_caller]
pub fn wait_stats(daemon: &Daemon, pointer: &str, value: impl Into<Value>) {
    let value = value.into();
    daemon.stats_show(&format!("{pointer} is {value}"), |stats| (stats.pointer(pointer) == Some(&value)).then_some(()));
}

/// An address at which nobody listens, and at which nobody else can while the descriptor is held.
pub fn address_of_nobody() -> (std::os::fd::OwnedFd, std::net::SocketAddr) {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};
    use std::os::fd::AsRawFd;
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let address: SockaddrIn = getsockname(socket.as_raw_fd()).unwrap();
    (socket, std::net::SocketAddrV4::from(address).into())
}
