//! What is counted by several threads: how much there is of something, how much of it is taken, and by whom. Pure but for
//! its atomics: shares are taken and given back on any thread, and nobody waits.
//!
//! Accounts form chains, from a part up to the whole. What is asked for is taken from all of a chain or from none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// Whose account it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// The daemon's, or a part of it that is for one kind of thing.
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

/// No limit: as many as can be counted.
pub(super) const UNLIMITED: u64 = u64::MAX;

impl Account {
    /// The daemon's own: above all others.
    pub fn of_daemon(max: u64) -> Self {
        Account::new(Level::Daemon, max, None)
    }

    pub(super) fn new(level: Level, max: u64, above: Option<Account>) -> Self {
        Account(Arc::new(Gauge { level, used: AtomicU64::new(0), max: AtomicU64::new(max), above }))
    }

    /// A part of this one, with a limit of its own.
    pub fn part(&self, max: u64) -> Self {
        Account::new(Level::Daemon, max, Some(self.clone()))
    }

    /// Somebody has a share of it, or a clone.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
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

    /// Gives back what is beyond so many.
    pub fn keep_at_most(&mut self, count: usize) {
        self.resize(count.min(self.bytes));
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
