//! What it costs to be there: resident memory of the daemon (guard and runtime) when it does nothing, and with a
//! thousand sessions that do nothing.
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark is not the daemon: it starts, signals and waits as it likes"
)]

mod common;

use std::io;
use std::process::ExitCode;

use cofferdam::client::{Client, OpenSession};
use common::{Daemon, Outcome, row};

const SESSIONS: u64 = 1000;
const SESSIONS_SMOKE: u64 = 50;
const MIB: f64 = (1 << 20) as f64;

fn main() -> ExitCode {
    common::main("idle", bench)
}

fn bench(smoke: bool) -> Outcome {
    let sessions = if smoke { SESSIONS_SMOKE } else { SESSIONS };
    let daemon = Daemon::start(&[
        &format!("sessions.max_sessions={sessions}"),
        &format!("children.uid_count={sessions}"),
        &format!(
            "quotas.registered={{\"sessions\":{sessions},\"commands\":8,\"memory_bytes\":-1,\"processes\":-1,\
             \"buffer_bytes\":-1}}"
        ),
    ])?;
    let mut client = Client::connect(daemon.addr.as_str())?;
    let runtime: Info = serde_json::from_str(client.info()?.get())?;
    let pids = [daemon.pid.as_raw(), runtime.pid];

    let idle = Resident::of(&pids)?;
    row("idle, resident (Rss)", mib(idle.rss), Some(("<= 6 MiB", idle.rss <= 6.0 * MIB)));
    row("idle, proportional (Pss)", idle.pss.map_or("not readable".into(), mib), None);

    for _ in 0..sessions {
        client.open(&OpenSession::default())?;
    }
    client.ping()?;
    let full = Resident::of(&pids)?;
    let more = full.rss - idle.rss;
    row(&format!("with {sessions} idle sessions, resident (Rss)"), mib(full.rss), None);
    row(
        &format!("with {sessions} idle sessions, proportional (Pss)"),
        full.pss.map_or("not readable".into(), mib),
        None,
    );
    row("the sessions alone (Rss)", format!("+{}", mib(more)), Some(("<= +4 MiB", more <= 4.0 * MIB)));
    row("each session", format!("{:.2} KiB", more / 1024.0 / sessions as f64), None);
    row("ratio to the idle daemon", format!("{:.3}", full.rss / idle.rss), None);
    Ok(())
}

#[derive(serde::Deserialize)]
struct Info {
    pid: i32,
}

/// Memory of all processes of the daemon, in bytes.
struct Resident {
    /// What each has resident; what they share counts in each.
    rss: f64,
    /// The same with what is shared divided among those who share it.
    pss: Option<f64>,
}

impl Resident {
    fn of(pids: &[i32]) -> io::Result<Resident> {
        let mut all = Resident { rss: 0.0, pss: Some(0.0) };
        for pid in pids {
            // A daemon that is not dumpable shows its memory map to root alone, its size to all.
            match std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
                Ok(rollup) => {
                    all.rss += bytes(&rollup, "Rss:")?;
                    let pss = bytes(&rollup, "Pss:")?;
                    all.pss = all.pss.map(|sum| sum + pss);
                }
                Err(_) => {
                    all.rss += bytes(&std::fs::read_to_string(format!("/proc/{pid}/status"))?, "VmRSS:")?;
                    all.pss = None;
                }
            }
        }
        Ok(all)
    }
}

fn bytes(text: &str, key: &str) -> io::Result<f64> {
    let kib = text.lines().find_map(|line| line.strip_prefix(key)).and_then(|rest| rest.split_whitespace().next());
    let kib = kib.and_then(|kib| kib.parse::<f64>().ok());
    kib.map(|kib| kib * 1024.0).ok_or_else(|| io::Error::other(format!("no {key} in /proc")))
}

fn mib(bytes: f64) -> String {
    format!("{:.2} MiB", bytes / MIB)
}
