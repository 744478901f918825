//! `exec.write`: all of it or STDIN_FULL, the end when it is said, and no command that holds the daemon up.

use super::steps::*;
use crate::exec_support::*;
use crate::support::*;

#[test]
fn what_is_written_is_read_in_order_until_the_end_is_said() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let params = json!({"session": session, "cmd": "cat; echo end", "stdin_open": true, "stdin": "given "});
    let exec = start_with(&mut conn, params);

    write(&mut conn, &exec, "text ");
    let accepted = conn.ok("exec.write", json!({"exec": exec, "data_b64": "/wA="}));
    assert_eq!(accepted, json!({"accepted_bytes": 2}));
    let all = read_until(&mut conn, &exec, |all| all.ends_with(b"\xff\0"));
    assert_eq!(all, b"given text \xff\0");
    let last = conn.ok("exec.write", json!({"exec": exec, "data": " last ", "eof": true}));
    assert_eq!(last, json!({"accepted_bytes": 6}));

    assert_eq!(out(&wait(&mut conn, &exec)), b"given text \xff\0 last end\n");
}

#[test]
fn the_end_may_be_said_twice_and_nothing_comes_after_it() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let gate = daemon.launch.folder.gate();
    let cmd = format!("cat; {}", gate.wait());
    let exec = start_with(&mut conn, json!({"session": session, "cmd": cmd, "stdin_open": true}));

    eof(&mut conn, &exec);
    eof(&mut conn, &exec);
    for params in [json!({"data": "x"}), json!({"data": "x", "eof": true}), json!({"data_b64": "eA=="})] {
        let mut params = params;
        params["exec"] = json!(exec);
        conn.refused("exec.write", params, "INVALID_PARAMS");
    }
    conn.refused("exec.write", json!({"exec": exec}), "INVALID_PARAMS");
    gate.open();

    assert_eq!((end(&wait(&mut conn, &exec)), "".to_owned()), (exited(0), text(&wait(&mut conn, &exec))));
    let error = conn.refused("exec.write", json!({"exec": exec, "data": "x"}), "EXEC_FINISHED");
    assert_eq!(error["data"]["exec"], json!(exec));
}

#[test]
fn an_input_that_was_not_opened_takes_nothing() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    for params in [json!({}), json!({"stdin": "given"}), json!({"stdin_open": false})] {
        let mut params = params;
        (params["session"], params["cmd"]) = (json!(session), json!("cat; exec sleep 60"));
        let exec = start_with(&mut conn, params);
        conn.refused("exec.write", json!({"exec": exec, "data": "x"}), "INVALID_PARAMS");
        conn.refused("exec.write", json!({"exec": exec, "eof": true}), "INVALID_PARAMS");
        conn.ok("exec.kill", json!({"exec": exec}));
        wait(&mut conn, &exec);
    }
}

#[test]
fn inv7_what_nobody_reads_is_taken_up_to_the_limit_and_then_refused() {
    let limit = 300_000;
    let daemon = Daemon::start(&[("commands.max_stdin_bytes", json!(limit))]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let gate = daemon.launch.folder.gate();
    let cmd = format!("{}; exec wc -c", gate.wait());
    let exec = start_with(&mut conn, json!({"session": session, "cmd": cmd, "stdin_open": true}));

    // The pipe holds some of it besides.
    let piece = "x".repeat(50_000);
    let mut accepted = 0;
    let error = loop {
        let answer = conn.request("exec.write", json!({"exec": exec, "data": piece}));
        match answer.get("result") {
            Some(result) => accepted += result["accepted_bytes"].as_u64().unwrap(),
            None => break answer["error"].clone(),
        }
        assert!(accepted < 1_000_000, "there is no end to it");
    };
    assert_eq!(error["data"]["reason"], "STDIN_FULL", "{error}");
    assert_eq!((&error["data"]["limit"], &error["data"]["retryable"]), (&json!(limit), &json!(true)));
    let waiting = error["data"]["usage"].as_u64().unwrap();
    assert!((limit - 50_000..=limit).contains(&waiting), "{error}");
    assert_well(&mut conn);
    // What can never fit is another answer.
    conn.refused("exec.write", json!({"exec": exec, "data": "x".repeat(300_001)}), "STDIN_TOO_LARGE");
    assert_eq!(conn.ok("exec.write", json!({"exec": exec, "eof": true})), json!({"accepted_bytes": 0}));
    gate.open();

    assert_eq!(text(&wait(&mut conn, &exec)).trim(), accepted.to_string());
    daemon.stats_show("the memory is given back", |stats| {
        (stats["output"]["buffered_bytes"].as_u64().unwrap() < 1000).then_some(())
    });
}

#[test]
fn megabytes_go_through_in_pieces_while_it_reads() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let exec = start_with(&mut conn, json!({"session": session, "cmd": "exec md5sum", "stdin_open": true}));
    let piece: String = (0..20_000).map(|number| format!("{number}\n")).collect();

    let mut left = 60;
    while left > 0 {
        let answer = conn.request("exec.write", json!({"exec": exec, "data": piece}));
        match answer["error"]["data"]["reason"].as_str() {
            None => left -= 1,
            Some(reason) => assert_eq!(reason, "STDIN_FULL", "{answer}"),
        }
    }
    eof(&mut conn, &exec);

    let sum = text(&wait(&mut conn, &exec));
    let expected = sh(&mut conn, "i=0; while [ $i -lt 60 ]; do i=$((i+1)); seq 0 19999; done | md5sum");
    assert_eq!(sum, text(&expected));
}

#[test]
fn a_command_that_has_closed_its_input_still_takes_and_forgets() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let cmd = "exec <&-; echo closed; exec sleep 60";
    let exec = start_with(&mut conn, json!({"session": session, "cmd": cmd, "stdin_open": true}));
    read_until(&mut conn, &exec, |all| all == b"closed\n");

    for _ in 0..100 {
        write(&mut conn, &exec, &"x".repeat(30_000));
    }
    eof(&mut conn, &exec);

    assert_eq!(conn.ok("exec.wait", json!({"exec": exec, "wait_s": 0}))["status"], "running");
    conn.ok("exec.kill", json!({"exec": exec}));
}
