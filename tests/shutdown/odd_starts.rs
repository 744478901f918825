//! Starts that are cut short, stand in each other's way, or inherit odd things.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, sigprocmask};

use crate::support::{self, DEADLINE, Daemon, Launch, Signal, Value, is_root, json, procs, skip, wait_until};

#[test]
fn a_signal_at_any_moment_of_the_start_ends_it_without_leftovers() {
    type Moment = fn(&Launch, i32) -> bool;
    let moments: [Moment; 3] =
        [|_, _| true, |_, guard| !procs::children(guard).is_empty(), |launch, _| launch.socket().exists()];
    for turn in 0..12 {
        let launch = Launch::new();
        let mut child = launch.command().spawn().unwrap();
        let guard = child.id() as i32;
        wait_until("the moment has come", DEADLINE, || moments[turn % 3](&launch, guard).then_some(()));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(guard), Signal::SIGTERM).unwrap();
        let status = wait_until("it ends", DEADLINE, || child.try_wait().unwrap());
        // Before it has begun to listen for signals it dies of this one like any process.
        assert!(status.success() || status.signal() == Some(15), "{status}");
        let mark = format!("{}={}", support::launch::MARK, launch.mark);
        wait_until("nothing of it is left", DEADLINE, || procs::marked(&mark).is_empty().then_some(()));
        assert!(!launch.socket().exists(), "the socket is left");
    }
}

#[test]
fn a_second_daemon_on_a_socket_in_use_is_refused_and_leaves_it_alone() {
    let daemon = Daemon::start(&[]);
    let launch = Launch::new().without_unix();
    let mut command = launch.command();
    let output = command.arg("--unix-socket").arg(daemon.launch.socket()).stderr(Stdio::piped()).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&*daemon.launch.socket().to_string_lossy()), "{said}");
    daemon.unix().ping();
}

#[test]
fn inv18_a_second_daemon_on_uids_of_another_is_refused() {
    if !is_root() {
        return skip("only root has a pool of uids");
    }
    let daemon = Daemon::start(&[]);
    let within = daemon.launch.uids.start + 7;
    let launch = Launch::new().without_unix().set("children.uid_base", json!(within));
    let output = launch.command().stderr(Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "a configuration that cannot be honoured");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("children.uid_base") && said.contains(&within.to_string()), "{said}");
    daemon.unix().ping();
}

// What a daemon may inherit.

/// A daemon started by somebody with odd habits works like any other.
#[track_caller]
fn works(daemon: &Daemon) {
    let mut client = daemon.unix();
    let session = client.open(json!({}));
    for code in 0..5 {
        let record = client.run_in(&session, &format!("(setsid sleep 1000 &); exit {code}"));
        assert_eq!(record["status"], "exited", "{record}");
        assert_eq!(record["exit_code"], code, "{record}");
    }
    let record = client.run_in(&session, "umask; grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd");
    let text = record["stdout"].as_str().unwrap();
    // `ls` has the folder itself open as 3.
    let expected = "0077\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n0\n1\n2\n3\n";
    assert_eq!(text, expected, "inv14: nothing of it reaches a command");
}

#[test]
fn inv14_children_that_are_ignored_at_the_start() {
    works(
        &Launch::new()
            .before_exec(|| {
                for signal in [Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGUSR1] {
                    // SAFETY: no handler is installed, the signal is ignored.
                    unsafe { nix::sys::signal::signal(signal, SigHandler::SigIgn) }?;
                }
                Ok(())
            })
            .start(),
    );
}

#[test]
fn inv14_signals_that_are_blocked_at_the_start() {
    let block = || Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None)?);
    works(&Launch::new().before_exec(block).start());
}

#[test]
fn inv14_a_umask_of_nothing_at_the_start() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = Launch::new()
        .set("state_dir", json!("state"))
        .before_exec(|| {
            nix::sys::stat::umask(nix::sys::stat::Mode::empty());
            Ok(())
        })
        .start();
    works(&daemon);
    for (name, mode) in [("s", 0o600), ("state", 0o700)] {
        let permissions = std::fs::metadata(daemon.launch.folder.join(name)).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, mode, "{name}");
    }
}

#[test]
fn inv14_an_environment_that_is_no_text() {
    use std::os::unix::ffi::OsStringExt;
    let odd = |bytes: &[u8]| std::ffi::OsString::from_vec(bytes.to_vec());
    let passed = json!([support::launch::MARK, "ODD"]);
    let daemon = Launch::new()
        .env(odd(b"B\xffD"), odd(b"\xfe"))
        .env("ODD", odd(b"a\xffb"))
        .env("RUST_LOG", odd(b"\xff"))
        .env("LANG", odd(b"\xff"))
        .set("children.pass_env", passed)
        .start();
    works(&daemon);
    let record = daemon.unix().run("printf %s \"$ODD\"");
    assert_eq!(record["stdout_encoding"], "base64", "{record}");
    assert_eq!(record["stdout"], "Yf9i");
}

#[test]
fn inv14_descriptors_that_somebody_left_open() {
    let daemon = Launch::new()
        .before_exec(|| {
            for number in [9, 10, 251] {
                let null = nix::fcntl::open("/dev/null", nix::fcntl::OFlag::O_RDONLY, nix::sys::stat::Mode::empty())?;
                // SAFETY: no other owner of that number is in this process.
                let raw = unsafe { nix::libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), number) };
                if raw < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        })
        .start();
    works(&daemon);
}

#[test]
fn inv14_standard_descriptors_that_are_closed_at_the_start() {
    let launch = Launch::new().before_exec(|| {
        for number in 0..3 {
            // SAFETY: nothing in this process uses them between here and exec.
            unsafe { nix::libc::close(number) };
        }
        Ok(())
    });
    let mut command = launch.command();
    let child = command.stdout(Stdio::null()).spawn().unwrap();
    // It cannot say that it is ready; that it can be connected to says so.
    let daemon = Daemon::adopt(child, launch, Value::Null, None);
    works(&daemon);
    // What would have been 0, 1 and 2 is no connection of a client.
    if let Ok(link) = std::fs::read_link(format!("/proc/{}/fd/2", daemon.runtime_pid)) {
        assert!(!link.to_string_lossy().contains("socket"), "{link:?}");
    }
}

#[test]
fn a_log_that_nobody_reads_any_more_harms_nothing() {
    let launch = Launch::new().set("connections.max_bad_lines", json!(1000));
    let mut command = launch.command();
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    drop(child.stdout.take());
    let daemon = Daemon::adopt(child, launch, Value::Null, None);
    works(&daemon);
}

#[test]
fn a_full_log_harms_nothing() {
    let launch = Launch::new();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = launch.command();
    let child = command.stderr(full).stdout(Stdio::null()).spawn().unwrap();
    let daemon = Daemon::adopt(child, launch, Value::Null, None);
    works(&daemon);
}

#[test]
fn a_log_that_is_stuck_harms_nothing() {
    let launch = Launch::new().env("RUST_LOG", "debug");
    let mut command = launch.command();
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    // Held open and never read: its 64 KiB fill up.
    let _stuck = child.stderr.take();
    let daemon = Daemon::adopt(child, launch, Value::Null, None);
    for _ in 0..1000 {
        let mut bad = daemon.unix();
        let _ = bad.try_send_bytes("garbage\n");
    }
    // Those that are not closed yet count as this client's.
    drop(daemon.control());
    works(&daemon);
}
