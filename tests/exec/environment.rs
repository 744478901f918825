//! Where a command runs, and what it finds in its environment.

use std::collections::BTreeMap;

use crate::exec_support::*;
use crate::support::*;

/// The environment that a command sees.
#[track_caller]
fn environment(conn: &mut Conn, mut params: Value) -> BTreeMap<String, String> {
    params["argv"] = json!(["cat", "/proc/self/environ"]);
    let record = run(conn, params);
    assert_eq!(end(&record), exited(0), "{record}");
    let text = text(&record);
    let pairs = text.split_terminator('\0').map(|pair| pair.split_once('=').expect("NAME=VALUE"));
    let count = pairs.clone().count();
    let map: BTreeMap<_, _> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(map.len(), count, "a name stands once: {text:?}");
    map
}

#[test]
fn cwd_is_for_one_command() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({"cwd": "/usr"}));

    assert_eq!(text(&run(&mut conn, json!({"session": session, "cmd": "pwd", "cwd": "/usr/bin"}))), "/usr/bin\n");
    assert_eq!(text(&run(&mut conn, json!({"session": session, "cmd": "pwd"}))), "/usr\n");
}

#[test]
fn a_relative_program_starts_from_the_cwd_of_the_command() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let shared = Shared::new();
    shared.file("here", "#!/bin/sh\necho found\n", 0o755);

    let record = run(&mut conn, json!({"argv": ["./here"], "cwd": shared.text("")}));

    assert_eq!(text(&record), "found\n");
}

#[test]
fn the_private_folder_of_a_session_is_its_default_cwd() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let opened = conn.ok("session.open", json!({}));
    let session = opened["session"].as_str().unwrap();

    let record = run(&mut conn, json!({"session": session, "cmd": "pwd; stat -c '%a %u' .; id -u; touch file"}));

    let text = text(&record);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], opened["cwd"], "{opened}");
    assert_eq!(lines[1], format!("700 {}", lines[2]), "private, and its own");
    close(&mut conn, session);
    assert!(!std::path::Path::new(lines[0]).exists(), "removed when the session closes");
}

#[test]
fn env_of_a_command_adds_to_that_of_its_session() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({"env": {"A": "session", "B": "session"}}));

    let seen = environment(&mut conn, json!({"session": session, "env": {"B": "command", "C": "\u{e4} = \n"}}));
    assert_eq!((seen["A"].as_str(), seen["B"].as_str(), seen["C"].as_str()), ("session", "command", "\u{e4} = \n"));

    let seen = environment(&mut conn, json!({"session": session}));
    assert_eq!((seen["B"].as_str(), seen.get("C")), ("session", None), "for that command alone");
}

#[test]
fn env_may_replace_what_the_daemon_sets() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let seen =
        environment(&mut conn, json!({"env": {"LANG": "C", "PATH": "/usr/bin:/bin", "HOME": "/nowhere", "E": ""}}));

    assert_eq!((seen["LANG"].as_str(), seen["PATH"].as_str()), ("C", "/usr/bin:/bin"));
    assert_eq!((seen["HOME"].as_str(), seen["E"].as_str()), ("/nowhere", ""));
}

#[test]
fn env_cannot_replace_the_marks_of_the_daemon() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let seen = environment(&mut conn, json!({"env": {"COFFERDAM_SESSION": "mine", "COFFERDAM_EXEC": "mine"}}));

    assert_ne!(seen["COFFERDAM_SESSION"], "mine");
    assert_ne!(seen["COFFERDAM_EXEC"], "mine");
}

#[test]
fn the_marks_of_the_daemon_differ_between_daemons_and_commands() {
    let (daemon, other) = (Daemon::start(&[]), Daemon::start(&[]));
    let mut marks = std::collections::BTreeSet::new();

    for mut conn in [daemon.tcp(), other.tcp()] {
        let session = conn.open(json!({}));
        for _ in 0..2 {
            let seen = environment(&mut conn, json!({"session": session}));
            assert!(marks.insert(seen["COFFERDAM_EXEC"].clone()), "twice: {seen:?}");
            marks.insert(seen["COFFERDAM_SESSION"].clone());
        }
    }
    assert_eq!(marks.len(), 6, "four commands and two sessions: {marks:?}");
}

#[test]
fn a_clear_environment_holds_what_was_asked_for_and_the_marks() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({"clear_env": true, "env": {"A": "1"}}));

    let seen = environment(&mut conn, json!({"session": session, "env": {"B": "2"}}));

    let names: Vec<&str> = seen.keys().map(String::as_str).collect();
    assert_eq!(names, ["A", "B", "COFFERDAM_EXEC", "COFFERDAM_SESSION"]);
}

#[test]
fn inv14_no_variable_of_the_daemon_leaks() {
    let daemon = Launch::new().env("SECRET_OF_THE_DAEMON", "hunter2").env("LD_BIND_NOW", "1").start();
    let mut conn = daemon.tcp();
    let expected = ["COFFERDAM_EXEC", "COFFERDAM_SESSION", "HOME", "LANG", "PATH", "SHELL", "USER"];

    let mut seen = environment(&mut conn, json!({}));

    assert!(seen.remove(support_mark()).is_some(), "pass_env lets it through");
    let names: Vec<&str> = seen.keys().map(String::as_str).collect();
    assert_eq!(names, expected);
    assert!(seen.values().all(|value| !value.contains("hunter2")), "{seen:?}");
}

fn support_mark() -> &'static str {
    crate::support::launch::MARK
}

#[test]
fn home_is_the_folder_of_the_session() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = sh(&mut conn, "[ \"$HOME\" = \"$PWD\" ] && echo same; cd /; echo \"$HOME\"");

    assert!(text(&record).starts_with("same\n/"), "{record}");
}
