//! The environment and the working directory of commands: who gives what, and who wins.

use std::collections::BTreeMap;

use crate::support::launch::MARK;
use crate::support::{Conn, Daemon, Launch, Value, json};

type Variables = BTreeMap<String, String>;

/// The environment of a command exactly as it is given: no shell that adds its own.
#[track_caller]
fn environment(client: &mut Conn, session: &str, env: Value) -> Variables {
    let record = client.ok("exec.run", json!({"session": session, "argv": ["/usr/bin/env"], "env": env}));
    let text = record["stdout"].as_str().unwrap();
    text.lines().map(|line| line.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

fn names(variables: &Variables) -> Vec<&str> {
    variables.keys().map(String::as_str).collect()
}

#[test]
fn inv14_a_command_gets_the_documented_variables_and_no_other() {
    let daemon = Launch::new().env("SECRET_OF_THE_DAEMON", "hunter2").env("LD_LIBRARY_PATH", "/nowhere").start();
    let mut client = daemon.tcp();
    let opened = client.ok("session.open", json!({}));
    let variables = environment(&mut client, opened["session"].as_str().unwrap(), json!({}));
    let documented = ["COFFERDAM_EXEC", "COFFERDAM_SESSION", MARK, "HOME", "LANG", "PATH", "SHELL", "USER"];
    assert_eq!(names(&variables), documented);
    assert_eq!(variables["HOME"], opened["cwd"].as_str().unwrap());
    assert!(variables["PATH"].contains("/bin"), "{variables:?}");
    for name in ["USER", "SHELL", "LANG"] {
        assert!(!variables[name].is_empty(), "{name}");
    }
}

#[test]
fn pass_env_names_what_is_passed_on_from_the_daemon() {
    let daemon = Launch::new()
        .env("PASSED", "on")
        .env("KEPT", "back")
        .set("children.pass_env", json!([MARK, "PASSED", "NOT_THERE"]))
        .start();
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    let variables = environment(&mut client, &session, json!({}));
    assert_eq!(variables["PASSED"], "on");
    assert!(!variables.contains_key("KEPT") && !variables.contains_key("NOT_THERE"), "{variables:?}");
}

#[test]
fn what_comes_later_wins() {
    let daemon = Launch::new()
        .env("A", "daemon")
        .env("B", "daemon")
        .env("C", "daemon")
        .set("children.pass_env", json!([MARK, "A", "B", "C"]))
        .start();
    let mut client = daemon.tcp();
    let session = client.open(json!({"env": {"B": "session", "C": "session", "HOME": "/session", "LANG": "xx"}}));
    let variables = environment(&mut client, &session, json!({"C": "command", "LANG": "yy", "EMPTY": "", "E": "a=b"}));
    assert_eq!(variables["A"], "daemon");
    assert_eq!(variables["B"], "session");
    assert_eq!(variables["C"], "command");
    assert_eq!(variables["HOME"], "/session");
    assert_eq!(variables["LANG"], "yy");
    assert_eq!(variables["EMPTY"], "");
    assert_eq!(variables["E"], "a=b");
    // What was for one command alone is gone with it.
    let variables = environment(&mut client, &session, json!({}));
    assert_eq!(variables["C"], "session");
    assert_eq!(variables["LANG"], "xx");
    assert!(!variables.contains_key("EMPTY"), "{variables:?}");
}

#[test]
fn clear_env_leaves_the_session_s_the_command_s_and_the_ids() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"clear_env": true, "env": {"S": "1", "BOTH": "session"}}));
    let variables = environment(&mut client, &session, json!({"C": "2", "BOTH": "command"}));
    assert_eq!(names(&variables), ["BOTH", "C", "COFFERDAM_EXEC", "COFFERDAM_SESSION", "S"]);
    assert_eq!(variables["BOTH"], "command");
}

#[test]
fn the_ids_in_the_environment_cannot_be_set() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let plain = client.open(json!({}));
    let expected = environment(&mut client, &plain, json!({}));
    assert_ne!(expected["COFFERDAM_SESSION"], "mine");
    let session = client.open(json!({"env": {"COFFERDAM_SESSION": "mine", "COFFERDAM_EXEC": "mine"}}));
    let variables = environment(&mut client, &session, json!({"COFFERDAM_SESSION": "x", "COFFERDAM_EXEC": "x"}));
    for name in ["COFFERDAM_SESSION", "COFFERDAM_EXEC"] {
        assert!(!["mine", "x"].contains(&variables[name].as_str()), "{variables:?}");
    }
}

#[test]
fn inv11_the_ids_in_the_environment_are_unique_across_commands_sessions_and_daemons() {
    let daemons = [Daemon::start(&[]), Daemon::start(&[])];
    let mut sessions = Vec::new();
    let mut execs = Vec::new();
    for daemon in &daemons {
        let mut client = daemon.tcp();
        for _ in 0..2 {
            let session = client.open(json!({}));
            for _ in 0..2 {
                let variables = environment(&mut client, &session, json!({}));
                sessions.push(variables["COFFERDAM_SESSION"].clone());
                execs.push(variables["COFFERDAM_EXEC"].clone());
            }
        }
    }
    // Two commands of one session share its id; all else differs.
    sessions.dedup();
    sessions.sort();
    sessions.dedup();
    assert_eq!(sessions.len(), 4, "{sessions:?}");
    execs.sort();
    execs.dedup();
    assert_eq!(execs.len(), 8, "{execs:?}");
}

#[test]
fn an_environment_of_any_text_arrives_as_it_was_sent() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"env": {"TEXT": "é \t'\"$(x) \u{1f600}", "ö": "umlaut"}}));
    let variables = environment(&mut client, &session, json!({"LINE": " = "}));
    assert_eq!(variables["TEXT"], "é \t'\"$(x) \u{1f600}");
    assert_eq!(variables["ö"], "umlaut");
    assert_eq!(variables["LINE"], " = ");
}

#[test]
fn no_environment_no_stdin_and_no_output_stands_in_the_log() {
    let daemon = Launch::new().env("RUST_LOG", "trace").start();
    let mut client = daemon.tcp();
    let session = client.open(json!({"env": {"A": "swordfish-session"}}));
    let params = json!({"session": session, "cmd": "cat; echo $A $B; exit 3", "stdin": "swordfish-stdin",
        "env": {"B": "swordfish-command"}});
    assert!(client.ok("exec.run", params)["stdout"].as_str().unwrap().contains("swordfish-command"));
    client.refused("exec.run", json!({"cmd": "true", "env": {"B=": "swordfish-bad"}}), "INVALID_PARAMS");
    client.send_line("{\"swordfish\": broken");
    client.recv();
    client.ok("session.close", json!({"session": session}));
    let log = daemon.log();
    assert!(!log.contains("swordfish"), "{log}");
}

#[test]
fn a_command_starts_in_the_directory_of_its_session() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let folder = daemon.launch.folder.open_to_all("work");
    let opened = client.ok("session.open", json!({"cwd": folder}));
    assert_eq!(opened["cwd"], json!(folder));
    let session = opened["session"].as_str().unwrap();
    let record = client.run_in(session, "pwd; echo $HOME");
    assert_eq!(record["stdout"], format!("{0}\n{0}\n", folder.display()));
}

#[test]
fn the_directory_of_a_command_is_for_it_alone() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let opened = client.ok("session.open", json!({}));
    let session = opened["session"].as_str().unwrap();
    let own = opened["cwd"].as_str().unwrap();
    let record = client.ok("exec.run", json!({"session": session, "cmd": "pwd; echo $HOME", "cwd": "/usr"}));
    assert_eq!(record["stdout"], format!("/usr\n{own}\n"));
    assert_eq!(client.run_in(session, "pwd; cd /")["stdout"], format!("{own}\n"));
    assert_eq!(client.run_in(session, "pwd")["stdout"], format!("{own}\n"));
}

#[test]
fn a_directory_that_cannot_be_used_is_told_with_its_stage_and_errno() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    for (cwd, errno) in [("/no/such/folder", "ENOENT"), ("/etc/passwd", "ENOTDIR"), ("/etc/passwd/x", "ENOTDIR")] {
        let refusals = [
            client.refused("session.open", json!({"cwd": cwd}), "SPAWN_FAILED"),
            client.refused("exec.run", json!({"cmd": "true", "cwd": cwd}), "SPAWN_FAILED"),
            client.refused("exec.run", json!({"session": session, "cmd": "true", "cwd": cwd}), "SPAWN_FAILED"),
        ];
        for error in refusals {
            assert_eq!(error["data"]["stage"], "cwd", "{error}");
            assert_eq!(error["data"]["errno"], errno, "{error}");
        }
    }
    assert_eq!(client.run_in(&session, "echo on")["stdout"], "on\n");
}

#[test]
fn a_session_whose_directory_is_gone_can_still_be_closed() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"cwd": daemon.launch.folder.open_to_all("gone")}));
    std::fs::remove_dir(daemon.launch.folder.join("gone")).unwrap();
    let error = client.refused("exec.run", json!({"session": session, "cmd": "true"}), "SPAWN_FAILED");
    assert_eq!(error["data"]["stage"], "cwd");
    assert_eq!(error["data"]["errno"], "ENOENT");
    client.ok("session.close", json!({"session": session}));
}
