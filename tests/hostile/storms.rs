//! Many commands that end at once: none is lost, none is told twice.

use crate::exec_support::*;
use crate::support::*;

/// Runs `params` so many times, `width` of them at a time, and shows each record to `check`.
#[track_caller]
pub fn storm(conn: &mut Conn, count: usize, width: usize, params: Value, check: impl Fn(&Value)) {
    let mut execs = std::collections::BTreeSet::new();
    let mut open: std::collections::VecDeque<Value> =
        (0..width.min(count)).map(|_| conn.ask("exec.run", params.clone())).collect();
    let mut asked = open.len();
    while let Some(id) = open.pop_front() {
        let record = record_of(conn, &id);
        check(&record);
        assert!(execs.insert(record["exec"].to_string()), "told twice: {record}");
        if asked < count {
            open.push_back(conn.ask("exec.run", params.clone()));
            asked += 1;
        }
    }
    assert_eq!(execs.len(), count);
}

#[test]
fn a_thousand_commands_that_exit_at_once_have_a_thousand_records() {
    let daemon = Daemon::start(&[("commands.max_commands_per_session", json!(8))]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));

    storm(&mut conn, 1000, 8, json!({"session": session, "argv": ["true"]}), |record| {
        assert_eq!(end(record), exited(0), "{record}");
    });

    wait_stats(&daemon, "/commands/by_status/exited", 1000);
    assert_eq!(close(&mut conn, &session)["commands"], 1000);
}

#[test]
fn the_last_bytes_of_a_thousand_commands_are_all_there() {
    let daemon = Daemon::start(&[("commands.max_commands_per_session", json!(8))]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));

    storm(&mut conn, 1000, 8, json!({"session": session, "cmd": "printf END; exec printf DNE >&2"}), |record| {
        assert_eq!((record["stdout"].as_str(), record["stderr"].as_str()), (Some("END"), Some("DNE")), "{record}");
    });
}

#[test]
fn two_hundred_commands_in_sessions_of_their_own_leave_none() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    storm(&mut conn, 200, 8, json!({"cmd": "exit 9"}), |record| assert_eq!(end(record), exited(9), "{record}"));

    daemon.stats_show("two hundred sessions are opened and closed", |stats| {
        (stats["sessions"]["opened"] == 200 && stats["sessions"]["current"] == 0).then_some(())
    });
}

#[test]
fn children_that_end_all_at_once_are_all_reaped() {
    // Where sessions share one uid they share this limit too.
    let daemon = Daemon::start(&[("limits.limit_nproc", json!(1000))]);
    let mut conn = daemon.tcp();

    storm(&mut conn, 24, 8, json!({"cmd": "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do (:) & done; exit 3"}), |record| {
        assert_eq!(end(record), exited(3), "{record}");
    });
    // That no zombie is left is asserted at the end of every test.
}

#[test]
fn failed_spawns_in_between_change_nothing() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));

    for _ in 0..100 {
        let failure = spawn_failure(&mut conn, json!({"session": session, "argv": ["/nope"]}));
        assert_eq!(failure, failed("exec", "ENOENT"), "never a record of a child that aborted");
        assert_eq!(end(&run(&mut conn, json!({"session": session, "argv": ["true"]}))), exited(0));
    }

    wait_stats(&daemon, "/commands/started", 100);
    wait_stats(&daemon, "/commands/rejected", 100);
}
