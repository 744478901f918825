//! The hostile program, compiled for one test, and plain children that it is tried on as a control.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use crate::exec_support::*;
use crate::support::*;

/// The hostile program in a folder that every uid may enter; it goes with the value.
pub struct Hostile {
    #[allow(dead_code, reason = "it is kept for what the program needs beside itself")]
    pub folder: Shared,
    path: String,
}

impl Hostile {
    /// Compiles it; Rust needs the same compiler to link.
    #[track_caller]
    pub fn build() -> Hostile {
        let folder = Shared::new();
        let path = folder.text("hostile");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/security/hostile.c");
        // The manifest's folder of a copy is told at run time.
        let source = std::env::var("CARGO_MANIFEST_DIR")
            .map_or_else(|_| source.to_owned(), |root| format!("{root}/tests/security/hostile.c"));
        let built = Command::new("cc").args(["-O1", "-w", "-o", &path, &source, "-lrt", "-lpthread"]).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Hostile { folder, path }
    }

    /// Its path, for a line of shell.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// An `argv` that runs it.
    pub fn argv(&self, words: &[&str]) -> Value {
        json!(std::iter::once(self.path()).chain(words.iter().copied()).collect::<Vec<_>>())
    }

    /// Runs it as a plain child of this test, under `uid` where the test may change uids: what it printed. The control
    /// of an attack.
    #[track_caller]
    pub fn plain(&self, uid: u32, words: &[&str]) -> String {
        let output = self.command(uid, words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The same, while it runs.
    #[track_caller]
    pub fn spawn(&self, uid: u32, words: &[&str]) -> Plain {
        Plain(self.command(uid, words).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn command(&self, uid: u32, words: &[&str]) -> Command {
        let mut command = Command::new(self.path());
        command.args(words).stdin(Stdio::null());
        if is_root() {
            command.uid(uid).gid(uid);
        }
        command
    }
}

/// A uid that no session and no other test has, for controls.
pub fn uid_of_nobody() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    1_200_000_000 + std::process::id() % (1 << 22) * 16 + NEXT.fetch_add(1, Ordering::Relaxed) % 16
}

/// A plain child that is killed and reaped at the end of its scope.
pub struct Plain(pub Child);

impl Plain {
    pub fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    /// Waits until it is gone by itself or by somebody's signal.
    #[track_caller]
    pub fn expect_end(&mut self) {
        let child = &mut self.0;
        wait_until("a plain child ends", DEADLINE, || child.try_wait().unwrap());
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
