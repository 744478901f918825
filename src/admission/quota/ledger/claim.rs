//! What was granted, and how it comes back. Pure.

use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::super::{PerResource, Resource};
use super::accounts::Key;

/// How much of a resource is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So much.
    Of(u64),
    /// As much as there is, as a session without a limit of its own does. It is over any finite limit, and counts
    /// nothing where there is none.
    Unlimited,
}

impl Amount {
    pub(super) fn counted(self) -> u128 {
        match self {
            Amount::Of(n) => u128::from(n),
            Amount::Unlimited => 0,
        }
    }

    fn plus(self, other: Amount) -> Amount {
        match (self, other) {
            (Amount::Of(one), Amount::Of(two)) => Amount::Of(one.saturating_add(two)),
            _ => Amount::Unlimited,
        }
    }
}

impl From<u64> for Amount {
    fn from(n: u64) -> Amount {
        Amount::Of(n)
    }
}

/// What is asked of each resource; one that stands twice is asked for twice.
pub(super) fn sums(claims: &[(Resource, Amount)]) -> PerResource<Option<Amount>> {
    let mut sums: PerResource<Option<Amount>> = PerResource::default();
    for &(resource, amount) in claims {
        sums[resource] = Some(sums[resource].map_or(amount, |sum| sum.plus(amount)));
    }
    sums
}

/// What was granted, until it is given back: by [`Ledger::release`](super::Ledger::release), which takes it away, or
/// else by being dropped, and then the ledger has it with its next call.
#[derive(Debug)]
#[must_use = "a claim that is dropped is given back"]
pub struct Claim {
    held: Option<Held>,
    strays: Arc<Strays>,
}

/// A part of an account's usage. Whoever has one has the account, too: it stays while something of it is held.
#[derive(Debug)]
pub(super) struct Held {
    pub key: Key,
    pub amounts: PerResource<u128>,
}

impl Claim {
    pub(super) fn new(held: Held, strays: &Arc<Strays>) -> Claim {
        Claim { held: Some(held), strays: Arc::clone(strays) }
    }

    /// None: it is another ledger's, to which its drop gives it back.
    pub(super) fn give_up(mut self, strays: &Arc<Strays>) -> Option<Held> {
        if !Arc::ptr_eq(&self.strays, strays) {
            debug_assert!(false, "a claim is released to the ledger that granted it");
            return None;
        }
        self.held.take()
    }

    pub(super) fn cut(&mut self, resource: Resource, strays: &Arc<Strays>) -> Held {
        assert!(Arc::ptr_eq(&self.strays, strays), "a claim is split by the ledger that granted it");
        let held = self.held.as_mut().expect("only what consumes a claim takes what it holds");
        let mut amounts = PerResource::default();
        amounts[resource] = mem::take(&mut held.amounts[resource]);
        Held { key: held.key, amounts }
    }

    /// How much of a resource it stands for.
    pub fn amount(&self, resource: Resource) -> u64 {
        self.held.as_ref().map_or(0, |held| narrowed(held.amounts[resource]))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.strays.put(held);
        }
    }
}

/// An amount as it is told.
pub(super) fn narrowed(amount: u128) -> u64 {
    u64::try_from(amount).unwrap_or(u64::MAX)
}

/// Claims that were dropped, until the ledger's next call. No more than there are claims. The lock is taken when one
/// is lost, and never else.
#[derive(Debug, Default)]
pub(super) struct Strays {
    count: AtomicUsize,
    lost: Mutex<Vec<Held>>,
}

impl Strays {
    fn put(&self, held: Held) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.push(held);
        self.count.store(lost.len(), Ordering::Release);
    }

    pub fn take(&self) -> Vec<Held> {
        if self.count.load(Ordering::Acquire) == 0 {
            return Vec::new();
        }
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        self.count.store(0, Ordering::Release);
        mem::take(&mut lost)
    }
}
