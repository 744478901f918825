//! A raw line client over TCP or a Unix socket. Every wait has a deadline; what was sent and received is written down.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt};
use serde_json::{Value, json};

use super::{DEADLINE, shape};

/// What went over all connections of one daemon, for the report of a failure.
pub type Transcript = Arc<Mutex<Vec<String>>>;

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Nothing lingers of a connection that is closed: it is reset.
const AT_ONCE: nix::libc::linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };

/// A connection to the daemon.
pub struct Conn {
    stream: Stream,
    name: String,
    /// Read from the socket and not yet taken as a line.
    pending: Vec<u8>,
    /// Lines taken while waiting for the answer to another request.
    stash: Vec<Value>,
    next_id: u64,
    transcript: Transcript,
}

impl Conn {
    pub fn tcp(address: SocketAddr, transcript: &Transcript) -> io::Result<Conn> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_nodelay(true)?;
        let name = format!("tcp:{}", stream.local_addr()?.port());
        Conn::new(Stream::Tcp(stream), name, transcript)
    }

    /// Over TCP from an address of the client's choice: each address of the loopback is a client of its own. Dropped, it
    /// ends in a reset: the daemon sees that it is gone for good, which an orderly end over TCP does not show.
    pub fn tcp_from(source: Ipv4Addr, address: SocketAddrV4, transcript: &Transcript) -> io::Result<Conn> {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
        connect(socket.as_raw_fd(), &SockaddrIn::from(address))?;
        setsockopt(&socket, sockopt::Linger, &AT_ONCE)?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true)?;
        let name = format!("tcp:{}", stream.local_addr()?);
        Conn::new(Stream::Tcp(stream), name, transcript)
    }

    pub fn unix(path: &Path, transcript: &Transcript) -> io::Result<Conn> {
        let stream = UnixStream::connect(path)?;
        let name = format!("unix:{}", stream.as_raw_fd());
        Conn::new(Stream::Unix(stream), name, transcript)
    }

    fn new(stream: Stream, name: String, transcript: &Transcript) -> io::Result<Conn> {
        let conn = Conn {
            stream,
            name,
            pending: Vec::new(),
            stash: Vec::new(),
            next_id: 1,
            transcript: Arc::clone(transcript),
        };
        conn.set_timeouts(Duration::from_millis(200), DEADLINE)?;
        Ok(conn)
    }

    fn set_timeouts(&self, read: Duration, write: Duration) -> io::Result<()> {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(read)).and(stream.set_write_timeout(Some(write))),
            Stream::Unix(stream) => stream.set_read_timeout(Some(read)).and(stream.set_write_timeout(Some(write))),
        }
    }

    fn note(&self, direction: &str, bytes: &[u8]) {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).trim_end().to_owned();
        let more = if bytes.len() > 400 { format!(" … {} bytes", bytes.len()) } else { String::new() };
        self.transcript.lock().unwrap().push(format!("{} {direction} {shown}{more}", self.name));
    }

    // Sending.

    /// Sends these bytes and nothing else.
    #[track_caller]
    pub fn send_bytes(&mut self, bytes: impl AsRef<[u8]>) {
        self.note(">", bytes.as_ref());
        self.write(bytes.as_ref()).unwrap_or_else(|error| panic!("{} cannot send: {error}", self.name));
    }

    /// Sends bytes that the daemon may refuse to take by closing the connection.
    pub fn try_send_bytes(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.note(">", bytes.as_ref());
        self.write(bytes.as_ref())
    }

    /// Sends as much of `bytes` as the socket takes before it makes no progress for `patience`; how much that was.
    pub fn send_until_blocked(&mut self, bytes: &[u8], patience: Duration) -> io::Result<usize> {
        self.set_timeouts(Duration::from_millis(200), patience)?;
        let mut sent = 0;
        let outcome = loop {
            match self.write_some(&bytes[sent..]) {
                Ok(0) => break Ok(sent),
                Ok(count) => sent += count,
                Err(error) if is_timeout(&error) => break Ok(sent),
                Err(error) => break Err(error),
            }
        };
        self.set_timeouts(Duration::from_millis(200), DEADLINE)?;
        outcome
    }

    /// Sends the rest of a line from another thread of control: whenever the daemon reads again.
    pub fn send_later(&self, bytes: Vec<u8>) {
        let mut stream: Box<dyn Write + Send> = match &self.stream {
            Stream::Tcp(stream) => Box::new(stream.try_clone().unwrap()),
            Stream::Unix(stream) => Box::new(stream.try_clone().unwrap()),
        };
        std::thread::spawn(move || stream.write_all(&bytes));
    }

    #[track_caller]
    pub fn send_line(&mut self, line: impl AsRef<str>) {
        self.send_bytes(format!("{}\n", line.as_ref()));
    }

    #[track_caller]
    pub fn send(&mut self, value: &Value) {
        self.send_line(value.to_string());
    }

    /// Sends a request under an id of its own and gives the id.
    #[track_caller]
    pub fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = json!(self.next_id);
        self.next_id += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        id
    }

    // Receiving.

    /// The next line without its end; none if the daemon has closed the connection.
    #[track_caller]
    pub fn recv_bytes(&mut self) -> Option<Vec<u8>> {
        let end = Instant::now() + DEADLINE;
        let mut piece = vec![0; 64 << 10];
        let mut searched = 0;
        loop {
            if let Some(at) = self.pending[searched..].iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.pending.drain(..=searched + at).collect();
                line.pop();
                self.note("<", &line);
                return Some(line);
            }
            searched = self.pending.len();
            match self.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => self.pending.extend_from_slice(&piece[..count]),
                Err(error) if is_timeout(&error) => {}
                Err(error) if is_gone(&error) => break,
                Err(error) => panic!("{} cannot receive: {error}", self.name),
            }
            assert!(Instant::now() < end, "{}: no line and no end within {DEADLINE:?}", self.name);
        }
        self.note("<", b"(closed)");
        None
    }

    /// The next line as JSON, its shape checked; none at the end.
    #[track_caller]
    pub fn recv_or_end(&mut self) -> Option<Value> {
        let line = self.recv_bytes()?;
        let value = serde_json::from_slice(&line)
            .unwrap_or_else(|error| panic!("not JSON: {error}: {}", String::from_utf8_lossy(&line)));
        shape::check_line(&value);
        Some(value)
    }

    /// The next line, that must come: stashed ones first.
    #[track_caller]
    pub fn recv(&mut self) -> Value {
        if !self.stash.is_empty() {
            return self.stash.remove(0);
        }
        self.recv_or_end().unwrap_or_else(|| panic!("{}: closed where a line was expected", self.name))
    }

    /// The answer to the request with this id; what comes before it is kept for later.
    #[track_caller]
    pub fn answer(&mut self, id: &Value) -> Value {
        let is_it = |line: &Value| line.get("id") == Some(id) && line.get("method").is_none();
        if let Some(at) = self.stash.iter().position(is_it) {
            return self.stash.remove(at);
        }
        loop {
            let line = self.recv_or_end().unwrap_or_else(|| panic!("{}: closed before the answer to {id}", self.name));
            if is_it(&line) {
                return line;
            }
            self.stash.push(line);
        }
    }

    /// The end of the connection must come next, with nothing before it.
    #[track_caller]
    pub fn expect_end(&mut self) {
        assert!(self.stash.is_empty(), "not taken: {:?}", self.stash);
        if let Some(line) = self.recv_bytes() {
            panic!("{}: closed was expected, not {}", self.name, String::from_utf8_lossy(&line));
        }
    }

    /// Whether the daemon has closed the connection, looked at without waiting. Takes nothing that can still be read.
    pub fn is_closed(&mut self) -> bool {
        let mut piece = vec![0; 64 << 10];
        let _ = self.set_timeouts(Duration::from_millis(1), DEADLINE);
        let closed = match self.read(&mut piece) {
            Ok(0) => true,
            Ok(count) => {
                self.pending.extend_from_slice(&piece[..count]);
                false
            }
            Err(error) => is_gone(&error),
        };
        let _ = self.set_timeouts(Duration::from_millis(200), DEADLINE);
        closed
    }

    // Whole exchanges.

    /// One request and its whole answer.
    #[track_caller]
    pub fn request(&mut self, method: &str, params: Value) -> Value {
        let id = self.ask(method, params);
        self.answer(&id)
    }

    /// One request that must be granted: its result.
    #[track_caller]
    pub fn ok(&mut self, method: &str, params: Value) -> Value {
        granted(self.request(method, params))
    }

    /// One request that must be refused for this reason: the error.
    #[track_caller]
    pub fn refused(&mut self, method: &str, params: Value, reason: &str) -> Value {
        let shown = format!("{method} {:.400}", params.to_string());
        let answer = self.request(method, params);
        assert_eq!(answer["error"]["data"]["reason"], reason, "{shown}: {:.800}", answer.to_string());
        answer["error"].clone()
    }

    /// The daemon answers on this connection.
    #[track_caller]
    pub fn ping(&mut self) {
        assert_eq!(self.ok("system.ping", json!({})), json!({"pong": true}));
    }

    /// Opens a session and gives its id.
    #[track_caller]
    pub fn open(&mut self, params: Value) -> String {
        let result = self.ok("session.open", params);
        result["session"].as_str().unwrap_or_else(|| panic!("no session id: {result}")).to_owned()
    }

    /// Runs a shell line in a session of its own: the record.
    #[track_caller]
    pub fn run(&mut self, cmd: &str) -> Value {
        self.ok("exec.run", json!({"cmd": cmd}))
    }

    /// Runs a shell line in this session: the record.
    #[track_caller]
    pub fn run_in(&mut self, session: &str, cmd: &str) -> Value {
        self.ok("exec.run", json!({"session": session, "cmd": cmd}))
    }

    // Ends.

    /// Shuts the writing side, as `nc -N` does.
    pub fn half_close(&self) {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write).unwrap(),
        }
    }

    /// Ends a TCP connection with a reset instead of an orderly close.
    pub fn reset(self) {
        match &self.stream {
            Stream::Tcp(stream) => setsockopt(&stream.as_fd(), sockopt::Linger, &AT_ONCE).unwrap(),
            Stream::Unix(_) => panic!("a Unix socket has no reset"),
        }
    }

    /// Makes the kernel hold little of what this client does not read.
    pub fn shrink_receive_buffer(&self) {
        self.set_receive_buffer(4096);
    }

    /// For a client that reads after all: through a small buffer, megabytes take long.
    pub fn widen_receive_buffer(&self) {
        self.set_receive_buffer(1 << 20);
    }

    fn set_receive_buffer(&self, bytes: usize) {
        match &self.stream {
            Stream::Tcp(stream) => setsockopt(&stream.as_fd(), sockopt::RcvBuf, &bytes).unwrap(),
            Stream::Unix(stream) => setsockopt(&stream.as_fd(), sockopt::RcvBuf, &bytes).unwrap(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.read(piece),
            Stream::Unix(stream) => stream.read(piece),
        }
    }
}

/// The result of an answer that must be one.
#[track_caller]
pub fn granted(answer: Value) -> Value {
    match answer.get("result") {
        Some(result) => result.clone(),
        None => panic!("refused: {answer}"),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted)
}
