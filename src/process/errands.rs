//! What may block in the kernel: trials of a working directory, walks of /proc, removing directories, cleaning up behind
//! a uid, saving limits, reading the configuration. On threads of their own, so that a mount that hangs, or a command
//! that wants to be in the way, holds up nobody else.
//!
//! Each errand has a time. When it is over, a helper process of it is killed, whoever waits is told that nothing came of
//! it, and what comes later is thrown away: a thread that hangs costs a thread and no more. `relief` looks at the clock.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::SigSet;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::pipe2;

use super::background::{self, Jobs};
use super::census::{Census, Counted, Ground};
use super::living::Living;
use super::residue::{self, Cleaned};
use super::spawn::{SpawnFault, Spawner, Started, Ticket, Wiring};
use super::tree::{self, Marks, Sample, Swept};
use super::workspace::Workspaces;
use crate::admission::overrides;
use crate::ids::{ExecId, SessionId};
use crate::mailbox::Mailbox;
use crate::message::{ToGateway, ToReaper, ToWorker};
use crate::runtime::reload::{Reloader, Wish};
use crate::sys::clone::{Identity, Plan, Stack, Stage, kill_all_of};

/// One thing to do, and whom to tell.
pub enum Errand {
    ForWorker {
        worker: Mailbox<ToWorker>,
        task: Task,
    },
    /// Ends strays that belong to nobody.
    Census {
        reaper: Mailbox<ToReaper>,
    },
    /// Removes what sessions that are over have left.
    CleanUp {
        /// Uids that are to be somebody else's.
        uids: Vec<u32>,
        /// Sessions whose workspaces could not be removed.
        sessions: Vec<SessionId>,
        workspaces: Arc<Workspaces>,
        gateway: Mailbox<ToGateway>,
    },
    /// Limits that were set go to the disk.
    SaveLimits {
        path: PathBuf,
        bytes: Vec<u8>,
        gateway: Mailbox<ToGateway>,
    },
    /// Reads the configuration again; the file may lie on a mount that hangs.
    Reload {
        reloader: Box<Reloader>,
        wish: Wish,
        reaper: Mailbox<ToReaper>,
    },
}

/// What a worker may ask for.
pub enum Task {
    /// A trial without a program: can a command be started there?
    Probe {
        session: SessionId,
        plan: Box<Plan>,
    },
    Sweep {
        exec: ExecId,
        marks: Marks,
    },
    Sample {
        exec: ExecId,
        marks: Marks,
    },
    /// What has a shell left in the background, and what does that use?
    LookAtJobs {
        session: SessionId,
        jobs: Box<Jobs>,
    },
    EndJobs {
        session: SessionId,
        jobs: Box<Jobs>,
    },
    /// Ends every process of a uid that is the session's alone, until two looks find none or `until`.
    EndProcesses {
        session: SessionId,
        identity: Identity,
        until: Instant,
    },
    RemoveWorkspace {
        session: SessionId,
        workspaces: Arc<Workspaces>,
    },
    /// Removes what the uid of a session has left, where somebody else may need it at once.
    CleanUid {
        session: SessionId,
        uid: u32,
    },
}

/// Threads at most: while as many errands hang, others wait until their own time is over.
const THREADS_MAX: usize = 16;
/// Errands that wait at most. A session or command has one of a kind under way, so this is reached only when a hundred
/// sessions and more have theirs given up again and again.
const QUEUE_MAX: usize = 4096;
/// Time for what reads /proc or starts a helper process: a thousand times what it takes.
const SHORT: Duration = Duration::from_secs(5);
/// Time for what works on a disk.
const LONG: Duration = Duration::from_secs(15);

impl Errand {
    /// How long it may wait and run, both together.
    fn time(&self) -> Duration {
        match self {
            Errand::ForWorker { task: Task::RemoveWorkspace { .. } | Task::CleanUid { .. }, .. } => LONG,
            Errand::ForWorker { task: Task::EndProcesses { until, .. }, .. } => {
                until.saturating_duration_since(Instant::now()) + SHORT
            }
            Errand::ForWorker { .. } | Errand::Census { .. } => SHORT,
            Errand::CleanUp { .. } | Errand::SaveLimits { .. } | Errand::Reload { .. } => LONG,
        }
    }

    /// What is told when its time is over; none: it cannot be given up, as it carries what others need.
    fn surrender(&self) -> Option<Done> {
        Some(match self {
            Errand::ForWorker { worker, task } => Done::Worker(worker.clone(), Box::new(task.surrender())),
            Errand::Census { reaper } => Done::Census(reaper.clone(), Counted { again: true, ..Counted::default() }),
            Errand::CleanUp { uids, sessions, gateway, .. } => {
                Done::CleanedUp(gateway.clone(), Cleaned::nothing(uids, "it takes too long"), sessions.clone())
            }
            Errand::SaveLimits { path, gateway, .. } => Done::Saved(
                gateway.clone(),
                Err(format!("{} cannot be written: the file system hangs", path.display())),
            ),
            Errand::Reload { .. } => return None,
        })
    }

    fn is_save(&self) -> bool {
        matches!(self, Errand::SaveLimits { .. })
    }

    fn name(&self) -> &'static str {
        match self {
            Errand::ForWorker { task, .. } => match task {
                Task::Probe { .. } => "the trial of a working directory",
                Task::Sweep { .. } => "the search for what a command left",
                Task::Sample { .. } => "measuring a command",
                Task::LookAtJobs { .. } => "measuring what a shell has left in the background",
                Task::EndJobs { .. } => "ending what a shell has left in the background",
                Task::EndProcesses { .. } => "ending the processes of a session",
                Task::RemoveWorkspace { .. } => "removing a workspace",
                Task::CleanUid { .. } => "cleaning up behind a uid",
            },
            Errand::Census { .. } => "the search for orphans",
            Errand::CleanUp { .. } => "cleaning up behind sessions",
            Errand::SaveLimits { .. } => "saving the limits",
            Errand::Reload { .. } => "reading the configuration again",
        }
    }
}

impl Task {
    fn surrender(&self) -> ToWorker {
        match self {
            Task::Probe { session, .. } => {
                let fault = SpawnFault { stage: Stage::Cwd, errno: Errno::ETIMEDOUT };
                ToWorker::Probed { session: *session, probed: Err(fault) }
            }
            Task::Sweep { exec, .. } => ToWorker::Swept { exec: *exec, swept: Swept::NotLooked },
            Task::Sample { exec, .. } => ToWorker::Sampled { exec: *exec, sample: None },
            Task::LookAtJobs { session, .. } => ToWorker::JobsSeen { session: *session, background: None },
            Task::EndJobs { session, .. } => ToWorker::JobsEnded { session: *session, killed: 0 },
            Task::EndProcesses { session, .. } => ToWorker::ProcessesEnded { session: *session, are_gone: false },
            Task::RemoveWorkspace { session, .. } => {
                ToWorker::WorkspaceRemoved { session: *session, removed: Err(Errno::ETIMEDOUT) }
            }
            Task::CleanUid { session, .. } => {
                ToWorker::UidCleaned { session: *session, cleaned: Err("it takes too long".to_owned()) }
            }
        }
    }
}

/// What came of an errand, and whom it is told.
enum Done {
    Worker(Mailbox<ToWorker>, Box<ToWorker>),
    Census(Mailbox<ToReaper>, Counted),
    CleanedUp(Mailbox<ToGateway>, Cleaned, Vec<SessionId>),
    Saved(Mailbox<ToGateway>, Result<(), String>),
    Reloaded(Mailbox<ToReaper>, Box<ToReaper>),
}

impl Done {
    fn tell(self) {
        match self {
            Done::Worker(worker, message) => worker.tell(*message),
            Done::Census(reaper, counted) => reaper.tell(ToReaper::Counted { counted }),
            Done::CleanedUp(gateway, cleaned, sessions) => gateway.tell(ToGateway::CleanedUp { cleaned, sessions }),
            Done::Saved(gateway, saved) => gateway.tell(ToGateway::LimitsSaved { saved }),
            Done::Reloaded(reaper, message) => reaper.tell(*message),
        }
    }
}

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
    spawner: Arc<Spawner>,
    living: Arc<Living>,
    ground: Ground,
    census: Mutex<Census>,
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
        let shared = Shared {
            board: Mutex::default(),
            tokens: File::from(taken),
            spawner,
            living,
            ground,
            census: Mutex::default(),
        };
        let errands = Errands { shared: Arc::new(shared), tokens: File::from(tokens) };
        errands.add_thread(&mut errands.shared.board())?;
        Ok(errands)
    }

    pub fn living(&self) -> &Arc<Living> {
        &self.shared.living
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
            let done = self.done(errand, &helper, &mut stack);
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

    fn done(&self, errand: Errand, helper: &Arc<Ticket>, stack: &mut Option<Stack>) -> Done {
        // Whether it has done its work shows in the next look.
        let kill_all = |identity| {
            let _ = kill_all_of(identity, &helper.report);
        };
        match errand {
            Errand::Census { reaper } => {
                // One that was given up may hang still.
                let counted = match self.census.try_lock() {
                    Ok(mut census) => census.take(&self.living, &self.ground, kill_all),
                    Err(_) => Counted { again: true, ..Counted::default() },
                };
                Done::Census(reaper, counted)
            }
            Errand::CleanUp { uids, sessions, workspaces, gateway } => {
                let left = sessions.into_iter().filter(|session| workspaces.remove(*session).is_err()).collect();
                Done::CleanedUp(gateway, residue::clean(&uids, helper), left)
            }
            Errand::Reload { mut reloader, wish, reaper } => {
                let reloaded = Box::new(reloader.carry_out(wish));
                Done::Reloaded(reaper, Box::new(ToReaper::Reloaded { reloader, reloaded }))
            }
            Errand::SaveLimits { path, bytes, gateway } => {
                Done::Saved(gateway, overrides::save(&path, &bytes).map_err(|error| error.to_string()))
            }
            Errand::ForWorker { worker, task } => {
                let done = self.done_for_worker(task, helper, stack);
                Done::Worker(worker, Box::new(done))
            }
        }
    }

    fn done_for_worker(&self, task: Task, helper: &Arc<Ticket>, stack: &mut Option<Stack>) -> ToWorker {
        let living = &*self.living;
        // Whether it has done its work shows in the next look.
        let kill_all = |identity| {
            let _ = kill_all_of(identity, &helper.report);
        };
        match task {
            Task::Probe { session, plan } => {
                let wiring = Wiring { stdin: false, merge_stderr: true, terminal: None, mute: true };
                let stack = stack.get_or_insert_with(Stack::new);
                let probed = self.spawner.spawn(*plan, wiring, helper, stack);
                helper.report.forget();
                ToWorker::Probed { session, probed: probed.and_then(reap_trial) }
            }
            Task::Sweep { exec, marks } => ToWorker::Swept { exec, swept: tree::sweep(&marks, living, kill_all) },
            Task::Sample { exec, marks } => {
                let sample: Option<Sample> = Some(tree::sample(&marks, living));
                ToWorker::Sampled { exec, sample }
            }
            Task::LookAtJobs { session, jobs } => {
                ToWorker::JobsSeen { session, background: Some(background::look(&jobs, living)) }
            }
            Task::EndJobs { session, jobs } => ToWorker::JobsEnded { session, killed: background::end(&jobs, living) },
            Task::EndProcesses { session, identity, until } => {
                let are_gone = tree::end_all_of(session, identity, living, kill_all, until);
                ToWorker::ProcessesEnded { session, are_gone }
            }
            Task::RemoveWorkspace { session, workspaces } => {
                ToWorker::WorkspaceRemoved { session, removed: workspaces.remove(session) }
            }
            Task::CleanUid { session, uid } => {
                let cleaned = residue::clean(&[uid], helper).of(uid);
                ToWorker::UidCleaned { session, cleaned }
            }
        }
    }
}

/// A trial has ended by now: by itself, or killed where it has taken too long.
#[expect(clippy::disallowed_methods, reason = "waits for one named child that has ended its work")]
fn reap_trial(started: Started) -> Result<(), SpawnFault> {
    match waitpid(started.child.pid(), None) {
        Ok(WaitStatus::Exited(_, 0)) => Ok(()),
        _ => Err(SpawnFault { stage: Stage::Cwd, errno: Errno::ETIMEDOUT }),
    }
}
