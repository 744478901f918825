//! Floods of output, and readers that a command keeps for itself.

use crate::exec_support::*;
use crate::support::*;

#[test]
fn two_byte_writes_do_not_wear_the_daemon_out() {
    let Some(python) = python() else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let cpu_ms = |conn: &mut Conn| conn.ok("system.stats", json!({}))["process"]["cpu_ms"].as_f64().unwrap();

    let before = cpu_ms(&mut conn);
    let script = "import os\nwhile 1: os.write(1, b'y\\n')";
    let record = run(&mut conn, json!({"argv": [python, "-c", script], "timeout_s": 2}));
    let used = cpu_ms(&mut conn) - before;

    assert_eq!(end(&record).0, "timed_out", "{}", brief(&record));
    assert!(record["stdout_bytes"].as_u64().unwrap() > 1000, "{}", brief(&record));
    // Measured without a pause between reads: 69 to 97 % of a core. The bound is wide, for builds without optimisation.
    assert!(used < 1000.0, "{used} ms of CPU time in two seconds");
}

#[test]
fn bytes_that_are_no_text_are_exact() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = sh(&mut conn, r"printf 'a\377\000\303'; sleep .1; printf '\251z'");

    assert_eq!(out(&record), b"a\xff\x00\xc3\xa9z");
}

#[test]
fn floods_on_both_outputs_at_once_do_not_block_each_other() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let params = json!({"cmd": "yes & exec yes >&2", "on_output_limit": "kill", "output_limit_bytes": 1 << 20});
    assert_eq!(end(&run(&mut conn, params)).0, "output_limit");

    let cmd = "head -c 30000000 /dev/zero & head -c 30000000 /dev/zero >&2; wait; echo >/dev/null";
    let record = run(&mut conn, json!({"cmd": cmd, "output_limit_bytes": 1000}));
    assert_eq!(end(&record), exited(0), "{}", brief(&record));
    assert_eq!((&record["stdout_bytes"], &record["stderr_bytes"]), (&json!(30_000_000), &json!(30_000_000)));
}

#[test]
fn a_flood_that_ignores_sigpipe_is_ended() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let params = json!({"cmd": "trap '' PIPE; while :; do echo x; done 2>/dev/null", "on_output_limit": "kill",
        "output_limit_bytes": 1000});
    let record = run(&mut conn, params);

    assert_eq!(end(&record).0, "output_limit");
    assert_eq!(out(&record).len(), 1000);
}

#[test]
fn a_flood_with_a_reader_of_its_own_is_ended() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    // It reads the pipe that we read: closing our end would not stop it.
    let params = json!({"cmd": "exec 5</proc/self/fd/1; while :; do echo x; done", "on_output_limit": "kill",
        "output_limit_bytes": 65536, "timeout_s": 15});
    let record = run(&mut conn, params);

    assert_eq!(end(&record).0, "output_limit", "{}", brief(&record));
}

#[test]
fn a_flood_times_out_like_any_other_command() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record =
        run(&mut conn, json!({"cmd": "trap '' TERM PIPE; yes & yes >&2 & yes", "timeout_s": 0.5, "kill_grace_ms": 50}));

    assert_eq!(end(&record).0, "timed_out", "{}", brief(&record));
    assert_well(&mut conn);
}

#[test]
fn a_drip_comes_whole() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let cmd = "i=0; while [ $i -lt 60 ]; do i=$((i+1)); printf .; sleep .01; done";
    let id = conn.ask("exec.run", json!({"cmd": cmd, "stream": true}));
    let (pieces, record) = pieces_and_record(&mut conn, &id);

    assert_eq!(joined(&pieces, "stdout"), ".".repeat(60).as_bytes());
    assert_eq!(record["stdout_bytes"], 60);
}

#[test]
fn a_pipe_that_the_command_makes_larger_costs_no_memory_of_ours() {
    let Some(python) = python() else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let script =
        "import fcntl, os\nfcntl.fcntl(1, 1031, 1 << 20)\nos.execvp('head', ['head', '-c', '60000000', '/dev/zero'])";
    let record = run(&mut conn, json!({"argv": [python, "-c", script], "output_limit_bytes": 1000}));

    assert_eq!((end(&record), &record["stdout_bytes"]), (exited(0), &json!(60_000_000)), "{}", brief(&record));
    let peak = procs::peak_rss_bytes(daemon.runtime_pid);
    assert!(peak < 64 << 20, "the runtime grew to {peak} bytes");
}

#[test]
fn inv7_floods_of_many_commands_stay_within_the_memory_of_all() {
    let daemon = Daemon::start(&[("commands.max_buffer_bytes", json!(8 << 20))]);
    let mut conn = daemon.tcp();

    // Twelve commands that would each keep 4 MiB: six times the budget.
    let ids: Vec<Value> =
        (0..12).map(|_| conn.ask("exec.run", json!({"cmd": "head -c 8000000 /dev/zero | tr '\\0' a"}))).collect();
    let mut ran = 0;
    for id in &ids {
        let answer = conn.answer(id);
        if answer["error"]["data"]["reason"] == "CAPACITY" {
            assert_eq!(answer["error"]["data"]["resource"], "buffer_bytes", "{answer}");
            continue;
        }
        check_record(&answer["result"], false);
        assert_eq!(answer["result"]["stdout_bytes"], 8_000_000, "{}", brief(&answer));
        ran += 1;
    }

    assert!(ran > 0, "none ran");
    let stats = daemon.stats();
    assert!(stats["output"]["max_buffer_bytes"].as_u64().is_some_and(|max| max <= 8 << 20), "{stats}");
    wait_stats(&daemon, "/output/buffered_bytes", 0);
}

#[test]
fn a_neighbour_of_floods_is_served() {
    let daemon = Daemon::start(&[]);
    let (mut flooding, mut conn) = (daemon.unix(), daemon.tcp());
    let floods: Vec<Value> = (0..4)
        .map(|_| flooding.ask("exec.run", json!({"cmd": "trap '' TERM; yes & exec yes >&2", "timeout_s": 60})))
        .collect();
    daemon.wait_running(4);

    for _ in 0..20 {
        assert_well(&mut conn);
    }
    wait_stats(&daemon, "/commands/running", 4);
    drop((flooding, floods));

    daemon.wait_running(0);
}
