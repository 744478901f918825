//! The command line of section 10: `run`, `call`, `check`, `doctor`, `serve`, help and exit codes.

// What the daemon itself must not use.
#![allow(clippy::disallowed_methods)]

#[path = "../exec_support/mod.rs"]
mod exec_support;
#[path = "../support/mod.rs"]
mod support;

mod call;
mod config;
mod leftovers;
mod limits;
mod pass_through;
mod run;
mod usage;

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

use support::{DEADLINE, wait_until};

/// The command line with these arguments, in an environment that tells it nothing.
pub fn cofferdam<S: AsRef<str>>(arguments: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command.args(arguments.iter().map(AsRef::as_ref)).env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// `cofferdam run` with these arguments.
pub fn run<S: AsRef<str>>(arguments: &[S]) -> Done {
    let mut all = vec!["run".to_owned()];
    all.extend(arguments.iter().map(|argument| argument.as_ref().to_owned()));
    Running::start(&mut cofferdam(&all)).wait()
}

/// A command line that runs; its outputs are read as they come.
pub struct Running {
    pub child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

/// How a command line ended, and what it wrote.
#[derive(Debug)]
pub struct Done {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Running {
    #[track_caller]
    pub fn start(command: &mut Command) -> Running {
        fn reader(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                from.read_to_end(&mut bytes).unwrap();
                bytes
            })
        }
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().map(reader);
        let stderr = child.stderr.take().map(reader);
        Running { child, stdout, stderr }
    }

    pub fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id() as i32)
    }

    /// Waits for its end; both outputs must end with it, or something that it left still holds them.
    #[track_caller]
    pub fn wait(mut self) -> Done {
        let status = wait_until("the command line ends", DEADLINE, || self.child.try_wait().unwrap());
        let both = [self.stdout.take(), self.stderr.take()];
        wait_until("its outputs end with it", DEADLINE, || {
            both.iter().flatten().all(JoinHandle::is_finished).then_some(())
        });
        let [stdout, stderr] = both.map(|reader| reader.map(|reader| reader.join().unwrap()).unwrap_or_default());
        Done { status, stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Done {
    /// The exit code; one that was ended by a signal has none.
    #[track_caller]
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by signal {:?}: {}", self.status.signal(), self.stderr))
    }

    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Ended with this code and said nothing of its own.
    #[track_caller]
    pub fn expect_quiet(&self, code: i32) -> &Done {
        assert_eq!((self.code(), self.stderr.as_str()), (code, ""), "{}", self.out());
        self
    }

    /// Ended with this code and said why, in words that hold each of `words`.
    #[track_caller]
    pub fn expect_said(&self, code: i32, words: &[&str]) -> &Done {
        assert_eq!(self.code(), code, "stdout {:?}, stderr {:?}", self.out(), self.stderr);
        let said = self.stderr.to_lowercase();
        for word in words {
            assert!(said.contains(&word.to_lowercase()), "{word:?} is not in {:?}", self.stderr);
        }
        self
    }
}

/// Writes all of `bytes` to the stdin of `child` and closes it, beside whatever else goes on.
pub fn feed(child: &mut Child, bytes: Vec<u8>) -> JoinHandle<()> {
    let mut stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || {
        // Fails where the command has stopped reading: that is the command's business.
        let _ = stdin.write_all(&bytes);
    })
}
