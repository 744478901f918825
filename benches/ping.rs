//! How many requests a second: `system.ping` over fifty connections, one at a time and sixteen in flight on each,
//! against a server that answers every line with the same line. Same client, and the two take turns.
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark is not the daemon: it starts, signals and waits as it likes"
)]

mod common;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::{Daemon, Outcome, Tally, row};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

const CONNECTIONS: usize = 50;
/// A connection that waits as long for an answer will not get one.
const ANSWER_MS_MAX: u16 = 10_000;

fn main() -> ExitCode {
    common::main("ping", bench)
}

fn bench(smoke: bool) -> Outcome {
    let (slices, slice) = match smoke {
        true => (2, Duration::from_millis(200)),
        false => (8, Duration::from_millis(500)),
    };
    let daemon = Daemon::start(&[])?;
    let echo = echo_server()?;
    for (depth, target) in [(1, 60_000.0), (16, 500_000.0)] {
        let mut to_daemon = Pinger::new(&daemon.addr, depth)?;
        let mut to_echo = Pinger::new(&echo, depth)?;
        let (mut ours, mut theirs) = (Tally::default(), Tally::default());
        to_daemon.run_for(slice / 4)?;
        to_echo.run_for(slice / 4)?;
        for _ in 0..slices {
            ours.add(to_daemon.run_for(slice)?);
            theirs.add(to_echo.run_for(slice)?);
        }
        let each = |tally: Tally| format!("{:.0}/s", tally.per_s());
        let met = ours.per_s() >= target;
        let what = format!("system.ping, {CONNECTIONS} connections, {depth} in flight");
        row(&what, each(ours), Some((&format!(">= {target:.0}/s"), met)));
        row("reference: a server that echoes", each(theirs), None);
        row("ratio", format!("{:.3}", ours.per_s() / theirs.per_s()), None);
    }
    Ok(())
}

/// Requests of one length, with ids that come again only long after their answer.
struct Requests {
    bytes: Vec<u8>,
    len: usize,
}

impl Requests {
    fn new() -> Requests {
        let all: Vec<String> = (1000..2024)
            .map(|id| format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"system.ping\"}}\n"))
            .collect();
        Requests { len: all[0].len(), bytes: all.concat().into_bytes() }
    }
}

/// One connection: where in the requests it is, and what of them it has yet to write.
struct Connection {
    stream: TcpStream,
    at: usize,
    owed_bytes: usize,
}

impl Connection {
    fn ask(&mut self, requests: &Requests, count: usize) -> io::Result<()> {
        self.owed_bytes += count * requests.len;
        while self.owed_bytes > 0 {
            let end = (self.at + self.owed_bytes).min(requests.bytes.len());
            // A socket that takes no more than sixteen requests is not the one to measure: an error.
            let written = self.stream.write(&requests.bytes[self.at..end])?;
            self.at = (self.at + written) % requests.bytes.len();
            self.owed_bytes -= written;
        }
        Ok(())
    }
}

/// The client: all connections on one thread.
struct Pinger {
    connections: Vec<Connection>,
    epoll: Epoll,
    requests: Requests,
    depth: usize,
}

impl Pinger {
    fn new(addr: &str, depth: usize) -> io::Result<Pinger> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let connect = |n: usize| {
            let stream = TcpStream::connect(addr)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, n as u64))?;
            Ok(Connection { stream, at: 0, owed_bytes: 0 })
        };
        let connections = (0..CONNECTIONS).map(connect).collect::<io::Result<Vec<_>>>()?;
        Ok(Pinger { connections, epoll, requests: Requests::new(), depth })
    }

    fn run_for(&mut self, slice: Duration) -> io::Result<Tally> {
        let start = Instant::now();
        let mut count = 0;
        for connection in &mut self.connections {
            connection.ask(&self.requests, self.depth)?;
        }
        let mut waiting = self.depth * self.connections.len();
        let mut events = [EpollEvent::empty(); CONNECTIONS];
        let mut buf = vec![0; 64 << 10];
        let mut checked = false;
        while waiting > 0 {
            let ready = self.epoll.wait(&mut events, EpollTimeout::from(ANSWER_MS_MAX))?;
            if ready == 0 {
                return Err(io::Error::other("no answer"));
            }
            let more = start.elapsed() < slice;
            for event in &events[..ready] {
                let connection = &mut self.connections[event.data() as usize];
                let read = connection.stream.read(&mut buf)?;
                if !checked {
                    checked = true;
                    if !contains(&buf[..read], b"\"pong\":true") {
                        let text = String::from_utf8_lossy(&buf[..read]).into_owned();
                        return Err(io::Error::other(format!("no pong: {text:?}")));
                    }
                }
                let answered = lines(&buf[..read]);
                count += answered as u64;
                match more {
                    true => connection.ask(&self.requests, answered)?,
                    false => waiting = waiting.checked_sub(answered).ok_or(io::ErrorKind::InvalidData)?,
                }
            }
        }
        Ok(Tally { count, took: start.elapsed() })
    }
}

fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// The reference: one thread that answers each line with the same line. It ends with this process.
fn echo_server() -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?.to_string();
    std::thread::Builder::new().name("echo".into()).spawn(move || {
        if let Err(error) = echo(&listener) {
            eprintln!("ping: the reference server failed: {error}");
            std::process::exit(1);
        }
    })?;
    Ok(addr)
}

fn echo(listener: &TcpListener) -> io::Result<()> {
    const LISTENER: u64 = u64::MAX;
    let answers = b"{\"jsonrpc\":\"2.0\",\"id\":1000,\"result\":{\"pong\":true}}\n".repeat(1024);
    let line_bytes = answers.len() / 1024;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut streams: Vec<Option<TcpStream>> = Vec::new();
    let mut events = [EpollEvent::empty(); 64];
    let mut buf = vec![0; 64 << 10];
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            if event.data() == LISTENER {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, streams.len() as u64))?;
                streams.push(Some(stream));
                continue;
            }
            let slot = &mut streams[event.data() as usize];
            let Some(stream) = slot else { continue };
            match stream.read(&mut buf) {
                Ok(0) | Err(_) => *slot = None,
                Ok(read) => stream.write_all(&answers[..lines(&buf[..read]) * line_bytes])?,
            }
        }
    }
}
