//! `exec.signal` and `exec.kill`: to the whole process group, to the whole tree, and to nobody once it has ended.

use super::steps::*;
use crate::exec_support::*;
use crate::support::*;

#[track_caller]
fn signal(conn: &mut Conn, exec: &str, signal: Value) {
    assert_eq!(conn.ok("exec.signal", json!({"exec": exec, "signal": signal})), json!({"delivered": true}));
}

#[test]
fn a_signal_that_ends_a_command_is_in_its_record() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let cases = [
        (json!("TERM"), "SIGTERM"),
        (json!("SIGHUP"), "SIGHUP"),
        (json!("sigusr1"), "SIGUSR1"),
        (json!(9), "SIGKILL"),
        (json!(40), "SIG40"),
    ];
    for (asked, name) in cases {
        let exec = start(&mut conn, &session, "exec sleep 60");
        signal(&mut conn, &exec, asked);
        assert_eq!(end(&wait(&mut conn, &exec)), ("signaled", None, None, Some(name)));
    }
}

#[test]
fn a_signal_reaches_the_whole_group() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let cmd = "sh -c 'trap \"echo child; exit\" USR1; echo up; while :; do sleep 0.02; done' &
        trap 'echo parent; wait; exit 5' USR1; echo up; while :; do sleep 0.02; done";
    let exec = start(&mut conn, &session, cmd);
    read_until(&mut conn, &exec, |all| all == b"up\nup\n");

    signal(&mut conn, &exec, json!("USR1"));

    let record = wait(&mut conn, &exec);
    assert_eq!(end(&record), exited(5));
    let output = text(&record);
    assert!(output.contains("child\n") && output.contains("parent\n"), "{output}");
}

#[test]
fn a_signal_that_is_handled_leaves_the_command_as_it_is() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let cmd = "trap 'echo got it' HUP; echo up; while :; do sleep 0.02; done";
    let exec = start(&mut conn, &session, cmd);
    read_until(&mut conn, &exec, |all| all == b"up\n");

    signal(&mut conn, &exec, json!(1));
    read_until(&mut conn, &exec, |all| all.ends_with(b"got it\n"));
    for bad in [json!(0), json!(65), json!("NOSUCH"), json!("15"), json!(null), json!(true)] {
        conn.refused("exec.signal", json!({"exec": exec, "signal": bad}), "INVALID_PARAMS");
    }

    assert_eq!(conn.ok("exec.kill", json!({"exec": exec})), json!({"killed": true}));
    assert_eq!(end(&wait(&mut conn, &exec)), ("cancelled", None, None, Some("SIGKILL")));
}

#[test]
fn a_stopped_command_can_be_continued_and_killed() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let started = conn.ok("exec.start", json!({"session": session, "cmd": "exec sleep 60"}));
    let (exec, pid) = (started["exec"].as_str().unwrap(), started["pid"].as_i64().unwrap() as i32);

    let state = |wanted: char| {
        wait_until("its state changes", DEADLINE, || (procs::one(pid)?.state == wanted).then_some(()));
    };
    signal(&mut conn, exec, json!("STOP"));
    state('T');
    signal(&mut conn, exec, json!("CONT"));
    state('S');
    signal(&mut conn, exec, json!("STOP"));
    state('T');
    conn.ok("exec.kill", json!({"exec": exec}));

    assert_eq!(end(&wait(&mut conn, exec)).0, "cancelled");
}

#[test]
fn inv1_what_has_ended_is_signalled_no_more() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let kept = start(&mut conn, &session, "exit 0");
    wait(&mut conn, &kept);
    let ran = run(&mut conn, json!({"session": session, "cmd": "exit 0"}))["exec"].as_str().unwrap().to_owned();

    for exec in [kept, ran] {
        for (method, params) in [
            ("exec.signal", json!({"exec": exec, "signal": "TERM"})),
            ("exec.kill", json!({"exec": exec})),
            ("exec.write", json!({"exec": exec, "data": "x"})),
            ("exec.resize", json!({"exec": exec, "cols": 80, "rows": 24})),
        ] {
            let error = conn.refused(method, params, "EXEC_FINISHED");
            assert_eq!((&error["code"], &error["data"]["exec"]), (&json!(-32013), &json!(exec)), "{error}");
        }
    }
}

#[test]
fn inv4_signals_against_the_end_of_a_command_have_one_answer_each() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    for number in 0..100 {
        let cmd = format!("i=0; while [ $i -lt {} ]; do i=$((i+1)); done; exit 3", number * 15);
        let exec = start(&mut conn, &session, &cmd);
        let ids: Vec<Value> =
            (0..3).map(|_| conn.ask("exec.signal", json!({"exec": exec, "signal": "USR1"}))).collect();

        let record = wait(&mut conn, &exec);
        assert!([exited(3), ("signaled", None, None, Some("SIGUSR1"))].contains(&end(&record)), "{record}");
        for id in &ids {
            let answer = conn.answer(id);
            let reason = &answer["error"]["data"]["reason"];
            assert!(answer["result"]["delivered"] == true || reason == "EXEC_FINISHED", "{answer}");
        }
    }
    wait_stats(&daemon, "/commands/finished", 100);
}
