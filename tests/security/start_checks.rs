//! inv18: a daemon with uids of its own refuses to start where these are somebody else's, or protect nothing.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::exec_support::*;
use crate::program::Plain;
use crate::support::*;

/// Why the daemon does not start: its exit code says that the configuration cannot be honoured here.
#[track_caller]
fn refusal(launch: &Launch) -> String {
    let output = launch.command().stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(output.stdout.is_empty(), "it was ready");
    said
}

#[track_caller]
fn asserts_all(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

/// A plain process that sleeps under a uid, with one variable in its environment.
fn sleeper(uid: u32, variable: (&str, &str)) -> Plain {
    let mut command = Command::new("/bin/sleep");
    Plain(command.arg("60").uid(uid).gid(uid).env(variable.0, variable.1).stdin(Stdio::null()).spawn().unwrap())
}

fn is_alive(plain: &mut Plain) -> bool {
    plain.0.try_wait().unwrap().is_none()
}

#[test]
fn inv18_uids_under_which_a_process_lives_are_refused_and_the_process_is_left_alone() {
    if !is_root() {
        return skip("only root has a pool of uids");
    }
    let launch = Launch::new();
    let range = format!("{} to {}", launch.uids.start, launch.uids.end - 1);
    // One of the pool, and one that the daemon takes when it acts as the first.
    for uid in [launch.uids.end - 1, launch.uids.start + (1 << 31)] {
        let mut stranger = sleeper(uid, ("HOME", "/"));
        let said = refusal(&launch);
        let process = format!("process {} (sleep) runs as uid {uid}", stranger.pid());
        asserts_all(&said, &["children.uid_base: ", &process, &range, "set another uid_base"]);
        assert!(is_alive(&mut stranger), "a stranger was ended");
    }
    // It was that alone.
    launch.start().tcp().ping();
}

#[test]
fn inv18_a_neutral_uid_of_a_named_user_is_refused_where_a_process_has_it() {
    if !is_root() {
        return skip("only root runs commands as a user");
    }
    let launch = Launch::new().set("children.run_as", json!("nobody"));
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap().uid.as_raw();
    let stranger = sleeper(nobody + (1 << 31), ("HOME", "/"));
    asserts_all(&refusal(&launch), &[&format!("process {} (sleep)", stranger.pid())]);
    drop(stranger);
    launch.start().tcp().ping();
}

/// Guard and runtime die in the same instant: nobody is left to end what they started.
#[test]
fn inv15_what_a_killed_daemon_has_left_is_ended_before_its_uids_are_used_again() {
    if !is_root() {
        return skip("only root has a pool of uids");
    }
    let mark = mark();
    let mut first = Daemon::start(&[]);
    let mut conn = first.tcp();
    let session = conn.open(json!({"shell": true}));
    run(&mut conn, json!({"session": session, "cmd": format!("for i in 1 2 3; do setsid sleep {mark} & done")}));
    wait_living(&mark, 3);
    first.signal(Signal::SIGSTOP);
    first.signal_runtime(Signal::SIGSTOP);
    first.signal(Signal::SIGKILL);
    first.signal_runtime(Signal::SIGKILL);
    first.exit();
    first.killed = true;
    wait_living(&mark, 3);

    let second = Launch::new()
        .set("children.uid_base", json!(first.launch.uids.start))
        .set("children.uid_count", json!(first.launch.uids.len()))
        .start();
    assert!(living(&mark).is_empty(), "they live beside the next daemon");
    assert_eq!(second.log().matches("has outlived its daemon, and is killed").count(), 3, "{}", second.log());
    assert_well(&mut second.tcp());
}

/// Two daemons that do not share a lock, as in two containers.
#[test]
fn inv18_commands_of_a_daemon_that_lives_are_not_ended() {
    let (true, Some(setpriv)) = (is_root(), tool("setpriv")) else { return skip("only root has a pool of uids") };
    let (launch, shared) = (Launch::new(), Shared::new());
    let daemon = shared.file("cofferdam", std::fs::read("/bin/sh").unwrap(), 0o755);
    let uid = launch.uids.start;
    let line = format!("COFFERDAM_SESSION=x {setpriv} --reuid={uid} --regid={uid} --clear-groups sleep 60 & wait");
    let mut neighbour = Plain(Command::new(daemon).args(["-c", &line]).process_group(0).spawn().unwrap());
    let command = wait_until("its command runs", DEADLINE, || {
        procs::of_uids(uid..uid + 1).into_iter().find(|one| one.command.starts_with("sleep"))
    });
    let said = refusal(&launch);
    asserts_all(&said, &[&format!("process {} (sleep)", command.pid), "is a command of another daemon"]);
    assert!(procs::is_alive(command.pid) && is_alive(&mut neighbour));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(command.pid), Signal::SIGKILL).unwrap();
    neighbour.expect_end();
    launch.start().tcp().ping();
}

/// The daemon sees this text as a file of the host, in a mount namespace of its own.
fn seeing(launch: Launch, shared: &Shared, file: &str, text: &str) -> Option<Launch> {
    let fake = shared.file("fake", text, 0o644);
    let line = format!("mount --bind {fake} {file} && exec \"$@\"");
    let probe = Command::new("unshare").args(["-m", "sh", "-c", &line, "sh", "true"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        skip("no mount namespaces here");
        return None;
    }
    Some(launch.through(&["unshare", "-m", "sh", "-c", &line, "sh"]))
}

#[test]
fn inv18_uids_that_this_host_has_given_to_somebody_are_refused() {
    if !is_root() {
        return skip("only root has a pool of uids");
    }
    let shared = Shared::new();
    let own = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    for (file, shape) in [
        ("/etc/passwd", "ann:x:UID:100::/:/bin/sh"),
        ("/etc/group", "crew:x:UID:"),
        ("/etc/subuid", "ann:BEFORE:65536"),
        ("/etc/subgid", "ann:BEFORE:65536"),
    ] {
        if !std::path::Path::new(file).exists() {
            continue;
        }
        let launch = Launch::new();
        let within = launch.uids.end - 1;
        let line =
            shape.replace("UID", &within.to_string()).replace("BEFORE", &(launch.uids.start - 65_000).to_string());
        let Some(launch) = seeing(launch, &shared, file, &format!("{}{line}\n", own(file))) else { return };
        let number = own(file).lines().count() + 1;
        let named = format!("line {number} of {file}");
        asserts_all(&refusal(&launch), &["children.uid_base: ", &named, &line, "set a uid_base"]);
        // The same line of other ids is none of ours.
        let line = line.replace(&within.to_string(), "4000").replace(&(launch.uids.start - 65_000).to_string(), "9000");
        let Some(launch) = seeing(launch, &shared, file, &format!("{}{line}\n", own(file))) else { return };
        launch.start().tcp().ping();
    }
}

#[test]
fn inv18_uids_that_protect_nothing_because_of_fs_suid_dumpable_are_refused() {
    if !is_root() {
        return skip("only root runs commands under other uids");
    }
    let shared = Shared::new();
    for run_as in ["pool", "nobody"] {
        let launch = || Launch::new().set("children.run_as", json!(run_as));
        let Some(refused) = seeing(launch(), &shared, "/proc/sys/fs/suid_dumpable", "1\n") else { return };
        asserts_all(&refusal(&refused), &["children.run_as: fs.suid_dumpable is 1", "sysctl fs.suid_dumpable=0"]);
        for allowed in ["0\n", "2\n"] {
            seeing(launch(), &shared, "/proc/sys/fs/suid_dumpable", allowed).unwrap().start().tcp().ping();
        }
    }
    // Where commands run as the daemon itself it makes no difference.
    let same = Launch::new().set("children.run_as", json!("same"));
    seeing(same, &shared, "/proc/sys/fs/suid_dumpable", "1\n").unwrap().start().tcp().ping();
}

#[test]
fn inv18_a_daemon_whose_change_of_uid_takes_no_right_away_is_refused() {
    let program = ["setpriv", "--securebits=+no_setuid_fixup"];
    let can = || Command::new(program[0]).args([program[1], "/bin/true"]).status().is_ok_and(|status| status.success());
    if !is_root() || !can() {
        return skip("securebits cannot be set here");
    }
    asserts_all(&refusal(&Launch::new().through(&program)), &["children.run_as: ", "SECBIT_NO_SETUID_FIXUP"]);
    Launch::new().through(&program).set("children.run_as", json!("same")).start().tcp().ping();
}
