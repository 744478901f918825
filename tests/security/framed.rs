//! Environments that lie about whose a process is.

use crate::exec_support::*;
use crate::program::{Hostile, uid_of_nobody};
use crate::support::*;

/// The name of a command that a session of another client runs now: ids count up, and the run's name is in everybody's
/// own environment, so all can know it.
#[track_caller]
fn exec_before(conn: &mut Conn) -> String {
    let own = text(&sh(conn, "echo $COFFERDAM_EXEC"));
    let (run, number) = own.trim().rsplit_once("-e").unwrap();
    format!("{run}-e{}", number.parse::<u64>().unwrap() - 1)
}

#[test]
fn inv9_nobody_pays_for_a_process_that_borrows_a_name() {
    if !is_root() {
        return skip("an ordinary user's commands have one uid, and only their environments tell them apart");
    }
    let hostile = Hostile::build();
    let daemon = Daemon::start(&[]);
    let (mut victim, mut attacker) = (daemon.unix(), daemon.tcp());

    for (mib, burn) in [("100", "0"), ("0", "1")] {
        let (session, gate) = (victim.open(json!({})), daemon.launch.folder.gate());
        let limits = json!({"memory_bytes": 64 << 20, "cpu_sec": 2});
        let cmd = format!("{}; echo fine", gate.wait());
        let exec = victim.ok("exec.start", json!({"session": session, "cmd": cmd, "limits": limits}))["exec"].clone();
        let name = exec_before(&mut attacker);
        let framed = |name: &str| hostile.argv(&["frame", mib, "5", burn, &format!("COFFERDAM_EXEC={name}")]);
        if burn == "0" {
            // The control: what it does is over the limit, where it counts. (Of CPU time each process has a limit too.)
            let record = run(&mut attacker, json!({"argv": framed("x"), "limits": limits, "timeout_s": 15}));
            assert_eq!(end(&record).0, "memory_limit", "{record}");
        }
        // Without limits of its own it runs to its end.
        let record = run(&mut attacker, json!({"argv": framed(&name), "timeout_s": 15}));
        assert_eq!(end(&record), exited(0), "{record}");
        gate.open();
        let record = victim.ok("exec.wait", json!({"exec": exec}));

        assert_eq!((end(&record), text(&record).as_str()), (exited(0), "fine\n"), "{record}");
        assert_eq!(record["descendants_killed"], 0, "{record}");
        let usage = victim.ok("session.info", json!({"session": session}))["usage"]["cpu_ms"].as_f64().unwrap();
        assert!(usage < 1500.0, "the CPU time of a stranger: {usage}");
        close(&mut victim, &session);
    }
    wait_gone(hostile.path());
}

#[test]
fn the_mark_of_a_shell_that_lives_keeps_no_stranger_alive() {
    if !is_root() {
        return skip("an ordinary user's commands have one uid, and only their environments tell them apart");
    }
    let hostile = Hostile::build();
    let daemon = Daemon::start(&[("reaper.interval_ms", json!(50))]);
    let (mut victim, mut attacker) = (daemon.unix(), daemon.tcp());
    let shell = victim.open(json!({"shell": true}));
    let mark = text(&run(&mut victim, json!({"session": shell, "cmd": "echo $COFFERDAM_SESSION"})));
    let mark = format!("COFFERDAM_SESSION={}", mark.trim());
    // The control: a plain child bears whatever mark it likes.
    let plain = hostile.plain(uid_of_nobody(), &["ghost", "still", "1", &mark]);
    assert_eq!(plain, "hidden\n");
    wait_gone(hostile.path());

    for kind in ["still", "chain"] {
        let record = run(&mut attacker, json!({"argv": hostile.argv(&["ghost", kind, "600", &mark])}));
        assert_eq!(text(&record), "hidden\n", "{record}");
        wait_gone(hostile.path());
    }
    assert_eq!(end(&run(&mut victim, json!({"session": shell, "cmd": "exit 4"}))), exited(4));
}

#[test]
fn what_hides_from_one_of_several_commands_ends_with_it() {
    if !is_root() {
        return skip("an ordinary user's commands have one uid, and only their environments tell them apart");
    }
    let hostile = Hostile::build();
    let several = json!(4);
    let daemon = Daemon::start(&[("commands.max_commands_per_session", several)]);
    let (mut conn, mut other) = (daemon.unix(), daemon.unix());

    for shell in [false, true] {
        let (session, number) = (conn.open(json!({"shell": shell})), mark());
        // What else lives in the session stays: a command, its orphan, a job of the shell.
        let beside = format!("(setsid sleep {number} &); sleep {number}");
        let exec = other.ok("exec.start", json!({"session": session, "argv": ["/bin/sh", "-c", beside]}));
        if shell {
            run(&mut conn, json!({"session": session, "cmd": format!("env -i setsid sleep {number} & :")}));
        }
        let beside = if shell { 4 } else { 3 };
        wait_living(&number, beside);
        for kind in ["still", "chain"] {
            let record = run(&mut conn, json!({"session": session, "argv": hostile.argv(&["ghost", kind, "600"])}));
            assert_eq!((end(&record), text(&record).as_str()), (exited(0), "hidden\n"), "{record}");
            wait_gone(hostile.path());
        }
        assert_eq!(living(&number).len(), beside, "{:?}", living(&number));
        other.ok("exec.kill", json!({"exec": exec["exec"]}));
        close(&mut conn, &session);
        assert!(living(&number).is_empty(), "{:?}", living(&number));
    }
}

#[test]
fn what_hides_from_all_sweeps_is_caught_under_one_uid_too() {
    let hostile = Hostile::build();
    let daemon = start_as_nobody();
    let mut conn = daemon.tcp();

    for session in [false, true] {
        let session = if session { Some(conn.open(json!({"shell": true}))) } else { None };
        let record = run(&mut conn, json!({"session": session, "argv": hostile.argv(&["ghost", "chain", "60"])}));
        assert_eq!(text(&record), "hidden\n", "{record}");
        wait_gone(hostile.path());
        if let Some(session) = session {
            close(&mut conn, &session);
        }
    }
    daemon.stats_show("they are counted", |stats| (stats["reaper"]["orphans_killed"].as_u64()? >= 2).then_some(()));
    assert_well(&mut conn);
}
