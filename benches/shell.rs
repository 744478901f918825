//! How many commands a second one session's shell runs, one at a time: `:` and `echo`, over one connection, for the
//! standard shell and for bash; and what the same costs with a process for each.
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark is not the daemon: it starts, signals and waits as it likes"
)]

mod common;

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::{Daemon, Outcome, Tally, row};
use serde_json::{Value, json};

const TARGET: f64 = 5000.0;

fn main() -> ExitCode {
    common::main("shell", bench)
}

fn bench(smoke: bool) -> Outcome {
    let (slices, slice) = match smoke {
        true => (2, Duration::from_millis(200)),
        false => (8, Duration::from_millis(500)),
    };
    let daemon = Daemon::start(&["children.run_as=\"same\""])?;
    let mut client = Client::new(&daemon.addr)?;
    for (shell, name) in [(json!(true), "/bin/sh"), (json!("/bin/bash"), "/bin/bash")] {
        if !Path::new(name).exists() {
            println!("{name:<44} {:>16}", "not here");
            continue;
        }
        let session = client.call("session.open", &json!({"shell": shell}))?["session"].clone();
        for (cmd, output) in [(":", ""), ("echo hi", "hi\n")] {
            let tally = client.run_for(&session, cmd, output, slices, slice)?;
            let met = tally.per_s() >= TARGET;
            let target = (cmd == ":").then_some((">= 5000/s", met));
            row(&format!("{name}, `{cmd}`, one at a time"), format!("{:.0}/s", tally.per_s()), target);
        }
        client.call("session.close", &json!({"session": session}))?;
    }
    let session = client.call("session.open", &json!({}))?["session"].clone();
    let tally = client.run_for(&session, ":", "", slices, slice)?;
    row("reference: `:`, a process for each", format!("{:.0}/s", tally.per_s()), None);
    Ok(())
}

/// One connection, one request in flight.
struct Client {
    stream: TcpStream,
    lines: BufReader<TcpStream>,
    line: String,
    id: u64,
}

impl Client {
    fn new(addr: &str) -> io::Result<Client> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(Client { lines: BufReader::new(stream.try_clone()?), stream, line: String::new(), id: 0 })
    }

    fn call(&mut self, method: &str, params: &Value) -> io::Result<Value> {
        self.id += 1;
        let request = format!("{{\"id\":{},\"method\":\"{method}\",\"params\":{params}}}\n", self.id);
        self.stream.write_all(request.as_bytes())?;
        self.line.clear();
        self.lines.read_line(&mut self.line)?;
        let mut answer: Value = serde_json::from_str(&self.line).map_err(io::Error::other)?;
        match answer.get_mut("result") {
            Some(result) => Ok(result.take()),
            None => Err(io::Error::other(self.line.clone())),
        }
    }

    fn run_for(&mut self, session: &Value, cmd: &str, output: &str, slices: u32, slice: Duration) -> io::Result<Tally> {
        let params = json!({"session": session, "cmd": cmd});
        let mut tally = Tally::default();
        self.one(&params, output)?;
        let start = Instant::now();
        while start.elapsed() < slice * slices {
            self.one(&params, output)?;
            tally.count += 1;
        }
        tally.took = start.elapsed();
        Ok(tally)
    }

    fn one(&mut self, params: &Value, output: &str) -> io::Result<()> {
        let record = self.call("exec.run", params)?;
        match record["status"] == "exited" && record["exit_code"] == 0 && record["stdout"] == output {
            true => Ok(()),
            false => Err(io::Error::other(format!("an odd record: {record}"))),
        }
    }
}
