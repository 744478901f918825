//! inv14: nothing of ours leaks into a command, whatever the daemon itself was started with.

use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::signal::{SigHandler, SigSet, signal};
use nix::sys::stat::{Mode, umask};

use crate::exec_support::*;
use crate::support::*;

/// Started by somebody careless: stray descriptors, ignored and blocked signals, an open umask.
fn careless() -> std::io::Result<()> {
    let stray = open("/etc/passwd", OFlag::O_RDONLY, Mode::empty())?;
    fcntl(&stray, FcntlArg::F_DUPFD(9))?;
    fcntl(&stray, FcntlArg::F_DUPFD(100))?;
    std::mem::forget(stray);
    for ignored in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGCHLD, Signal::SIGPIPE, Signal::SIGUSR1, Signal::SIGXFSZ]
    {
        // SAFETY: sets a disposition, runs no handler.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    SigSet::all().thread_block()?;
    umask(Mode::empty());
    Ok(())
}

#[test]
fn inv14_a_command_has_descriptors_0_1_and_2_only() {
    let daemon = Launch::new().before_exec(careless).start();
    let mut conn = daemon.tcp();

    assert_eq!(text(&sh(&mut conn, "ls /proc/$$/fd")), "0\n1\n2\n");
    let record = run(&mut conn, json!({"cmd": "ls /proc/$$/fd", "stdin": "x", "merge_stderr": true}));
    assert_eq!(text(&record), "0\n1\n2\n");
}

#[test]
fn inv14_signals_of_a_command_are_neither_blocked_nor_ignored() {
    let daemon = Launch::new().before_exec(careless).start();
    let mut conn = daemon.tcp();

    let status = text(&run(&mut conn, json!({"argv": ["cat", "/proc/self/status"]})));

    for mask in ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt"] {
        let row = status.lines().find_map(|line| line.strip_prefix(mask)).unwrap_or_else(|| panic!("{status}"));
        assert_eq!(row.trim_start_matches(':').trim().trim_start_matches('0'), "", "{mask} of {status}");
    }
}

#[test]
fn inv14_the_umask_of_a_command_is_the_configured_one() {
    let daemon = Launch::new().before_exec(careless).start();
    let mut conn = daemon.tcp();
    assert_eq!(text(&sh(&mut conn, "umask")).trim_start_matches('0'), "77\n");

    let daemon = Daemon::start(&[("children.umask", json!("027"))]);
    let mut conn = daemon.tcp();
    assert_eq!(text(&sh(&mut conn, "umask")).trim_start_matches('0'), "27\n");
}

#[test]
fn inv14_a_command_has_no_terminal_and_a_session_of_its_own() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let fields = text(&run(&mut conn, json!({"argv": ["cut", "-d", " ", "-f", "1,5-7", "/proc/self/stat"]})));
    let fields: Vec<&str> = fields.split_whitespace().collect();
    assert_eq!([fields[1], fields[2], fields[3]], [fields[0], fields[0], "0"], "pid, group, session, terminal");

    assert_eq!(text(&sh(&mut conn, "(: </dev/tty) 2>/dev/null && echo open; true")), "");
}

#[test]
fn inv14_a_command_of_a_daemon_with_a_terminal_has_none() {
    let Some(script) = tool("script") else { return };
    let launch = Launch::new();
    let shared = Shared::new();
    // The daemon is started from a terminal, as by a person; its own output goes to a file.
    let mut line = String::from("exec");
    for argument in std::iter::once(launch.command().get_program()).chain(launch.command().get_args()) {
        line.push_str(&format!(" '{}'", argument.to_str().unwrap()));
    }
    line.push_str(&format!(" >{} 2>{}", shared.text("ready"), shared.text("log")));
    let mut terminal = std::process::Command::new(script)
        .args(["-qec", &line, "/dev/null"])
        .current_dir(launch.folder.path())
        .env(crate::support::launch::MARK, &launch.mark)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let ready: Value = wait_until("the daemon is ready", DEADLINE, || {
        serde_json::from_str(std::fs::read_to_string(shared.path("ready")).ok()?.lines().next()?).ok()
    });

    let mut conn = Conn::tcp(ready["listen"].as_str().unwrap().parse().unwrap(), &Default::default()).unwrap();
    let record = sh(&mut conn, "cut -d' ' -f7 /proc/$$/stat; (: </dev/tty) 2>/dev/null && echo open; ls /proc/$$/fd");
    let pid = nix::unistd::Pid::from_raw(ready["pid"].as_i64().unwrap() as i32);
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    wait_until("the terminal is left", DEADLINE, || terminal.try_wait().unwrap());

    assert_eq!(text(&record), "0\n0\n1\n2\n");
}

#[test]
fn a_command_gains_no_privileges() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let pid = std::process::id() as i32;
    let record = sh(&mut conn, "cat /proc/self/status; cat /proc/self/oom_score_adj");
    let status = text(&record);
    let row = |name: &str| {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {status}"));
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };

    assert_eq!(row("NoNewPrivs:"), ["1"]);
    assert_eq!(status.lines().last(), Some("500"), "the first to go when memory runs out");
    let own = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    let of_daemon = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", daemon.runtime_pid)).unwrap();
    assert_eq!(of_daemon, own, "that of the daemon is as it was started");
    if !is_root() {
        return skip("uids, groups and capabilities: this daemon is not root");
    }
    for name in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(row(name), ["0000000000000000"], "{name}");
    }
    assert_eq!(row("Groups:"), [""; 0]);
    for name in ["Uid:", "Gid:"] {
        let ids = row(name);
        assert_eq!(ids, vec![ids[0].clone(); 4], "{name}");
        assert!(daemon.launch.uids.contains(&ids[0].parse().unwrap()), "{name} {ids:?}");
    }
}

#[test]
fn the_outputs_of_a_command_open_by_their_names() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let record = sh(&mut conn, "echo a >/dev/stdout; echo b >/dev/stderr; echo c >/proc/self/fd/1; cat /dev/stdin");

    assert_eq!(
        (end(&record), text(&record).as_str(), err(&record).as_slice()),
        (exited(0), "a\nc\n", b"b\n".as_slice())
    );
}

#[test]
fn what_a_command_does_to_its_descriptors_does_not_reach_the_daemon() {
    let Some(python) = python() else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let flags = |pid: i32| {
        let info = |fd: i32| std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok();
        let flags = |text: String| text.lines().find(|line| line.starts_with("flags:")).map(str::to_owned);
        (0..3).map(|fd| flags(info(fd)?)).collect::<Option<Vec<_>>>()
    };
    let before = (flags(daemon.pid), flags(daemon.runtime_pid));

    let script = "import fcntl, os\nfor f in (0, 1, 2): fcntl.fcntl(f, fcntl.F_SETFL, fcntl.fcntl(f, fcntl.F_GETFL) | os.O_NONBLOCK | os.O_APPEND)";
    assert_eq!(end(&run(&mut conn, json!({"argv": [python, "-c", script]}))), exited(0));

    assert_eq!((flags(daemon.pid), flags(daemon.runtime_pid)), before);
    assert_well(&mut conn);
}
