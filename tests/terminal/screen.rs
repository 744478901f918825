//! What a command finds on its terminal, and what becomes of what it writes there.

use super::typist::Typist;
use crate::exec_support::*;
use crate::support::*;

fn pty() -> Value {
    json!({"cols": 80, "rows": 24})
}

#[test]
fn all_three_are_one_terminal_that_is_its_own() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let session = conn.open(json!({}));
    let cmd = "for fd in 0 1 2; do [ -t $fd ] && echo $fd; done; echo err >&2; echo tty >/dev/tty; tty; echo $TERM";
    let record = run(&mut conn, json!({"session": session, "cmd": cmd, "pty": pty()}));

    let shown = text(&record);
    assert!(shown.starts_with("0\r\n1\r\n2\r\nerr\r\ntty\r\n/dev/pts/"), "{shown:?}");
    assert!(shown.ends_with("\r\nxterm-256color\r\n"), "{shown:?}");
    assert_eq!((&record["stderr"], &record["stderr_bytes"]), (&json!(""), &json!(0)));
}

#[test]
fn inv14_it_controls_the_command_and_no_descriptor_of_ours_is_there() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let cmd = "exec 3</proc/self/stat; read -r stat <&3; exec 3<&-; set -- ${stat##*) }; \
               echo session $4 group $3 foreground $6 pid $$; ls -l /proc/self/fd | wc -l; cat /proc/self/limits >/dev/null";
    let record = run(&mut conn, json!({"cmd": cmd, "pty": pty()}));

    let shown = text(&record);
    let words: Vec<&str> = shown.split_whitespace().collect();
    let pid = words[7];
    assert_eq!(words[..8], ["session", pid, "group", pid, "foreground", pid, "pid", pid], "{shown}");
    // 0, 1, 2, the folder itself, and the line of the total.
    assert_eq!(words[8], "5", "{shown}");
}

#[test]
fn its_name_can_be_opened_and_its_kind_given() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let mut shown = |params: Value| text(&run(&mut conn, params));
    assert_eq!(shown(json!({"cmd": "echo by name >$(tty)", "pty": pty()})), "by name\r\n");
    let vt100 = json!({"cols": 80, "rows": 24, "term": "vt100"});
    assert_eq!(shown(json!({"cmd": "echo $TERM", "pty": vt100, "env": {"TERM": "dumb"}})), "vt100\r\n");
    assert_eq!(shown(json!({"cmd": "echo $TERM", "pty": pty(), "env": {"TERM": "dumb"}})), "dumb\r\n");
}

#[test]
fn nothing_of_a_large_output_is_lost_at_the_end() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let expected: String = (1..=20_000).map(|number| format!("{number}\r\n")).collect();
    for _ in 0..10 {
        let record = run(&mut conn, json!({"cmd": "exec seq 1 20000", "pty": pty()}));
        assert_eq!(end(&record), exited(0));
        assert!(text(&record) == expected, "{} bytes of {}", text(&record).len(), expected.len());
    }
}

#[test]
fn it_is_there_when_nobody_holds_it_for_a_moment() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let cmd = "exec </dev/null >/dev/null 2>&1; sleep 0.2; echo back >/dev/tty; exit 7";
    let record = run(&mut conn, json!({"cmd": cmd, "pty": pty()}));
    assert_eq!((end(&record), text(&record).as_str()), (exited(7), "back\r\n"));
}

#[test]
fn it_streams_and_characters_stay_whole() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let cmd = "stty -opost; yes 'aé€🦀' | head -n 30000";
    let id = conn.ask("exec.run", json!({"cmd": cmd, "pty": pty(), "stream": true}));
    let (pieces, record) = pieces_and_record(&mut conn, &id);
    assert!(joined(&pieces, "stdout") == "aé€🦀\n".repeat(30_000).as_bytes(), "the output differs");
    assert!(pieces.iter().all(|piece| piece.encoding == "utf8" && piece.stream == "stdout"));
    assert_eq!(record["stdout_bytes"], 330_000);
}

#[test]
fn what_is_given_as_input_is_typed_and_ends() {
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    for (stdin, expected) in [("one\ntwo\n", "one\r\ntwo\r\n"), ("one\ntwo", "one\r\ntwo"), ("", "")] {
        let cmd = "sleep 0.1; stty -echo; cat; echo; echo end";
        let record = run(&mut conn, json!({"cmd": cmd, "stdin": stdin, "pty": pty()}));
        // It may have been echoed before the echo was off.
        let shown = text(&record);
        assert!(shown.ends_with(&format!("{expected}\r\nend\r\n")), "{stdin:?}: {shown:?}");
    }
}

#[test]
fn a_flood_on_a_terminal_is_no_burden_and_ends_with_its_session() {
    let daemon = Daemon::start(&[]);
    let (mut conn, mut other) = (daemon.tcp(), daemon.tcp());
    let session = conn.open(json!({}));
    let typist = Typist::start(&mut conn, &session, &["yes"]);
    assert!(typist.pid > 1);
    for _ in 0..10 {
        assert_well(&mut other);
    }
    close(&mut conn, &session);
}
