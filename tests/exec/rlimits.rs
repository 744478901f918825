//! inv13: the limits that the kernel holds are there before the first instruction of the command.

use crate::exec_support::*;
use crate::support::*;

/// Soft and hard limit of a row of /proc/self/limits, as text.
#[track_caller]
fn row(limits: &str, name: &str) -> (String, String) {
    let rest = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}: {limits}"));
    let mut fields = rest.split_whitespace().map(str::to_owned);
    (fields.next().unwrap(), fields.next().unwrap())
}

fn pair(soft: impl ToString, hard: impl ToString) -> (String, String) {
    (soft.to_string(), hard.to_string())
}

/// The limits that a program finds on itself, no shell in between.
#[track_caller]
fn seen(conn: &mut Conn, limits: Value) -> String {
    text(&run(conn, json!({"argv": ["cat", "/proc/self/limits"], "limits": limits})))
}

#[test]
fn inv13_the_configured_limits_hold_before_the_first_instruction() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let limits = seen(&mut conn, json!({}));

    assert_eq!(row(&limits, "Max cpu time"), pair(60, 61), "{limits}");
    assert_eq!(row(&limits, "Max address space"), pair(4_u64 << 30, 4_u64 << 30));
    assert_eq!(row(&limits, "Max open files"), pair(256, 256));
    assert_eq!(row(&limits, "Max file size"), pair(256 << 20, 256 << 20));
    let core = row(&limits, "Max core file size");
    // 1 where core_pattern is a pipe: 0 would still start the handler.
    assert!([pair(0, 0), pair(1, 1)].contains(&core), "{core:?}");
}

#[test]
fn inv13_the_limits_of_a_command_hold_before_the_first_instruction() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let asked = json!({"cpu_sec": 7, "address_space_bytes": 1 << 30, "nproc": 20, "nofile": 17, "fsize_bytes": 12345});
    let limits = seen(&mut conn, asked);

    assert_eq!(row(&limits, "Max cpu time"), pair(7, 8), "{limits}");
    assert_eq!(row(&limits, "Max address space"), pair(1 << 30, 1 << 30));
    assert_eq!(row(&limits, "Max open files"), pair(17, 17));
    assert_eq!(row(&limits, "Max file size"), pair(12345, 12345));
}

#[test]
fn inv13_the_limit_of_processes_holds_before_the_first_instruction() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let limits = seen(&mut conn, json!({"nproc": 20}));

    let (soft, hard) = row(&limits, "Max processes");
    assert_eq!(soft, hard);
    match is_root() {
        true => assert_eq!(soft, "20", "a uid of its own"),
        // The uid is shared with whatever else runs under it: those tasks come on top.
        false => assert!(soft.parse::<u64>().is_ok_and(|count| (20..100_000).contains(&count)), "{soft}"),
    }
}

#[test]
fn a_shell_sees_them_as_ulimit() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let cmd = "ulimit -n; ulimit -t; ulimit -c; ulimit -Hn";
    let record = run(&mut conn, json!({"cmd": cmd, "limits": {"nofile": 20, "cpu_sec": 9}}));

    assert_eq!(text(&record), "20\n9\n0\n20\n");
}

#[test]
fn inv13_a_command_cannot_raise_its_limits() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    if text(&sh(&mut conn, "id -u")) == "0\n" {
        return skip("commands run as root here, and may raise what they like");
    }

    let cmd = "(ulimit -n 64) 2>/dev/null && echo raised; (ulimit -f 100000000) 2>/dev/null && echo raised; ulimit -n";
    let record = run(&mut conn, json!({"cmd": cmd, "limits": {"nofile": 20}}));

    assert_eq!(text(&record), "20\n");
}

#[test]
fn an_allocation_over_the_address_space_fails_in_the_program() {
    let Some(python) = python() else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let limits = json!({"address_space_bytes": 64 << 20});
    let record = run(&mut conn, json!({"argv": [python, "-c", "x = bytearray(100 << 20)"], "limits": limits}));

    assert_eq!(end(&record), exited(1), "{record}");
    assert!(String::from_utf8_lossy(&err(&record)).trim_end().ends_with("MemoryError"), "{record}");
}

#[test]
fn a_program_within_its_address_space_runs() {
    let Some(python) = python() else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let limits = json!({"address_space_bytes": 64 << 20});
    let script = "x = bytearray(8 << 20); print(len(x))";
    let record = run(&mut conn, json!({"argv": [python, "-c", script], "limits": limits}));

    assert_eq!(text(&record), "8388608\n", "{record}");
}

#[test]
fn a_fork_over_the_limit_of_processes_fails_in_the_program() {
    let Some(python) = python() else { return };
    if !is_root() {
        return skip("the limit counts per uid, and this uid is shared");
    }
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let script = "import os, signal, sys\nmade = 0\ntry:\n  while made < 50:\n    if os.fork() == 0: signal.pause()\n    made += 1\nexcept OSError as e: print(made, e.errno)";
    let record = run(&mut conn, json!({"argv": [python, "-c", script], "limits": {"nproc": 8}}));

    assert_eq!(text(&record), "7 11\n", "seven children and EAGAIN: {record}");
    assert_eq!(record["descendants_killed"], 7, "{record}");
}

#[test]
fn one_session_uses_up_no_processes_of_another() {
    if !is_root() {
        return skip("the limit counts per uid, and sessions share one here");
    }
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.unix(), daemon.tcp());
    let mark = mark();

    let cmd = format!("for i in 1 2 3 4 5 6 7 8 9 10; do sleep {mark} & done; wait");
    conn.ask("exec.run", json!({"cmd": cmd, "limits": {"nproc": 12}}));
    wait_living(&mark, 10);

    assert_eq!(end(&run(&mut other, json!({"cmd": "true | true", "limits": {"nproc": 12}}))), exited(0));
}

#[test]
fn a_descriptor_over_the_limit_cannot_be_opened() {
    let Some(python) = python() else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let script = "import os\nmade = []\ntry:\n  while True: made.append(os.open('/dev/null', 0))\nexcept OSError as e: print(made, e.errno)";
    let record = run(&mut conn, json!({"argv": [python, "-c", script], "limits": {"nofile": 8}}));

    assert_eq!(text(&record), "[3, 4, 5, 6, 7] 24\n", "five descriptors and EMFILE: {record}");
}

#[test]
fn a_dying_program_leaves_no_core() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = sh(&mut conn, "for i in 1 2 3; do sh -c 'kill -SEGV $$' 2>/dev/null; done; ls -A; echo done");

    assert_eq!(text(&record), "done\n");
}
