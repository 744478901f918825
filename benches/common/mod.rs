//! What every benchmark needs: the daemon as a process, the machine by name, and a verdict.

use std::fmt::Display;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Runs one benchmark. Only what could not be measured is a failure, a missed target is not: that depends on the
/// machine, and on what else it does.
pub fn main(name: &str, bench: impl FnOnce(bool) -> Outcome) -> ExitCode {
    let smoke = std::env::args().any(|arg| arg == "--smoke")
        || std::env::var_os("COFFERDAM_BENCH_SMOKE").is_some_and(|v| v == "1");
    println!("# {name}: {}", machine());
    println!("# again: cargo bench --bench {name}{}", if smoke { " -- --smoke" } else { "" });
    if smoke {
        println!("# a smoke run: it shows that the benchmark works, its figures say little");
    }
    match bench(smoke) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One row: what, how much, and whether that is as much as was promised.
pub fn row(what: &str, figure: impl Display, target: Option<(&str, bool)>) {
    match target {
        Some((target, met)) => {
            println!("{what:<44} {figure:>16}   target {target}: {}", if met { "met" } else { "missed" });
        }
        None => println!("{what:<44} {figure:>16}"),
    }
}

/// CPU model, cores and kernel.
fn machine() -> String {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown CPU");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{}, {cores} cores, Linux {}", model.trim_start_matches(['\t', ' ', ':']), kernel.trim())
}

/// A daemon on a port of its own, ended when dropped.
pub struct Daemon {
    child: Child,
    /// `IP:PORT`.
    pub addr: String,
    /// The process to signal.
    pub pid: Pid,
}

impl Daemon {
    /// Starts the program under test with its defaults and these keys.
    pub fn start(sets: &[&str]) -> io::Result<Daemon> {
        Daemon::start_other(env!("CARGO_BIN_EXE_cofferdam"), sets)
    }

    /// Starts another version of the program, to be compared with.
    pub fn start_other(program: impl AsRef<std::ffi::OsStr>, sets: &[&str]) -> io::Result<Daemon> {
        let mut command = Command::new(program);
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        for set in sets {
            command.args(["--set", *set]);
        }
        // A folder without a config.json: the built-in defaults count.
        command
            .current_dir(env!("CARGO_TARGET_TMPDIR"))
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().ok_or_else(|| io::Error::other("no stdout"))?;
        let mut ready = String::new();
        BufReader::new(stdout).read_line(&mut ready)?;
        let spawned = i32::try_from(child.id()).map_err(io::Error::other)?;
        let mut daemon = Daemon { child, addr: String::new(), pid: Pid::from_raw(spawned) };
        let ready: Ready = serde_json::from_str(&ready)
            .map_err(|error| io::Error::other(format!("the daemon did not start: {error}")))?;
        (daemon.addr, daemon.pid) = (ready.listen, Pid::from_raw(ready.pid));
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

#[derive(serde::Deserialize)]
struct Ready {
    listen: String,
    pid: i32,
}

/// How often something happened, and in what time.
#[derive(Default, Clone, Copy)]
pub struct Tally {
    pub count: u64,
    pub took: Duration,
}

#[allow(dead_code, reason = "not every benchmark is about rates")]
impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.count += other.count;
        self.took += other.took;
    }

    pub fn per_s(self) -> f64 {
        self.count as f64 / self.took.as_secs_f64().max(1e-9)
    }
}
