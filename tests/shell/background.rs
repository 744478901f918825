//! Background jobs: they live until their session closes, and what they write is in no other command's output.

use crate::support::{DEADLINE, Daemon, json, procs, wait_until};
use crate::{exits, says, shells};

fn pid(text: &str) -> i32 {
    text.trim().parse().unwrap()
}

#[test]
fn jobs_outlive_commands_time_outs_and_shells() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        let plain = pid(&says(&mut client, &session, "sleep 1000 & echo $!"));
        let orphan = pid(&says(&mut client, &session, "(sleep 1001 & echo $!)"));
        let loops = pid(&says(&mut client, &session, "while :; do sleep 0.01; done & echo $!"));
        let detached =
            pid(&says(&mut client, &session, "setsid sh -c 'echo $$; exec sleep 1002' & wait $! & sleep 0.05"));
        let all = [plain, orphan, loops, detached];
        let alive = |when: &str| assert!(all.iter().all(|pid| procs::is_alive(*pid)), "{when}: {all:?}");
        alive("after their commands");
        let params = json!({"session": session, "cmd": "sleep 500 | sleep 500", "timeout_s": 0.2});
        assert_eq!(client.ok("exec.run", params)["status"], "timed_out");
        alive("after the time-out of another");
        let params = json!({"session": session, "cmd": "trap '' INT; while :; do :; done", "timeout_s": 0.2, "kill_grace_ms": 0});
        assert_eq!(client.ok("exec.run", params)["status"], "timed_out");
        alive("after the shell was replaced");
        exits(&mut client, &session, 3, "exit 3");
        assert_eq!(says(&mut client, &session, "echo fresh"), "fresh\n");
        // Long enough for the reaper to look for orphans that are nobody's, more than once.
        let sweeps = daemon.stats()["reaper"]["sweeps"].as_u64().unwrap();
        daemon
            .stats_show("three more sweeps", |stats| (stats["reaper"]["sweeps"].as_u64()? >= sweeps + 3).then_some(()));
        alive("after the shell has left");
        client.ok("session.close", json!({"session": session}));
        assert!(all.iter().all(|pid| !procs::is_alive(*pid)), "after the session: {all:?}");
    }
}

#[test]
fn jobs_of_a_session_whose_shell_is_gone_end_with_it() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        let job = pid(&says(&mut client, &session, "sleep 1000 & echo $!"));
        exits(&mut client, &session, 0, "exit");
        assert!(procs::is_alive(job));
        client.ok("session.close", json!({"session": session}));
        assert!(!procs::is_alive(job));
    }
}

#[test]
fn what_a_job_writes_later_is_nobody_s_and_does_not_end_it() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        let folder = daemon.launch.folder.open_to_all(&format!("jobs-{}", session));
        let (go, done) = (folder.join("go"), folder.join("done"));
        // More than a pipe holds, in many pieces, after its command is over.
        let job = format!(
            "(until [ -e {0} ]; do sleep 0.01; done; i=0; while [ $i -lt 3000 ]; do echo noise-noise-noise-noise-noise; \
             echo more >&2; i=$((i+1)); done; echo over >{1}) & echo now",
            go.display(),
            done.display()
        );
        assert_eq!(says(&mut client, &session, &job), "now\n");
        std::fs::write(&go, "").unwrap();
        let mut count = 0;
        wait_until("the job is over", DEADLINE, || {
            count += 1;
            let record = client.run_in(&session, &format!("echo {count}; echo e{count} >&2"));
            assert_eq!(record["stdout"], format!("{count}\n"), "{record}");
            assert_eq!(record["stderr"], format!("e{count}\n"), "{record}");
            done.exists().then_some(())
        });
    }
}

#[test]
fn inv7_outputs_that_jobs_hold_are_bounded() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let before = daemon.stats()["process"]["fds"].as_u64().unwrap();
    let session = client.open(json!({"shell": true, "limits": {"nproc": 64}}));
    for count in 0..45 {
        says(&mut client, &session, &format!("sleep 1000 & : {count}"));
    }
    let held = daemon.stats()["process"]["fds"].as_u64().unwrap() - before;
    assert!(held < 2 * 32 + 24, "{held} descriptors");
    assert_eq!(says(&mut client, &session, "echo on"), "on\n");
}
