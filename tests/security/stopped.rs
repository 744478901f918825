//! A command that runs as the daemon's own user can stop the runtime, which is its parent. The guard sees to it that
//! time-outs come all the same.

use std::process::{Command, Stdio};

use crate::exec_support::*;
use crate::program::Plain;
use crate::support::*;

/// `cofferdam run` of a line of shell.
fn cofferdam_run(options: &[&str], line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command.arg("run").args(options).args(["--", "/bin/sh", "-c", line]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn inv15_a_program_cannot_stop_its_own_time_out() {
    // A plain parent stands still.
    let mut control = Plain(Command::new("/bin/sh").args(["-c", "sh -c 'kill -STOP $PPID'; exit 0"]).spawn().unwrap());
    let stopped = || (procs::one(control.pid())?.state == 'T').then_some(());
    wait_until("a plain parent is stopped", DEADLINE, stopped);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(control.pid()), Signal::SIGCONT).unwrap();
    control.expect_end();

    let mark = mark();
    let line = format!("kill -STOP $PPID; sleep {mark}");
    let mut run = Plain(cofferdam_run(&["--timeout", "0.5"], &line).spawn().unwrap());
    run.expect_end();
    let status = run.0.wait().unwrap();
    assert_eq!(status.code(), Some(124), "it timed out");
    let said = std::io::read_to_string(run.0.stderr.take().unwrap()).unwrap();
    assert!(said.contains("the runtime was stopped by SIGSTOP and goes on"), "{said}");
    wait_gone(&mark);
}

#[test]
fn inv15_a_program_that_stops_its_runtime_again_and_again_is_ended_with_it() {
    let mark = mark();
    let line = format!("setsid sleep {mark} & while kill -STOP $PPID; do sleep 0.05; done; sleep {mark}");
    let mut run = Plain(cofferdam_run(&[], &line).spawn().unwrap());
    run.expect_end();
    assert_eq!(run.0.wait().unwrap().code(), Some(125), "it is we who failed");
    let said = std::io::read_to_string(run.0.stderr.take().unwrap()).unwrap();
    assert_eq!(said.matches("and goes on").count(), 3, "{said}");
    assert!(said.contains("once more within 10 s, and is killed"), "{said}");
    wait_gone(&mark);
}

#[test]
fn inv15_a_daemon_of_an_ordinary_user_that_a_command_stops_goes_on() {
    let daemon = start_as_nobody();
    let mut conn = daemon.tcp();
    // By a shell built-in, in the command's main process: its parent is the runtime.
    let record = sh(&mut conn, "kill -STOP $PPID; echo on");
    assert_eq!((end(&record), text(&record).as_str()), (exited(0), "on\n"));
    assert_well(&mut conn);
    assert!(daemon.log().contains("the runtime was stopped by SIGSTOP and goes on"), "{}", daemon.log());
}

#[test]
fn a_command_of_a_uid_of_its_own_cannot_stop_the_daemon() {
    if !is_root() {
        return skip("only root has a pool of uids");
    }
    let daemon = Daemon::start(&[]);
    let record = sh(&mut daemon.tcp(), "kill -STOP $PPID 2>/dev/null; echo $?");
    assert_ne!(text(&record), "0\n");
    assert!(!daemon.log().contains("was stopped"), "{}", daemon.log());
}
