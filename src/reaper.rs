//! Runs on the main thread of the runtime (on `reaper` where a program embeds us). Owns the signals, when strays are
//! looked for and reaped, idle expiry, and the order of the shutdown. Starts no process; blocks in its poll alone.

mod reload;

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getppid};

use crate::deadlines::Deadlines;
use crate::ids::SessionId;
use crate::mailbox::{Inbox, Mailbox};
use crate::message::{ToGateway, ToReaper, ToStats, ToWorker};
use crate::process::census::Counted;
use crate::process::errands::Errand;
use crate::runtime::reload::{Reloader, Wish};
use crate::stats::Tally;
use crate::worker::Relief;

use self::reload::Reloading;
pub use self::reload::{drain, sweep_every};

pub const INBOX: Token = Token(0);
const SIGNALS: Token = Token(1);

/// A sweep that found something is followed by another this soon.
const SWEEP_AGAIN: Duration = Duration::from_millis(20);
/// After this the shutdown goes on without what could not be ended.
const ENDING_MAX: Duration = Duration::from_secs(15);
/// What was answered at last has so long at least to be delivered.
const DELIVERY_MIN: Duration = Duration::from_secs(2);

/// Whom the reaper gives orders.
pub struct Links {
    pub workers: Vec<Mailbox<ToWorker>>,
    pub gateway: Mailbox<ToGateway>,
    pub stats: crossbeam_channel::Sender<ToStats>,
    pub relief: Arc<Relief>,
    pub own: Mailbox<ToReaper>,
}

/// What the reaper goes by.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    pub sweep_every: Duration,
    pub drain: Duration,
    /// The guard, while there is one.
    pub guard: Option<Pid>,
}

pub struct Reaper {
    poll: Poll,
    inbox: Inbox<ToReaper>,
    links: Links,
    policy: Policy,
    signals: Option<Signals>,
    /// Sessions by id, and the worker that knows whether they are idle.
    sessions: HashMap<SessionId, usize>,
    idle: Deadlines<SessionId>,
    next_sweep: Instant,
    /// A census is under way.
    counting: bool,
    phase: Phase,
    drain_began: Option<Instant>,
    empty: HashSet<usize>,
    tally: Tally,
    reloading: Reloading,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Commands may finish until then.
    Draining {
        until: Instant,
    },
    /// Commands are being ended, sessions closed.
    Ending {
        until: Instant,
    },
    /// What was answered at last is delivered.
    Delivering {
        until: Instant,
    },
    Over,
}

impl Reaper {
    pub fn new(
        poll: Poll,
        inbox: Inbox<ToReaper>,
        links: Links,
        policy: Policy,
        signals: Option<Signals>,
        reloader: Box<Reloader>,
    ) -> std::io::Result<Self> {
        if let Some(signals) = &signals {
            use std::os::fd::AsRawFd;
            poll.registry().register(&mut SourceFd(&signals.wake.as_raw_fd()), SIGNALS, Interest::READABLE)?;
        }
        Ok(Reaper {
            poll,
            inbox,
            links,
            next_sweep: Instant::now() + policy.sweep_every,
            policy,
            signals,
            sessions: HashMap::new(),
            idle: Deadlines::default(),
            counting: false,
            phase: Phase::Serving,
            drain_began: None,
            empty: HashSet::new(),
            tally: Tally::default(),
            reloading: Reloading::new(reloader),
        })
    }

    /// Until everything is closed and said.
    pub fn run(mut self) {
        if self.signals.is_some() {
            let _ = SigSet::empty().thread_set_mask();
            self.watch_children(false);
        }
        let mut events = Events::with_capacity(8);
        while self.phase != Phase::Over {
            let timeout = self.timeout(Instant::now());
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                log::error!("the reaper cannot poll: {error}");
            }
            self.inbox.disarm();
            while let Some(message) = self.inbox.next() {
                self.on(message);
            }
            self.take_signals();
            self.expire(Instant::now());
        }
    }

    fn timeout(&self, now: Instant) -> Duration {
        let phase = match self.phase {
            Phase::Draining { until } | Phase::Ending { until } | Phase::Delivering { until } => {
                Some(until.saturating_duration_since(now))
            }
            Phase::Serving | Phase::Over => None,
        };
        let sweep = self.next_sweep.saturating_duration_since(now);
        [self.idle.wait(now), phase].into_iter().flatten().min().map_or(sweep, |wait| wait.min(sweep))
    }

    fn on(&mut self, message: ToReaper) {
        match message {
            ToReaper::SessionOpened { session, worker, idle_ms } => {
                self.sessions.insert(session, worker);
                self.idle.set(session, Instant::now() + Duration::from_millis(idle_ms));
            }
            ToReaper::SessionIdleUntil { session, due } => {
                if self.sessions.contains_key(&session) {
                    self.idle.set(session, due);
                }
            }
            ToReaper::SessionGone { session } => {
                self.sessions.remove(&session);
                self.idle.clear(&session);
            }
            ToReaper::OrphansSeen => {
                self.next_sweep = self.next_sweep.min(Instant::now() + SWEEP_AGAIN);
                self.watch_children(true);
                self.reap_dead();
            }
            ToReaper::Counted { counted } => self.counted(counted),
            ToReaper::Drain => self.drain(),
            ToReaper::Drained => {
                if matches!(self.phase, Phase::Draining { .. }) {
                    self.end(false);
                }
            }
            ToReaper::WorkerEmpty { worker } => {
                self.empty.insert(worker);
                if self.empty.len() == self.links.workers.len() {
                    self.deliver();
                }
            }
            ToReaper::Delivered => self.phase = Phase::Over,
            ToReaper::Reload { wish } => self.reload(wish),
            ToReaper::Reloaded { reloader, reloaded } => self.reloaded(reloader, reloaded),
            ToReaper::Stop => self.end(true),
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(session) = self.idle.pop_due(now) {
            // One that is closed already is a late reminder.
            if let Some(worker) = self.sessions.get(&session) {
                self.links.workers[*worker].tell(ToWorker::CheckIdle { session });
            }
        }
        match self.phase {
            Phase::Draining { until } if now >= until => self.end(false),
            Phase::Ending { until } if now >= until => {
                log::error!("not everything could be ended; the daemon stops all the same");
                self.deliver();
            }
            Phase::Delivering { until } if now >= until => self.phase = Phase::Over,
            Phase::Draining { .. } | Phase::Ending { .. } | Phase::Delivering { .. } | Phase::Serving | Phase::Over => {
            }
        }
        if now >= self.next_sweep {
            self.sweep(now);
        }
    }

    // Shutdown.

    fn take_signals(&mut self) {
        let Some(signals) = &mut self.signals else { return };
        let seen = signals.take();
        if seen.child {
            self.reap_dead();
        }
        if seen.reload {
            self.reload(Wish::Sources);
        }
        if !seen.stop {
            return;
        }
        if self.policy.guard.is_some_and(|guard| getppid() != guard) {
            log::error!("the guard is gone; everything is ended at once");
            return self.end(true);
        }
        match self.phase {
            Phase::Serving => self.drain(),
            Phase::Draining { .. } | Phase::Ending { .. } => {
                log::info!("a second signal: everything is ended at once");
                self.end(true);
            }
            Phase::Delivering { .. } => self.phase = Phase::Over,
            Phase::Over => {}
        }
    }

    /// Everything is ended: the gateway says so when all answers are out, and is not waited for much longer than the
    /// commands would have been.
    fn deliver(&mut self) {
        // A worker may say more than once that it is empty.
        if matches!(self.phase, Phase::Delivering { .. } | Phase::Over) {
            return;
        }
        let until =
            (self.drain_began.unwrap_or_else(Instant::now) + self.policy.drain).max(Instant::now() + DELIVERY_MIN);
        self.phase = Phase::Delivering { until };
        self.links.gateway.tell(ToGateway::Stop { deadline: until });
    }

    fn drain(&mut self) {
        if self.phase == Phase::Serving {
            log::info!("draining: no new session or command, {} s for what runs", self.policy.drain.as_secs_f64());
            self.drain_began = Some(Instant::now());
            self.phase = Phase::Draining { until: Instant::now() + self.policy.drain };
            self.links.gateway.tell(ToGateway::Drain);
        }
    }

    fn end(&mut self, at_once: bool) {
        if self.phase == Phase::Serving {
            self.links.gateway.tell(ToGateway::Drain);
        }
        if matches!(self.phase, Phase::Delivering { .. } | Phase::Over) {
            return;
        }
        if !matches!(self.phase, Phase::Ending { .. }) {
            self.phase = Phase::Ending { until: Instant::now() + ENDING_MAX };
        }
        for worker in &self.links.workers {
            worker.tell(ToWorker::EndAll { at_once });
        }
    }

    // Orphans.

    fn sweep(&mut self, now: Instant) {
        self.tally.sweeps += 1;
        self.next_sweep = now + self.policy.sweep_every;
        if self.links.relief.errands.living().has_none() {
            self.watch_children(false);
        } else if !std::mem::replace(&mut self.counting, true) {
            self.watch_children(true);
            self.links.relief.errands.submit(Errand::Census { reaper: self.links.own.clone() });
            self.links.relief.watch();
        }
        self.tally.report(&self.links.stats);
    }

    /// SIGCHLD comes for every command, and is wanted for orphans alone: where there is none it stays blocked, and
    /// costs nobody a wake-up.
    fn watch_children(&self, on: bool) {
        if self.signals.is_some() {
            let set: SigSet = [Signal::SIGCHLD].into_iter().collect();
            let _ = if on { set.thread_unblock() } else { set.thread_block() };
        }
    }

    /// A dead stray takes a place among its uid's processes until it is reaped.
    fn reap_dead(&mut self) {
        let living = self.links.relief.errands.living();
        if living.has_none() {
            return self.watch_children(false);
        }
        let reaped = living.strays().pids.into_iter().filter(|stray| living.reap(*stray)).count();
        self.tally.zombies_reaped += reaped as u64;
    }

    fn counted(&mut self, counted: Counted) {
        self.counting = false;
        self.tally.orphans_killed += counted.killed;
        self.tally.zombies_reaped += counted.reaped;
        if counted.again {
            self.next_sweep = self.next_sweep.min(Instant::now() + SWEEP_AGAIN);
        }
    }
}

/// The signals of the daemon, delivered through a descriptor to the poll that waits for them.
pub struct Signals {
    wake: UnixStream,
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    child: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Seen {
    stop: bool,
    reload: bool,
    child: bool,
}

impl Signals {
    /// `hangup_stops`: SIGHUP is the end of a terminal, not a wish for another configuration.
    pub fn install(hangup_stops: bool) -> std::io::Result<Signals> {
        use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
        let (wake, ring) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let (stop, reload, child): (Arc<AtomicBool>, Arc<AtomicBool>, Arc<AtomicBool>) = Default::default();
        let hangup = if hangup_stops { &stop } else { &reload };
        for (signal, flag) in [(SIGTERM, &stop), (SIGINT, &stop), (SIGQUIT, &stop), (SIGHUP, hangup), (SIGCHLD, &child)]
        {
            // The flag first: whoever is woken finds it set.
            signal_hook::flag::register(signal, flag.clone())?;
            signal_hook::low_level::pipe::register(signal, ring.try_clone()?)?;
        }
        Ok(Signals { wake, stop, reload, child })
    }

    fn take(&mut self) -> Seen {
        let mut rung = [0; 64];
        while matches!(self.wake.read(&mut rung), Ok(1..)) {}
        let seen = |flag: &AtomicBool| flag.swap(false, Ordering::AcqRel);
        Seen { stop: seen(&self.stop), reload: seen(&self.reload), child: seen(&self.child) }
    }
}
