//! `serve`, `check` and `doctor`: the configuration they read, and what they say about it.

use crate::exec_support::*;
use crate::support::*;
use crate::{Done, Running, cofferdam};

/// The command line in a folder of its own that holds `config.json`, if any.
#[track_caller]
fn with_config(config: Option<&str>, arguments: &[&str]) -> Done {
    let shared = ours();
    if let Some(config) = config {
        shared.file("config.json", config, 0o644);
    }
    Running::start(cofferdam(arguments).current_dir(shared.as_ref())).wait()
}

/// A folder whose configuration root may read: only we can write to it.
fn ours() -> Shared {
    use std::os::unix::fs::PermissionsExt;
    let shared = Shared::new();
    std::fs::set_permissions(shared.as_ref(), std::fs::Permissions::from_mode(0o755)).unwrap();
    shared
}

#[track_caller]
fn json_of(done: &Done) -> Value {
    serde_json::from_slice(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.out()))
}

#[test]
fn check_prints_the_defaults() {
    let config = json_of(with_config(None, &["check"]).expect_quiet(0));

    for (pointer, value) in [
        ("/listen", json!("127.0.0.1:7643")),
        ("/unix_socket_mode", json!("0600")),
        ("/connections/max_connections", json!(256)),
        ("/connections/max_line_bytes", json!(2 << 20)),
        ("/sessions/max_sessions", json!(64)),
        ("/commands/max_commands", json!(16)),
        ("/commands/max_output_bytes", json!(4 << 20)),
        ("/commands/kill_grace_ms", json!(500)),
        ("/limits/limit_memory_bytes", json!(256 << 20)),
        ("/limits/limit_core_bytes", json!(0)),
        ("/quotas/registered/sessions", json!(8)),
        ("/children/run_as", json!("auto")),
        ("/children/umask", json!("077")),
        ("/children/oom_score_adj", json!(500)),
        ("/memory/strict", json!(false)),
        ("/cgroup/mode", json!("auto")),
        ("/reaper/interval_ms", json!(1000)),
        ("/rate/rate", json!(null)),
    ] {
        let found = config.pointer(pointer).unwrap_or_else(|| panic!("no {pointer} in {config}"));
        match (found.as_f64(), value.as_f64()) {
            (Some(found), Some(value)) => assert_eq!(found, value, "{pointer}"),
            _ => assert_eq!(found, &value, "{pointer}"),
        }
    }
}

#[test]
fn the_config_in_the_repository_holds_every_key_with_its_default() {
    let path = format!("{}/config.json", env!("CARGO_MANIFEST_DIR"));
    let shipped: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    // The repository may be somebody's whom a daemon of root's does not trust.
    let shared = ours();
    let path = shared.file("shipped.json", std::fs::read(&path).unwrap(), 0o644);

    let defaults = json_of(with_config(None, &["check"]).expect_quiet(0));
    let effective = json_of(with_config(None, &["check", "--config", &path]).expect_quiet(0));

    assert_eq!(effective, defaults);
    let keys = |value: &Value| -> Vec<String> {
        let groups = value.as_object().unwrap().iter();
        let inner = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
        groups
            .map(|(group, value)| (group, inner(value)))
            .map(|(group, keys): (_, Vec<String>)| format!("{group} {keys:?}"))
            .collect()
    };
    assert_eq!(keys(&shipped), keys(&defaults));
}

#[test]
fn check_prints_what_a_partial_configuration_makes() {
    let done = with_config(Some(r#"{"commands":{"max_commands":3},"limits":{"limit_nofile":-1}}"#), &["check"]);

    let config = json_of(done.expect_quiet(0));
    assert_eq!(config["commands"]["max_commands"], 3);
    assert_eq!(config["limits"]["limit_nofile"], -1);
    assert_eq!(config["commands"]["max_queued"], 256, "the rest of the group keeps its defaults");
}

#[test]
fn inv18_all_errors_of_a_configuration_are_told_at_once() {
    let config = r#"{"comands":{},"commands":{"max_commands":0,"default_timeout_s":"long"},
        "limits":{"limit_nofile":2},"quotas":{"model":"deep"},"children":{"umask":"999"},"listen":7643}"#;

    for command in ["check", "serve"] {
        let done = with_config(Some(config), &[command]);
        done.expect_said(
            2,
            &[
                "config.json",
                "comands",
                "max_commands",
                "default_timeout_s",
                "limit_nofile",
                "model",
                "umask",
                "listen",
            ],
        );
        assert_eq!(done.out(), "", "{command}");
        for accepted in ["flat", "strict_two_level"] {
            assert!(done.stderr.contains(accepted), "what is accepted is told: {}", done.stderr);
        }
    }
}

#[test]
fn a_configuration_that_is_no_json_says_where() {
    for config in ["{", "[]", "", "{\"listen\":null,}", "{\"listen\":null}{}", "\u{feff}nonsense"] {
        with_config(Some(config), &["check"]).expect_said(2, &["config.json"]);
    }
}

#[test]
fn a_named_configuration_must_be_there() {
    with_config(None, &["check", "--config", "missing.json"]).expect_said(2, &["missing.json"]);
    with_config(None, &["serve", "--config", "missing.json"]).expect_said(2, &["missing.json"]);
    with_config(None, &["check", "--config", "/dev"]).expect_said(2, &["/dev"]);
}

#[test]
fn a_configuration_that_is_a_fifo_does_not_hang() {
    let shared = Shared::new();
    nix::unistd::mkfifo(&shared.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();

    let done = with_config(None, &["check", "--config", &shared.text("fifo")]);

    assert_eq!(done.code(), 2, "{}", done.stderr);
}

#[test]
fn a_listener_that_is_not_loopback_is_refused() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:7643", "[2001:db8::1]:7643"] {
        let done = with_config(None, &["serve", "--listen", address]);
        done.expect_said(2, &["loopback"]);
        assert_eq!(done.out(), "", "{address}");
        with_config(Some(&json!({"listen": address}).to_string()), &["check"]).expect_said(2, &["loopback"]);
    }
}

#[test]
fn set_is_checked_like_the_file() {
    for setting in
        ["commands.max_commands=0", "commands.nothing=1", "nothing=1", "commands.max_commands", "=1", "listen={"]
    {
        let done = with_config(None, &["serve", "--listen", "127.0.0.1:0", "--set", setting]);
        assert_eq!((done.code(), done.out().as_str()), (2, ""), "{setting}: {}", done.stderr);
        assert!(!done.stderr.is_empty(), "{setting}");
    }
}

#[test]
fn serve_is_the_default_and_reads_the_configuration_here() {
    let shared = ours();
    let uids = Launch::new();
    let mut children = json!({});
    if is_root() {
        children = json!({"uid_base": uids.uids.start, "uid_count": uids.uids.len()});
    }
    let config = json!({"listen": "127.0.0.1:0", "sessions": {"max_sessions": 7}, "children": children});
    shared.file("config.json", config.to_string(), 0o644);
    let mut child = cofferdam::<&str>(&[]).current_dir(shared.as_ref()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line).unwrap();

    let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    assert_eq!((&ready["ready"], &ready["unix_socket"]), (&json!(true), &json!(null)), "{ready}");
    assert_eq!(ready["pid"], child.id(), "the process to signal");
    let mut conn = Conn::tcp(ready["listen"].as_str().unwrap().parse().unwrap(), &Default::default()).unwrap();
    assert_eq!(conn.ok("system.info", json!({}))["limits"]["max_sessions"], 7);

    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    let status = wait_until("it stops", DEADLINE, || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn doctor_tells_by_what_each_limit_binds() {
    let done = with_config(None, &["doctor"]);

    assert!([0, 1].contains(&done.code()), "{}", done.stderr);
    for limit in ["cpu", "memory", "address_space", "nproc", "nofile", "fsize", "core"] {
        assert!(done.out().contains(limit), "{limit} is not in {}", done.out());
    }
}

#[test]
fn doctor_tells_it_as_json_too() {
    let done = with_config(None, &["doctor", "--json"]);

    assert!([0, 1].contains(&done.code()), "{}", done.stderr);
    let report = json_of(&done);
    for limit in ["cpu_sec", "memory_bytes", "nproc", "nofile"] {
        assert!(find(&report, limit).is_some() || report.to_string().contains(limit), "{limit} is not in {report}");
    }
}

#[test]
fn doctor_refuses_a_bad_configuration() {
    with_config(Some(r#"{"commands":{"max_commands":0}}"#), &["doctor"]).expect_said(2, &["max_commands"]);
}
