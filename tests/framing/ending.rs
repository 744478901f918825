//! How a connection ends: half-closed, closed, reset, and what becomes of what it had asked for.

use crate::support::{Conn, Daemon, json};

/// Both kinds of connection.
fn both(daemon: &Daemon) -> [Conn; 2] {
    [daemon.tcp(), daemon.unix()]
}

#[track_caller]
fn wait_cancelled(daemon: &Daemon, count: u64) {
    daemon.stats_show("the command is cancelled", |stats| {
        (stats["commands"]["by_status"]["cancelled"] == count && stats["commands"]["running"] == 0).then_some(())
    });
}

#[test]
fn requests_before_a_half_close_are_answered_then_the_daemon_closes() {
    let daemon = Daemon::start(&[]);
    for mut client in both(&daemon) {
        client.send(&json!({"id": 1, "method": "exec.run", "params": {"cmd": "sleep 0.1; echo done"}}));
        client.send(&json!({"id": 2, "method": "system.ping"}));
        client.half_close();
        assert_eq!(client.answer(&json!(2))["result"]["pong"], true);
        assert_eq!(client.answer(&json!(1))["result"]["stdout"], "done\n");
        client.expect_end();
    }
}

#[test]
fn a_half_close_that_arrives_together_with_the_requests_is_seen() {
    // What `printf … | nc -N` sends: one event for all of it, and no other ever.
    let daemon = Daemon::start(&[]);
    for mut client in both(&daemon) {
        daemon.while_stopped(|| {
            client.send_bytes("{\"id\":1,\"method\":\"system.ping\"}\n{\"id\":2,\"method\":\"session.open\"}\n");
            client.half_close();
        });
        assert!(client.answer(&json!(1)).get("result").is_some());
        assert!(client.answer(&json!(2)).get("result").is_some());
        client.expect_end();
        daemon.stats_show("its session is closed", |stats| (stats["sessions"]["current"] == 0).then_some(()));
    }
}

#[test]
fn a_half_close_while_a_request_waits_behind_others_still_answers_it() {
    let daemon = Daemon::start(&[("connections.max_inflight_per_connection", json!(1))]);
    let mut client = daemon.tcp();
    daemon.while_stopped(|| {
        for id in 0..20 {
            client.send(&json!({"id": id, "method": "exec.run", "params": {"cmd": "true"}}));
        }
        client.half_close();
    });
    for id in 0..20 {
        assert_eq!(client.answer(&json!(id))["result"]["status"], "exited");
    }
    client.expect_end();
}

#[test]
fn connections_that_wait_half_closed_or_in_the_middle_of_a_line_cost_no_cpu() {
    let daemon = Daemon::start(&[]);
    let gate = daemon.launch.folder.gate();
    let mut clients = both(&daemon);
    for client in &mut clients {
        client.send(
            &json!({"id": 1, "method": "exec.run", "params": {"argv": ["/bin/sh", "-c", "read x"], "stdin": ""}}),
        );
        client.send(&json!({"id": 2, "method": "exec.run", "params": {"cmd": gate.wait()}}));
        client.half_close();
    }
    let mut middle = daemon.tcp();
    middle.send_bytes("{\"id\":");
    daemon.wait_running(2);
    let mut other = daemon.unix();
    let share = daemon.cpu_share(&mut other);
    assert!(share < 0.5, "it took {share} of a core while nothing happened");
    gate.open();
    for mut client in clients {
        assert_eq!(client.answer(&json!(2))["result"]["status"], "exited");
    }
}

#[test]
fn a_half_close_with_nothing_asked_closes() {
    let daemon = Daemon::start(&[]);
    for mut client in both(&daemon) {
        client.half_close();
        client.expect_end();
    }
}

#[test]
fn a_reset_cancels_the_command_whose_answer_nobody_can_receive() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.ask("exec.run", json!({"cmd": "sleep 1000"}));
    daemon.wait_running(1);
    client.reset();
    wait_cancelled(&daemon, 1);
}

#[test]
fn a_unix_socket_closed_whole_shows_at_once() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.unix();
    client.ask("exec.run", json!({"cmd": "sleep 1000"}));
    daemon.wait_running(1);
    drop(client);
    wait_cancelled(&daemon, 1);
}

#[test]
fn a_command_told_to_finish_survives_a_reset() {
    let daemon = Daemon::start(&[]);
    let gate = daemon.launch.folder.gate();
    let mut client = daemon.tcp();
    client.ask("exec.run", json!({"cmd": gate.wait(), "on_disconnect": "finish"}));
    daemon.wait_running(1);
    client.reset();
    daemon.stats_show("the connection is gone", |stats| (stats["connections"]["current"] == 1).then_some(()));
    gate.open();
    daemon.stats_show("it ends by itself", |stats| (stats["commands"]["by_status"]["exited"] == 1).then_some(()));
}

#[test]
fn a_reset_in_the_middle_of_a_large_answer_harms_nobody() {
    let daemon = Daemon::start(&[]);
    let mut neighbour = daemon.tcp();
    for _ in 0..5 {
        let mut client = daemon.tcp();
        client.shrink_receive_buffer();
        client.ask("exec.run", json!({"cmd": "head -c 3000000 /dev/zero | tr '\\0' x"}));
        daemon.stats_show("the command has ended", |stats| (stats["commands"]["running"] == 0).then_some(()));
        client.reset();
        neighbour.ping();
    }
    daemon.stats_show("all of them are gone", |stats| (stats["connections"]["current"] == 2).then_some(()));
}

#[test]
fn connections_that_come_and_go_leave_nothing() {
    let daemon = Daemon::start(&[]);
    for turn in 0..300 {
        let mut client = daemon.tcp();
        match turn % 3 {
            0 => drop(client),
            1 => client.reset(),
            _ => client.ping(),
        }
    }
    daemon.stats_show("all of them are gone", |stats| (stats["connections"]["current"] == 1).then_some(()));
}

#[test]
fn a_line_without_its_end_never_runs() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.ping();
    daemon.while_stopped(|| {
        client.send_bytes(r#"{"id":9,"method":"exec.run","params":{"cmd":"true"#);
        client.half_close();
    });
    // Whether the cut line is answered or not, nothing of it runs, and the daemon closes.
    while client.recv_bytes().is_some() {}
    assert_eq!(daemon.stats()["commands"]["started"], 0);
}
