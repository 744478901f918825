//! Descendants that try to outlive their command.

use std::time::Instant;

use crate::exec_support::*;
use crate::support::*;

/// Runs `cmd`, which ends at once and leaves something behind: the record, and nothing with `mark` is left.
#[track_caller]
fn leaves(daemon: &Daemon, cmd: &str, mark: &str) -> Value {
    let mut conn = daemon.tcp();
    let record = sh(&mut conn, cmd);
    wait_gone(mark);
    assert_well(&mut conn);
    record
}

#[test]
fn a_background_child_that_keeps_stdout_does_not_delay_the_record() {
    let daemon = Daemon::start(&[]);
    let mark = mark();

    let begin = Instant::now();
    let record = leaves(&daemon, &format!("sleep {mark} & echo hi"), &mark);

    assert_eq!((end(&record), text(&record).as_str()), (exited(0), "hi\n"));
    assert_eq!(record["descendants_killed"], 1, "{record}");
    assert!(begin.elapsed() < DEADLINE / 2, "the sleep is over an hour");
}

#[test]
fn a_child_in_a_session_of_its_own_is_killed() {
    let Some(_) = tool("setsid") else { return };
    let daemon = Daemon::start(&[]);
    let mark = mark();

    let record = leaves(&daemon, &format!("setsid sh -c 'setsid sleep {mark} &'; exit 5"), &mark);

    assert_eq!(end(&record), exited(5));
}

#[test]
fn a_double_fork_is_killed() {
    let daemon = Daemon::start(&[]);
    let mark = mark();

    leaves(&daemon, &format!("( (sleep {mark} & sleep {mark} &) & ) ; exit 0"), &mark);
}

#[test]
fn a_child_that_holds_no_pipe_and_ignores_hup_is_killed() {
    let (Some(_), Some(_)) = (tool("setsid"), tool("nohup")) else { return };
    let daemon = Daemon::start(&[]);
    let mark = mark();

    leaves(&daemon, &format!("nohup setsid sleep {mark} </dev/null >/dev/null 2>&1 & exit 0"), &mark);
}

#[test]
fn an_orphan_without_an_environment_is_killed() {
    let Some(_) = tool("setsid") else { return };
    let daemon = Daemon::start(&[]);
    let mark = mark();

    let inner = format!("setsid sleep {mark} >/dev/null 2>&1 </dev/null & setsid sleep {mark} &");
    let record =
        leaves(&daemon, &format!("env -i setsid /bin/sh -c '{inner}'; env -i setsid sleep {mark} & exit 6"), &mark);

    assert_eq!(end(&record), exited(6));
}

#[test]
fn an_orphan_without_an_environment_is_killed_beside_a_running_command() {
    let Some(_) = tool("setsid") else { return };
    let daemon = Daemon::start(&[]);
    let mut neighbour = daemon.tcp();
    let (mark, gate) = (mark(), daemon.launch.folder.gate());
    let id = neighbour.ask("exec.run", json!({"cmd": format!("{}; exit 8", gate.wait())}));
    daemon.wait_running(1);

    leaves(&daemon, &format!("env -i setsid /bin/sh -c 'setsid sleep {mark} &'; exit 0"), &mark);
    gate.open();

    assert_eq!(end(&record_of(&mut neighbour, &id)), exited(8), "the neighbour is spared");
}

#[test]
fn an_orphan_of_a_running_command_is_spared() {
    let Some(_) = tool("setsid") else { return };
    let daemon = Daemon::start(&[("reaper.interval_ms", json!(100))]);
    let mut conn = daemon.tcp();
    let (mark, gate) = (mark(), daemon.launch.folder.gate());

    // Its parent is gone, its command is not: it still belongs to it.
    let cmd = format!("(setsid sleep {mark} &); {}; exit 0", gate.wait());
    let id = conn.ask("exec.run", json!({"cmd": cmd}));
    wait_living(&mark, 1);
    let sweeps = daemon.stats()["reaper"]["sweeps"].as_u64().unwrap();
    daemon.stats_show("three sweeps pass", |stats| (stats["reaper"]["sweeps"].as_u64()? >= sweeps + 3).then_some(()));
    let sleepers = living(&mark).values().filter(|line| line.starts_with("sleep ")).count();
    assert_eq!(sleepers, 1, "{:?}", living(&mark));
    gate.open();

    assert_eq!(end(&record_of(&mut conn, &id)), exited(0));
    wait_gone(&mark);
}

#[test]
fn a_late_writer_does_not_delay_the_record() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = sh(&mut conn, "echo first; (sleep 0.05; exec yes) & exit 0");

    assert_eq!(end(&record), exited(0));
    assert!(out(&record).len() <= 4 << 20, "{}", brief(&record));
    assert_well(&mut conn);
}

#[test]
fn a_child_that_inherits_stdin_is_killed() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = run(&mut conn, json!({"cmd": "(sleep 4000; cat) >/dev/null & exit 0", "stdin": "x".repeat(1 << 20)}));

    assert_eq!(end(&record), exited(0));
    assert_well(&mut conn);
}

#[test]
fn a_command_that_closes_its_outputs_is_not_over() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let shared = Shared::new();

    let cmd = format!("echo a; exec >&- 2>&- <&-; sleep 0.3; : >{}; exit 4", shared.text("still-running"));
    let record = sh(&mut conn, &cmd);

    assert_eq!((end(&record), text(&record).as_str()), (exited(4), "a\n"));
    assert!(shared.path("still-running").exists());
}

#[test]
fn closing_a_session_leaves_none_of_twenty_trees() {
    let Some(_) = tool("setsid") else { return };
    let daemon = Daemon::start(&[("limits.limit_nproc", json!(200))]);
    let (mut conn, mut other) = (daemon.unix(), daemon.unix());
    let session = conn.open(json!({}));
    let mark = mark();

    let tree = format!("setsid sh -c 'trap \"\" TERM HUP; sleep {mark} & sleep {mark}'");
    let cmd = format!("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do {tree} & done; wait");
    let id = conn.ask("exec.run", json!({"session": session, "cmd": cmd}));
    wait_living(&mark, 41);
    close(&mut other, &session);

    assert!(living(&mark).is_empty(), "session.close answers when they are gone: {:?}", living(&mark));
    assert_eq!(end(&record_of(&mut conn, &id)).0, "cancelled");
}

#[test]
fn inv1_reaping_orphans_does_not_steal_the_exit_code_of_a_command() {
    let Some(_) = tool("setsid") else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    crate::storms::storm(&mut conn, 200, 8, json!({"cmd": "setsid sh -c 'exit 7' & exit 5"}), |record| {
        assert_eq!(end(record), exited(5), "{record}");
    });
}

/// A chain in which each generation leaves its session, forks and ends, several wide; it gives up by itself later than
/// the test does.
const REFORK: &str = "
import os, sys, time
until = time.monotonic() + 40
def chain():
    while time.monotonic() < until:
        try:
            if os.fork(): os._exit(0)
        except OSError: continue
        os.setsid()
    os._exit(0)
for _ in range(4):
    if os.fork() == 0: chain()
if len(sys.argv) > 2: time.sleep(60)
";

#[test]
fn a_chain_that_forks_away_is_caught() {
    let Some(python) = python() else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mark = mark();

    let record = run(&mut conn, json!({"argv": [python, "-c", REFORK, mark], "limits": {"nproc": 32}}));

    assert_eq!(end(&record), exited(0));
    wait_gone(&mark);
    assert_well(&mut conn);
}

#[test]
fn a_chain_that_forks_away_is_caught_at_a_time_out() {
    let Some(python) = python() else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mark = mark();

    let argv = json!([python, "-c", REFORK, mark, "stay"]);
    let record = run(&mut conn, json!({"argv": argv, "limits": {"nproc": 32}, "timeout_s": 1}));

    assert!(["timed_out", "unkillable"].contains(&end(&record).0), "{record}");
    wait_gone(&mark);
    assert_well(&mut conn);
}

#[test]
fn a_fork_bomb_of_the_shell_stays_within_its_processes() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mark = mark();

    // Bounded by itself too: a binary tree of seven generations, each of which holds on.
    let script = format!("d=$1; [ $d -gt 6 ] && exec sleep {mark}; sh $0 $((d+1)) & sh $0 $((d+1)) & sleep {mark}");
    let shared = Shared::new();
    let file = shared.file("bomb", script, 0o755);
    let params = json!({"argv": ["sh", file, "1"], "limits": {"nproc": 24}, "timeout_s": 1, "kill_grace_ms": 50});
    let record = run(&mut conn, params);

    // A shell that cannot fork gives up: the leader may have left by itself before the time is over.
    assert!(["timed_out", "exited"].contains(&end(&record).0), "{record}");
    wait_gone(&mark);
    wait_gone(&file);
    assert_well(&mut conn);
}
