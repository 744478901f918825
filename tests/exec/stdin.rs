//! What a command reads: text or bytes, their bound, and a command that does not read them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::exec_support::*;
use crate::support::*;

const MIB: usize = 1 << 20;

#[test]
fn a_command_reads_its_stdin_and_then_the_end() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    assert_eq!(text(&run(&mut conn, json!({"cmd": "cat; echo end", "stdin": "ä\nb"}))), "ä\nbend\n");
    assert_eq!(text(&run(&mut conn, json!({"cmd": "cat; echo end", "stdin": ""}))), "end\n");
}

#[test]
fn stdin_keeps_every_byte_value() {
    let bytes: Vec<u8> = (0..=255).collect();
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = run(&mut conn, json!({"argv": ["cat"], "stdin_b64": STANDARD.encode(&bytes)}));
    assert_eq!(out(&record), bytes);
    let record = run(&mut conn, json!({"argv": ["cat"], "stdin": "a\u{0}b"}));
    assert_eq!(out(&record), b"a\0b");
}

#[test]
fn without_stdin_a_command_reads_dev_null() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    assert_eq!(text(&sh(&mut conn, "readlink /proc/self/fd/0; cat | wc -c")).replace(' ', ""), "/dev/null\n0\n");
}

#[test]
fn stdin_and_stdin_b64_do_not_go_together() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    conn.refused("exec.run", json!({"cmd": "cat", "stdin": "a", "stdin_b64": "YQ=="}), "INVALID_PARAMS");
}

#[test]
fn stdin_b64_that_is_not_base64_is_invalid_params() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for bad in ["?", "YQ", "YQ=", "YQ==YQ==", "Y Q=", "Y\nQ="] {
        let error = conn.refused("exec.run", json!({"cmd": "cat", "stdin_b64": bad}), "INVALID_PARAMS");
        assert_eq!(error["data"]["field"], "stdin_b64", "{bad:?}: {error}");
    }
    assert_eq!(daemon.stats()["commands"]["started"], 0);
}

#[test]
fn a_mebibyte_of_stdin_arrives_whole() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let stdin = "0123456789abcde\n".repeat(MIB / 16);

    let record = run(&mut conn, json!({"cmd": "cksum", "stdin": stdin}));
    let again = run(&mut conn, json!({"cmd": "cksum", "stdin_b64": STANDARD.encode(&stdin)}));

    assert!(text(&record).contains(" 1048576"), "{record}");
    assert_eq!(text(&record), text(&again));
}

#[test]
fn a_mebibyte_of_stdin_comes_back_whole() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let stdin = "0123456789abcdef".repeat(MIB / 16);

    let record = run(&mut conn, json!({"argv": ["cat"], "stdin": stdin}));

    assert_eq!(record["stdout_bytes"], MIB);
    assert!(out(&record) == stdin.as_bytes(), "the copy differs");
}

#[test]
fn a_command_that_does_not_read_its_stdin_is_not_held_up() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let stdin = "x".repeat(MIB);

    let record = run(&mut conn, json!({"cmd": "echo out; exit 3", "stdin": stdin}));

    assert_eq!(end(&record), exited(3));
    assert_eq!(text(&record), "out\n");
    wait_stats(&daemon, "/output/buffered_bytes", 0);
}

#[test]
fn a_command_that_closes_its_stdin_early_goes_on() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let stdin = "x".repeat(MIB);

    let record = run(&mut conn, json!({"cmd": "head -c 10; exec 0<&-; echo; echo after", "stdin": stdin}));

    assert_eq!(end(&record), exited(0));
    assert_eq!(text(&record), "xxxxxxxxxx\nafter\n");
}

#[test]
fn a_command_that_reads_late_gets_all() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let gate = daemon.launch.folder.gate();
    let stdin = "x".repeat(MIB);

    let id = conn.ask("exec.run", json!({"cmd": format!("{}; wc -c", gate.wait()), "stdin": stdin}));
    daemon.wait_running(1);
    daemon.control().ping();
    gate.open();

    assert_eq!(text(&record_of(&mut conn, &id)).trim(), "1048576");
}

#[test]
fn stdin_over_the_limit_is_too_large() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let stdin = "x".repeat(MIB + 1);

    for params in [json!({"cmd": "cat", "stdin": &stdin}), json!({"cmd": "cat", "stdin_b64": STANDARD.encode(&stdin)})]
    {
        let error = conn.refused("exec.run", params, "STDIN_TOO_LARGE");
        assert_eq!(error["data"]["limit"], MIB, "{error}");
    }
    assert_eq!(daemon.stats()["commands"]["started"], 0);
}

#[test]
fn the_limit_of_stdin_counts_bytes_and_is_exact() {
    let daemon = Daemon::start(&[("commands.max_stdin_bytes", json!(4))]);
    let mut conn = daemon.tcp();

    assert_eq!(text(&run(&mut conn, json!({"cmd": "cat", "stdin": "ää"}))), "ää");
    assert_eq!(text(&run(&mut conn, json!({"cmd": "cat", "stdin_b64": "YWJjZA=="}))), "abcd");
    conn.refused("exec.run", json!({"cmd": "cat", "stdin": "ääa"}), "STDIN_TOO_LARGE");
    conn.refused("exec.run", json!({"cmd": "cat", "stdin_b64": "YWJjZGU="}), "STDIN_TOO_LARGE");
    wait_stats(&daemon, "/commands/started", 2);
}
