//! How a command ends, and which status its record tells: the table of section 6 row by row.

use crate::exec_support::*;
use crate::support::*;

#[test]
fn a_command_that_leaves_by_itself_is_exited() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for code in [0, 1, 125, 126, 127, 128, 137, 255] {
        assert_eq!(end(&sh(&mut conn, &format!("exit {code}"))), exited(code));
    }
    wait_stats(&daemon, "/commands/by_status/exited", 8);
}

#[test]
fn a_signal_that_is_none_of_ours_is_signaled_with_its_name() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for name in ["SEGV", "KILL", "TERM", "ABRT", "USR1", "HUP", "PIPE", "BUS"] {
        let record = sh(&mut conn, &format!("kill -{name} $$; sleep 60"));
        let signal = format!("SIG{name}");
        assert_eq!(end(&record), ("signaled", None, None, Some(signal.as_str())), "{record}");
    }
    wait_stats(&daemon, "/commands/by_status/signaled", 8);
}

#[test]
fn a_real_time_signal_has_a_name_too() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = sh(&mut conn, "kill -40 $$; sleep 60");

    assert_eq!(end(&record).0, "signaled", "{record}");
}

#[test]
fn a_time_out_ends_by_term_what_does_not_mind_it() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mark = mark();

    let record = run(&mut conn, json!({"cmd": format!("echo before; exec sleep {mark}"), "timeout_s": 0.3}));

    assert_eq!(end(&record), ("timed_out", Some("timeout_s"), None, Some("SIGTERM")));
    assert_eq!(text(&record), "before\n", "output up to the deadline is in the record");
    assert!(record["wall_ms"].as_f64().unwrap() >= 300.0, "{record}");
    wait_gone(&mark);
}

#[test]
fn a_time_out_ends_by_kill_what_ignores_term() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mark = mark();

    let cmd = format!("trap '' TERM; echo before; sleep {mark}; sleep {mark}");
    let record = run(&mut conn, json!({"cmd": cmd, "timeout_s": 0.2, "kill_grace_ms": 150}));

    assert_eq!(end(&record), ("timed_out", Some("timeout_s"), None, Some("SIGKILL")));
    assert!(record["wall_ms"].as_f64().unwrap() >= 350.0, "the grace is given: {record}");
    assert_eq!(text(&record), "before\n");
    wait_gone(&mark);
}

#[test]
fn a_command_that_leaves_on_term_has_no_signal() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let cmd = "trap 'echo leaving; exit 7' TERM; while :; do sleep 0.02; done";
    let record = run(&mut conn, json!({"cmd": cmd, "timeout_s": 0.3, "kill_grace_ms": 15000}));

    assert_eq!(end(&record), ("timed_out", Some("timeout_s"), None, None));
    assert_eq!(text(&record), "leaving\n");
}

#[test]
fn without_a_grace_a_time_out_kills_at_once() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let cmd = "trap 'echo leaving; exit 7' TERM; while :; do sleep 0.02; done";
    let record = run(&mut conn, json!({"cmd": cmd, "timeout_s": 0.2, "kill_grace_ms": 0}));

    assert_eq!(end(&record), ("timed_out", Some("timeout_s"), None, Some("SIGKILL")));
    assert_eq!(text(&record), "");
}

#[test]
fn the_grace_is_the_configured_one_unless_asked() {
    let daemon = Daemon::start(&[("commands.kill_grace_ms", json!(0))]);
    let mut conn = daemon.tcp();

    let record = run(&mut conn, json!({"cmd": "trap 'exit 7' TERM; while :; do sleep 0.02; done", "timeout_s": 0.2}));

    assert_eq!(end(&record), ("timed_out", Some("timeout_s"), None, Some("SIGKILL")));
}

#[test]
fn the_time_out_is_the_configured_one_unless_asked() {
    let daemon = Daemon::start(&[("commands.default_timeout_s", json!(0.2)), ("commands.max_timeout_s", json!(5))]);
    let mut conn = daemon.tcp();

    assert_eq!(end(&sh(&mut conn, "exec sleep 60")).0, "timed_out");
    assert_eq!(end(&run(&mut conn, json!({"cmd": "sleep 0.4", "timeout_s": 5}))), exited(0));
    conn.refused("exec.run", json!({"cmd": "true", "timeout_s": 5.1}), "INVALID_PARAMS");
}

#[test]
fn a_silence_that_is_too_long_is_a_time_out() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = run(&mut conn, json!({"cmd": "echo a; exec sleep 60", "stall_timeout_s": 0.2, "timeout_s": 50}));

    assert_eq!(end(&record), ("timed_out", Some("stall_timeout_s"), None, Some("SIGTERM")));
    assert_eq!(text(&record), "a\n");
}

#[test]
fn a_command_that_never_says_anything_stalls_too() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = run(&mut conn, json!({"cmd": "exec sleep 60", "stall_timeout_s": 0.2}));

    assert_eq!(end(&record).1, Some("stall_timeout_s"));
}

#[test]
fn output_on_either_stream_breaks_the_silence() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    // Speaks for longer than the silence allowed, in gaps a tenth of it.
    let cmd = "for i in 1 2 3 4 5 6 7; do echo $i; sleep 0.1; echo $i >&2; sleep 0.1; done";
    let record = run(&mut conn, json!({"cmd": cmd, "stall_timeout_s": 1.2}));

    assert_eq!(end(&record), exited(0));
    assert!(record["wall_ms"].as_f64().unwrap() > 1200.0, "{record}");
}

#[test]
fn a_stopped_command_still_times_out() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record =
        run(&mut conn, json!({"cmd": "echo a; kill -STOP $$; echo b", "timeout_s": 0.3, "kill_grace_ms": 100}));

    assert_eq!(end(&record).0, "timed_out", "{record}");
    assert_eq!(text(&record), "a\n");
}

#[test]
fn too_much_output_ends_a_command_that_asked_for_it() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = run(
        &mut conn,
        json!({"cmd": "exec yes", "on_output_limit": "kill", "output_limit_bytes": 1000, "output_keep": "head"}),
    );

    assert_eq!((end(&record).0, end(&record).1), ("output_limit", Some("output_limit_bytes")));
    assert_eq!(out(&record), "y\n".repeat(500).as_bytes());
    assert!(record["stdout_dropped"].as_u64().unwrap() > 0, "{record}");
}

#[test]
fn each_stream_has_the_output_limit_by_itself() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let limited = |cmd: &str| json!({"cmd": cmd, "on_output_limit": "kill", "output_limit_bytes": 4});

    assert_eq!(end(&run(&mut conn, limited("printf 1234; printf 1234 >&2"))), exited(0));
    assert_eq!(end(&run(&mut conn, limited("printf 1234; printf 12345 >&2; sleep 60"))).0, "output_limit");
}

#[test]
fn the_output_limit_is_exact() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mut ended = |count: usize| {
        let cmd = format!("head -c {count} /dev/zero");
        run(&mut conn, json!({"cmd": cmd, "on_output_limit": "kill", "output_limit_bytes": 70000}))
    };

    for count in [69_999, 70_000] {
        let record = ended(count);
        assert_eq!((end(&record), out(&record).len()), (exited(0), count));
    }
    let record = ended(70_001);
    assert_eq!((end(&record).0, end(&record).1), ("output_limit", Some("output_limit_bytes")));
    assert_eq!((out(&record).len(), &record["stdout_bytes"]), (70_000, &json!(70_001)));
}

#[test]
fn a_file_that_grows_too_large_is_an_output_limit() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let cmd = "exec head -c 10000 /dev/zero >file";
    let record = run(&mut conn, json!({"cmd": cmd, "limits": {"fsize_bytes": 4096}}));

    assert_eq!(end(&record), ("output_limit", Some("fsize_bytes"), None, Some("SIGXFSZ")));
}

#[test]
fn a_session_that_closes_cancels_its_command() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.unix(), daemon.unix());
    let session = conn.open(json!({}));
    let mark = mark();

    let id = conn.ask("exec.run", json!({"session": session, "cmd": format!("echo a; sleep {mark} & sleep {mark}")}));
    wait_living(&mark, 2);
    let closed = close(&mut other, &session);

    assert!(living(&mark).is_empty(), "session.close answers when they are gone: {:?}", living(&mark));
    assert_eq!(closed["commands"], 1, "{closed}");
    let record = record_of(&mut conn, &id);
    assert_eq!((end(&record).0, end(&record).1, end(&record).2), ("cancelled", None, None));
    assert_eq!(text(&record), "a\n");
    wait_stats(&daemon, "/commands/by_status/cancelled", 1);
}

#[test]
fn a_daemon_that_stops_ends_what_does_not_end_in_time() {
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(0.2))]);
    let mut conn = daemon.tcp();
    let mark = mark();

    let id = conn.ask("exec.run", json!({"cmd": format!("trap '' TERM; echo a; sleep {mark}; sleep {mark}")}));
    wait_living(&mark, 2);
    daemon.signal(Signal::SIGTERM);

    let record = record_of(&mut conn, &id);
    assert_eq!((end(&record).0, end(&record).1, end(&record).2), ("shutdown", None, None));
    assert_eq!(text(&record), "a\n", "the record is still delivered whole");
    daemon.expect_clean_exit();
    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
}

#[test]
fn a_daemon_that_stops_lets_a_command_finish() {
    let mut daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let gate = daemon.launch.folder.gate();

    let id = conn.ask("exec.run", json!({"cmd": format!("{}; exit 6", gate.wait())}));
    daemon.wait_running(1);
    daemon.signal(Signal::SIGTERM);
    wait_until("the daemon drains", DEADLINE, || {
        let answer = conn.request("exec.run", json!({"cmd": "true"}));
        (answer["error"]["data"]["reason"] == "SHUTTING_DOWN").then_some(())
    });
    gate.open();

    assert_eq!(end(&record_of(&mut conn, &id)), exited(6));
    daemon.expect_clean_exit();
}

#[test]
fn what_is_left_of_the_tree_is_killed_and_counted() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mark = mark();

    let record = sh(&mut conn, &format!("sleep {mark} & sleep {mark} & sleep {mark} & echo left; exit 3"));

    assert_eq!(end(&record), exited(3), "{record}");
    assert_eq!(text(&record), "left\n");
    assert_eq!(record["descendants_killed"], 3, "{record}");
    assert!(living(&mark).is_empty(), "gone before the answer: {:?}", living(&mark));
}
