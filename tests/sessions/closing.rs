//! How sessions end: by request, with their connection, or not at all when they persist.

use crate::support::{DEADLINE, Daemon, json, wait_until};

/// A tree that does all it can to get away: a child, one in a session of its own, one orphaned twice over.
const TREE: &str = "sleep 1000 & setsid sleep 1000 & (setsid sh -c 'sleep 1000 & sleep 1000' &) ; \
                    (nohup setsid sleep 1000 >/dev/null 2>&1 &) ; trap '' TERM; sleep 1000";

/// Waits until the whole of [`TREE`] runs.
#[track_caller]
fn wait_tree(daemon: &Daemon) {
    wait_until("the tree runs", DEADLINE, || {
        let sleepers = daemon.commands().iter().filter(|one| one.command.starts_with("sleep 1000")).count();
        (sleepers == 6).then_some(())
    });
}

#[test]
fn inv15_closing_kills_the_tree_and_answers_when_it_is_gone() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let mut closer = daemon.tcp();
    let session = client.open(json!({}));
    let run = client.ask("exec.run", json!({"session": session, "cmd": TREE}));
    wait_tree(&daemon);
    let closed = closer.ok("session.close", json!({"session": session}));
    let left = daemon.commands();
    assert!(left.is_empty(), "closed, and still there: {left:?}");
    assert_eq!(closed["commands"], 1);
    let record = client.answer(&run);
    assert_eq!(record["result"]["status"], "cancelled", "{record}");
    assert_eq!(record["result"]["exit_code"], json!(null));
    assert_eq!(record["result"]["limit"], json!(null));
}

#[test]
fn inv15_closing_ends_what_stopped_itself() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    let cmd = "setsid sh -c 'kill -STOP $$; sleep 1000' & sleep 1000 & kill -STOP $$";
    let run = client.ask("exec.run", json!({"session": session, "cmd": cmd}));
    wait_until("both stand still", DEADLINE, || {
        (daemon.commands().iter().filter(|one| one.state == 'T').count() == 2).then_some(())
    });
    client.ok("session.close", json!({"session": session}));
    assert!(daemon.commands().is_empty());
    assert_eq!(client.answer(&run)["result"]["status"], "cancelled");
}

#[test]
fn inv15_closing_ends_chains_that_fork_again_and_again() {
    let daemon = Daemon::start(&[("limits.limit_nproc", json!(1000))]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    // Each link starts the next in a session of its own and exits: no process lives long enough to be aimed at.
    let chain = "sleep 0.01; setsid sh -c \"$CHAIN\" & exit 0";
    let cmd = "for i in 1 2 3; do sh -c \"$CHAIN\" & done; sleep 1000";
    let run = client.ask("exec.run", json!({"session": session, "cmd": cmd, "env": {"CHAIN": chain}}));
    wait_until("the chains run", DEADLINE, || (daemon.commands().len() >= 5).then_some(()));
    client.ok("session.close", json!({"session": session}));
    for _ in 0..10 {
        let left = daemon.commands();
        assert!(left.is_empty(), "closed, and still there: {left:?}");
    }
    assert_eq!(client.answer(&run)["result"]["status"], "cancelled");
}

#[test]
fn inv4_a_command_ended_by_the_close_of_its_session_has_one_record() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    let run = client.ask("exec.run", json!({"session": session, "cmd": "echo before; sleep 1000"}));
    daemon.wait_running(1);
    let close = client.ask("session.close", json!({"session": session}));
    let record = client.answer(&run);
    assert_eq!(record["result"]["status"], "cancelled");
    assert_eq!(client.answer(&close)["result"]["closed"], true);
    client.ping();
    assert_eq!(daemon.stats()["commands"]["by_status"]["cancelled"], 1);
}

#[test]
fn a_second_close_while_the_first_is_at_work_is_answered() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    let run = client.ask("exec.run", json!({"session": session, "cmd": "trap '' TERM; sleep 1000"}));
    daemon.wait_running(1);
    let closes = [0; 3].map(|_| client.ask("session.close", json!({"session": session})));
    let answers = closes.map(|id| client.answer(&id));
    assert!(answers.iter().any(|answer| answer["result"]["closed"] == true), "{answers:?}");
    for answer in answers {
        let is_not_found = answer["error"]["data"]["reason"] == "SESSION_NOT_FOUND";
        assert!(answer["result"]["closed"] == true || is_not_found, "{answer}");
    }
    assert_eq!(client.answer(&run)["result"]["status"], "cancelled");
}

#[test]
fn inv15_a_session_dies_with_the_connection_that_opened_it() {
    let daemon = Daemon::start(&[]);
    let mut keeper = daemon.tcp();
    let mut opener = daemon.tcp();
    let session = opener.open(json!({}));
    // A command of another connection in it goes down with it.
    let run = keeper.ask("exec.run", json!({"session": session, "cmd": TREE}));
    wait_tree(&daemon);
    opener.reset();
    assert_eq!(keeper.answer(&run)["result"]["status"], "cancelled");
    keeper.refused("session.info", json!({"session": session}), "SESSION_NOT_FOUND");
    wait_until("nothing of it is left", DEADLINE, || daemon.commands().is_empty().then_some(()));
}

#[test]
fn a_session_dies_with_a_connection_closed_in_good_order() {
    let daemon = Daemon::start(&[]);
    for connect in [Daemon::tcp, Daemon::unix] {
        let mut client = connect(&daemon);
        client.open(json!({}));
        drop(client);
        daemon.stats_show("it is closed", |stats| (stats["sessions"]["current"] == 0).then_some(()));
    }
}

#[test]
fn a_persistent_session_outlives_its_connection() {
    let daemon = Daemon::start(&[]);
    let mut first = daemon.tcp();
    let opened = first.ok("session.open", json!({"persist": true, "name": "lasting", "env": {"A": "kept"}}));
    let session = opened["session"].as_str().unwrap();
    first.run_in(session, "echo text > file");
    first.reset();
    daemon.stats_show("the connection is gone", |stats| (stats["connections"]["current"] == 1).then_some(()));
    let mut second = daemon.tcp();
    let info = second.ok("session.info", json!({"session": session}));
    assert_eq!(info["persist"], true);
    assert_eq!(info["name"], "lasting");
    assert_eq!(info["commands"], 1);
    assert_eq!(second.run_in(session, "echo $A; cat file")["stdout"], "kept\ntext\n");
    second.ok("session.close", json!({"session": session}));
}

#[test]
fn a_command_in_a_persistent_session_is_cancelled_with_its_connection_and_the_session_stays() {
    let daemon = Daemon::start(&[]);
    let mut first = daemon.tcp();
    let session = first.open(json!({"persist": true}));
    first.ask("exec.run", json!({"session": session, "cmd": TREE}));
    wait_tree(&daemon);
    first.reset();
    daemon.stats_show("it is cancelled", |stats| {
        (stats["commands"]["by_status"]["cancelled"] == 1 && stats["commands"]["running"] == 0).then_some(())
    });
    assert!(daemon.commands().is_empty());
    assert_eq!(daemon.tcp().run_in(&session, "echo on")["stdout"], "on\n");
}

#[test]
fn a_command_told_to_finish_keeps_its_session_until_then() {
    let daemon = Daemon::start(&[]);
    let gate = daemon.launch.folder.gate();
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    client.ask("exec.run", json!({"session": session, "cmd": gate.wait(), "on_disconnect": "finish"}));
    daemon.wait_running(1);
    client.reset();
    daemon.stats_show("the connection is gone", |stats| (stats["connections"]["current"] == 1).then_some(()));
    gate.open();
    daemon.stats_show("it has ended by itself, and its session is closed", |stats| {
        (stats["commands"]["by_status"]["exited"] == 1 && stats["sessions"]["current"] == 0).then_some(())
    });
}

#[test]
fn close_and_run_in_one_write_leave_nothing_behind() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for _ in 0..50 {
        let session = client.open(json!({}));
        let run = json!({"id": "run", "method": "exec.run", "params": {"session": session, "cmd": "sleep 1000"}});
        let close = json!({"id": "close", "method": "session.close", "params": {"session": session}});
        client.send_bytes(format!("{run}\n{close}\n"));
        assert_eq!(client.answer(&json!("close"))["result"]["closed"], true);
        let run = client.answer(&json!("run"));
        let is_refused = run["error"]["data"]["reason"] == "SESSION_NOT_FOUND";
        assert!(is_refused || run["result"]["status"] == "cancelled", "{run}");
    }
    assert!(daemon.commands().is_empty());
}

#[test]
fn many_sessions_with_running_trees_go_with_their_connection() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for _ in 0..8 {
        let session = client.open(json!({}));
        client.ask("exec.run", json!({"session": session, "cmd": "setsid sleep 1000 & sleep 1000"}));
    }
    daemon.wait_running(8);
    client.reset();
    daemon.stats_show("all are cancelled and closed", |stats| {
        (stats["commands"]["by_status"]["cancelled"] == 8 && stats["sessions"]["current"] == 0).then_some(())
    });
    assert!(daemon.commands().is_empty());
}
