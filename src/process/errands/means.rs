//! How each errand is carried out.

use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};

use super::errand::{Done, Errand, Task};
use crate::admission::overrides;
use crate::message::{ToReaper, ToWorker};
use crate::process::background;
use crate::process::census::{Census, Counted, Ground};
use crate::process::living::Living;
use crate::process::residue;
use crate::process::spawn::{SpawnFault, Spawner, Started, Ticket, Wiring};
use crate::process::tree;
use crate::sys::clone::{Stack, Stage, kill_all_of};
use crate::sys::residue::seal_keyrings;

/// What errands are carried out with, the same for all threads.
pub struct Means {
    spawner: Arc<Spawner>,
    pub living: Arc<Living>,
    ground: Ground,
    census: Mutex<Census>,
}

impl Means {
    pub fn new(spawner: Arc<Spawner>, living: Arc<Living>, ground: Ground) -> Means {
        Means { spawner, living, ground, census: Mutex::default() }
    }

    /// Carries out one errand. `helper` tells of the process that does a part of it, while there is one.
    pub fn done(&self, errand: Errand, helper: &Arc<Ticket>, stack: &mut Option<Stack>) -> Done {
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
            Errand::PrepareUids { first, count, gateway } => {
                let unusable = seal_keyrings(first, count, &helper.report);
                let count = if unusable.is_some() { count } else { 0 };
                Done::Prepared(gateway, count, unusable.unwrap_or_default())
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
            Task::Sample { exec, marks } => ToWorker::Sampled { exec, sample: Some(tree::sample(&marks, living)) },
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
