//! The listeners: one TCP port, one Unix socket. Accepting pauses by a timer when the system has no room.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mio::net::{TcpListener, UnixListener};
use mio::{Interest, Registry, Token};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::stat::{Mode, umask};

use super::socket::{Peer, Socket};
use crate::config::Config;
use crate::protocol::answer;
use crate::protocol::fault::Fault;

const TCP: Token = Token(usize::MAX - 1);
const UNIX: Token = Token(usize::MAX - 2);

/// Out of descriptors or memory: nothing is accepted for so long. What waits in the backlog is not forgotten.
const PAUSE: Duration = Duration::from_millis(200);
/// Of kernel memory for each connection's sending; what never reads parks no more than that.
const SOCKET_BYTES: usize = 64 * 1024;
/// Connections accepted in a turn.
const ACCEPTS_A_TURN: usize = 64;

#[derive(Debug)]
pub struct Listeners {
    tcp: Option<TcpListener>,
    unix: Option<(UnixListener, PathBuf)>,
    tcp_ready: bool,
    unix_ready: bool,
    resume_at: Option<Instant>,
    accepted_in_turn: usize,
}

/// Which listener could not be opened, and why.
#[derive(Debug)]
pub struct ListenError {
    pub what: String,
    pub error: io::Error,
}

impl std::fmt::Display for ListenError {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "cannot listen on {}: {}", self.what, self.error)
    }
}

impl Listeners {
    /// Opens what is configured. To be called while no other thread makes files: the umask is changed for a moment,
    /// so that the Unix socket is never, not even at its birth, open to others.
    pub fn open(config: &Config, registry: &Registry) -> Result<Listeners, ListenError> {
        let tcp = match &config.listen {
            Some(address) => Some(
                open_tcp(address, registry)
                    .map_err(|error| ListenError { what: address.clone(), error: explained(error) })?,
            ),
            None => None,
        };
        let unix = match &config.unix_socket {
            Some(path) => {
                let opened = open_unix(path, config.unix_socket_mode.0, registry);
                let opened = opened.map_err(|error| ListenError { what: path.display().to_string(), error })?;
                Some((opened, path.clone()))
            }
            None => None,
        };
        Ok(Listeners { tcp, unix, tcp_ready: true, unix_ready: true, resume_at: None, accepted_in_turn: 0 })
    }

    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().and_then(|tcp| tcp.local_addr().ok())
    }

    pub fn owns(token: Token) -> bool {
        token == TCP || token == UNIX
    }

    pub fn ready(&mut self, token: Token) {
        match token {
            TCP => self.tcp_ready = true,
            _ => self.unix_ready = true,
        }
    }

    /// When accepting goes on; at once where a turn's budget was used up.
    pub fn resume_at(&self) -> Option<Instant> {
        self.resume_at
    }

    /// The next connection that waits, until there is none or the turn's budget is used up.
    pub fn accept(&mut self, now: Instant) -> Option<(Socket, Peer)> {
        if self.resume_at.is_some_and(|at| now < at) {
            return None;
        }
        self.resume_at = None;
        if self.accepted_in_turn >= ACCEPTS_A_TURN {
            self.accepted_in_turn = 0;
            self.resume_at = Some(now);
            return None;
        }
        let accepted = self.accept_unix().or_else(|| self.accept_tcp());
        match accepted {
            None => {
                self.accepted_in_turn = 0;
                None
            }
            Some(Ok(accepted)) => {
                self.accepted_in_turn += 1;
                Some(accepted)
            }
            Some(Err(error)) => {
                log::warn!("accepting pauses for {} ms: {error}", PAUSE.as_millis());
                self.accepted_in_turn = 0;
                self.resume_at = Some(now + PAUSE);
                None
            }
        }
    }

    fn accept_unix(&mut self) -> Option<io::Result<(Socket, Peer)>> {
        let (listener, _) = self.unix.as_ref()?;
        while self.unix_ready {
            match listener.accept() {
                Ok((stream, _)) => {
                    let peer = Peer::of_unix(&stream);
                    return Some(Ok((Socket::Unix(stream), peer)));
                }
                Err(error) => match after(&error) {
                    After::Empty => self.unix_ready = false,
                    After::Next => {}
                    After::Pause => return Some(Err(error)),
                },
            }
        }
        None
    }

    fn accept_tcp(&mut self) -> Option<io::Result<(Socket, Peer)>> {
        let listener = self.tcp.as_ref()?;
        while self.tcp_ready {
            match listener.accept() {
                Ok((stream, address)) => {
                    let _ = stream.set_nodelay(true);
                    keep_alive(&stream);
                    return Some(Ok((Socket::Tcp(stream), Peer::of_tcp(address.ip()))));
                }
                Err(error) => match after(&error) {
                    After::Empty => self.tcp_ready = false,
                    After::Next => {}
                    After::Pause => return Some(Err(error)),
                },
            }
        }
        None
    }
}

/// One line, and the end: there is no room for the connection.
pub fn turn_away(mut socket: Socket, fault: &Fault) {
    let mut line = Vec::new();
    answer::whole("null", &mut line, |line| fault.encode(line));
    line.push(b'\n');
    // What it has sent already is taken first: closing with unread bytes would reset the connection, and the line with
    // it. A new connection's buffer is empty, so the line fits.
    let mut sent = [0; 4096];
    let _ = socket.write(&line);
    socket.shutdown_write();
    for _ in 0..16 {
        if !matches!(socket.read(&mut sent), Ok(1..)) {
            break;
        }
    }
}

enum After {
    Empty,
    /// This one is gone already; the next may be there.
    Next,
    Pause,
}

fn after(error: &io::Error) -> After {
    match error.kind() {
        io::ErrorKind::WouldBlock => After::Empty,
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => After::Next,
        // EMFILE, ENFILE, ENOMEM, ENOBUFS, and whatever else would come again at once.
        _ => After::Pause,
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        if let Some((_, path)) = &self.unix {
            // What is there may be a successor's by now; but it would have refused to start while we answered.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn open_tcp(address: &str, registry: &Registry) -> io::Result<TcpListener> {
    let address = address.replacen("localhost:", "127.0.0.1:", 1);
    let address: SocketAddr =
        address.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not IP:PORT"))?;
    let mut listener = TcpListener::bind(address)?;
    // Connections inherit it.
    setsockopt(&listener, sockopt::SndBuf, &SOCKET_BYTES)?;
    registry.register(&mut listener, TCP, Interest::READABLE)?;
    Ok(listener)
}

/// Finds peers that vanished without a word.
fn keep_alive(stream: &mio::net::TcpStream) {
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &30);
    let _ = setsockopt(stream, sockopt::TcpKeepInterval, &10);
    let _ = setsockopt(stream, sockopt::TcpKeepCount, &3);
}

fn explained(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            io::Error::new(error.kind(), "the address is in use (another daemon? try another port, or 0 for any)")
        }
        _ => error,
    }
}

fn open_unix(path: &Path, mode: u32, registry: &Registry) -> io::Result<UnixListener> {
    if let Ok(facts) = std::fs::symlink_metadata(path) {
        use std::os::unix::fs::FileTypeExt;
        if !facts.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is not a socket"));
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
            _ => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon answers there")),
        }
    }
    // It is born with its mode: changed by its path afterwards, it could be another file by then.
    let before = umask(Mode::from_bits_truncate(!mode & 0o777));
    let bound = UnixListener::bind(path);
    umask(before);
    let mut listener = bound?;
    let opened = born_with(path, mode).and_then(|()| registry.register(&mut listener, UNIX, Interest::READABLE));
    if let Err(error) = opened {
        let _ = std::fs::remove_file(path);
        return Err(error);
    }
    Ok(listener)
}

/// A default ACL of the folder takes the place of the umask.
fn born_with(path: &Path, mode: u32) -> io::Result<()> {
    let found = std::fs::symlink_metadata(path)?.permissions().mode() & 0o777;
    if found == mode & 0o777 {
        return Ok(());
    }
    let what =
        format!("its mode would be {found:04o}, not {mode:04o}: the folder has a default ACL (setfacl -k FOLDER)");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, what))
}
