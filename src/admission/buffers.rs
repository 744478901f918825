//! The memory that the daemon holds for its clients: outputs, inputs, unsent answers, unfinished lines. Pure but for
//! its atomics: shares are taken and given back on any thread, and nobody waits.
//!
//! Accounts form chains: a client's own, its tree's where clients have parents, the daemon's. Bytes are taken from all
//! of a chain or from none. What is here is a promise, not an allocation: a share may be larger than what lies in it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::ClientName;

/// How much somebody holds, and may hold; cheap to clone. A limit may change at any time: one below what is held takes
/// nothing away, and only stops what comes.
#[derive(Debug, Clone)]
pub struct Account(Arc<Gauge>);

#[derive(Debug)]
struct Gauge {
    level: Level,
    used: AtomicU64,
    max: AtomicU64,
    above: Option<Account>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Daemon,
    /// A parent and all its children together.
    Tree,
    Client,
}

/// Who has too little, and what was asked for beyond what is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Short {
    /// The whole daemon.
    Daemon { limit: u64, usage: u64, delta: u64 },
    /// The client, or with `tree` its parent with all its children.
    Client { limit: u64, usage: u64, delta: u64, tree: bool },
}

/// No limit: as many bytes as can be counted.
const UNLIMITED: u64 = u64::MAX;

fn bytes_max(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(UNLIMITED)
}

impl Account {
    /// The daemon's own: above all others.
    pub fn of_daemon(max: u64) -> Self {
        Account::new(Level::Daemon, max, None)
    }

    fn new(level: Level, max: u64, above: Option<Account>) -> Self {
        Account(Arc::new(Gauge { level, used: AtomicU64::new(0), max: AtomicU64::new(max), above }))
    }

    pub fn used(&self) -> u64 {
        self.0.used.load(Ordering::Relaxed)
    }

    pub fn max(&self) -> u64 {
        self.0.max.load(Ordering::Relaxed)
    }

    pub fn set_max(&self, max: u64) {
        self.0.max.store(max, Ordering::Relaxed);
    }

    /// What may still be taken, by the tightest of the chain. Others take at the same time: it is a hint.
    pub fn room(&self) -> u64 {
        self.chain().map(|account| account.max().saturating_sub(account.used())).min().unwrap_or(0)
    }

    /// Nothing may be taken any more.
    pub fn is_full(&self) -> bool {
        self.room() == 0
    }

    fn chain(&self) -> impl Iterator<Item = &Account> {
        std::iter::successors(Some(self), |account| account.0.above.as_ref())
    }

    /// Takes from the client first: where client and daemon are short, it is the client's quota that is told.
    fn take(&self, bytes: u64) -> Result<(), Short> {
        for account in self.chain() {
            if let Err(usage) = account.0.take(bytes) {
                let taken = self.chain().take_while(|below| !Arc::ptr_eq(&below.0, &account.0));
                taken.for_each(|below| below.0.give(bytes));
                return Err(account.short(usage, bytes));
            }
        }
        Ok(())
    }

    fn short(&self, usage: u64, delta: u64) -> Short {
        let limit = self.max();
        match self.0.level {
            Level::Daemon => Short::Daemon { limit, usage, delta },
            Level::Tree => Short::Client { limit, usage, delta, tree: true },
            Level::Client => Short::Client { limit, usage, delta, tree: false },
        }
    }
}

impl Gauge {
    /// On failure what is used.
    fn take(&self, bytes: u64) -> Result<(), u64> {
        let max = self.max.load(Ordering::Relaxed);
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= max);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map(|_| ())
    }

    fn give(&self, bytes: u64) {
        let before = self.used.fetch_sub(bytes, Ordering::Relaxed);
        debug_assert!(before >= bytes, "given back once");
    }
}

/// A share of an account; given back when it goes, whatever happens (invariant 9).
#[derive(Debug)]
pub struct Share {
    account: Account,
    bytes: usize,
}

impl Share {
    pub fn none(account: &Account) -> Self {
        Share { account: account.clone(), bytes: 0 }
    }

    pub fn take(account: &Account, bytes: usize) -> Result<Self, Short> {
        account.take(bytes as u64)?;
        Ok(Share { account: account.clone(), bytes })
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Makes the share so large, if the account has it; a smaller one is always had.
    pub fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes && self.account.take((bytes - self.bytes) as u64).is_err() {
            return false;
        }
        if bytes < self.bytes {
            self.shrink(bytes);
        }
        self.bytes = bytes;
        true
    }

    /// Gives back what is beyond so many bytes.
    pub fn keep_at_most(&mut self, bytes: usize) {
        self.resize(bytes.min(self.bytes));
    }

    /// Makes the share so large even where that is over a limit: for bytes that are there already.
    pub fn force(&mut self, bytes: usize) {
        if bytes > self.bytes {
            let more = (bytes - self.bytes) as u64;
            for account in self.account.chain() {
                account.0.used.fetch_add(more, Ordering::Relaxed);
            }
        } else {
            self.shrink(bytes);
        }
        self.bytes = bytes;
    }

    fn shrink(&self, bytes: usize) {
        let fewer = (self.bytes - bytes) as u64;
        if fewer > 0 {
            self.account.chain().for_each(|account| account.0.give(fewer));
        }
    }

    /// Takes a part out of it, at most all.
    pub fn split(&mut self, bytes: usize) -> Share {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Share { account: self.account.clone(), bytes }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

/// What a command has for itself from its start.
#[derive(Debug)]
pub struct Claim {
    pub stdin: Share,
    pub stdout: Share,
    pub stderr: Share,
    /// What it is started with.
    pub params: Share,
}

/// Of what a session, or a command, keeps of its params, so much is not counted: `max_sessions` and `max_commands` bound
/// it, and most keep less.
const FREE_PARAMS_BYTES: usize = 16 * 1024;

/// What is counted of params that are kept.
pub fn beyond_free(bytes: usize) -> usize {
    bytes.saturating_sub(FREE_PARAMS_BYTES)
}

/// Bytes of each output that a command must have room for to be started.
pub const OUTPUT_BYTES: usize = 64 * 1024;

/// What a command needs to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    pub stdin: usize,
    pub stdout: usize,
    pub stderr: usize,
    pub params: usize,
}

impl Need {
    pub fn total(self) -> usize {
        [self.stdout, self.stderr, self.params].into_iter().fold(self.stdin, usize::saturating_add)
    }

    /// All of it at once, or nothing.
    pub fn claim(self, account: &Account) -> Result<Claim, Short> {
        let mut all = Share::take(account, self.total())?;
        let (stdin, stdout, stderr) = (all.split(self.stdin), all.split(self.stdout), all.split(self.stderr));
        Ok(Claim { stdin, stdout, stderr, params: all })
    }
}

/// The limits of a client's buffers; -1 is unlimited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    pub limit: i64,
    /// The parent that it counts against with all others of its tree, itself if it is one, and the parent's limit.
    pub tree: Option<(ClientName, i64)>,
}

/// The accounts of all clients that hold something or are connected. Owned by the gateway.
#[derive(Debug)]
pub struct Accounts {
    daemon: Account,
    clients: HashMap<ClientName, Account>,
    trees: HashMap<ClientName, Account>,
    /// So many are looked through for those that nobody uses.
    sweep_at: usize,
}

/// Accounts that nobody uses are left alone up to here.
const IDLE_MAX: usize = 64;

impl Accounts {
    pub fn new(daemon: Account) -> Self {
        Accounts { daemon, clients: HashMap::new(), trees: HashMap::new(), sweep_at: IDLE_MAX }
    }

    pub fn daemon(&self) -> &Account {
        &self.daemon
    }

    /// A client's account; `quota` is asked if there is none yet. Who keeps a clone keeps the account.
    pub fn account(&mut self, client: &ClientName, quota: impl FnOnce() -> Quota) -> Account {
        if let Some(account) = self.clients.get(client) {
            return account.clone();
        }
        if self.clients.len() >= self.sweep_at {
            self.sweep();
        }
        let Quota { limit, tree } = quota();
        let above = match tree {
            None => self.daemon.clone(),
            Some((parent, limit)) => {
                let tree = || Account::new(Level::Tree, bytes_max(limit), Some(self.daemon.clone()));
                self.trees.entry(parent).or_insert_with(tree).clone()
            }
        };
        let account = Account::new(Level::Client, bytes_max(limit), Some(above));
        self.clients.insert(client.clone(), account.clone());
        account
    }

    /// What a client holds now.
    pub fn used(&self, client: &str) -> u64 {
        self.clients.get(client).map_or(0, Account::used)
    }

    /// Limits have changed. A client that got another parent, or none, counts against the old one, as far as that is one
    /// still, until it holds nothing and is not connected any more.
    pub fn adjust(&mut self, quota: impl Fn(&str) -> Quota) {
        self.sweep();
        for (client, account) in &self.clients {
            account.set_max(bytes_max(quota(client).limit));
        }
        for (parent, account) in &self.trees {
            // One that is no tree any more holds nobody up who was in it.
            account.set_max(quota(parent).tree.map_or(UNLIMITED, |(_, limit)| bytes_max(limit)));
        }
    }

    /// Forgets what nobody has a share or a clone of. Only the gateway makes clones of what stands here, so one that is
    /// seen unused stays so.
    fn sweep(&mut self) {
        let used = |account: &Account| Arc::strong_count(&account.0) > 1;
        self.clients.retain(|_, account| used(account));
        self.trees.retain(|_, account| used(account));
        self.sweep_at = (self.clients.len() * 2).max(IDLE_MAX);
    }
}

#[cfg(test)]
mod tests;
