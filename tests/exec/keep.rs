//! How much of an output is kept, and which part: `output_limit_bytes`, `output_keep`, `merge_stderr`.

use crate::exec_support::*;
use crate::support::*;

/// What is kept of `written` with this limit: the bytes, and how many were dropped.
#[track_caller]
fn kept(conn: &mut Conn, written: &str, keep: &str, limit: usize) -> (String, u64) {
    let record =
        run(conn, json!({"argv": ["printf", "%s", written], "output_keep": keep, "output_limit_bytes": limit}));
    assert_eq!(record["stdout_bytes"], written.len(), "{record}");
    (text(&record), record["stdout_dropped"].as_u64().unwrap())
}

#[test]
fn the_tail_is_kept_at_the_edge_of_the_limit() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    assert_eq!(kept(&mut conn, "abcd", "tail", 5), ("abcd".into(), 0));
    assert_eq!(kept(&mut conn, "abcde", "tail", 5), ("abcde".into(), 0));
    assert_eq!(kept(&mut conn, "abcdef", "tail", 5), ("bcdef".into(), 1));
    assert_eq!(kept(&mut conn, "abcdefghijklm", "tail", 5), ("ijklm".into(), 8));
}

#[test]
fn the_head_is_kept_at_the_edge_of_the_limit() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    assert_eq!(kept(&mut conn, "abcd", "head", 5), ("abcd".into(), 0));
    assert_eq!(kept(&mut conn, "abcde", "head", 5), ("abcde".into(), 0));
    assert_eq!(kept(&mut conn, "abcdef", "head", 5), ("abcde".into(), 1));
    assert_eq!(kept(&mut conn, "abcdefghijklm", "head", 5), ("abcde".into(), 8));
}

#[test]
fn both_halves_are_kept_and_an_odd_byte_goes_to_the_first() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    assert_eq!(kept(&mut conn, "abcd", "both", 5), ("abcd".into(), 0));
    assert_eq!(kept(&mut conn, "abcde", "both", 5), ("abcde".into(), 0));
    assert_eq!(kept(&mut conn, "abcdef", "both", 5), ("abcef".into(), 1));
    assert_eq!(kept(&mut conn, "abcdefghijklm", "both", 5), ("abclm".into(), 8));
    assert_eq!(kept(&mut conn, "abcdefg", "both", 4), ("abfg".into(), 3));
    assert_eq!(kept(&mut conn, "abcdefg", "both", 1), ("a".into(), 6));
    assert_eq!(kept(&mut conn, "abcdefg", "both", 2), ("ag".into(), 5));
}

#[test]
fn the_tail_is_the_default() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    assert_eq!(text(&run(&mut conn, json!({"cmd": "printf abcdef", "output_limit_bytes": 2}))), "ef");
}

#[test]
fn many_small_writes_are_kept_like_one() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let lines: String = (1..=3000).map(|number| format!("{number}\n")).collect();
    let cmd = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo $i; done";

    for (keep, limit) in [("tail", 1001), ("head", 1001), ("both", 1001), ("both", 4096)] {
        let record = run(&mut conn, json!({"cmd": cmd, "output_keep": keep, "output_limit_bytes": limit}));
        let (first, last) = match keep {
            "tail" => (0, limit),
            "head" => (limit, 0),
            _ => (limit - limit / 2, limit / 2),
        };
        let expected = format!("{}{}", &lines[..first], &lines[lines.len() - last..]);
        assert_eq!(text(&record), expected, "{keep} {limit}");
        assert_eq!(record["stdout_dropped"], lines.len() - limit);
    }
}

#[test]
fn a_limit_of_nothing_keeps_nothing_and_counts_all() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for keep in ["tail", "head", "both"] {
        let cmd = "head -c 100000 /dev/zero; printf abc >&2";
        let record = run(&mut conn, json!({"cmd": cmd, "output_keep": keep, "output_limit_bytes": 0}));
        assert_eq!((out(&record).len(), err(&record).len()), (0, 0));
        assert_eq!((&record["stdout_dropped"], &record["stderr_dropped"]), (&json!(100_000), &json!(3)));
    }
}

#[test]
fn a_limit_of_nothing_with_kill_ends_the_first_byte() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let limited = |cmd: &str| json!({"cmd": cmd, "output_limit_bytes": 0, "on_output_limit": "kill"});

    assert_eq!(end(&run(&mut conn, limited("exit 0"))), exited(0));
    assert_eq!(end(&run(&mut conn, limited("printf a; sleep 60"))).0, "output_limit");
}

#[test]
fn each_stream_keeps_its_own_share() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = run(&mut conn, json!({"cmd": "printf abcdef; printf 12345678 >&2", "output_limit_bytes": 3}));

    assert_eq!((text(&record).as_str(), err(&record).as_slice()), ("def", b"678".as_slice()));
    assert_eq!((&record["stdout_dropped"], &record["stderr_dropped"]), (&json!(3), &json!(5)));
}

#[test]
fn four_mebibytes_are_kept_to_the_byte() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let full = 4 << 20;
    let mut ended = |count: usize, byte: &str| {
        run(&mut conn, json!({"cmd": format!("head -c {count} /dev/zero | tr '\\0' '{byte}'")}))
    };

    let record = ended(full, "a");
    assert_eq!((&record["stdout_encoding"], &record["stdout_dropped"]), (&json!("utf8"), &json!(0)));
    assert!(out(&record) == vec![b'a'; full], "text differs");

    let record = ended(full, "\\377");
    assert_eq!((&record["stdout_encoding"], &record["stdout_dropped"]), (&json!("base64"), &json!(0)));
    assert!(out(&record) == vec![0xff; full], "bytes differ");

    let record = ended(full + 1, "a");
    assert_eq!((out(&record).len(), &record["stdout_dropped"]), (full, &json!(1)));
}

#[test]
fn both_streams_may_be_full() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = sh(&mut conn, "head -c 4194304 /dev/zero & head -c 4194304 /dev/zero >&2; wait");

    assert_eq!((out(&record).len(), err(&record).len()), (4 << 20, 4 << 20));
    wait_stats(&daemon, "/output/buffered_bytes", 0);
}

#[test]
fn inv7_a_flood_is_drained_and_counted_and_not_kept() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = run(&mut conn, json!({"cmd": "head -c 100000000 /dev/zero; exit 3", "output_limit_bytes": 1000}));

    assert_eq!(end(&record), exited(3), "truncated, not ended");
    assert_eq!((out(&record).len(), &record["stdout_bytes"]), (1000, &json!(100_000_000)));
    let peak = procs::peak_rss_bytes(daemon.runtime_pid);
    assert!(peak < 64 << 20, "the runtime grew to {peak} bytes");
}

#[test]
fn stderr_goes_into_stdout_in_order() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let cmd = "for i in 1 2 3 4 5 6 7 8 9; do echo out $i; echo err $i >&2; done";

    let record = run(&mut conn, json!({"cmd": cmd, "merge_stderr": true}));

    let expected: String = (1..=9).map(|number| format!("out {number}\nerr {number}\n")).collect();
    assert_eq!(text(&record), expected);
    assert_eq!((err(&record).len(), &record["stderr_bytes"], &record["stderr_dropped"]), (0, &json!(0), &json!(0)));
}

#[test]
fn merged_output_has_one_limit() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let params =
        json!({"cmd": "printf abc; printf def >&2; printf ghi", "merge_stderr": true, "output_limit_bytes": 5});
    let record = run(&mut conn, params);

    assert_eq!((text(&record).as_str(), &record["stdout_dropped"]), ("efghi", &json!(4)));
}
