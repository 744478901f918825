//! A daemon started with odd descriptors, streams or variables works, or refuses clearly.

use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStringExt;
use std::process::Stdio;

use crate::exec_support::*;
use crate::support::*;

/// Starts `launch` with its stderr replaced, and takes charge of it.
#[track_caller]
fn start_with_stderr(launch: Launch, stderr: Stdio) -> (Daemon, Option<std::process::ChildStderr>) {
    let mut child = launch.command().stderr(stderr).spawn().unwrap();
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
    let address = ready["listen"].as_str().map(|text| text.parse().unwrap());
    let log = child.stderr.take();
    (Daemon::adopt(child, launch, ready, address), log)
}

/// Enough of everything to fill a pipe with log lines.
#[track_caller]
fn keep_busy(daemon: &Daemon) {
    let mut conn = daemon.tcp();
    for number in 0..150 {
        assert_eq!(end(&run(&mut conn, json!({"argv": ["true"]}))), exited(0), "{number}");
        conn.refused("exec.run", json!({"argv": ["/nope"]}), "SPAWN_FAILED");
        conn.refused("no.such.method", json!({}), "METHOD_NOT_FOUND");
        drop(daemon.tcp());
    }
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    let (daemon, unread) = start_with_stderr(Launch::new().env("RUST_LOG", "trace"), Stdio::piped());

    keep_busy(&daemon);

    drop(daemon);
    drop(unread);
}

#[test]
fn a_log_that_is_gone_holds_nothing_up() {
    let (daemon, log) = start_with_stderr(Launch::new().env("RUST_LOG", "trace"), Stdio::piped());

    drop(log);
    keep_busy(&daemon);
}

#[test]
fn a_log_on_a_full_disk_holds_nothing_up() {
    let full: File = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let (daemon, _) = start_with_stderr(Launch::new().env("RUST_LOG", "trace"), full.into());

    keep_busy(&daemon);
}

#[test]
fn a_daemon_without_stdin_and_stderr_runs() {
    fn close_both() -> std::io::Result<()> {
        nix::unistd::close(0)?;
        nix::unistd::close(2)?;
        Ok(())
    }
    let daemon = Launch::new().before_exec(close_both).start();
    let mut conn = daemon.tcp();

    // A socket that took the place of descriptor 2 would receive what is logged.
    assert_eq!(text(&sh(&mut conn, "ls /proc/$$/fd")), "0\n1\n2\n");
    keep_busy(&daemon);
}

#[test]
fn a_daemon_without_any_standard_stream_runs() {
    fn close_all() -> std::io::Result<()> {
        for fd in 0..3 {
            nix::unistd::close(fd)?;
        }
        Ok(())
    }
    let launch = Launch::new().without_tcp().before_exec(close_all);
    let child = launch.command().spawn().unwrap();
    let daemon = Daemon::adopt(child, launch, Value::Null, None);
    let mut conn = daemon.unix();

    assert_eq!(text(&sh(&mut conn, "echo out; ls /proc/$$/fd")), "out\n0\n1\n2\n");
    assert_well(&mut conn);
}

#[test]
fn variables_that_are_no_text_do_no_harm() {
    let bad = |text: &[u8]| std::ffi::OsString::from_vec(text.to_vec());
    let launch = Launch::new().env("BAD", bad(b"\xff\xfe")).env(bad(b"NAME\xff"), "x").env("RUST_LOG", bad(b"\xff"));
    let launch = launch.set("children.pass_env", json!([crate::support::launch::MARK, "BAD"]));
    let daemon = launch.start();
    let mut conn = daemon.tcp();

    let record = sh(&mut conn, "printf %s \"$BAD\"");

    assert_eq!(out(&record), b"\xff\xfe", "passed on as it is");
}

#[test]
fn a_daemon_started_with_small_limits_works_within_them() {
    fn small() -> std::io::Result<()> {
        rlimit::setrlimit(rlimit::Resource::STACK, 1 << 20, 1 << 20)?;
        rlimit::setrlimit(rlimit::Resource::FSIZE, 64 << 20, 64 << 20)?;
        rlimit::setrlimit(rlimit::Resource::CORE, 0, 0)
    }
    let daemon = Launch::new().before_exec(small).start();
    let mut conn = daemon.tcp();

    assert_well(&mut conn);
    let record = sh(&mut conn, "ulimit -f");
    assert!(text(&record).trim().parse::<u64>().is_ok_and(|blocks| blocks <= 131_072), "{record}");
}

#[test]
fn a_daemon_of_an_ordinary_user_runs_commands_as_itself_and_says_so() {
    let daemon = start_as_nobody();
    let mut conn = daemon.tcp();
    let uid = procs::status_field(daemon.runtime_pid, "Uid:").unwrap();
    let uid = uid.split_whitespace().next().unwrap();

    assert_eq!(text(&sh(&mut conn, "id -u")).trim(), uid);
    let info = conn.ok("system.info", json!({})).to_string();
    assert!(info.contains("reach"), "system.info says that commands can reach the daemon: {info}");
}

#[test]
fn a_tree_of_an_ordinary_user_is_ended_too() {
    let Some(_) = tool("setsid") else { return };
    let daemon = start_as_nobody();
    let mut conn = daemon.tcp();
    let mark = mark();

    let cmd = format!(
        "env -i setsid sh -c 'setsid sleep {mark} & sleep {mark} &'; (sleep {mark} &); nohup sleep {mark} & exit 4"
    );
    let record = sh(&mut conn, &cmd);

    assert_eq!(end(&record), exited(4));
    wait_gone(&mark);
    assert_well(&mut conn);
}
