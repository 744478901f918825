//! How long what was started is kept: `retain_s`, `max_history`, the memory for outputs, the life of its session.

use super::steps::*;
use crate::exec_support::*;
use crate::support::*;

#[test]
fn a_record_is_kept_for_its_time_and_then_forgotten() {
    let daemon = Daemon::start(&[("commands.retain_s", json!(0.3))]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let exec = start(&mut conn, &session, "echo kept");
    assert_eq!(text(&wait(&mut conn, &exec)), "kept\n");

    wait_until("it is forgotten", DEADLINE, || {
        let answer = conn.request("exec.wait", json!({"exec": exec}));
        answer.get("error").map(|error| assert_eq!(error["data"]["reason"], "EXEC_NOT_FOUND", "{answer}"))
    });
    conn.refused("exec.read", json!({"exec": exec, "stream": "stdout", "offset": 0}), "EXEC_NOT_FOUND");
    // The session's history has it still, and so it has ended.
    conn.refused("exec.kill", json!({"exec": exec}), "EXEC_FINISHED");
    wait_stats(&daemon, "/output/buffered_bytes", 0);
}

#[test]
fn nothing_is_kept_for_no_time() {
    let daemon = Daemon::start(&[("commands.retain_s", json!(0))]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let gate = daemon.launch.folder.gate();
    let exec = start(&mut conn, &session, &format!("{}; echo seen", gate.wait()));
    let waiting = conn.ask("exec.wait", json!({"exec": exec}));
    conn.ping();
    gate.open();

    assert_eq!(text(&record_of(&mut conn, &waiting)), "seen\n");
    conn.refused("exec.wait", json!({"exec": exec}), "EXEC_NOT_FOUND");
}

#[test]
fn inv7_no_more_are_kept_than_the_history_has() {
    let daemon = Daemon::start(&[("sessions.max_history", json!(3))]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let all: Vec<String> = (0..5)
        .map(|number| {
            let exec = start(&mut conn, &session, &format!("echo {number}"));
            wait(&mut conn, &exec);
            exec
        })
        .collect();

    for exec in &all[..2] {
        conn.refused("exec.wait", json!({"exec": exec}), "EXEC_NOT_FOUND");
        conn.refused("exec.kill", json!({"exec": exec}), "EXEC_NOT_FOUND");
    }
    for (number, exec) in all.iter().enumerate().skip(2) {
        assert_eq!(text(&wait(&mut conn, exec)), format!("{number}\n"));
    }
    let history = conn.ok("session.history", json!({"session": session}));
    let listed: Vec<&Value> = history["commands"].as_array().unwrap().iter().map(|record| &record["exec"]).collect();
    assert_eq!(listed, all[2..].iter().map(|exec| json!(exec)).collect::<Vec<_>>().iter().collect::<Vec<_>>());
}

#[test]
fn what_was_kept_goes_with_its_session() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let exec = start(&mut conn, &session, "head -c 100000 /dev/zero");
    wait(&mut conn, &exec);
    assert!(daemon.stats()["output"]["buffered_bytes"].as_u64().unwrap() >= 100_000);

    close(&mut conn, &session);

    for method in ["exec.wait", "exec.kill"] {
        conn.refused(method, json!({"exec": exec}), "EXEC_NOT_FOUND");
    }
    wait_stats(&daemon, "/output/buffered_bytes", 0);
}

#[test]
fn inv7_kept_outputs_take_at_most_half_of_the_memory_and_the_oldest_go_first() {
    let settings = [("commands.max_buffer_bytes", json!(4 << 20)), ("sessions.threads", json!(1))];
    let daemon = Daemon::start(&settings);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let all: Vec<String> = (0..6)
        .map(|_| {
            let exec = start(&mut conn, &session, "head -c 500000 /dev/zero | tr '\\0' x");
            assert_eq!(wait(&mut conn, &exec)["stdout_bytes"], 500_000);
            exec
        })
        .collect();

    let kept: Vec<usize> = all.iter().map(|exec| out(&wait(&mut conn, exec)).len()).collect();
    assert_eq!(kept, [0, 0, 500_000, 500_000, 500_000, 500_000], "records stay, and count what is gone as dropped");
    let gone = read(&mut conn, &all[0], 0, json!({}));
    assert_eq!((gone.bytes.len(), gone.dropped, gone.eof), (0, 500_000, true));
    assert!(daemon.stats()["output"]["buffered_bytes"].as_u64().unwrap() <= 2 << 20);
    // What runs has the other half.
    let record = run(&mut conn, json!({"session": session, "cmd": "head -c 1500000 /dev/zero"}));
    assert_eq!(record["stdout_dropped"], 0);
}

#[test]
fn a_history_that_was_made_shorter_is_shorter_with_the_next_command() {
    let launch = Launch::new();
    let file = launch.folder.join("config.json");
    let configure = |max: u64| std::fs::write(&file, json!({"sessions": {"max_history": max}}).to_string()).unwrap();
    configure(5);
    let daemon = launch.start();
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let started = |conn: &mut Conn| {
        let exec = start(conn, &session, "exit 0");
        wait(conn, &exec);
        exec
    };
    let before: Vec<String> = (0..5).map(|_| started(&mut conn)).collect();

    configure(2);
    daemon.signal(Signal::SIGHUP);
    wait_until("it was read again", DEADLINE, || {
        (conn.ok("system.info", json!({}))["limits"]["max_history"] == 2).then_some(())
    });
    let last = started(&mut conn);

    let history = conn.ok("session.history", json!({"session": session}));
    let kept: Vec<&Value> = history["commands"].as_array().unwrap().iter().map(|record| &record["exec"]).collect();
    assert_eq!(kept, [&json!(before[4]), &json!(last)]);
    for exec in &before[..4] {
        conn.refused("exec.wait", json!({"exec": exec}), "EXEC_NOT_FOUND");
    }
    assert_eq!(wait(&mut conn, &before[4])["status"], "exited");
}
