//! `exec.list`: what runs now, however it was asked for.

use super::steps::*;
use crate::exec_support::*;
use crate::support::*;

#[test]
fn what_runs_is_listed_and_nothing_else() {
    let daemon = Daemon::start(&[("commands.max_commands_per_session", json!(4))]);
    let (mut conn, mut other) = (daemon.tcp(), daemon.tcp());
    let (first, second) = (conn.open(json!({})), conn.open(json!({})));
    let gate = daemon.launch.folder.gate();
    assert_eq!(conn.ok("exec.list", json!({})), json!({"commands": []}));

    let ended = start(&mut conn, &first, "exit 0");
    wait(&mut conn, &ended);
    let cmd = format!("printf abc; printf d >&2; {}", gate.wait());
    let started = start(&mut conn, &first, &cmd);
    read_until(&mut conn, &started, |all| all == b"abc");
    let argv = json!(["/bin/sh", "-c", gate.wait()]);
    let running = conn.ask("exec.run", json!({"session": second, "argv": argv}));
    daemon.wait_running(2);

    let list = other.ok("exec.list", json!({}))["commands"].as_array().unwrap().clone();
    let row = |list: &[Value], exec: &str| list.iter().find(|row| row["exec"] == exec).cloned().unwrap();
    assert_eq!(list.len(), 2, "{list:?}");
    let of_first = row(&list, &started);
    assert_eq!((&of_first["session"], &of_first["cmd"]), (&json!(first), &json!(cmd)));
    assert_eq!((&of_first["stdout_bytes"], &of_first["argv"]), (&json!(3), &Value::Null));
    assert!(of_first["pid"].as_i64().unwrap() > 1 && of_first["running_ms"].is_u64(), "{of_first}");
    let of_second = list.iter().find(|row| row["session"] == json!(second)).unwrap();
    assert_eq!((&of_second["argv"], &of_second["cmd"]), (&argv, &Value::Null));

    let list = other.ok("exec.list", json!({"session": first}))["commands"].as_array().unwrap().clone();
    assert_eq!(list.iter().map(|row| &row["exec"]).collect::<Vec<_>>(), [&json!(started)]);
    other.refused("exec.list", json!({"session": "s999"}), "SESSION_NOT_FOUND");
    other.refused("exec.list", json!({"sessions": first}), "INVALID_PARAMS");
    gate.open();
    record_of(&mut conn, &running);
    wait(&mut conn, &started);
    assert_eq!(conn.ok("exec.list", json!({})), json!({"commands": []}));
}

#[test]
fn inv7_a_command_line_of_a_megabyte_is_shown_cut() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let long = "x".repeat(100_000);
    // `true` and a comment: the shell reads it from its argument.
    let exec = start(&mut conn, &session, &format!("exec sleep 60 # {long}"));

    let row = conn.ok("exec.list", json!({}))["commands"][0].clone();

    let shown = row["cmd"].as_str().unwrap();
    assert!(shown.starts_with("exec sleep 60 # xxx") && shown.ends_with('…') && shown.len() < 2000, "{shown}");
    conn.ok("exec.kill", json!({"exec": exec}));
    wait(&mut conn, &exec);
}
