//! A running daemon, and what must hold when a test is done with it.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::panic::AssertUnwindSafe;
use std::process::{Child, ExitStatus};
use std::sync::{PoisonError, mpsc};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::conn::{Conn, Transcript};
use super::launch::{Launch, MARK};
use super::{DEADLINE, procs, shape, wait_until};

/// A daemon of a test's own. Going out of scope it is checked for anything left, stopped, and checked again.
pub struct Daemon {
    child: Child,
    pub launch: Launch,
    /// The guard: the process to signal.
    pub pid: i32,
    /// The runtime: `system.info.pid`.
    pub runtime_pid: i32,
    pub address: Option<SocketAddr>,
    /// The ready line.
    pub ready: Value,
    transcript: Transcript,
    baseline: Baseline,
    /// Guard and runtime, as they were right after the start.
    own: Vec<procs::Process>,
    exit: Option<ExitStatus>,
    checked: bool,
    /// The test ends it in a way that leaves nobody to tidy up.
    pub killed: bool,
}

/// What the runtime held right after its start, one connection open.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Baseline {
    descriptors: u64,
    threads: u64,
}

impl Daemon {
    /// Starts a daemon with these settings on top of the defaults of the tests.
    #[track_caller]
    pub fn start(settings: &[(&str, Value)]) -> Daemon {
        Launch::new().set_all(settings).start()
    }

    #[track_caller]
    pub fn launch(launch: Launch) -> Daemon {
        let mut child = launch.command().spawn().unwrap();
        let lines = read_lines(&mut child);
        let line = lines.recv_timeout(DEADLINE).unwrap_or_else(|_| {
            let _ = child.kill();
            let log = std::fs::read_to_string(launch.log()).unwrap_or_default();
            panic!("no ready line; the log:\n{log}");
        });
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let address = ready["listen"].as_str().map(|text| text.parse().unwrap());
        Daemon::adopt(child, launch, ready, address)
    }

    /// Takes charge of a daemon that can be connected to.
    #[track_caller]
    pub fn adopt(child: Child, launch: Launch, ready: Value, address: Option<SocketAddr>) -> Daemon {
        let mut daemon = Daemon {
            pid: child.id() as i32,
            child,
            launch,
            runtime_pid: 0,
            address,
            ready,
            transcript: Transcript::default(),
            baseline: Baseline { descriptors: 0, threads: 0 },
            own: Vec::new(),
            exit: None,
            checked: false,
            killed: false,
        };
        let mut control = daemon.control();
        daemon.runtime_pid = control.ok("system.info", json!({}))["pid"].as_i64().unwrap() as i32;
        daemon.own = [daemon.pid, daemon.runtime_pid].into_iter().filter_map(procs::one).collect();
        daemon.baseline = daemon.held(&mut control);
        daemon
    }

    // Connections.

    /// A connection over TCP.
    #[track_caller]
    pub fn tcp(&self) -> Conn {
        Conn::tcp(self.address.expect("this daemon listens on TCP"), &self.transcript).unwrap()
    }

    /// A connection over TCP from 127.0.0.`number`, the client `ip:127.0.0.number`. Dropped, it is reset.
    #[track_caller]
    pub fn tcp_as(&self, number: u8) -> Conn {
        let Some(SocketAddr::V4(address)) = self.address else { panic!("this daemon listens on no IPv4 address") };
        Conn::tcp_from(Ipv4Addr::new(127, 0, 0, number), address, &self.transcript).unwrap()
    }

    /// A connection over the Unix socket: as root or the daemon's own user, an admin.
    #[track_caller]
    pub fn unix(&self) -> Conn {
        Conn::unix(&self.launch.socket(), &self.transcript).unwrap()
    }

    /// A connection that is served, for looking at the daemon from outside of what a test does.
    #[track_caller]
    pub fn control(&self) -> Conn {
        wait_until("a connection is served", DEADLINE, || {
            let mut conn = match self.launch.unix {
                true => Conn::unix(&self.launch.socket(), &self.transcript).ok()?,
                false => Conn::tcp(self.address?, &self.transcript).ok()?,
            };
            conn.try_send_bytes("{\"id\":\"served?\",\"method\":\"system.ping\"}\n").ok()?;
            conn.recv_or_end()?.get("result").is_some().then_some(conn)
        })
    }

    /// The statistics as they are now; their identities hold.
    #[track_caller]
    pub fn stats(&self) -> Value {
        stats(&mut self.control())
    }

    /// Waits until the statistics show what `fact` looks for.
    #[track_caller]
    pub fn stats_show<T>(&self, what: &str, fact: impl Fn(&Value) -> Option<T>) -> T {
        let mut control = self.control();
        wait_until(what, DEADLINE, || fact(&stats(&mut control)))
    }

    /// Waits until so many commands run.
    #[track_caller]
    pub fn wait_running(&self, count: u64) {
        self.stats_show(&format!("{count} commands run"), |stats| {
            (stats["commands"]["running"] == count).then_some(())
        });
    }

    // Processes.

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid), signal).unwrap();
    }

    pub fn signal_runtime(&self, signal: Signal) {
        kill(Pid::from_raw(self.runtime_pid), signal).unwrap();
    }

    /// Does something while the runtime stands still, so that all of it is there at once when it goes on.
    #[track_caller]
    pub fn while_stopped(&self, act: impl FnOnce()) {
        let stands_still = |pid: i32| {
            wait_until("it stands still", DEADLINE, || (procs::one(pid)?.state == 'T').then_some(()));
        };
        // The guard first: it would have the runtime go on.
        self.signal(Signal::SIGSTOP);
        stands_still(self.pid);
        self.signal_runtime(Signal::SIGSTOP);
        stands_still(self.runtime_pid);
        act();
        self.signal_runtime(Signal::SIGCONT);
        self.signal(Signal::SIGCONT);
    }

    /// Processes that it started, itself not counted.
    pub fn commands(&self) -> Vec<procs::Process> {
        let mut found = procs::marked(&self.mark());
        found.extend(procs::of_uids(self.launch.uids.clone()));
        found.retain(|process| process.pid != self.pid && process.pid != self.runtime_pid);
        found.sort_by_key(|process| process.pid);
        found.dedup_by_key(|process| process.pid);
        found
    }

    /// What every process of it carries in its environment.
    fn mark(&self) -> String {
        format!("{MARK}={}", self.launch.mark)
    }

    /// Everything that is left of it anywhere.
    pub fn remains(&self) -> Vec<procs::Process> {
        let is_still_there = |own: &&procs::Process| {
            procs::one(own.pid).is_some_and(|now| now.started == own.started && now.state != 'Z')
        };
        let own = self.own.iter().filter(is_still_there).cloned();
        own.chain(self.commands()).collect()
    }

    /// Waits until its guard has exited: how.
    #[track_caller]
    pub fn exit(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = wait_until("the daemon exits", DEADLINE, || child.try_wait().unwrap());
        self.exit = Some(status);
        status
    }

    /// Asks it to stop, and expects it to stop in order.
    #[track_caller]
    pub fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
        self.expect_clean_exit();
    }

    #[track_caller]
    pub fn expect_clean_exit(&mut self) {
        let status = self.exit();
        assert_eq!(status.code(), Some(0), "exit code 0, not {status} (signal {:?})", status.signal());
    }

    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.launch.log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Share of one core that the runtime takes while a second goes by, `conn` being asked all the time.
    #[track_caller]
    pub fn cpu_share(&self, conn: &mut Conn) -> f64 {
        let mut look = || {
            let stats = stats(conn);
            (stats["uptime_ms"].as_f64().unwrap(), cpu_ms(self.runtime_pid))
        };
        let start = look();
        let end = wait_until("a second goes by", DEADLINE, || Some(look()).filter(|now| now.0 > start.0 + 1000.0));
        (end.1 - start.1) / (end.0 - start.0)
    }

    // The end of a test.

    /// Asserts that nothing is left, stops it, and asserts that again. Happens by itself at the end of a test.
    #[track_caller]
    pub fn finish(&mut self) {
        self.checked = true;
        if self.exit.is_none() {
            self.settle();
            self.terminate();
        }
        self.expect_nothing_left();
        // inv5: no test provokes a panic on purpose.
        let log = self.log();
        assert!(!log.contains("panicked"), "a panic:\n{log}");
    }

    /// inv15, inv9: what a test leaves, the daemon has given back; only persistent sessions may still be there.
    #[track_caller]
    fn settle(&self) {
        let mut control = self.control();
        wait_until("only persistent sessions are left", DEADLINE, || {
            let sessions = sessions(&mut control);
            sessions.iter().all(|session| session["persist"] == true).then_some(())
        });
        for session in sessions(&mut control) {
            control.ok("session.close", json!({"session": session["session"]}));
        }
        wait_until("no session, no command and one connection are left", DEADLINE, || {
            let stats = stats(&mut control);
            let idle = stats["sessions"]["current"] == 0 && stats["commands"]["running"] == 0;
            (idle && stats["connections"]["current"] == 1).then_some(())
        });
        self.expect_unused(&mut control);
        wait_until("no child of the runtime or the guard is left", DEADLINE, || {
            let children = [procs::children(self.runtime_pid), procs::children(self.pid)].concat();
            children.iter().all(|child| child.pid == self.runtime_pid).then_some(())
        });
        let mut held = self.baseline;
        let settled = std::panic::catch_unwind(AssertUnwindSafe(|| {
            wait_until("descriptors and threads are back to those of the start", DEADLINE, || {
                held = self.held(&mut control);
                let is_back = held.descriptors <= self.baseline.descriptors && held.threads <= self.baseline.threads;
                is_back.then_some(())
            })
        }));
        assert!(settled.is_ok(), "left: {held:?}, at the start: {:?}", self.baseline);
    }

    /// inv9: of what clients had claimed, all is given back. Where there is a rate, asking would itself be refused or put off.
    #[track_caller]
    fn expect_unused(&self, control: &mut Conn) {
        if self.launch.has_rate() {
            return;
        }
        // What is remembered for a retry key stays for its window.
        let remembers = self.transcript.lock().unwrap().iter().any(|line| line.contains("\"key\":"));
        let others = (1..=4).map(|number| json!({"client": format!("ip:127.0.0.{number}")}));
        let others = others.filter(|_| self.launch.unix);
        for params in std::iter::once(json!({})).chain(others) {
            let mut shown = Value::Null;
            let settled = std::panic::catch_unwind(AssertUnwindSafe(|| {
                wait_until("all that was claimed is given back", DEADLINE, || {
                    shown = control.ok("limit.show", params.clone());
                    let limits = shown["limits"].as_object().unwrap();
                    let given_back =
                        |(name, limit): (&String, &Value)| limit["usage"] == 0 || (remembers && name == "buffer_bytes");
                    limits.iter().all(given_back).then_some(())
                })
            }));
            assert!(settled.is_ok(), "still in use: {shown}");
        }
    }

    /// inv15: no child survives the daemon.
    #[track_caller]
    fn expect_nothing_left(&self) {
        if self.killed {
            wait_until("everything of the daemon is gone", DEADLINE, || self.remains().is_empty().then_some(()));
            return;
        }
        let remains = self.remains();
        assert!(remains.is_empty(), "left behind: {remains:?}");
        assert!(!self.launch.socket().exists(), "the Unix socket is still there");
    }

    /// Descriptors and threads of the runtime now: from /proc, or where it hides itself from what it says.
    fn held(&self, control: &mut Conn) -> Baseline {
        if let Some((descriptors, threads)) = procs::descriptors_and_threads(self.runtime_pid) {
            return Baseline { descriptors: descriptors as u64, threads: threads as u64 };
        }
        let process = &stats(control)["process"];
        Baseline { descriptors: process["fds"].as_u64().unwrap(), threads: process["threads"].as_u64().unwrap() }
    }

    /// Everything that helps to understand a failure without running it again.
    fn report(&self) {
        let transcript = self.transcript.lock().unwrap_or_else(PoisonError::into_inner);
        let last = &transcript[transcript.len().saturating_sub(200)..];
        println!("--- transcript, its last {} lines\n{}", last.len(), last.join("\n"));
        println!("--- stderr of the daemon\n{}", self.log());
        println!("--- its threads\n{:?}", procs::threads(self.runtime_pid));
        println!("--- its processes\n{:#?}", self.remains());
    }

    /// Ends what this test started, whatever state it is in.
    fn end_all(&mut self) {
        for process in self.remains().iter().rev() {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        if self.exit.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report();
            self.end_all();
        } else if !self.checked
            && let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| self.finish()))
        {
            self.report();
            self.end_all();
            std::panic::resume_unwind(panic);
        }
    }
}

/// CPU time of a process so far, in steps of ten milliseconds.
fn cpu_ms(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
    // Fields 14 and 15, user and system; the first after the name is the third.
    fields.skip(11).take(2).map(|ticks| ticks.parse::<f64>().unwrap() * 10.0).sum()
}

/// `system.stats`, its identities checked.
#[track_caller]
pub fn stats(conn: &mut Conn) -> Value {
    let stats = conn.ok("system.stats", json!({}));
    shape::check_identities(&stats);
    stats
}

#[track_caller]
fn sessions(conn: &mut Conn) -> Vec<Value> {
    conn.ok("session.list", json!({}))["sessions"].as_array().unwrap().clone()
}

/// The lines of its stdout, as they come.
fn read_lines(child: &mut Child) -> mpsc::Receiver<String> {
    let stdout = child.stdout.take().unwrap();
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}
