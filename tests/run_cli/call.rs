//! `cofferdam call`: one request, its result on stdout, its error on stderr.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::exec_support::*;
use crate::support::*;
use crate::{Done, Running, cofferdam};

/// `cofferdam call` at this daemon.
#[track_caller]
fn call(daemon: &Daemon, arguments: &[&str]) -> Done {
    let address = daemon.address.unwrap().to_string();
    let mut all = vec!["call"];
    all.extend_from_slice(arguments);
    all.extend_from_slice(&["--addr", &address]);
    Running::start(&mut cofferdam(&all)).wait()
}

#[test]
fn the_result_is_printed_as_json() {
    let daemon = Daemon::start(&[]);

    let done = call(&daemon, &["system.ping"]);

    assert_eq!(serde_json::from_slice::<Value>(&done.expect_quiet(0).stdout).unwrap(), json!({"pong": true}));
    assert!(done.out().ends_with('\n'));
}

#[test]
fn params_are_passed_on() {
    let daemon = Daemon::start(&[]);

    let done = call(&daemon, &["exec.run", r#"{"cmd":"echo hi; exit 3"}"#]);

    let record: Value = serde_json::from_slice(&done.expect_quiet(0).stdout).unwrap();
    assert_eq!((end(&record), text(&record).as_str()), (exited(3), "hi\n"));
}

#[test]
fn an_error_is_printed_on_stderr() {
    let daemon = Daemon::start(&[]);

    let done = call(&daemon, &["exec.run", r#"{"argv":["/nope"]}"#]);

    assert_eq!((done.code(), done.out().as_str()), (1, ""));
    let error: Value = serde_json::from_str(&done.stderr).unwrap();
    assert_eq!((&error["code"], &error["data"]["reason"]), (&json!(-32030), &json!("SPAWN_FAILED")), "{error}");
    assert_eq!((&error["data"]["stage"], &error["data"]["errno"]), (&json!("exec"), &json!("ENOENT")), "{error}");
}

#[test]
fn a_unix_socket_is_an_address_too() {
    let daemon = Daemon::start(&[]);
    let address = format!("unix:{}", daemon.launch.socket().display());

    let done = Running::start(&mut cofferdam(&["call", "system.info", "--addr", &address])).wait();

    let info: Value = serde_json::from_slice(&done.expect_quiet(0).stdout).unwrap();
    assert_eq!((&info["name"], &info["protocol"]), (&json!("cofferdam"), &json!(1)), "{info}");
}

#[test]
fn notifications_come_before_the_result() {
    let daemon = Daemon::start(&[]);

    let done = call(&daemon, &["exec.run", r#"{"cmd":"echo one; sleep 0.2; echo two","stream":true}"#]);

    let lines: Vec<Value> =
        done.expect_quiet(0).out().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (record, notifications) = lines.split_last().unwrap();
    assert_eq!(end(record), exited(0), "{record}");
    let id = notifications[0]["params"]["id"].clone();
    let pieces: Vec<Piece> = notifications.iter().map(|line| piece(line, &id)).collect();
    assert_eq!(joined(&pieces, "stdout"), b"one\ntwo\n");
}

#[test]
fn a_call_that_is_killed_ends_what_it_runs() {
    let daemon = Daemon::start(&[]);
    let mark = mark();
    let params = json!({"argv": ["sleep", mark]}).to_string();
    let address = daemon.address.unwrap().to_string();
    let mut caller = cofferdam(&["call", "exec.run", &params, "--addr", &address]).spawn().unwrap();
    daemon.stats_show("it runs", |stats| (stats["commands"]["running"] == 1).then_some(()));
    caller.kill().unwrap();
    caller.wait().unwrap();
    wait_gone(&mark);
}

#[test]
fn a_subscription_goes_on_until_nobody_reads_it() {
    let daemon = Daemon::start(&[]);
    let address = daemon.address.unwrap().to_string();
    let arguments = ["call", "system.subscribe", r#"{"interval_ms":100}"#, "--addr", &address];
    let mut child = cofferdam(&arguments).stdout(Stdio::piped()).spawn().unwrap();

    let lines = BufReader::new(child.stdout.take().unwrap()).lines().take(3);
    let lines: Vec<Value> = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();

    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!(lines[0], json!({"subscribed": true}));
    assert!(lines[1..].iter().all(|line| line["method"] == "system.stats"), "{lines:?}");
    // The pipe is closed: the next one ends it.
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn a_daemon_that_is_not_there_is_a_failure() {
    let (_held, address) = address_of_nobody();
    let address = address.to_string();

    let done = Running::start(&mut cofferdam(&["call", "system.ping", "--addr", &address])).wait();
    done.expect_said(1, &[&address]);
    let done = Running::start(&mut cofferdam(&["call", "system.ping", "--addr", "unix:/no/such/socket"])).wait();
    done.expect_said(1, &["/no/such/socket"]);
}

#[test]
fn a_call_that_makes_no_sense_is_wrong_usage() {
    for arguments in [
        vec!["call"],
        vec!["call", "system.ping", "{"],
        vec!["call", "system.ping", "{}", "{}"],
        vec!["call", "system.ping", "--addr", "no-port"],
        vec!["call", "system.ping", "--no-such-option"],
    ] {
        let done = Running::start(&mut cofferdam(&arguments)).wait();
        assert_eq!((done.code(), done.out().as_str()), (2, ""), "{arguments:?}: {}", done.stderr);
        assert!(!done.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_large_result_is_printed_whole() {
    let daemon = Daemon::start(&[]);

    let done = call(&daemon, &["exec.run", r#"{"cmd":"head -c 4000000 /dev/zero | tr '\\0' a"}"#]);

    let record: Value = serde_json::from_slice(&done.expect_quiet(0).stdout).unwrap();
    assert_eq!(out(&record).len(), 4_000_000);
}
