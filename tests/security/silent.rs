//! Connections that say nothing, and one client that opens all there are: neither keeps others out.

use crate::support::*;

/// Whether a new connection is served, or else why not: one line, and the end.
#[track_caller]
fn served(mut conn: Conn) -> Result<Conn, Value> {
    // Who is refused may have been closed by now.
    let _ = conn.try_send_bytes("{\"id\":1,\"method\":\"system.ping\"}\n");
    let answer = conn.recv();
    if answer["id"] == 1 {
        return Ok(conn);
    }
    conn.expect_end();
    Err(answer["error"]["data"].clone())
}

#[track_caller]
fn fill(count: usize, connect: impl Fn() -> Conn) -> Vec<Conn> {
    (0..count).map(|_| served(connect()).unwrap()).collect()
}

#[test]
fn a_connection_that_never_asks_for_anything_is_closed() {
    let strict =
        Daemon::start(&[("connections.first_line_s", json!(0.5)), ("connections.line_timeout_s", json!(3600))]);
    let lax = Daemon::start(&[]);
    let mut polite = served(strict.tcp()).unwrap();
    // Control: where there is a time enough, nothing closes a connection that is silent.
    let mut silent_at_lax = lax.tcp();

    let mut silent = [strict.tcp(), strict.unix()];
    let mut half_a_line = strict.tcp();
    half_a_line.send_bytes("{\"id\":1,\"method\":");
    let mut blank = strict.tcp();
    wait_until("all that never asked are closed", DEADLINE, || {
        // A blank line is no request, and neither keeps the connection young.
        let _ = blank.try_send_bytes("\n");
        let mut all = silent.iter_mut().chain([&mut half_a_line, &mut blank]);
        all.all(Conn::is_closed).then_some(())
    });

    assert!(!silent_at_lax.is_closed());
    drop(served(silent_at_lax).unwrap());
    // Who has asked once may be silent for as long as he likes.
    polite.ping();
    assert!(strict.log().contains("it has not sent a request in time"), "{}", strict.log());
}

#[test]
fn the_time_for_the_first_request_follows_a_reload() {
    let launch = Launch::new().with_config(&json!({"connections": {"first_line_s": 3600}}));
    let launch = launch.without("connections.first_line_s");
    let daemon = launch.start();
    let mut silent = daemon.tcp();
    std::fs::write(daemon.launch.config(), json!({"connections": {"first_line_s": 0.2}}).to_string()).unwrap();
    daemon.signal(Signal::SIGHUP);
    wait_until("it is closed", DEADLINE, || silent.is_closed().then_some(()));
}

#[test]
fn inv7_one_client_does_not_take_every_connection() {
    // Control: without a bound of its own one client leaves nothing to another.
    let open =
        Daemon::start(&[("connections.max_connections", json!(12)), ("connections.reserved_connections", json!(4))]);
    wait_connections(&open, 0);
    let taken = fill(8, || open.tcp_as(1));
    assert_eq!(served(open.tcp_as(2)).err().unwrap()["resource"], "connections");
    drop(taken);

    let daemon = Daemon::start(&[("connections.max_connections_per_client", json!(5))]);
    wait_connections(&daemon, 0);
    let mut taken = fill(5, || daemon.tcp_as(1));
    let expected = json!({"reason": "CAPACITY", "retryable": true, "resource": "connections", "limit": 5, "usage": 5});
    for _ in 0..3 {
        assert_eq!(served(daemon.tcp_as(1)).err(), Some(expected.clone()));
    }
    let mut others = fill(5, || daemon.tcp_as(2));
    others.extend(fill(4, || daemon.unix()));
    let stats = others[0].ok("system.stats", json!({}));
    assert_eq!(stats["connections"]["rejected"], 3, "{stats}");
    // A place that is given back is given out again, to whoever comes.
    taken.pop();
    wait_connections(&daemon, 13);
    taken.push(served(daemon.tcp_as(1)).unwrap());
    taken.iter_mut().chain(&mut others).for_each(Conn::ping);
}

/// Waits until so many connections are open beside those that look.
#[track_caller]
fn wait_connections(daemon: &Daemon, count: u64) {
    let mut look = wait_until("one can look", DEADLINE, || served(daemon.unix()).ok());
    wait_until("so many connections are open", DEADLINE, || {
        (look.ok("system.stats", json!({}))["connections"]["current"] == count + 1).then_some(())
    });
}
