//! Invariants of the architecture that the source itself shows.

use std::path::{Path, PathBuf};

fn sources(below: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(below)];
    while let Some(folder) = folders.pop() {
        if folder.is_file() {
            found.push((folder.clone(), std::fs::read_to_string(&folder).unwrap()));
            continue;
        }
        folders.extend(std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()));
    }
    assert!(!found.is_empty(), "{below} is empty");
    found
}

/// The program's own lines: without its unit tests and its comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//"))
}

#[track_caller]
fn assert_without(below: &str, words: &[&str]) {
    for (path, text) in sources(below) {
        for line in code(&text) {
            let found = words.iter().find(|word| line.contains(*word));
            assert!(found.is_none(), "{}: {line}", path.display());
        }
    }
}

#[test]
fn inv6_nothing_sleeps() {
    assert_without("src", &["thread::sleep", "nanosleep"]);
}

#[test]
fn inv12_workers_never_touch_a_socket_and_the_gateway_never_touches_a_pid() {
    assert_without("src/worker", &["TcpStream", "UnixStream", "TcpListener", "UnixListener"]);
    assert_without("src/process", &["TcpStream", "UnixStream", "TcpListener", "UnixListener"]);
    assert_without("src/gateway", &["Pid", "signal::", "Encoding::"]);
}

#[test]
fn inv17_unsafe_code_is_in_sys_alone() {
    for (path, text) in sources("src") {
        let in_sys = path.components().any(|part| part.as_os_str() == "sys");
        for line in code(&text) {
            assert!(in_sys || !line.contains("unsafe {") && !line.contains("unsafe fn"), "{}: {line}", path.display());
            assert!(in_sys || !line.contains("allow(unsafe_code)"), "{}: {line}", path.display());
        }
    }
}

#[test]
fn inv17_each_unsafe_block_has_its_argument() {
    for (path, text) in sources("src/sys") {
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate().filter(|(_, line)| line.contains("unsafe {")) {
            let before = &lines[at.saturating_sub(6)..at];
            assert!(before.iter().any(|line| line.contains("SAFETY:")), "{}:{}: {line}", path.display(), at + 1);
        }
    }
}
