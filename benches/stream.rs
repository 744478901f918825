//! How much a streamed command delivers to one client on loopback: text, bytes that are no text, and a terminal. The
//! client reads, finds the line ends, and adds up; the daemon's memory is looked at meanwhile. The reference passes the
//! same text on as it is, from a pipe to a socket.
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark is not the daemon: it starts, signals and waits as it likes"
)]

mod common;

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use common::{Daemon, Outcome, row};
use serde_json::{Value, json};

const MIB: f64 = (1 << 20) as f64;
const TEXT: &str = "The quick brown fox jumps over the lazy dog, 0123456789 times and more.";
const TARGET_MIB_S: f64 = 150.0;
/// What the daemon may hold of a stream: pieces under way, buffers of the sockets, and the allocator's slack.
const GROWTH_MIB_MAX: f64 = 8.0;

fn main() -> ExitCode {
    common::main("stream", bench)
}

fn bench(smoke: bool) -> Outcome {
    let slice = if smoke { Duration::from_millis(500) } else { Duration::from_secs(4) };
    let daemon = Daemon::start(&[])?;
    let text = format!("yes '{TEXT}'");
    let cases = [
        ("text", json!({"cmd": format!("exec {text}")}), Some(TARGET_MIB_S)),
        ("bytes (base64)", json!({"cmd": "exec dd if=/dev/zero bs=64k status=none"}), None),
        ("text, on a terminal", json!({"cmd": format!("exec {text}"), "pty": {"cols": 80, "rows": 24}}), None),
    ];
    // Buffers grow to their size once.
    stream(&daemon, cases[0].1.clone(), slice / 4)?;
    for (what, params, target) in cases {
        let run = stream(&daemon, params, slice)?;
        let rate = run.bytes as f64 / MIB / run.took.as_secs_f64();
        let promised = format!(">= {TARGET_MIB_S:.0} MiB/s");
        row(what, format!("{rate:.0} MiB/s"), target.map(|target| (promised.as_str(), rate >= target)));
        let growth = (run.rss_max_bytes.saturating_sub(run.rss_bytes)) as f64 / MIB;
        let flat = format!("<= {GROWTH_MIB_MAX:.0} MiB");
        if target.is_some() {
            let reference = pass_on(slice)? / MIB;
            row("  reference: a loop that reads and writes", format!("{reference:.0} MiB/s"), None);
            row("  ratio", format!("{:.3}", rate / reference), None);
        }
        row("  growth of the daemon meanwhile", format!("{growth:.1} MiB"), Some((&flat, growth <= GROWTH_MIB_MAX)));
    }
    Ok(())
}

/// Bytes a second that a plain loop passes on, from the same command to a client that reads the same way.
fn pass_on(slice: Duration) -> io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    let mut command = Command::new("yes").arg(TEXT).stdout(Stdio::piped()).spawn()?;
    let mut pipe = command.stdout.take().ok_or_else(|| io::Error::other("no stdout"))?;
    let passing = std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        // Ends when the client is gone.
        while let Ok(read @ 1..) = pipe.read(&mut buffer) {
            if server.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
    });
    let mut buffer = vec![0; 1 << 20];
    let (start, mut bytes, mut lines) = (Instant::now(), 0, 0);
    while start.elapsed() < slice {
        let read = client.read(&mut buffer)?;
        bytes += read;
        lines += memchr::memchr_iter(b'\n', &buffer[..read]).count();
    }
    let took = start.elapsed();
    drop(client);
    let _ = passing.join();
    command.kill()?;
    command.wait()?;
    assert!(lines > 0, "no line in {bytes} bytes");
    Ok(bytes as f64 / took.as_secs_f64())
}

struct Run {
    bytes: u64,
    took: Duration,
    rss_bytes: u64,
    rss_max_bytes: u64,
}

/// One command that writes until its time is over.
fn stream(daemon: &Daemon, mut params: Value, slice: Duration) -> Result<Run, Box<dyn std::error::Error>> {
    let mut control = TcpStream::connect(&daemon.addr)?;
    let rss_bytes = rss(&mut control)?;
    let mut socket = TcpStream::connect(&daemon.addr)?;
    params["stream"] = json!(true);
    params["timeout_s"] = json!(slice.as_secs_f64());
    params["kill_grace_ms"] = json!(0);
    let start = Instant::now();
    writeln!(socket, "{}", json!({"id": 1, "method": "exec.run", "params": params}))?;
    let mut buffer = vec![0; 1 << 20];
    let (mut line, mut rss_max_bytes, mut look) = (Vec::new(), 0, start + slice / 8);
    let record: Value = 'reading: loop {
        let read = socket.read(&mut buffer)?;
        if read == 0 {
            return Err("the daemon closed the connection".into());
        }
        let mut rest = &buffer[..read];
        while let Some(end) = memchr::memchr(b'\n', rest) {
            // Only the beginning of a line is kept, and that of the last is all of it.
            line.extend_from_slice(&rest[..end.min(4096)]);
            if line.starts_with(b"{\"jsonrpc\":\"2.0\",\"id\":1,") {
                break 'reading serde_json::from_slice(&line)?;
            }
            line.clear();
            rest = &rest[end + 1..];
        }
        line.extend_from_slice(&rest[..rest.len().min(4096)]);
        if Instant::now() >= look {
            look += slice / 8;
            rss_max_bytes = rss_max_bytes.max(rss(&mut control)?);
        }
    };
    let took = start.elapsed();
    let bytes = record["result"]["stdout_bytes"].as_u64().ok_or_else(|| format!("no record: {record}"))?;
    Ok(Run { bytes, took, rss_bytes, rss_max_bytes })
}

/// Resident memory of the daemon, as it says itself.
fn rss(control: &mut TcpStream) -> io::Result<u64> {
    control.write_all(b"{\"id\":1,\"method\":\"system.stats\"}\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 16 << 10];
    while answer.last() != Some(&b'\n') {
        match control.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&piece[..read]),
        }
    }
    let answer: Value = serde_json::from_slice(&answer)?;
    answer["result"]["process"]["rss_bytes"].as_u64().ok_or_else(|| io::Error::other("no rss_bytes"))
}
