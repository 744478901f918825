//! What a command costs: `exec.run` of /bin/true through the daemon, against a bare loop that does the same by system
//! calls alone (clone as vfork does, six limits, two pipes, execve, wait). The two take turns, so that a machine that
//! gets slower gets slower for both.
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark is not the daemon: it starts, signals and waits as it likes"
)]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    reason = "the bare loop is system calls from end to end"
)]

mod common;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use common::{Daemon, Outcome, Tally, row};
use nix::libc;

const PROGRAM: &CStr = c"/bin/true";
const IN_FLIGHT: usize = 8;
const BARE_LOOPS: usize = 2;

fn main() -> ExitCode {
    common::main("exec", bench)
}

fn bench(smoke: bool) -> Outcome {
    let (slices, slice) = match smoke {
        true => (2, Duration::from_millis(200)),
        false => (16, Duration::from_millis(500)),
    };
    if let Some(before) = std::env::args().skip_while(|arg| arg != "--before").nth(1) {
        return compare(&before, slices, slice);
    }
    let daemon = Daemon::start(&[])?;

    let mut one = Commands::new(&daemon.addr, 1)?;
    let mut bare = Bare::new();
    let (mut ours, mut theirs) = (Tally::default(), Tally::default());
    one.run_for(slice / 4)?;
    for _ in 0..slices {
        ours.add(one.run_for(slice)?);
        theirs.add(bare.run_for(slice)?);
    }
    drop(one);
    verdict("one at a time", ours, "a bare loop", theirs, 0.80);

    let mut eight = Commands::new(&daemon.addr, IN_FLIGHT)?;
    let (mut ours, mut theirs) = (Tally::default(), Tally::default());
    eight.run_for(slice / 4)?;
    for _ in 0..slices {
        ours.add(eight.run_for(slice)?);
        theirs.add(bare_side_by_side(slice)?);
    }
    verdict("eight in flight", ours, "two bare loops", theirs, 0.75);
    drop(eight);
    large_environment(&daemon.addr, if smoke { 3 } else { 21 })
}

/// What an `exec.run` costs more than with an older program, in a session and without one: the two take turns, and the
/// median of the rounds is told. `cargo bench --bench exec -- --before PATH`, where PATH is that program.
fn compare(before: &str, rounds: usize, slice: Duration) -> Outcome {
    // A pool of its own: the older one has what was the default then.
    let (new, old) = (Daemon::start(&[])?, Daemon::start_other(before, &["children.uid_base=1800000000"])?);
    type Make = fn(&str) -> io::Result<Commands>;
    let kinds: [(&str, Make, f64); 2] = [
        ("in a session", |addr| Commands::new(addr, 1), f64::INFINITY),
        ("without a session", |addr| Commands::without_session(addr), PROOF_US_MAX),
    ];
    for (what, make, most) in kinds {
        let (mut ours, mut theirs) = (make(&new.addr)?, make(&old.addr)?);
        let each_us = |tally: Tally| 1e6 / tally.per_s();
        let mut more = Vec::new();
        let (mut now, mut then) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            now.push(each_us(ours.run_for(slice)?));
            then.push(each_us(theirs.run_for(slice)?));
            more.push(now[now.len() - 1] - then[then.len() - 1]);
        }
        row(&format!("exec.run {what}"), format!("{:.0} µs", median(&mut now)), None);
        row("before", format!("{:.0} µs", median(&mut then)), None);
        let more = median(&mut more);
        let target = most.is_finite().then(|| format!("<= {most:.0} µs"));
        row("more", format!("{more:.0} µs"), target.as_deref().map(|target| (target, more <= most)));
    }
    Ok(())
}

/// What the proof at a session's end may cost a command that has a session of its own.
const PROOF_US_MAX: f64 = 60.0;

fn median(all: &mut [f64]) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all[all.len() / 2]
}

const VARIABLES: usize = 100_000;
const LARGE_MS_MAX: f64 = 50.0;

/// What an environment of 1.5 MiB in very many variables costs: to read and keep it, and to run a command with it; and
/// to refuse one that no program can be given.
fn large_environment(addr: &str, rounds: usize) -> Outcome {
    let stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    let reader = BufReader::with_capacity(64 << 10, stream.try_clone()?);
    let mut commands = Commands { stream, reader, requests: Vec::new(), line: String::new() };
    let env = |count: usize| (0..count).map(|number| format!("\"{number:x}\":\"\"")).collect::<Vec<_>>().join(",");
    let open = |count| format!("{{\"id\":1,\"method\":\"session.open\",\"params\":{{\"env\":{{{}}}}}}}\n", env(count));
    let (fits, too_long) = (open(VARIABLES), open(VARIABLES * 8 / 5));
    let [mut opened, mut ran, mut refused] = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        opened.push(commands.ask(&fits)?);
        let session = text_after(&commands.line, "\"session\":\"").and_then(|rest| rest.split('"').next());
        let session = session.ok_or_else(|| format!("no session: {}", commands.line))?.to_owned();
        let params = format!("{{\"session\":\"{session}\",\"argv\":[\"/bin/true\"]}}");
        ran.push(commands.ask(&format!("{{\"id\":2,\"method\":\"exec.run\",\"params\":{params}}}\n"))?);
        if !commands.line.contains("\"exit_code\":0,") {
            return Err(format!("a command failed: {}", commands.line).into());
        }
        commands
            .ask(&format!("{{\"id\":3,\"method\":\"session.close\",\"params\":{{\"session\":\"{session}\"}}}}\n"))?;
        refused.push(commands.ask(&too_long)?);
    }
    for (what, mut took) in [("session.open", opened), ("exec.run in it", ran), ("refusal of 160,000", refused)] {
        took.sort_unstable();
        let ms = took[took.len() / 2].as_secs_f64() * 1e3;
        let target = format!("<= {LARGE_MS_MAX:.0} ms");
        row(&format!("100,000 variables: {what}"), format!("{ms:.1} ms"), Some((&target, ms <= LARGE_MS_MAX)));
    }
    Ok(())
}

fn verdict(what: &str, ours: Tally, reference: &str, theirs: Tally, target: f64) {
    let each = |tally: Tally| format!("{:.0}/s", tally.per_s());
    row(&format!("exec.run /bin/true, {what}"), each(ours), None);
    row(&format!("reference: {reference}"), each(theirs), None);
    let ratio = ours.per_s() / theirs.per_s();
    row("ratio", format!("{ratio:.3}"), Some((&format!(">= {target:.2}"), ratio >= target)));
}

/// A connection that keeps some commands in flight, one in each of its sessions.
struct Commands {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    /// The request for each session, its number as id.
    requests: Vec<String>,
    line: String,
}

impl Commands {
    fn new(addr: &str, sessions: usize) -> io::Result<Commands> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        let reader = BufReader::with_capacity(64 << 10, stream.try_clone()?);
        let mut commands = Commands { stream, reader, requests: Vec::new(), line: String::new() };
        for n in 0..sessions {
            let open = format!("{{\"jsonrpc\":\"2.0\",\"id\":{n},\"method\":\"session.open\"}}\n");
            commands.stream.write_all(open.as_bytes())?;
            commands.next_line()?;
            let session = text_after(&commands.line, "\"session\":\"").and_then(|rest| rest.split('"').next());
            let session = session.ok_or_else(|| io::Error::other(format!("no session: {}", commands.line)))?;
            commands.requests.push(format!(
                "{{\"jsonrpc\":\"2.0\",\"id\":{n},\"method\":\"exec.run\",\
                 \"params\":{{\"session\":\"{session}\",\"argv\":[\"/bin/true\"]}}}}\n"
            ));
        }
        Ok(commands)
    }

    /// One command at a time, each in a session of its own.
    fn without_session(addr: &str) -> io::Result<Commands> {
        let mut commands = Commands::new(addr, 0)?;
        commands.requests.push("{\"id\":0,\"method\":\"exec.run\",\"params\":{\"argv\":[\"/bin/true\"]}}\n".to_owned());
        Ok(commands)
    }

    fn run_for(&mut self, slice: Duration) -> io::Result<Tally> {
        let start = Instant::now();
        let mut waiting = self.requests.len();
        let mut count = 0;
        self.stream.write_all(self.requests.concat().as_bytes())?;
        while waiting > 0 {
            self.next_line()?;
            if !self.line.contains("\"exit_code\":0,") {
                return Err(io::Error::other(format!("a command failed: {}", self.line)));
            }
            count += 1;
            match start.elapsed() < slice {
                true => {
                    let id = text_after(&self.line, "\"id\":").and_then(|rest| rest.split([',', '}']).next());
                    let id = id.and_then(|id| id.parse::<usize>().ok()).filter(|id| *id < self.requests.len());
                    let id = id.ok_or_else(|| io::Error::other(format!("no id: {}", self.line)))?;
                    self.stream.write_all(self.requests[id].as_bytes())?;
                }
                false => waiting -= 1,
            }
        }
        Ok(Tally { count, took: start.elapsed() })
    }

    /// One request, and how long its answer takes.
    fn ask(&mut self, request: &str) -> io::Result<Duration> {
        let start = Instant::now();
        self.stream.write_all(request.as_bytes())?;
        self.next_line()?;
        Ok(start.elapsed())
    }

    fn next_line(&mut self) -> io::Result<()> {
        self.line.clear();
        match self.reader.read_line(&mut self.line)? {
            0 => Err(io::Error::other("the daemon closed the connection")),
            _ => Ok(()),
        }
    }
}

fn text_after<'a>(line: &'a str, mark: &str) -> Option<&'a str> {
    line.split_once(mark).map(|(_, rest)| rest)
}

/// The least that it takes to run a program under limits and to read what it writes.
struct Bare {
    argv: Vec<CString>,
    envp: Vec<CString>,
    limits: [(libc::__rlimit_resource_t, libc::rlimit); 6],
    stack: Vec<u128>,
}

/// What the child works with, in the memory that it shares with us.
struct Plan {
    argv: [*const c_char; 2],
    envp: Vec<*const c_char>,
    limits: [(libc::__rlimit_resource_t, libc::rlimit); 6],
    stdout: c_int,
    stderr: c_int,
}

impl Bare {
    fn new() -> Bare {
        let limit = |bytes: u64| libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
        let mut nproc = limit(libc::RLIM_INFINITY);
        // SAFETY: `nproc` is a valid place for the answer. As it is now: the uid's other processes count.
        unsafe { libc::getrlimit(libc::RLIMIT_NPROC, &mut nproc) };
        let limits = [
            (libc::RLIMIT_CPU, libc::rlimit { rlim_cur: 60, rlim_max: 61 }),
            (libc::RLIMIT_AS, limit(4 << 30)),
            (libc::RLIMIT_NPROC, nproc),
            (libc::RLIMIT_NOFILE, limit(256)),
            (libc::RLIMIT_FSIZE, limit(256 << 20)),
            (libc::RLIMIT_CORE, limit(0)),
        ];
        let envp = ["PATH=/usr/bin:/bin", "HOME=/", "LANG=C.UTF-8"].map(|v| CString::new(v).expect("no NUL in it"));
        // 64 KiB: the child calls a handful of libc's thinnest wrappers.
        Bare { argv: vec![PROGRAM.to_owned()], envp: envp.into(), limits, stack: vec![0; 4096] }
    }

    fn run_for(&mut self, slice: Duration) -> io::Result<Tally> {
        let start = Instant::now();
        let mut count = 0;
        while start.elapsed() < slice {
            self.once()?;
            count += 1;
        }
        Ok(Tally { count, took: start.elapsed() })
    }

    fn once(&mut self) -> io::Result<()> {
        let (stdout, stderr) = (pipe()?, pipe()?);
        let mut plan = Plan {
            argv: [self.argv[0].as_ptr(), std::ptr::null()],
            envp: self.envp.iter().map(|v| v.as_ptr()).chain([std::ptr::null()]).collect(),
            limits: self.limits,
            stdout: stdout[1],
            stderr: stderr[1],
        };
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the child runs on a stack of its own (its top, 16-byte aligned as of u128) and in our memory, while
        // this thread stands still until it has exec'ed or ended; `child` makes system calls alone.
        let pid = unsafe {
            let top = self.stack.as_mut_ptr().add(self.stack.len());
            libc::clone(child, top.cast(), flags, (&raw mut plan).cast())
        };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        close(stdout[1]);
        close(stderr[1]);
        read_to_end(stdout[0])?;
        read_to_end(stderr[0])?;
        close(stdout[0]);
        close(stderr[0]);
        let mut status = 0;
        // SAFETY: a rusage of zeros is one; both places outlive the call; `pid` is our child, not yet waited for.
        let waited = unsafe {
            let mut usage: libc::rusage = std::mem::zeroed();
            libc::wait4(pid, &mut status, 0, &mut usage)
        };
        match waited == pid && status == 0 {
            true => Ok(()),
            false => Err(io::Error::other(format!("the bare command failed with status {status:#x}"))),
        }
    }
}

extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: `plan` is the one that `once` passed, which waits for us; from here to execve only system calls.
    unsafe {
        let plan = &*plan.cast::<Plan>();
        for (resource, limit) in &plan.limits {
            if libc::prlimit(0, *resource, limit, std::ptr::null_mut()) != 0 {
                libc::_exit(125);
            }
        }
        if libc::dup2(plan.stdout, 1) < 0 || libc::dup2(plan.stderr, 2) < 0 {
            libc::_exit(126);
        }
        libc::execve(PROGRAM.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr());
        libc::_exit(127)
    }
}

fn pipe() -> io::Result<[c_int; 2]> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for both descriptors.
    match unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } {
        0 => Ok(ends),
        _ => Err(io::Error::last_os_error()),
    }
}

fn close(fd: c_int) {
    // SAFETY: `fd` came from pipe2 and is closed once.
    unsafe { libc::close(fd) };
}

fn read_to_end(fd: c_int) -> io::Result<()> {
    let mut buf = [0_u8; 4096];
    loop {
        // SAFETY: `buf` has that room.
        match unsafe { libc::read(fd, buf.as_mut_ptr().cast(), buf.len()) } {
            0 => return Ok(()),
            n if n < 0 => return Err(io::Error::last_os_error()),
            _ => {}
        }
    }
}

fn bare_side_by_side(slice: Duration) -> io::Result<Tally> {
    let start = Barrier::new(BARE_LOOPS);
    let run = || {
        let mut bare = Bare::new();
        start.wait();
        bare.run_for(slice)
    };
    std::thread::scope(|scope| {
        let loops: Vec<_> = (0..BARE_LOOPS).map(|_| scope.spawn(run)).collect();
        let mut both = Tally::default();
        for one in loops {
            let tally = one.join().map_err(|_| io::Error::other("a bare loop panicked"))??;
            both = Tally { count: both.count + tally.count, took: both.took.max(tally.took) };
        }
        Ok(both)
    })
}
