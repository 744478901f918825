//! The runtime: in a process of its own as the daemon, or inside of another program.

mod assembly;
pub(crate) mod reload;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::unistd::getppid;

pub(crate) use self::assembly::tell_overruled;
pub(crate) use self::assembly::{About, messages_max};
use self::assembly::{Parts, build, system};
use self::reload::Wish;
use crate::client::{Client, ClientError, Record, Run};
use crate::config::{Config, Sources};
use crate::enforcement::{self, Host};
use crate::gateway::ListenError;
use crate::mailbox::Mailbox;
use crate::message::{ToGateway, ToReaper};
use crate::protocol::encode::Object;
use crate::threads::{Joinable, thread};

/// A thread that has not ended by then is left behind: the process ends anyway.
const JOIN_MAX: Duration = Duration::from_secs(5);

/// What an embedding program may choose beside the configuration.
#[derive(Debug, Default)]
pub struct Options {
    /// What commands read that have no input of their own; default: `/dev/null`.
    pub stdin: Option<OwnedFd>,
    /// The process has no children but those of the runtime: then every orphan that it adopts is ended and reaped.
    pub exclusive: bool,
    /// SIGTERM, SIGINT and SIGQUIT stop the runtime; a guard that is gone ends it.
    pub signals: bool,
    /// SIGHUP stops it too.
    pub hangup_stops: bool,
    /// Records tell how large address spaces were (`usage.max_vm_bytes`).
    pub watch_vm: bool,
    /// With `signals`: what SIGHUP reads again.
    pub sources: Option<Sources>,
}

/// Why the runtime could not start. Reads as one clause.
#[derive(Debug)]
pub enum StartError {
    /// The configuration cannot be honoured on this host.
    Config(String),
    /// An address or a socket's path that cannot be listened on.
    Listen(ListenError),
    /// The step that failed, and how.
    System(&'static str, io::Error),
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            StartError::Config(what) => f.write_str(what),
            StartError::Listen(error) => error.fmt(f),
            StartError::System(step, error) => write!(f, "cannot {step}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// The runtime is stopping, and takes no other configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopping;

impl std::fmt::Display for Stopping {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("the runtime is stopping")
    }
}

impl std::error::Error for Stopping {}

/// The runtime in this process: start it, be its client, stop it.
///
/// It makes the process a child subreaper, so that what commands leave behind is adopted and ended. Dropping it stops
/// it: commands are ended, sessions closed.
///
/// ```no_run
/// use cofferdam::{Config, Runtime};
/// use cofferdam::client::Run;
///
/// let mut config = Config::default();
/// config.listen = None; // nobody but us
/// let runtime = Runtime::start(config)?;
/// let record = runtime.submit(&Run::cmd("echo hi"))?;
/// assert_eq!(record.stdout.as_deref(), Some("hi\n"));
/// runtime.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Runtime {
    gateway: Mailbox<ToGateway>,
    reaper: Mailbox<ToReaper>,
    reaper_thread: Option<Joinable>,
    parts: Option<Parts>,
    address: Option<SocketAddr>,
}

impl Runtime {
    /// Starts all threads; when it returns, listeners accept.
    ///
    /// # Errors
    /// A configuration that cannot be honoured here, an address in use, or a system that is out of something.
    pub fn start(config: Config) -> Result<Runtime, StartError> {
        Runtime::start_with(config, Options::default())
    }

    /// Starts all threads, with more choices.
    ///
    /// # Errors
    /// As [`Runtime::start`].
    pub fn start_with(config: Config, options: Options) -> Result<Runtime, StartError> {
        let (reaper, parts) = build(config, options)?;
        let (gateway, own, address) = (parts.gateway.clone(), parts.reaper.clone(), parts.address);
        let reaper_thread = system("start a thread", thread("reaper".into(), move || reaper.run()))?;
        Ok(Runtime { gateway, reaper: own, reaper_thread: Some(reaper_thread), parts: Some(parts), address })
    }

    /// A client over a pair of sockets; it is `uid:N` of this process, an admin, and counts as a connection of the Unix
    /// socket would. Unlike there it may be silent for as long as it likes.
    ///
    /// # Errors
    /// The system is out of descriptors.
    pub fn connect(&self) -> io::Result<Client> {
        let (ours, theirs) = UnixStream::pair()?;
        self.gateway.tell(ToGateway::Adopt { stream: theirs });
        Ok(Client::from_unix_stream(ours))
    }

    /// Runs one command and waits for its record.
    ///
    /// # Errors
    /// What the runtime refuses, with its reason; or no descriptor for the connection.
    pub fn submit(&self, run: &Run) -> Result<Record, ClientError> {
        let mut client =
            self.connect().map_err(|error| ClientError::Io { step: "connect to the runtime".into(), error })?;
        client.run(run)
    }

    /// Has another configuration in effect, without dropping anything: for sessions and commands that come after. The
    /// names of the keys that need a restart, and keep their old value until then. As at the start, the values are
    /// taken as they are; those of a file are checked by [`Config::load`].
    ///
    /// ```no_run
    /// # use cofferdam::{Config, Runtime};
    /// let mut config = Config { listen: None, ..Config::default() };
    /// let runtime = Runtime::start(config.clone())?;
    /// config.commands.max_commands = 4;
    /// config.sessions.threads = 2;
    /// assert_eq!(runtime.reload(config)?, ["sessions.threads"]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The runtime is stopping.
    pub fn reload(&self, config: Config) -> Result<Vec<String>, Stopping> {
        let (tell, told) = crossbeam_channel::bounded(1);
        self.reaper.tell(ToReaper::Reload { wish: Wish::Given(Box::new(config), tell) });
        told.recv().map_err(|_| Stopping)
    }

    /// Where the TCP listener is, if there is one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Ends every command at once, closes every session, and waits until all threads have ended.
    pub fn stop(mut self) {
        self.take_down();
    }

    fn take_down(&mut self) {
        let Some(parts) = self.parts.take() else { return };
        self.reaper.tell(ToReaper::Stop);
        if let Some(reaper) = self.reaper_thread.take() {
            reaper.join(Instant::now() + 4 * JOIN_MAX);
        }
        parts.join();
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.take_down();
    }
}

/// Runs the daemon on this, the main, thread of the runtime process, until it is told to stop; its exit code.
pub fn serve(config: Config, sources: Sources) -> i32 {
    let logging = match crate::logging::start("info") {
        Ok(logging) => logging,
        Err(error) => {
            say(&mut io::stderr(), &format!("cofferdam serve: cannot start to log: {error}"));
            return 1;
        }
    };
    let code = serve_logged(config, sources);
    logging.flush();
    code
}

fn serve_logged(config: Config, sources: Sources) -> i32 {
    let guard = getppid();
    let options = Options { exclusive: true, signals: true, sources: Some(sources), ..Options::default() };
    let (reaper, parts) = match build(config.clone(), options) {
        Ok(built) => built,
        Err(error) => {
            log::error!("{error}");
            return if matches!(error, StartError::Config(_)) { 2 } else { 1 };
        }
    };
    tell_start(&config, parts.address);
    let mut ready = Vec::new();
    let mut line = Object::begin(&mut ready);
    line.bool("ready", true);
    line.int("pid", guard.as_raw());
    line.opt_str("listen", parts.address.map(|address| address.to_string()).as_deref());
    line.opt_str("unix_socket", config.unix_socket.as_ref().map(|path| path.to_string_lossy()).as_deref());
    line.end();
    say(&mut io::stdout(), &String::from_utf8_lossy(&ready));
    reaper.run();
    parts.join();
    log::info!("stopped");
    0
}

/// One line; a sink that is closed is no reason to stop.
fn say(to: &mut impl Write, line: &str) {
    let _ = to.write_all(format!("{line}\n").as_bytes()).and_then(|()| to.flush());
}

/// What an operator looks for at three in the morning: where it listens, who can reach it, what does not bind.
fn tell_start(config: &Config, address: Option<SocketAddr>) {
    log::info!("cofferdam {} pid={}", env!("CARGO_PKG_VERSION"), std::process::id());
    if let Some(address) = address {
        log::info!("listening on {address}; without authentication every process of this host can reach it");
        log::info!("{}", enforcement::ADDRESS_IS_NO_IDENTITY);
        let request = r#"{"id":1,"method":"exec.run","params":{"cmd":"echo hi"}}"#;
        log::info!("try: printf '%s\\n' '{request}' | nc -N {} {}", address.ip(), address.port());
    }
    if let Some(path) = &config.unix_socket {
        log::info!("listening on {}, mode {:04o}", path.display(), config.unix_socket_mode.0);
    }
    let rows = enforcement::report(config, &Host::probe());
    let pending: Vec<&str> = rows.iter().filter(|row| row.pending && !row.binds).map(|row| row.name).collect();
    if !pending.is_empty() {
        log::info!("read, and not enforced by this version yet: {}", pending.join(", "));
    }
    for row in rows {
        match &row.note {
            _ if row.cannot_bind() => row.warn(),
            Some(note) if row.name == "run_as" => log::info!("{}: {note}", row.name),
            Some(_) | None => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own threads")]
mod tests {
    use super::*;
    use crate::client::OpenSession;
    use crate::ids::SessionId;
    use crate::message::{Step, ToWorker};

    fn alone() -> Config {
        let mut config = Config { listen: None, ..Config::default() };
        config.children.run_as = crate::config::RunAs::Same;
        config
    }

    fn stats(client: &mut Client) -> serde_json::Value {
        serde_json::from_str(client.stats().unwrap().get()).unwrap()
    }

    fn inject(runtime: &Runtime, session: &str, step: impl FnOnce() + Send + 'static) {
        let workers = &runtime.parts.as_ref().unwrap().workers;
        let session = SessionId::parse(session).unwrap();
        let step = Step(Box::new(step));
        workers[session.0 as usize % workers.len()].tell(ToWorker::Step { session, step });
    }

    #[test]
    fn inv5_a_panic_ends_its_session_with_internal_and_nothing_else() {
        let runtime = Runtime::start(alone()).unwrap();
        let (mut first, mut second) = (runtime.connect().unwrap(), runtime.connect().unwrap());
        let faulty = first.open(&OpenSession::default()).unwrap().session;
        let other = second.open(&OpenSession::default()).unwrap().session;
        let running = std::thread::spawn({
            let faulty = faulty.clone();
            move || first.run(&Run::cmd("sleep 60").in_session(faulty))
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        while !second.session_info(&faulty).is_ok_and(|info| info.busy) {
            assert!(Instant::now() < deadline, "the command does not start");
        }
        inject(&runtime, &faulty, || panic!("injected"));
        let error = running.join().unwrap().unwrap_err();
        assert_eq!(error.refused().map(|refused| refused.reason.as_str()), Some("INTERNAL"));
        assert!(second.session_info(&faulty).is_err());
        let record = second.run(&Run::cmd("echo on").in_session(other)).unwrap();
        assert_eq!(record.stdout.as_deref(), Some("on\n"));
        let stats = stats(&mut second);
        assert_eq!(stats["commands"]["running"], 0);
        assert_eq!(stats["sessions"]["current"], 1);
        runtime.stop();
    }

    #[test]
    fn inv5_a_command_that_a_panic_kept_from_starting_is_rejected_and_not_finished() {
        let runtime = Runtime::start(alone()).unwrap();
        let (mut first, mut second) = (runtime.connect().unwrap(), runtime.connect().unwrap());
        let faulty = first.open(&OpenSession::default()).unwrap().session;
        // Held up, the worker finds the command and the fault in one turn.
        let (release, held) = std::sync::mpsc::channel::<()>();
        inject(&runtime, &faulty, move || {
            let _ = held.recv();
        });
        let before = stats(&mut second)["requests"]["total"].as_u64().unwrap();
        let running = std::thread::spawn({
            let faulty = faulty.clone();
            move || first.run(&Run::cmd("sleep 60").in_session(faulty))
        });
        let deadline = Instant::now() + Duration::from_secs(20);
        for asked in 1.. {
            assert!(Instant::now() < deadline, "the command does not arrive");
            if stats(&mut second)["requests"]["total"].as_u64().unwrap() > before + asked {
                break;
            }
        }
        inject(&runtime, &faulty, || panic!("injected"));
        drop(release);
        let error = running.join().unwrap().unwrap_err();
        assert_eq!(error.refused().map(|refused| refused.reason.as_str()), Some("INTERNAL"));
        let commands = &stats(&mut second)["commands"];
        for (name, count) in [("started", 0), ("running", 0), ("finished", 0), ("rejected", 1)] {
            assert_eq!(commands[name], count, "{name}");
        }
        runtime.stop();
    }

    #[test]
    fn a_runtime_that_stops_takes_no_other_configuration() {
        let runtime = Runtime::start(alone()).unwrap();
        assert_eq!(runtime.reload(alone()), Ok(Vec::new()));
        runtime.reaper.tell(ToReaper::Stop);
        assert_eq!(runtime.reload(alone()), Err(Stopping));
        runtime.stop();
    }

    #[test]
    fn inv15_nothing_is_left_of_a_runtime_that_has_stopped() {
        let runtime = Runtime::start(alone()).unwrap();
        let record = runtime.submit(&Run::cmd("setsid sleep 60 & echo hi")).unwrap();
        assert_eq!((record.stdout.as_deref(), record.descendants_killed), (Some("hi\n"), 1));
        let mut client = runtime.connect().unwrap();
        let running = std::thread::spawn(move || client.run(&Run::cmd("sleep 60")));
        let mut watcher = runtime.connect().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if stats(&mut watcher)["commands"]["running"] == 1 {
                break;
            }
            assert!(Instant::now() < deadline, "the command does not start");
        }
        runtime.stop();
        let record = running.join().unwrap().unwrap();
        assert_eq!(record.status, crate::protocol::record::Status::Shutdown);
    }
}
