//! What a shell session leaves in the background is under the session's limits, all of it together.

use crate::exec_support::*;
use crate::program::Hostile;
use crate::support::*;

#[track_caller]
fn killed(conn: &mut Conn, session: &str) -> u64 {
    conn.ok("session.info", json!({"session": session}))["background_killed"].as_u64().unwrap()
}

#[test]
fn background_jobs_together_are_bound_by_the_memory_of_the_session() {
    let hostile = Hostile::build();
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.unix();
    let limits = json!({"memory_bytes": 64 << 20});
    let session = conn.open(json!({"shell": true, "limits": limits}));
    let hog = |mib: u32| format!("{} memory {mib} 600 >/dev/null 2>&1 &", hostile.path());

    // The control: what is within the limit stays, and each of them is.
    run(&mut conn, json!({"session": session, "cmd": hog(40)}));
    wait_until("it has its memory", DEADLINE, || {
        let pid = *living(hostile.path()).keys().next()?;
        (procs::peak_rss_bytes(pid) > 40 << 20).then_some(())
    });
    assert_eq!(end(&run(&mut conn, json!({"session": session, "cmd": "sleep 0.5; exit 3"}))).2, Some(3));
    assert_eq!((living(hostile.path()).len(), killed(&mut conn, &session)), (1, 0));
    run(&mut conn, json!({"session": session, "cmd": format!("setsid {}", hog(40))}));
    wait_gone(hostile.path());
    wait_until("they are counted", DEADLINE, || (killed(&mut conn, &session) >= 2).then_some(()));

    // Beside a command that runs, which is under its own limit.
    let id =
        conn.ask("exec.run", json!({"session": session, "cmd": format!("{} {} sleep 1; echo fine", hog(40), hog(40))}));
    let record = record_of(&mut conn, &id);
    assert_eq!(record["status"], "memory_limit", "these are the command's own: {record}");
    wait_gone(hostile.path());
    run(&mut conn, json!({"session": session, "cmd": format!("{} {}", hog(40), hog(40))}));
    let record = run(&mut conn, json!({"session": session, "cmd": "sleep 1.5; echo fine"}));
    assert_eq!(text(&record), "fine\n", "{record}");
    wait_gone(hostile.path());
    close(&mut conn, &session);
}

#[test]
fn background_jobs_together_are_bound_by_the_cpu_time_of_the_session() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.unix();
    let number = mark();
    let burn = format!("sh -c 'while :; do :; done' {number} &");

    let free = conn.open(json!({"shell": true}));
    let session = conn.open(json!({"shell": true, "limits": {"cpu_sec": 1}}));
    for id in [&free, &session] {
        run(&mut conn, json!({"session": id, "cmd": burn}));
    }
    // The control goes on: its limit is 60 s.
    wait_until("the one that is over its limit is ended", DEADLINE, || (living(&number).len() == 1).then_some(()));
    wait_until("it is counted", DEADLINE, || (killed(&mut conn, &session) == 1).then_some(()));
    assert_eq!(killed(&mut conn, &free), 0);
    assert_eq!(end(&run(&mut conn, json!({"session": session, "cmd": "exit 3"}))).2, Some(3));
    close(&mut conn, &free);
    assert!(living(&number).is_empty());
    close(&mut conn, &session);
}

#[test]
fn jobs_that_outlive_their_shell_stay_bound() {
    let hostile = Hostile::build();
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.unix();
    let session = conn.open(json!({"shell": true, "limits": {"memory_bytes": 64 << 20}}));

    let late = format!("setsid sh -c 'sleep 1; exec {} memory 200 600' >/dev/null 2>&1 & exit 0", hostile.path());
    run(&mut conn, json!({"session": session, "cmd": late}));
    wait_until("it has begun, and is ended", DEADLINE, || (killed(&mut conn, &session) >= 1).then_some(()));
    wait_gone(hostile.path());
    close(&mut conn, &session);
}
