//! `cofferdam run` passes output through as it comes, and drops none of it.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use crate::exec_support::*;
use crate::support::*;
use crate::{cofferdam, run};

#[test]
fn fifty_megabytes_pass_through_whole() {
    let done = run(&["--", "sh", "-c", "yes 0123456789abcde | head -c 50000000"]);

    assert_eq!(done.expect_quiet(0).stdout.len(), 50_000_000);
    assert!(done.stdout.chunks(16).all(|line| line == b"0123456789abcde\n"), "the output differs");
}

#[test]
fn bytes_of_every_value_pass_through_whole() {
    let shared = Shared::new();
    let content: Vec<u8> = (0..2_000_003_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let file = shared.file("bytes", &content, 0o644);

    let done = run(&["--", "cat", &file]);

    assert!(done.expect_quiet(0).stdout == content, "{} bytes came", done.stdout.len());
}

#[test]
fn both_outputs_pass_through_apart() {
    let cmd = "yes out | head -c 4000000 & yes err | head -c 4000000 >&2; wait";
    let done = run(&["--", "sh", "-c", cmd]);

    assert_eq!(done.code(), 0);
    assert!(done.stdout == b"out\n".repeat(1_000_000), "stdout differs: {} bytes", done.stdout.len());
    assert!(done.stderr.as_bytes() == b"err\n".repeat(1_000_000), "stderr differs: {} bytes", done.stderr.len());
}

#[test]
fn output_passes_through_as_it_comes() {
    let folder = Folder::new();
    let gate = folder.gate();

    let mut child =
        cofferdam(&["run", "--", "sh", "-c", &format!("printf 'now\\n'; {}; echo then", gate.wait())]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "now\n");
    gate.open();

    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "then\n");
    assert!(child.wait().unwrap().success());
}

#[test]
fn output_before_a_time_out_has_passed_through() {
    let done = run(&["--timeout", "0.5", "--", "sh", "-c", "printf 'no end of line'; exec sleep 4000"]);

    assert_eq!((done.code(), done.out().as_str()), (124, "no end of line"));
}

#[test]
fn output_that_nobody_reads_any_more_ends_the_command() {
    let mark = mark();

    let mut child = cofferdam(&["run", "--", "sh", "-c", &format!("sleep {mark} & exec yes")]).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    drop(out);

    assert_eq!(line, "y\n");
    let status = wait_until("it ends", DEADLINE, || child.try_wait().unwrap());
    assert!(!status.success(), "{status}");
    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "", "a reader who has enough is no fault");
}

#[test]
fn a_slow_reader_gets_all() {
    let mut command = cofferdam(&["run", "--", "sh", "-c", "yes 0123456 | head -c 20000000"]);
    let mut child = command.stderr(Stdio::inherit()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut piece = vec![0; 1000];
    let mut seen = Vec::new();

    // Small pieces at first: the pipe stays full, and everything behind it has to wait.
    for _ in 0..2000 {
        let count = out.read(&mut piece).unwrap();
        seen.extend_from_slice(&piece[..count]);
    }
    out.read_to_end(&mut seen).unwrap();

    assert!(seen == b"0123456\n".repeat(2_500_000), "{} bytes came", seen.len());
    assert!(child.wait().unwrap().success());
}

#[test]
fn output_on_a_full_disk_is_a_failure_of_our_own() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();

    let done = crate::Running::start(cofferdam(&["run", "--", "echo", "hi"]).stdout(full)).wait();

    done.expect_said(125, &["output"]);
}
