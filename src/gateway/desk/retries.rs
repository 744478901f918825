//! Retry keys: whoever asks with the key of a command that runs waits with the first for its record, and whoever asks
//! later gets that record. The command is cancelled when the last of them is gone, unless it may finish.

use std::collections::HashMap;
use std::sync::Arc;

use super::execs::Heard;
use super::inflight::Work;
use super::{Asked, Decision, Desk, Settled};
use crate::admission::retry::{Bounds, Claimed, Retries, RunId};
use crate::config::Config;
use crate::ids::RequestId;
use crate::message::ToWorker;
use crate::protocol::fault::Fault;
use crate::protocol::request::Run;
use crate::worker::Told;

/// Keys of one client, and of all; a finished one takes some 250 bytes beside its record.
const KEYS_PER_CLIENT_MAX: usize = 16 * 1024;
const KEYS_MAX: usize = 4 * KEYS_PER_CLIENT_MAX;

/// Records may take a quarter of all buffers, or the largest one may be kept; but never more than half of them, for
/// commands need the rest.
pub(super) fn bounds(config: &Config) -> Bounds {
    let commands = &config.commands;
    let record_bytes_max = (commands.max_buffer_bytes / 4).max(3 * commands.max_output_bytes + 64 * 1024);
    let record_bytes_max = record_bytes_max.min(commands.max_buffer_bytes / 2);
    Bounds {
        window_ms: (commands.key_window_s * 1000.0) as u64,
        keys_max: KEYS_MAX,
        keys_per_client_max: KEYS_PER_CLIENT_MAX,
        record_bytes_max: usize::try_from(record_bytes_max).unwrap_or(usize::MAX),
    }
}

/// Keys, and the commands that run for them.
pub(super) struct Keyed {
    pub retries: Retries<RequestId, Arc<Told>>,
    /// By the request that the command was started for, which may be gone.
    runners: HashMap<RequestId, Runner>,
    requests: HashMap<RunId, RequestId>,
}

struct Runner {
    run: RunId,
    work: Work,
    /// It is not cancelled when nobody waits for it.
    finishes: bool,
}

impl Keyed {
    pub fn new(config: &Config) -> Keyed {
        Keyed { retries: Retries::new(bounds(config)), runners: HashMap::new(), requests: HashMap::new() }
    }

    fn remove(&mut self, request: RequestId) -> Option<Runner> {
        let runner = self.runners.remove(&request)?;
        self.requests.remove(&runner.run);
        Some(runner)
    }

    /// What the command for this request waits for or does now, if it bears a key.
    pub fn work_mut(&mut self, request: RequestId) -> Option<&mut Work> {
        self.runners.get_mut(&request).map(|runner| &mut runner.work)
    }

    pub fn work(&self, request: RequestId) -> Option<&Work> {
        self.runners.get(&request).map(|runner| &runner.work)
    }
}

impl Desk {
    pub(super) fn now_ms(&self) -> u64 {
        self.turn_began.saturating_duration_since(self.start).as_millis() as u64
    }

    /// Forgets the keys whose time is over.
    pub fn forget_keys(&mut self) {
        let now = self.now_ms();
        self.keyed.retries.expire(now);
    }

    /// Runs a command, unless the same was asked for with the same key before.
    pub(super) fn run_once(&mut self, asked: &Asked, run: Box<Run>) -> Result<Decision, Fault> {
        let Some(key) = &run.key else { return self.run(asked, run) };
        let now = self.now_ms();
        match self.keyed.retries.claim(&asked.peer.client, key, &*run, asked.request, now) {
            Claimed::Run(id) => self.run_first(asked, run, id),
            Claimed::Waits(id) => Ok(Decision::Later(Work::Keyed(id))),
            Claimed::Record(told) => {
                let worker = self.worker_for(asked.request);
                self.tell_worker(worker, ToWorker::Tell { request: asked.request, told });
                Ok(Decision::Later(Work::Worker(worker)))
            }
            Claimed::RecordGone => Err(Fault::record_gone()),
            Claimed::OtherParams => Err(Fault::field("key", "was used for a command with other params")),
            Claimed::Full { limit, usage, until_ms } => {
                Err(Fault::keys_full(limit as u64, usage as u64, until_ms.map(|until| until.saturating_sub(now))))
            }
        }
    }

    fn run_first(&mut self, asked: &Asked, run: Box<Run>, id: RunId) -> Result<Decision, Fault> {
        let finishes = run.finish_on_disconnect;
        match self.run(asked, run) {
            Ok(Decision::Later(work)) => {
                self.keyed.runners.insert(asked.request, Runner { run: id, work, finishes });
                self.keyed.requests.insert(id, asked.request);
                Ok(Decision::Later(Work::Keyed(id)))
            }
            decided => {
                self.keyed.retries.gave_up(id);
                decided
            }
        }
    }

    /// One of those who wait for the record of a command is gone.
    pub(super) fn unwanted_keyed(&mut self, request: RequestId, id: RunId) {
        let nobody = self.keyed.retries.leave(id, |waiter| *waiter == request);
        let Some(first) = self.keyed.requests.get(&id).copied() else { return };
        let Some(runner) = self.keyed.runners.get(&first) else { return };
        if let (Work::Command { exec, worker }, true) = (&runner.work, first == request) {
            // Nobody takes its stream any more, if it has one; for the others it goes on.
            self.tell_worker(*worker, ToWorker::Unheard { exec: *exec });
        }
        if !nobody {
            return;
        }
        match runner.work {
            Work::Command { exec, worker } if runner.finishes => self.tell_worker(worker, ToWorker::Cancel { exec }),
            Work::Command { exec, worker } => {
                self.tell_worker(worker, ToWorker::Cancel { exec });
                self.forget_run(first);
            }
            Work::Queued(ticket) => {
                self.leave_queue(ticket);
                self.forget_run(first);
            }
            _ => {}
        }
    }

    /// What was cancelled has not happened.
    fn forget_run(&mut self, first: RequestId) {
        if let Some(runner) = self.keyed.remove(first) {
            self.keyed.retries.gave_up(runner.run);
        }
    }

    /// The record of a command with a key is there, for all who wait for it. Workers encode it for each, piece by
    /// piece as its socket takes it.
    pub fn kept(&mut self, request: RequestId, told: &Arc<Told>) {
        let Some(runner) = self.keyed.remove(request) else { return };
        if let (Some(pending), Work::Command { exec, worker }) = (self.requests.get(&request), runner.work) {
            // Where it goes on by itself, so does its stream.
            let heard = Heard { token: pending.token, exec, worker };
            self.execs.may_stream(request, heard, self.commands.contains_key(&exec));
        }
        let now = self.now_ms();
        for waiter in self.keyed.retries.finished(runner.run, told.clone(), told.bytes(), now) {
            let worker = self.worker_for(waiter);
            if let Some(pending) = self.requests.get_mut(&waiter) {
                pending.work = Work::Worker(worker);
                self.tell_worker(worker, ToWorker::Tell { request: waiter, told: told.clone() });
            }
        }
    }

    /// Any worker can tell a record again; they take turns.
    fn worker_for(&self, request: RequestId) -> usize {
        (request.0 % self.workers.len() as u64) as usize
    }

    /// A request that was taken in is refused after all, and with it all who wait for the same command.
    pub fn refuse(&mut self, request: RequestId, fault: Fault) {
        let Some(runner) = self.keyed.remove(request) else {
            return self.settle(request, Settled::Refused(fault));
        };
        for waiter in self.keyed.retries.gave_up(runner.run) {
            self.settle(waiter, Settled::Refused(fault.clone()));
        }
    }
}
