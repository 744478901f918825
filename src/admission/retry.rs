//! Retry keys: a request that is sent twice runs once. Pure: time comes in as milliseconds of a monotonic clock.
//!
//! The first request with a key runs; it and others with the same key, of the same client, wait for its record, or get
//! it at once if it is there. What was refused, or cancelled because nobody was left who waits, has not happened: the
//! key is free again. The window counts from the end, so a key that runs is never forgotten.
//!
//! Within the window no key is forgotten either, whatever the bounds are, for then its request could run twice: past
//! the bound on keys a new one is refused, and past the bound on bytes the oldest records go, but not their keys.
//!
//! Two requests are the same if their params mean the same: compared is what they were parsed into, so that neither the
//! order of fields nor spacing matters, nor a default that is written out. Of each only a fingerprint is kept, 128 bits
//! under a key drawn at the start; nobody can make two that collide on purpose, and one's own are all that one could
//! mix up.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use crate::ids::ClientName;

/// What may be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// From the end of a run on.
    pub window_ms: u64,
    /// Keys of all clients, running and finished.
    pub keys_max: usize,
    /// Keys of one client.
    pub keys_per_client_max: usize,
    /// Bytes of all records.
    pub record_bytes_max: usize,
}

/// A run that a key stands for; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(u64);

/// What is to be done with a request that bears a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Claimed<R> {
    /// It is the first, and waits: run it, and tell `finished` or `gave_up` what became of it.
    Run(RunId),
    /// It waits for the record of that run.
    Waits(RunId),
    /// It has run: its record.
    Record(R),
    /// It has run, and its record had to make room.
    RecordGone,
    /// The key stands for other params.
    OtherParams,
    /// As many keys are remembered as may be; until when, if that is known.
    Full { limit: usize, usage: usize, until_ms: Option<u64> },
}

/// All keys of all clients, with records `R`. A waiter `W` is whatever its request needs to be answered. How many wait
/// has no bound here: each is a request in flight of some connection, and those are bounded.
#[derive(Debug)]
pub struct Retries<W, R> {
    bounds: Bounds,
    clients: HashMap<ClientName, Client>,
    runs: HashMap<RunId, Run<W, R>>,
    /// Finished runs from the oldest on.
    ends: BTreeSet<End>,
    /// Of those, the ones whose records are there still.
    records: BTreeSet<End>,
    record_bytes: usize,
    last_run: u64,
    fingerprint: [RandomState; 2],
}

/// The keys of one client, never none.
#[derive(Debug, Default)]
struct Client {
    keys: HashMap<Arc<str>, RunId>,
    ends: BTreeSet<End>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct End {
    at_ms: u64,
    run: RunId,
}

#[derive(Debug)]
struct Run<W, R> {
    client: ClientName,
    key: Arc<str>,
    params: Fingerprint,
    state: State<W, R>,
}

type Fingerprint = [u64; 2];

#[derive(Debug)]
enum State<W, R> {
    Running { waiters: Vec<W> },
    Finished { record: Option<(R, usize)>, at_ms: u64 },
}

impl<W, R: Clone> Retries<W, R> {
    pub fn new(bounds: Bounds) -> Retries<W, R> {
        Retries {
            bounds,
            clients: HashMap::new(),
            runs: HashMap::new(),
            ends: BTreeSet::new(),
            records: BTreeSet::new(),
            record_bytes: 0,
            last_run: 0,
            fingerprint: [RandomState::new(), RandomState::new()],
        }
    }

    /// Other bounds. Records that are over them go, the oldest first; keys stay for as long as they were promised.
    pub fn reconfigure(&mut self, bounds: Bounds, now_ms: u64) {
        self.bounds = bounds;
        self.expire(now_ms);
        self.make_room_for(0);
    }

    /// A request of `client` bears `key`.
    pub fn claim(&mut self, client: &ClientName, key: &str, params: &impl Hash, waiter: W, now_ms: u64) -> Claimed<R> {
        self.expire(now_ms);
        let params = self.fingerprint.each_ref().map(|keyed| keyed.hash_one(params));
        let known = self.clients.get(client).and_then(|client| client.keys.get(key)).copied();
        let Some((id, run)) = known.and_then(|id| Some((id, self.runs.get_mut(&id)?))) else {
            return self.begin(client, key, params, waiter);
        };
        if run.params != params {
            return Claimed::OtherParams;
        }
        match &mut run.state {
            State::Running { waiters } => {
                waiters.push(waiter);
                Claimed::Waits(id)
            }
            State::Finished { record: Some((record, _)), .. } => Claimed::Record(record.clone()),
            State::Finished { record: None, .. } => Claimed::RecordGone,
        }
    }

    fn begin(&mut self, client: &ClientName, key: &str, params: Fingerprint, waiter: W) -> Claimed<R> {
        if let Some(full) = self.full(client) {
            return full;
        }
        self.last_run += 1;
        let id = RunId(self.last_run);
        let state = State::Running { waiters: vec![waiter] };
        self.runs.insert(id, Run { client: client.clone(), key: key.into(), params, state });
        self.clients.entry(client.clone()).or_default().keys.insert(key.into(), id);
        Claimed::Run(id)
    }

    /// Why there is no room for one more key of a client, if there is none.
    fn full(&self, client: &ClientName) -> Option<Claimed<R>> {
        let of_client = self.clients.get(client);
        let (usage, ends) = of_client.map_or((0, None), |client| (client.keys.len(), client.ends.first()));
        let full = |limit, usage, oldest: Option<&End>| {
            let until_ms = oldest.map(|oldest| oldest.at_ms.saturating_add(self.bounds.window_ms));
            (usage >= limit).then_some(Claimed::Full { limit, usage, until_ms })
        };
        full(self.bounds.keys_per_client_max, usage, ends)
            .or_else(|| full(self.bounds.keys_max, self.runs.len(), self.ends.first()))
    }

    /// The run has ended, and this is its record, of so many bytes: for those who wait, who come back in their order,
    /// and for those who ask within the window.
    pub fn finished(&mut self, id: RunId, record: R, bytes: usize, now_ms: u64) -> Vec<W> {
        let waiters = self.take_waiters(id);
        if self.bounds.window_ms == 0 {
            self.forget(id);
            return waiters;
        }
        let fits = bytes <= self.bounds.record_bytes_max;
        if fits {
            self.make_room_for(bytes);
        }
        let Some(run) = self.runs.get_mut(&id) else { return waiters };
        let record = fits.then_some((record, bytes));
        let bytes = if fits { bytes } else { 0 };
        run.state = State::Finished { record, at_ms: now_ms };
        let end = End { at_ms: now_ms, run: id };
        self.ends.insert(end);
        if let Some(client) = self.clients.get_mut(&run.client) {
            client.ends.insert(end);
        }
        self.record_bytes += bytes;
        if bytes > 0 {
            self.records.insert(end);
        }
        debug_assert!(self.record_bytes <= self.bounds.record_bytes_max);
        waiters
    }

    fn take_waiters(&mut self, id: RunId) -> Vec<W> {
        match self.runs.get_mut(&id).map(|run| &mut run.state) {
            Some(State::Running { waiters }) => std::mem::take(waiters),
            Some(State::Finished { .. }) | None => Vec::new(),
        }
    }

    /// The oldest records go until there is room for so many bytes.
    fn make_room_for(&mut self, bytes: usize) {
        while self.record_bytes + bytes > self.bounds.record_bytes_max {
            let Some(oldest) = self.records.pop_first() else { break };
            if let Some(State::Finished { record, .. }) = self.runs.get_mut(&oldest.run).map(|run| &mut run.state) {
                self.record_bytes -= record.take().map_or(0, |(_, bytes)| bytes);
            }
        }
    }

    /// The run was refused, or cancelled: it has not happened, and the key is free. Those who wait come back.
    pub fn gave_up(&mut self, id: RunId) -> Vec<W> {
        let waiters = self.take_waiters(id);
        if self.runs.get(&id).is_some_and(|run| matches!(run.state, State::Running { .. })) {
            self.forget(id);
        }
        waiters
    }

    /// Takes out those who need no answer any more; whether nobody waits now.
    pub fn leave(&mut self, id: RunId, is_gone: impl Fn(&W) -> bool) -> bool {
        match self.runs.get_mut(&id).map(|run| &mut run.state) {
            Some(State::Running { waiters }) => {
                waiters.retain(|waiter| !is_gone(waiter));
                waiters.is_empty()
            }
            Some(State::Finished { .. }) | None => false,
        }
    }

    /// Forgets what ended longer ago than the window. Asked for by every claim; ask now and then besides, so that what
    /// nobody claims gives its memory back.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some(oldest) = self.ends.first()
            && now_ms.saturating_sub(oldest.at_ms) >= self.bounds.window_ms
        {
            self.forget(oldest.run);
        }
    }

    /// When `expire` has something to do next.
    pub fn expires_at_ms(&self) -> Option<u64> {
        self.ends.first().map(|oldest| oldest.at_ms.saturating_add(self.bounds.window_ms))
    }

    fn forget(&mut self, id: RunId) {
        let Some(run) = self.runs.remove(&id) else { return };
        let Some(client) = self.clients.get_mut(&run.client) else { return };
        client.keys.remove(&run.key);
        if let State::Finished { record, at_ms } = run.state {
            let end = End { at_ms, run: id };
            client.ends.remove(&end);
            self.ends.remove(&end);
            self.records.remove(&end);
            self.record_bytes -= record.map_or(0, |(_, bytes)| bytes);
        }
        if client.keys.is_empty() {
            self.clients.remove(&run.client);
        }
    }
}

#[cfg(test)]
mod tests;
