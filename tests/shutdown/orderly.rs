//! SIGTERM and SIGINT: what runs may finish, what does not is ended, and the exit code is 0.

use crate::support::{Conn, DEADLINE, Daemon, Signal, Value, json, wait_until};
use crate::{TREE, start_trees};

/// Waits until new work is refused.
#[track_caller]
fn wait_draining(client: &mut Conn) {
    wait_until("it is draining", DEADLINE, || {
        let answer = client.request("session.open", json!({}));
        match answer.get("error") {
            Some(error) => {
                assert_eq!(error["data"]["reason"], "SHUTTING_DOWN", "{answer}");
                Some(())
            }
            None => {
                client.request("session.close", json!({"session": answer["result"]["session"]}));
                None
            }
        }
    });
}

#[test]
fn inv15_on_sigterm_an_idle_daemon_exits_at_once() {
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(3600))]);
    let mut client = daemon.tcp();
    client.open(json!({}));
    client.open(json!({"persist": true}));
    daemon.terminate();
    client.expect_end();
    assert!(Conn::tcp(daemon.address.unwrap(), &Default::default()).is_err(), "the port is given back");
}

#[test]
fn on_sigint_it_does_the_same() {
    let mut daemon = Daemon::start(&[]);
    daemon.signal(Signal::SIGINT);
    daemon.expect_clean_exit();
}

#[test]
fn on_sighup_it_goes_on_and_drops_nothing() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let session = client.open(json!({}));
    let run = client.ask("exec.run", json!({"session": session, "cmd": gate.wait()}));
    daemon.wait_running(1);
    for _ in 0..3 {
        daemon.signal(Signal::SIGHUP);
        client.ping();
    }
    gate.open();
    assert_eq!(client.answer(&run)["result"]["status"], "exited");
    assert_eq!(client.run_in(&session, "echo on")["stdout"], "on\n");
}

#[test]
fn what_stands_still_is_ended_too() {
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(0.1))]);
    let mut client = daemon.tcp();
    let run = client.ask("exec.run", json!({"cmd": "setsid sh -c 'kill -STOP $$; sleep 1000' & kill -STOP $$"}));
    wait_until("both stand still", DEADLINE, || {
        (daemon.commands().iter().filter(|one| one.state == 'T').count() == 2).then_some(())
    });
    daemon.signal(Signal::SIGTERM);
    assert_eq!(client.answer(&run)["result"]["status"], "shutdown");
    daemon.expect_clean_exit();
}

#[test]
fn a_command_that_ends_in_time_is_left_alone_and_its_record_delivered() {
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(3600))]);
    let mut client = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let run = client.ask("exec.run", json!({"cmd": format!("{}; echo in time", gate.wait())}));
    daemon.wait_running(1);
    daemon.signal(Signal::SIGTERM);
    wait_draining(&mut client);
    gate.open();
    let answer = client.answer(&run);
    assert_eq!(answer["result"]["status"], "exited");
    assert_eq!(answer["result"]["stdout"], "in time\n");
    client.expect_end();
    daemon.expect_clean_exit();
}

#[test]
fn a_command_that_does_not_end_in_time_is_ended_and_its_record_delivered() {
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(0.3))]);
    let mut client = daemon.tcp();
    let mut other = daemon.unix();
    let deaf = client.ask("exec.run", json!({"cmd": "echo before; trap '' TERM; sleep 1000"}));
    let plain = other.ask("exec.run", json!({"cmd": "sleep 1000"}));
    daemon.wait_running(2);
    daemon.signal(Signal::SIGTERM);
    for answer in [client.answer(&deaf), other.answer(&plain)] {
        assert_eq!(answer["result"]["status"], "shutdown", "{answer}");
        assert_eq!(answer["result"]["exit_code"], Value::Null);
        assert_eq!(answer["result"]["limit"], Value::Null);
    }
    client.expect_end();
    other.expect_end();
    daemon.expect_clean_exit();
}

#[test]
fn a_second_signal_cuts_the_wait_short() {
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(3600))]);
        let mut client = daemon.tcp();
        let run = client.ask("exec.run", json!({"cmd": TREE}));
        daemon.wait_running(1);
        daemon.signal(Signal::SIGTERM);
        wait_draining(&mut client);
        daemon.signal(second);
        assert_eq!(client.answer(&run)["result"]["status"], "shutdown");
        daemon.expect_clean_exit();
    }
}

#[test]
fn inv15_many_deaf_trees_are_gone_when_it_exits() {
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(0.1))]);
    let mut client = daemon.tcp();
    let runs = start_trees(&daemon, &mut client, 6);
    daemon.signal(Signal::SIGTERM);
    for run in runs {
        assert_eq!(client.answer(&run)["result"]["status"], "shutdown");
    }
    daemon.expect_clean_exit();
    assert!(daemon.remains().is_empty());
}

#[test]
fn while_draining_new_work_is_refused_and_the_control_lane_answers() {
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(3600))]);
    let mut client = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let idle = client.open(json!({}));
    let busy = client.open(json!({}));
    let run = client.ask("exec.run", json!({"session": busy, "cmd": gate.wait()}));
    daemon.wait_running(1);
    daemon.signal(Signal::SIGTERM);
    wait_draining(&mut client);
    client.refused("exec.run", json!({"cmd": "true"}), "SHUTTING_DOWN");
    client.refused("exec.run", json!({"session": idle, "cmd": "true"}), "SHUTTING_DOWN");
    client.ping();
    client.ok("system.info", json!({}));
    assert_eq!(client.ok("system.stats", json!({}))["commands"]["running"], 1);
    assert_eq!(client.ok("session.info", json!({"session": busy}))["busy"], true);
    client.ok("session.list", json!({}));
    // A session may be closed by hand, and its command with it.
    client.ok("session.close", json!({"session": busy}));
    assert_eq!(client.answer(&run)["result"]["status"], "cancelled");
    daemon.expect_clean_exit();
}

#[test]
fn while_draining_no_new_connection_is_served() {
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(3600))]);
    let mut client = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let run = client.ask("exec.run", json!({"cmd": gate.wait()}));
    daemon.wait_running(1);
    daemon.signal(Signal::SIGTERM);
    wait_draining(&mut client);
    // Refused, or taken by the kernel alone and never answered.
    let late = Conn::tcp(daemon.address.unwrap(), &Default::default());
    let late = late.map(|mut conn| {
        let _ = conn.try_send_bytes("{\"id\":1,\"method\":\"system.ping\"}\n");
        conn
    });
    client.ping();
    gate.open();
    assert_eq!(client.answer(&run)["result"]["status"], "exited");
    if let Ok(mut conn) = late {
        conn.expect_end();
    }
    daemon.expect_clean_exit();
}

#[test]
fn a_large_record_is_still_delivered_whole() {
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(3600))]);
    let mut client = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let cmd = format!("{}; head -c 4000000 /dev/zero | tr '\\0' x", gate.wait());
    let run = client.ask("exec.run", json!({"cmd": cmd}));
    daemon.wait_running(1);
    daemon.signal(Signal::SIGTERM);
    wait_draining(&mut client);
    gate.open();
    assert_eq!(client.answer(&run)["result"]["stdout"].as_str().map(str::len), Some(4_000_000));
    daemon.expect_clean_exit();
}

#[test]
fn a_client_that_reads_nothing_does_not_hold_up_the_end() {
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(0.3))]);
    let mut client = daemon.tcp();
    client.shrink_receive_buffer();
    client.ask("exec.run", json!({"cmd": "head -c 4000000 /dev/zero | tr '\\0' x; exec sleep 1000"}));
    daemon.wait_running(1);
    daemon.terminate();
}

#[test]
fn workspaces_are_removed_at_the_end() {
    let mut daemon = Daemon::start(&[("children.workspaces", json!("w"))]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"persist": true}));
    client.run_in(&session, "mkdir a; echo x > a/b");
    daemon.terminate();
    let left: Vec<_> =
        std::fs::read_dir(daemon.launch.folder.join("w")).unwrap().map(|one| one.unwrap().path()).collect();
    assert!(left.iter().all(|path| !path.is_dir()), "{left:?}");
}
