//! Memory of the daemon, which all buffers together never exceed.

use std::time::Duration;

use crate::exec_support::{out, run};
use crate::support::{Conn, DEADLINE, Daemon, Value, json, procs, wait_until};
use crate::view::*;

const KIB: i64 = 1 << 10;
const MIB: i64 = 1 << 20;

fn buffers(bytes: i64) -> (&'static str, Value) {
    ("commands.max_buffer_bytes", json!(bytes))
}

/// Bytes that all buffers hold now.
#[track_caller]
fn buffered(daemon: &Daemon) -> i64 {
    let stats = daemon.stats();
    stats["output"]["buffered_bytes"].as_i64().unwrap_or_else(|| panic!("buffered_bytes: {stats}"))
}

#[track_caller]
fn wait_empty(daemon: &Daemon) {
    wait_until("all buffers are given back", DEADLINE, || (buffered(daemon) == 0).then_some(()));
}

#[test]
fn a_command_starts_only_if_its_outputs_fit() {
    let daemon = Daemon::start(&[buffers(256 * KIB)]);
    let mut client = daemon.tcp_as(1);
    // 64 KiB for each output of each: two fit.
    for _ in 0..2 {
        stand(&daemon, &mut client, json!({}));
    }
    let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", json!({"cmd": "true"}), "CAPACITY"));
    assert_eq!(error["data"]["delta"], 128 * KIB, "{error}");
    expect_capacity(&error, "buffer_bytes", 256 * KIB, 256 * KIB);
    drop(client);
    wait_empty(&daemon);
    assert_eq!(daemon.tcp_as(1).run("echo room")["stdout"], "room\n");
}

#[test]
fn a_command_starts_only_if_its_stdin_fits_too() {
    let daemon = Daemon::start(&[buffers(512 * KIB)]);
    let mut client = daemon.tcp_as(1);
    let with_stdin = |bytes: i64| json!({"cmd": "wc -c", "stdin": "x".repeat(bytes as usize)});
    let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", with_stdin(400 * KIB), "CAPACITY"));
    assert_eq!(error["data"]["resource"], "buffer_bytes", "{error}");
    assert_eq!(error["data"]["limit"], 512 * KIB, "{error}");
    assert_eq!(error["data"]["delta"], 528 * KIB, "{error}");
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains(&format!("{} more buffer_bytes", 528 * KIB)), "{error}");
    // The line that it came in takes as much again while it is read.
    let record = run(&mut client, with_stdin(150 * KIB));
    assert_eq!(out(&record), format!("{}\n", 150 * KIB).into_bytes());
    wait_empty(&daemon);
}

#[test]
fn what_one_client_may_hold_is_its_quota() {
    let daemon = Daemon::start(&[registered(json!({"buffer_bytes": 200 * KIB}))]);
    let (mut client, mut other) = (daemon.tcp_as(1), daemon.tcp_as(2));
    let too_much = json!({"cmd": "cat", "stdin": "x".repeat(100 << 10)});
    let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", too_much, "OVER_LIMIT"));
    expect_over(&error, &ip(1), &[("buffer_bytes", 200 * KIB, 0, 228 * KIB)], false);
    stand(&daemon, &mut client, json!({}));
    assert_eq!(usage(&mut daemon.unix(), &ip(1), "buffer_bytes"), 128 * KIB);
    let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", json!({"cmd": "true"}), "OVER_LIMIT"));
    expect_over(&error, &ip(1), &[("buffer_bytes", 200 * KIB, 128 * KIB, 128 * KIB)], true);
    assert_eq!(other.run("echo unhindered")["stdout"], "unhindered\n");
    drop(client);
    wait_unused(&daemon, &ip(1));
}

#[test]
fn a_check_knows_the_buffers() {
    let daemon = Daemon::start(&[registered(json!({"buffer_bytes": 200 * KIB}))]);
    let mut client = daemon.tcp_as(1);
    stand(&daemon, &mut client, json!({}));
    client.ok("limit.check", json!({"claims": {"buffer_bytes": 72 * KIB}}));
    let error = client.refused("limit.check", json!({"claims": {"buffer_bytes": 72 * KIB + 1}}), "OVER_LIMIT");
    expect_over(&error, &ip(1), &[("buffer_bytes", 200 * KIB, 128 * KIB, 72 * KIB + 1)], true);
}

/// A command whose output no buffer holds: what it kept, and what it dropped.
#[track_caller]
fn overflow(client: &mut Conn, keep: &str) -> (Vec<u8>, u64) {
    let cmd = "head -c 3000000 /dev/zero | tr '\\0' a; printf END";
    let record = run(client, json!({"cmd": cmd, "output_keep": keep}));
    assert_eq!(record["status"], "exited", "{}", record["status"]);
    assert_eq!(record["stdout_bytes"], 3_000_003);
    (out(&record), record["stdout_dropped"].as_u64().unwrap())
}

#[test]
fn a_ring_that_cannot_grow_drops_its_oldest_and_counts_it() {
    for setting in [buffers(512 * KIB), registered(json!({"buffer_bytes": 512 * KIB}))] {
        let daemon = Daemon::start(std::slice::from_ref(&setting));
        let mut client = daemon.tcp_as(1);
        let (kept, dropped) = overflow(&mut client, "tail");
        assert!(kept.ends_with(b"aEND"), "{}: the newest is kept", setting.0);
        assert!((64 << 10..=512 << 10).contains(&kept.len()), "{}: {} bytes are kept", setting.0, kept.len());
        assert_eq!(dropped + kept.len() as u64, 3_000_003);
        assert_eq!(daemon.stats()["output"]["bytes_dropped"], dropped);
        wait_empty(&daemon);
        wait_unused(&daemon, &ip(1));
    }
}

#[test]
fn the_statistics_know_the_bound() {
    let daemon = Daemon::start(&[buffers(5 * MIB)]);
    assert_eq!(daemon.stats()["output"]["max_buffer_bytes"], 5 * MIB);
    let mut client = daemon.tcp_as(1);
    stand(&daemon, &mut client, json!({}));
    assert_eq!(buffered(&daemon), 128 * KIB);
    drop(client);
    wait_empty(&daemon);
}

/// What the daemon may use beyond its buffers: its own growth, threads, allocator.
const SLACK: u64 = 24 << 20;

#[test]
fn inv7_unfinished_lines_stay_within_the_bound() {
    let daemon = Daemon::start(&[buffers(4 * MIB), ("connections.line_timeout_s", json!(3600))]);
    let before = procs::peak_rss_bytes(daemon.runtime_pid);
    let line = format!("{{\"method\":\"exec.run\",\"params\":{{\"cmd\":\"true\",\"stdin\":\"{}", "x".repeat(1_900_000));
    let mut clients: Vec<Conn> = (0..60).map(|_| daemon.tcp_as(1)).collect();
    for client in &mut clients {
        client.ping();
        client.send_until_blocked(line.as_bytes(), Duration::from_millis(20)).unwrap();
    }
    let held = buffered(&daemon);
    assert!(held <= 4 * MIB, "{held} bytes are held");
    // 60 lines are 114 MB.
    let grown = procs::peak_rss_bytes(daemon.runtime_pid) - before;
    assert!(grown < (4 << 20) + SLACK, "it grew by {grown} bytes");
    // The service goes on for those who ask little.
    let mut other = daemon.unix();
    other.ping();
    other.ok("session.list", json!({}));
    drop(clients);
    wait_empty(&daemon);
    assert_eq!(other.run("echo on")["stdout"], "on\n");
}

#[test]
fn a_line_that_had_to_wait_for_memory_is_read_in_the_end() {
    let daemon = Daemon::start(&[buffers(3 * MIB)]);
    let line = |id: usize| {
        let stdin = "x".repeat(900_000);
        format!(
            "{}\n",
            json!({"id": id, "method": "exec.run", "params": {"cmd": "wc -c", "stdin": stdin, "queue_ms": 60_000}})
        )
    };
    let mut clients: Vec<Conn> = (0..8).map(|_| daemon.tcp_as(1)).collect();
    for (id, client) in clients.iter_mut().enumerate() {
        // As much as the daemon takes; the rest follows when it reads on.
        let bytes = line(id).into_bytes();
        let sent = client.send_until_blocked(&bytes, Duration::from_millis(20)).unwrap();
        client.send_later(bytes[sent..].to_vec());
    }
    for (id, client) in clients.iter_mut().enumerate() {
        let answer = client.answer(&json!(id));
        // Either it ran with all of its input, or it was told that there is no room: never cut, never forgotten.
        match answer.get("error") {
            Some(error) => assert_eq!(error["data"]["resource"], "buffer_bytes", "{answer}"),
            None => assert_eq!(answer["result"]["stdout"], "900000\n", "{answer}"),
        }
    }
    drop(clients);
    wait_empty(&daemon);
}

/// What asks for much stdin.
fn much_stdin(mut params: Value) -> Value {
    params["cmd"] = json!("wc -c");
    params["stdin"] = json!("x".repeat(900_000));
    params
}

/// What asks for little, in many strings, each of which takes more than it says.
fn many_strings(mut params: Value) -> Value {
    params["argv"] = json!(["true"]);
    params["argv"].as_array_mut().unwrap().extend(vec![json!(""); 60_000]);
    params
}

/// Has many requests be put off, for whatever reason: they must not be held beyond the bound.
#[track_caller]
fn expect_bounded_while_put_off(daemon: &Daemon, params: &Value) {
    let before = procs::peak_rss_bytes(daemon.runtime_pid);
    let mut client = daemon.tcp_as(2);
    client.ok("limit.show", json!({}));
    // 54 MB, or twice as much. What the daemon does not take it may refuse, or leave where it is.
    let lines: String =
        (0..60).map(|id| format!("{}\n", json!({"id": id, "method": "exec.run", "params": params}))).collect();
    client.send_until_blocked(lines.as_bytes(), Duration::from_millis(300)).unwrap();
    daemon.unix().ping();
    let held = buffered(daemon);
    // One line at a time may be read past the bound, to be refused: else those who wait could block one another.
    assert!(held <= 6 * MIB + 1_000_000, "{held} bytes are held");
    let grown = procs::peak_rss_bytes(daemon.runtime_pid) - before;
    assert!(grown < (6 << 20) + SLACK, "it grew by {grown} bytes");
}

#[test]
fn inv7_the_params_of_commands_that_wait_for_a_slot_stay_within_the_bound() {
    for params in [much_stdin, many_strings] {
        let settings = [buffers(6 * MIB), ("commands.max_commands", json!(1)), ("sessions.max_sessions", json!(100))];
        let daemon = Daemon::start(&settings);
        let mut holder = daemon.tcp_as(1);
        stand(&daemon, &mut holder, json!({}));
        expect_bounded_while_put_off(&daemon, &params(json!({"queue_ms": 600_000})));
        drop(holder);
        wait_empty(&daemon);
    }
}

#[test]
fn inv7_the_params_of_requests_that_wait_for_their_time_stay_within_the_bound() {
    for params in [much_stdin, many_strings] {
        let settings = [buffers(6 * MIB), ("rate.rate", json!("1r/m")), ("rate.burst", json!(1000))];
        let daemon = Daemon::start(&settings);
        expect_bounded_while_put_off(&daemon, &params(json!({})));
        wait_empty(&daemon);
    }
}

#[test]
fn inv7_answers_that_nobody_reads_stay_within_the_bound() {
    let daemon = Daemon::start(&[buffers(6 * MIB), ("connections.write_stall_s", json!(3600))]);
    let before = procs::peak_rss_bytes(daemon.runtime_pid);
    let mut clients: Vec<Conn> = (0..24).map(|_| daemon.tcp_as(1)).collect();
    for client in &mut clients {
        client.shrink_receive_buffer();
        client.ask("exec.run", json!({"cmd": "head -c 4000000 /dev/urandom", "queue_ms": 60_000}));
    }
    daemon.stats_show("every one of them has ended or was refused", |stats| {
        let commands = &stats["commands"];
        let over = commands["finished"].as_u64().unwrap() + commands["rejected"].as_u64().unwrap();
        (over == 24).then_some(())
    });
    let held = buffered(&daemon);
    // A piece that has been taken out of a ring must go somewhere.
    assert!(held <= 6 * MIB + 24 * 64 * KIB, "{held} bytes are held");
    let grown = procs::peak_rss_bytes(daemon.runtime_pid) - before;
    assert!(grown < (6 << 20) + SLACK, "it grew by {grown} bytes");
    daemon.unix().ping();
    drop(clients);
    wait_empty(&daemon);
    assert_eq!(daemon.tcp_as(1).run("echo on")["stdout"], "on\n");
}

#[test]
fn pipelined_questions_whose_answers_nobody_reads_stay_within_the_bound() {
    let daemon = Daemon::start(&[buffers(MIB), ("connections.write_stall_s", json!(3600))]);
    let before = procs::peak_rss_bytes(daemon.runtime_pid);
    let questions = "{\"id\":1,\"method\":\"system.info\"}\n".repeat(20_000);
    let mut clients: Vec<Conn> = (0..10).map(|_| daemon.tcp_as(1)).collect();
    for client in &mut clients {
        client.shrink_receive_buffer();
        client.send_until_blocked(questions.as_bytes(), Duration::from_millis(50)).unwrap();
    }
    let grown = procs::peak_rss_bytes(daemon.runtime_pid) - before;
    assert!(grown < (4 << 20) + SLACK, "it grew by {grown} bytes");
    daemon.unix().ping();
    drop(clients);
    wait_empty(&daemon);
}

#[test]
fn inv7_records_of_retry_keys_that_nobody_reads_stay_within_the_bound() {
    const BOUND: i64 = 8 << 20;
    let daemon = Daemon::start(&[
        buffers(BOUND),
        ("commands.max_output_bytes", json!(1 << 20)),
        ("commands.key_window_s", json!(1)),
    ]);
    let mut client = daemon.tcp_as(1);
    let before = procs::peak_rss_bytes(daemon.runtime_pid);
    // Some 1.4 MiB each: the answers to one client that does not read.
    let asked =
        |number: u32| json!({"cmd": "head -c 1000000 /dev/urandom", "key": format!("{number}"), "queue_ms": 600_000});
    let ids: Vec<Value> = (0..60).map(|number| client.ask("exec.run", asked(number))).collect();
    daemon.stats_show("all have run, or were refused", |stats| {
        let commands = &stats["commands"];
        (commands["finished"].as_u64()? + commands["rejected"].as_u64()? == 60).then_some(())
    });
    let grown = procs::peak_rss_bytes(daemon.runtime_pid) - before;
    assert!(grown < 4 * BOUND as u64, "it has grown by {grown} bytes");
    // Of those that ran it gets every record in the end.
    let records = ids.iter().filter(|id| client.answer(id).get("result").is_some()).count();
    assert_eq!(daemon.stats()["commands"]["finished"].as_u64(), Some(records as u64));
}
