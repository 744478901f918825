//! Parameters that are wrong: each is refused by name, and nothing has happened.

use crate::support::{Conn, Daemon, Value, json};

/// Sends a request whose params are this text: the error, that must be INVALID_PARAMS under the request's id.
#[track_caller]
fn invalid(client: &mut Conn, method: &str, params: &str) -> Value {
    client.send_line(format!(r#"{{"id":"it","method":"{method}","params":{params}}}"#));
    let answer = client.recv();
    assert_eq!(answer["error"]["data"]["reason"], "INVALID_PARAMS", "{method} {params}: {answer}");
    assert_eq!(answer["id"], "it", "{answer}");
    answer["error"].clone()
}

/// Refused, and the fault lies with this field.
#[track_caller]
fn invalid_field(client: &mut Conn, method: &str, params: &str, field: &str) {
    let error = invalid(client, method, params);
    let named = error["data"]["field"].as_str().unwrap_or_default();
    let last = named.rsplit('.').next().unwrap();
    assert!(named == field || last == field || named.starts_with(&format!("{field}.")), "{params}: {error}");
}

/// After all that was refused: nothing ran, nothing is open.
#[track_caller]
fn nothing_happened(daemon: &Daemon) {
    let stats = daemon.stats();
    assert_eq!(stats["commands"]["started"], 0, "{stats}");
    assert_eq!(stats["sessions"]["current"], 0, "{stats}");
}

#[test]
fn an_unknown_field_is_refused_with_its_name_and_the_accepted_ones() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let methods = [
        ("exec.run", r#"{"cmd":"true","colour":1}"#, "cmd"),
        ("session.open", r#"{"colour":1}"#, "cwd"),
        ("session.close", r#"{"session":"s","colour":1}"#, "session"),
        ("session.info", r#"{"session":"s","colour":1}"#, "session"),
        ("session.history", r#"{"session":"s","colour":1}"#, "last"),
    ];
    for (method, params, accepted) in methods {
        let error = invalid(&mut client, method, params);
        assert_eq!(error["data"]["field"], "colour", "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("colour") && message.contains(accepted), "{message}");
    }
    for method in ["system.ping", "system.info", "system.stats", "session.list", "system.unsubscribe"] {
        invalid_field(&mut client, method, r#"{"colour":1}"#, "colour");
    }
    nothing_happened(&daemon);
}

#[test]
fn an_unknown_field_inside_limits_is_refused() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for method in ["session.open", "exec.run"] {
        let cmd = if method == "exec.run" { r#""cmd":"true","# } else { "" };
        let error = invalid(&mut client, method, &format!(r#"{{{cmd}"limits":{{"colour":1}}}}"#));
        assert!(error["message"].as_str().unwrap().contains("colour"), "{error}");
    }
    nothing_happened(&daemon);
}

#[test]
fn a_field_of_params_that_stands_twice_is_refused() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    invalid_field(&mut client, "exec.run", r#"{"cmd":"true","cmd":"false"}"#, "cmd");
    invalid_field(&mut client, "exec.run", r#"{"cmd":"true","\u0063md":"false"}"#, "cmd");
    invalid_field(&mut client, "session.open", r#"{"name":"a","name":"a"}"#, "name");
    invalid(&mut client, "session.open", r#"{"env":{"A":"1","A":"2"}}"#);
    invalid(&mut client, "session.open", r#"{"limits":{"nofile":10,"nofile":20}}"#);
    nothing_happened(&daemon);
}

#[test]
fn a_field_of_the_wrong_type_is_refused() {
    let daemon = Daemon::start(&[("connections.max_bad_lines", json!(1))]);
    let mut client = daemon.tcp();
    let strings = ["1", "1.5", "true", "[]", "{}", r#"["x"]"#];
    for field in ["cmd", "session", "cwd", "stdin", "output_keep", "on_output_limit", "encoding", "on_disconnect"] {
        for value in strings {
            let cmd = if field == "cmd" { "" } else { r#""cmd":"true","# };
            invalid_field(&mut client, "exec.run", &format!(r#"{{{cmd}"{field}":{value}}}"#), field);
        }
    }
    let numbers = [r#""1""#, "true", "[]", "{}", r#""NaN""#, r#""Infinity""#];
    for field in ["timeout_s", "stall_timeout_s", "kill_grace_ms", "output_limit_bytes"] {
        for value in numbers {
            invalid_field(&mut client, "exec.run", &format!(r#"{{"cmd":"true","{field}":{value}}}"#), field);
        }
    }
    for value in ["1", r#""x""#, "[]", "true"] {
        for field in ["env", "limits"] {
            invalid_field(&mut client, "exec.run", &format!(r#"{{"cmd":"true","{field}":{value}}}"#), field);
            invalid_field(&mut client, "session.open", &format!(r#"{{"{field}":{value}}}"#), field);
        }
    }
    for value in ["1", r#""true""#, "[]", "{}"] {
        invalid_field(&mut client, "exec.run", &format!(r#"{{"cmd":"true","merge_stderr":{value}}}"#), "merge_stderr");
        invalid_field(&mut client, "session.open", &format!(r#"{{"persist":{value}}}"#), "persist");
        invalid_field(&mut client, "session.open", &format!(r#"{{"clear_env":{value}}}"#), "clear_env");
    }
    nothing_happened(&daemon);
}

#[test]
fn values_of_env_are_strings() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for value in ["1", "null", "true", "[]", "{}"] {
        let params = format!(r#"{{"env":{{"A":{value}}}}}"#);
        client.send_line(format!(r#"{{"id":1,"method":"session.open","params":{params}}}"#));
        let answer = client.recv();
        // null may mean that the variable is not there; anything else has no meaning.
        if value != "null" {
            assert_eq!(answer["error"]["data"]["reason"], "INVALID_PARAMS", "{params}: {answer}");
        }
    }
}

#[test]
fn inv7_numbers_out_of_range_are_refused() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let never = ["-1", "-1e308", "1e308", "1e400", "18446744073709551616", "-9223372036854775809"];
    let durations = ["0", "-0.5", "3600.001", "3601", "-2"];
    for value in never.iter().chain(&durations) {
        invalid_field(&mut client, "exec.run", &format!(r#"{{"cmd":"true","timeout_s":{value}}}"#), "timeout_s");
    }
    for value in never.iter().chain(&["0", "-0.5"]) {
        let params = format!(r#"{{"cmd":"true","stall_timeout_s":{value}}}"#);
        invalid_field(&mut client, "exec.run", &params, "stall_timeout_s");
    }
    for value in never.iter().chain(&["1.5", "4194305"]) {
        let params = format!(r#"{{"cmd":"true","output_limit_bytes":{value}}}"#);
        invalid_field(&mut client, "exec.run", &params, "output_limit_bytes");
    }
    for value in never {
        let params = format!(r#"{{"cmd":"true","kill_grace_ms":{value}}}"#);
        invalid_field(&mut client, "exec.run", &params, "kill_grace_ms");
        invalid_field(&mut client, "session.open", &format!(r#"{{"idle_s":{value}}}"#), "idle_s");
    }
    nothing_happened(&daemon);
}

#[test]
fn inv7_limits_out_of_range_are_refused() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let fields = ["cpu_sec", "memory_bytes", "address_space_bytes", "nproc", "nofile", "fsize_bytes"];
    for field in fields {
        // -1 asks for no limit at all, which raises the one there is.
        for value in ["0", "-1", "-2", "1e308", "1e400", "18446744073709551616", r#""1""#, "true", "[]"] {
            let limits = format!(r#"{{"{field}":{value}}}"#);
            invalid_field(&mut client, "session.open", &format!(r#"{{"limits":{limits}}}"#), field);
            invalid_field(&mut client, "exec.run", &format!(r#"{{"cmd":"true","limits":{limits}}}"#), field);
        }
    }
    nothing_happened(&daemon);
}

#[test]
fn a_bare_nan_is_no_json() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    client.ping();
    for value in ["NaN", "Infinity", "-Infinity", "0x10", "01", "+1", ".5", "1.", "1e"] {
        client.send_line(format!(r#"{{"id":1,"method":"exec.run","params":{{"cmd":"true","timeout_s":{value}}}}}"#));
        assert_eq!(client.recv()["error"]["data"]["reason"], "PARSE_ERROR", "{value}");
    }
    nothing_happened(&daemon);
}

#[test]
fn nul_in_a_string_that_becomes_a_c_string_is_refused() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    invalid_field(&mut client, "exec.run", r#"{"cmd":"tr\u0000ue"}"#, "cmd");
    invalid_field(&mut client, "exec.run", r#"{"argv":["/bin/echo","a\u0000b"]}"#, "argv");
    invalid_field(&mut client, "exec.run", r#"{"argv":["/bin/tr\u0000ue"]}"#, "argv");
    invalid_field(&mut client, "exec.run", r#"{"cmd":"true","cwd":"/t\u0000mp"}"#, "cwd");
    invalid_field(&mut client, "exec.run", r#"{"cmd":"true","env":{"A":"x\u0000y"}}"#, "env");
    invalid_field(&mut client, "exec.run", r#"{"cmd":"true","env":{"A\u0000":"x"}}"#, "env");
    invalid_field(&mut client, "session.open", r#"{"cwd":"/t\u0000mp"}"#, "cwd");
    invalid_field(&mut client, "session.open", r#"{"env":{"A\u0000B":"x"}}"#, "env");
    nothing_happened(&daemon);
}

#[test]
fn names_of_variables_that_cannot_be_are_refused() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for name in ["", "=", "A=B", "=A", "A="] {
        let env = format!(r#"{{"{name}":"x"}}"#);
        invalid_field(&mut client, "exec.run", &format!(r#"{{"cmd":"true","env":{env}}}"#), "env");
        invalid_field(&mut client, "session.open", &format!(r#"{{"env":{env}}}"#), "env");
    }
    nothing_happened(&daemon);
}

#[test]
fn what_to_run_is_given_exactly_once() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    invalid(&mut client, "exec.run", "{}");
    invalid(&mut client, "exec.run", r#"{"cmd":"true","argv":["/bin/true"]}"#);
    invalid_field(&mut client, "exec.run", r#"{"argv":[]}"#, "argv");
    for argv in [r#""/bin/true""#, "[1]", "[null]", "{}", r#"[["/bin/true"]]"#] {
        invalid_field(&mut client, "exec.run", &format!(r#"{{"argv":{argv}}}"#), "argv");
    }
    invalid(&mut client, "exec.run", r#"{"cmd":"cat","stdin":"a","stdin_b64":"YQ=="}"#);
    for text in ["a", "YQ", "YQ==YQ==", "!!!!", "YQ==\\n"] {
        invalid_field(&mut client, "exec.run", &format!(r#"{{"cmd":"cat","stdin_b64":"{text}"}}"#), "stdin_b64");
    }
    nothing_happened(&daemon);
}

#[test]
fn words_that_are_none_of_the_choices_are_refused() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for field in ["output_keep", "on_output_limit", "encoding", "on_disconnect"] {
        for word in ["", "no_such", "TAIL", "truncate "] {
            invalid_field(&mut client, "exec.run", &format!(r#"{{"cmd":"true","{field}":"{word}"}}"#), field);
        }
    }
    nothing_happened(&daemon);
}

#[test]
fn a_field_that_is_missing_is_named() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    for method in ["session.close", "session.info", "session.history"] {
        invalid_field(&mut client, method, "{}", "session");
    }
    invalid_field(&mut client, "system.subscribe", "{}", "interval_ms");
}

#[test]
fn null_means_the_default() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let nulls = json!({
        "session": null, "cmd": "echo hi", "argv": null, "cwd": null, "env": null, "stdin": null, "stdin_b64": null,
        "timeout_s": null, "stall_timeout_s": null, "kill_grace_ms": null, "limits": null, "output_limit_bytes": null,
        "output_keep": null, "on_output_limit": null, "merge_stderr": null, "encoding": null, "on_disconnect": null,
    });
    assert_eq!(client.ok("exec.run", nulls)["stdout"], "hi\n");
    let nulls = json!({"name": null, "cwd": null, "env": null, "clear_env": null, "limits": null, "idle_s": null,
        "persist": null});
    client.ok("session.open", nulls);
    client.ok("exec.run", json!({"cmd": "true", "limits": {"nofile": null}}));
}
