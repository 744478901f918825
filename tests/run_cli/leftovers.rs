//! `cofferdam run` leaves no process behind, however it ends.

use nix::sys::signal::kill;

use crate::exec_support::*;
use crate::support::*;
use crate::{Running, cofferdam, run};

/// A tree that goes every way out.
fn tree(mark: &str) -> String {
    format!(
        "trap '' HUP; sleep {mark} & setsid sleep {mark} & (setsid sh -c 'sleep {mark} & sleep {mark}' &); \
         env -i setsid sleep {mark} &"
    )
}

/// A run of the tree that goes on.
#[track_caller]
fn running_tree(mark: &str) -> Running {
    let running = Running::start(&mut cofferdam(&["run", "--", "sh", "-c", &format!("{} sleep {mark}", tree(mark))]));
    wait_living(mark, 7);
    running
}

#[test]
fn what_a_command_leaves_is_killed() {
    let mark = mark();

    run(&["--", "sh", "-c", &format!("{} exit 3", tree(&mark))]).expect_quiet(3);

    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
}

#[test]
fn ctrl_c_and_sigterm_end_the_tree() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mark = mark();
        let running = running_tree(&mark);

        kill(running.pid(), signal).unwrap();

        let done = running.wait();
        assert!(!done.status.success(), "{signal}: {done:?}");
        assert!(living(&mark).is_empty(), "{signal}: {:?}", living(&mark));
    }
}

#[test]
fn sigterm_ends_a_tree_that_ignores_it() {
    let mark = mark();
    let cmd = format!("trap '' TERM INT HUP; sleep {mark} & sleep {mark}");
    let running = Running::start(&mut cofferdam(&["run", "--", "sh", "-c", &cmd]));
    wait_living(&mark, 3);

    kill(running.pid(), Signal::SIGTERM).unwrap();

    assert!(!running.wait().status.success());
    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
}

#[test]
fn inv15_no_process_survives_a_kill_of_the_command_line() {
    let mark = mark();
    let running = running_tree(&mark);

    kill(running.pid(), Signal::SIGKILL).unwrap();

    assert!(!running.wait().status.success());
    wait_gone(&mark);
}

#[test]
fn inv15_no_process_survives_a_kill_of_what_the_command_line_started() {
    let mark = mark();
    let running = running_tree(&mark);

    // The runtime, where the command line itself is the guard.
    for child in procs::children(running.child.id() as i32) {
        kill(nix::unistd::Pid::from_raw(child.pid), Signal::SIGKILL).unwrap();
    }

    let done = running.wait();
    assert_eq!(done.code(), 125, "it is cofferdam that failed: {done:?}");
    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
}

#[test]
fn a_closed_terminal_ends_the_tree() {
    let mark = mark();
    let running = running_tree(&mark);

    kill(running.pid(), Signal::SIGHUP).unwrap();

    assert!(!running.wait().status.success());
    wait_gone(&mark);
}

#[test]
fn a_time_out_ends_the_whole_tree() {
    let Some(_) = tool("setsid") else { return };
    let mark = mark();

    let done = run(&["--timeout", "0.4", "--", "sh", "-c", &format!("{} sleep {mark}", tree(&mark))]);

    assert_eq!(done.code(), 124);
    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
}

#[test]
fn two_runs_at_a_time_do_not_notice_each_other() {
    let (first, second) = (mark(), mark());
    let lasting = running_tree(&first);

    run(&["--", "sh", "-c", &format!("{} exit 3", tree(&second))]).expect_quiet(3);

    assert!(living(&second).is_empty(), "{:?}", living(&second));
    assert!(living(&first).len() >= 7, "{:?}", living(&first));
    kill(lasting.pid(), Signal::SIGTERM).unwrap();
    lasting.wait();
    assert!(living(&first).is_empty(), "{:?}", living(&first));
}

#[test]
fn a_run_leaves_no_folder_behind() {
    let shared = Shared::new();

    let mut command = cofferdam(&["run", "--", "sh", "-c", "exit 0"]);
    Running::start(command.env("TMPDIR", shared.as_ref())).wait().expect_quiet(0);

    let left: Vec<_> = std::fs::read_dir(shared.as_ref()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}
