//! Commands that ignore signals, stop themselves, or send signals to others.

use crate::exec_support::*;
use crate::support::*;

/// Runs `cmd` into a short time-out and checks that nothing of it is left.
#[track_caller]
fn times_out(daemon: &Daemon, cmd: &str, mark: &str) -> Value {
    let mut conn = daemon.tcp();
    let record = run(&mut conn, json!({"cmd": cmd, "timeout_s": 0.4, "kill_grace_ms": 100}));
    assert_eq!((end(&record).0, end(&record).1), ("timed_out", Some("timeout_s")), "{record}");
    wait_gone(mark);
    assert_well(&mut conn);
    record
}

#[test]
fn a_command_that_ignores_every_catchable_signal_is_ended() {
    let daemon = Daemon::start(&[]);
    let mark = mark();

    let cmd = format!("trap '' TERM INT HUP QUIT USR1 USR2 ALRM PIPE; while :; do sleep {mark}; done");
    let record = times_out(&daemon, &cmd, &mark);

    assert_eq!(end(&record).3, Some("SIGKILL"));
}

#[test]
fn a_command_that_stops_its_own_group_is_ended() {
    let daemon = Daemon::start(&[]);
    let mark = mark();

    let record = times_out(&daemon, &format!("sleep {mark} & kill -STOP 0; echo no"), &mark);

    assert_eq!(text(&record), "");
}

#[test]
fn a_stopped_command_whose_child_holds_the_pipes_is_ended() {
    let daemon = Daemon::start(&[]);
    let mark = mark();

    times_out(&daemon, &format!("sleep {mark} & kill -STOP $$"), &mark);
}

#[test]
fn a_child_that_stops_itself_does_not_hold_up_the_end() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mark = mark();

    let record = sh(&mut conn, &format!("sh -c 'kill -STOP $$; sleep {mark}' & echo left"));

    assert_eq!((end(&record), text(&record).as_str()), (exited(0), "left\n"));
    wait_gone(&mark);
}

#[test]
fn a_command_that_leaves_its_group_and_ignores_signals_is_ended() {
    let Some(_) = tool("setsid") else { return };
    let daemon = Daemon::start(&[]);
    let mark = mark();

    let inner = format!("trap \"\" TERM HUP; sleep {mark}; sleep {mark}");
    times_out(&daemon, &format!("trap '' TERM; setsid sh -c '{inner}' & setsid sh -c '{inner}'; sleep 60"), &mark);
}

#[test]
fn a_command_cannot_signal_the_daemon_or_its_neighbours() {
    if !is_root() {
        return skip("commands share the uid of the daemon here, and can reach it: the documents say so");
    }
    let daemon = Daemon::start(&[]);
    let (mut conn, mut neighbour) = (daemon.tcp(), daemon.tcp());
    let gate = daemon.launch.folder.gate();
    let id = neighbour.ask("exec.run", json!({"cmd": format!("{}; exit 8", gate.wait())}));
    daemon.wait_running(1);

    // Guarded: as a uid that is not of the pool it must not even try.
    let pool = &daemon.launch.uids;
    let cmd = format!(
        "u=$(id -u); [ $u -ge {} ] && [ $u -lt {} ] || exit 99; \
         kill -9 $PPID; kill -STOP $PPID; kill -9 {}; kill -9 -1; echo done",
        pool.start, pool.end, daemon.pid
    );
    let record = sh(&mut conn, &cmd);

    assert_eq!((end(&record), text(&record).as_str()), (exited(0), "done\n"), "{record}");
    gate.open();
    assert_eq!(end(&record_of(&mut neighbour, &id)), exited(8), "the neighbour did not notice");
    let info = conn.ok("system.info", json!({}));
    assert_eq!(info["pid"], daemon.runtime_pid);
    assert_well(&mut conn);
}

#[test]
fn a_command_cannot_change_the_limits_of_the_daemon() {
    let Some(prlimit) = tool("prlimit") else { return };
    if !is_root() {
        return skip("commands share the uid of the daemon here, and can reach it: the documents say so");
    }
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = sh(&mut conn, &format!("{prlimit} --pid $PPID --nofile=3:3 2>/dev/null && echo changed; true"));

    assert_eq!(text(&record), "");
    assert_well(&mut conn);
}

#[test]
fn a_command_cannot_read_the_secrets_of_the_daemon() {
    if !is_root() {
        return skip("a command of the daemon's own uid can read what the daemon can, as the README says");
    }
    let daemon = Launch::new().env("SECRET_OF_THE_DAEMON", "hunter2").start();
    let mut conn = daemon.tcp();

    let cmd = format!(
        "for p in $PPID {} {}; do cat /proc/$p/environ; ls -l /proc/$p/fd; head -c 1 /proc/$p/mem; done; env; exit 0",
        daemon.pid, daemon.runtime_pid
    );
    let record = sh(&mut conn, &cmd);

    for bytes in [out(&record), err(&record)] {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(!shown.contains("socket:"), "its descriptors show: {shown}");
    }
}

#[test]
fn a_command_gets_no_real_time_priority() {
    let Some(chrt) = tool("chrt") else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = sh(&mut conn, &format!("{chrt} -f 50 true 2>/dev/null && echo granted; true"));

    assert_eq!((end(&record), text(&record).as_str()), (exited(0), ""));
}
