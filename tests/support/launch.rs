//! How a daemon is started: settings, environment, and the oddities that it may inherit.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use super::{Daemon, Folder, is_root};

/// Name of the variable by which everything that a daemon starts is found again.
pub const MARK: &str = "COFFERDAM_TEST_MARK";

static LAUNCHES: AtomicU32 = AtomicU32::new(0);

/// A daemon about to be started.
pub struct Launch {
    pub folder: Folder,
    pub mark: String,
    /// Uids of its sessions where it runs as root, ours alone as long as the slot is held.
    pub uids: std::ops::Range<u32>,
    slot: Option<Flock<File>>,
    /// As long as it is there nobody changes what daemons of all tests of this machine need: see [`alone`].
    pub undisturbed: Option<Flock<File>>,
    settings: BTreeMap<String, Value>,
    environment: Vec<(OsString, OsString)>,
    /// Address to listen on; none: no TCP.
    listen: Option<String>,
    pub unix: bool,
    before_exec: Option<fn() -> std::io::Result<()>>,
    /// A program, and its arguments, that becomes the daemon.
    through: Vec<String>,
}

impl Launch {
    pub fn new() -> Launch {
        let number = LAUNCHES.fetch_add(1, Ordering::Relaxed);
        let now = std::time::UNIX_EPOCH.elapsed().unwrap();
        let (slot, uids) = if is_root() { uid_slot() } else { (None, 0..0) };
        Launch {
            folder: Folder::new(),
            mark: format!("{}-{number}-{}", std::process::id(), now.as_nanos()),
            slot,
            undisturbed: is_root().then(undisturbed),
            uids,
            settings: BTreeMap::new(),
            environment: Vec::new(),
            listen: Some("127.0.0.1:0".to_owned()),
            unix: true,
            before_exec: None,
            through: Vec::new(),
        }
        .with_defaults()
    }

    /// Quotas off, the mark passed on, a uid range of its own, and no haste for a connection that a test makes early and
    /// uses late; everything else as the daemon has it.
    fn with_defaults(self) -> Launch {
        let unlimited =
            json!({"sessions": -1, "commands": -1, "memory_bytes": -1, "processes": -1, "buffer_bytes": -1});
        let launch = self.set("quotas.registered", unlimited).set("children.pass_env", json!([MARK]));
        let launch = launch.set("connections.first_line_s", json!(3600));
        if launch.uids.is_empty() {
            // All daemons of all tests share one uid then, and with it the count of its tasks.
            return launch.set("limits.limit_nproc", json!(4096));
        }
        let (base, count) = (launch.uids.start, launch.uids.end - launch.uids.start);
        launch.set("children.uid_base", json!(base)).set("children.uid_count", json!(count))
    }

    /// Sets one key of the configuration; the last one counts.
    pub fn set(mut self, key: &str, value: Value) -> Launch {
        self.settings.insert(key.to_owned(), value);
        self
    }

    pub fn set_all(self, settings: &[(&str, Value)]) -> Launch {
        settings.iter().fold(self, |launch, (key, value)| launch.set(key, value.clone()))
    }

    /// Leaves one key to the file of the configuration, or to its default.
    pub fn without(mut self, key: &str) -> Launch {
        self.settings.remove(key);
        self
    }

    /// Writes the file of the configuration that it reads; what is set key by key is on top of it.
    pub fn with_config(self, config: &Value) -> Launch {
        std::fs::write(self.config(), config.to_string()).unwrap();
        self
    }

    pub fn config(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    /// Whether clients may ask only so often.
    pub fn has_rate(&self) -> bool {
        let config = std::fs::read_to_string(self.config()).unwrap_or_default();
        self.settings.contains_key("rate.rate") || config.contains("\"rate\"")
    }

    /// Puts a variable into the environment of the daemon.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Launch {
        self.environment.push((name.into(), value.into()));
        self
    }

    pub fn listen(mut self, address: &str) -> Launch {
        self.listen = Some(address.to_owned());
        self
    }

    pub fn without_tcp(mut self) -> Launch {
        self.listen = None;
        self
    }

    pub fn without_unix(mut self) -> Launch {
        self.unix = false;
        self
    }

    /// Has the process do this right before it becomes the daemon. Only system calls: it runs after fork.
    pub fn before_exec(mut self, odd: fn() -> std::io::Result<()>) -> Launch {
        self.before_exec = Some(odd);
        self
    }

    /// Has this program start it, in its own place: as `nice -n 5`.
    pub fn through(mut self, program: &[&str]) -> Launch {
        self.through = program.iter().map(|&word| word.to_owned()).collect();
        self
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.join("s")
    }

    /// The command that starts it.
    pub fn command(&self) -> Command {
        let binary = env!("CARGO_BIN_EXE_cofferdam");
        let mut command = match self.through.split_first() {
            None => Command::new(binary),
            Some((program, words)) => {
                let mut command = Command::new(program);
                command.args(words).arg(binary);
                command
            }
        };
        command.arg("serve").current_dir(self.folder.path());
        match &self.listen {
            Some(address) => command.args(["--listen", address]),
            None => command.args(["--set", "listen=null"]),
        };
        if self.unix {
            command.arg("--unix-socket").arg(self.socket());
        }
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let log = File::create(self.log()).unwrap();
        // What a daemon that is killed leaves of its workspaces goes with the folder.
        command.env("TMPDIR", self.folder.scratch());
        command.env(MARK, &self.mark).envs(self.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        if let Some(odd) = self.before_exec {
            // SAFETY: `odd` makes system calls only, as `before_exec` asks of whoever sets it.
            unsafe { command.pre_exec(odd) };
        }
        command
    }

    pub fn log(&self) -> PathBuf {
        self.folder.join("stderr")
    }

    /// Starts it and waits for its ready line.
    #[track_caller]
    pub fn start(self) -> Daemon {
        Daemon::launch(self)
    }
}

/// Two files: who wants to be alone holds the gate while those that are inside leave, and nobody comes in meanwhile.
fn lock(name: &str, how: FlockArg) -> Option<Flock<File>> {
    let path = std::env::temp_dir().join(format!("cofferdam-test-{name}"));
    Flock::lock(File::create(path).unwrap(), how).ok()
}

fn undisturbed() -> Flock<File> {
    let _gate = lock("gate", FlockArg::LockShared);
    lock("inside", FlockArg::LockShared).expect("nobody keeps others out for long")
}

/// Keeps every other test of this machine that starts a daemon as root out, for as long as it is held; none where those
/// that run do not end soon. For a test that changes a setting of the whole machine, and has given up what keeps it
/// undisturbed itself.
pub fn alone() -> Option<[Flock<File>; 2]> {
    let gate = lock("gate", FlockArg::LockExclusive)?;
    let end = Instant::now() + Duration::from_secs(15);
    loop {
        match lock("inside", FlockArg::LockExclusiveNonblock) {
            Some(inside) => return Some([gate, inside]),
            None if Instant::now() > end => return None,
            None => std::thread::sleep(Duration::from_millis(4)),
        }
    }
}

/// A range of uids that no other daemon of a test uses now: a daemon refuses a range that overlaps another's.
fn uid_slot() -> (Option<Flock<File>>, std::ops::Range<u32>) {
    const WIDTH: u32 = 512;
    for number in 0..512 {
        let path = std::env::temp_dir().join(format!("cofferdam-test-uids-{number}"));
        let Ok(file) = File::create(path) else { continue };
        if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            // Far above any range that a person or a distribution gives out.
            let base = 1_300_000_000 + number * WIDTH;
            return (Some(lock), base..base + WIDTH);
        }
    }
    panic!("no free range of uids");
}
