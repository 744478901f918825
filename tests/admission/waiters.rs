//! Waiters that do not get their turn: their time is over, their client or session is gone, the queue is full, the daemon
//! ends. And those that must, although it looks as if they would not.

use crate::support::{Daemon, Signal, Value, json};
use crate::view::*;

#[test]
fn whoever_has_waited_long_enough_is_told_what_they_would_have_been_at_once() {
    let daemon = one_slot(&[registered(json!({"commands": 1}))]);
    let (mut client, mut other) = (daemon.tcp_as(1), daemon.tcp_as(2));
    let session = client.open(json!({}));
    stand(&daemon, &mut client, json!({"session": session}));
    let (name, name_of_other) = (ip(1), ip(2));
    let busy = changes_nothing(&daemon, &name, || {
        client.refused("exec.run", json!({"session": session, "cmd": "true", "queue_ms": 30}), "SESSION_BUSY")
    });
    assert_eq!((&busy["data"]["limit"], &busy["data"]["usage"]), (&json!(1), &json!(1)), "{busy}");
    // Its own session is given back, which a refusal need not wait for.
    let over = client.refused("exec.run", json!({"cmd": "true", "queue_ms": 30}), "OVER_LIMIT");
    expect_over(&over, &name, &[("commands", 1, 1, 1)], true);
    let full = other.refused("exec.run", json!({"cmd": "true", "queue_ms": 30}), "CAPACITY");
    expect_capacity(&full, "commands", 1, 1);
    wait_unused(&daemon, &name_of_other);
    let stats =
        daemon.stats_show("one session is left", |stats| (stats["sessions"]["current"] == 1).then(|| stats.clone()));
    assert_eq!((&stats["commands"]["rejected"], &stats["commands"]["started"]), (&json!(3), &json!(1)), "{stats}");
}

#[test]
fn a_waiter_whose_client_is_gone_leaves_the_queue() {
    let daemon = one_slot(&[]);
    let (mut holder, mut leaver, mut stayer) = (daemon.unix(), daemon.tcp_as(2), daemon.tcp_as(3));
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut holder, &gate, json!({}));
    line_up(&mut leaver, &log, "left", 3);
    let ids = line_up(&mut stayer, &log, "stayed", 1);
    assert_eq!(usage(&mut daemon.unix(), &ip(2), "sessions"), 3);
    drop(leaver);
    wait_connections(&daemon, 2);
    // What they had claimed is given back although nothing has moved in the queue.
    wait_unused(&daemon, &ip(2));
    gate.open();
    expect_done(&mut holder, &running);
    expect_done(&mut stayer, &ids[0]);
    assert_eq!(log.words(), ["stayed0"]);
    assert_eq!(daemon.stats()["commands"]["started"], 2);
}

#[test]
fn a_waiter_whose_session_is_closed_does_not_run() {
    let daemon = one_slot(&[]);
    let mut client = daemon.tcp_as(1);
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut client, &gate, json!({}));
    let session = client.open(json!({}));
    let id = enqueue(&mut client, waiting_in(&session, &log.say("ran")));
    client.ok("session.close", json!({"session": session}));
    expect_refusal(&mut client, &id, "SESSION_NOT_FOUND");
    gate.open();
    expect_done(&mut client, &running);
    client.run("true");
    assert_eq!(log.words(), [""; 0]);
}

#[test]
fn a_session_with_a_command_waiting_is_not_idle() {
    let daemon = one_slot(&[("reaper.interval_ms", json!(20))]);
    let mut client = daemon.tcp_as(1);
    let gate = daemon.launch.folder.gate();
    let running = hold(&daemon, &mut client, &gate, json!({}));
    let session = client.open(json!({"idle_s": 0.2}));
    let id = enqueue(&mut client, waiting_in(&session, "echo in turn"));
    // Another one, as old and as short-lived, expires meanwhile.
    client.open(json!({"idle_s": 0.3}));
    daemon.stats_show("one has expired", |stats| (stats["sessions"]["reaped_idle"] == 1).then_some(()));
    gate.open();
    expect_done(&mut client, &running);
    assert_eq!(expect_done(&mut client, &id)["stdout"], "in turn\n");
}

#[test]
fn inv7_no_more_wait_than_max_queued() {
    let daemon = one_slot(&[("commands.max_queued", json!(2))]);
    let (mut client, mut other) = (daemon.tcp_as(1), daemon.tcp_as(2));
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut client, &gate, json!({}));
    let waiters = line_up(&mut client, &log, "w", 2);
    let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", waiting("true"), "CAPACITY"));
    expect_capacity(&error, "commands", 2, 2);
    gate.open();
    for id in [running].iter().chain(&waiters) {
        expect_done(&mut client, id);
    }
    assert_eq!(other.ok("exec.run", waiting("echo room"))["stdout"], "room\n");
}

#[test]
fn a_client_that_fills_the_queue_keeps_nobody_out_of_it() {
    let daemon = one_slot(&[("commands.max_queued", json!(3))]);
    let (mut greedy, mut modest) = (daemon.tcp_as(1), daemon.tcp_as(2));
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut greedy, &gate, json!({}));
    let waiters = line_up(&mut greedy, &log, "greedy", 3);
    let first = enqueue(&mut modest, waiting(&log.say("modest")));
    // The newest of the greedy one has made room, with all that it had claimed.
    let error = expect_refusal(&mut greedy, &waiters[2], "CAPACITY");
    expect_capacity(&error, "commands", 3, 3);
    assert_eq!(usage(&mut daemon.unix(), &ip(1), "sessions"), 3);
    // Two of the one and one of the other: nobody has too many any more.
    for client in [&mut greedy, &mut modest] {
        client.refused("exec.run", waiting("true"), "CAPACITY");
    }
    gate.open();
    for id in [&running, &waiters[0], &waiters[1]] {
        expect_done(&mut greedy, id);
    }
    expect_done(&mut modest, &first);
    assert_eq!(log.words(), ["greedy0", "modest", "greedy1"]);
    let rejected = daemon.stats()["commands"]["rejected"].clone();
    assert_eq!(rejected, 3);
    wait_unused(&daemon, &ip(1));
    wait_unused(&daemon, &ip(2));
}

#[test]
fn all_who_wait_for_one_key_hear_that_it_gave_way() {
    let daemon = one_slot(&[("commands.max_queued", json!(2))]);
    let (mut greedy, mut modest) = (daemon.tcp_as(1), daemon.tcp_as(2));
    let gate = daemon.launch.folder.gate();
    let running = hold(&daemon, &mut greedy, &gate, json!({}));
    let keyed = || json!({"cmd": "echo once", "queue_ms": LONG_MS, "key": "k"});
    let first = enqueue(&mut greedy, waiting("true"));
    let twice = [(); 2].map(|()| enqueue(&mut greedy, keyed()));
    let other = enqueue(&mut modest, waiting("true"));
    for id in &twice {
        expect_refusal(&mut greedy, id, "CAPACITY");
    }
    gate.open();
    expect_done(&mut greedy, &running);
    expect_done(&mut greedy, &first);
    expect_done(&mut modest, &other);
    assert_eq!(greedy.ok("exec.run", keyed())["stdout"], "once\n", "what was refused is not remembered");
}

#[test]
fn where_nobody_may_wait_the_refusal_comes_at_once() {
    let daemon = one_slot(&[("commands.max_queued", json!(0))]);
    let mut client = daemon.tcp_as(1);
    stand(&daemon, &mut client, json!({}));
    let error = changes_nothing(&daemon, &ip(1), || client.refused("exec.run", waiting("true"), "CAPACITY"));
    assert_eq!(error["data"]["resource"], "commands", "{error}");
}

#[test]
fn at_shutdown_whoever_waits_is_told() {
    let mut daemon = one_slot(&[("shutdown.drain_s", json!(3600))]);
    let mut client = daemon.tcp_as(1);
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut client, &gate, json!({}));
    let waiters = line_up(&mut client, &log, "w", 3);
    daemon.signal(Signal::SIGTERM);
    for id in &waiters {
        let error = expect_refusal(&mut client, id, "SHUTTING_DOWN");
        assert_eq!((&error["code"], &error["data"]["retryable"]), (&json!(-32040), &json!(false)), "{error}");
    }
    gate.open();
    // What ran may finish.
    expect_done(&mut client, &running);
    daemon.expect_clean_exit();
    assert_eq!(log.words(), [""; 0]);
}

#[test]
fn inv9_every_slot_comes_back_to_whoever_waits_however_a_command_ends() {
    let daemon = one_slot(&[("commands.kill_grace_ms", json!(20))]);
    let mut client = daemon.tcp_as(1);
    let endings = [
        json!({"cmd": "exit 3"}),
        json!({"cmd": "kill -KILL $$"}),
        json!({"argv": ["/no/such/program"]}),
        json!({"cmd": "sleep 1000", "timeout_s": 0.05}),
        json!({"cmd": "yes", "output_limit_bytes": 10, "on_output_limit": "kill"}),
        json!({"cmd": "true", "cwd": "/no/such/folder"}),
    ];
    // All of them wait for the one before; none would come if one kept its slot.
    let ids: Vec<Value> = endings
        .into_iter()
        .map(|mut params| {
            params["queue_ms"] = json!(600_000);
            client.ask("exec.run", params)
        })
        .collect();
    for id in &ids {
        client.answer(id);
    }
    assert_eq!(client.run("echo free")["stdout"], "free\n");
    wait_unused(&daemon, &ip(1));
}

#[test]
fn a_waiter_of_a_persistent_session_leaves_it_as_it_was() {
    let daemon = one_slot(&[]);
    let (mut holder, mut leaver, mut stayer) = (daemon.unix(), daemon.tcp_as(2), daemon.tcp_as(2));
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut holder, &gate, json!({}));
    let session = stayer.open(json!({"persist": true}));
    enqueue(&mut leaver, waiting_in(&session, &log.say("left")));
    drop(leaver);
    wait_connections(&daemon, 2);
    let id = enqueue(&mut stayer, waiting_in(&session, &log.say("stayed")));
    gate.open();
    expect_done(&mut holder, &running);
    expect_done(&mut stayer, &id);
    assert_eq!(log.words(), ["stayed"]);
    stayer.ok("session.close", json!({"session": session}));
    wait_unused(&daemon, &ip(2));
}

#[test]
fn inv9_a_waiter_that_never_will_start_gives_its_session_back() {
    let daemon = one_slot(&[]);
    let (mut holder, mut client) = (daemon.tcp_as(1), daemon.tcp_as(2));
    let gate = daemon.launch.folder.gate();
    let running = hold(&daemon, &mut holder, &gate, json!({}));
    let waits = enqueue(&mut client, waiting("true"));
    assert_eq!(usage(&mut daemon.unix(), &ip(2), "sessions"), 1);
    daemon.unix().ok("limit.set", json!({"client": ip(2), "resource": "commands", "limit": 0}));
    gate.open();
    expect_done(&mut holder, &running);
    let error = expect_refusal(&mut client, &waits, "OVER_LIMIT");
    expect_over(&error, &ip(2), &[("commands", 0, 0, 1)], false);
    wait_unused(&daemon, &ip(2));
}

#[test]
fn whoever_has_only_shut_the_writing_side_still_waits() {
    let daemon = one_slot(&[]);
    let (mut holder, mut client) = (daemon.unix(), daemon.tcp_as(2));
    let gate = daemon.launch.folder.gate();
    let running = hold(&daemon, &mut holder, &gate, json!({}));
    let id = enqueue(&mut client, waiting("echo waited"));
    client.half_close();
    // The end of what it sends is seen by now: this one came after it.
    daemon.tcp_as(3).ping();
    gate.open();
    expect_done(&mut holder, &running);
    assert_eq!(expect_done(&mut client, &id)["stdout"], "waited\n");
    client.expect_end();
}

#[test]
fn an_admin_who_drains_the_daemon_sends_the_waiters_away() {
    let mut daemon = one_slot(&[("shutdown.drain_s", json!(3600))]);
    let (mut client, mut admin) = (daemon.tcp_as(1), daemon.unix());
    let (gate, log) = (daemon.launch.folder.gate(), Log::new());
    let running = hold(&daemon, &mut client, &gate, json!({}));
    let waiters = line_up(&mut client, &log, "w", 2);
    assert_eq!(admin.ok("system.drain", json!({})), json!({"draining": true}));
    for id in &waiters {
        expect_refusal(&mut client, id, "SHUTTING_DOWN");
    }
    client.refused("exec.run", waiting("true"), "SHUTTING_DOWN");
    gate.open();
    expect_done(&mut client, &running);
    daemon.expect_clean_exit();
    assert_eq!(log.words(), [""; 0]);
}

#[test]
fn members_of_a_batch_wait_too() {
    let daemon = one_slot(&[]);
    let (mut holder, mut client) = (daemon.unix(), daemon.tcp_as(2));
    let gate = daemon.launch.folder.gate();
    let running = hold(&daemon, &mut holder, &gate, json!({}));
    let member = |id: &str, params: Value| json!({"id": id, "method": "exec.run", "params": params});
    client.send(&json!([
        member("a", waiting("echo one")),
        member("b", json!({"cmd": "true"})),
        member("c", waiting("echo three")),
    ]));
    client.ping();
    gate.open();
    expect_done(&mut holder, &running);
    let answers = client.recv();
    assert_eq!(answers[0]["result"]["stdout"], "one\n", "{answers}");
    assert_eq!(answers[1]["error"]["data"]["reason"], "CAPACITY", "{answers}");
    assert_eq!(answers[2]["result"]["stdout"], "three\n", "{answers}");
}

#[test]
fn a_waiter_starts_when_memory_comes_back_and_nothing_else_happens() {
    let daemon = Daemon::start(&[("commands.max_buffer_bytes", json!(3 << 20))]);
    let (mut reader, mut client) = (daemon.tcp_as(2), daemon.tcp_as(3));
    reader.shrink_receive_buffer();
    // Its command ends, and its output fills the buffers until somebody reads it.
    let cmd = "head -c 8000000 /dev/zero | tr '\\0' a";
    let unread = reader.ask("exec.run", json!({"cmd": cmd, "output_keep": "head"}));
    daemon.stats_show("it has ended", |stats| (stats["commands"]["finished"] == 1).then_some(()));
    let id = enqueue(&mut client, waiting("echo waited"));
    reader.widen_receive_buffer();
    reader.answer(&unread);
    let answer = client.answer(&id);
    match answer.get("error") {
        // It may have been told at once that there is no room: a slot was free, and it is slots that one waits for.
        Some(error) => assert_eq!(error["data"]["resource"], "buffer_bytes", "{answer}"),
        None => assert_eq!(answer["result"]["stdout"], "waited\n", "{answer}"),
    }
    assert_eq!(client.run("echo room")["stdout"], "room\n");
}

/// Where the command runs that holds the slot: in a session of its own, or in one that outlives it.
fn rooms(daemon: &Daemon) -> [Value; 2] {
    let session = daemon.unix().open(json!({"persist": true}));
    [json!({}), json!({"session": session})]
}

// In these, nobody asks for anything after the wait has begun: the end of the command alone must start the waiter.

#[test]
fn whoever_waits_gets_the_slot_of_a_client_that_went_away() {
    let daemon = one_slot(&[]);
    for room in rooms(&daemon) {
        let (mut holder, mut client) = (daemon.unix(), daemon.tcp_as(2));
        stand(&daemon, &mut holder, room);
        let id = enqueue(&mut client, waiting("echo waited"));
        drop(holder);
        assert_eq!(expect_done(&mut client, &id)["stdout"], "waited\n");
    }
}

#[test]
fn whoever_waits_gets_the_slot_of_a_command_that_finished_for_nobody() {
    let daemon = one_slot(&[]);
    for mut room in rooms(&daemon) {
        let (mut holder, mut client) = (daemon.unix(), daemon.tcp_as(2));
        let gate = daemon.launch.folder.gate();
        room["on_disconnect"] = json!("finish");
        hold(&daemon, &mut holder, &gate, room);
        drop(holder);
        wait_connections(&daemon, 1);
        let id = enqueue(&mut client, waiting("echo waited"));
        gate.open();
        assert_eq!(expect_done(&mut client, &id)["stdout"], "waited\n");
    }
}

#[test]
fn whoever_waits_gets_the_slot_of_a_notification() {
    let daemon = one_slot(&[]);
    for mut room in rooms(&daemon) {
        let (mut holder, mut client) = (daemon.unix(), daemon.tcp_as(2));
        let gate = daemon.launch.folder.gate();
        room["cmd"] = json!(gate.wait());
        holder.send(&json!({"method": "exec.run", "params": room}));
        daemon.wait_running(1);
        let id = enqueue(&mut client, waiting("echo waited"));
        gate.open();
        assert_eq!(expect_done(&mut client, &id)["stdout"], "waited\n");
    }
}

#[test]
fn whoever_waits_gets_the_slot_of_a_session_that_is_closed() {
    let daemon = one_slot(&[]);
    let (mut admin, mut client) = (daemon.unix(), daemon.tcp_as(2));
    let session = admin.open(json!({"persist": true}));
    admin.send(&json!({"method": "exec.run", "params": {"session": session, "cmd": STANDING}}));
    daemon.wait_running(1);
    let id = enqueue(&mut client, waiting("echo waited"));
    admin.send(&json!({"method": "session.close", "params": {"session": session}}));
    assert_eq!(expect_done(&mut client, &id)["stdout"], "waited\n");
}
