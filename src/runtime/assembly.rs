//! Builds the actors from a configuration, connects them, and takes them down again.

use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{bounded, unbounded};
use mio::Poll;
use nix::unistd::getppid;

use super::reload::Reloader;
use super::{JOIN_MAX, Options, StartError};
use crate::admission::buffers::Account;
use crate::admission::descriptors::{self, Descriptors};
use crate::admission::overrides::{self, Loaded, Overrides};
use crate::admission::quota::Ledger;
use crate::config::{Config, Connections};
use crate::enforcement::descriptors::Needs;
use crate::enforcement::{self, Host};
use crate::gateway::{self, Desk, Gateway, Listeners, Quotas};
use crate::mailbox::{Mailbox, mailbox};
use crate::message::{ToGateway, ToReaper, ToStats, ToWorker};
use crate::ownership::{Asked, Facts, Foreign};
use crate::process::census::Ground;
use crate::process::errands::Errands;
use crate::process::identity::{BaseEnvironment, Policy};
use crate::process::launch::{self, Common, HardLimits, NprocRule};
use crate::process::living::{Living, is_of_own_session};
use crate::process::pool::{self, UidRange};
use crate::process::residue;
use crate::process::spawn::Spawner;
use crate::process::workspace::{Unusable, Workspaces};
use crate::protocol::encode::Object;
use crate::reaper::{self, Reaper, Signals};
use crate::stats::Stats;
use crate::threads::{Joinable, thread};
use crate::worker::{self, Relief, Setup, Worker};

/// What is left to join when the reaper has ended.
pub(super) struct Parts {
    pub gateway: Mailbox<ToGateway>,
    pub reaper: Mailbox<ToReaper>,
    pub stats: crossbeam_channel::Sender<ToStats>,
    pub relief: Arc<Relief>,
    pub workers: Vec<Mailbox<ToWorker>>,
    pub gateway_thread: Joinable,
    pub threads: Vec<Joinable>,
    pub stats_thread: Joinable,
    pub exclusive: bool,
    pub _uids: Option<UidRange>,
    pub address: Option<SocketAddr>,
}

impl Parts {
    pub fn join(self) {
        let deadline = Instant::now() + JOIN_MAX;
        // The gateway ends by itself, and needs the workers until then.
        self.gateway_thread.join(deadline);
        for worker in &self.workers {
            worker.tell(ToWorker::Stop);
        }
        self.relief.stop();
        for thread in self.threads {
            thread.join(deadline);
        }
        let _ = self.stats.send(ToStats::Stop);
        self.stats_thread.join(deadline);
        if self.exclusive {
            // No thread is left that could own a child but this one.
            crate::guard::end_children();
        } else {
            // Whatever is dead of our commands; the program's own children are of its own session.
            let living = self.relief.errands.living();
            for stray in living.strays().look() {
                if !stray.is_alive() && !is_of_own_session(&stray) {
                    living.reap(stray.pid);
                }
            }
        }
    }
}

pub(super) fn system<T>(step: &'static str, result: io::Result<T>) -> Result<T, StartError> {
    result.map_err(|error| StartError::System(step, error))
}

/// Builds every actor and starts all but the reaper, which the caller runs.
pub(super) fn build(config: Config, options: Options) -> Result<(Reaper, Parts), StartError> {
    let config = Arc::new(config);
    let nofile_before = if options.exclusive { raise_descriptors() } else { None };
    let poll = || system("make a poll", Poll::new());
    let (gateway_poll, reaper_poll) = (poll()?, poll()?);
    if let Some(socket) = &config.unix_socket {
        trust("unix_socket", "the folder ", folder_of(socket), Asked::OursStay)?;
    }
    // Before any thread: it changes the umask for a moment.
    let listeners = Listeners::open(&config, gateway_poll.registry()).map_err(StartError::Listen)?;
    let address = listeners.tcp_address();
    let host = Host::probe();
    let policy = Policy::of_config(&config, &host).map_err(StartError::Config)?;
    let uids = pool::claim(&policy, &host).map_err(StartError::Config)?;
    let signals = options.signals.then(|| Signals::install(options.hangup_stops)).transpose();
    let signals = system("listen to signals", signals)?;
    let guard = options.signals.then(getppid);
    if let Err(errno) = nix::sys::prctl::set_child_subreaper(true) {
        return Err(StartError::System("become a subreaper", errno.into()));
    }
    if let Some(folder) = &config.state_dir {
        system("make the state_dir", make_private(folder))?;
        trust("state_dir", "", folder, Asked::OursAlone)?;
    }
    let quotas = quotas(&config)?;
    let run = system("read /dev/urandom", random_name())?;
    let workspaces = Workspaces::new(config.children.workspaces.as_deref(), &run, policy != Policy::Same);
    // A program that only brings commands with directories of their own needs none.
    if config.listen.is_some() || config.unix_socket.is_some() || config.children.workspaces.is_some() {
        if config.children.workspaces.is_none() {
            let base = std::env::temp_dir();
            trust("children.workspaces", "is not set, and the temporary folder ", &base, Asked::OursStay)?;
        }
        workspaces.open().map_err(|unusable| match unusable {
            Unusable::Failed(errno) => StartError::System("open the folder of the workspaces", errno.into()),
            Unusable::Foreign(foreign) => foreign_folder("children.workspaces", "", workspaces.path(), foreign),
        })?;
    }
    let setup = Arc::new(Setup {
        environment: BaseEnvironment::of_daemon(&config.children.pass_env, &policy),
        common: Common { nofile_before, ..common(&config, &policy, &options) },
        workspaces: Arc::new(workspaces),
        retained_bytes: Default::default(),
        config: config.clone(),
        run,
        policy,
        watch_vm: options.watch_vm,
    });
    let messages_max = messages_max(&config.connections);
    let (gateway, gateway_inbox) =
        system("make a mailbox", mailbox(gateway_poll.registry(), gateway::INBOX, messages_max))?;
    let (reaper, reaper_inbox) =
        system("make a mailbox", mailbox(reaper_poll.registry(), reaper::INBOX, messages_max))?;
    let (stats, stats_inbox) = unbounded();

    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let worker_count = match config.sessions.threads {
        0 => cores.clamp(1, 4),
        count => count as usize,
    };
    let null = || File::options().read(true).open("/dev/null").map(OwnedFd::from);
    let stdin = options.stdin.map_or_else(null, Ok);
    let spawner = Arc::new(Spawner::new(setup.common.nproc, system("open /dev/null", stdin)?));
    if setup.policy.is_pool() && !residue::can_list_queues() {
        log::info!("POSIX message queues cannot be listed here, so that commands cannot make any");
    }
    let ground = Ground { exclusive: options.exclusive, policy: setup.policy.clone() };
    let errands = Errands::start(spawner.clone(), Living::new(worker_count), ground);
    let errands = system("start a thread", errands)?;
    let relief = Relief::new(spawner, errands, worker_count);

    let descriptors = Descriptors::new();
    let mut threads = Vec::new();
    let mut workers = Vec::new();
    let (joined, all_joined) = bounded(worker_count);
    for index in 0..worker_count {
        let poll = poll()?;
        let (own, inbox) = system("make a mailbox", mailbox(poll.registry(), worker::INBOX, messages_max))?;
        let links = worker::Links {
            relief: relief.clone(),
            descriptors: descriptors.clone(),
            own: own.clone(),
            gateway: gateway.clone(),
            reaper: reaper.clone(),
            stats: stats.clone(),
        };
        let worker = system("make a worker", Worker::new(index, poll, inbox, links, setup.clone()))?;
        let (worker, relief, joined) = (Box::new(worker), relief.clone(), joined.clone());
        let run = move || {
            let place = relief.errands.living().join(index);
            // Whoever waits for it waits for all.
            let _ = joined.send(());
            worker.run(&relief, place);
        };
        threads.push(system("start a worker", thread(format!("worker-{index}"), run))?);
        workers.push(own);
    }
    let buffers = Account::of_daemon(config.commands.max_buffer_bytes);
    let links = gateway::Links {
        workers: workers.clone(),
        reaper: reaper.clone(),
        stats: stats.clone(),
        buffers: buffers.clone(),
        uids: setup.policy.session_range(),
        workspaces: setup.workspaces.clone(),
        descriptors: descriptors.clone(),
        relief: relief.clone(),
        own: gateway.clone(),
    };
    let mut desk = Desk::new(config.clone(), about(&config), quotas, links);
    if let Some((first, count)) = setup.policy.session_range() {
        let count = count.min(gateway::uids_ahead(config.sessions.max_sessions).saturating_mul(2));
        desk.uids_prepared(count, &pool::prepare(first, count).map_err(StartError::Config)?);
    }
    let gateway_actor = Gateway::new(gateway_poll, gateway_inbox, listeners, desk);
    let watch = relief.clone();
    threads.push(system("start a thread", thread("relief".into(), move || watch.run()))?);
    let actor = Stats::new(stats_inbox, gateway.clone(), buffers, &config);
    let stats_thread = system("start the statistics", thread("stats".into(), move || actor.run()))?;
    // Last of them: whoever is answered finds everything running.
    for _ in 0..worker_count {
        let _ = all_joined.recv();
    }
    // All that stays open is open by now, and nobody was accepted yet.
    descriptors.have(free_descriptors(), &Needs::of(&config));
    let gateway_thread = system("start the gateway", thread("gateway".into(), move || gateway_actor.run()))?;
    let policy = reaper::Policy { sweep_every: reaper::sweep_every(&config), drain: reaper::drain(&config), guard };
    let reloader = Box::new(Reloader { sources: options.sources, config, setup });
    let links = reaper::Links {
        workers: workers.clone(),
        gateway: gateway.clone(),
        stats: stats.clone(),
        relief: relief.clone(),
        own: reaper.clone(),
    };
    let actor = system("make the reaper", Reaper::new(reaper_poll, reaper_inbox, links, policy, signals, reloader))?;
    Ok((
        actor,
        Parts {
            gateway,
            reaper,
            stats,
            relief,
            workers,
            gateway_thread,
            threads,
            stats_thread,
            exclusive: options.exclusive,
            _uids: uids,
            address,
        },
    ))
}

/// Raises our own soft limit to the hard one, and no further: descriptors cost little, and a command that is refused for
/// want of one costs a client. What the limits were, if they were lower.
fn raise_descriptors() -> Option<(u64, u64)> {
    let (soft, hard) = rlimit::Resource::NOFILE.get().ok()?;
    if soft == hard {
        return None;
    }
    if let Err(error) = rlimit::Resource::NOFILE.set(hard, hard) {
        log::warn!("the soft limit of descriptors stays at {soft}, of {hard}: {error}");
        return None;
    }
    Some((soft, hard))
}

/// How many may be open for clients; counted, for nobody can say what a program that embeds us has open.
fn free_descriptors() -> u64 {
    let may_open = rlimit::Resource::NOFILE.get_soft().unwrap_or(u64::MAX);
    // One of them is the folder that is read.
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count().saturating_sub(1));
    descriptors::available(may_open, open as u64)
}

/// A mailbox never holds more than can be under way: requests of all connections, and a few facts for each.
pub(crate) fn messages_max(connections: &Connections) -> usize {
    let inflight = connections.max_connections * (connections.max_inflight_per_connection + connections.max_batch);
    usize::try_from(inflight * 8).unwrap_or(usize::MAX).max(1 << 16)
}

/// The limits of the configuration, and over them those that were set at run time.
fn quotas(config: &Config) -> Result<Quotas, StartError> {
    let file = config.state_dir.as_ref().map(|folder| folder.join("limits.json"));
    let loaded = file.as_deref().map(overrides::load).transpose();
    let loaded = loaded.map_err(|refused| StartError::Config(refused.to_string()))?;
    let mut set = Overrides::default();
    if let Some(Loaded { overrides, refused }) = loaded {
        if let Some(refused) = refused {
            log::error!("{refused}; the last good copy of it holds");
        }
        set = overrides;
    }
    let ledger = Ledger::new(&config.quotas, set).map_err(|error| StartError::Config(format!("quotas: {error}")))?;
    tell_overruled(&ledger);
    Ok(Quotas { ledger, file })
}

/// What was set wins over what stands in the file, and whoever reads the file must know.
pub(crate) fn tell_overruled(ledger: &Ledger) {
    for overruled in ledger.overruled() {
        log::info!("{overruled}");
    }
    if let Err(broken) = ledger.broken() {
        log::warn!("limits that were set do not fit the configuration: {broken}");
    }
}

fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// A folder of a configured name in which root is to keep something: nobody else may be able to replace that. One that
/// is not there is told by what needs it.
fn trust(key: &str, what: &str, folder: &Path, asked: Asked) -> Result<(), StartError> {
    let facts = folder.metadata().ok();
    match facts.and_then(|facts| Facts::from(&facts).foreign_to_root(asked)) {
        Some(foreign) => Err(foreign_folder(key, what, folder, foreign)),
        None => Ok(()),
    }
}

fn foreign_folder(key: &str, what: &str, folder: &Path, foreign: Foreign) -> StartError {
    let (shown, mend) = (folder.display(), foreign.mend(folder));
    StartError::Config(format!("{key}: {what}{shown} {foreign}; needed for a daemon of root's: {mend}"))
}

/// The folder that a file lies in.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Sixteen hexadecimal digits that no other run has.
fn random_name() -> io::Result<String> {
    let mut bytes = [0; 8];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn common(config: &Config, policy: &Policy, options: &Options) -> Common {
    let own = nix::unistd::Uid::effective();
    let host = Host::probe();
    let hard = |resource: rlimit::Resource| match resource.get() {
        // With the capability a child can be given more than we have.
        Ok(_) if host.can_raise_limits() => u64::MAX,
        Ok((_, hard)) => hard,
        Err(_) => u64::MAX,
    };
    let nofile_most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    let core_pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    Common {
        oom_score_adj: config.children.oom_score_adj,
        nice: config.children.nice,
        umask: config.children.umask.0,
        no_new_privs: config.children.no_new_privs,
        hard_limits: HardLimits {
            cpu: hard(rlimit::Resource::CPU),
            address_space: hard(rlimit::Resource::AS),
            nproc: hard(rlimit::Resource::NPROC),
            nofile: hard(rlimit::Resource::NOFILE).min(nofile_most.unwrap_or(u64::MAX)),
            fsize: hard(rlimit::Resource::FSIZE),
            core: hard(rlimit::Resource::CORE),
        },
        // In a process of our own nothing changes after this; elsewhere anything may.
        signals: if options.exclusive { crate::process::proc::own_signals() } else { u64::MAX },
        inherit: options.inherit,
        // Root's own come with its uid, whatever it drops.
        drop_capabilities: !options.inherit && !own.is_root() && host.capabilities != 0,
        fixed_limits: fixed_limits(options, policy.is_pool(), host.can_raise_limits()),
        core_is_piped: core_pattern.starts_with('|'),
        nproc: match policy {
            Policy::Pool { .. } => NprocRule::OfSession,
            Policy::As { identity, .. } => NprocRule::AboveUid(identity.uid),
            Policy::Same if own.is_root() => NprocRule::Exempt,
            Policy::Same => NprocRule::AboveUid(own.as_raw()),
        },
        nofile_before: None,
    }
}

/// In a process of our own nothing changes any more: what we have so already a child inherits.
fn fixed_limits(options: &Options, is_pool: bool, can_raise: bool) -> Vec<(u32, u64, u64)> {
    if options.inherit {
        return Vec::new();
    }
    let own = crate::sys::process::limit;
    let mut limits = launch::fixed_limits(|resource| own(resource).map(|(_, hard)| hard), can_raise);
    if is_pool && !residue::can_list_queues() {
        // What a command cannot make cannot be left by it.
        limits.retain(|(resource, ..)| *resource != nix::libc::RLIMIT_MSGQUEUE);
        limits.push((nix::libc::RLIMIT_MSGQUEUE, 0, 0));
    }
    limits.retain(|&(resource, soft, hard)| !options.exclusive || own(resource) != Some((soft, hard)));
    limits
}

/// What this version can do, in the words of the protocol.
const FEATURES: [&str; 14] = [
    "batch",
    "sessions",
    "shell",
    "budget",
    "exec.run",
    "exec.start",
    "exec.kill",
    "stream",
    "pty",
    "queue_ms",
    "key",
    "limit",
    "rate",
    "reload",
];

/// What `system.info` tells everybody and only a reload changes, as members of JSON objects, prepared once.
#[derive(Debug, Clone)]
pub struct About {
    pub members: Vec<u8>,
    /// Of its member `limits`; the quotas are missing, for each client is shown its own.
    pub limits: Vec<u8>,
}

pub(super) fn about(config: &Config) -> About {
    About { members: about_us(config), limits: limits(config) }
}

fn about_us(config: &Config) -> Vec<u8> {
    members(|object| {
        object.str("platform", &format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH));
        object.strings("features", FEATURES);
        object.raw("enforcement", &enforcement::to_json(&enforcement::report(config, &Host::probe())));
    })
}

fn limits(config: &Config) -> Vec<u8> {
    let groups = [
        serde_json::to_value(&config.connections),
        serde_json::to_value(&config.sessions),
        serde_json::to_value(&config.commands),
        serde_json::to_value(&config.limits),
    ];
    let named = [("rate", serde_json::to_vec(&config.rate)), ("memory", serde_json::to_vec(&config.memory))];
    members(|limits| {
        for group in groups.into_iter().flatten() {
            for (name, value) in group.as_object().into_iter().flatten() {
                limits.raw(name, value.to_string().as_bytes());
            }
        }
        for (name, group) in named {
            limits.raw(name, group.as_deref().unwrap_or(b"null"));
        }
    })
}

/// The members of an object, without its braces: they stand among others.
fn members(fill: impl FnOnce(&mut Object)) -> Vec<u8> {
    let mut members = Vec::new();
    let mut object = Object::begin(&mut members);
    fill(&mut object);
    object.end();
    members.pop();
    members.remove(0);
    members
}
