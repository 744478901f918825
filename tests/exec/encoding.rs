//! How output is written: as text where it is text and no longer than base64, never lossy.

use crate::exec_support::*;
use crate::support::*;

/// The encoding of the stdout of `printf FORMAT`, and its bytes.
#[track_caller]
fn printed(conn: &mut Conn, format: &str) -> (String, Vec<u8>) {
    let record = run(conn, json!({"argv": ["printf", format]}));
    (record["stdout_encoding"].as_str().unwrap().to_owned(), out(&record))
}

#[test]
fn text_comes_as_text() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for sample in ["", "hi\\n", "h\u{e4}, \u{20ac} and \u{1f980}\\n", "\u{7f}/'<>&", "\\n", "a\\tb c d"] {
        let (encoding, bytes) = printed(&mut conn, sample);
        assert_eq!(encoding, "utf8", "{sample:?}");
        assert_eq!(bytes, sample.replace("\\n", "\n").replace("\\t", "\t").into_bytes());
    }
}

#[test]
fn bytes_that_are_no_utf8_come_whole_as_base64() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for (format, bytes) in [
        (r"a\377b", b"a\xffb".as_slice()),
        (r"\303", b"\xc3"),
        (r"text before\355\240\200", b"text before\xed\xa0\x80"),
        (r"\300\200", b"\xc0\x80"),
        (r"\364\220\200\200", b"\xf4\x90\x80\x80"),
    ] {
        assert_eq!(printed(&mut conn, format), ("base64".to_owned(), bytes.to_vec()), "{format}");
    }
}

#[test]
fn text_whose_json_is_longer_than_base64_comes_as_base64() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    // Three line ends: six characters of JSON, four of base64. NUL: six characters of JSON each.
    for (format, bytes) in [
        (r"\n\n\n", b"\n\n\n".as_slice()),
        (r"a\000b", b"a\0b"),
        (r"\033[1m\033[0m", b"\x1b[1m\x1b[0m"),
        (r"\001", b"\x01"),
        (r#""""#, b"\"\""),
    ] {
        let (encoding, got) = printed(&mut conn, format);
        assert_eq!(got, bytes, "{format}");
        let expected = if format == r#""""# { "utf8" } else { "base64" };
        assert_eq!(encoding, expected, "{format}");
    }
}

#[test]
fn the_choice_turns_exactly_where_base64_is_shorter() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    // 30 bytes are 40 characters of base64: ten line ends among them make as many of JSON, eleven one more.
    assert_eq!(printed(&mut conn, &format!("{}{}", "a".repeat(20), "\\n".repeat(10))).0, "utf8");
    assert_eq!(printed(&mut conn, &format!("{}{}", "a".repeat(19), "\\n".repeat(11))).0, "base64");
}

#[test]
fn no_output_is_written_in_more_than_1_4_times_its_bytes() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for (name, make) in [
        ("control characters", "tr '\\0' '\\001'"),
        ("quotes", "tr '\\0' '\"'"),
        ("backslashes", "tr '\\0' '\\\\'"),
        ("line ends", "tr '\\0' '\\n'"),
        ("half a character", "tr '\\0' '\\303'"),
        ("letters", "tr '\\0' a"),
    ] {
        let record = run(&mut conn, json!({"cmd": format!("head -c 30000 /dev/zero | {make}")}));
        assert_eq!(out(&record).len(), 30_000, "{name}");
        // The whole text as it stands in the line, escapes included.
        let written = record["stdout"].to_string().len() - 2;
        assert!(written <= 42_000, "{name}: {written} characters");
    }
}

#[test]
fn base64_is_given_where_it_is_asked_for() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = run(&mut conn, json!({"cmd": "printf hi; printf a >&2", "encoding": "base64"}));

    assert_eq!((&record["stdout"], &record["stdout_encoding"]), (&json!("aGk="), &json!("base64")));
    assert_eq!((&record["stderr"], &record["stderr_encoding"]), (&json!("YQ=="), &json!("base64")));
    assert_eq!(record["stdout_bytes"], 2, "bytes are counted before they are written");
}

#[test]
fn auto_is_the_default_and_each_stream_is_judged_by_itself() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for params in [
        json!({"cmd": "printf text; printf '\\377' >&2"}),
        json!({"cmd": "printf text; printf '\\377' >&2", "encoding": "auto"}),
    ] {
        let record = run(&mut conn, params);
        assert_eq!((&record["stdout_encoding"], &record["stderr_encoding"]), (&json!("utf8"), &json!("base64")));
    }
}

#[test]
fn a_character_that_the_limit_cuts_makes_bytes() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mut cut = |keep: &str, limit: u32| {
        let record =
            run(&mut conn, json!({"cmd": "printf 'a\u{e4}b'", "output_keep": keep, "output_limit_bytes": limit}));
        (record["stdout_encoding"].as_str().unwrap().to_owned(), out(&record))
    };

    assert_eq!(cut("tail", 2), ("base64".to_owned(), b"\xa4b".to_vec()));
    assert_eq!(cut("tail", 3), ("utf8".to_owned(), "\u{e4}b".as_bytes().to_vec()));
    assert_eq!(cut("head", 2), ("base64".to_owned(), b"a\xc3".to_vec()));
    assert_eq!(cut("head", 3), ("utf8".to_owned(), "a\u{e4}".as_bytes().to_vec()));
    assert_eq!(cut("both", 2), ("utf8".to_owned(), b"ab".to_vec()));
    assert_eq!(cut("both", 3), ("base64".to_owned(), b"a\xc3b".to_vec()));
}

#[test]
fn a_character_written_in_two_pieces_is_whole() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = sh(&mut conn, r"printf 'a\303'; sleep 0.1; printf '\251z'");

    assert_eq!((record["stdout"].as_str(), record["stdout_encoding"].as_str()), (Some("a\u{e9}z"), Some("utf8")));
}

#[test]
fn every_byte_value_survives() {
    let Some(python) = python() else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let expected: Vec<u8> = (0..=255_u8).cycle().take(256 * 64).collect();

    let script = "import os; os.write(1, bytes(range(256)) * 64)";
    let record = run(&mut conn, json!({"argv": [python, "-c", script]}));

    assert_eq!(out(&record), expected);
}
