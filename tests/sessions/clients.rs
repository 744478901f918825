//! Whose a session is: a client sees and touches its own; an admin sees all.

use crate::support::{Conn, Daemon, json};

/// The refusal of each method that takes a session, its id made neutral.
fn refusals(client: &mut Conn, session: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for method in ["session.info", "session.history", "session.close"] {
        let error = client.refused(method, json!({"session": session}), "SESSION_NOT_FOUND");
        texts.push(error.to_string().replace(session, "ID"));
    }
    let error = client.refused("exec.run", json!({"session": session, "cmd": "true"}), "SESSION_NOT_FOUND");
    texts.push(error.to_string().replace(session, "ID"));
    texts
}

#[test]
fn a_session_of_another_client_is_answered_like_one_that_never_was() {
    let daemon = Daemon::start(&[]);
    let mut owner = daemon.unix();
    let mut stranger = daemon.tcp();
    let session = owner.open(json!({}));
    let foreign = refusals(&mut stranger, &session);
    let never = refusals(&mut stranger, "no-such-session");
    assert_eq!(foreign, never);
    assert_eq!(stranger.ok("session.list", json!({})), json!({"sessions": []}));
    assert_eq!(owner.run_in(&session, "echo mine")["stdout"], "mine\n");
}

#[test]
fn a_client_over_tcp_is_its_address_and_over_a_unix_socket_its_uid() {
    let daemon = Daemon::start(&[]);
    let mut tcp = daemon.tcp();
    let session = tcp.open(json!({}));
    assert_eq!(tcp.ok("session.info", json!({"session": session}))["client"], "ip:127.0.0.1");
    let mut unix = daemon.unix();
    let session = unix.open(json!({}));
    let uid = nix::unistd::geteuid();
    assert_eq!(unix.ok("session.info", json!({"session": session}))["client"], format!("uid:{uid}"));
}

#[test]
fn two_connections_of_one_client_share_its_sessions() {
    let daemon = Daemon::start(&[]);
    let mut one = daemon.tcp();
    let mut two = daemon.tcp();
    let session = one.open(json!({}));
    assert_eq!(two.run_in(&session, "echo shared")["stdout"], "shared\n");
    assert_eq!(two.ok("session.list", json!({}))["sessions"].as_array().unwrap().len(), 1);
    two.ok("session.close", json!({"session": session}));
    one.refused("session.info", json!({"session": session}), "SESSION_NOT_FOUND");
}

#[test]
fn an_admin_sees_and_touches_the_sessions_of_all() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let mut admin = daemon.unix();
    let session = client.open(json!({"name": "theirs"}));
    let list = admin.ok("session.list", json!({}));
    assert_eq!(list["sessions"][0]["name"], "theirs");
    assert_eq!(list["sessions"][0]["client"], "ip:127.0.0.1");
    admin.ok("session.info", json!({"session": session}));
    admin.ok("session.close", json!({"session": session}));
    client.refused("session.info", json!({"session": session}), "SESSION_NOT_FOUND");
}

#[test]
fn a_stranger_cannot_tell_a_closed_session_from_an_open_one() {
    let daemon = Daemon::start(&[]);
    let mut owner = daemon.unix();
    let mut stranger = daemon.tcp();
    let sessions: Vec<String> = (0..3).map(|_| owner.open(json!({}))).collect();
    owner.ok("session.close", json!({"session": sessions[0]}));
    let closed = refusals(&mut stranger, &sessions[0]);
    let open = refusals(&mut stranger, &sessions[1]);
    assert_eq!(closed, open);
}
