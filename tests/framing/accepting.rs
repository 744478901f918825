//! Accepting connections: their number, the places for the Unix socket, and running out of descriptors.

use rlimit::Resource;

use crate::support::{Conn, DEADLINE, Daemon, Launch, json, procs, wait_until};

/// A connection that was refused for want of a place.
#[track_caller]
fn expect_no_place(mut conn: Conn) {
    let answer = conn.recv();
    conn.expect_end();
    assert_eq!(answer["id"], json!(null));
    let data = &answer["error"]["data"];
    assert_eq!(data["reason"], "CAPACITY", "{answer}");
    assert_eq!(data["resource"], "connections", "{answer}");
    assert!(data["limit"].is_u64() && data["usage"].is_u64(), "{answer}");
}

/// Connections that are served.
fn served(count: usize, connect: impl Fn() -> Conn) -> Vec<Conn> {
    let mut conns: Vec<Conn> = (0..count).map(|_| connect()).collect();
    conns.iter_mut().for_each(Conn::ping);
    conns
}

#[test]
fn inv7_over_the_number_of_connections_a_new_one_gets_one_line_and_is_closed() {
    let settings = [("connections.max_connections", json!(6)), ("connections.reserved_connections", json!(2))];
    let daemon = Daemon::start(&settings);
    let mut tcp = vec![daemon.tcp()];
    wait_until("the connection of the start is forgotten", DEADLINE, || {
        (tcp[0].ok("system.stats", json!({}))["connections"]["current"] == 1).then_some(())
    });
    tcp.extend(served(3, || daemon.tcp()));
    expect_no_place(daemon.tcp());
    // The reserved ones are for the Unix socket alone.
    let unix = served(2, || daemon.unix());
    expect_no_place(daemon.unix());
    assert!(tcp[0].ok("system.stats", json!({}))["connections"]["rejected"].as_u64().unwrap() >= 2);
    // A place that is given back is given out again.
    drop(tcp.pop());
    drop(unix);
    wait_until("there is a place again", DEADLINE, || {
        let mut conn = daemon.tcp();
        let _ = conn.try_send_bytes("{\"id\":1,\"method\":\"system.ping\"}\n");
        conn.recv_or_end()?.get("result").map(|_| ())
    });
    tcp.iter_mut().for_each(Conn::ping);
}

#[test]
fn out_of_descriptors_no_client_is_forgotten_and_nothing_spins() {
    let daemon = Daemon::start(&[]);
    let mut first = daemon.tcp();
    first.ping();
    let Some((held, _)) = procs::descriptors_and_threads(daemon.runtime_pid) else {
        return crate::support::skip("this user cannot count the daemon's descriptors");
    };
    let full = held as u64 + 3;
    let (_, hard) = rlimit::getrlimit(Resource::NOFILE).unwrap();
    rlimit::prlimit(daemon.runtime_pid, Resource::NOFILE, Some((full, hard)), None).unwrap();
    let mut crowd: Vec<Conn> = (0..12).map(|_| daemon.tcp()).collect();
    let mut late = daemon.tcp();
    late.send_bytes("{\"id\":1,\"method\":\"system.ping\"}\n");

    // While it is full, who is connected is served, and the daemon sleeps most of the time.
    let share = daemon.cpu_share(&mut first);
    assert!(share < 0.6, "it took {share} of a core while it could not accept");

    // A place frees: those in the backlog are served.
    crowd.clear();
    assert_eq!(late.recv()["result"]["pong"], true);
    first.ping();
    let log = daemon.log();
    assert!(log.lines().count() < 60, "a log line for each failed accept:\n{log}");
}

#[test]
fn a_daemon_that_may_open_few_descriptors_serves_what_fits_and_answers_everybody() {
    let daemon = Launch::new().set("connections.max_connections_per_client", json!(100));
    let daemon = daemon.before_exec(|| rlimit::setrlimit(Resource::NOFILE, 64, 64)).start();
    let mut crowd: Vec<Conn> = (0..60).map(|_| daemon.tcp()).collect();
    for conn in &mut crowd {
        // One that was refused may be closed by now.
        let _ = conn.try_send_bytes("{\"id\":0,\"method\":\"system.ping\"}\n");
    }
    let (mut served, mut refused) = (0, 0);
    for conn in &mut crowd {
        let answer = conn.recv();
        if answer["id"] == 0 {
            served += 1;
        } else {
            assert_eq!(answer["error"]["data"]["reason"], "CAPACITY", "{answer}");
            assert_eq!(answer["error"]["data"]["resource"], "descriptors", "{answer}");
            conn.expect_end();
            refused += 1;
        }
    }
    assert!(served > 0 && refused > 0, "{served} were served and {refused} refused");
    drop(crowd);
    // Those who were served have left; then there is room for others.
    let mut conn = daemon.control();
    wait_until("the crowd is forgotten", DEADLINE, || {
        (conn.ok("system.stats", json!({}))["connections"]["current"] == 1).then_some(())
    });
    assert_eq!(daemon.tcp().run("echo on")["stdout"], "on\n");
}

#[test]
fn out_of_descriptors_a_command_is_refused_and_later_ones_run() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    client.run_in(&session, "true");
    let Some((held, _)) = procs::descriptors_and_threads(daemon.runtime_pid) else {
        return crate::support::skip("this user cannot count the daemon's descriptors");
    };
    let (_, hard) = rlimit::getrlimit(Resource::NOFILE).unwrap();
    rlimit::prlimit(daemon.runtime_pid, Resource::NOFILE, Some((held as u64, hard)), None).unwrap();
    for _ in 0..20 {
        let answer = client.request("exec.run", json!({"session": session, "cmd": "true"}));
        let reason = answer["error"]["data"]["reason"].as_str();
        assert!(matches!(reason, Some("SPAWN_FAILED" | "CAPACITY")), "{answer}");
        if reason == Some("SPAWN_FAILED") {
            assert_eq!(answer["error"]["data"]["errno"], "EMFILE", "{answer}");
        }
    }
    client.ping();
    rlimit::prlimit(daemon.runtime_pid, Resource::NOFILE, Some((hard, hard)), None).unwrap();
    assert_eq!(client.run_in(&session, "echo again")["stdout"], "again\n");
}

#[test]
fn every_connection_of_a_crowd_is_served() {
    let daemon = Daemon::start(&[("connections.max_connections_per_client", json!(100))]);
    let mut crowd: Vec<Conn> = (0..100).map(|_| daemon.tcp()).collect();
    for conn in &mut crowd {
        conn.send_bytes("{\"id\":0,\"method\":\"system.ping\"}\n");
    }
    for conn in &mut crowd {
        assert_eq!(conn.recv()["id"], 0);
    }
}

#[test]
fn a_crowd_that_comes_while_it_stands_still_is_served_when_it_goes_on() {
    let daemon = Daemon::start(&[("connections.max_connections_per_client", json!(100))]);
    let mut crowd = Vec::new();
    daemon.while_stopped(|| {
        for _ in 0..100 {
            let mut conn = daemon.tcp();
            conn.send_bytes("{\"id\":0,\"method\":\"system.ping\"}\n");
            crowd.push(conn);
        }
    });
    for conn in &mut crowd {
        assert_eq!(conn.recv()["id"], 0);
    }
}

#[test]
fn a_descriptor_sent_along_over_the_unix_socket_is_not_kept() {
    use std::io::{BufRead, BufReader, IoSlice};
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    let daemon = Daemon::start(&[]);
    let stream = std::os::unix::net::UnixStream::connect(daemon.launch.socket()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let descriptors = vec![stream.as_raw_fd(); 100];
    // A read stops after each message that brings descriptors, though there is more.
    daemon.while_stopped(|| {
        for _ in 0..10 {
            let line = [IoSlice::new(b"{\"id\":null,\"method\":\"system.ping\"}\n")];
            let extra = [ControlMessage::ScmRights(&descriptors)];
            sendmsg::<()>(stream.as_raw_fd(), &line, &extra, MsgFlags::empty(), None).unwrap();
        }
    });
    let answers = BufReader::new(&stream).lines().take(10);
    assert_eq!(answers.filter(|line| line.as_ref().unwrap().contains("pong")).count(), 10);
    if let Some((held, _)) = procs::descriptors_and_threads(daemon.runtime_pid) {
        assert!(held < 100, "{held} descriptors");
    }
}
