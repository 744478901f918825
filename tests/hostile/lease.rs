//! Section 11: a spawn that hangs before exec is ended at `timeout_s`, and holds up no other session.
//!
//! A write lease on the program makes execve wait until the holder gives it up, as a dead mount would.

use crate::exec_support::lease::Lease;
use crate::exec_support::*;
use crate::support::*;

#[test]
fn a_spawn_that_hangs_is_ended_at_its_time_out() {
    let Some(lease) = Lease::take() else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = run(&mut conn, json!({"argv": [lease.program], "timeout_s": 0.5}));

    assert!(["timed_out", "unkillable"].contains(&end(&record).0), "{record}");
    assert_well(&mut conn);
}

#[test]
fn spawns_that_hang_hold_up_no_other_session() {
    let Some(lease) = Lease::take() else { return };
    let mut daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    // More of them than the daemon has threads of any kind for it.
    let hanging: Vec<Value> =
        (0..6).map(|_| conn.ask("exec.run", json!({"argv": [lease.program], "timeout_s": 4}))).collect();
    let others: Vec<Value> = (0..8).map(|_| conn.ask("exec.run", json!({"cmd": "exit 3"}))).collect();

    // Answers come as they are ready.
    let order: Vec<Value> = (0..14).map(|_| conn.recv()).collect();
    for (place, answer) in order.iter().enumerate() {
        let expected = if place < 8 { &others } else { &hanging };
        assert!(expected.contains(&answer["id"]), "answer {place} of {order:?}");
    }
    assert!(order[..8].iter().all(|answer| answer["result"]["exit_code"] == 3), "{order:?}");
    assert_well(&mut conn);
    // The threads that relieved those that hung stay with it.
    drop(conn);
    daemon.terminate();
}

/// They are children of the thread that hung.
#[test]
fn a_spawn_that_hangs_ends_no_other_command() {
    let Some(lease) = Lease::take() else { return };
    let daemon = Daemon::start(&[("sessions.threads", json!(1))]);
    let mut conn = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let other = conn.ask("exec.run", json!({"cmd": format!("{}; echo unharmed", gate.wait())}));
    daemon.wait_running(1);

    // Neither a start that hangs and succeeds, nor one that fails.
    let first = run(&mut conn, json!({"argv": [lease.program], "timeout_s": 0.5}));
    assert!(["timed_out", "unkillable"].contains(&end(&first).0), "{first}");
    let session = conn.open(json!({}));
    let late = conn.ask("exec.run", json!({"session": session, "argv": [lease.program], "timeout_s": 3000}));
    wait_until("another thread goes on", DEADLINE, || {
        (daemon.log().matches("another thread goes on").count() == 2).then_some(())
    });
    drop(lease);
    record_of(&mut conn, &late);
    assert_well(&mut conn);

    gate.open();
    assert_eq!(text(&record_of(&mut conn, &other)), "unharmed\n");
}

#[test]
fn a_session_whose_spawn_hangs_can_be_closed() {
    let Some(lease) = Lease::take() else { return };
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.unix(), daemon.unix());
    let session = conn.open(json!({}));

    let id = conn.ask("exec.run", json!({"session": session, "argv": [lease.program], "timeout_s": 3000}));
    wait_until("its session is busy", DEADLINE, || {
        (other.ok("session.info", json!({"session": session}))["busy"] == true).then_some(())
    });
    close(&mut other, &session);

    let record = record_of(&mut conn, &id);
    assert!(["cancelled", "unkillable"].contains(&end(&record).0), "{record}");
}

#[test]
fn a_spawn_that_hangs_does_not_keep_a_daemon_from_stopping() {
    let Some(lease) = Lease::take() else { return };
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(0.1))]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));

    let id = conn.ask("exec.run", json!({"session": session, "argv": [lease.program], "timeout_s": 3000}));
    let mut other = daemon.tcp();
    wait_until("its session is busy", DEADLINE, || {
        (other.ok("session.info", json!({"session": session}))["busy"] == true).then_some(())
    });
    daemon.signal(Signal::SIGTERM);

    let record = record_of(&mut conn, &id);
    assert!(["shutdown", "unkillable"].contains(&end(&record).0), "{record}");
    daemon.expect_clean_exit();
}
