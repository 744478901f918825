//! Attempts of a session to stop what the daemon does under the session's uid: its killers, and its trials of a
//! directory.

use crate::exec_support::*;
use crate::program::{Hostile, uid_of_nobody};
use crate::support::*;

/// Threads for errands: all but one end when there is nothing to do.
fn errand_threads(daemon: &Daemon) -> usize {
    procs::threads(daemon.runtime_pid).iter().filter(|name| name.starts_with("errand-")).count()
}

/// No errand hangs: the threads for them go back to one.
#[track_caller]
fn expect_no_errand_hangs(daemon: &Daemon) {
    wait_until("no errand hangs", DEADLINE, || (errand_threads(daemon) == 1).then_some(()));
    assert!(!daemon.log().contains("hangs"), "{}", daemon.log());
}

/// The control: a process that runs under the uid of whoever stops all is stopped.
#[track_caller]
fn control(hostile: &Hostile) {
    let uid = uid_of_nobody();
    let victim = hostile.spawn(uid, &["memory", "0", "30"]);
    hostile.plain(uid, &["stop_loop", "1", "0"]);
    wait_until("the victim stands still", DEADLINE, || (procs::one(victim.pid())?.state == 'T').then_some(()));
}

#[test]
fn inv3_a_session_cannot_stop_what_kills_it() {
    if !is_root() {
        return skip("an ordinary user's daemon has the uid of its commands");
    }
    let hostile = Hostile::build();
    control(&hostile);
    let daemon = Daemon::start(&[]);
    let (mut conn, mut neighbour) = (daemon.tcp(), daemon.tcp());
    let session = neighbour.open(json!({}));

    for _ in 0..60 {
        let record = run(&mut conn, json!({"argv": hostile.argv(&["stopper", "20"])}));
        assert_eq!((end(&record), text(&record).as_str()), (exited(0), "left\n"), "{record}");
        assert_eq!(record["descendants_killed"], 1, "{record}");
    }
    assert!(living(hostile.path()).is_empty(), "{:?}", living(hostile.path()));
    assert_eq!(text(&run(&mut neighbour, json!({"session": session, "cmd": "echo hi"}))), "hi\n");
    neighbour.open(json!({"cwd": "/"}));
    expect_no_errand_hangs(&daemon);
}

#[test]
fn inv3_a_session_cannot_hold_the_trials_of_a_directory() {
    if !is_root() {
        return skip("an ordinary user's daemon has the uid of its commands");
    }
    let hostile = Hostile::build();
    control(&hostile);
    let daemon = Daemon::start(&[]);
    let (mut conn, mut neighbour) = (daemon.unix(), daemon.unix());
    let session = conn.open(json!({"shell": true}));

    let stop = format!("{} stop_loop 20 $$", hostile.path());
    assert_eq!(end(&run(&mut conn, json!({"session": session, "cmd": stop}))), exited(0));
    for _ in 0..40 {
        // Each is tried first; the shell is resumed by whoever stops it, so the command ends as well.
        let record = run(&mut conn, json!({"session": session, "cmd": ":", "cwd": "/", "timeout_s": 10}));
        assert_eq!(end(&record), exited(0), "{record}");
        let other = neighbour.open(json!({"cwd": "/"}));
        close(&mut neighbour, &other);
    }
    close(&mut neighbour, &session);
    assert!(living(hostile.path()).is_empty(), "{:?}", living(hostile.path()));
    expect_no_errand_hangs(&daemon);
}

#[test]
fn a_session_of_stopped_processes_closes() {
    if !is_root() {
        return skip("an ordinary user's daemon has the uid of its commands");
    }
    let hostile = Hostile::build();
    let daemon = Daemon::start(&[("commands.max_commands_per_session", json!(4))]);
    let (mut conn, mut other) = (daemon.unix(), daemon.unix());
    let session = conn.open(json!({"shell": true}));

    let id = conn.ask("exec.run", json!({"session": session, "argv": hostile.argv(&["memory", "0", "600"])}));
    daemon.wait_running(1);
    // It stops its neighbours in the session, the shell too, and each of its own kind.
    for _ in 0..3 {
        let stop = hostile.argv(&["stop_all", "600"]);
        other.ok("exec.start", json!({"session": session, "argv": stop}));
    }
    wait_until("the session stands still", DEADLINE, || {
        let states: Vec<char> = living(hostile.path()).keys().filter_map(|pid| Some(procs::one(*pid)?.state)).collect();
        states.contains(&'T').then_some(())
    });
    close(&mut other, &session);

    assert!(living(hostile.path()).is_empty(), "{:?}", living(hostile.path()));
    conn.answer(&id);
    expect_no_errand_hangs(&daemon);
}
