//! The history of a session: finished commands, newest last, bounded.

use crate::support::{Daemon, Value, json};

#[test]
fn history_gives_finished_records_newest_last_and_without_output() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    let records: Vec<Value> =
        (0..3).map(|code| client.run_in(&session, &format!("echo {code}; exit {code}"))).collect();
    let history = client.ok("session.history", json!({"session": session}));
    let commands = history["commands"].as_array().unwrap();
    assert_eq!(commands.len(), 3);
    for (command, record) in commands.iter().zip(&records) {
        for name in ["exec", "session", "status", "exit_code", "signal", "limit", "stdout_bytes", "stderr_bytes"] {
            assert_eq!(command[name], record[name], "{name}: {command}");
        }
        assert!(command.get("stdout").is_none_or(Value::is_null), "{command}");
        assert!(command.get("stderr").is_none_or(Value::is_null), "{command}");
    }
}

#[test]
fn last_asks_for_the_newest_few() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    for code in 0..4 {
        client.run_in(&session, &format!("exit {code}"));
    }
    let codes = |last: Value, client: &mut crate::support::Conn| -> Vec<i64> {
        let history = client.ok("session.history", json!({"session": session, "last": last}));
        history["commands"].as_array().unwrap().iter().map(|one| one["exit_code"].as_i64().unwrap()).collect()
    };
    assert_eq!(codes(json!(2), &mut client), [2, 3]);
    assert_eq!(codes(json!(100), &mut client), [0, 1, 2, 3]);
    assert_eq!(codes(Value::Null, &mut client), [0, 1, 2, 3]);
    for bad in [json!(-1), json!(1.5), json!("2")] {
        let error = client.refused("session.history", json!({"session": session, "last": bad}), "INVALID_PARAMS");
        assert_eq!(error["data"]["field"], "last");
    }
}

#[test]
fn inv7_at_most_max_history_are_kept() {
    let daemon = Daemon::start(&[("sessions.max_history", json!(2))]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    for code in 0..5 {
        client.run_in(&session, &format!("exit {code}"));
    }
    let history = client.ok("session.history", json!({"session": session}));
    let codes: Vec<&Value> = history["commands"].as_array().unwrap().iter().map(|one| &one["exit_code"]).collect();
    assert_eq!(codes, [3, 4]);
    assert_eq!(client.ok("session.info", json!({"session": session}))["commands"], 5);
}

#[test]
fn what_never_ran_is_not_in_the_history() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    client.refused("exec.run", json!({"session": session, "argv": ["/no/such/program"]}), "SPAWN_FAILED");
    assert_eq!(client.ok("session.history", json!({"session": session})), json!({"commands": []}));
    assert_eq!(client.ok("session.close", json!({"session": session}))["commands"], 0);
    let stats = daemon.stats();
    assert_eq!(stats["commands"]["started"], 0);
    assert_eq!(stats["commands"]["rejected"], 1);
}

#[test]
fn usage_adds_up_over_the_commands_of_a_session() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    client.run_in(&session, "head -c 1000 /dev/zero");
    client.run_in(&session, "head -c 500 /dev/zero >&2");
    let info = client.ok("session.info", json!({"session": session}));
    assert_eq!(info["commands"], 2);
    assert_eq!(info["usage"]["output_bytes"], 1500);
    assert!(info["usage"]["cpu_ms"].as_f64().unwrap() > 0.0, "{info}");
}
