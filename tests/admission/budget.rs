//! The budget of a session: what is used up refuses the next command, and ends a running one where that is promised.

use crate::support::{Conn, DEADLINE, Daemon, Value, json, wait_until};
use crate::view::*;

/// BUDGET_EXHAUSTED of this session and resource: limit and usage.
#[track_caller]
fn expect_exhausted(error: &Value, session: &str, resource: &str) -> (f64, f64) {
    assert_eq!(error["code"], -32026, "{error}");
    let data = &error["data"];
    assert_eq!(data["reason"], "BUDGET_EXHAUSTED", "{error}");
    assert_eq!(data["retryable"], false, "{error}");
    assert_eq!((&data["session"], &data["resource"]), (&json!(session), &json!(resource)), "{error}");
    assert_eq!(data.as_object().unwrap().len(), 6, "reason, retryable, session, resource, limit, usage: {error}");
    let number = |name: &str| data[name].as_f64().unwrap_or_else(|| panic!("{name} is a number: {error}"));
    (number("limit"), number("usage"))
}

/// One more command of the session must be refused, and leave nothing.
#[track_caller]
fn exhausted(daemon: &Daemon, client: &mut Conn, session: &str, resource: &str) -> (f64, f64) {
    let asked = json!({"session": session, "cmd": "true"});
    let error = changes_nothing(daemon, &ip(1), || client.refused("exec.run", asked, "BUDGET_EXHAUSTED"));
    expect_exhausted(&error, session, resource)
}

#[test]
fn commands_are_counted() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({"budget": {"commands": 2}}));
    client.run_in(&session, "exit 1");
    // What never ran is not one of them, nor is what was refused.
    client.refused("exec.run", json!({"session": session, "argv": ["/no/such/program"]}), "SPAWN_FAILED");
    client.refused("exec.run", json!({"session": session}), "INVALID_PARAMS");
    client.run_in(&session, "true");
    assert_eq!(exhausted(&daemon, &mut client, &session, "commands"), (2.0, 2.0));
    // A budget is one session's.
    let other = client.open(json!({"budget": {"commands": 1}}));
    client.run_in(&other, "true");
    client.run("true");
    assert_eq!(client.ok("session.close", json!({"session": session}))["commands"], 2);
}

#[test]
fn commands_that_run_at_once_share_the_budget() {
    let daemon = Daemon::start(&[("commands.max_commands_per_session", json!(3))]);
    let (mut client, mut second) = (daemon.tcp_as(1), daemon.tcp_as(1));
    let session = client.open(json!({"budget": {"commands": 2}}));
    stand(&daemon, &mut client, json!({"session": session}));
    stand(&daemon, &mut second, json!({"session": session}));
    assert_eq!(exhausted(&daemon, &mut client, &session, "commands"), (2.0, 2.0));
}

#[test]
fn output_is_counted_to_the_byte() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({"budget": {"output_bytes": 1000}}));
    client.run_in(&session, "head -c 600 /dev/zero");
    client.run_in(&session, "head -c 399 /dev/zero >&2");
    // One byte is left: the command that begins with it may go past it.
    let record = client.run_in(&session, "head -c 500 /dev/zero");
    assert_eq!((&record["status"], &record["stdout_bytes"]), (&json!("exited"), &json!(500)), "{record}");
    assert_eq!(exhausted(&daemon, &mut client, &session, "output_bytes"), (1000.0, 1499.0));
    let exact = client.open(json!({"budget": {"output_bytes": 10}}));
    client.run_in(&exact, "printf 0123456789");
    assert_eq!(exhausted(&daemon, &mut client, &exact, "output_bytes"), (10.0, 10.0));
}

#[test]
fn cpu_time_ends_a_running_command() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({"budget": {"cpu_sec": 1}}));
    let record = client.run_in(&session, "while :; do :; done");
    assert_eq!(record["status"], "cpu_limit", "{record}");
    assert_eq!(record["limit"], "budget.cpu_sec", "{record}");
    assert_eq!(record["exit_code"], Value::Null, "{record}");
    let (limit, usage) = exhausted(&daemon, &mut client, &session, "cpu_sec");
    assert_eq!(limit, 1.0);
    assert!(usage >= 1.0, "{usage}");
    let history = client.ok("session.history", json!({"session": session}));
    assert_eq!(history["commands"][0]["limit"], "budget.cpu_sec", "{history}");
}

#[test]
fn cpu_time_adds_up_over_commands_and_their_children() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({"budget": {"cpu_sec": 1}}));
    // Each within the budget, and all of them not.
    let short = "sh -c 'i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done'; :";
    let refused = wait_until("the budget is used up", DEADLINE, || {
        let answer = client.request("exec.run", json!({"session": session, "cmd": short}));
        answer.get("error").cloned()
    });
    let (limit, usage) = expect_exhausted(&refused, &session, "cpu_sec");
    assert!(limit == 1.0 && usage >= 1.0, "{refused}");
}

#[test]
fn the_limit_of_the_command_is_told_where_it_is_the_smaller_one() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({"budget": {"cpu_sec": 50, "wall_s": 500}}));
    let busy = json!({"session": session, "cmd": "while :; do :; done", "limits": {"cpu_sec": 1}});
    assert_eq!(client.ok("exec.run", busy)["limit"], "cpu_sec");
    let long = json!({"session": session, "cmd": "sleep 1000", "timeout_s": 0.1});
    assert_eq!(client.ok("exec.run", long)["limit"], "timeout_s");
}

#[test]
fn the_age_of_the_session_ends_a_running_command() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({"budget": {"wall_s": 1.5}}));
    let record = client.run_in(&session, "sleep 1000");
    assert_eq!(record["status"], "timed_out", "{record}");
    assert_eq!(record["limit"], "budget.wall_s", "{record}");
    let (limit, usage) = exhausted(&daemon, &mut client, &session, "wall_s");
    assert_eq!(limit, 1.5);
    assert!(usage >= 1.5, "{usage}");
    // The session itself is there until it is closed.
    client.ok("session.info", json!({"session": session}));
}

#[test]
fn the_age_counts_while_nothing_runs() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({"budget": {"wall_s": 0.3}}));
    wait_until("it is too old", DEADLINE, || {
        let answer = client.request("exec.run", json!({"session": session, "cmd": "true"}));
        let error = answer.get("error")?;
        let (limit, usage) = expect_exhausted(error, &session, "wall_s");
        assert!(limit == 0.3 && usage >= 0.3, "{error}");
        Some(())
    });
}

#[test]
fn a_budget_is_shared_by_all_who_use_the_session() {
    let daemon = Daemon::start(&[]);
    let (mut one, mut two, mut admin) = (daemon.tcp_as(1), daemon.tcp_as(1), daemon.unix());
    let session = one.open(json!({"persist": true, "budget": {"commands": 3}}));
    for client in [&mut one, &mut two, &mut admin] {
        client.run_in(&session, "true");
    }
    drop(one);
    for client in [&mut two, &mut admin] {
        let asked = json!({"session": session, "cmd": "true"});
        expect_exhausted(&client.refused("exec.run", asked, "BUDGET_EXHAUSTED"), &session, "commands");
    }
}

#[test]
fn a_queue_does_not_help_where_the_budget_is_used_up() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    let session = client.open(json!({"budget": {"commands": 1}}));
    stand(&daemon, &mut client, json!({"session": session}));
    let asked = json!({"session": session, "cmd": "true", "queue_ms": 600_000});
    expect_exhausted(&client.refused("exec.run", asked, "BUDGET_EXHAUSTED"), &session, "commands");
}

#[test]
fn null_and_nothing_are_no_budget() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    let none = json!({"commands": null, "cpu_sec": null, "output_bytes": null, "wall_s": null});
    for budget in [Value::Null, json!({}), none] {
        let session = client.open(json!({ "budget": budget }));
        for _ in 0..3 {
            client.run_in(&session, "echo on");
        }
    }
}

#[test]
fn what_is_no_budget_is_refused() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    changes_nothing(&daemon, &ip(1), || {
        for bad in [json!([]), json!("all"), json!(5), json!({"memory_bytes": 5}), json!({"commmands": 5})] {
            let error = client.refused("session.open", json!({ "budget": bad }), "INVALID_PARAMS");
            let field = error["data"]["field"].as_str().unwrap_or_default();
            assert!(field.starts_with("budget"), "{error}");
        }
        for name in ["commands", "cpu_sec", "output_bytes", "wall_s"] {
            for bad in [json!(0), json!(-2), json!("1"), json!([1]), json!(true)] {
                let params = json!({"budget": {name: bad}});
                expect_bad(&mut client, "session.open", params, &format!("budget.{name}"));
            }
        }
        for name in ["commands", "output_bytes"] {
            expect_bad(&mut client, "session.open", json!({"budget": {name: 1.5}}), &format!("budget.{name}"));
        }
    });
}

#[test]
fn whoever_waits_in_a_session_whose_budget_is_used_up_meanwhile_is_told_at_once() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp_as(1);
    let gate = daemon.launch.folder.gate();
    let session = client.open(json!({"budget": {"commands": 2}}));
    let first = hold(&daemon, &mut client, &gate, json!({"session": session}));
    let second = enqueue(&mut client, waiting_in(&session, "echo second"));
    let third = enqueue(&mut client, waiting_in(&session, "echo third"));
    gate.open();
    expect_done(&mut client, &first);
    // There is no use in waiting for the rest of its time.
    let error = expect_refusal(&mut client, &third, "BUDGET_EXHAUSTED");
    assert_eq!(expect_exhausted(&error, &session, "commands"), (2.0, 2.0));
    assert_eq!(expect_done(&mut client, &second)["stdout"], "second\n");
}
