//! Limits of CPU time and of memory: of one process by the kernel, of a tree by the watchdog.

use crate::exec_support::*;
use crate::support::*;

const SPIN: &str = "while :; do :; done";

#[track_caller]
fn cpu_ms(record: &Value) -> f64 {
    let usage = &record["usage"];
    usage["cpu_user_ms"].as_f64().unwrap() + usage["cpu_system_ms"].as_f64().unwrap()
}

#[test]
fn a_busy_loop_ends_by_sigxcpu() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = run(&mut conn, json!({"cmd": format!("echo a; {SPIN}"), "limits": {"cpu_sec": 1}}));

    assert_eq!(end(&record), ("cpu_limit", Some("cpu_sec"), None, Some("SIGXCPU")), "{record}");
    // The kernel counts the limit in ticks, and the usage more finely.
    assert!(cpu_ms(&record) > 500.0, "{record}");
    assert_eq!(text(&record), "a\n");
}

#[test]
fn a_busy_loop_that_ignores_sigxcpu_ends_by_sigkill() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = run(&mut conn, json!({"cmd": format!("trap '' XCPU; {SPIN}"), "limits": {"cpu_sec": 1}}));

    assert_eq!(end(&record), ("cpu_limit", Some("cpu_sec"), None, Some("SIGKILL")), "{record}");
    assert!(cpu_ms(&record) < 4000.0, "{record}");
}

#[test]
fn a_command_that_sleeps_uses_no_cpu_time() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    assert_eq!(end(&run(&mut conn, json!({"cmd": "sleep 1.5", "limits": {"cpu_sec": 1}}))), exited(0));
}

#[test]
fn the_cpu_time_of_a_tree_is_limited_together() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    // None of the eight reaches the limit by itself before all together are far over it.
    let cmd = format!("for i in 1 2 3 4 5 6 7 8; do ({SPIN}) & done; wait");
    let record = run(&mut conn, json!({"cmd": cmd, "limits": {"cpu_sec": 1}}));

    assert_eq!(end(&record), ("cpu_limit", Some("cpu_sec"), None, Some("SIGKILL")), "{record}");
}

#[test]
fn the_cpu_time_of_children_that_have_ended_counts() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    // Each child uses a fraction of a second and is gone; without their sum this would run into its time-out.
    let child = "i=0; while [ $i -lt 40000 ]; do i=$((i+1)); done";
    let cmd = format!("while :; do sh -c '{child}'; done");
    let record = run(&mut conn, json!({"cmd": cmd, "limits": {"cpu_sec": 1}, "timeout_s": 15}));

    assert_eq!((end(&record).0, end(&record).1), ("cpu_limit", Some("cpu_sec")), "{record}");
}

#[test]
fn the_cpu_time_of_a_descendant_in_a_session_of_its_own_counts() {
    let Some(_) = tool("setsid") else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let cmd = format!("for i in 1 2 3 4 5 6; do setsid sh -c '{SPIN}' & done; wait");
    let record = run(&mut conn, json!({"cmd": cmd, "limits": {"cpu_sec": 1}, "timeout_s": 15}));

    assert_eq!((end(&record).0, end(&record).1), ("cpu_limit", Some("cpu_sec")), "{record}");
}

/// Shell text of a process that keeps about so many bytes in memory and then waits: `tail` holds a line that does not end.
fn hold(mebibytes: u32, mark: &str) -> String {
    format!("(head -c {mebibytes}M /dev/zero; sleep {mark}) | tail >/dev/null")
}

#[test]
fn a_process_with_too_much_memory_is_killed() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mark = mark();

    let record = run(&mut conn, json!({"cmd": hold(64, &mark), "limits": {"memory_bytes": 32 << 20}}));

    assert_eq!(end(&record), ("memory_limit", Some("memory_bytes"), None, Some("SIGKILL")), "{record}");
    wait_gone(&mark);
}

#[test]
fn the_memory_of_a_tree_is_limited_together() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mark = mark();

    // Five times 16 MiB: each far below the limit, all together over it.
    let cmd = format!("for i in 1 2 3 4 5; do {} & done; wait", hold(16, &mark));
    let record = run(&mut conn, json!({"cmd": cmd, "limits": {"memory_bytes": 48 << 20}}));

    assert_eq!(end(&record), ("memory_limit", Some("memory_bytes"), None, Some("SIGKILL")), "{record}");
    wait_gone(&mark);
}

#[test]
fn the_memory_of_an_orphan_in_a_session_of_its_own_counts() {
    let Some(_) = tool("setsid") else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mark = mark();

    let cmd = format!("(setsid sh -c '{}' &); sleep {mark}", hold(64, &mark));
    let record = run(&mut conn, json!({"cmd": cmd, "limits": {"memory_bytes": 32 << 20}, "timeout_s": 15}));

    assert_eq!((end(&record).0, end(&record).1), ("memory_limit", Some("memory_bytes")), "{record}");
    wait_gone(&mark);
}

#[test]
fn a_tree_within_its_memory_is_left_alone() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let cmd = format!("for i in 1 2; do {} & done; wait; exit 5", hold(4, "0.8"));
    let record = run(&mut conn, json!({"cmd": cmd, "limits": {"memory_bytes": 64 << 20}}));

    assert_eq!(end(&record), exited(5), "{record}");
}

#[test]
fn a_python_tree_over_its_memory_is_killed() {
    let Some(python) = python() else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let script = "import os, time\nfor i in range(4): os.fork()\nx = b'x' * (8 << 20)\ntime.sleep(60)";
    let limits = json!({"memory_bytes": 64 << 20, "nproc": 40});
    let record = run(&mut conn, json!({"argv": [python, "-c", script], "limits": limits, "timeout_s": 30}));

    assert_eq!((end(&record).0, end(&record).1), ("memory_limit", Some("memory_bytes")), "{record}");
}

#[test]
fn a_limit_that_ends_one_command_leaves_the_others_alone() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut neighbour) = (daemon.tcp(), daemon.tcp());
    let gate = daemon.launch.folder.gate();

    let id = neighbour.ask("exec.run", json!({"cmd": format!("{}; exit 8", gate.wait())}));
    daemon.wait_running(1);
    let record = run(&mut conn, json!({"cmd": hold(64, &mark()), "limits": {"memory_bytes": 32 << 20}}));
    gate.open();

    assert_eq!(end(&record).0, "memory_limit");
    assert_eq!(end(&record_of(&mut neighbour, &id)), exited(8));
}
