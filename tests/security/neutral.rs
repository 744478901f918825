//! What the daemon does as a session's uid, to start a command or to end what is left, is out of that session's reach, and
//! nothing that it does as one session's uid reaches another.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::libc;

use crate::exec_support::lease::Lease;
use crate::exec_support::*;
use crate::program::{Hostile, Plain};
use crate::support::launch::alone;
use crate::support::*;

/// A uid of plain processes, which no daemon and no other test has: far above those of the slots for tests.
fn plain_uid(number: u32) -> u32 {
    assert!(number < 8);
    1_390_000_000 + std::process::id() * 8 + number
}

/// A start that hangs in its exec has the session's uid and the daemon's memory.
#[test]
fn inv14_a_session_cannot_open_the_memory_of_a_start_that_is_under_way() {
    let (true, Some(lease)) = (is_root(), Lease::take()) else { return skip("only root has a pool of uids") };
    let hostile = Hostile::build();
    let plain = hostile.spawn(plain_uid(0), &["memory", "0", "60"]);
    let all = "signal 1 trace 1 environ 1 mem 1 fd 1\n";
    assert_eq!(hostile.plain(plain_uid(0), &["touch", &plain.pid().to_string()]), all, "a plain process of its uid");

    let mut daemon = Daemon::start(&[("commands.max_commands_per_session", json!(2))]);
    let (mut conn, mut other) = (daemon.tcp(), daemon.tcp());
    let session = conn.open(json!({}));
    let hanging = conn.ask("exec.run", json!({"session": session, "argv": [lease.program], "timeout_s": 3000}));
    let starting = starting(&daemon);
    assert_eq!(procs::status_field(starting, "CapEff:").unwrap(), "0000000000000000");
    let touch = |conn: &mut Conn, rounds: &str| {
        let argv = hostile.argv(&["touch", &starting.to_string(), rounds]);
        text(&run(conn, json!({"session": session, "argv": argv})))
    };
    // It can be stopped and ended: that harms its own session alone.
    let nothing = "signal 1 trace 0 environ 0 mem 0 fd 0\n";
    assert_eq!(touch(&mut other, "100"), nothing);

    // The flag that keeps others out of this memory is lost for a moment with each start then.
    daemon.launch.undisturbed = None;
    match alone() {
        None => skip("other tests do not end soon enough to change fs.suid_dumpable"),
        Some(_alone) => {
            let _dumpable = SuidDumpable::set("1");
            let touched = other.ask(
                "exec.run",
                json!({
                    "session": session, "argv": hostile.argv(&["touch", &starting.to_string(), "30000"])
                }),
            );
            for _ in 0..30 {
                assert_eq!(end(&sh(&mut conn, "exit 3")), exited(3));
            }
            assert_eq!(text(&record_of(&mut other, &touched)), nothing);
        }
    }
    drop(lease);
    assert_eq!(end(&record_of(&mut conn, &hanging)), exited(0));
    close(&mut conn, &session);
}

/// The child of a worker that waits in its exec.
#[track_caller]
fn starting(daemon: &Daemon) -> i32 {
    let is_it = |one: &procs::Process| {
        let comm = std::fs::read_to_string(format!("/proc/{}/comm", one.pid)).unwrap_or_default();
        daemon.launch.uids.contains(&one.uid) && comm.starts_with("worker-")
    };
    wait_until("a start is under way", DEADLINE, || {
        procs::children(daemon.runtime_pid).into_iter().find(is_it).map(|one| one.pid)
    })
}

/// The setting of the whole machine; what it was comes back.
struct SuidDumpable(String);

impl SuidDumpable {
    const FILE: &str = "/proc/sys/fs/suid_dumpable";

    fn set(value: &str) -> SuidDumpable {
        let before = std::fs::read_to_string(Self::FILE).unwrap();
        std::fs::write(Self::FILE, value).unwrap();
        SuidDumpable(before)
    }
}

impl Drop for SuidDumpable {
    fn drop(&mut self) {
        std::fs::write(Self::FILE, &self.0).unwrap();
    }
}

#[test]
fn inv14_a_session_cannot_stop_what_ends_its_processes() {
    if !is_root() {
        return skip("only root has a pool of uids");
    }
    let hostile = Hostile::build();
    let plain = hostile.spawn(plain_uid(1), &["memory", "0", "60"]);
    // Its first process may be stopped by the second: nobody waits for it.
    let _stopper = hostile.spawn(plain_uid(1), &["stop_loop", "1", "0"]);
    let stopped = || (procs::one(plain.pid())?.state == 'T').then_some(());
    wait_until("a plain process of its uid is stopped", DEADLINE, stopped);

    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    for _ in 0..24 {
        let record = run(&mut conn, json!({"argv": hostile.argv(&["stopper", "5"]), "timeout_s": 10}));
        assert_eq!((end(&record), text(&record).as_str()), (exited(0), "left\n"));
    }
    wait_stats(&daemon, "/commands/running", 0);
    assert_well(&mut conn);
    assert!(!daemon.log().contains("outlives"), "{}", daemon.log());
}

/// The kernel lets a process signal another whose real uid is its own: one neutral uid for all would reach all.
#[test]
fn inv14_what_ends_one_sessions_processes_reaches_no_start_of_another() {
    if !is_root() {
        return skip("only root has a pool of uids");
    }
    let hostile = Hostile::build();
    let acting = |real: u32, uid: u32, words: &[&str]| {
        let mut command = Command::new(hostile.path());
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped());
        let become_it = move || {
            // SAFETY: a system call on plain numbers.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, real, uid, real) };
            if changed == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        // SAFETY: it makes one system call.
        unsafe { command.pre_exec(become_it) };
        command
    };
    let start = Plain(acting(plain_uid(4), plain_uid(2), &["memory", "0", "60"]).spawn().unwrap());
    for (real, reached) in [(plain_uid(4), "signal 1"), (plain_uid(5), "signal 0")] {
        let killer = acting(real, plain_uid(3), &["touch", &start.pid().to_string()]).output().unwrap();
        let said = String::from_utf8_lossy(&killer.stdout).into_owned();
        assert!(said.starts_with(reached), "as {real}: {said}");
    }

    let daemon = Daemon::start(&[("sessions.threads", json!(2))]);
    let mark = mark();
    std::thread::scope(|scope| {
        // Each leaves something that has to be ended by its uid.
        let leaver = scope.spawn(|| {
            let mut conn = daemon.tcp();
            for _ in 0..60 {
                let record = sh(&mut conn, &format!("setsid sleep {mark} & exit 4"));
                assert_eq!(end(&record), exited(4), "{record}");
            }
        });
        let mut conn = daemon.tcp();
        while !leaver.is_finished() {
            let record = sh(&mut conn, "exit 3");
            assert_eq!(end(&record), exited(3), "{record}");
        }
        leaver.join().unwrap();
    });
    wait_gone(&mark);
}
