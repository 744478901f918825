//! inv14: nothing of whoever started the daemon is the commands': capabilities, keys, priorities, resource limits.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;

use crate::exec_support::*;
use crate::program::Hostile;
use crate::support::*;

/// Nobody's uid: a daemon of an ordinary user.
const NOBODY: &str = "65534";
const KEY: &str = "cofferdam-starter";

/// A daemon that is started through other programs; one of an ordinary user keeps its workspaces in its folder.
fn start_through(program: &[&str]) -> Daemon {
    let launch = Launch::new().without_unix().through(program);
    if program.iter().any(|word| word.ends_with(NOBODY)) {
        std::os::unix::fs::chown(launch.folder.path(), Some(65534), Some(65534)).unwrap();
    }
    launch.start()
}

/// What a plain child prints that is started through the same programs. The control.
#[track_caller]
fn plain_through(program: &[&str], line: &str) -> String {
    let output = Command::new(program[0]).args(&program[1..]).args(["/bin/sh", "-c", line]).output().unwrap();
    assert!(output.status.success(), "{program:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn printed(daemon: &Daemon, line: &str) -> String {
    text(&sh(&mut daemon.tcp(), line))
}

/// The programs, if all that they are to give can be had here.
fn can(program: &[&str]) -> bool {
    let probe = Command::new(program[0]).args(&program[1..]).arg("/bin/true").output();
    let can = probe.is_ok_and(|output| output.status.success());
    if !can {
        skip(&format!("{program:?} is not possible here"));
    }
    can
}

const CAPABILITIES: &str = "grep -E '^Cap(Inh|Prm|Eff|Amb)' /proc/self/status | tr -d '0\\t\\n'";

#[test]
fn inv14_ambient_capabilities_of_a_daemon_are_no_commands() {
    for capability in ["kill", "setuid"] {
        let (inheritable, ambient) = (format!("--inh-caps=+{capability}"), format!("--ambient-caps=+{capability}"));
        let user = [&*format!("--reuid={NOBODY}"), &*format!("--regid={NOBODY}"), "--clear-groups"].map(str::to_owned);
        let program: Vec<&str> = ["setpriv"].into_iter().chain(user.iter().map(|word| &**word)).collect();
        let program = [&*program, &[&*inheritable, &*ambient]].concat();
        if !can(&program) {
            continue;
        }
        let control = plain_through(&program, CAPABILITIES);
        assert_ne!(control, "CapInh:CapPrm:CapEff:CapAmb:", "{capability}: a plain child has it");
        let daemon = start_through(&program);
        assert_eq!(printed(&daemon, CAPABILITIES), "CapInh:CapPrm:CapEff:CapAmb:", "{capability}");
        // Nor by a program whose file brings the same.
        let shared = Shared::new();
        if let Some(program) = capable(&shared, if capability == "kill" { 1 << 5 } else { 1 << 7 }) {
            let record = run(&mut daemon.tcp(), json!({"argv": [program, "/proc/self/status"]}));
            assert!(text(&record).contains("CapEff:\t0000000000000000"), "{capability}: {}", text(&record));
        }
        // It is the daemon's still, also of the threads that start commands.
        let effective = |task: &str| {
            let status = std::fs::read_to_string(format!("/proc/{}/task/{task}/status", daemon.runtime_pid)).unwrap();
            status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim().to_owned()
        };
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.runtime_pid)).unwrap();
        for task in tasks.flatten() {
            assert_ne!(effective(task.file_name().to_str().unwrap()).trim_matches('0'), "");
        }
    }
}

#[test]
fn inv14_inheritable_capabilities_of_root_are_no_commands() {
    let program = ["setpriv", "--inh-caps=+kill,+setuid"];
    if !can(&program) {
        return;
    }
    assert_ne!(plain_through(&program, "grep CapInh /proc/self/status | tr -d '0\\t\\n'"), "CapInh:");
    assert_eq!(printed(&start_through(&program), CAPABILITIES), "CapInh:CapPrm:CapEff:CapAmb:");
}

/// A copy of cat whose file has these capabilities, permitted and effective; none where nobody can give them to a file.
fn capable(shared: &Shared, given: u64) -> Option<String> {
    let program = shared.file("capable", std::fs::read("/bin/cat").unwrap(), 0o755);
    // Version 2, with the effective flag.
    let value: [u32; 5] = [0x0200_0001, given as u32, 0, (given >> 32) as u32, 0];
    let path = std::ffi::CString::new(program.clone()).unwrap();
    let name = c"security.capability".as_ptr();
    // SAFETY: both texts end with NUL, and the value is as long as it is said to be.
    let set = unsafe { libc::setxattr(path.as_ptr(), name, value.as_ptr().cast(), size_of_val(&value), 0) };
    if set != 0 {
        skip("a file's capabilities cannot be set");
    }
    (set == 0).then_some(program)
}

/// With no_new_privs nothing can be gained. Without it, what a file's capabilities give is out of bounds.
#[test]
fn inv14_a_files_capabilities_are_no_commands_either() {
    let shared = Shared::new();
    // All that this process could have, but for the one that is out of bounds for every command.
    let bounds = procs::status_field(std::process::id() as i32, "CapBnd:").unwrap();
    let given = u64::from_str_radix(&bounds, 16).unwrap() & !(1 << 5);
    let Some(program) = capable(&shared, given) else { return };
    let status = |no_new_privs: bool| {
        let daemon = Daemon::start(&[("children.no_new_privs", json!(no_new_privs))]);
        let argv = json!({"argv": [program, "/proc/self/status"]});
        let mut conn = daemon.tcp();
        let id = conn.ask("exec.run", argv);
        conn.answer(&id)
    };
    let control = Command::new(&program).arg("/proc/self/status").uid(65534).gid(65534).output().unwrap();
    let control = String::from_utf8_lossy(&control.stdout).into_owned();
    assert!(control.contains(&format!("CapEff:\t{given:016x}")), "a plain child has it: {control}");
    let held = status(true);
    let shown = held["result"]["stdout"].as_str().unwrap_or_else(|| panic!("it does not start: {held}"));
    assert!(shown.contains("CapEff:\t0000000000000000"), "{shown}");
    let bounded = status(false);
    assert_eq!(bounded["error"]["data"]["errno"], "EPERM", "{bounded}");
    let daemon = Daemon::start(&[("children.no_new_privs", json!(false))]);
    assert_eq!(printed(&daemon, "grep CapBnd /proc/self/status | tr -d '0\\t\\n'"), "CapBnd:");
}

/// keyctl(2) and add_key(2): a session keyring with a key in it, as a login makes it.
fn log_in() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: i32 = 1;
    const SESSION_KEYRING: i32 = -3;
    let (kind, name, secret) = (c"user", c"cofferdam-starter", "starter-secret");
    // SAFETY: a null name makes a keyring without one.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, 0) };
    // SAFETY: both texts end with NUL, and the secret is as long as it is said to be.
    let put = unsafe {
        libc::syscall(libc::SYS_add_key, kind.as_ptr(), name.as_ptr(), secret.as_ptr(), secret.len(), SESSION_KEYRING)
    };
    if joined < 0 || put < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[test]
fn inv14_no_command_has_the_keys_of_a_login() {
    let hostile = Hostile::build();
    let mut control = Command::new(hostile.path());
    if is_root() {
        // As the daemon does it: the login's keyring outlives a change of uid.
        let Some(setpriv) = tool("setpriv") else { return };
        control = Command::new(setpriv);
        control.args(["--reuid=65534", "--regid=65534", "--clear-groups", hostile.path()]);
    }
    // SAFETY: `log_in` makes system calls only.
    let control = unsafe { control.args(["key", KEY]).pre_exec(log_in) }.output();
    let Ok(control) = control else { return skip("no keyrings here") };
    assert_eq!(String::from_utf8_lossy(&control.stdout), "starter-secret\n", "a plain child has it");

    let daemon = Launch::new().before_exec(log_in).start();
    let (mut one, mut other) = (daemon.tcp(), daemon.tcp());
    let key = |conn: &mut Conn, session: &str, words: &[&str]| {
        let argv = hostile.argv(&[&["key", KEY], words].concat());
        text(&run(conn, json!({"session": session, "argv": argv})))
    };
    let (first, second) = (one.open(json!({})), other.open(json!({})));
    assert_eq!(key(&mut one, &first, &[]), "none\n");
    // It has a keyring that can be used, and that goes with the command.
    assert_eq!(key(&mut one, &first, &["put"]), "put-secret\n");
    assert_eq!(key(&mut one, &first, &[]), "none\n");
    assert_eq!(key(&mut other, &second, &[]), "none\n");
    let shell = one.open(json!({"shell": true}));
    let line = format!("{} key {KEY}", hostile.path());
    assert_eq!(text(&run(&mut one, json!({"session": shell, "cmd": line}))), "none\n");
    for session in [first, shell] {
        close(&mut one, &session);
    }
    close(&mut other, &second);
}

/// Nice value, real-time priority and policy: fields 19, 40 and 41 of proc_pid_stat(5).
const SCHEDULING: &str = "cut -d' ' -f19,40,41 /proc/self/stat";

#[test]
fn inv14_priorities_of_a_daemon_are_no_commands() {
    let programs: [(&[&str], &str, &str); 3] = [
        (&["chrt", "-r", "1"], "0 1 2\n", "0 0 0\n"),
        (&["chrt", "-f", "1"], "0 1 1\n", "0 0 0\n"),
        (&["nice", "-n", "-10"], "-10 0 0\n", "0 0 0\n"),
    ];
    let own = plain_through(&["env"], SCHEDULING);
    for (program, control, expected) in programs {
        // What makes it weaker than others would stay; and nice goes on where it may not.
        if own != "0 0 0\n" || !can(program) || plain_through(program, SCHEDULING) == own {
            skip(&format!("{program:?} changes nothing here"));
            continue;
        }
        assert_eq!(plain_through(program, SCHEDULING), control);
        let daemon = start_through(program);
        assert_eq!(printed(&daemon, SCHEDULING), expected, "{program:?}");
        let shell = daemon.tcp().open(json!({"shell": true, "persist": true}));
        let record = run(&mut daemon.tcp(), json!({"session": shell, "cmd": SCHEDULING}));
        assert_eq!(text(&record), expected, "{program:?}");
        close(&mut daemon.tcp(), &shell);
    }
}

#[test]
fn inv14_the_io_class_of_a_daemon_is_no_commands() {
    let (Some(ionice), true) = (tool("ionice"), can(&["ionice", "-c1"])) else { return };
    assert!(plain_through(&["ionice", "-c1"], ionice).starts_with("realtime"));
    let shown = printed(&start_through(&["ionice", "-c1"]), ionice);
    assert!(shown.starts_with("none"), "{shown}");
}

#[test]
fn a_nice_value_that_yields_to_others_stays_that_of_commands() {
    let nice: i32 = plain_through(&["nice", "-n", "3"], "nice").trim().parse().unwrap();
    assert_eq!(printed(&start_through(&["nice", "-n", "3"]), "nice"), format!("{nice}\n"));
    // One that is configured is the commands'.
    let daemon = Launch::new().through(&["nice", "-n", "3"]).set("children.nice", json!(nice + 2)).start();
    assert_eq!(printed(&daemon, "nice"), format!("{}\n", nice + 2));
}

#[test]
fn inv13_limits_that_no_key_names_do_not_depend_on_whoever_started_the_daemon() {
    let program = [
        "prlimit",
        "--stack=1048576:",
        "--msgqueue=4096:",
        "--memlock=4096:",
        "--sigpending=100:",
        "--data=999999999:",
    ];
    if !can(&program) {
        return;
    }
    // Name, then soft and hard.
    let limits = |shown: &str| -> Vec<(String, String, String)> {
        let lines = shown.lines().filter(|line| line.starts_with("Max "));
        let columns =
            |line: &str| (line[..26].trim().to_owned(), line[26..47].trim().to_owned(), line[47..68].trim().to_owned());
        lines.map(columns).collect()
    };
    let one = |all: &[(String, String, String)], name: &str| {
        let found = all.iter().find(|(known, ..)| known == name).unwrap_or_else(|| panic!("no {name} in {all:?}"));
        (found.1.clone(), found.2.clone())
    };
    let control = limits(&plain_through(&program, "cat /proc/self/limits"));
    assert_eq!(one(&control, "Max stack size").0, "1048576");
    let given = limits(&printed(&start_through(&program), "cat /proc/self/limits"));
    let expected = [
        ("Max stack size", "8388608", "unlimited"),
        ("Max data size", "unlimited", "unlimited"),
        ("Max msgqueue size", "819200", "819200"),
        ("Max locked memory", "8388608", "8388608"),
        ("Max pending signals", "4096", "4096"),
        ("Max nice priority", "0", "0"),
        ("Max realtime priority", "0", "0"),
        ("Max realtime timeout", "unlimited", "unlimited"),
        ("Max file locks", "unlimited", "unlimited"),
    ];
    for (name, soft, hard) in expected {
        let (_, own_hard) = one(&control, name);
        let most = |wanted: &str| match (wanted.parse::<u64>(), own_hard.parse::<u64>()) {
            (Ok(wanted), Ok(own)) => wanted.min(own).to_string(),
            (Err(_), Ok(own)) => own.to_string(),
            (_, Err(_)) => wanted.to_owned(),
        };
        assert_eq!(one(&given, name), (most(soft), most(hard)), "{name}");
    }
}

/// A drop-in for timeout(1) takes nothing away.
#[test]
fn what_cofferdam_run_starts_has_all_that_it_was_started_with() {
    let hostile = Hostile::build();
    let cofferdam = |program: &[&str], words: &[&str]| {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(env!("CARGO_BIN_EXE_cofferdam")).args(["run", "--"]).args(words);
        command
    };
    let printed = |command: &mut Command| String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned();
    let mut logged_in = cofferdam(&["env"], &[hostile.path(), "key", KEY]);
    // SAFETY: `log_in` makes system calls only.
    if let Ok(output) = unsafe { logged_in.pre_exec(log_in) }.output() {
        assert_eq!(String::from_utf8_lossy(&output.stdout), "starter-secret\n");
    }
    let programs: [(&[&str], &str); 4] = [
        (&["chrt", "-r", "1"], SCHEDULING),
        (&["nice", "-n", "-5"], SCHEDULING),
        (&["prlimit", "--stack=1048576:", "--sigpending=100:"], "cat /proc/self/limits"),
        (
            &[
                "setpriv",
                "--inh-caps=+kill",
                "--ambient-caps=+kill",
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
            ],
            CAPABILITIES,
        ),
    ];
    for (program, line) in programs {
        if can(program) {
            let inherited = printed(&mut cofferdam(program, &["/bin/sh", "-c", line]));
            assert_eq!(inherited, plain_through(program, line), "{program:?}");
        }
    }
}
