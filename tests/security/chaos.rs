//! A minute of normal load beside everything that the hostile program can do: nobody who does nothing wrong notices.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::exec_support::*;
use crate::program::Hostile;
use crate::support::*;

const A_MINUTE: Duration = Duration::from_secs(60);

/// One attack after the other, each in a session of its own or in one that is closed over it, until it is over.
fn attack(daemon: &Daemon, hostile: &Hostile, number: u64, over: &AtomicBool) {
    let mut conn = daemon.unix();
    let scratch = hostile.folder.text(&format!("attacker-{number}"));
    let key = format!("{:#x}", 0x0cad_0000 + (std::process::id() as u64 % 4096) * 8 + number);
    let name = format!("cofferdam-chaos-{}-{number}", std::process::id());
    let everywhere: [&[&str]; 9] = [
        &["sibling", "8", "4", "600", "0"],
        &["sibling", "40", "0", "0", "0"],
        &["sibling_chain", "5"],
        &["frame", "8", "1", "1", "COFFERDAM_EXEC=x"],
        &["ghost", "still", "600"],
        &["ghost", "chain", "600"],
        &["leave", &key, &name],
        &["flood", &scratch, "1", "4096"],
        &["memory", "300", "1"],
    ];
    // As the daemon's own uid these would reach the daemon, and the test.
    let with_a_uid: [&[&str]; 2] = [&["stopper", "5"], &["stop_loop", "2", "0"]];
    let all = everywhere.into_iter().chain(with_a_uid.into_iter().filter(|_| is_root()));
    for (turn, words) in all.cycle().enumerate() {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let shell = turn % 3 == 0;
        let session = conn.open(json!({"shell": shell, "limits": {"memory_bytes": 64 << 20}}));
        let mut params = match turn % 2 {
            0 => json!({"cmd": format!("{} {}; :", hostile.path(), words.join(" "))}),
            _ => json!({"argv": hostile.argv(words)}),
        };
        params["session"] = json!(session);
        params["timeout_s"] = json!(3);
        // However it ends, it ends.
        let answer = conn.request("exec.run", params);
        assert!(answer["result"]["status"].is_string() || answer["error"]["data"]["reason"].is_string(), "{answer}");
        assert_eq!(conn.ok("session.close", json!({"session": session}))["closed"], true);
    }
}

/// What somebody does who only wants work done; how often.
fn work(daemon: &Daemon, over: &AtomicBool, done: &AtomicU64) {
    let mut conn = daemon.tcp();
    let shell = conn.open(json!({"shell": true}));
    while !over.load(Ordering::Relaxed) {
        let number = done.fetch_add(1, Ordering::Relaxed).to_string();
        let params = json!({"cmd": format!("echo {number}; exit 7"), "queue_ms": 20_000});
        let record = run(&mut conn, params);
        assert_eq!((end(&record), text(&record).trim()), (exited(7), &*number), "{record}");
        assert_eq!(record["descendants_killed"], 0, "{record}");
        let params = json!({"session": shell, "cmd": format!("N={number}; echo $N"), "queue_ms": 20_000});
        let record = run(&mut conn, params);
        assert_eq!((end(&record), text(&record).trim()), (exited(0), &*number), "{record}");
    }
    close(&mut conn, &shell);
}

#[test]
fn inv3_a_minute_of_everything_at_once_harms_nobody_else() {
    let hostile = Hostile::build();
    let daemon = Daemon::start(&[("commands.max_commands", json!(32))]);
    let (over, done) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();

    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..2).map(|_| scope.spawn(|| work(&daemon, &over, &done))).collect();
        let attackers = (0..4).map(|number| {
            scope.spawn({
                let (daemon, hostile, over) = (&daemon, &hostile, &over);
                move || attack(daemon, hostile, number, over)
            })
        });
        let attackers: Vec<_> = attackers.collect();
        let is_broken = || workers.iter().chain(&attackers).any(std::thread::ScopedJoinHandle::is_finished);
        wait_until("a minute goes by", A_MINUTE * 2, || (began.elapsed() > A_MINUTE || is_broken()).then_some(()));
        over.store(true, Ordering::Relaxed);
    });
    assert!(done.load(Ordering::Relaxed) > 20, "somebody got work done");
    wait_gone(hostile.path());
    let stats = daemon.stats();
    assert_eq!(stats["commands"]["by_status"]["unkillable"], 0, "{stats}");
    wait_until("what was left is cleaned up", DEADLINE, || {
        (daemon.stats()["sessions"]["uids_set_aside"] == 0).then_some(())
    });
    assert_well(&mut daemon.tcp());
    // What took too long on a machine that is busy with something else may have been given up, but nothing is stuck.
    assert!(!daemon.log().contains("cannot be given up"), "{}", daemon.log());
}
