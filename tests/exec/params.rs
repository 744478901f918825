//! Section 6, the table of params: what is accepted, and that a refusal names the field and changes nothing.

use crate::exec_support::*;
use crate::support::*;

/// Refused with INVALID_PARAMS, and `field` says which one; a limit may be named with its group or without.
#[track_caller]
fn assert_at_fault(conn: &mut Conn, params: Value, field: &str) {
    let shown = brief(&params);
    let error = conn.refused("exec.run", params, "INVALID_PARAMS");
    let named = error["data"]["field"].as_str().unwrap_or_else(|| panic!("no field for {shown}: {error}"));
    let inner = field.rsplit('.').next().unwrap_or(field);
    assert!(named == field || named == inner, "{shown}: {field} is at fault, not {named}: {error}");
}

/// `{"cmd":"true"}` with this field on top; `limits.x` goes into `limits`.
fn with(field: &str, value: Value) -> Value {
    match field.split_once('.') {
        Some((group, inner)) => json!({"cmd": "true", group: {inner: value}}),
        None if field == "argv" => json!({"argv": value}),
        None => json!({"cmd": "true", field: value}),
    }
}

/// Nothing ran, nothing was opened, nothing is claimed.
#[track_caller]
fn assert_untouched(daemon: &Daemon) {
    let stats = daemon.stats();
    assert_eq!(stats["commands"]["started"], 0, "{stats}");
    assert_eq!(stats["sessions"]["opened"], stats["sessions"]["closed"], "{stats}");
    assert_eq!(stats["output"]["buffered_bytes"], 0, "{stats}");
}

#[test]
fn exactly_one_of_cmd_and_argv_is_asked_for() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    conn.refused("exec.run", json!({}), "INVALID_PARAMS");
    conn.refused("exec.run", json!({"cmd": null, "argv": null}), "INVALID_PARAMS");
    conn.refused("exec.run", json!({"cmd": "true", "argv": ["true"]}), "INVALID_PARAMS");
    assert_untouched(&daemon);

    assert_eq!(end(&run(&mut conn, json!({"cmd": "exit 3", "argv": null}))), exited(3));
    assert_eq!(end(&run(&mut conn, json!({"argv": ["sh", "-c", "exit 4"], "cmd": null}))), exited(4));
}

#[test]
fn cmd_is_a_line_for_the_shell_and_argv_is_not() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    assert_eq!(text(&run(&mut conn, json!({"cmd": "echo $((1+1)) 'a  b'"}))), "2 a  b\n");
    assert_eq!(text(&run(&mut conn, json!({"argv": ["echo", "$((1+1))", "a  b", "", "*"]}))), "$((1+1)) a  b  *\n");
    assert_eq!(end(&run(&mut conn, json!({"cmd": ""}))), exited(0));
}

#[test]
fn argv_and_its_program_must_not_be_empty() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    assert_at_fault(&mut conn, json!({"argv": []}), "argv");
    assert_at_fault(&mut conn, json!({"argv": [""]}), "argv");
    assert_untouched(&daemon);
}

#[test]
fn a_nul_byte_where_a_command_is_built_is_invalid_params() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    assert_at_fault(&mut conn, json!({"cmd": "echo a\u{0}b"}), "cmd");
    assert_at_fault(&mut conn, json!({"argv": ["echo", "a\u{0}b"]}), "argv");
    assert_at_fault(&mut conn, json!({"argv": ["\u{0}"]}), "argv");
    assert_at_fault(&mut conn, json!({"cmd": "true", "cwd": "/\u{0}"}), "cwd");
    assert_at_fault(&mut conn, json!({"cmd": "true", "env": {"A": "b\u{0}"}}), "env");
    assert_at_fault(&mut conn, json!({"cmd": "true", "env": {"A\u{0}": "b"}}), "env");
    assert_untouched(&daemon);
}

#[test]
fn a_name_of_a_variable_is_not_empty_and_holds_no_equals_sign() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    assert_at_fault(&mut conn, json!({"cmd": "true", "env": {"": "b"}}), "env");
    assert_at_fault(&mut conn, json!({"cmd": "true", "env": {"A=B": "b"}}), "env");
    assert_at_fault(&mut conn, json!({"cmd": "true", "env": {"=": ""}}), "env");
    assert_untouched(&daemon);

    assert_eq!(text(&run(&mut conn, json!({"cmd": "echo \"$A\"", "env": {"A": "b=c"}}))), "b=c\n");
}

#[test]
fn a_param_of_a_wrong_type_is_refused_by_its_name() {
    let wrong = [
        ("session", json!(1)),
        ("cmd", json!(["true"])),
        ("cmd", json!(1)),
        ("argv", json!("true")),
        ("argv", json!({})),
        ("argv", json!(["true", 1])),
        ("argv", json!([null])),
        ("cwd", json!(1)),
        ("env", json!([])),
        ("env", json!("A=b")),
        ("env", json!({"A": 1})),
        ("env", json!({"A": null})),
        ("stdin", json!(1)),
        ("stdin_b64", json!([])),
        ("timeout_s", json!("1")),
        ("timeout_s", json!(true)),
        ("stall_timeout_s", json!("1")),
        ("kill_grace_ms", json!("1")),
        ("limits", json!([])),
        ("limits", json!(1)),
        ("limits.cpu_sec", json!("1")),
        ("limits.memory_bytes", json!("64M")),
        ("limits.nofile", json!([])),
        ("output_limit_bytes", json!("1")),
        ("output_limit_bytes", json!({})),
        ("output_keep", json!(1)),
        ("on_output_limit", json!(false)),
        ("merge_stderr", json!(1)),
        ("merge_stderr", json!("true")),
        ("encoding", json!(8)),
        ("stream", json!("yes")),
        ("on_disconnect", json!(true)),
    ];
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for (field, value) in wrong {
        assert_at_fault(&mut conn, with(field, value), field);
    }
    assert_untouched(&daemon);
}

#[test]
fn a_param_out_of_range_is_refused_by_its_name() {
    let too_big = json!(18_446_744_073_709_551_616.0_f64);
    let out_of_range = [
        ("timeout_s", json!(0)),
        ("timeout_s", json!(-1)),
        ("timeout_s", json!(3600.001)),
        ("timeout_s", json!(1e308)),
        ("timeout_s", too_big.clone()),
        ("stall_timeout_s", json!(0)),
        ("stall_timeout_s", json!(-0.5)),
        ("kill_grace_ms", json!(-1)),
        ("output_limit_bytes", json!(-1)),
        ("output_limit_bytes", json!(1.5)),
        ("output_limit_bytes", json!(4 * 1024 * 1024 + 1)),
        ("output_limit_bytes", json!(u64::MAX)),
        ("output_limit_bytes", too_big.clone()),
        ("output_keep", json!("middle")),
        ("output_keep", json!("TAIL")),
        ("on_output_limit", json!("stop")),
        ("encoding", json!("latin1")),
        ("encoding", json!("utf8")),
        ("on_disconnect", json!("later")),
        ("limits.cpu_sec", json!(0)),
        ("limits.cpu_sec", json!(-2)),
        ("limits.cpu_sec", json!(1e308)),
        ("limits.memory_bytes", json!(0)),
        ("limits.memory_bytes", json!(1.5e6 + 0.5)),
        ("limits.memory_bytes", too_big),
        ("limits.nproc", json!(0)),
        ("limits.nproc", json!(-3)),
        ("limits.nofile", json!(0)),
        ("limits.fsize_bytes", json!(0)),
        ("limits.core_bytes", json!(-2)),
        ("limits.memory", json!(1 << 26)),
    ];
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for (field, value) in out_of_range {
        assert_at_fault(&mut conn, with(field, value), field);
    }
    assert_untouched(&daemon);
}

#[test]
fn numbers_that_json_cannot_hold_are_refused_and_change_nothing() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    conn.ping();

    for number in ["NaN", "1e999", "-1e999", "+1", "01", "1.", "0x10", "Infinity"] {
        conn.send_line(format!(r#"{{"id":1,"method":"exec.run","params":{{"cmd":"true","timeout_s":{number}}}}}"#));
        let answer = conn.recv();
        assert!(
            ["PARSE_ERROR", "INVALID_PARAMS"].contains(&answer["error"]["data"]["reason"].as_str().unwrap_or("none")),
            "{number}: {answer}"
        );
    }
    assert_untouched(&daemon);
    assert_well(&mut conn);
}

#[test]
fn the_edges_of_the_ranges_are_accepted() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for (field, value) in [
        ("timeout_s", json!(3600)),
        ("timeout_s", json!(3600.0)),
        ("stall_timeout_s", json!(3600)),
        ("kill_grace_ms", json!(0)),
        ("output_limit_bytes", json!(0)),
        ("output_limit_bytes", json!(4 * 1024 * 1024)),
        ("limits.cpu_sec", json!(1)),
        ("limits.cpu_sec", json!(60)),
        ("limits.memory_bytes", json!(256 << 20)),
        ("limits.address_space_bytes", json!(4_u64 << 30)),
        ("limits.nproc", json!(64)),
        ("limits.nofile", json!(256)),
        ("limits.fsize_bytes", json!(256 << 20)),
        ("limits.core_bytes", json!(0)),
    ] {
        let params = with(field, value);
        assert_eq!(end(&run(&mut conn, params.clone())), exited(0), "{params}");
    }
}

#[test]
fn null_is_the_default_of_every_param() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = run(
        &mut conn,
        json!({
            "cmd": "cat; echo done", "session": null, "argv": null, "cwd": null, "env": null, "stdin": null,
            "stdin_b64": null, "timeout_s": null, "stall_timeout_s": null, "kill_grace_ms": null, "limits": null,
            "output_limit_bytes": null, "output_keep": null, "on_output_limit": null, "merge_stderr": null,
            "encoding": null, "stream": null, "on_disconnect": null
        }),
    );

    assert_eq!(end(&record), exited(0));
    assert_eq!(text(&record), "done\n");
}

#[test]
fn null_is_the_default_of_every_limit() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let limits = json!({"cpu_sec": null, "memory_bytes": null, "address_space_bytes": null, "nproc": null,
        "nofile": null, "fsize_bytes": null, "core_bytes": null});

    assert_eq!(end(&run(&mut conn, json!({"cmd": "true", "limits": limits}))), exited(0));
}

#[test]
fn an_unknown_param_is_named_together_with_the_accepted_ones() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let error = conn.refused("exec.run", json!({"cmd": "true", "time_out": 1}), "INVALID_PARAMS");

    let message = error["message"].as_str().unwrap_or_default();
    for name in ["time_out", "timeout_s", "cmd", "argv", "output_keep"] {
        assert!(message.contains(name), "{name} is not in {message:?}");
    }
    assert_untouched(&daemon);
}

#[test]
fn a_param_that_stands_twice_is_invalid_params() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    conn.ping();

    for params in [
        r#"{"cmd":"true","cmd":"false"}"#,
        r#"{"cmd":"true","timeout_s":1,"timeout_s":1}"#,
        r#"{"cmd":"true","env":{"A":"1","A":"2"}}"#,
        r#"{"cmd":"true","limits":{"nofile":9,"nofile":8}}"#,
    ] {
        conn.send_line(format!(r#"{{"id":1,"method":"exec.run","params":{params}}}"#));
        let answer = conn.recv();
        assert_eq!(answer["error"]["data"]["reason"], "INVALID_PARAMS", "{params}: {answer}");
    }
    assert_untouched(&daemon);
}

#[test]
fn params_are_an_object_or_absent() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    conn.ping();

    for params in [json!(["true"]), json!([]), json!("true"), json!(1), json!(true)] {
        conn.refused("exec.run", params, "INVALID_PARAMS");
    }
    conn.send_line(r#"{"id":"absent","method":"exec.run"}"#);
    assert_eq!(conn.recv()["error"]["data"]["reason"], "INVALID_PARAMS");
    assert_untouched(&daemon);
}

#[test]
fn a_session_that_was_never_issued_is_not_found() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let error = conn.refused("exec.run", json!({"session": "s987654", "cmd": "true"}), "SESSION_NOT_FOUND");

    assert_eq!(error["data"]["session"], "s987654");
    assert_untouched(&daemon);
}

#[test]
fn a_closed_session_is_not_found() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    close(&mut conn, &session);

    conn.refused("exec.run", json!({"session": session, "cmd": "true"}), "SESSION_NOT_FOUND");
}
