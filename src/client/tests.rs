//! The client against a daemon that says what the test wants.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::*;

/// A daemon that answers its n-th request with the n-th text and gives back what it was asked.
fn daemon(answers: &'static [&'static str]) -> (Client, JoinHandle<Vec<String>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let served = thread::spawn(move || {
        let mut reader = BufReader::new(theirs.try_clone().unwrap());
        let mut asked = Vec::new();
        for answer in answers {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            asked.push(line.trim_end().to_owned());
            (&theirs).write_all(answer.as_bytes()).unwrap();
        }
        asked
    });
    (Client::from_unix_stream(ours), served)
}

const RECORD: &str = concat!(
    r#"{"jsonrpc":"2.0","id":1,"result":{"exec":"e1","session":"s1","status":"exited","limit":null,"exit_code":0,"#,
    r#""signal":null,"stdout":null,"stdout_encoding":null,"stdout_bytes":2,"stdout_dropped":0,"stderr":null,"#,
    r#""stderr_encoding":null,"stderr_bytes":0,"stderr_dropped":0,"wall_ms":1,"spawn_ms":0.4,"usage":{"#,
    r#""cpu_user_ms":0,"cpu_system_ms":1,"max_rss_bytes":4096,"memory_peak_bytes":null,"processes_peak":null},"#,
    r#""descendants_killed":0}}"#,
    "\n"
);

#[test]
fn a_request_is_one_line_and_its_answer_a_result() {
    let (mut client, served) = daemon(&[
        "{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"pong\":true}}\n",
        "{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{\"session\":\"s1\",\"cwd\":\"/w\",\"limits\":{\"nproc\":8}}}\r\n",
    ]);
    client.ping().unwrap();
    let opened = client.open(&OpenSession { persist: Some(true), ..Default::default() }).unwrap();
    assert_eq!((opened.session.as_str(), opened.limits.nproc), ("s1", Some(8)));
    assert_eq!(
        served.join().unwrap(),
        [
            r#"{"jsonrpc":"2.0","id":1,"method":"system.ping"}"#,
            r#"{"jsonrpc":"2.0","id":2,"method":"session.open","params":{"persist":true}}"#
        ]
    );
}

#[test]
fn an_error_answer_is_told_whole() {
    let (mut client, _served) = daemon(&[concat!(
        r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32020,"message":"no free slot","#,
        r#""data":{"reason":"CAPACITY","retryable":true,"resource":"commands"}}}"#,
        "\n"
    )]);
    let error = client.run(&Run::cmd("true")).unwrap_err();
    assert_eq!(error.to_string(), "no free slot (CAPACITY)");
    let refused = error.refused().unwrap();
    assert!(refused.retryable);
    assert_eq!(
        serde_json::to_string(refused).unwrap(),
        r#"{"code":-32020,"message":"no free slot","data":{"reason":"CAPACITY","retryable":true,"resource":"commands"}}"#
    );
}

#[test]
fn an_error_without_an_id_is_about_us() {
    let (mut client, _served) =
        daemon(&["{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,\"message\":\"not JSON\"}}\n"]);
    assert_eq!(client.ping().unwrap_err().to_string(), "not JSON (-32700)");
}

#[test]
fn output_comes_in_pieces_and_only_that_of_the_command() {
    let (mut client, _served) = daemon(&[concat!(
        r#"{"jsonrpc":"2.0","method":"system.stats","params":{}}"#,
        "\n",
        r#"{"jsonrpc":"2.0","method":"exec.output","params":{"id":9,"exec":"e0","stream":"stdout","offset":0,"data":"no","encoding":"utf8"}}"#,
        "\n",
        r#"{"jsonrpc":"2.0","method":"exec.output","params":{"id":1,"exec":"e1","stream":"stdout","offset":0,"data":"h","encoding":"utf8"}}"#,
        "\n",
        r#"{"jsonrpc":"2.0","method":"exec.output","params":{"id":1,"exec":"e1","stream":"stdout","offset":1,"data":"aQ==","encoding":"base64"}}"#,
        "\n",
        r#"{"jsonrpc":"2.0","id":1,"result":{"exec":"e1","session":"s1","status":"exited","limit":null,"exit_code":0,"signal":null,"stdout_bytes":2,"stdout_dropped":0,"stderr_bytes":0,"stderr_dropped":0,"wall_ms":1,"spawn_ms":0.4,"usage":{"cpu_user_ms":0,"cpu_system_ms":1,"max_rss_bytes":4096},"descendants_killed":0}}"#,
        "\n"
    )]);
    let mut seen = Vec::new();
    let record = client
        .run_streamed(&Run::cmd("printf hi"), |piece| {
            assert_eq!(piece.offset, seen.len() as u64);
            seen.extend_from_slice(&piece.bytes().map_err(io::Error::other)?);
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, b"hi");
    assert!(record.success());
}

#[test]
fn output_that_cannot_be_handed_on_ends_the_command_and_not_the_connection() {
    const PIECE: &str = concat!(
        r#"{"jsonrpc":"2.0","method":"exec.output","params":{"id":1,"exec":"e1","stream":"stdout","offset":0,"data":"hi","encoding":"utf8"}}"#,
        "\n"
    );
    let (mut client, served) = daemon(&[PIECE, RECORD, "{\"id\":2,\"result\":{}}\n{\"id\":3,\"result\":{}}\n"]);
    let mut calls = 0;
    let failed = client.run_streamed(&Run::cmd("yes"), |_| {
        calls += 1;
        Err(io::ErrorKind::BrokenPipe.into())
    });
    assert!(matches!(failed, Err(ClientError::Io { ref error, .. }) if error.kind() == io::ErrorKind::BrokenPipe));
    assert_eq!(calls, 1);
    client.ping().unwrap();
    let asked = served.join().unwrap();
    assert!(asked[0].ends_with(r#""params":{"cmd":"yes","stream":true}}"#), "{asked:?}");
    assert!(asked[1].contains(r#""method":"exec.kill","params":{"exec":"e1"}"#), "{asked:?}");
}

#[test]
fn params_over_several_lines_are_sent_on_one() {
    let (mut client, served) = daemon(&["{\"method\":\"system.stats\"}\n{\"id\":1,\"result\":null}\n"]);
    let mut seen = Vec::new();
    let answer = client.call("x.y", Some("{\n \"a\":\r\n1}"), &mut |line| seen.push(line.to_owned())).unwrap();
    assert_eq!(answer.get(), "null");
    assert_eq!(seen, ["{\"method\":\"system.stats\"}"]);
    assert_eq!(served.join().unwrap()[0], r#"{"jsonrpc":"2.0","id":1,"method":"x.y","params":{  "a":  1}}"#);
}

#[test]
fn params_that_are_no_json_are_never_sent() {
    let (mut client, served) = daemon(&["{\"id\":1,\"result\":{}}\n"]);
    assert!(client.call("x.y", Some("{"), &mut |_| {}).unwrap_err().to_string().contains("not JSON"));
    client.ping().unwrap();
    assert_eq!(served.join().unwrap().len(), 1);
}

#[test]
fn a_line_that_is_too_long_is_an_error_of_its_own() {
    let (mut client, _served) = daemon(&["{\"id\":1,\"result\":{}}\n", "{\"id\":2,\"result\":{ }}\n"]);
    client.set_line_bytes_max(r#"{"id":1,"result":{}}"#.len());
    client.ping().unwrap();
    let text = client.ping().unwrap_err().to_string();
    assert_eq!(text, "the daemon sent a line longer than 20 bytes");
}

#[test]
fn a_late_answer_is_not_taken_for_the_next_one() {
    let (mut client, served) = daemon(&["{\"id\":1,\"res", "ult\":\"late\"}\n{\"id\":2,\"result\":\"own\"}\n"]);
    client.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let late = client.info().unwrap_err();
    assert_eq!(late.to_string(), "cannot read an answer: nothing came within the read time-out");
    client.set_read_timeout(None).unwrap();
    assert_eq!(client.info().unwrap().get(), "\"own\"");
    served.join().unwrap();
}

#[test]
fn a_daemon_that_goes_away_is_told_as_that() {
    let (mut client, served) = daemon(&[""]);
    let text = client.ping().unwrap_err().to_string();
    assert_eq!(text, "cannot read an answer: the daemon closed the connection");
    served.join().unwrap();
}

#[test]
fn the_last_words_of_a_full_daemon_are_heard() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (&theirs).write_all(b"{\"id\":null,\"error\":{\"code\":-32020,\"message\":\"full\"}}\n").unwrap();
    drop(theirs);
    assert_eq!(Client::from_unix_stream(ours).ping().unwrap_err().to_string(), "full (-32020)");
}

#[test]
fn an_address_that_does_not_answer_is_named() {
    let text = Client::dial("unix:/nonexistent/cofferdam.sock").unwrap_err().to_string();
    assert!(text.starts_with("cannot connect to unix:/nonexistent/cofferdam.sock: "), "{text}");
}
