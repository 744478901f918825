//! Shell sessions, section 5 of the protocol: what stays, how commands end, what hostile ones try.
#![allow(clippy::disallowed_methods, reason = "a test starts programs and threads as anybody does")]

#[path = "../support/mod.rs"]
mod support;

mod background;
mod ends;
mod hostile;
mod keeping;
mod limits;
mod many;
mod opening;
mod random;

use support::{Conn, Value, json};

/// The shells that every test of commands is for, as far as they are here.
fn shells() -> Vec<Value> {
    let mut all = vec![json!(true)];
    match std::path::Path::new("/bin/bash").exists() {
        true => all.push(json!("/bin/bash")),
        false => support::skip("there is no /bin/bash here"),
    }
    all
}

fn is_bash(shell: &Value) -> bool {
    shell == "/bin/bash"
}

/// Runs a command that must exit with this code: what it wrote to stdout.
#[track_caller]
fn exits(client: &mut Conn, session: &str, code: i32, cmd: &str) -> String {
    let record = client.run_in(session, cmd);
    assert_eq!((&record["status"], &record["exit_code"]), (&json!("exited"), &json!(code)), "{cmd}: {record}");
    record["stdout"].as_str().unwrap().to_owned()
}

/// Runs a command that must succeed.
#[track_caller]
fn says(client: &mut Conn, session: &str, cmd: &str) -> String {
    exits(client, session, 0, cmd)
}
