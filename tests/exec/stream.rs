//! `stream`: output as it comes, every byte once and in order, before the answer.

use crate::exec_support::*;
use crate::support::*;

/// Runs a command with `stream` and takes all that comes.
#[track_caller]
fn streamed(conn: &mut Conn, mut params: Value) -> (Vec<Piece>, Value) {
    params["stream"] = json!(true);
    let id = conn.ask("exec.run", params);
    pieces_and_record(conn, &id)
}

#[test]
fn a_streamed_command_sends_its_output_and_then_a_record_without_it() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let (pieces, record) = streamed(&mut conn, json!({"cmd": "echo out; echo err >&2; exit 4"}));

    assert_eq!(end(&record), exited(4));
    assert_eq!(joined(&pieces, "stdout"), b"out\n");
    assert_eq!(joined(&pieces, "stderr"), b"err\n");
    assert_eq!((&record["stdout"], &record["stderr"]), (&Value::Null, &Value::Null));
    assert_eq!((&record["stdout_bytes"], &record["stderr_bytes"]), (&json!(4), &json!(4)));
}

#[test]
fn a_streamed_command_without_output_sends_no_piece() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let (pieces, record) = streamed(&mut conn, json!({"cmd": "exit 0"}));

    assert!(pieces.is_empty(), "{pieces:?}");
    assert_eq!(record["stdout_bytes"], 0);
}

#[test]
fn output_is_sent_while_the_command_runs() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let gate = daemon.launch.folder.gate();

    let cmd = format!("printf one; {}; printf two", gate.wait());
    let id = conn.ask("exec.run", json!({"cmd": cmd, "stream": true}));
    let first = piece(&conn.recv(), &id);
    assert_eq!((first.offset, first.bytes.as_slice()), (0, b"one".as_slice()));
    gate.open();

    let (rest, record) = pieces_and_record(&mut conn, &id);
    assert_eq!((rest[0].offset, rest[0].bytes.as_slice()), (3, b"two".as_slice()));
    assert_eq!(record["stdout_bytes"], 6);
}

#[test]
fn the_pieces_of_a_large_output_are_contiguous() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let (pieces, record) = streamed(&mut conn, json!({"cmd": "seq 1 400000; seq 1 1000 >&2"}));

    let expected: String = (1..=400_000).map(|number| format!("{number}\n")).collect();
    assert!(joined(&pieces, "stdout") == expected.as_bytes(), "the output differs");
    assert_eq!(joined(&pieces, "stderr").len(), 3893);
    assert_eq!(record["stdout_bytes"], expected.len());
}

#[test]
fn no_character_is_split_between_two_pieces() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let sample = "a\u{e4}\u{20ac}\u{1f980}";

    // 10 bytes a line, no divisor of any buffer's size.
    let cmd = format!(
        "i=0; while [ $i -lt 300 ]; do i=$((i+1)); printf '{sample}'; done | cat; yes '{sample}{sample}' | head -c 300000"
    );
    let (pieces, record) = streamed(&mut conn, json!({"cmd": cmd}));

    let (whole, last) = pieces.split_at(pieces.len() - 1);
    for piece in whole {
        assert_eq!(piece.encoding, "utf8", "at {}", piece.offset);
    }
    assert_eq!(record["stdout_bytes"], 303_000);
    assert_eq!(joined(&pieces, "stdout").len(), 303_000, "{last:?}");
}

#[test]
fn a_character_written_in_two_halves_comes_whole() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let (pieces, _) = streamed(&mut conn, json!({"cmd": r"printf 'a\303'; sleep 0.2; printf '\251z'"}));

    assert!(pieces.iter().all(|piece| piece.encoding == "utf8"), "{pieces:?}");
    assert_eq!(joined(&pieces, "stdout"), "a\u{e9}z".as_bytes());
}

#[test]
fn half_a_character_at_the_end_is_not_lost() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let (pieces, record) = streamed(&mut conn, json!({"cmd": r"printf 'a\342\202'"}));

    assert_eq!(joined(&pieces, "stdout"), b"a\xe2\x82");
    assert_eq!(record["stdout_bytes"], 3);
}

#[test]
fn bytes_are_streamed_as_base64() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let (pieces, _) = streamed(&mut conn, json!({"cmd": "head -c 200000 /dev/zero | tr '\\0' '\\377'"}));
    assert!(pieces.iter().all(|piece| piece.encoding == "base64"));
    assert!(joined(&pieces, "stdout") == vec![0xff; 200_000], "the output differs");

    let (pieces, _) = streamed(&mut conn, json!({"cmd": "echo text", "encoding": "base64"}));
    assert!(pieces.iter().all(|piece| piece.encoding == "base64"));
    assert_eq!(joined(&pieces, "stdout"), b"text\n");
}

#[test]
fn a_streamed_output_is_not_truncated() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let (pieces, record) = streamed(&mut conn, json!({"cmd": "head -c 100000 /dev/zero", "output_limit_bytes": 10}));

    assert_eq!(end(&record), exited(0));
    assert_eq!(joined(&pieces, "stdout").len(), 100_000);
    assert_eq!(record["stdout_bytes"], 100_000);
}

#[test]
fn a_streamed_output_may_be_limited_by_the_end_of_the_command() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let params = json!({"cmd": "exec yes", "output_limit_bytes": 10_000, "on_output_limit": "kill"});
    let (pieces, record) = streamed(&mut conn, params);

    assert_eq!((end(&record).0, end(&record).1), ("output_limit", Some("output_limit_bytes")));
    assert_eq!(joined(&pieces, "stdout").len() as u64, record["stdout_bytes"].as_u64().unwrap());
}

#[test]
fn output_up_to_the_time_out_is_streamed() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let (pieces, record) = streamed(&mut conn, json!({"cmd": "echo before; exec sleep 60", "timeout_s": 0.3}));

    assert_eq!(end(&record).0, "timed_out");
    assert_eq!(joined(&pieces, "stdout"), b"before\n");
}

#[test]
fn merged_output_streams_in_order() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let (pieces, _) = streamed(&mut conn, json!({"cmd": "echo a; echo b >&2; echo c", "merge_stderr": true}));

    assert_eq!(joined(&pieces, "stdout"), b"a\nb\nc\n");
    assert!(pieces.iter().all(|piece| piece.stream == "stdout"), "{pieces:?}");
}

#[test]
fn two_streams_on_one_connection_are_told_apart_by_their_ids() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let ids: Vec<Value> = ["a", "b"]
        .map(|letter| conn.ask("exec.run", json!({"cmd": format!("yes {letter} | head -c 200000"), "stream": true})))
        .to_vec();

    let (mut outputs, mut answered) = ([Vec::new(), Vec::new()], 0);
    while answered < 2 {
        let line = conn.recv();
        if line.get("method").is_none() {
            answered += 1;
            continue;
        }
        let which = ids.iter().position(|id| *id == line["params"]["id"]).expect("the id of a request");
        outputs[which].push(piece(&line, &ids[which]));
    }

    for (pieces, letter) in outputs.iter().zip(["a\n", "b\n"]) {
        assert!(joined(pieces, "stdout") == letter.repeat(100_000).as_bytes(), "{letter} differs");
    }
}

#[test]
fn a_slow_reader_slows_its_command_down_and_loses_nothing() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let shared = Shared::new();
    let count = 40_000_000;

    // Far more than all buffers on the way hold: without back-pressure it would be through, or memory would grow.
    let cmd = format!("yes 0123456 | head -c {count}; echo >{}", shared.text("through"));
    let id = conn.ask("exec.run", json!({"cmd": cmd, "stream": true}));
    let mut neighbour = daemon.tcp();
    for _ in 0..30 {
        assert_well(&mut neighbour);
    }
    assert!(!shared.path("through").exists(), "nobody has read it, and the command is through");
    let peak = procs::peak_rss_bytes(daemon.runtime_pid);
    assert!(peak < 64 << 20, "the runtime grew to {peak} bytes");

    let (pieces, record) = pieces_and_record(&mut conn, &id);
    assert!(joined(&pieces, "stdout") == "0123456\n".repeat(count / 8).as_bytes(), "the output differs");
    assert_eq!(record["stdout_bytes"], count);
}

#[test]
fn a_stream_is_not_asked_for_in_a_batch() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    conn.ping();

    conn.send_line(r#"[{"id":1,"method":"exec.run","params":{"cmd":"true","stream":true}},{"id":2,"method":"exec.run","params":{"cmd":"true"}}]"#);
    let answers = conn.recv();

    assert_eq!(answers[0]["error"]["data"]["reason"], "INVALID_PARAMS", "{answers}");
    assert_eq!(end(&answers[1]["result"]), exited(0));
}

#[test]
fn a_streaming_client_that_vanishes_ends_its_command() {
    let daemon = Daemon::start(&[]);
    let mark = mark();

    let mut conn = daemon.unix();
    let id = conn.ask("exec.run", json!({"cmd": format!("sleep {mark} & yes"), "stream": true}));
    piece(&conn.recv(), &id);
    drop(conn);

    wait_gone(&mark);
    daemon.stats_show("it is cancelled", |stats| (stats["commands"]["by_status"]["cancelled"] == 1).then_some(()));
}

#[test]
fn a_stream_that_nobody_reads_still_times_out() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mark = mark();

    // It is blocked in writing when its time is over.
    let cmd = format!("sleep {mark} & exec yes {mark}");
    let id = conn.ask("exec.run", json!({"cmd": cmd, "stream": true, "timeout_s": 1}));
    wait_living(&mark, 2);
    wait_gone(&mark);

    let (pieces, record) = pieces_and_record(&mut conn, &id);
    assert_eq!((end(&record).0, end(&record).1), ("timed_out", Some("timeout_s")));
    let bytes = joined(&pieces, "stdout");
    assert_eq!(bytes.len() as u64, record["stdout_bytes"].as_u64().unwrap(), "what it wrote before is there");
    assert!(bytes.starts_with(format!("{mark}\n{mark}\n").as_bytes()));
}

#[test]
fn a_session_closes_although_nobody_reads_its_stream() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.unix(), daemon.unix());
    let session = conn.open(json!({}));
    let mark = mark();

    let cmd = format!("sleep {mark} & exec yes {mark}");
    let id = conn.ask("exec.run", json!({"session": session, "cmd": cmd, "stream": true}));
    wait_living(&mark, 2);
    close(&mut other, &session);

    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
    let (pieces, record) = pieces_and_record(&mut conn, &id);
    assert_eq!(end(&record).0, "cancelled");
    assert_eq!(joined(&pieces, "stdout").len() as u64, record["stdout_bytes"].as_u64().unwrap());
}
