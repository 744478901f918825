//! Processes that a command makes children of whoever started it, and so of the daemon (`CLONE_PARENT`).

use crate::exec_support::*;
use crate::program::{Hostile, uid_of_nobody};
use crate::support::*;

/// Processes of a program, dead or alive, that the daemon has as children.
fn children_named(daemon: &Daemon, name: &str) -> Vec<procs::Process> {
    let mut found = procs::children(daemon.runtime_pid);
    found.retain(|process| process.command.contains(name));
    found
}

fn none_of(daemon: &Daemon, hostile: &Hostile) {
    wait_until("no process of the hostile program is left, not even a dead one", DEADLINE, || {
        let dead = procs::children(daemon.runtime_pid).iter().any(|child| child.state == 'Z');
        (living(hostile.path()).is_empty() && !dead).then_some(())
    });
}

/// The control: a plain child that makes siblings leaves them to this test, whatever becomes of it.
fn control(hostile: &Hostile) {
    let number = mark();
    nix::sys::prctl::set_child_subreaper(true).unwrap();
    let said = hostile.plain(uid_of_nobody(), &["sibling", "1", "0", "1", "0", &number]);
    assert!(said.starts_with("1 made"), "{said}");
    assert_eq!(living(&number).len(), 1, "the sibling outlives its maker");
    wait_gone(&number);
    // Dead, they are this test's to reap.
    wait_until("the sibling is reaped", DEADLINE, || {
        let own = procs::children(std::process::id() as i32);
        let dead = own.iter().filter(|child| child.state == 'Z' && child.command.contains("hostile"));
        dead.for_each(|child| {
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child.pid), None);
        });
        (!procs::children(std::process::id() as i32).iter().any(|child| child.command.contains(&number))).then_some(())
    });
}

#[test]
fn inv2_a_sibling_of_the_command_ends_with_the_command() {
    let hostile = Hostile::build();
    control(&hostile);
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for session in [None, Some(conn.open(json!({})))] {
        let record =
            run(&mut conn, json!({"session": session, "argv": hostile.argv(&["sibling", "2", "0", "600", "0"])}));
        assert!(text(&record).starts_with("2 made"), "{record}");
        if is_root() {
            assert_eq!(record["descendants_killed"], 2, "{record}");
            assert!(living(hostile.path()).is_empty(), "nothing is left when the record is there");
        }
        none_of(&daemon, &hostile);
        if let Some(session) = session {
            close(&mut conn, &session);
        }
    }
    assert_well(&mut conn);
}

#[test]
fn inv15_dead_siblings_are_reaped() {
    let hostile = Hostile::build();
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for _ in 0..3 {
        let record = run(&mut conn, json!({"argv": hostile.argv(&["sibling", "50", "0", "0", "0"])}));
        assert!(text(&record).starts_with("50 made"), "{record}");
    }
    wait_until("no dead child is left", DEADLINE, || {
        let dead = procs::children(daemon.runtime_pid).iter().filter(|child| child.state == 'Z').count();
        (dead == 0).then_some(())
    });
    assert_well(&mut conn);
}

#[test]
fn siblings_count_against_the_memory_of_their_command() {
    let hostile = Hostile::build();
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let limits = json!({"memory_bytes": 64 << 20});

    // The control: without a limit it runs to its end.
    let record = run(&mut conn, json!({"argv": hostile.argv(&["sibling", "4", "40", "3", "1"])}));
    assert_eq!(end(&record), exited(0), "{record}");
    let hog = hostile.argv(&["sibling", "4", "40", "600", "600"]);
    let record = run(&mut conn, json!({"argv": hog, "limits": limits}));

    assert_eq!(record["status"], "memory_limit", "{record}");
    none_of(&daemon, &hostile);
}

#[test]
fn a_sibling_is_gone_when_the_close_of_its_session_is_answered() {
    let hostile = Hostile::build();
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.unix(), daemon.unix());

    for verb in [vec!["sibling", "3", "0", "600", "600"], vec!["sibling_chain", "20"]] {
        let session = conn.open(json!({"shell": true}));
        let id =
            conn.ask("exec.run", json!({"session": session, "cmd": format!("{} {}", hostile.path(), verb.join(" "))}));
        wait_until("it runs", DEADLINE, || (!living(hostile.path()).is_empty()).then_some(()));
        close(&mut other, &session);
        if is_root() {
            assert!(living(hostile.path()).is_empty(), "{:?}", living(hostile.path()));
        }
        conn.answer(&id);
        none_of(&daemon, &hostile);
    }
    assert_well(&mut conn);
}

#[test]
fn a_chain_of_siblings_is_caught() {
    let hostile = Hostile::build();
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = run(&mut conn, json!({"argv": hostile.argv(&["sibling_chain", "60"])}));
    assert_eq!(end(&record).0, "exited", "{record}");
    none_of(&daemon, &hostile);
    assert_well(&mut conn);
}

#[test]
fn a_sibling_of_one_session_is_spared_by_the_end_of_another() {
    let hostile = Hostile::build();
    let daemon = Daemon::start(&[("reaper.interval_ms", json!(50))]);
    let (mut conn, mut neighbour) = (daemon.unix(), daemon.unix());

    let id = neighbour.ask("exec.run", json!({"argv": hostile.argv(&["sibling", "1", "0", "600", "600"])}));
    wait_until("leader and sibling live", DEADLINE, || (living(hostile.path()).len() == 2).then_some(()));
    for _ in 0..20 {
        assert_eq!(end(&sh(&mut conn, "exit 3")), exited(3));
    }
    let sweeps = daemon.stats()["reaper"]["sweeps"].as_u64().unwrap();
    daemon.stats_show("three sweeps pass", |stats| (stats["reaper"]["sweeps"].as_u64()? >= sweeps + 3).then_some(()));
    if is_root() {
        assert_eq!(living(hostile.path()).len(), 2);
        assert_eq!(children_named(&daemon, hostile.path()).len(), 2);
    }
    let exec = conn.ok("exec.list", json!({}))["commands"][0]["exec"].clone();
    conn.ok("exec.kill", json!({"exec": exec}));
    assert_eq!(end(&record_of(&mut neighbour, &id)).0, "cancelled");
    none_of(&daemon, &hostile);
}
