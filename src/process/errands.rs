//! Runs on `errand-k`: what may block for as long as a file system or a hostile process likes. Reading /proc of a tree,
//! removing directories, trying whether a directory can be used, reading the configuration again, saving limits.
//!
//! Nobody waits for any of it: workers, reaper and gateway hand a task over and get the outcome as a message. A thread
//! that hangs is joined by another, up to a bound.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::fcntl::OFlag;
use nix::sys::signal::SigSet;
use nix::unistd::pipe2;

use super::proc::Adopted;
use super::spawn::{SpawnFault, Spawner, Started, Ticket, Wiring};
use super::tree::{self, Marks};
use super::workspace::Workspaces;
use crate::admission::overrides;
use crate::ids::{ExecId, SessionId};
use crate::mailbox::Mailbox;
use crate::message::{ToGateway, ToReaper, ToWorker};
use crate::runtime::reload::{Reloader, Wish};
use crate::sys::clone::{Plan, Stack};

/// One thing to do, and whom to tell.
pub enum Errand {
    ForWorker {
        worker: Mailbox<ToWorker>,
        task: Task,
    },
    /// Which orphans are there?
    Census {
        reaper: Mailbox<ToReaper>,
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
    RemoveWorkspace {
        session: SessionId,
        workspaces: Arc<Workspaces>,
    },
}

/// Threads at most: more than this many errands that hang are waited for.
const THREADS_MAX: usize = 16;

/// The queue of errands, and the threads that run them.
pub struct Errands {
    queue: Sender<Errand>,
    /// One byte for each errand: the threads sleep in reading it. As with the mailboxes, a pipe wakes on the same
    /// processor.
    tokens: File,
    shared: Arc<Shared>,
}

struct Shared {
    errands: Receiver<Errand>,
    tokens: File,
    threads: AtomicUsize,
    spawner: Arc<Spawner>,
    adopted: Adopted,
}

impl Errands {
    /// Starts the first thread.
    pub fn start(spawner: Arc<Spawner>) -> std::io::Result<Errands> {
        let (queue, errands) = unbounded();
        let (taken, tokens) = pipe2(OFlag::O_CLOEXEC)?;
        let (taken, tokens) = (File::from(taken), File::from(tokens));
        let shared = Shared { errands, tokens: taken, threads: AtomicUsize::new(0), spawner, adopted: Adopted::open() };
        let errands = Errands { queue, tokens, shared: Arc::new(shared) };
        errands.add_thread()?;
        Ok(errands)
    }

    /// Queues an errand. Bounded by what can be under way: a few for each command and session.
    pub fn submit(&self, errand: Errand) {
        // The receiver lives in `shared`, beside us.
        let _ = self.queue.send(errand);
        if let Err(error) = (&self.tokens).write(&[0]) {
            log::error!("no errand can be run: {error}");
        }
    }

    /// Errands wait, and have waited for long: the threads hang, or are busy, so there is to be one more.
    pub fn relieve(&self) {
        if let Err(error) = self.add_thread() {
            log::warn!("errands hang, and another thread cannot be started: {error}");
        }
    }

    pub fn wait(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether there is certainly no orphan to look after.
    pub fn no_orphans(&self) -> bool {
        self.shared.adopted.is_empty()
    }

    /// Looks at every orphan; may block on a hostile one.
    pub fn census(&self) -> Vec<tree::Orphan> {
        tree::census(&self.shared.adopted)
    }

    /// Every orphan by its number, dead ones included.
    pub fn orphans(&self) -> Vec<i32> {
        self.shared.adopted.pids()
    }

    fn add_thread(&self) -> std::io::Result<()> {
        let shared = self.shared.clone();
        let number = shared.threads.fetch_add(1, Ordering::Relaxed);
        let started = match number {
            0..THREADS_MAX => crate::threads::thread(format!("errand-{number}"), move || shared.run()).map(drop),
            _ => Err(std::io::ErrorKind::QuotaExceeded.into()),
        };
        started.inspect_err(|_| {
            self.shared.threads.fetch_sub(1, Ordering::Relaxed);
        })
    }
}

impl Shared {
    fn run(self: Arc<Self>) {
        // Its children share our memory until they end, and must run no handler of ours.
        let _ = SigSet::all().thread_block();
        let mut stack = None;
        // The other end lives as long as any worker: its end is the runtime's.
        while matches!((&self.tokens).read(&mut [0]), Ok(1)) {
            let Ok(errand) = self.errands.try_recv() else { continue };
            match errand {
                Errand::Census { reaper } => {
                    reaper.tell(ToReaper::Orphans { orphans: tree::census(&self.adopted) });
                }
                Errand::Reload { mut reloader, wish, reaper } => {
                    let reloaded = Box::new(reloader.carry_out(wish));
                    reaper.tell(ToReaper::Reloaded { reloader, reloaded });
                }
                Errand::SaveLimits { path, bytes, gateway } => {
                    let saved = overrides::save(&path, &bytes).map_err(|error| error.to_string());
                    gateway.tell(ToGateway::LimitsSaved { saved });
                }
                Errand::ForWorker { worker, task } => {
                    let done = self.done(task, &mut stack);
                    worker.tell(done);
                }
            }
        }
    }

    fn done(&self, task: Task, stack: &mut Option<Stack>) -> ToWorker {
        match task {
            Task::Probe { session, plan } => {
                let wiring = Wiring { stdin: false, merge_stderr: true, terminal: None, mute: false };
                let stack = stack.get_or_insert_with(Stack::new);
                let ticket = Ticket::default();
                let probed = self.spawner.spawn(*plan, wiring, &ticket, stack);
                ticket.report.forget();
                ToWorker::Probed { session, probed: probed.and_then(reap_trial) }
            }
            Task::Sweep { exec, marks } => ToWorker::Swept { exec, swept: tree::sweep(&marks, &self.adopted) },
            Task::Sample { exec, marks } => ToWorker::Sampled { exec, sample: tree::sample(&marks, &self.adopted) },
            Task::RemoveWorkspace { session, workspaces } => {
                ToWorker::WorkspaceRemoved { session, removed: workspaces.remove(session) }
            }
        }
    }
}

/// A trial ends by itself, at once.
#[allow(clippy::disallowed_methods, reason = "waits for one named child that has ended its work")]
fn reap_trial(started: Started) -> Result<(), SpawnFault> {
    let _ = nix::sys::wait::waitpid(started.child.pid(), None);
    Ok(())
}
