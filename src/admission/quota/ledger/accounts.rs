//! One account a client, found by its name or by a key. Pure.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;

use super::super::table::LimitTable;
use super::super::{PerResource, Resource};
use super::claim::Held;

/// Where an account is, for as long as something of it is held or it is kept.
pub(super) type Key = usize;

/// What is known of one client.
#[derive(Debug)]
pub(super) struct Account {
    pub name: Arc<str>,
    /// Limits of its own.
    pub own: PerResource<Option<i64>>,
    pub parent: Option<Key>,
    pub children: Vec<Key>,
    /// What its claims stand for.
    pub usage: PerResource<u128>,
    /// That, and what its children's do.
    pub tree: PerResource<u128>,
    /// Claims that are held.
    claims: usize,
    /// It has a limit of its own, a parent or a child.
    kept: bool,
}

impl Account {
    fn new(name: Arc<str>) -> Account {
        Account {
            name,
            own: PerResource::default(),
            parent: None,
            children: Vec::new(),
            usage: PerResource::default(),
            tree: PerResource::default(),
            claims: 0,
            kept: false,
        }
    }
}

/// Accounts of clients that have claims or are kept; no others.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    keys: HashMap<Arc<str>, Key>,
    /// `None` is free, and its key in `free`.
    slots: Vec<Option<Account>>,
    free: Vec<Key>,
}

impl Accounts {
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn key(&self, client: &str) -> Option<Key> {
        self.keys.get(client).copied()
    }

    pub fn find(&self, client: &str) -> Option<&Account> {
        self.key(client).map(|key| self.at(key))
    }

    pub fn at(&self, key: Key) -> &Account {
        self.slots[key].as_ref().expect("an account outlives its claims and its place in a tree")
    }

    fn at_mut(&mut self, key: Key) -> &mut Account {
        self.slots[key].as_mut().expect("an account outlives its claims and its place in a tree")
    }

    /// The account whose limit holds for the tree, if this one is in a tree.
    pub fn root<'a>(&'a self, account: Option<&'a Account>) -> Option<&'a Account> {
        let account = account?;
        match account.parent {
            Some(parent) => Some(self.at(parent)),
            None => (!account.children.is_empty()).then_some(account),
        }
    }

    /// The names of all clients in the account's tree.
    pub fn tree<'a>(&'a self, account: Option<&'a Account>) -> impl Iterator<Item = &'a str> {
        let root = self.root(account);
        let children = root.into_iter().flat_map(|root| root.children.iter().map(|child| self.at(*child)));
        root.into_iter().chain(children).map(|one| &*one.name)
    }

    fn find_or_make(&mut self, client: &str) -> Key {
        if let Some(key) = self.keys.get(client) {
            return *key;
        }
        let name: Arc<str> = Arc::from(client);
        let account = Some(Account::new(Arc::clone(&name)));
        let key = match self.free.pop() {
            Some(key) => {
                self.slots[key] = account;
                key
            }
            None => {
                self.slots.push(account);
                self.slots.len() - 1
            }
        };
        self.keys.insert(name, key);
        key
    }

    fn forget_if_idle(&mut self, key: Key) {
        let account = self.at(key);
        if account.claims > 0 || account.kept {
            return;
        }
        for resource in Resource::ALL {
            debug_assert_eq!(account.usage[resource], 0, "usage is what the claims stand for");
        }
        if let Some(gone) = self.slots[key].take() {
            self.keys.remove(&gone.name);
            self.free.push(key);
        }
    }

    /// Takes one more claim into the books of an account that was found, or of one that is made now.
    pub fn hold(&mut self, client: &str, found: Option<Key>, amounts: &PerResource<u128>) -> Key {
        let key = found.unwrap_or_else(|| self.find_or_make(client));
        let account = self.at_mut(key);
        account.claims += 1;
        account.usage.add(amounts);
        let root = account.parent.unwrap_or(key);
        self.at_mut(root).tree.add(amounts);
        key
    }

    /// One claim became two of the same together.
    pub fn share(&mut self, key: Key) {
        self.at_mut(key).claims += 1;
    }

    /// Takes a claim out of the books. It is consumed by whoever calls: no claim comes here twice.
    pub fn give_back(&mut self, held: &Held) {
        let account = self.at_mut(held.key);
        account.claims -= 1;
        account.usage.subtract(&held.amounts);
        let root = account.parent.unwrap_or(held.key);
        self.at_mut(root).tree.subtract(&held.amounts);
        self.forget_if_idle(held.key);
    }

    pub fn set_own(&mut self, client: &str, resource: Resource, limit: Option<i64>, kept: bool) {
        let key = self.find_or_make(client);
        let account = self.at_mut(key);
        account.own[resource] = limit;
        account.kept = kept;
        self.forget_if_idle(key);
    }

    /// Takes limits and parents from a table in place of what they were; usage stays.
    pub fn rebuild(&mut self, table: &LimitTable) {
        for account in self.slots.iter_mut().flatten() {
            account.own = PerResource::default();
            account.parent = None;
            account.children = Vec::new();
            account.kept = false;
            account.tree = account.usage;
        }
        for (client, parent) in table.projects() {
            let key = self.find_or_make(client);
            self.at_mut(key).kept = true;
            for resource in Resource::ALL {
                self.at_mut(key).own[resource] = table.get(Some(client), resource.name());
            }
            if let Some(parent) = parent {
                let parent = self.find_or_make(parent);
                self.link(key, parent);
            }
        }
        for key in 0..self.slots.len() {
            if self.slots[key].is_some() {
                self.forget_if_idle(key);
            }
        }
    }

    fn link(&mut self, child: Key, parent: Key) {
        let usage = mem::take(&mut self.at_mut(child).tree);
        self.at_mut(child).parent = Some(parent);
        let above = self.at_mut(parent);
        above.children.push(child);
        above.tree.add(&usage);
    }
}
