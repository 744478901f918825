//! `cofferdam run` as a better `timeout` and `ulimit`: each limit that is given binds, and no other.

use crate::exec_support::*;
use crate::run;
use crate::support::*;

/// A script in a file, as people run them.
fn script(shared: &Shared, content: &str) -> String {
    shared.file("script.py", content, 0o644)
}

#[test]
fn a_runaway_allocation_is_a_memory_error_in_the_script() {
    let Some(python) = python() else { return };
    let shared = Shared::new();
    let script = script(&shared, "x = []\nwhile True: x.append(bytearray(1 << 20))\n");

    let done = run(&["--address-space", "64M", "--cpu", "1", "--", python, &script]);

    done.expect_said(1, &["Traceback", "MemoryError"]);
}

#[test]
fn a_script_may_catch_its_memory_error() {
    let Some(python) = python() else { return };
    let shared = Shared::new();
    let script = script(&shared, "try: x = bytearray(100 << 20)\nexcept MemoryError: print('caught')\n");

    assert_eq!(run(&["--address-space", "64M", "--", python, &script]).expect_quiet(0).out(), "caught\n");
}

#[test]
fn a_busy_script_ends_after_one_second_of_cpu_with_a_verdict() {
    let Some(python) = python() else { return };
    let shared = Shared::new();
    let script = script(&shared, "print('begin', flush=True)\nwhile True: pass\n");

    let done = run(&["--address-space", "64M", "--cpu", "1", "--", python, &script]);

    done.expect_said(128 + 24, &["cpu", "1 s"]);
    assert_eq!(done.out(), "begin\n");
}

#[test]
fn a_sleeping_script_is_left_alone() {
    let Some(python) = python() else { return };
    let shared = Shared::new();
    let script = script(&shared, "import time\ntime.sleep(1.6)\nprint('awake')\n");

    assert_eq!(run(&["--address-space", "64M", "--cpu", "1", "--", python, &script]).expect_quiet(0).out(), "awake\n");
}

#[test]
fn a_busy_script_that_minds_no_signal_is_ended() {
    let Some(python) = python() else { return };
    let shared = Shared::new();
    let script = script(&shared, "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass\n");

    run(&["--cpu", "1", "--", python, &script]).expect_said(128 + 9, &["cpu"]);
}

#[test]
fn the_cpu_of_a_whole_tree_counts() {
    let done = run(&["--cpu", "1", "--", "sh", "-c", "for i in 1 2 3 4 5 6; do (while :; do :; done) & done; wait"]);

    assert!(done.code() > 128, "{done:?}");
    done.expect_said(done.code(), &["cpu"]);
}

#[test]
fn the_memory_of_a_tree_is_limited() {
    let mark = mark();
    let hold = format!("(head -c 16M /dev/zero; sleep {mark}) | tail >/dev/null");

    let done = run(&["--memory", "40M", "--", "sh", "-c", &format!("{hold} & {hold} & {hold} & {hold} & wait")]);

    done.expect_said(128 + 9, &["memory", "40 MiB"]);
    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
}

#[test]
fn descriptors_are_limited() {
    assert_eq!(run(&["--nofile", "20", "--", "sh", "-c", "ulimit -n; ulimit -Hn"]).expect_quiet(0).out(), "20\n20\n");
}

#[test]
fn the_size_of_files_is_limited() {
    let shared = Shared::new();

    let cmd = format!("exec head -c 10000 /dev/zero >{}", shared.text("file"));
    run(&["--fsize", "4K", "--", "sh", "-c", &cmd]).expect_said(128 + 25, &["fsize"]);

    assert_eq!(std::fs::metadata(shared.path("file")).unwrap().len(), 4096);
}

#[test]
fn processes_are_limited() {
    let limits = run(&["--nproc", "50", "--", "cat", "/proc/self/limits"]);

    let out = limits.expect_quiet(0).out();
    let row = out.lines().find(|line| line.starts_with("Max processes")).unwrap();
    // Counted per uid: with a shared one, the tasks that are there come on top.
    let soft = row.split_whitespace().nth(2).unwrap().parse::<u64>();
    assert!(soft.is_ok_and(|count| (50..100_000).contains(&count)), "{row}");
}

#[test]
fn output_over_its_limit_ends_the_command() {
    let done = run(&["--output-limit", "1000", "--", "yes"]);

    assert!(done.code() > 128, "{}", done.stderr);
    done.expect_said(done.code(), &["output"]);
    assert!(done.stdout.len() >= 1000 && done.stdout.starts_with(b"y\ny\ny\n"), "{} bytes", done.stdout.len());
}

#[test]
fn output_within_its_limit_is_passed_through() {
    assert_eq!(run(&["--output-limit", "6", "--", "echo", "12345"]).expect_quiet(0).out(), "12345\n");
}

#[test]
fn with_json_the_output_limit_is_what_is_kept() {
    let done = run(&["--json", "--output-limit", "5", "--", "printf", "0123456789"]);

    let record: Value = serde_json::from_slice(&done.expect_quiet(0).stdout).unwrap();
    assert_eq!((text(&record).as_str(), &record["stdout_dropped"]), ("56789", &json!(5)));
}

#[test]
fn only_limits_that_are_given_bind() {
    let own = std::fs::read_to_string("/proc/self/limits").unwrap();
    let rows = |limits: &str| -> Vec<String> {
        let names = ["Max cpu", "Max address", "Max proc", "Max open", "Max file size", "Max core", "Max stack"];
        let is_ours = |line: &&str| names.iter().any(|name| line.starts_with(name));
        limits.lines().filter(is_ours).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    };

    let seen = run(&["--", "cat", "/proc/self/limits"]).expect_quiet(0).out();
    assert_eq!(rows(&seen), rows(&own));

    let seen = run(&["--fsize", "1G", "--", "cat", "/proc/self/limits"]).expect_quiet(0).out();
    let differ: Vec<String> = rows(&seen).into_iter().filter(|row| !rows(&own).contains(row)).collect();
    assert_eq!(differ, ["Max file size 1073741824 1073741824 bytes"]);
}

#[test]
fn sizes_are_bytes_or_have_a_unit() {
    for (size, bytes) in [("65536", 65536_u64), ("64K", 65536), ("3M", 3 << 20), ("1G", 1 << 30)] {
        let out = run(&["--fsize", size, "--", "cat", "/proc/self/limits"]).expect_quiet(0).out();
        let row = out.lines().find(|line| line.starts_with("Max file size")).unwrap();
        assert!(row.contains(&format!(" {bytes} ")), "{size}: {row}");
    }
}
