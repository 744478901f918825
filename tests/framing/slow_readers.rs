//! Clients that do not read: they are no longer read, then disconnected; no other client notices.

use std::time::Duration;

use crate::support::{Conn, DEADLINE, Daemon, Value, json, procs, wait_until};

const FAR: u64 = 3600;

/// Small buffers, so that a test needs little to fill them.
fn small_buffers(stall_s: f64) -> [(&'static str, Value); 4] {
    [
        ("commands.max_output_bytes", json!(64 << 10)),
        ("connections.write_buffer_soft_bytes", json!(16 << 10)),
        ("connections.write_buffer_hard_bytes", json!(256 << 10)),
        ("connections.write_stall_s", json!(stall_s)),
    ]
}

/// Sends pings and reads nothing until the daemon takes no more: how many it has been sent by then.
fn flood(client: &mut Conn) -> Option<usize> {
    let line = |id: usize| format!("{{\"id\":{id},\"method\":\"system.ping\"{}}}\n", " ".repeat(100));
    let length = line(100_000).len();
    let requests: Vec<u8> = (100_000..200_000).flat_map(|id| line(id).into_bytes()).collect();
    let sent = client.send_until_blocked(&requests, Duration::from_millis(700)).ok()?;
    assert!(sent < requests.len(), "the daemon went on reading from a client that reads nothing");
    let whole = sent.div_ceil(length);
    client.send_later(requests[sent..whole * length].to_vec());
    Some(whole)
}

#[test]
fn inv7_past_the_soft_limit_a_client_is_not_read_and_loses_nothing() {
    let daemon = Daemon::start(&small_buffers(FAR as f64));
    let mut client = daemon.unix();
    let mut neighbour = daemon.tcp();
    let before = procs::peak_rss_bytes(daemon.runtime_pid);
    let sent = flood(&mut client).expect("it is not disconnected");
    neighbour.ping();
    let grown = procs::peak_rss_bytes(daemon.runtime_pid) - before;
    assert!(grown < 4 << 20, "grew by {grown} bytes");
    let share = daemon.cpu_share(&mut neighbour);
    assert!(share < 0.5, "it took {share} of a core while that client read nothing");
    for _ in 0..sent {
        assert_eq!(client.recv()["result"]["pong"], true);
    }
    client.ping();
}

#[test]
fn a_client_that_makes_no_progress_is_disconnected_and_no_other_notices() {
    let daemon = Daemon::start(&small_buffers(0.5));
    let mut neighbour = daemon.tcp();
    let mut client = daemon.unix();
    // It may already be disconnected while it still sends.
    let _ = flood(&mut client);
    wait_until("it is disconnected", DEADLINE, || {
        neighbour.ping();
        (neighbour.ok("system.stats", json!({}))["connections"]["current"] == 1).then_some(())
    });
}

#[test]
fn inv7_past_the_hard_limit_a_client_is_disconnected() {
    let mut settings = small_buffers(FAR as f64).to_vec();
    settings.push(("commands.max_commands", json!(64)));
    settings.push(("sessions.max_sessions", json!(128)));
    let daemon = Daemon::start(&settings);
    let mut neighbour = daemon.tcp();
    let mut client = daemon.unix();
    // Sixty answers of 64 KiB each: far more than the hard limit and what the kernel holds together. All are asked for
    // at once, since after the first few answers this client is not read any more.
    daemon.while_stopped(|| {
        for id in 0..60 {
            let params = json!({"cmd": "head -c 65536 /dev/zero | tr '\\0' x"});
            client.send(&json!({"id": id, "method": "exec.run", "params": params}));
        }
    });
    wait_until("it is disconnected", DEADLINE, || {
        neighbour.ping();
        (neighbour.ok("system.stats", json!({}))["connections"]["current"] == 1).then_some(())
    });
}

#[test]
fn a_client_that_reads_slowly_gets_everything() {
    let daemon = Daemon::start(&small_buffers(FAR as f64));
    let mut client = daemon.tcp();
    client.shrink_receive_buffer();
    for id in 0..3 {
        let params = json!({"cmd": "head -c 60000 /dev/zero | tr '\\0' x"});
        client.send(&json!({"id": id, "method": "exec.run", "params": params}));
    }
    for _ in 0..3 {
        let answer = client.recv();
        assert_eq!(answer["result"]["stdout"].as_str().map(str::len), Some(60_000), "{answer}");
    }
}

#[test]
fn a_client_of_large_answers_that_reads_is_not_disconnected() {
    // The largest output there may be, in its worst form: 4 MiB of control characters.
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for _ in 0..3 {
        let record = client.run("head -c 4194304 /dev/zero | tr '\\0' '\\001'");
        assert_eq!(record["stdout_bytes"], 4 << 20);
        assert_eq!(record["stdout_dropped"], 0);
        assert_eq!(record["stdout_encoding"], "base64");
    }
}
