//! SPAWN_FAILED: what never ran says at which step and why, and leaves nothing behind.

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;

use crate::exec_support::*;
use crate::support::*;

/// Nothing ran, and what was refused is counted as refused only.
#[track_caller]
fn assert_only_rejected(daemon: &Daemon, rejected: u64) {
    let commands = &daemon.stats()["commands"];
    assert_eq!((&commands["started"], &commands["rejected"]), (&json!(0), &json!(rejected)), "{commands}");
}

#[test]
fn a_name_that_is_nowhere_in_path_fails_to_resolve() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    assert_eq!(spawn_failure(&mut conn, json!({"argv": ["no-such-program-here"]})), failed("resolve", "ENOENT"));
    assert_eq!(
        spawn_failure(&mut conn, json!({"argv": ["true"], "env": {"PATH": "/nowhere"}})),
        failed("resolve", "ENOENT")
    );
    assert_only_rejected(&daemon, 2);
}

#[test]
fn a_name_is_looked_for_in_the_path_of_the_command() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let shared = Shared::new();
    shared.file("my-own-tool", "#!/bin/sh\necho mine\n", 0o755);

    let path = format!("/nowhere:{}:/usr/bin:/bin", shared.text(""));

    assert_eq!(text(&run(&mut conn, json!({"argv": ["my-own-tool"], "env": {"PATH": path}}))), "mine\n");
}

#[test]
fn a_path_that_is_not_there_fails_to_exec() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    for argv in [["/no/such/program"], ["./nothing-here"], ["/bin/../no-such-program"]] {
        assert_eq!(spawn_failure(&mut conn, json!({"argv": argv})), failed("exec", "ENOENT"), "{argv:?}");
    }
    assert_only_rejected(&daemon, 3);
}

#[test]
fn a_file_that_cannot_be_executed_fails_with_its_own_errno() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let shared = Shared::new();
    symlink("loop", shared.path("loop")).unwrap();

    for (program, errno) in [
        (shared.file("plain", "#!/bin/sh\n", 0o644), "EACCES"),
        (shared.text(""), "EACCES"),
        ("/".to_owned(), "EACCES"),
        (shared.file("no-shebang", "echo hi\n", 0o755), "ENOEXEC"),
        (shared.file("empty", "", 0o755), "ENOEXEC"),
        (shared.file("no-interpreter", "#!/no/such/interpreter\n", 0o755), "ENOENT"),
        (shared.text("loop"), "ELOOP"),
        (format!("{}/x", shared.file("file", "", 0o644)), "ENOTDIR"),
        (format!("/{}", "x".repeat(300)), "ENAMETOOLONG"),
    ] {
        assert_eq!(spawn_failure(&mut conn, json!({"argv": [program]})), failed("exec", errno), "{program}");
    }
    assert_only_rejected(&daemon, 9);
}

#[test]
fn a_program_that_is_being_written_is_text_busy() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let shared = Shared::new();
    let program = shared.file("busy", std::fs::read("/bin/true").unwrap(), 0o755);

    let writer = std::fs::OpenOptions::new().append(true).open(&program).unwrap();
    assert_eq!(spawn_failure(&mut conn, json!({"argv": [&program]})), failed("exec", "ETXTBSY"));

    drop(writer);
    assert_eq!(end(&run(&mut conn, json!({"argv": [&program]}))), exited(0));
}

#[test]
fn what_the_kernel_finds_too_long_is_e2big() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    // One argument or variable over 128 KiB; then many small ones, together over a quarter of the stack.
    let long = "x".repeat(128 << 10);
    assert_eq!(spawn_failure(&mut conn, json!({"argv": ["true", &long]})), failed("exec", "E2BIG"));
    assert_eq!(spawn_failure(&mut conn, json!({"cmd": format!(": {long}")})), failed("exec", "E2BIG"));
    assert_eq!(spawn_failure(&mut conn, json!({"cmd": "true", "env": {"A": &long}})), failed("exec", "E2BIG"));
    let mut many = vec!["x"; 400_000];
    many[0] = "true";
    assert_eq!(spawn_failure(&mut conn, json!({"argv": many})), failed("exec", "E2BIG"));
    assert_only_rejected(&daemon, 4);
}

#[test]
fn what_the_kernel_finds_just_short_enough_runs() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    let longest = "x".repeat((128 << 10) - 1);
    let record = run(&mut conn, json!({"argv": ["sh", "-c", "echo ${#1}", "sh", longest]}));

    assert_eq!(text(&record), "131071\n");
}

#[test]
fn a_working_directory_that_cannot_be_used_says_so() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let shared = Shared::new();
    let file = shared.file("file", "", 0o644);

    for (cwd, errno) in [("/no/such/folder", "ENOENT"), (file.as_str(), "ENOTDIR")] {
        let params = json!({"cmd": "true", "cwd": cwd});
        assert_eq!(spawn_failure(&mut conn, params.clone()), failed("cwd", errno), "{cwd}");
        let entering = format!("cannot enter {cwd}: ");
        for (method, params) in [("exec.run", params), ("session.open", json!({"cwd": cwd}))] {
            let error = conn.refused(method, params, "SPAWN_FAILED");
            assert_eq!(error["data"]["stage"], "cwd", "{error}");
            // The directory is at fault, not the program.
            assert!(error["message"].as_str().is_some_and(|message| message.starts_with(&entering)), "{error}");
        }
    }
    let stats = daemon.stats();
    assert_eq!((&stats["commands"]["started"], &stats["sessions"]["current"]), (&json!(0), &json!(0)), "{stats}");
}

#[test]
fn a_missing_program_is_not_taken_for_a_missing_folder() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();

    assert_eq!(spawn_failure(&mut conn, json!({"argv": ["/nope"], "cwd": "/usr"})), failed("exec", "ENOENT"));
    assert_eq!(spawn_failure(&mut conn, json!({"argv": ["/bin/true"], "cwd": "/nope"})), failed("cwd", "ENOENT"));
}

#[test]
fn a_folder_that_may_not_be_entered_says_so() {
    if is_root() {
        return skip("root may enter every folder");
    }
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let shared = Shared::new();
    std::fs::create_dir(shared.path("closed")).unwrap();
    let permissions = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(shared.path("closed"), permissions(0)).unwrap();

    let params = json!({"cmd": "true", "cwd": shared.text("closed")});
    assert_eq!(spawn_failure(&mut conn, params), failed("cwd", "EACCES"));
}

#[test]
fn a_session_whose_folder_is_gone_stays_closable() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let shared = Shared::new();
    std::fs::create_dir(shared.path("inner")).unwrap();
    let session = conn.open(json!({"cwd": shared.text("inner")}));

    std::fs::remove_dir(shared.path("inner")).unwrap();

    assert_eq!(spawn_failure(&mut conn, json!({"session": session, "cmd": "true"})), failed("cwd", "ENOENT"));
    assert_eq!(text(&run(&mut conn, json!({"session": session, "cmd": "pwd", "cwd": "/usr"}))), "/usr\n");
    assert_eq!(close(&mut conn, &session)["commands"], 1);
}

#[test]
fn a_failed_spawn_leaves_its_session_as_it_was() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));

    for _ in 0..20 {
        spawn_failure(&mut conn, json!({"session": session, "argv": ["/nope"]}));
    }

    let info = conn.ok("session.info", json!({"session": session}));
    assert_eq!((&info["busy"], &info["commands"], &info["running"]), (&json!(false), &json!(0), &json!([])), "{info}");
    assert_eq!(end(&run(&mut conn, json!({"session": session, "cmd": "true"}))), exited(0));
}

/// Sets the soft limit of a running process, as the user of that process: root may lack the capability here.
fn set_soft_limit(prlimit: &str, pid: i32, limit: &str) {
    let uid = procs::status_field(pid, "Uid:").unwrap();
    let uid: u32 = uid.split_whitespace().next().unwrap().parse().unwrap();
    let mut command = std::process::Command::new(prlimit);
    command.args(["--pid", &pid.to_string(), limit]);
    if is_root() && uid != 0 {
        command.uid(uid).gid(uid);
    }
    let status = command.status().unwrap();
    assert!(status.success(), "{prlimit} {limit}: {status}");
}

/// The soft limit of a running process.
fn soft_limit(pid: i32, name: &str) -> String {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let row = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    row.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn a_spawn_without_descriptors_fails_and_leaks_none() {
    let Some(prlimit) = tool("prlimit") else { return };
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    assert_eq!(end(&run(&mut conn, json!({"session": session, "cmd": "true"}))), exited(0));
    let before = soft_limit(daemon.runtime_pid, "Max open files");

    set_soft_limit(prlimit, daemon.runtime_pid, "--nofile=3:");
    for _ in 0..20 {
        let (_, errno) = spawn_failure(&mut conn, json!({"session": session, "cmd": "true"}));
        assert_eq!(errno, "EMFILE");
        conn.ping();
    }
    set_soft_limit(prlimit, daemon.runtime_pid, &format!("--nofile={before}:"));

    assert_eq!(end(&run(&mut conn, json!({"session": session, "cmd": "true"}))), exited(0));
    // That no descriptor is left is asserted at the end of every test.
}

#[test]
fn a_daemon_with_few_descriptors_refuses_what_it_cannot_start() {
    fn few() -> std::io::Result<()> {
        rlimit::setrlimit(rlimit::Resource::NOFILE, 64, 64)
    }
    let daemon = Launch::new().set("commands.max_commands", json!(64)).set("sessions.max_sessions", json!(64));
    let daemon = daemon.set("connections.max_connections", json!(16)).before_exec(few);
    let Some(mut daemon) = start_or_refuse(daemon) else { return };
    let mut conn = daemon.tcp();
    let gate = daemon.launch.folder.gate();

    let ids: Vec<Value> = (0..40).map(|_| conn.ask("exec.run", json!({"cmd": gate.wait()}))).collect();
    let control = daemon.stats();
    gate.open();
    let answers: Vec<Value> = ids.iter().map(|id| conn.answer(id)).collect();

    assert!(control["commands"]["running"].as_u64().is_some_and(|count| count <= 40), "{control}");
    for answer in &answers {
        let reason = answer["error"]["data"]["reason"].as_str().unwrap_or("none");
        let is_fine = answer["result"]["status"] == "exited" || ["SPAWN_FAILED", "CAPACITY"].contains(&reason);
        assert!(is_fine, "{answer}");
    }
    assert_well(&mut conn);
    drop(conn);
    daemon.finish();
}

/// A daemon may also say at its start that this cannot work: that is as good.
fn start_or_refuse(launch: Launch) -> Option<Daemon> {
    let mut child = launch.command().spawn().unwrap();
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
    if line.is_empty() {
        assert_eq!(child.wait().unwrap().code(), Some(2), "a configuration that cannot be honoured stops the start");
        return None;
    }
    let ready: Value = serde_json::from_str(&line).unwrap();
    let address = ready["listen"].as_str().map(|text| text.parse().unwrap());
    Some(Daemon::adopt(child, launch, ready, address))
}

#[test]
fn a_spawn_without_room_for_a_process_says_so() {
    let Some(prlimit) = tool("prlimit") else { return };
    let daemon = start_as_nobody();
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    assert_eq!(end(&run(&mut conn, json!({"session": session, "cmd": "true"}))), exited(0));
    let before = soft_limit(daemon.runtime_pid, "Max processes");

    set_soft_limit(prlimit, daemon.runtime_pid, "--nproc=1:");
    for _ in 0..20 {
        let failure = spawn_failure(&mut conn, json!({"session": session, "cmd": "true"}));
        assert_eq!(failure, failed("fork", "EAGAIN"));
        conn.ping();
    }
    set_soft_limit(prlimit, daemon.runtime_pid, &format!("--nproc={before}:"));

    assert_eq!(end(&run(&mut conn, json!({"session": session, "cmd": "true"}))), exited(0));
}
