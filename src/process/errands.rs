//! What may block in the kernel: trials of a working directory, walks of /proc, removing directories, cleaning up behind
//! a uid, saving limits, reading the configuration. On threads of their own, so that a mount that hangs, or a command
//! that wants to be in the way, holds up nobody else.
//!
//! Each errand has a time. When it is over, a helper process of it is killed, whoever waits is told that nothing came of
//! it, and what comes later is thrown away: a thread that hangs costs a thread and no more. `relief` looks at the clock.

mod errand;
mod means;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::SigSet;
use nix::unistd::pipe2;

use self::errand::Done;
pub use self::errand::{Errand, Task};
use self::means::Means;
use super::census::Ground;
use super::living::Living;
use super::spawn::{Spawner, Ticket};

/// Threads at most: while as many errands hang, others wait until their own time is over.
const THREADS_MAX: usize = 16;
/// Errands that wait at most. A session or command has one of a kind under way, so this is reached only when a hundred
/// sessions and more have theirs given up again and again.
const QUEUE_MAX: usize = 4096;

/// The queue of errands, and the threads that run them.
pub struct Errands {
    shared: Arc<Shared>,
    /// One byte for each errand: the threads sleep in reading it. As with the mailboxes, a pipe wakes on the same
    /// processor. It holds more than there can be errands, and is never waited for.
    tokens: File,
}

struct Shared {
    board: Mutex<Board>,
    tokens: File,
    means: Means,
}

/// What waits, and what runs.
#[derive(Default)]
struct Board {
    queue: VecDeque<Waiting>,
    running: BTreeMap<u64, Running>,
    last: u64,
    threads: usize,
    /// Looks in a row at which something waited.
    waited: u32,
    /// It was said that all threads hang.
    stuck: bool,
}

struct Waiting {
    errand: Errand,
    until: Instant,
}

struct Running {
    until: Instant,
    name: &'static str,
    is_save: bool,
    /// None: it cannot be given up, or was.
    surrender: Option<Done>,
    given_up: bool,
    /// The helper process, while there is one.
    helper: Arc<Ticket>,
}

/// That what cannot be given up hangs is said so often.
const TOLD_AGAIN: Duration = Duration::from_secs(600);
/// A thread does one errand.
const ERRAND: u8 = 0;
/// A thread that is one too many ends.
const RETIRE: u8 = 1;
/// Looks at which errands wait before there is another thread.
const WAITED_MAX: u32 = 2;

impl Errands {
    /// Starts the first thread.
    pub fn start(spawner: Arc<Spawner>, living: Arc<Living>, ground: Ground) -> std::io::Result<Errands> {
        let (taken, tokens) = pipe2(OFlag::O_CLOEXEC)?;
        fcntl(&tokens, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let means = Means::new(spawner, living, ground);
        let shared = Shared { board: Mutex::default(), tokens: File::from(taken), means };
        let errands = Errands { shared: Arc::new(shared), tokens: File::from(tokens) };
        errands.add_thread(&mut errands.shared.board())?;
        Ok(errands)
    }

    pub fn living(&self) -> &Arc<Living> {
        &self.shared.means.living
    }

    /// Queues an errand; one that there is no room for is given up at once.
    pub fn submit(&self, errand: Errand) {
        let mut board = self.shared.board();
        // Two that write one file must not meet.
        let hangs = errand.is_save() && board.running.values().any(|running| running.is_save && running.given_up);
        if (hangs || board.queue.len() >= QUEUE_MAX)
            && let Some(done) = errand.surrender()
        {
            drop(board);
            return done.tell();
        }
        let until = Instant::now() + errand.time();
        board.queue.push_back(Waiting { errand, until });
        drop(board);
        self.wake(ERRAND);
    }

    fn wake(&self, token: u8) {
        if let Err(error) = (&self.tokens).write(&[token]) {
            log::error!("no errand thread can be woken: {error}");
        }
    }

    /// Gives up what has taken too long, and sees that what waits gets a thread; whether there is anything to watch.
    pub fn look(&self, now: Instant) -> bool {
        let mut over = Vec::new();
        let mut board = self.shared.board();
        let board = &mut *board;
        // The times differ, so those that are over stand anywhere.
        for _ in 0..board.queue.len() {
            let Some(waiting) = board.queue.pop_front() else { break };
            match Some(&waiting.errand).filter(|_| waiting.until <= now).and_then(Errand::surrender) {
                Some(done) => over.push(done),
                None => board.queue.push_back(waiting),
            }
        }
        for running in board.running.values_mut().filter(|running| running.until <= now) {
            running.helper.report.kill();
            match running.surrender.take() {
                Some(done) => {
                    log::warn!("{} hangs and is given up", running.name);
                    running.given_up = true;
                    over.push(done);
                }
                None if running.given_up => {}
                None => {
                    log::warn!("{} hangs; it cannot be given up", running.name);
                    running.until = now + TOLD_AGAIN;
                }
            }
        }
        board.waited = if board.queue.is_empty() { 0 } else { board.waited + 1 };
        if board.waited > WAITED_MAX {
            self.relieve(board);
        } else if board.queue.is_empty() && std::mem::take(&mut board.stuck) {
            log::info!("errands are done again");
        }
        let busy = !board.queue.is_empty() || !board.running.is_empty();
        over.into_iter().for_each(Done::tell);
        busy
    }

    /// All threads hang, or are busy, so there is to be one more.
    fn relieve(&self, board: &mut Board) {
        board.waited = 0;
        let Err(error) = self.add_thread(board) else { return };
        if !std::mem::replace(&mut board.stuck, true) {
            let names: Vec<&str> = board.running.values().map(|running| running.name).collect();
            log::error!(
                "errands wait, and there cannot be another thread for them ({error}): {} run: {}",
                board.threads,
                names.join(", ")
            );
        }
    }

    /// Threads that were needed for a while end, all but one. To be called when nothing is under way.
    pub fn retire(&self) {
        let idle = self.shared.board().threads.saturating_sub(1);
        (0..idle).for_each(|_| self.wake(RETIRE));
    }

    fn add_thread(&self, board: &mut Board) -> std::io::Result<()> {
        if board.threads >= THREADS_MAX {
            return Err(std::io::ErrorKind::QuotaExceeded.into());
        }
        let shared = self.shared.clone();
        crate::threads::thread(format!("errand-{}", board.threads), move || shared.run())?;
        board.threads += 1;
        Ok(())
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(self: Arc<Self>) {
        // Its children share our memory until they end, and must run no handler of ours.
        let _ = SigSet::all().thread_block();
        let mut stack = None;
        let mut token = [ERRAND];
        // The other end lives as long as any worker: its end is the runtime's.
        while matches!((&self.tokens).read(&mut token), Ok(1)) {
            if token[0] == RETIRE {
                let mut board = self.board();
                if board.threads > 1 && board.queue.is_empty() {
                    board.threads -= 1;
                    return;
                }
                continue;
            }
            let Some((id, errand, helper)) = self.take() else { continue };
            let done = self.means.done(errand, &helper, &mut stack);
            if self.finish(id) {
                done.tell();
            }
        }
    }

    fn take(&self) -> Option<(u64, Errand, Arc<Ticket>)> {
        let mut board = self.board();
        // None: it was given up while it waited.
        let Waiting { errand, until } = board.queue.pop_front()?;
        board.last += 1;
        let (id, helper) = (board.last, Arc::<Ticket>::default());
        let running = Running {
            until,
            name: errand.name(),
            is_save: errand.is_save(),
            surrender: errand.surrender(),
            given_up: false,
            helper: helper.clone(),
        };
        board.running.insert(id, running);
        Some((id, errand, helper))
    }

    /// Whether what came of it is still wanted.
    fn finish(&self, id: u64) -> bool {
        let running = self.board().running.remove(&id);
        let Some(running) = running.filter(|running| running.given_up) else { return true };
        log::info!("{} was given up, and has come back", running.name);
        false
    }
}
