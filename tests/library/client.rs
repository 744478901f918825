//! `cofferdam::Client` at a real daemon, over TCP and over a Unix socket.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use cofferdam::Client;
use cofferdam::client::{
    Budget, ClientError, EncodingAsked, LimitSet, OnOutputLimit, OpenSession, OutputKeep, OutputStream, Record, Run,
    Status,
};

use crate::exec_support::{living, mark, wait_gone};
use crate::support::{DEADLINE, Daemon, json};

/// A client over TCP whose every wait has a deadline.
#[track_caller]
fn client(daemon: &Daemon) -> Client {
    let mut client = Client::connect(daemon.address.unwrap()).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client
}

#[track_caller]
fn run(client: &mut Client, run: Run) -> Record {
    client.run(&run).unwrap_or_else(|error| panic!("{error}: {run:?}"))
}

/// The reason of a refusal.
#[track_caller]
fn reason<T: std::fmt::Debug>(outcome: Result<T, ClientError>) -> String {
    let error = outcome.expect_err("it must be refused");
    error.refused().unwrap_or_else(|| panic!("not refused but: {error}")).reason.clone()
}

#[test]
fn a_client_runs_a_command_over_tcp() {
    let daemon = Daemon::start(&[]);
    let mut client = client(&daemon);

    let record = run(&mut client, Run::cmd("echo hi; echo ho >&2; exit 3"));

    assert_eq!((record.status, record.exit_code, record.success()), (Status::Exited, Some(3), false));
    assert_eq!((record.stdout_kept().unwrap(), record.stderr_kept().unwrap()), (b"hi\n".to_vec(), b"ho\n".to_vec()));
    assert!(record.wall_ms > 0.0 && record.spawn_ms > 0.0 && record.usage.max_rss_bytes > 0);
}

#[test]
fn a_client_runs_a_command_over_a_unix_socket() {
    let daemon = Daemon::start(&[]);
    let mut client = Client::connect_unix(daemon.launch.socket()).unwrap();
    assert!(run(&mut client, Run::argv(["true"])).success());
    drop(client);

    let mut client = Client::dial(&format!("unix:{}", daemon.launch.socket().display())).unwrap();
    client.ping().unwrap();
}

#[test]
fn a_client_opens_uses_and_closes_a_session() {
    let daemon = Daemon::start(&[]);
    let mut client = client(&daemon);

    let open = OpenSession {
        name: Some("mine".into()),
        cwd: Some("/usr".into()),
        env: BTreeMap::from([("A".into(), "1".into())]),
        limits: Some(LimitSet { nofile: Some(32), ..LimitSet::default() }),
        ..OpenSession::default()
    };
    let opened = client.open(&open).unwrap();
    assert_eq!((opened.cwd.as_str(), opened.limits.nofile), ("/usr", Some(32)));
    assert!(opened.limits.memory_bytes.is_some(), "a result holds every limit: {opened:?}");

    let record = run(&mut client, Run::cmd("pwd; echo $A; ulimit -n").in_session(&opened.session));
    assert_eq!(record.stdout.as_deref(), Some("/usr\n1\n32\n"));

    let info = client.session_info(&opened.session).unwrap();
    assert_eq!((info.name.as_deref(), info.commands, info.busy), (Some("mine"), 1, false));
    assert_eq!(client.sessions().unwrap().len(), 1);
    let history = client.history(&opened.session, None).unwrap();
    assert_eq!((history.len(), &history[0].exec), (1, &record.exec));

    let closed = client.close(&opened.session).unwrap();
    assert!(closed.closed && closed.commands == 1);
    assert_eq!(reason(client.session_info(&opened.session)), "SESSION_NOT_FOUND");
}

#[test]
fn a_client_gives_a_session_a_budget() {
    let daemon = Daemon::start(&[]);
    let mut client = client(&daemon);
    let budget = Budget { commands: Some(9), cpu_sec: Some(1.5), output_bytes: Some(2), wall_s: Some(60.0) };
    let opened = client.open(&OpenSession { budget: Some(budget), ..OpenSession::default() }).unwrap();

    let told = client.session_info(&opened.session).unwrap().budget.unwrap();
    assert_eq!((told.commands, told.cpu_sec, told.output_bytes, told.wall_s), (9, 1.5, 2, 60.0));

    run(&mut client, Run::cmd("echo a").in_session(&opened.session));
    assert_eq!(reason(client.run(&Run::cmd("true").in_session(&opened.session))), "BUDGET_EXHAUSTED");

    let none = client.open(&OpenSession::default()).unwrap();
    assert_eq!(client.session_info(&none.session).unwrap().budget.unwrap().commands, -1);
}

#[test]
fn every_field_of_a_run_reaches_the_daemon() {
    let daemon = Daemon::start(&[]);
    let mut client = client(&daemon);

    let ask = Run {
        cwd: Some("/".into()),
        env: BTreeMap::from([("A".into(), "x".into())]),
        timeout_s: Some(10.0),
        stall_timeout_s: Some(10.0),
        kill_grace_ms: Some(100),
        limits: Some(LimitSet { nofile: Some(20), ..LimitSet::default() }),
        output_limit_bytes: Some(6),
        output_keep: Some(OutputKeep::Head),
        on_output_limit: Some(OnOutputLimit::Truncate),
        merge_stderr: Some(true),
        encoding: Some(EncodingAsked::Base64),
        ..Run::cmd("cat; pwd; echo $A >&2; ulimit -n").with_stdin(b"\xff")
    };
    let record = run(&mut client, ask);

    assert_eq!(record.stdout.as_deref(), Some("/y8KeAoy"), "base64 of ff, \"/\\n\", \"x\\n\", \"2\"");
    assert_eq!((record.stdout_bytes, record.stdout_dropped), (8, 2));
}

#[test]
fn a_refusal_tells_its_reason_and_the_connection_goes_on() {
    let daemon = Daemon::start(&[]);
    let mut client = client(&daemon);

    let error = client.run(&Run::argv(["/nope"])).unwrap_err();
    let refused = error.refused().unwrap();
    assert_eq!((refused.code, refused.reason.as_str(), refused.retryable), (-32030, "SPAWN_FAILED", false));
    assert!(refused.data.as_ref().unwrap().get().contains("ENOENT"), "{refused:?}");
    assert_eq!(reason(client.run(&Run { timeout_s: Some(-1.0), ..Run::cmd("true") })), "INVALID_PARAMS");
    assert_eq!(reason(client.call("no.such.method", None, &mut |_| {})), "METHOD_NOT_FOUND");

    client.ping().unwrap();
}

#[test]
fn output_is_handed_on_as_it_comes() {
    let daemon = Daemon::start(&[]);
    let mut client = client(&daemon);
    let gate = daemon.launch.folder.gate();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());

    // The command waits for the gate, and only its first piece opens it.
    let line = format!("echo first; {}; echo err >&2; seq 1 20000", gate.wait());
    let record = client
        .run_streamed(&Run::cmd(line), |piece| {
            gate.open();
            let to = match piece.stream {
                OutputStream::Stdout => &mut stdout,
                OutputStream::Stderr => &mut stderr,
            };
            assert_eq!(piece.offset, to.len() as u64);
            to.extend_from_slice(&piece.bytes().map_err(io::Error::other)?);
            Ok(())
        })
        .unwrap();

    let expected: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    assert!(stdout == format!("first\n{expected}").as_bytes(), "the output differs");
    assert_eq!(stderr, b"err\n");
    assert_eq!((record.stdout, record.stdout_bytes), (None, stdout.len() as u64));
}

#[test]
fn a_read_time_out_does_not_end_the_connection() {
    let daemon = Daemon::start(&[]);
    let mut client = client(&daemon);
    let gate = daemon.launch.folder.gate();

    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let error = client.run(&Run::cmd(format!("{}; echo late", gate.wait()))).unwrap_err();
    assert!(matches!(&error, ClientError::Io { error, .. } if error.kind() == io::ErrorKind::TimedOut), "{error:?}");
    gate.open();

    client.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(run(&mut client, Run::cmd("echo next")).stdout.as_deref(), Some("next\n"));
}

#[test]
fn a_client_that_is_dropped_takes_its_commands_with_it() {
    let daemon = Daemon::start(&[]);
    let mark = mark();
    let mut client = Client::connect_unix(daemon.launch.socket()).unwrap();

    client.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    client.run(&Run::cmd(format!("sleep {mark} & sleep {mark}"))).unwrap_err();
    crate::exec_support::wait_living(&mark, 2);
    drop(client);

    wait_gone(&mark);
}

#[test]
fn a_daemon_that_is_not_there_is_an_error_with_its_address() {
    let (_held, address) = crate::exec_support::address_of_nobody();
    let address = address.to_string();

    let error = Client::connect(address.as_str()).unwrap_err();
    assert!(error.to_string().contains(&address), "{error}");
    let error = Client::connect_unix("/no/such/socket").unwrap_err();
    assert!(error.to_string().contains("/no/such/socket"), "{error}");
}

#[test]
fn a_daemon_that_goes_away_is_an_error_and_not_a_hang() {
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(0.1))]);
    let mut client = client(&daemon);
    client.ping().unwrap();

    daemon.terminate();

    let error = client.ping().unwrap_err();
    assert!(matches!(error, ClientError::Io { .. }), "{error:?}");
}

#[test]
fn a_command_at_the_stop_of_the_daemon_has_its_record() {
    let mut daemon = Daemon::start(&[("shutdown.drain_s", json!(0.1))]);
    let mark = mark();
    let address = daemon.address.unwrap();

    let line = format!("echo told; exec sleep {mark}");
    let waiting = std::thread::spawn(move || Client::connect(address).unwrap().run(&Run::cmd(line)).unwrap());
    crate::exec_support::wait_living(&mark, 1);
    daemon.terminate();

    let record = waiting.join().unwrap();
    assert_eq!((record.status, record.stdout.as_deref()), (Status::Shutdown, Some("told\n")));
    assert!(living(&mark).is_empty());
}

#[test]
fn info_and_stats_are_json() {
    let daemon = Daemon::start(&[]);
    let mut client = client(&daemon);

    assert!(client.info().unwrap().get().contains("\"enforcement\""));
    assert!(client.stats().unwrap().get().contains("\"by_status\""));
}
