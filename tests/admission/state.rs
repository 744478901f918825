//! Limits that were set survive the daemon: an orderly end, SIGKILL, and a file that somebody has damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::support::{Conn, DEADLINE, Daemon, Folder, Launch, Signal, json, wait_until};
use crate::view::*;

/// A folder that outlives the daemons that keep their state in it.
struct State(Folder);

impl State {
    fn new() -> State {
        State(Folder::new())
    }

    fn folder(&self) -> PathBuf {
        self.0.join("state")
    }

    fn launch(&self) -> Launch {
        let (key, limits) = registered(json!({"sessions": 4}));
        Launch::new().set(key, limits).set("state_dir", json!(self.folder()))
    }

    fn start(&self) -> Daemon {
        self.launch().start()
    }

    /// What has been set, as the daemon reads it first.
    fn file(&self) -> PathBuf {
        self.folder().join("limits.json")
    }
}

#[track_caller]
fn set(admin: &mut Conn, client: Option<&str>, limit: i64) {
    admin.ok("limit.set", json!({"client": client, "resource": "sessions", "limit": limit}));
}

#[test]
fn what_was_set_is_there_after_a_restart() {
    let state = State::new();
    let daemon = state.start();
    let mut admin = daemon.unix();
    set(&mut admin, None, 9);
    set(&mut admin, Some(&ip(2)), 0);
    set(&mut admin, Some("somebody"), -1);
    set(&mut admin, Some(&ip(3)), 5);
    admin.ok("limit.unset", json!({"client": ip(3), "resource": "sessions"}));
    drop(admin);
    drop(daemon);

    let mode = fs::metadata(state.folder()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert_eq!(fs::metadata(state.file()).unwrap().permissions().mode() & 0o777, 0o600);

    let daemon = state.start();
    let mut admin = daemon.unix();
    for (client, limit, source) in [
        (ip(1), 9, "registered"),
        (ip(2), 0, "client"),
        ("somebody".to_owned(), -1, "client"),
        (ip(3), 9, "registered"),
    ] {
        let expected = json!({"limit": limit, "usage": 0, "source": source});
        assert_eq!(row(&mut admin, &client, "sessions"), expected, "{client}");
    }
    // It wins over the configuration, and the log says so.
    wait_log(&daemon, "sessions");
    admin.ok("limit.unset", json!({"resource": "sessions"}));
    assert_eq!(limit(&mut admin, &ip(1), "sessions"), 4);
    drop(admin);
    drop(daemon);

    let daemon = state.start();
    assert_eq!(limit(&mut daemon.unix(), &ip(1), "sessions"), 4);
    assert_eq!(limit(&mut daemon.unix(), &ip(2), "sessions"), 0);
}

#[test]
fn without_a_folder_for_state_what_was_set_ends_with_the_daemon() {
    let daemon = Daemon::start(&[registered(json!({"sessions": 4}))]);
    set(&mut daemon.unix(), None, 9);
    assert_eq!(limit(&mut daemon.unix(), &ip(1), "sessions"), 9);
    drop(daemon);
    let daemon = Daemon::start(&[registered(json!({"sessions": 4}))]);
    assert_eq!(limit(&mut daemon.unix(), &ip(1), "sessions"), 4);
}

#[test]
fn what_was_answered_before_a_sigkill_is_there_after_it() {
    let state = State::new();
    let mut answered = 0;
    for round in 0..12 {
        let mut daemon = state.start();
        daemon.killed = true;
        let mut admin = daemon.unix();
        let found = limit(&mut admin, "counter", "sessions");
        if round > 0 {
            assert!(found == answered || found == answered + 1, "found {found}, last answered {answered}");
        }
        // Sets higher and higher limits until it is killed in the middle of one.
        let pid = daemon.runtime_pid;
        let wanted = found.max(0) + 1 + round;
        answered = found.max(0);
        let killer = std::thread::spawn({
            let mut control = daemon.unix();
            move || {
                wait_until("some were set", DEADLINE, || {
                    (limit(&mut control, "counter", "sessions") >= wanted).then_some(())
                });
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            }
        });
        loop {
            let next = answered + 1;
            let line = json!({"id": next, "method": "limit.set",
                "params": {"client": "counter", "resource": "sessions", "limit": next}});
            if admin.try_send_bytes(format!("{line}\n")).is_err() {
                break;
            }
            match admin.recv_or_end() {
                Some(answer) => assert_eq!(answer["result"], json!({}), "{answer}"),
                None => break,
            }
            answered = next;
        }
        killer.join().unwrap();
        daemon.exit();
    }
}

#[test]
fn a_damaged_file_is_named_and_the_last_good_one_counts() {
    for damage in ["", "{\"torn", "\u{0}\u{0}\u{0}", "{\"format\":\"of somebody else\"}", "[]"] {
        let state = State::new();
        let daemon = state.start();
        for limit in [6, 7] {
            set(&mut daemon.unix(), None, limit);
        }
        drop(daemon);
        fs::write(state.file(), damage).unwrap();

        let daemon = state.start();
        let found = limit(&mut daemon.unix(), &ip(1), "sessions");
        assert!(found == 6 || found == 7, "{damage:?}: {found} is neither of the last good ones");
        let name = state.file().display().to_string();
        wait_log(&daemon, &name);
        // It can be written to again.
        set(&mut daemon.unix(), None, 8);
        drop(daemon);
        let daemon = state.start();
        assert_eq!(limit(&mut daemon.unix(), &ip(1), "sessions"), 8);
    }
}

/// What is answered, what counts, and what counts after a restart are one and the same, also where the disk takes the
/// file and not its copy.
#[test]
fn a_limit_whose_copy_cannot_be_kept_is_what_was_answered() {
    let state = State::new();
    let daemon = state.start();
    set(&mut daemon.unix(), None, 6);
    let copy = state.file().display().to_string() + ".last-good.new";
    fs::create_dir_all(format!("{copy}/in the way")).unwrap();
    let mut admin = daemon.unix();
    let answer = admin.request("limit.set", json!({"resource": "sessions", "limit": 7}));
    let counts = limit(&mut admin, &ip(1), "sessions");
    assert_eq!(counts, if answer.get("error").is_some() { 6 } else { 7 }, "{answer}");
    drop(admin);
    drop(daemon);

    let daemon = state.start();
    assert_eq!(limit(&mut daemon.unix(), &ip(1), "sessions"), counts, "{answer}");
}

#[test]
fn a_limit_that_cannot_be_kept_is_not_set() {
    let state = State::new();
    let mut daemon = state.start();
    set(&mut daemon.unix(), None, 6);
    // Nothing can be written where there is no folder any more.
    fs::remove_dir_all(state.folder()).unwrap();
    fs::write(state.folder(), "in the way").unwrap();
    let mut admin = daemon.unix();
    let answer = admin.request("limit.set", json!({"resource": "sessions", "limit": 7}));
    let found = limit(&mut admin, &ip(1), "sessions");
    match answer.get("error") {
        Some(error) => {
            assert_eq!(error["data"]["reason"], "INTERNAL", "{answer}");
            assert_eq!(found, 6, "refused, and yet it counts");
        }
        None => panic!("answered as kept, and it is nowhere: {answer}"),
    }
    // The fault of one request is nobody else's.
    assert_eq!(daemon.tcp_as(1).run("echo on")["stdout"], "on\n");
    drop(admin);
    daemon.finish();
}
