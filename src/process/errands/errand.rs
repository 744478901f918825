//! What there is to do, how long it may take, and what is told where nothing comes of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::ids::{ExecId, SessionId};
use crate::mailbox::Mailbox;
use crate::message::{ToGateway, ToReaper, ToWorker};
use crate::process::background::Jobs;
use crate::process::census::Counted;
use crate::process::residue::Cleaned;
use crate::process::spawn::SpawnFault;
use crate::process::tree::{Marks, Swept};
use crate::process::workspace::Workspaces;
use crate::runtime::reload::{Reloader, Wish};
use crate::sys::clone::{Identity, Plan, Stage};

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
    /// Makes uids of the pool ready for sessions.
    PrepareUids {
        first: u32,
        count: u32,
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

/// Time for what reads /proc or starts a helper process: a thousand times what it takes.
const SHORT: Duration = Duration::from_secs(5);
/// Time for what works on a disk.
const LONG: Duration = Duration::from_secs(15);

impl Errand {
    /// How long it may wait and run, both together.
    pub fn time(&self) -> Duration {
        match self {
            Errand::ForWorker { task: Task::RemoveWorkspace { .. } | Task::CleanUid { .. }, .. } => LONG,
            Errand::ForWorker { task: Task::EndProcesses { until, .. }, .. } => {
                until.saturating_duration_since(Instant::now()) + SHORT
            }
            Errand::ForWorker { .. } | Errand::Census { .. } | Errand::PrepareUids { .. } => SHORT,
            Errand::CleanUp { .. } | Errand::SaveLimits { .. } | Errand::Reload { .. } => LONG,
        }
    }

    /// What is told when its time is over; none: it cannot be given up, as it carries what others need.
    pub fn surrender(&self) -> Option<Done> {
        Some(match self {
            Errand::ForWorker { worker, task } => Done::Worker(worker.clone(), Box::new(task.surrender())),
            Errand::Census { reaper } => Done::Census(reaper.clone(), Counted { again: true, ..Counted::default() }),
            Errand::CleanUp { uids, sessions, gateway, .. } => {
                Done::CleanedUp(gateway.clone(), Cleaned::nothing(uids, "it takes too long"), sessions.clone())
            }
            Errand::PrepareUids { gateway, .. } => Done::Prepared(gateway.clone(), 0, Vec::new()),
            Errand::SaveLimits { path, gateway, .. } => Done::Saved(
                gateway.clone(),
                Err(format!("{} cannot be written: the file system hangs", path.display())),
            ),
            Errand::Reload { .. } => return None,
        })
    }

    pub fn is_save(&self) -> bool {
        matches!(self, Errand::SaveLimits { .. })
    }

    pub fn name(&self) -> &'static str {
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
            Errand::PrepareUids { .. } => "preparing uids",
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
pub enum Done {
    Worker(Mailbox<ToWorker>, Box<ToWorker>),
    Census(Mailbox<ToReaper>, Counted),
    CleanedUp(Mailbox<ToGateway>, Cleaned, Vec<SessionId>),
    /// How many, and which of them cannot be used.
    Prepared(Mailbox<ToGateway>, u32, Vec<u32>),
    Saved(Mailbox<ToGateway>, Result<(), String>),
    Reloaded(Mailbox<ToReaper>, Box<ToReaper>),
}

impl Done {
    pub fn tell(self) {
        match self {
            Done::Worker(worker, message) => worker.tell(*message),
            Done::Census(reaper, counted) => reaper.tell(ToReaper::Counted { counted }),
            Done::CleanedUp(gateway, cleaned, sessions) => gateway.tell(ToGateway::CleanedUp { cleaned, sessions }),
            Done::Prepared(gateway, count, unusable) => gateway.tell(ToGateway::UidsPrepared { count, unusable }),
            Done::Saved(gateway, saved) => gateway.tell(ToGateway::LimitsSaved { saved }),
            Done::Reloaded(reaper, message) => reaper.tell(*message),
        }
    }
}
