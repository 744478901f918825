//! Processes whose first thread has ended: they look dead, and are not.

use std::fs::File;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::exec_support::*;
use crate::program::{Hostile, uid_of_nobody};
use crate::support::*;

/// Whether the process that has a lock on this file is gone.
fn is_gone(path: &str) -> bool {
    let file = File::options().read(true).write(true).open(path).unwrap();
    Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()
}

/// A file that every uid may write.
fn file(hostile: &Hostile, name: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = hostile.folder.text(name);
    File::create(&path).unwrap().set_permissions(std::fs::Permissions::from_mode(0o666)).unwrap();
    path
}

#[test]
fn inv2_what_has_lost_its_first_thread_ends_with_its_command() {
    let hostile = Hostile::build();
    // The control: it looks dead, and lives on.
    let path = file(&hostile, "plain");
    hostile.plain(uid_of_nobody(), &["headless", "left", &path]);
    let pid: i32 = std::fs::read_to_string(&path).unwrap().parse().unwrap();
    let state = procs::one(pid).map(|process| process.state);
    assert_eq!((state, is_gone(&path)), (Some('Z'), false));
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_until("the plain one is gone", DEADLINE, || is_gone(&path).then_some(()));

    let daemon = Daemon::start(&[]);
    let mut conn = daemon.unix();
    for shell in [false, true] {
        let session = conn.open(json!({ "shell": shell }));
        let path = file(&hostile, &format!("command-{shell}"));
        let argv = hostile.argv(&["headless", "left", &path]);
        let record = run(&mut conn, json!({"session": session, "argv": argv}));
        assert_eq!((&record["descendants_killed"], is_gone(&path)), (&json!(1), true), "{record}");
        let path = file(&hostile, &format!("job-{shell}"));
        run(&mut conn, json!({"session": session, "cmd": format!("{} headless left {path}", hostile.path())}));
        close(&mut conn, &session);
        wait_until("it goes with its session", DEADLINE, || is_gone(&path).then_some(()));
    }
}

#[test]
fn the_memory_of_a_command_counts_without_its_first_thread() {
    let hostile = Hostile::build();
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.unix();
    let argv = hostile.argv(&["headless", "memory", "400"]);
    let limits = json!({"memory_bytes": 64 << 20});
    let record = run(&mut conn, json!({"argv": argv, "limits": limits, "timeout_s": 30}));
    assert_eq!(record["status"], "memory_limit", "{record}");
}
