//! What the daemon holds for its clients stays within `max_buffer_bytes`, whatever they send and do not read.

use std::time::Duration;

use crate::exec_support::*;
use crate::support::*;

const MIB: u64 = 1 << 20;
/// Code, stacks, what the allocator keeps: all that is no buffer.
const SLACK: u64 = 12 * MIB;
/// A line of ours is sent on as long as the daemon takes something so often. What it has not taken by then it does not
/// take for now; no test depends on how much that is.
const PATIENCE: Duration = Duration::from_millis(60);

fn buffered(conn: &mut Conn) -> u64 {
    conn.ok("system.stats", json!({}))["output"]["buffered_bytes"].as_u64().unwrap()
}

fn grown_from(before: u64, daemon: &Daemon) -> u64 {
    procs::peak_rss_bytes(daemon.runtime_pid).saturating_sub(before)
}

/// A request for a ping that is so long, with its line end.
fn long_ping(bytes: usize) -> Vec<u8> {
    let head = r#"{"id":"long","method":"system.ping""#;
    [head.as_bytes(), &vec![b' '; bytes - head.len() - 2], b"}\n"].concat()
}

/// What it has sent of its line, and the rest of it.
struct Sender(Conn, Vec<u8>);

impl Sender {
    /// Sends so much of a line, as far as it is taken.
    fn begin(mut conn: Conn, line: &[u8], bytes: usize) -> Sender {
        let sent = conn.send_until_blocked(&line[..bytes], PATIENCE).unwrap();
        Sender(conn, line[sent..].to_vec())
    }

    fn go_on(&mut self) {
        self.0.send_later(std::mem::take(&mut self.1));
    }
}

fn well_served(conn: &mut Conn) {
    conn.ping();
    assert_eq!(out(&sh(conn, "echo well")), b"well\n");
}

#[test]
fn inv7_half_lines_of_many_connections_share_the_memory_and_all_come_to_their_end() {
    let max = 8 * MIB;
    let daemon = Daemon::start(&[
        ("commands.max_buffer_bytes", json!(max)),
        ("connections.line_timeout_s", json!(3600)),
        ("connections.first_line_s", json!(3600)),
    ]);
    let mut neighbour = daemon.tcp();
    let before = procs::peak_rss_bytes(daemon.runtime_pid);
    let line = long_ping(2 << 20);

    let mut senders: Vec<Sender> = (0..32).map(|_| Sender::begin(daemon.unix(), &line, 1 << 20)).collect();

    // The first few have sent all that they wanted; they would be 32 MiB together.
    let stats = daemon.stats_show("the lines count", |stats| {
        (stats["output"]["buffered_bytes"].as_u64()? > max / 4).then(|| stats.clone())
    });
    assert!(stats["output"]["buffered_bytes"].as_u64().unwrap() <= max, "{stats}");
    let halted = senders.iter().filter(|sender| sender.1.len() > 1 << 20).count();
    assert!(halted > 16, "only {halted} of 32 were not read");
    well_served(&mut neighbour);

    for sender in &mut senders {
        sender.go_on();
        assert!(buffered(&mut neighbour) <= max);
    }
    well_served(&mut neighbour);
    for Sender(conn, _) in &mut senders {
        assert_eq!(conn.recv()["result"]["pong"], true);
        assert!(buffered(&mut neighbour) <= max);
    }
    assert!(grown_from(before, &daemon) < max + SLACK, "grew by {}", grown_from(before, &daemon));
    wait_stats(&daemon, "/output/buffered_bytes", 0);
}

#[test]
fn half_lines_that_never_end_are_given_up_and_their_memory_comes_back() {
    let daemon = Daemon::start(&[
        ("commands.max_buffer_bytes", json!(MIB)),
        ("connections.line_timeout_s", json!(2)),
        ("connections.first_line_s", json!(3600)),
    ]);
    let mut neighbour = daemon.tcp();
    let line = long_ping(1 << 20);

    let mut senders: Vec<Sender> = (0..16).map(|_| Sender::begin(daemon.unix(), &line, 1 << 19)).collect();
    well_served(&mut neighbour);

    for Sender(conn, _) in &mut senders {
        conn.expect_end();
    }
    wait_stats(&daemon, "/output/buffered_bytes", 0);
    let mut last = Sender(daemon.unix(), line);
    last.go_on();
    assert_eq!(last.0.recv()["result"]["pong"], true);
}

#[test]
fn inv9_half_lines_of_clients_that_leave_come_back() {
    let daemon = Daemon::start(&[("commands.max_buffer_bytes", json!(4 * MIB))]);
    let line = long_ping(2 << 20);
    for _ in 0..3 {
        let senders: Vec<Sender> = (0..8).map(|_| Sender::begin(daemon.unix(), &line, 1 << 20)).collect();
        daemon.stats_show("the lines count", |stats| (stats["output"]["buffered_bytes"].as_u64()? > 0).then_some(()));
        drop(senders);
        wait_stats(&daemon, "/output/buffered_bytes", 0);
    }
    let mut last = Sender(daemon.tcp(), line);
    last.go_on();
    assert_eq!(last.0.recv()["result"]["pong"], true);
}

#[test]
fn inv7_answers_that_nobody_reads_stay_within_the_memory_of_all() {
    let max = 16 * MIB;
    let daemon = Daemon::start(&[
        ("commands.max_buffer_bytes", json!(max)),
        ("commands.max_commands", json!(16)),
        ("connections.write_stall_s", json!(3600)),
    ]);
    let mut neighbour = daemon.tcp();
    let before = procs::peak_rss_bytes(daemon.runtime_pid);
    let cmd = "head -c 5000000 /dev/zero | tr '\\0' a";

    let mut clients: Vec<(Conn, Value)> = (0..12)
        .map(|_| {
            let mut conn = daemon.unix();
            let id = conn.ask("exec.run", json!({"cmd": cmd}));
            (conn, id)
        })
        .collect();
    // A piece of each answer is on its way beside what was kept.
    let bound = max + 12 * 8 * 1024;
    daemon.stats_show("all are over", |stats| {
        assert!(stats["output"]["buffered_bytes"].as_u64()? <= bound, "{stats}");
        let ended = stats["commands"]["finished"].as_u64()? + stats["commands"]["rejected"].as_u64()?;
        (ended == 12).then_some(())
    });
    assert!(buffered(&mut neighbour) > max / 2, "they hold most of it");
    neighbour.ping();

    let (mut records, mut refused) = (0, 0);
    for (conn, id) in &mut clients {
        let answer = conn.answer(id);
        assert!(buffered(&mut neighbour) <= bound);
        if answer["error"]["data"]["reason"] == "CAPACITY" {
            assert_eq!(answer["error"]["data"]["resource"], "buffer_bytes", "{answer}");
            refused += 1;
            continue;
        }
        let record = &answer["result"];
        check_record(record, false);
        assert_eq!(record["stdout_bytes"], 5_000_000, "{}", brief(record));
        records += 1;
    }
    assert!(records >= 4, "{records} ran and {refused} were refused");
    assert!(grown_from(before, &daemon) < max + SLACK, "grew by {}", grown_from(before, &daemon));
    wait_stats(&daemon, "/output/buffered_bytes", 0);
    well_served(&mut neighbour);
}

#[test]
fn a_stream_flows_when_nothing_is_left_but_its_own_share() {
    let daemon = Daemon::start(&[("commands.max_buffer_bytes", json!(128 << 10))]);
    let mut conn = daemon.tcp();
    let cmd = "seq 400000; seq 1000 >&2";

    let id = conn.ask("exec.run", json!({"cmd": cmd, "stream": true}));
    let (pieces, record) = pieces_and_record(&mut conn, &id);

    let expected: Vec<u8> = (1..=400_000).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    assert_eq!(end(&record), exited(0));
    assert!(joined(&pieces, "stdout") == expected, "the stream is not what was written");
    wait_stats(&daemon, "/output/buffered_bytes", 0);
}

#[test]
fn a_command_starts_only_where_its_input_and_a_part_of_its_outputs_fit() {
    let kib = 1 << 10;
    let input = |bytes: usize| "x".repeat(bytes);
    let daemon = Daemon::start(&[("commands.max_buffer_bytes", json!(300 * kib))]);
    let mut conn = daemon.tcp();
    let folder = Folder::new();
    let gate = folder.gate();
    let first = conn.ask("exec.run", json!({"cmd": gate.wait()}));
    daemon.wait_running(1);
    let held = buffered(&mut conn);
    assert_eq!(held, 128 << 10);

    let over = json!({"cmd": "cat", "stdin": input(44 * kib + 1)});
    let error = conn.refused("exec.run", over, "CAPACITY");
    assert_eq!(
        error["data"],
        json!({"reason": "CAPACITY", "retryable": true, "resource": "buffer_bytes",
        "limit": 300 * kib, "usage": held, "delta": 172 * kib + 1})
    );
    assert_eq!(buffered(&mut conn), held, "a refusal takes nothing");
    let just = run(&mut conn, json!({"cmd": "cat", "stdin": input(44 * kib)}));
    assert_eq!(just["stdout_bytes"], 44 * kib);
    // What is merged, or not kept, needs less.
    run(&mut conn, json!({"cmd": "cat", "stdin": input(100 * kib), "merge_stderr": true}));
    run(&mut conn, json!({"cmd": "cat", "stdin": input(160 * kib), "output_limit_bytes": 0}));

    gate.open();
    record_of(&mut conn, &first);
    wait_stats(&daemon, "/output/buffered_bytes", 0);
}

#[test]
fn a_client_over_its_buffer_bytes_is_told_and_no_other_notices() {
    let quota = json!({"sessions": -1, "commands": -1, "memory_bytes": -1, "processes": -1, "buffer_bytes": 200_000});
    let daemon = Daemon::start(&[("quotas.registered", quota)]);
    let (mut conn, mut other) = (daemon.tcp(), daemon.unix());
    let folder = Folder::new();
    let gate = folder.gate();
    let first = conn.ask("exec.run", json!({"cmd": gate.wait()}));
    daemon.wait_running(1);

    let over = |error: &Value, delta: u64| {
        assert_eq!(error["data"]["client"], "ip:127.0.0.1", "{error}");
        let row = &error["data"]["over"][0];
        assert_eq!((&row["resource"], &row["limit"]), (&json!("buffer_bytes"), &json!(200_000)), "{error}");
        assert_eq!((&row["usage"], &row["delta"]), (&json!(131_072), &json!(delta)), "{error}");
    };
    let error = conn.refused("exec.run", json!({"cmd": "true"}), "OVER_LIMIT");
    over(&error, 131_072);
    assert_eq!(error["data"]["retryable"], true, "it passes when the other has ended");
    let error = conn.refused("exec.run", json!({"cmd": "true", "stdin": "x".repeat(100_000)}), "OVER_LIMIT");
    over(&error, 231_072);
    assert_eq!(error["data"]["retryable"], false, "it never passes");
    assert_well(&mut other);

    gate.open();
    record_of(&mut conn, &first);
    // Its rings grow no further than the quota, and drop the oldest.
    let record = run(&mut conn, json!({"cmd": "head -c 1000000 /dev/zero | tr '\\0' a"}));
    let kept = out(&record).len();
    assert!((65_536..=200_000).contains(&kept), "{kept}");
    let record = run(&mut other, json!({"cmd": "head -c 130000 /dev/zero | tr '\\0' a"}));
    assert_eq!(out(&record).len(), 130_000);
}

#[test]
fn no_command_starts_below_the_reserve_of_the_host() {
    let daemon = Daemon::start(&[("memory.reserve_bytes", json!(1u64 << 50))]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    for params in [json!({"cmd": "true"}), json!({"cmd": "true", "session": session})] {
        let error = conn.refused("exec.run", params, "CAPACITY");
        let data = json!({"reason": "CAPACITY", "retryable": true, "resource": "memory", "limit": 0,
            "usage": 256 * MIB});
        assert_eq!(error["data"], data);
    }
    let stats = daemon.stats();
    assert_eq!((&stats["commands"]["started"], &stats["sessions"]["current"]), (&json!(0), &json!(1)), "{stats}");
    assert_eq!(stats["output"]["buffered_bytes"], 0);
    let pressure = &stats["host"]["psi_memory_some_avg10"];
    assert!(pressure.is_null() || pressure.as_f64().is_some_and(|share| (0.0..=100.0).contains(&share)), "{stats}");
}

#[test]
fn strictly_all_that_a_command_may_take_must_be_there() {
    let daemon = Daemon::start(&[("memory.strict", json!(true)), ("limits.limit_memory_bytes", json!(1u64 << 50))]);
    let mut conn = daemon.tcp();
    let error = conn.refused("exec.run", json!({"cmd": "true"}), "CAPACITY");
    let (limit, usage) = (&error["data"]["limit"], &error["data"]["usage"]);
    assert_eq!((&error["data"]["resource"], usage), (&json!("memory"), &json!(1u64 << 50)));
    assert!(limit.as_u64().is_some_and(|limit| limit < 1 << 50), "{error}");
    assert_eq!(end(&run(&mut conn, json!({"cmd": "true", "limits": {"memory_bytes": 16 * MIB}}))), exited(0));
}

#[test]
fn a_command_that_fills_all_memory_is_ended_by_the_connection_that_asked_for_it() {
    let daemon = Daemon::start(&[("commands.max_buffer_bytes", json!(256 << 10))]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let flood = conn.ask("exec.run", json!({"session": session, "cmd": "yes"}));
    let mut full = || buffered(&mut conn) == 256 << 10;
    wait_until("the memory is full", DEADLINE, || full().then_some(()));

    let info = conn.ok("session.info", json!({"session": session}));
    conn.ok("exec.kill", json!({"exec": info["running"][0]}));
    let record = record_of(&mut conn, &flood);
    assert_eq!(end(&record).0, "cancelled");
    assert!(record["stdout_dropped"].as_u64() > Some(0), "{}", brief(&record));
    wait_stats(&daemon, "/output/buffered_bytes", 0);
}

#[test]
fn what_waits_for_a_slot_is_held_within_the_memory_of_all() {
    let daemon = Daemon::start(&[("commands.max_buffer_bytes", json!(300 << 10)), ("commands.max_commands", json!(1))]);
    let mut conn = daemon.tcp();
    let folder = Folder::new();
    let gate = folder.gate();
    let first = conn.ask("exec.run", json!({"cmd": gate.wait()}));
    daemon.wait_running(1);

    let waits = |bytes: usize| json!({"cmd": "wc -c", "stdin": "x".repeat(bytes), "queue_ms": 60_000});
    let error = conn.refused("exec.run", waits(200 << 10), "CAPACITY");
    assert_eq!((&error["data"]["resource"], &error["data"]["usage"]), (&json!("buffer_bytes"), &json!(128 << 10)));
    let second = conn.ask("exec.run", waits(100 << 10));
    daemon.stats_show("it is held", |stats| {
        (stats["output"]["buffered_bytes"].as_u64()? >= (128 + 100) << 10).then_some(())
    });

    gate.open();
    record_of(&mut conn, &first);
    assert_eq!(text(&record_of(&mut conn, &second)).trim(), (100 << 10).to_string());
    wait_stats(&daemon, "/output/buffered_bytes", 0);
}

#[test]
fn a_limit_of_buffer_bytes_that_is_set_holds_at_once() {
    let daemon = Daemon::start(&[]);
    let (mut admin, mut conn) = (daemon.unix(), daemon.tcp());
    let folder = Folder::new();
    let gate = folder.gate();
    let first = conn.ask("exec.run", json!({"cmd": gate.wait()}));
    daemon.wait_running(1);
    let row = conn.ok("limit.show", json!({}))["limits"]["buffer_bytes"].clone();
    assert_eq!((&row["limit"], &row["usage"]), (&json!(-1), &json!(128 << 10)));

    let whose = json!({"resource": "buffer_bytes", "client": "ip:127.0.0.1"});
    let mut set = whose.clone();
    set["limit"] = json!(200_000);
    admin.ok("limit.set", set);
    conn.refused("limit.check", json!({"claims": {"buffer_bytes": 100_000}}), "OVER_LIMIT");
    conn.refused("exec.run", json!({"cmd": "true"}), "OVER_LIMIT");
    admin.ok("limit.unset", whose);
    assert_eq!(out(&sh(&mut conn, "echo on")), b"on\n");

    gate.open();
    record_of(&mut conn, &first);
}

#[test]
fn records_that_are_kept_for_their_keys_count_and_make_room() {
    let max = 1 << 20;
    let daemon = Daemon::start(&[("commands.max_buffer_bytes", json!(max)), ("commands.key_window_s", json!(3600))]);
    let mut conn = daemon.tcp();
    let keyed = |key: usize| json!({"cmd": "head -c 200000 /dev/zero | tr '\\0' a", "key": key.to_string()});
    for key in 0..12 {
        assert_eq!(run(&mut conn, keyed(key))["stdout_bytes"], 200_000);
        let held = buffered(&mut conn);
        assert!((200_000..=max).contains(&held), "{held} after {key}");
    }
    let started = daemon.stats()["commands"]["started"].clone();
    run(&mut conn, keyed(11));
    assert_eq!(daemon.stats()["commands"]["started"], started, "the last record is there");
}
