//! SIGHUP: the configuration is read again, and nothing is dropped. Section 9 of the protocol.

use std::path::PathBuf;

use crate::support::{Conn, DEADLINE, Daemon, Launch, Signal, Value, is_root, json, skip, wait_until};

/// A daemon that has read this file; the settings of the tests lie on top of it.
fn with_file(launch: Launch, file: &Value) -> Daemon {
    write(&launch.folder.join("config.json"), file);
    launch.start()
}

fn write(path: &PathBuf, file: &Value) {
    std::fs::write(path, file.to_string()).unwrap();
}

fn file_of(daemon: &Daemon) -> PathBuf {
    daemon.launch.folder.join("config.json")
}

/// Signals, and waits for what comes of it: `reload` of `system.info`.
#[track_caller]
fn reload(daemon: &Daemon) -> Value {
    let mut control = daemon.control();
    // Times are whole milliseconds: the last one must not be taken for the next one.
    let before = wait_until("the last one is a while ago", DEADLINE, || {
        let info = control.ok("system.info", json!({}));
        let ms_ago = info["reload"]["ms_ago"].as_f64().unwrap_or(f64::MAX);
        (ms_ago >= 2.0).then(|| info["uptime_ms"].as_f64().unwrap())
    });
    daemon.signal(Signal::SIGHUP);
    wait_until("the configuration was read again", DEADLINE, || {
        let info = control.ok("system.info", json!({}));
        let at = info["uptime_ms"].as_f64()? - info["reload"]["ms_ago"].as_f64()?;
        (at > before).then(|| info["reload"].clone())
    })
}

/// Another file, read.
#[track_caller]
fn reload_with(daemon: &Daemon, file: &Value) -> Value {
    write(&file_of(daemon), file);
    reload(daemon)
}

#[track_caller]
fn expect_good(reload: &Value) {
    assert_eq!(reload["ok"], true, "{reload}");
    assert_eq!(reload["error"], Value::Null, "{reload}");
}

fn limit(daemon: &Daemon, name: &str) -> Value {
    daemon.control().ok("system.info", json!({}))["limits"][name].clone()
}

fn descriptors(conn: &mut Conn, session: Option<&str>) -> Value {
    let record = match session {
        Some(session) => conn.run_in(session, "ulimit -n"),
        None => conn.run("ulimit -n"),
    };
    json!(record["stdout"].as_str().unwrap().trim().parse::<u64>().unwrap())
}

#[test]
fn before_the_first_there_is_none() {
    let daemon = Daemon::start(&[]);
    let info = daemon.tcp().ok("system.info", json!({}));
    assert_eq!(info.get("reload"), Some(&Value::Null), "{info}");
}

#[test]
fn limits_change_for_what_comes_after_and_nothing_is_dropped() {
    let daemon = with_file(Launch::new(), &json!({"limits": {"limit_nofile": 100}}));
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    let other = client.open(json!({}));
    let gate = daemon.launch.folder.gate();
    let running = client.ask("exec.run", json!({"session": session, "cmd": format!("ulimit -n; {}", gate.wait())}));
    daemon.wait_running(1);

    expect_good(&reload_with(&daemon, &json!({"limits": {"limit_nofile": 50}, "commands": {"max_timeout_s": 9}})));
    assert_eq!(limit(&daemon, "limit_nofile"), 50);
    assert_eq!(limit(&daemon, "max_timeout_s"), 9);
    assert_eq!(limit(&daemon, "default_timeout_s"), 9, "a default gives way, as at the start");
    assert_eq!(descriptors(&mut client, None), 50);
    assert_eq!(descriptors(&mut client, Some(&other)), 50, "a lower one binds what is open");
    assert_eq!(client.ok("session.info", json!({"session": other}))["limits"]["nofile"], 50);
    let refused = client.refused("exec.run", json!({"cmd": ":", "timeout_s": 10}), "INVALID_PARAMS");
    assert_eq!(refused["data"]["field"], "timeout_s");

    expect_good(&reload_with(&daemon, &json!({"limits": {"limit_nofile": 200}})));
    assert_eq!(descriptors(&mut client, None), 200);
    assert_eq!(descriptors(&mut client, Some(&other)), 100, "and a higher one does not raise what was told");

    gate.open();
    let record = client.answer(&running)["result"].clone();
    assert_eq!((&record["status"], &record["stdout"]), (&json!("exited"), &json!("100\n")));
    assert_eq!(client.run_in(&session, "echo on")["stdout"], "on\n");
    wait_until("the log tells what changed", DEADLINE, || {
        daemon.log().contains("limits.limit_nofile: 50 instead of 100").then_some(())
    });
}

#[test]
fn maxima_below_what_is_in_use_end_nothing_and_stop_what_is_new() {
    let start = json!({"sessions": {"max_sessions": 4}, "commands": {"max_commands": 3}});
    let daemon = with_file(Launch::new(), &start);
    let mut client = daemon.tcp();
    let sessions: Vec<String> = (0..3).map(|_| client.open(json!({}))).collect();
    let gate = daemon.launch.folder.gate();
    let run = |session: &String| json!({"session": session, "cmd": gate.wait()});
    let running: Vec<Value> = sessions.iter().map(|session| client.ask("exec.run", run(session))).collect();
    daemon.wait_running(3);

    expect_good(&reload_with(&daemon, &json!({"sessions": {"max_sessions": 2}, "commands": {"max_commands": 1}})));
    let full = client.refused("session.open", json!({}), "CAPACITY");
    assert_eq!((&full["data"]["resource"], &full["data"]["limit"]), (&json!("sessions"), &json!(2)));
    assert_eq!(full["data"]["usage"], 3);
    let stats = daemon.stats();
    assert_eq!((&stats["sessions"]["max"], &stats["commands"]["max"]), (&json!(2), &json!(1)));
    assert_eq!(stats["commands"]["running"], 3);

    gate.open();
    for id in &running {
        assert_eq!(client.answer(id)["result"]["status"], "exited");
    }
    client.ok("session.close", json!({"session": sessions[0]}));
    client.refused("session.open", json!({}), "CAPACITY");
    let more = json!({"sessions": {"max_sessions": 5}, "commands": {"max_commands": 5}});
    expect_good(&reload_with(&daemon, &more));
    let mut uids: Vec<Value> =
        sessions[1..].iter().map(|session| client.run_in(session, "id -u")["stdout"].clone()).collect();
    for _ in 0..3 {
        let session = client.open(json!({}));
        uids.push(client.run_in(&session, "id -u")["stdout"].clone());
    }
    client.refused("session.open", json!({}), "CAPACITY");
    if !is_root() {
        return skip("sessions have uids of their own under root alone");
    }
    uids.sort_by_key(Value::to_string);
    uids.dedup();
    assert_eq!(uids.len(), 5, "no uid is two sessions': {uids:?}");
}

#[test]
fn a_command_that_was_alone_in_its_session_stays_so() {
    let daemon = with_file(Launch::new(), &json!({}));
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    let gate = daemon.launch.folder.gate();
    let first = client.ask("exec.run", json!({"session": session, "cmd": gate.wait()}));
    daemon.wait_running(1);
    expect_good(&reload_with(&daemon, &json!({"commands": {"max_commands_per_session": 2}})));
    let busy = client.refused("exec.run", json!({"session": session, "cmd": ":"}), "SESSION_BUSY");
    assert_eq!((&busy["data"]["limit"], &busy["data"]["usage"]), (&json!(1), &json!(1)));
    gate.open();
    assert_eq!(client.answer(&first)["result"]["status"], "exited");

    // Two at once now, and the end of one is not the other's.
    let gate = daemon.launch.folder.gate();
    let second = client.ask("exec.run", json!({"session": session, "cmd": gate.wait()}));
    daemon.wait_running(1);
    expect_good(&reload_with(&daemon, &json!({})));
    assert_eq!(client.run_in(&session, "echo beside")["stdout"], "beside\n");
    gate.open();
    assert_eq!(client.answer(&second)["result"]["status"], "exited");
}

#[test]
fn the_environment_and_attributes_of_commands_change() {
    let launch = Launch::new().env("COF_WORD", "passed");
    let daemon = with_file(launch, &json!({"children": {"umask": "022"}}));
    let mut client = daemon.tcp();
    let look = "umask; nice; cat /proc/self/oom_score_adj";
    assert_eq!(client.run(look)["stdout"], "0022\n0\n500\n");
    expect_good(&reload_with(&daemon, &json!({"children": {"umask": "027", "nice": 5, "oom_score_adj": 600}})));
    assert_eq!(client.run(look)["stdout"], "0027\n5\n600\n");
}

#[test]
fn bounds_of_connections_change_for_those_that_are_open_too() {
    let file = json!({"connections": {"max_line_bytes": 4096, "max_connections": 8, "reserved_connections": 0}});
    let daemon = with_file(Launch::new(), &file);
    let mut client = daemon.tcp();
    client.ping();
    let long = json!({"cmd": format!(": {}", "x".repeat(5000))});
    let ask = |client: &mut Conn| {
        client.send_line(json!({"id": 1, "method": "exec.run", "params": long}).to_string());
        client.recv()
    };
    assert_eq!(ask(&mut client)["error"]["data"]["limit"], 4096);
    let wider = json!({"connections": {"max_line_bytes": 8192, "max_connections": 2, "reserved_connections": 0}});
    expect_good(&reload_with(&daemon, &wider));
    assert_eq!(ask(&mut client)["result"]["status"], "exited");
    wait_until("only one connection is left", DEADLINE, || {
        (client.ok("system.stats", json!({}))["connections"]["current"] == 1).then_some(())
    });
    let mut second = daemon.tcp();
    second.ping();
    let refused = daemon.tcp().recv();
    assert_eq!(refused["error"]["data"]["resource"], "connections");
    assert_eq!(refused["error"]["data"]["limit"], 2);
    client.ping();
}

#[test]
fn the_memory_of_outputs_and_inputs_changes() {
    let daemon = with_file(Launch::new(), &json!({}));
    let mut client = daemon.tcp();
    let run = json!({"cmd": "wc -c", "stdin": "x".repeat(300_000)});
    assert_eq!(client.ok("exec.run", run.clone())["status"], "exited");
    expect_good(&reload_with(&daemon, &json!({"commands": {"max_buffer_bytes": 256 << 10}})));
    let refused = client.refused("exec.run", run.clone(), "CAPACITY");
    assert_eq!(refused["data"]["resource"], "buffer_bytes");
    assert_eq!(refused["data"]["limit"], 256 << 10);
    assert_eq!(daemon.stats()["output"]["max_buffer_bytes"], 256 << 10);
    expect_good(&reload_with(&daemon, &json!({})));
    assert_eq!(client.ok("exec.run", run)["status"], "exited");
}

#[test]
fn the_end_is_by_the_last_configuration() {
    // Longer than any test waits.
    let mut daemon = with_file(Launch::new(), &json!({"shutdown": {"drain_s": 3600}}));
    let mut client = daemon.tcp();
    let running = client.ask("exec.run", json!({"cmd": "sleep 1000"}));
    daemon.wait_running(1);
    expect_good(&reload_with(&daemon, &json!({"shutdown": {"drain_s": 0.1}})));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(client.answer(&running)["result"]["status"], "shutdown");
    daemon.expect_clean_exit();
}

#[test]
fn a_bad_file_is_told_whole_and_the_old_configuration_stays() {
    let daemon = with_file(Launch::new(), &json!({"limits": {"limit_nofile": 77}}));
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    let wrong = json!({"limits": {"limit_nofile": 88, "limit_cpu": 5}, "commands": {"max_commands": 0}});
    let told = reload_with(&daemon, &wrong);
    assert_eq!(told["ok"], false);
    assert_eq!(told["restart_needed"], json!([]));
    let errors: Vec<&str> = told["error"].as_str().unwrap().lines().collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].starts_with("config.json: commands.max_commands: 0 is out of range"), "{errors:?}");
    assert!(errors[1].starts_with("config.json: limits.limit_cpu: unknown key"), "{errors:?}");
    wait_until("the log has all of it", DEADLINE, || {
        let log = daemon.log();
        errors.iter().all(|error| log.contains(error)).then_some(())
    });
    assert_eq!(limit(&daemon, "limit_nofile"), 77);
    assert_eq!(descriptors(&mut client, Some(&session)), 77);

    std::fs::write(file_of(&daemon), "{").unwrap();
    assert!(reload(&daemon)["error"].as_str().unwrap().contains("not JSON"));
    assert_eq!(descriptors(&mut client, None), 77);

    expect_good(&reload_with(&daemon, &json!({"limits": {"limit_nofile": 88}})));
    assert_eq!(descriptors(&mut client, None), 88);
}

#[test]
fn what_a_partial_file_does_not_name_has_its_default_again() {
    let daemon = with_file(Launch::new(), &json!({"limits": {"limit_nofile": 77, "limit_cpu_sec": 5}}));
    expect_good(&reload_with(&daemon, &json!({"limits": {"limit_cpu_sec": 6}})));
    assert_eq!((limit(&daemon, "limit_nofile"), limit(&daemon, "limit_cpu_sec")), (json!(256), json!(6)));
}

#[test]
fn a_file_that_is_removed_is_no_wish_for_the_defaults() {
    let daemon = with_file(Launch::new(), &json!({"limits": {"limit_nofile": 77}}));
    std::fs::remove_file(file_of(&daemon)).unwrap();
    let told = reload(&daemon);
    assert_eq!(told["ok"], false);
    assert!(told["error"].as_str().unwrap().starts_with("config.json: cannot be opened"), "{told}");
    assert_eq!(limit(&daemon, "limit_nofile"), 77);
}

#[test]
fn a_file_that_comes_later_is_found() {
    let daemon = Daemon::start(&[]);
    expect_good(&reload(&daemon));
    assert_eq!(limit(&daemon, "limit_nofile"), 256);
    expect_good(&reload_with(&daemon, &json!({"limits": {"limit_nofile": 77}})));
    assert_eq!(limit(&daemon, "limit_nofile"), 77);
}

#[test]
fn what_was_said_on_the_command_line_stays_on_top() {
    let launch = Launch::new().set("limits.limit_nofile", json!(60));
    let daemon = with_file(launch, &json!({"limits": {"limit_nofile": 77}}));
    let file =
        json!({"listen": "127.0.0.1:1", "unix_socket": null, "limits": {"limit_nofile": 88, "limit_cpu_sec": 9}});
    let told = reload_with(&daemon, &file);
    expect_good(&told);
    assert_eq!(told["restart_needed"], json!([]), "--listen and --unix-socket hide the file's");
    assert_eq!((limit(&daemon, "limit_nofile"), limit(&daemon, "limit_cpu_sec")), (json!(60), json!(9)));
    daemon.tcp().ping();
    daemon.unix().ping();
}

#[test]
fn a_key_that_needs_a_restart_is_named_and_keeps_its_value() {
    let daemon = with_file(Launch::new(), &json!({"sessions": {"threads": 1}}));
    let told = reload_with(
        &daemon,
        &json!({"sessions": {"threads": 2, "max_history": 5}, "unix_socket_mode": "0660", "cgroup": {"mode": "off"}}),
    );
    expect_good(&told);
    let mut needed: Vec<&str> =
        told["restart_needed"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
    needed.sort_unstable();
    assert_eq!(needed, ["cgroup.mode", "sessions.threads", "unix_socket_mode"]);
    assert_eq!((limit(&daemon, "threads"), limit(&daemon, "max_history")), (json!(1), json!(5)));
    wait_until("the log names them with both values", DEADLINE, || {
        let log = daemon.log();
        let lines =
            ["sessions.threads: 2 needs a restart; until then 1", r#"unix_socket_mode: "0660" needs a restart"#];
        lines.iter().all(|line| log.contains(line)).then_some(())
    });
    // What it had is what it goes by: the same file again still needs the restart, and the old one does not.
    assert_eq!(reload(&daemon)["restart_needed"].as_array().unwrap().len(), 3);
    assert_eq!(reload_with(&daemon, &json!({"sessions": {"threads": 1}}))["restart_needed"], json!([]));
}

#[test]
fn fifty_in_a_row_under_load_lose_no_answer() {
    let daemon = with_file(Launch::new().set("commands.max_commands", json!(50)), &json!({}));
    let mut clients = [daemon.tcp(), daemon.unix()];
    let sessions: Vec<String> = clients.iter_mut().map(|client| client.open(json!({}))).collect();
    let mut asked: Vec<Vec<(Value, Value)>> = vec![Vec::new(), Vec::new()];
    for round in 0..50 {
        // Good and bad in turn, so that both ways are gone.
        match round % 5 {
            4 => std::fs::write(file_of(&daemon), "{\"limits\":").unwrap(),
            _ => write(&file_of(&daemon), &json!({"limits": {"limit_nofile": 100 + round}})),
        }
        daemon.signal(Signal::SIGHUP);
        for (client, asked) in clients.iter_mut().zip(&mut asked) {
            asked.push((client.ask("system.ping", json!({})), json!({"pong": true})));
        }
        let (client, asked) = (&mut clients[round % 2], &mut asked[round % 2]);
        asked.push((client.ask("exec.run", json!({"cmd": format!("echo {round}")})), json!(format!("{round}\n"))));
    }
    for (client, asked) in clients.iter_mut().zip(asked) {
        for (id, expected) in asked {
            let answer = client.answer(&id);
            let result = &answer["result"];
            assert!(*result == expected || result["stdout"] == expected, "{answer}, not {expected}");
        }
    }
    for (client, session) in clients.iter_mut().zip(&sessions) {
        assert_eq!(client.run_in(session, "echo on")["stdout"], "on\n");
    }
    reload_with(&daemon, &json!({"limits": {"limit_nofile": 222}}));
    wait_until("the last one counts", DEADLINE, || (limit(&daemon, "limit_nofile") == 222).then_some(()));
}

#[test]
fn while_it_drains_it_is_ignored_and_the_log_says_so() {
    let mut daemon = with_file(Launch::new(), &json!({"limits": {"limit_nofile": 77}}));
    let mut client = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let running = client.ask("exec.run", json!({"cmd": gate.wait()}));
    daemon.wait_running(1);
    daemon.signal(Signal::SIGTERM);
    wait_until("it drains", DEADLINE, || daemon.log().contains("draining").then_some(()));
    write(&file_of(&daemon), &json!({"limits": {"limit_nofile": 88}}));
    daemon.signal(Signal::SIGHUP);
    wait_until("it says that it does not read", DEADLINE, || daemon.log().contains("is not read again").then_some(()));
    let info = client.ok("system.info", json!({}));
    assert_eq!((&info["reload"], &info["limits"]["limit_nofile"]), (&Value::Null, &json!(77)));
    gate.open();
    assert_eq!(client.answer(&running)["result"]["status"], "exited");
    daemon.expect_clean_exit();
}
