//! The memory that the daemon holds for its clients: outputs, inputs, unsent answers, unfinished lines. Pure but for
//! the atomics of its accounts.
//!
//! Accounts form chains: a client's own, its tree's where clients have parents, the daemon's. What is here is a promise,
//! not an allocation: a share may be larger than what lies in it.

use std::collections::HashMap;

pub use super::account::{Account, Share, Short};
use super::account::{Level, UNLIMITED};
use crate::ids::ClientName;

fn bytes_max(limit: i64) -> u64 {
    u64::try_from(limit).unwrap_or(UNLIMITED)
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
        self.clients.retain(|_, account| account.is_shared());
        self.trees.retain(|_, account| account.is_shared());
        self.sweep_at = (self.clients.len() * 2).max(IDLE_MAX);
    }
}

#[cfg(test)]
mod tests;
