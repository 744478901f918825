//! What a client can make the daemon keep, or work on, by the params of its requests: large environments, long argument
//! lists, long lines for a shell that reads none.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::sys::resource::{Resource, setrlimit};

use crate::exec_support::*;
use crate::support::*;

const MIB: u64 = 1 << 20;
/// Of what a session or a command keeps, so much is not counted.
const FREE: u64 = 16 << 10;
/// 64 KiB for each output of a command.
const OUTPUTS: u64 = 128 << 10;
/// Code, stacks, what the allocator keeps: all that is not held for a client.
const SLACK: u64 = 16 * MIB;
/// All arguments and variables of a program, each with its NUL and a pointer.
const EXEC_BYTES: u64 = 2 * MIB;

/// So many variables without a value, with names as short as can be; and what they weigh.
fn variables(count: usize) -> (Value, u64) {
    let names: Vec<String> = (0..count).map(|number| format!("{number:x}")).collect();
    let weight = names.iter().map(|name| name.len() as u64 + 2 + 8).sum();
    (names.into_iter().map(|name| (name, json!(""))).collect::<serde_json::Map<_, _>>().into(), weight)
}

/// Params of `session.open` that are written once: it takes a test longer than the daemon.
struct Opening(String);

impl Opening {
    fn new(env: &Value) -> Opening {
        Opening(json!({ "env": env }).to_string())
    }

    #[track_caller]
    fn ask(&self, conn: &mut Conn) -> Value {
        conn.send_line(format!(r#"{{"id":"opening","method":"session.open","params":{}}}"#, self.0));
        conn.answer(&json!("opening"))
    }

    /// The session.
    #[track_caller]
    fn open(&self, conn: &mut Conn) -> String {
        let answer = self.ask(conn);
        answer["result"]["session"].as_str().unwrap_or_else(|| panic!("refused: {answer}")).to_owned()
    }

    /// The error, of this reason.
    #[track_caller]
    fn refused(&self, conn: &mut Conn, reason: &str) -> Value {
        let error = self.ask(conn)["error"].take();
        assert_eq!(error["data"]["reason"], reason, "{error}");
        error
    }
}

/// A client may have any number of sessions, and so many bytes.
fn buffer_bytes(bytes: u64) -> (&'static str, Value) {
    let quota = json!({"sessions": -1, "commands": -1, "memory_bytes": -1, "processes": -1, "buffer_bytes": bytes});
    ("quotas.registered", quota)
}

#[track_caller]
fn held(conn: &mut Conn) -> u64 {
    conn.ok("limit.show", json!({}))["limits"]["buffer_bytes"]["usage"].as_u64().unwrap()
}

fn rss_bytes(daemon: &Daemon) -> u64 {
    let kib = procs::status_field(daemon.runtime_pid, "VmRSS:").unwrap();
    kib.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// What the kernel says to a plain child with these arguments and variables, on a stack as commands have it.
fn plain(arguments: &[&str], variables: &[String]) -> Option<i32> {
    let mut command = Command::new("/bin/true");
    command.args(arguments).env_clear().envs(variables.iter().map(|name| (name, ""))).stdin(Stdio::null());
    let usual_stack = || setrlimit(Resource::RLIMIT_STACK, 8 * MIB, 8 * MIB).map_err(Into::into);
    // SAFETY: it makes one system call, as may be done between fork and exec.
    unsafe { command.pre_exec(usual_stack) };
    command.status().err().and_then(|error| error.raw_os_error())
}

/// Expects OVER_LIMIT of `buffer_bytes` alone.
#[track_caller]
fn expect_over(error: &Value, limit: u64, usage: u64, delta: u64) {
    let row = json!({"resource": "buffer_bytes", "limit": limit, "usage": usage, "delta": delta});
    assert_eq!(error["data"]["over"], json!([row]), "{}", brief(error));
}

#[test]
fn an_environment_that_no_program_can_be_given_opens_no_session() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let (many, weight) = variables(160_000);
    assert!(weight > EXEC_BYTES);
    for env in [many, json!({"A": "x".repeat(128 << 10)})] {
        for params in [json!({"env": env}), json!({"env": env, "shell": true}), json!({"env": env, "persist": true})] {
            let error = conn.refused("session.open", params, "INVALID_PARAMS");
            assert_eq!(error["data"]["field"], "env");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("131071") && message.contains("2097152"), "{message}");
        }
    }
    assert_eq!(held(&mut conn), 0);
    assert_eq!(daemon.stats()["sessions"]["opened"], 0);
    // One that is just short enough runs.
    let session = conn.open(json!({"env": {"A": "x".repeat((128 << 10) - 3)}}));
    assert_eq!(text(&conn.run_in(&session, "echo ${#A}")), "131069\n");
    close(&mut conn, &session);

    // Control: no program can be started with them, whoever asks the kernel for it.
    let names = |count: usize| (0..count).map(|number| format!("{number:x}")).collect::<Vec<_>>();
    assert_eq!(plain(&[], &names(160_000)), Some(nix::libc::E2BIG));
    assert_eq!(plain(&[], &names(140_000)), None);
}

#[test]
fn environments_of_sessions_stay_within_their_client_s_bytes_and_come_back() {
    // 64 of them would be 30 MiB.
    let limit = 4 * MIB;
    let daemon = Daemon::start(&[buffer_bytes(limit)]);
    let (mut conn, mut neighbour) = (daemon.tcp(), daemon.unix());
    let (env, weight) = variables(35_000);
    let (charge, opening) = (weight - FREE, Opening::new(&env));
    let fits = limit / charge;
    run(&mut conn, json!({"cmd": "true"}));
    let before = rss_bytes(&daemon);

    let mut sessions: Vec<String> = (0..fits).map(|_| opening.open(&mut conn)).collect();
    for _ in fits..64 {
        let error = opening.refused(&mut conn, "OVER_LIMIT");
        expect_over(&error, limit, fits * charge, charge);
        assert_eq!(error["data"]["retryable"], true, "it passes when another closes");
    }
    assert_eq!(held(&mut conn), fits * charge);
    assert_eq!(daemon.stats()["sessions"]["opened"], fits + 1);
    let grown = rss_bytes(&daemon).saturating_sub(before);
    assert!(grown < limit + SLACK, "grown by {grown}");
    assert_well(&mut neighbour);

    // Each comes back with its session, however that ends.
    close(&mut conn, &sessions.pop().unwrap());
    assert_eq!(held(&mut conn), (fits - 1) * charge);
    let mut other = daemon.tcp();
    opening.open(&mut other);
    drop(other);
    wait_until("the session of a connection that left is gone", DEADLINE, || {
        (held(&mut conn) == (fits - 1) * charge).then_some(())
    });
    let error = conn.refused("session.open", json!({"env": env, "cwd": "/nowhere"}), "SPAWN_FAILED");
    assert_eq!((&error["data"]["stage"], held(&mut conn)), (&json!("cwd"), (fits - 1) * charge));
    for session in sessions {
        close(&mut conn, &session);
    }
    assert_eq!(held(&mut conn), 0);

    // Control: as many sessions that keep little are open at once, and take nothing.
    let (few, weight) = variables(1000);
    assert!(weight < FREE);
    let opening = Opening::new(&few);
    let sessions: Vec<String> = (0..64).map(|_| opening.open(&mut conn)).collect();
    assert_eq!(held(&mut conn), 0);
    for session in sessions {
        close(&mut conn, &session);
    }
}

#[test]
fn environments_of_all_sessions_stay_within_the_daemon_s_bytes() {
    let max = 8 * MIB;
    let daemon = Daemon::start(&[("commands.max_buffer_bytes", json!(max))]);
    let (mut conn, mut neighbour) = (daemon.tcp(), daemon.unix());
    let (env, weight) = variables(140_000);
    let (charge, opening) = (weight - FREE, Opening::new(&env));

    let sessions: Vec<String> = (0..max / charge).map(|_| opening.open(&mut conn)).collect();
    let error = opening.refused(&mut conn, "CAPACITY");
    let usage = sessions.len() as u64 * charge;
    let told = json!({"reason": "CAPACITY", "retryable": true, "resource": "buffer_bytes", "limit": max, "usage": usage,
        "delta": charge});
    assert_eq!(error["data"], told);
    assert_eq!(daemon.stats()["output"]["buffered_bytes"], usage);
    assert_well(&mut neighbour);
    for session in sessions {
        close(&mut conn, &session);
    }
    wait_stats(&daemon, "/output/buffered_bytes", 0);
    // Control: one alone has room, and a command that is started with a copy of it.
    let session = opening.open(&mut conn);
    assert_eq!(end(&run(&mut conn, json!({"session": session, "argv": ["true"]}))), exited(0));
    assert_eq!(held(&mut conn), charge);
}

#[test]
fn a_command_takes_its_params_until_it_has_started() {
    let limit = 3 * MIB;
    let daemon = Daemon::start(&[buffer_bytes(limit)]);
    let mut conn = daemon.tcp();
    let folder = Folder::new();
    let gate = folder.gate();
    let argv = |words: usize| {
        [vec!["sh".to_owned(), "-c".into(), gate.wait(), "sh".into()], vec![String::new(); words]].concat()
    };
    let weight = |argv: &[String]| argv.iter().map(|word| word.len() as u64 + 1 + 8).sum::<u64>();

    // A plain command, and one with much: both are started, and take their outputs alone.
    let first = conn.ask("exec.run", json!({ "cmd": gate.wait() }));
    daemon.wait_running(1);
    assert_eq!(held(&mut conn), OUTPUTS);
    let second = conn.ask("exec.run", json!({ "argv": argv(100_000) }));
    wait_stats(&daemon, "/commands/started", 2);
    assert_eq!(held(&mut conn), 2 * OUTPUTS);
    // One that does not fit beside them is not begun.
    let (env, of_env) = variables(140_000);
    let session = conn.open(json!({ "env": env }));
    let usage = 2 * OUTPUTS + of_env - FREE;
    let words = argv(10_000);
    let error = conn.refused("exec.run", json!({"session": session, "argv": words}), "OVER_LIMIT");
    expect_over(&error, limit, usage, OUTPUTS + of_env + weight(&words) - FREE);
    assert_eq!(held(&mut conn), usage, "a refusal takes nothing");
    close(&mut conn, &session);

    gate.open();
    for id in [first, second] {
        assert_eq!(end(&record_of(&mut conn, &id)), exited(0));
    }
    assert_eq!(held(&mut conn), 0);
    // Control: without that environment it has room.
    assert_eq!(end(&run(&mut conn, json!({ "argv": words }))), exited(0));
}

#[test]
fn arguments_that_no_program_can_be_given_are_refused_before_anything_is_made_of_them() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut neighbour) = (daemon.tcp(), daemon.unix());
    let session = conn.open(json!({}));
    let mut many = vec![""; 680_000];
    many[0] = "true";
    let line = |id: u64, session: Option<&str>| {
        let session = session.map_or(String::new(), |session| format!(r#""session":"{session}","#));
        let argv = format!(r#"["true"{}]"#, r#","""#.repeat(680_000));
        format!(r#"{{"id":{id},"method":"exec.run","params":{{{session}"argv":{argv}}}}}"#)
    };
    run(&mut conn, json!({"session": session, "argv": ["true"]}));
    let before = procs::peak_rss_bytes(daemon.runtime_pid);

    for id in 1..8 {
        conn.send_line(line(id, (id % 2 == 0).then_some(&session)));
    }
    for id in 1..8 {
        let error = conn.answer(&json!(id))["error"].clone();
        assert_eq!(
            error["data"],
            json!({"reason": "SPAWN_FAILED", "retryable": false, "stage": "exec", "errno": "E2BIG"})
        );
        assert_eq!(error["message"], "cannot start true: exec: Argument list too long");
    }
    let grown = procs::peak_rss_bytes(daemon.runtime_pid) - before;
    assert!(grown < SLACK, "grown by {grown}");
    let stats = daemon.stats();
    assert_eq!((&stats["commands"]["started"], &stats["commands"]["rejected"]), (&json!(1), &json!(7)), "{stats}");
    assert_eq!(stats["sessions"]["opened"], 1, "no session was opened for one: {stats}");
    assert_eq!(held(&mut conn), 0);
    assert_well(&mut neighbour);

    // What its session's environment makes too long is refused as well, though neither is by itself.
    let (env, _) = variables(140_000);
    let full = conn.open(json!({ "env": env }));
    let charge = held(&mut conn);
    let some = json!({"session": full, "argv": many[..10_000]});
    assert_eq!(spawn_failure(&mut conn, some.clone()), failed("exec", "E2BIG"));
    assert_eq!(held(&mut conn), charge);
    let mut alone = some;
    alone["session"] = json!(session);
    assert_eq!(end(&run(&mut conn, alone)), exited(0));
    close(&mut conn, &full);

    // Control: the kernel has the same to say to anybody, and takes what is shorter, from us too.
    assert_eq!(plain(&many[1..], &[]), Some(nix::libc::E2BIG));
    assert_eq!(plain(&many[..200_000], &[]), None);
    assert_eq!(end(&run(&mut conn, json!({ "argv": many[..200_000] }))), exited(0));
    close(&mut conn, &session);
}

#[test]
fn a_line_is_read_in_less_than_ten_times_its_length() {
    let repeated = |piece: &str, count: usize| piece.repeat(count);
    let env: String = (0..165_000).map(|number| format!(r#""{number:x}":"","#)).collect();
    let params = [
        ("exec.run", format!(r#"{{"argv":["true"{}]}}"#, repeated(r#","""#, 680_000))),
        ("exec.run", format!(r#"{{"argv":["true"{}]}}"#, repeated(r#","a""#, 500_000))),
        ("exec.run", format!(r#"{{"argv":["true"{}]}}"#, repeated(r#","\u0061""#, 220_000))),
        ("exec.run", format!(r#"{{"cmd":"true","env":{{{}}}}}"#, env.trim_end_matches(','))),
        ("session.open", format!(r#"{{"env":{{{}}}}}"#, env.trim_end_matches(','))),
    ];
    for (method, params) in params {
        let daemon = Daemon::start(&[]);
        let mut conn = daemon.tcp();
        run(&mut conn, json!({"cmd": "true"}));
        let before = procs::peak_rss_bytes(daemon.runtime_pid);
        let line = format!(r#"{{"id":"long","method":"{method}","params":{params}}}"#);
        conn.send_line(&line);
        let error = conn.answer(&json!("long"))["error"].take();
        let expected = if method == "exec.run" { "SPAWN_FAILED" } else { "INVALID_PARAMS" };
        assert_eq!(error["data"]["reason"], expected, "{error}");
        let grown = procs::peak_rss_bytes(daemon.runtime_pid) - before;
        println!(
            "{method} {:.40}: {:.1} times a line of {} bytes",
            params,
            grown as f64 / line.len() as f64,
            line.len()
        );
        assert!(grown < 10 * line.len() as u64, "grown by {grown} for {} bytes", line.len());
    }
}

#[test]
fn a_hundred_thousand_variables_are_given_to_a_command() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut neighbour) = (daemon.tcp(), daemon.unix());
    let (env, _) = variables(100_000);
    let sessions: Vec<String> = (0..2).map(|_| neighbour.open(json!({}))).collect();
    let session = conn.open(json!({"clear_env": true, "env": env}));
    // The command's own take the place of the session's.
    let of_command = json!({"0": "first", "1869f": "last"});
    let asked = conn.ask("exec.run", json!({"session": session, "argv": ["/usr/bin/env"], "env": of_command}));
    for session in &sessions {
        assert_eq!(text(&neighbour.run_in(session, "echo on")), "on\n");
    }
    let seen = text(&record_of(&mut conn, &asked));
    let lines: std::collections::BTreeSet<&str> = seen.lines().collect();
    assert_eq!((seen.lines().count(), lines.len()), (100_002, 100_002), "each once, and the two marks");
    assert!(["0=first", "1=", "1869e=", "1869f=last"].iter().all(|line| lines.contains(line)));
    assert!(seen.lines().take(2).all(|line| line.starts_with("COFFERDAM_")));
    for session in sessions {
        close(&mut neighbour, &session);
    }
    close(&mut conn, &session);
}

/// A session whose shell is stopped when the given file appears, and goes on when it is gone.
#[track_caller]
fn stopped_shell(conn: &mut Conn, folder: &Shared, name: &str) -> String {
    let (stop, stopped) = (folder.text(name), folder.text(&format!("{name}-stopped")));
    let session = conn.open(json!({"shell": true}));
    let stopper = format!(
        "(until [ -e {stop} ]; do sleep 0.01; done; kill -STOP $$; : >{stopped}; \
         while [ -e {stop} ]; do sleep 0.01; done; kill -CONT $$) >/dev/null 2>&1 &"
    );
    assert_eq!(end(&conn.run_in(&session, &stopper)), exited(0));
    folder.file(name, "", 0o644);
    folder.wait_for(&format!("{name}-stopped"));
    session
}

#[test]
fn lines_for_stopped_shells_stay_within_their_client_s_bytes_and_come_back() {
    let limit = 7 * MIB;
    let daemon = Daemon::start(&[buffer_bytes(limit)]);
    let (mut conn, mut neighbour) = (daemon.tcp(), daemon.unix());
    let folder = Shared::new();
    let names = ["a", "b", "c"];
    let sessions = names.map(|name| stopped_shell(&mut conn, &folder, name));
    // A quote takes four bytes in the script; beside that there are the text, and some lines of ours.
    let quotes = 600_000;
    let cmd = format!(": {}", "'".repeat(quotes));
    let (script, ours) = (4 * quotes as u64, 4096);
    let line = |session: &String| json!({"session": session, "cmd": cmd, "timeout_s": 60});

    let mut asked = Vec::new();
    for (count, session) in (1..).zip(&sessions[..2]) {
        asked.push(conn.ask("exec.run", line(session)));
        daemon.wait_running(count);
        let each = held(&mut conn) / count;
        assert!((script..script + OUTPUTS + ours).contains(&each), "{each} a line");
    }
    let usage = held(&mut conn);
    let error = conn.refused("exec.run", line(&sessions[2]), "OVER_LIMIT");
    let delta = OUTPUTS + 5 * quotes as u64 + 2 * 2 - FREE;
    expect_over(&error, limit, usage, delta);
    assert_eq!(held(&mut conn), usage, "a refusal takes nothing");
    assert_well(&mut neighbour);

    // The shells go on, and run what stood before them.
    for name in names {
        std::fs::remove_file(folder.path(name)).unwrap();
    }
    for id in asked {
        assert_eq!(end(&record_of(&mut conn, &id)), exited(0));
    }
    assert_eq!(held(&mut conn), 0);
    // Control: the third shell takes the same line, and a short one is not counted at all.
    assert_eq!(end(&run(&mut conn, line(&sessions[2]))), exited(0));
    for session in &sessions {
        close(&mut conn, session);
    }
}

#[test]
fn a_line_that_no_shell_reads_goes_with_its_session() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let folder = Shared::new();
    let session = stopped_shell(&mut conn, &folder, "stop");
    let cmd = format!(": {}", "x".repeat(1 << 20));
    let asked = conn.ask("exec.run", json!({"session": session, "cmd": cmd}));
    daemon.wait_running(1);
    assert!(held(&mut conn) > MIB, "it stands in front of the shell");
    close(&mut conn, &session);
    assert_eq!(end(&record_of(&mut conn, &asked)).0, "cancelled");
    assert_eq!(held(&mut conn), 0);
    // Control: a shell that reads has it in no time, however long it is: no argument is meant.
    let session = conn.open(json!({"shell": true}));
    assert_eq!(end(&conn.run_in(&session, &cmd)), exited(0));
    assert_eq!(held(&mut conn), 0);
    close(&mut conn, &session);
}

#[test]
fn memory_goes_back_to_the_system_behind_large_params() {
    if cfg!(not(target_env = "gnu")) {
        return skip("this allocator keeps what it has");
    }
    let daemon = Daemon::start(&[("commands.max_buffer_bytes", json!(256 * MIB))]);
    let (mut conn, mut neighbour) = (daemon.tcp(), daemon.unix());
    run(&mut conn, json!({"cmd": "true"}));
    let before = rss_bytes(&daemon);
    let env: Value = (0..20)
        .map(|number| (format!("A{number}"), json!("x".repeat(100_000))))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let opening = Opening::new(&env);
    let sessions: Vec<String> = (0..64).map(|_| opening.open(&mut conn)).collect();
    assert!(rss_bytes(&daemon) > before + 100 * MIB, "they are there");
    for session in sessions {
        close(&mut conn, &session);
    }
    let mut argv = vec!["a"; 500_000];
    argv[0] = "true";
    for _ in 0..4 {
        assert_eq!(spawn_failure(&mut conn, json!({ "argv": argv })), failed("exec", "E2BIG"));
    }
    assert_eq!(end(&run(&mut conn, json!({ "argv": argv[..200_000] }))), exited(0));
    // Somebody who asks all the time does not hold that up.
    wait_until("memory is given back", DEADLINE, || {
        neighbour.ping();
        (rss_bytes(&daemon) < before + 8 * MIB).then_some(())
    });
}
