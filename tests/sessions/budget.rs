//! Budgets, section 5 of the protocol: what a session may use up in all.

use std::fs;

use crate::support::{Conn, DEADLINE, Daemon, Value, json, wait_until};

const SPIN: &str = "while :; do :; done";

/// What BUDGET_EXHAUSTED says: resource, limit, usage.
#[track_caller]
fn exhausted(client: &mut Conn, session: &str) -> (String, f64, f64) {
    let error = client.refused("exec.run", json!({"session": session, "cmd": "true"}), "BUDGET_EXHAUSTED");
    let data = &error["data"];
    assert_eq!((&data["session"], &data["retryable"]), (&json!(session), &json!(false)), "{error}");
    let number = |name: &str| data[name].as_f64().unwrap_or_else(|| panic!("{name} is no number: {error}"));
    (data["resource"].as_str().unwrap().to_owned(), number("limit"), number("usage"))
}

fn info(client: &mut Conn, session: &str) -> Value {
    client.ok("session.info", json!({"session": session}))
}

/// CPU time that a session has used up: whole microseconds, in seconds.
fn cpu_sec(client: &mut Conn, session: &str) -> f64 {
    let micros = info(client, session)["usage"]["cpu_ms"].as_f64().unwrap() * 1000.0;
    micros.round() / 1e6
}

/// How a record says that it ended.
fn end(record: &Value) -> (&str, &str) {
    (record["status"].as_str().unwrap_or("?"), record["limit"].as_str().unwrap_or("none"))
}

#[test]
fn inv7_a_session_runs_as_many_commands_as_its_budget_has() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"budget": {"commands": 2}}));

    for _ in 0..2 {
        assert_eq!(end(&client.run_in(&session, "false")), ("exited", "none"));
    }

    for _ in 0..2 {
        assert_eq!(exhausted(&mut client, &session), ("commands".to_owned(), 2.0, 2.0));
    }
    // A refusal has changed nothing, and another session has its own.
    assert_eq!(info(&mut client, &session)["commands"], 2);
    assert_eq!(daemon.stats()["commands"]["rejected"], 2);
    assert_eq!(end(&client.run("true")), ("exited", "none"));
    assert_eq!(client.ok("session.close", json!({"session": session}))["commands"], 2);
}

#[test]
fn inv9_a_command_that_never_ran_takes_nothing_of_the_budget() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"budget": {"commands": 1}}));

    for _ in 0..3 {
        client.refused("exec.run", json!({"session": session, "argv": ["/no/such/program"]}), "SPAWN_FAILED");
        client.refused("exec.run", json!({"session": session, "argv": []}), "INVALID_PARAMS");
    }

    assert_eq!(end(&client.run_in(&session, "true")), ("exited", "none"));
    assert_eq!(exhausted(&mut client, &session).0, "commands");
}

#[test]
fn a_command_that_runs_counts_already() {
    let daemon = Daemon::start(&[("commands.max_commands_per_session", json!(3))]);
    let mut client = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let session = client.open(json!({"budget": {"commands": 2}}));

    let runs = [0; 2].map(|_| client.ask("exec.run", json!({"session": session, "cmd": gate.wait()})));
    daemon.wait_running(2);

    assert_eq!(exhausted(&mut client, &session), ("commands".to_owned(), 2.0, 2.0));
    gate.open();
    for id in runs {
        assert_eq!(client.answer(&id)["result"]["status"], "exited");
    }
    assert_eq!(exhausted(&mut client, &session), ("commands".to_owned(), 2.0, 2.0));
}

#[test]
fn output_that_is_used_up_refuses_the_next_command_and_ends_none() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"budget": {"output_bytes": 1000}}));

    client.run_in(&session, "head -c 500 /dev/zero; head -c 499 /dev/zero >&2");
    // One byte is left, and a command may write what it likes. What is not kept counts as well.
    let run = json!({"session": session, "cmd": "head -c 50000 /dev/zero", "output_limit_bytes": 0});
    assert_eq!(end(&client.ok("exec.run", run)), ("exited", "none"));

    assert_eq!(exhausted(&mut client, &session), ("output_bytes".to_owned(), 1000.0, 50_999.0));
}

#[test]
fn output_lasts_to_the_last_byte() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"budget": {"output_bytes": 4}}));

    assert_eq!(client.run_in(&session, "printf abc")["stdout"], "abc");
    let run = client.ask("exec.run", json!({"session": session, "cmd": "printf d", "stream": true}));
    assert_eq!(client.answer(&run)["result"]["stdout_bytes"], 1);

    assert_eq!(exhausted(&mut client, &session), ("output_bytes".to_owned(), 4.0, 4.0));
}

#[test]
fn a_busy_loop_ends_with_the_cpu_time_of_its_session() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    // A whole second is held by the kernel too, a fraction by the watchdog alone.
    for limit in [0.3, 1.0] {
        let session = client.open(json!({"budget": {"cpu_sec": limit}}));

        let record = client.run_in(&session, &format!("echo a; {SPIN}"));

        assert_eq!(end(&record), ("cpu_limit", "budget.cpu_sec"), "{record}");
        assert_eq!((&record["exit_code"], &record["stdout"]), (&Value::Null, &json!("a\n")));
        let signal = record["signal"].as_str().unwrap();
        assert!(["SIGKILL", "SIGXCPU"].contains(&signal), "{record}");
        let (resource, told, usage) = exhausted(&mut client, &session);
        assert_eq!((resource.as_str(), told), ("cpu_sec", limit));
        assert!(usage >= limit, "{usage}");
        assert_eq!(usage, cpu_sec(&mut client, &session));
    }
}

#[test]
fn the_children_of_a_command_use_the_cpu_time_of_its_session() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"budget": {"cpu_sec": 0.5}}));

    let record = client.run_in(&session, &format!("for i in 1 2 3 4; do ({SPIN}) & done; wait"));

    assert_eq!(end(&record), ("cpu_limit", "budget.cpu_sec"), "{record}");
    assert!(exhausted(&mut client, &session).2 >= 0.5);
}

/// Shell text of a process that has used so many hundredths of a second when it makes this file, and then sleeps.
fn work(hundredths: u32, file: &std::path::Path) -> String {
    let once = "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; read -r line </proc/$$/stat; set -- $line";
    format!("sh -c 'while {once}; [ ${{14}} -lt {hundredths} ]; do :; done; : >{}; exec sleep 1000'", file.display())
}

#[test]
fn what_a_command_leaves_behind_has_used_the_cpu_time_of_its_session() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"budget": {"cpu_sec": 60}}));
    let file = daemon.launch.folder.scratch().join("worked");

    // The main process does not wait for the other, and so its own figures know nothing of it.
    let cmd = format!("{} & while [ ! -e {} ]; do sleep 0.02; done", work(50, &file), file.display());
    let record = client.run_in(&session, &cmd);

    assert_eq!(end(&record), ("exited", "none"), "{record}");
    assert_eq!(record["descendants_killed"], 1, "{record}");
    let usage = |name: &str| record["usage"][name].as_f64().unwrap() / 1000.0;
    let waited_for = usage("cpu_user_ms") + usage("cpu_system_ms");
    let used = cpu_sec(&mut client, &session);
    assert!(used + 0.001 >= waited_for + 0.5, "{used} of {record}");
}

#[test]
fn commands_add_up_to_the_cpu_time_of_their_session() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"budget": {"cpu_sec": 0.4}}));

    let (mut used, mut last) = (0.0, ("exited".to_owned(), "none".to_owned()));
    while used < 0.4 {
        assert_eq!(last, ("exited".to_owned(), "none".to_owned()), "after {used}");
        let record = client.run_in(&session, "i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done");
        last = (end(&record).0.to_owned(), end(&record).1.to_owned());
        let before = std::mem::replace(&mut used, cpu_sec(&mut client, &session));
        assert!(used > before, "{record}");
    }

    // The last one was ended, or ended by itself at the edge.
    assert!(last.0 == "exited" || last.1 == "budget.cpu_sec", "{last:?}");
    assert_eq!(exhausted(&mut client, &session), ("cpu_sec".to_owned(), 0.4, used));
}

#[test]
fn the_tighter_of_a_limit_and_a_budget_is_named() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"budget": {"cpu_sec": 60, "wall_s": 3600}, "limits": {"cpu_sec": 1}}));

    assert_eq!(end(&client.run_in(&session, SPIN)), ("cpu_limit", "cpu_sec"));
    let run = json!({"session": session, "cmd": "exec sleep 1000", "timeout_s": 0.1});
    assert_eq!(end(&client.ok("exec.run", run)), ("timed_out", "timeout_s"));

    // A fresh command has the limit anew, and the budget goes on.
    assert!(cpu_sec(&mut client, &session) > 0.5);
    assert_eq!(client.run_in(&session, "ulimit -St")["stdout"], "1\n");
}

#[test]
fn inv13_what_is_left_of_the_budget_binds_before_the_first_instruction() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"budget": {"cpu_sec": 2.5}}));
    assert_eq!(client.run_in(&session, "ulimit -St")["stdout"], "3\n");
}

#[test]
fn commands_at_the_same_time_share_the_cpu_time_of_their_session() {
    let daemon = Daemon::start(&[("commands.max_commands_per_session", json!(5))]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"budget": {"cpu_sec": 1.2}}));

    // Each may use what is left when it starts; all together they are ended, the one that only waits too.
    let commands = [SPIN, SPIN, SPIN, SPIN, "exec sleep 1000"];
    let runs = commands.map(|cmd| client.ask("exec.run", json!({"session": session, "cmd": cmd})));

    for id in runs {
        let record = client.answer(&id)["result"].clone();
        assert_eq!(end(&record), ("cpu_limit", "budget.cpu_sec"), "{record}");
        // A quarter of it is what each had; none came near to all of it.
        assert!(record["usage"]["cpu_user_ms"].as_f64().unwrap() < 1100.0, "{record}");
    }
    let (resource, limit, usage) = exhausted(&mut client, &session);
    assert_eq!((resource.as_str(), limit), ("cpu_sec", 1.2));
    assert!(usage >= 1.2, "{usage}");
}

#[test]
fn the_age_of_a_session_ends_what_runs_in_it() {
    let daemon = Daemon::start(&[("commands.kill_grace_ms", json!(50))]);
    let mut client = daemon.tcp();
    let commands = [("exec sleep 1000", "SIGTERM"), ("trap '' TERM; while :; do sleep 0.01; done", "SIGKILL")];
    let runs = commands.map(|(cmd, signal)| {
        let session = client.open(json!({"budget": {"wall_s": 1.5}}));
        let run = json!({"session": session, "cmd": format!("echo a; {cmd}")});
        (session, client.ask("exec.run", run), signal)
    });

    for (session, id, signal) in runs {
        let record = client.answer(&id)["result"].clone();
        assert_eq!(end(&record), ("timed_out", "budget.wall_s"), "{record}");
        assert_eq!((&record["signal"], &record["stdout"]), (&json!(signal), &json!("a\n")), "{record}");
        let (resource, limit, usage) = exhausted(&mut client, &session);
        assert_eq!((resource.as_str(), limit), ("wall_s", 1.5));
        assert!(usage >= 1.5, "{usage}");
    }
}

#[test]
fn the_age_of_a_session_counts_while_it_is_idle() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"budget": {"wall_s": 0.2}}));

    wait_until("the session is too old", DEADLINE, || {
        (info(&mut client, &session)["usage"]["wall_ms"].as_u64()? >= 200).then_some(())
    });

    assert_eq!(exhausted(&mut client, &session).0, "wall_s");
    // It is there still: what it did can be asked for, and it closes as any other.
    assert_eq!(info(&mut client, &session)["commands"], 0);
    assert_eq!(client.ok("session.close", json!({"session": session}))["closed"], true);
}

#[test]
fn record_and_history_show_the_budget_that_ended_a_command() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"budget": {"cpu_sec": 0.2, "wall_s": 3600, "commands": 10}}));

    let record = client.run_in(&session, SPIN);
    exhausted(&mut client, &session);

    let history = client.ok("session.history", json!({"session": session}));
    let commands = history["commands"].as_array().unwrap();
    assert_eq!(commands.len(), 1, "what was refused never ran: {history}");
    for name in ["exec", "status", "limit", "signal", "usage"] {
        assert_eq!(commands[0][name], record[name], "{name}");
    }
    assert_eq!(commands[0]["limit"], "budget.cpu_sec");
    assert_eq!(daemon.stats()["commands"]["by_status"]["cpu_limit"], 1);
}

#[test]
fn a_persistent_session_has_one_budget_for_all_connections() {
    let daemon = Daemon::start(&[]);
    let (mut first, mut second) = (daemon.tcp(), daemon.tcp());
    let session = first.open(json!({"persist": true, "budget": {"commands": 2}}));

    first.run_in(&session, "true");
    drop(first);
    second.run_in(&session, "true");

    assert_eq!(exhausted(&mut second, &session).0, "commands");
    assert_eq!(exhausted(&mut daemon.tcp(), &session).0, "commands");
}

#[test]
fn budget_is_told_before_busy_and_after_what_is_malformed_or_unknown() {
    let daemon = Daemon::start(&[("commands.max_commands", json!(1))]);
    let (mut client, mut other) = (daemon.tcp(), daemon.tcp());
    let gate = daemon.launch.folder.gate();
    let session = client.open(json!({"budget": {"commands": 1}}));
    let run = client.ask("exec.run", json!({"session": session, "cmd": gate.wait()}));
    daemon.wait_running(1);

    // The session is busy, the daemon is full, and the budget is used up.
    assert_eq!(exhausted(&mut client, &session).0, "commands");
    client.refused("exec.run", json!({"session": session}), "INVALID_PARAMS");
    let raised = json!({"session": session, "cmd": "true", "limits": {"nofile": -1}});
    client.refused("exec.run", raised, "INVALID_PARAMS");
    client.refused("exec.run", json!({"session": "s999999", "cmd": "true"}), "SESSION_NOT_FOUND");
    // Without a budget it is the rest of the order.
    let free = other.open(json!({}));
    other.refused("exec.run", json!({"session": free, "cmd": "true"}), "CAPACITY");

    gate.open();
    client.answer(&run);
    client.ok("session.close", json!({"session": session}));
    client.refused("exec.run", json!({"session": session, "cmd": "true"}), "SESSION_NOT_FOUND");
}

#[test]
fn info_shows_the_budget_and_what_is_used_of_it() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let unlimited = json!({"commands": -1, "cpu_sec": -1, "output_bytes": -1, "wall_s": -1});
    for none in [json!({}), json!({"budget": null}), json!({"budget": {}}), json!({"budget": unlimited})] {
        let session = client.open(none);
        assert_eq!(info(&mut client, &session)["budget"], unlimited);
    }

    let budget = json!({"commands": 5, "cpu_sec": 1.5, "output_bytes": 1_u64 << 40, "wall_s": 3600});
    let session = client.open(json!({"budget": budget}));
    client.run_in(&session, "printf abc");

    let info = info(&mut client, &session);
    assert_eq!((info["budget"]["commands"].as_f64(), info["budget"]["cpu_sec"].as_f64()), (Some(5.0), Some(1.5)));
    assert_eq!(info["budget"]["output_bytes"], json!(1_u64 << 40));
    assert_eq!(info["budget"]["wall_s"].as_f64(), Some(3600.0));
    assert_eq!((&info["commands"], &info["usage"]["output_bytes"]), (&json!(1), &json!(3)));
}

#[test]
fn a_budget_that_makes_no_sense_opens_no_session() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let cases = [
        (json!({"commands": 0}), "budget.commands"),
        (json!({"commands": 1.5}), "budget.commands"),
        (json!({"cpu_sec": 0}), "budget.cpu_sec"),
        (json!({"cpu_sec": "1"}), "budget.cpu_sec"),
        (json!({"output_bytes": -2}), "budget.output_bytes"),
        (json!({"wall_s": 1e300}), "budget.wall_s"),
        (json!({"memory_bytes": 1}), "budget.memory_bytes"),
        (json!([]), "budget"),
    ];
    for (budget, field) in cases {
        let error = client.refused("session.open", json!({"budget": budget}), "INVALID_PARAMS");
        assert_eq!(error["data"]["field"], field, "{error}");
    }
    // A command without a session has none.
    let error = client.refused("exec.run", json!({"cmd": "true", "budget": {"commands": 1}}), "INVALID_PARAMS");
    assert_eq!(error["data"]["field"], "budget");
    assert_eq!(daemon.stats()["sessions"]["opened"], 0);
}

#[test]
fn two_that_race_for_the_last_command_of_a_session_do_not_both_get_it() {
    let daemon = Daemon::start(&[("commands.max_commands_per_session", json!(16))]);
    let mut client = daemon.tcp();
    let file = daemon.launch.folder.scratch().join("ran");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let session = client.open(json!({"persist": true, "budget": {"commands": 5}}));

    let racers: Vec<_> = (0..8)
        .map(|_| {
            let mut conn = daemon.tcp();
            let run = json!({"session": session, "cmd": format!("echo ran >>{}", file.display())});
            std::thread::spawn(move || {
                (0..4).filter(|_| conn.request("exec.run", run.clone()).get("result").is_some()).count()
            })
        })
        .collect();
    let granted: usize = racers.into_iter().map(|racer| racer.join().unwrap()).sum();

    assert_eq!(granted, 5);
    assert_eq!(fs::read_to_string(&file).unwrap(), "ran\n".repeat(5));
}
