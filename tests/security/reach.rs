//! The README's sentence: commands of a daemon that was started as root can reach neither the daemon nor each other.

use crate::exec_support::*;
use crate::program::{Hostile, uid_of_nobody};
use crate::support::*;

/// What an attacker could do to a process: signal, trace, read its environment, open its memory, see its descriptors.
const NOTHING: &str = "signal 0 trace 0 environ 0 mem 0 fd 0\n";
const EVERYTHING: &str = "signal 1 trace 1 environ 1 mem 1 fd 1\n";

#[test]
fn inv14_commands_reach_neither_the_daemon_nor_each_other() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let said: Vec<&str> = readme.split_whitespace().collect();
    assert!(said.join(" ").contains("can reach neither the daemon nor each other"), "this test is about that sentence");
    let hostile = Hostile::build();
    if !is_root() {
        // What the README says of such a daemon, it says itself.
        let daemon = Daemon::start(&[]);
        let info = daemon.tcp().ok("system.info", json!({}));
        assert!(info["enforcement"]["run_as"]["note"].as_str().unwrap().contains("can reach it"), "{info}");
        return;
    }
    let daemon = Daemon::start(&[]);
    let (mut victim, mut attacker) = (daemon.unix(), daemon.tcp());
    let session = victim.open(json!({"shell": true, "env": {"SECRET": "hush"}}));
    let cwd = run(&mut victim, json!({"session": session, "cmd": "echo hush >secret; sleep 1000 & pwd"}));
    let cwd = text(&cwd).trim().to_owned();
    let started = victim.ok("exec.start", json!({"session": session, "cmd": "sleep 1000"}));
    let shell = started["pid"].as_i64().unwrap() as i32;
    let alone = victim.open(json!({}));
    let started = victim.ok("exec.start", json!({"session": alone, "argv": ["sleep", "1000"]}));
    let command = started["pid"].as_i64().unwrap() as i32;
    // The control: on a process of its own uid it can do all of it.
    let uid = uid_of_nobody();
    let plain = hostile.spawn(uid, &["memory", "0", "600"]);
    wait_until("the plain child has begun", DEADLINE, || {
        procs::one(plain.pid())?.command.contains("600").then_some(())
    });
    assert_eq!(hostile.plain(uid, &["touch", &plain.pid().to_string(), "0"]), EVERYTHING);

    let jobs = procs::children(shell).into_iter().map(|job| job.pid);
    for pid in [daemon.pid, daemon.runtime_pid, shell, command].into_iter().chain(jobs) {
        let record = run(&mut attacker, json!({"argv": hostile.argv(&["touch", &pid.to_string(), "20"])}));
        assert_eq!(text(&record), NOTHING, "pid {pid}: {record}");
    }
    for attack in [
        format!("cat {cwd}/secret"),
        format!("ls {cwd}"),
        format!("echo x >{cwd}/new"),
        format!("cd {cwd}"),
        format!("cat /proc/{shell}/environ"),
        format!("ls /proc/{command}/cwd/"),
        format!("ls {}/ | grep .", std::path::Path::new(&cwd).parent().unwrap().display()),
        format!("renice 19 -p {shell}; prlimit --pid {command} --nofile=1; ! kill -STOP -1"),
    ] {
        let record = sh(&mut attacker, &attack);
        assert_ne!(record["exit_code"], 0, "{attack}: {record}");
        assert!(!text(&record).contains("hush"), "{attack}: {record}");
    }
    let after = procs::one(command).unwrap();
    assert_eq!((after.state, procs::one(daemon.runtime_pid).unwrap().state), ('S', 'S'));
    close(&mut victim, &session);
    close(&mut victim, &alone);
}
