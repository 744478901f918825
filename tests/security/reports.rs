//! The pipe by which a shell reports, written to by the commands that run in it.

use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use crate::exec_support::*;
use crate::program::Hostile;
use crate::support::*;

/// Shells that sessions may have; the standard one always.
fn shells() -> Vec<&'static str> {
    std::iter::once("/bin/sh").chain(tool("bash")).collect()
}

/// A line that finds the folder of the session's pipes: `$d`.
const FIND: &str = "d=$(readlink /proc/self/fd/2); d=${d%/*}; ";

#[test]
fn s17_a_made_up_report_does_not_end_a_command() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.control();
    for shell in shells() {
        let session = client.open(json!({"shell": shell}));
        let gate = daemon.launch.folder.gate();
        let marks = "$COFFERDAM_EXEC ${COFFERDAM_EXEC##*-} $COFFERDAM_SESSION ready over x";
        let made_up = format!(
            "{FIND}for f in 1 2 3 4 5 6; do [ -p $d/$f ] && for m in {marks}; do
                printf '%s\n' \"trap -- 'cofferdam $m 0 - /' SIGRTMAX\" \"trap -- 'cofferdam $m 0 - /' RTMAX\" \
                    \"trap -- 'cofferdam begun 0 - $m' RTMAX\" >>$d/$f; done; done;"
        );
        let asked = client.ask(
            "exec.run",
            json!({"session": session, "cmd": format!("{made_up}{}; (exit 7)", gate.wait()), "stdin": "y\n"}),
        );
        daemon.wait_running(1);
        // It is over when it is, and not before; other commands are refused until then.
        let mut control = daemon.control();
        for _ in 0..20 {
            control.refused("exec.run", json!({"session": session, "cmd": "true"}), "SESSION_BUSY");
        }
        gate.open();
        let record = record_of(&mut client, &asked);
        assert_eq!((&record["status"], &record["exit_code"]), (&json!("exited"), &json!(7)), "{record}");
        assert_eq!(client.run_in(&session, "echo on")["stdout"], "on\n");
        // And what runs on is under its time-out.
        let params = json!({"session": session, "cmd": format!("{made_up}sleep 1000"), "timeout_s": 0.5});
        assert_eq!(client.ok("exec.run", params)["status"], "timed_out");
    }
}

#[test]
fn s17_who_knows_the_mark_is_believed_and_no_environment_has_it() {
    let Some(bash) = tool("bash") else { return };
    let daemon = Daemon::start(&[]);
    let mut client = daemon.control();
    let session = client.open(json!({"shell": bash}));
    let gate = daemon.launch.folder.gate();
    // The control: bash shows its own next line to a trap, the one that reports among them, when the command is over
    // already. What is written with the mark that stands there counts: nothing else keeps a made-up report out.
    let trap = format!(
        r#"case $BASH_COMMAND in *cofferdam*PWD*) m=${{BASH_COMMAND#*cofferdam }}; m=${{m%% *}}
        code=42; case $(env; cat /proc/$$/environ | tr "\0" "\n") in *"$m"*) code=43;; esac
        for f in 1 2 3 4; do [ -p $d/$f ] && printf "%s\n" "trap -- '"'"'cofferdam $m $code - /'"'"' SIGRTMAX" >>$d/$f; done
        {};; esac"#,
        gate.wait()
    );
    let asked = client.ask("exec.run", json!({"session": session, "cmd": format!("{FIND}trap '{trap}' DEBUG; true")}));
    let record = record_of(&mut client, &asked);
    assert_eq!(record["exit_code"], 42, "43: the mark stands in an environment. {record}");
    gate.open();
    close(&mut client, &session);
}

#[test]
fn s17_a_flood_of_reports_costs_next_to_nothing() {
    let hostile = Hostile::build();
    let daemon = Daemon::start(&[]);
    let mut client = daemon.control();
    let mut neighbour = daemon.control();
    let quiet = daemon.cpu_share(&mut neighbour);
    for bytes in [1, 4096] {
        // The control: whoever reads all of it as it comes, and looks for a report in it, has a lot to do.
        let pipe = hostile.folder.path(&format!("pipe-{bytes}"));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
        std::fs::set_permissions(&pipe, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        let mut reader = std::fs::OpenOptions::new();
        let reader = reader.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(&pipe).unwrap();
        let writer = hostile.spawn(1_290_000_002, &["flood", pipe.to_str().unwrap(), "60", &bytes.to_string()]);
        let greedy = cpu_share_of_reading(reader);
        drop(writer);

        let session = client.open(json!({"shell": true}));
        // The first pipe that a session makes.
        let flood = format!("{FIND}[ -p $d/1 ] || exit 1; {} flood $d/1 60 {bytes} >/dev/null 2>&1 &", hostile.path());
        let record = client.run_in(&session, &flood);
        assert_eq!(record["exit_code"], 0, "{record}");
        let share = daemon.cpu_share(&mut neighbour);
        println!("{share} of a core, {quiet} without, and {greedy} to read all of {bytes} each");
        assert!(
            share < quiet + greedy / 2.0,
            "{share} of a core, {quiet} without, {greedy} to read all of {bytes} each"
        );
        // The session is usable, and others are.
        for code in [0, 3] {
            let record = client.run_in(&session, &format!("echo on; (exit {code})"));
            assert_eq!((&record["stdout"], &record["exit_code"]), (&json!("on\n"), &json!(code)), "{record}");
        }
        assert_well(&mut neighbour);
        close(&mut client, &session);
    }
}

/// Share of a core that it takes to read everything that comes within half a second, sleeping when there is nothing.
fn cpu_share_of_reading(mut pipe: std::fs::File) -> f64 {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let used = || {
        let used = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD).unwrap();
        let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        seconds(used.user_time()) + seconds(used.system_time())
    };
    let (start, before) = (std::time::Instant::now(), used());
    let mut buffer = [0; 4096];
    let mut kept = Vec::new();
    while start.elapsed().as_secs_f64() < 0.5 {
        let _ = poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], PollTimeout::from(100u8));
        let read = pipe.read(&mut buffer).unwrap_or(0);
        kept.extend_from_slice(&buffer[..read]);
        assert_eq!(memchr::memmem::rfind(&kept, b"RTMAX\n"), None);
        kept.drain(..kept.len().saturating_sub(32 * 1024));
    }
    (used() - before) / start.elapsed().as_secs_f64()
}
