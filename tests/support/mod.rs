//! What every integration test stands on: a daemon of its own, raw clients, and waiting for facts.
//!
//! A test starts the real binary in a folder of its own, talks to it as any client would, and when the [`daemon::Daemon`]
//! goes out of scope everything that must be gone by then is asserted to be gone: sessions, descriptors, threads,
//! children, and after SIGTERM every process that carries the daemon's mark.

// Each test binary uses its own part of this. The waits and spawns that the daemon itself must not use live here.
#![allow(dead_code, unused_imports, clippy::disallowed_methods, clippy::disallowed_macros)]

pub mod conn;
pub mod daemon;
pub mod folder;
pub mod launch;
pub mod procs;
pub mod shape;

use std::time::{Duration, Instant};

pub use conn::Conn;
pub use daemon::Daemon;
pub use folder::{Folder, Gate};
pub use launch::Launch;
pub use nix::sys::signal::Signal;
pub use serde_json::{Value, json};

/// How long a fact may take before a test fails. Generous: it only ever passes when something is broken.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for a fact: asks `fact` every few milliseconds until it gives something. The only sleep of the suite.
#[track_caller]
pub fn wait_until<T>(what: &str, deadline: Duration, mut fact: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = fact() {
            return value;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::sleep(Duration::from_millis(4));
    }
}

/// Says why a test, or a part of it, did not run here.
pub fn skip(why: &str) {
    println!("skipped: {why}");
}

/// Whether the tests run as root: then the daemon gives each session a uid from a pool.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The value of `key`, wherever it stands in `value`.
pub fn find<'v>(value: &'v Value, key: &str) -> Option<&'v Value> {
    match value {
        Value::Object(map) => map.get(key).or_else(|| map.values().find_map(|inner| find(inner, key))),
        Value::Array(items) => items.iter().find_map(|inner| find(inner, key)),
        _ => None,
    }
}
