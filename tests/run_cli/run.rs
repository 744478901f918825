//! `cofferdam run`: exit codes, where the command runs, what it reads.

use crate::exec_support::*;
use crate::support::*;
use crate::{Running, cofferdam, feed, run};

#[test]
fn the_exit_code_is_that_of_the_command() {
    for code in [0, 1, 2, 3, 77, 255] {
        run(&["--", "sh", "-c", &format!("exit {code}")]).expect_quiet(code);
    }
}

#[test]
fn a_time_out_is_124() {
    let mark = mark();

    let done = run(&["--timeout", "0.3", "--", "sh", "-c", &format!("echo before; sleep {mark}")]);

    done.expect_said(124, &["timeout"]);
    assert_eq!(done.out(), "before\n");
    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
}

#[test]
fn a_time_out_of_what_ignores_term_is_124_too() {
    let mark = mark();

    let cmd = format!("trap '' TERM; sleep {mark}; sleep {mark}");
    run(&["--timeout", "0.2", "--", "sh", "-c", &cmd]).expect_said(124, &["timeout"]);

    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
}

#[test]
fn a_stall_is_124() {
    let done = run(&["--stall", "0.3", "--", "sh", "-c", "echo a; sleep 0.1; echo b; exec sleep 4000"]);

    done.expect_said(124, &["stall"]);
    assert_eq!(done.out(), "a\nb\n");
}

#[test]
fn a_failure_of_our_own_is_125() {
    run(&["--cwd", "/no/such/folder", "--", "true"]).expect_said(125, &["/no/such/folder"]);
    run(&["--stdin", "/no/such/file", "--", "true"]).expect_said(125, &["/no/such/file"]);
}

#[test]
fn what_cannot_be_executed_is_126() {
    let shared = Shared::new();

    run(&["--", &shared.file("plain", "#!/bin/sh\n", 0o644)]).expect_said(126, &["plain"]);
    run(&["--", &shared.file("no-shebang", "echo\n", 0o755)]).expect_said(126, &["no-shebang"]);
    run(&["--", &shared.text("")]).expect_said(126, &[]);
}

#[test]
fn what_is_not_there_is_127() {
    run(&["--", "no-such-program-here"]).expect_said(127, &["no-such-program-here"]);
    run(&["--", "/no/such/program"]).expect_said(127, &["/no/such/program"]);
}

#[test]
fn a_signal_is_128_and_its_number() {
    for (name, number) in [("SEGV", 11), ("KILL", 9), ("TERM", 15), ("ABRT", 6), ("HUP", 1)] {
        assert_eq!(run(&["--", "sh", "-c", &format!("kill -{name} $$; sleep 60")]).code(), 128 + number, "{name}");
    }
}

#[test]
fn the_command_runs_where_we_are_as_who_we_are() {
    let shared = Shared::new();

    let mut command = cofferdam(&["run", "--", "sh", "-c", "pwd; id -u; echo $VARIABLE; umask"]);
    let done = Running::start(command.current_dir(shared.as_ref()).env("VARIABLE", "ours")).wait();

    let umask = procs::status_field(std::process::id() as i32, "Umask:").unwrap();
    let expected = format!("{}\n{}\nours\n{umask}\n", shared.as_ref().display(), nix::unistd::geteuid());
    assert_eq!(done.expect_quiet(0).out(), expected);
}

#[test]
fn cwd_and_env_are_for_the_command() {
    let shared = Shared::new();
    let folder = shared.as_ref().to_str().unwrap();

    let script = "pwd; echo $A; echo $B";
    let done = run(&["--cwd", folder, "--env", "A=1", "--env", "B=x=y z", "--", "sh", "-c", script]);

    assert_eq!(done.expect_quiet(0).out(), format!("{folder}\n1\nx=y z\n"));
}

#[test]
fn a_relative_cwd_starts_from_here() {
    let shared = Shared::new();
    std::fs::create_dir(shared.path("sub")).unwrap();

    let done = Running::start(cofferdam(&["run", "--cwd", "sub", "--", "pwd"]).current_dir(shared.as_ref())).wait();

    assert_eq!(done.expect_quiet(0).out(), format!("{}\n", shared.text("sub")));
}

#[test]
fn arguments_reach_the_command_as_they_are() {
    let done = run(&["--", "printf", "%s|", "a  b", "", "--timeout", "-x", "*", "$HOME", "\u{e4}"]);

    assert_eq!(done.expect_quiet(0).out(), "a  b||--timeout|-x|*|$HOME|\u{e4}|");
}

#[test]
fn stdin_from_a_file_is_read_whole() {
    let shared = Shared::new();
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let file = shared.file("input", &content, 0o644);

    let done = run(&["--stdin", &file, "--", "cat"]);

    assert!(done.expect_quiet(0).stdout == content, "{} bytes came back", done.stdout.len());
}

#[test]
fn stdin_from_our_own_is_read_whole() {
    let content = "0123456789\n".repeat(300_000).into_bytes();

    let mut running =
        Running::start(cofferdam(&["run", "--stdin", "-", "--", "cat"]).stdin(std::process::Stdio::piped()));
    let fed = feed(&mut running.child, content.clone());
    let done = running.wait();
    fed.join().unwrap();

    assert!(done.expect_quiet(0).stdout == content, "{} bytes came back", done.stdout.len());
}

#[test]
fn a_command_that_does_not_read_our_stdin_ends_all_the_same() {
    let mut command = cofferdam(&["run", "--stdin", "-", "--", "sh", "-c", "exit 5"]);
    // Held open and never written to: who waits for its end waits for ever.
    let running = Running::start(command.stdin(std::process::Stdio::piped()));

    running.wait().expect_quiet(5);
}

#[test]
fn without_stdin_the_command_reads_nothing() {
    let mut command = cofferdam(&["run", "--", "sh", "-c", "cat; echo end"]);
    let mut running = Running::start(command.stdin(std::process::Stdio::piped()));
    let fed = feed(&mut running.child, b"not for the command\n".to_vec());

    assert_eq!(running.wait().expect_quiet(0).out(), "end\n");
    fed.join().unwrap();
}

#[test]
fn json_prints_the_record_instead_of_the_output() {
    let done = run(&["--json", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]);

    let record: Value = serde_json::from_slice(&done.expect_quiet(3).stdout).unwrap();
    check_record(&record, false);
    assert_eq!(
        (end(&record), text(&record).as_str(), err(&record).as_slice()),
        (exited(3), "out\n", b"err\n".as_slice())
    );
}

#[test]
fn json_tells_a_time_out_too() {
    let done = run(&["--json", "--timeout", "0.2", "--", "sleep", "4000"]);

    assert_eq!(done.code(), 124);
    let record: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((end(&record).0, end(&record).1), ("timed_out", Some("timeout_s")));
}

#[test]
fn usage_is_a_table_beside_the_output() {
    let done = run(&["--usage", "--", "sh", "-c", "echo out; exit 4"]);

    assert_eq!(done.out(), "out\n");
    done.expect_said(4, &["status", "exited", "limit", "wall", "cpu", "peak", "virtual", "stdout", "4 bytes"]);
}

#[test]
fn usage_tells_the_memory_that_was_used() {
    let Some(python) = python() else { return };

    // Far more than the interpreter itself, and long enough to be seen by a sampler.
    let script = "import time; x = bytearray(96 << 20); y = [x[i] for i in range(0, len(x), 4096)]; time.sleep(0.6)";
    let done = run(&["--usage", "--", python, "-c", script]);

    let row = |name: &str| {
        let line = done.stderr.lines().find(|line| line.to_lowercase().contains(name));
        line.unwrap_or_else(|| panic!("no {name} in {}", done.stderr)).to_owned()
    };
    for name in ["resident", "virtual"] {
        let line = row(name);
        let mebibytes = line.split_whitespace().find_map(|word| word.parse::<f64>().ok());
        assert!(line.contains("MiB") && mebibytes.is_some_and(|count| (96.0..1000.0).contains(&count)), "{line}");
    }
}

#[test]
fn a_command_that_ends_well_is_not_commented_on() {
    let done = run(&["--timeout", "50", "--cpu", "10", "--memory", "64M", "--", "sh", "-c", "echo o; echo e >&2"]);

    assert_eq!((done.code(), done.out().as_str(), done.stderr.as_str()), (0, "o\n", "e\n"));
}
