//! The file of limits that were set, while the process that writes it is killed: whatever the moment, what is there
//! afterwards is the last state that was saved, or the one that was being saved.
#![allow(clippy::disallowed_methods, reason = "a test starts programs as anybody does")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cofferdam::admission::overrides::{Overrides, load, save};
use cofferdam::admission::quota::Resource;

const KILLS: usize = 200;
/// Names the file to the process that writes; without it, this is the test.
const WRITES: &str = "COFFERDAM_TEST_WRITES";
const TEST: &str = "a_process_that_is_killed_while_it_saves_leaves_a_whole_state";

/// A state that shows its number everywhere, in a file of several pages.
fn state(number: i64) -> Overrides {
    let mut state = Overrides::default();
    state.put(None, Resource::Sessions, Some(number)).unwrap();
    for client in 0..200 {
        state.put(Some(&format!("ip:10.0.0.{client}")), Resource::Commands, Some(number)).unwrap();
    }
    state
}

/// The number of a state that is one of ours.
fn number(found: &Overrides) -> i64 {
    let number = found.get(None, Resource::Sessions).unwrap_or(0);
    assert!(*found == if number == 0 { Overrides::default() } else { state(number) }, "no state that was saved");
    number
}

/// Saves one state after the other and says so, until it is killed or nobody listens.
fn write(path: &Path) {
    let mut out = std::io::stdout();
    let mut next = number(&load(path).unwrap().overrides);
    loop {
        next += 1;
        if writeln!(out, "begins {next}").and_then(|()| out.flush()).is_err() {
            return;
        }
        save(path, &state(next).encode()).unwrap();
        if writeln!(out, "ends {next}").and_then(|()| out.flush()).is_err() {
            return;
        }
    }
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_process_that_is_killed_while_it_saves_leaves_a_whole_state() {
    if let Some(path) = std::env::var_os(WRITES) {
        return write(Path::new(&path));
    }
    let folder = Folder(std::env::temp_dir().join(format!("cofferdam-state-{}", std::process::id())));
    std::fs::create_dir(&folder.0).unwrap();
    let file = folder.0.join("limits.json");
    let (mut saved, mut within) = (0, 0);
    let mut random = 7u64;
    for kill in 0..KILLS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (begun, ended) = kill_at(&file, (random >> 33) as usize);
        let last = if ended > 0 { ended } else { saved };
        let loaded = load(&file).unwrap_or_else(|error| panic!("kill {kill}: {error}"));
        assert_eq!(loaded.refused, None, "kill {kill}");
        let found = number(&loaded.overrides);
        assert!(found == last || found == begun, "kill {kill}: found {found}, saved {last}, began {begun}");
        // The copy is whole as well; it stays behind if the process is always killed before it is replaced.
        let copy = folder.0.join("limits.json.last-good");
        let copied = number(&load(&copy).unwrap_or_else(|error| panic!("kill {kill}: {error}")).overrides);
        assert!(copied <= found, "kill {kill}: found {found}, its copy {copied}");
        saved = found;
        within += usize::from(begun > last);
    }
    assert!(within > KILLS / 10, "only {within} of {KILLS} were killed while they saved");
}

/// Starts a process that writes and kills it at a moment that depends on `random`; the last state it began to save,
/// and the last one that it had saved.
fn kill_at(file: &Path, random: usize) -> (i64, i64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture", "--test-threads=1"])
        .env(WRITES, file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let (mut begun, mut ended) = (0, 0);
    let mut read_line = || {
        let mut line = String::new();
        if lines.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        match line.trim_end().rsplit_once(' ') {
            // libtest writes the name of the test before the first.
            Some((start, n)) if start.ends_with("begins") => begun = n.parse().unwrap(),
            Some((start, n)) if start.ends_with("ends") => ended = n.parse().unwrap(),
            _ => return Some(false),
        }
        Some(true)
    };
    let mut events = 0;
    while events < 1 + random % 6 {
        events += usize::from(read_line().expect("it writes until it is killed"));
    }
    // Anywhere between two of its lines: as long as it takes to do nothing so often.
    for _ in 0..random / 6 % 200_000 {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    while read_line().is_some() {}
    (begun, ended)
}
