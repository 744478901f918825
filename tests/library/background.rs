//! Background commands, streams and terminals by `cofferdam::Client`.

use std::time::Duration;

use cofferdam::Client;
use cofferdam::client::{ClientError, OpenSession, OutputStream, Pty, Run, Status};

use crate::exec_support::{living, mark, wait_gone, wait_living};
use crate::support::{DEADLINE, Daemon};

#[track_caller]
fn client(daemon: &Daemon) -> (Client, String) {
    let mut client = Client::connect(daemon.address.unwrap()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    let session = client.open(&OpenSession::default()).unwrap().session;
    (client, session)
}

#[track_caller]
fn reason<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> String {
    let error = outcome.expect_err("it must be refused");
    error.refused().unwrap_or_else(|| panic!("not refused but: {error}")).reason.clone()
}

#[test]
fn a_command_is_started_fed_read_and_waited_for() {
    let daemon = Daemon::start(&[]);
    let (mut client, session) = client(&daemon);
    let ask = Run { stdin_open: Some(true), ..Run::cmd("cat; exit 5").in_session(&session) };

    let started = client.start(&ask).unwrap();
    assert!(started.session == session && started.pid.is_some_and(|pid| pid > 1), "{started:?}");
    assert_eq!(client.wait(&started.exec, Some(Duration::ZERO)).unwrap(), None);
    assert_eq!(client.write(&started.exec, b"text \xff").unwrap(), 6);
    let part = client.read(&started.exec, OutputStream::Stdout, 0, None, DEADLINE).unwrap();
    assert_eq!((part.bytes().unwrap().as_ref(), part.next_offset, part.eof), (b"text \xff".as_slice(), 6, false));
    let listed = client.list(Some(&session)).unwrap();
    assert_eq!((listed.len(), listed[0].cmd.as_deref()), (1, Some("cat; exit 5")));
    assert_eq!(listed[0].stdout_bytes, 6);
    client.write_eof(&started.exec).unwrap();

    let record = client.wait(&started.exec, None).unwrap().unwrap();
    assert_eq!((record.exit_code, record.stdout_kept().unwrap()), (Some(5), b"text \xff".to_vec()));
    assert!(client.list(None).unwrap().is_empty());
    assert_eq!(reason(client.kill(&started.exec)), "EXEC_FINISHED");
}

#[test]
fn a_command_is_signalled_and_killed() {
    let daemon = Daemon::start(&[]);
    let (mut client, session) = client(&daemon);

    let started = client.start(&Run::argv(["sleep", "60"]).in_session(&session)).unwrap();
    client.signal(&started.exec, "usr1").unwrap();
    let record = client.wait(&started.exec, None).unwrap().unwrap();
    assert_eq!((record.status, record.signal.as_deref()), (Status::Signaled, Some("SIGUSR1")));

    let started = client.start(&Run::argv(["sleep", "60"]).in_session(&session)).unwrap();
    client.kill(&started.exec).unwrap();
    assert_eq!(client.wait(&started.exec, None).unwrap().unwrap().status, Status::Cancelled);
    assert_eq!(reason(client.signal("e999", "TERM")), "EXEC_NOT_FOUND");
}

#[test]
fn a_terminal_is_resized() {
    let daemon = Daemon::start(&[]);
    let (mut client, session) = client(&daemon);
    let pty = Pty { cols: 80, rows: 24, term: Some("vt100".into()) };
    let ask = Run { pty: Some(pty), ..Run::cmd("read line; stty size; echo $TERM").in_session(session) };
    let started = client.start(&ask).unwrap();

    client.resize(&started.exec, 100, 50).unwrap();
    client.write(&started.exec, b"\n").unwrap();

    let record = client.wait(&started.exec, None).unwrap().unwrap();
    assert_eq!(record.stdout.as_deref(), Some("\r\n50 100\r\nvt100\r\n"));
}

#[test]
fn pieces_are_iterated_over_to_the_record() {
    let daemon = Daemon::start(&[]);
    let (mut client, _) = client(&daemon);

    let mut pieces = client.pieces(&Run::cmd("seq 1 100000; exit 3")).unwrap();
    let mut all = Vec::new();
    for piece in &mut pieces {
        let piece = piece.unwrap();
        assert_eq!(piece.offset, all.len() as u64);
        all.extend_from_slice(&piece.bytes().unwrap());
    }
    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert!(all == expected.as_bytes(), "the output differs");
    assert_eq!(pieces.record().unwrap().exit_code, Some(3));
    drop(pieces);

    let mut refused = client.pieces(&Run::argv(["/nope"])).unwrap();
    assert_eq!(reason(refused.next().unwrap().map(drop)), "SPAWN_FAILED");
    assert!(refused.next().is_none() && refused.record().is_none());
}

#[test]
fn pieces_of_a_started_command_are_followed() {
    let daemon = Daemon::start(&[]);
    let (mut client, session) = client(&daemon);
    let ask =
        Run { stream: Some(true), ..Run::cmd("for n in 1 2 3; do echo $n; sleep 0.05; done").in_session(session) };

    let started = client.start(&ask).unwrap();
    let mut pieces = client.follow(&started).unwrap();
    let all: Vec<u8> = (&mut pieces).flat_map(|piece| piece.unwrap().bytes().unwrap().into_owned()).collect();

    assert_eq!((all.as_slice(), pieces.record().unwrap().stdout_bytes), (b"1\n2\n3\n".as_slice(), 6));
}

#[test]
fn an_iterator_that_is_dropped_ends_its_command_and_the_connection_goes_on() {
    let daemon = Daemon::start(&[]);
    let (mut client, _) = client(&daemon);
    let mark = mark();

    let mut pieces = client.pieces(&Run::cmd(format!("sleep {mark} & exec yes {mark}"))).unwrap();
    pieces.next().unwrap().unwrap();
    wait_living(&mark, 2);
    drop(pieces);

    client.ping().unwrap();
    wait_gone(&mark);
    assert!(living(&mark).is_empty());
    assert!(client.run(&Run::cmd("true")).unwrap().success());
}
