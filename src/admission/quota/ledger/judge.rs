//! Whether a claim fits, and how it is told if it does not. Pure.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use super::super::error::Scope;
use super::super::{Model, PerResource, Resource, UNLIMITED, is_over, of_child};
use super::accounts::{Account, Key};
use super::claim::{Amount, narrowed};
use super::{Buffers, Ledger};

/// A claim that does not fit: every resource that is over, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverLimit {
    /// Whose claim it was.
    pub client: String,
    /// What is over, never empty; of a resource that is over in both scopes, the one that has less left.
    pub over: Vec<Over>,
    /// Whether it may fit when others have given something back: false if it is over some limit all by itself.
    pub retryable: bool,
}

impl fmt::Display for OverLimit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} is over its quota", self.client)?;
        for (at, row) in self.over.iter().enumerate() {
            let Over { resource, limit, usage, delta, scope } = row;
            let of_tree = if *scope == Some(Scope::Tree) { " of its tree" } else { "" };
            let start = if at == 0 { ":" } else { ";" };
            match *delta {
                UNLIMITED => write!(f, "{start} unlimited {resource}, with a limit of {limit}{of_tree}")?,
                delta => write!(f, "{start} {delta} more {resource}, with {usage} of {limit}{of_tree} in use")?,
            }
        }
        Ok(())
    }
}

impl Error for OverLimit {}

/// One resource of which a claim asks too much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Over {
    /// Of what.
    pub resource: Cow<'static, str>,
    /// How much there may be.
    pub limit: i64,
    /// How much there is.
    pub usage: i64,
    /// How much more was asked for; [`UNLIMITED`] if that had no end.
    pub delta: i64,
    /// Whose limit and usage; none in the model flat.
    pub scope: Option<Scope>,
}

impl Over {
    /// For a name that is no resource.
    pub(super) fn unknown(name: &str, n: u64, scope: Option<Scope>) -> Over {
        Over { resource: Cow::Owned(name.to_owned()), limit: 0, usage: 0, delta: signed(u128::from(n)), scope }
    }
}

/// Limit and usage of one resource of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Of what.
    pub resource: Resource,
    /// How much there may be; [`UNLIMITED`] is no limit.
    pub limit: i64,
    /// How much there is.
    pub usage: u64,
    /// Where the limit comes from.
    pub source: Source,
    /// Whose limit and usage; none in the model flat.
    pub scope: Option<Scope>,
}

/// Where a limit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It is the client's own (or, of a tree, the parent's own).
    Client,
    /// It is everybody's.
    Registered,
    /// There is none, which is a limit of 0.
    Unregistered,
}

impl Source {
    /// As it is written on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Source::Client => "client",
            Source::Registered => "registered",
            Source::Unregistered => "unregistered",
        }
    }
}

/// A limit that was set at run time, and what stands in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overruled {
    /// Whose; none: the registered one.
    pub client: Option<String>,
    /// Of what.
    pub resource: Resource,
    /// What holds.
    pub limit: i64,
    /// What does not, if it says anything.
    pub configured: Option<i64>,
}

impl fmt::Display for Overruled {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Overruled { client, resource, limit, configured } = self;
        match client {
            Some(client) => write!(f, "the limit of {resource} of {client:?} was set to {limit}")?,
            None => write!(f, "the registered limit of {resource} was set to {limit}")?,
        }
        match configured {
            Some(configured) => write!(f, " and wins over the {configured} of the configuration until it is unset"),
            None => f.write_str(" until it is unset; the configuration has none"),
        }
    }
}

/// A limit that a claim is measured by.
#[derive(Clone, Copy)]
struct Bound {
    limit: i64,
    source: Source,
    scope: Scope,
}

/// A limit and what counts against it.
#[derive(Clone, Copy)]
struct Measure {
    bound: Bound,
    usage: u128,
}

impl Bound {
    /// Whether so much is over the limit, with so much in use already.
    fn is_passed_by(&self, amount: Amount, usage: u128) -> bool {
        match amount {
            Amount::Of(n) => is_over(wide(usage) + i128::from(n), self.limit),
            Amount::Unlimited => self.limit >= 0,
        }
    }
}

impl Measure {
    /// What is left, below 0 if more is in use than there may be.
    fn room(&self) -> i128 {
        if self.bound.limit < 0 { i128::MAX } else { i128::from(self.bound.limit) - wide(self.usage) }
    }
}

impl Ledger {
    pub(super) fn judge(
        &self,
        client: &str,
        found: Option<Key>,
        claims: &PerResource<Option<Amount>>,
        buffers: Buffers<'_>,
    ) -> Result<(), OverLimit> {
        let account = found.map(|key| self.accounts.at(key));
        let mut over = Vec::new();
        let mut retryable = true;
        for (resource, &amount) in claims.iter() {
            // What has no limit need not be measured.
            let bounds = self.bounds(account, resource).into_iter().flatten().filter(|bound| bound.limit >= 0);
            let measures = bounds.map(|bound| {
                retryable &= !bound.is_passed_by(amount, 0);
                self.measure(bound, client, account, resource, buffers)
            });
            let passed = measures.filter(|measure| measure.bound.is_passed_by(amount, measure.usage));
            if let Some(Measure { bound, usage }) = passed.min_by_key(Measure::room) {
                let delta = if amount == Amount::Unlimited { UNLIMITED } else { signed(amount.counted()) };
                let (resource, scope) = (Cow::Borrowed(resource.name()), self.told(bound.scope));
                over.push(Over { resource, limit: bound.limit, usage: signed(usage), delta, scope });
            }
        }
        if over.is_empty() { Ok(()) } else { Err(OverLimit { client: client.to_owned(), over, retryable }) }
    }

    pub(super) fn standing(&self, client: &str, resource: Resource, buffers: Buffers<'_>) -> Standing {
        let account = self.accounts.find(client);
        let bounds = self.bounds(account, resource).into_iter().flatten();
        let measures = bounds.map(|bound| self.measure(bound, client, account, resource, buffers));
        let Measure { bound, usage } = measures.min_by_key(Measure::room).expect("everybody has a bound");
        let Bound { limit, source, scope } = bound;
        Standing { resource, limit, usage: narrowed(usage), source, scope: self.told(scope) }
    }

    /// What a claim of the client is measured by: itself, the tree, or both. Of two with the same room left, the first
    /// is told. A parent is measured by its tree alone, which has all that it has itself.
    fn bounds(&self, account: Option<&Account>, resource: Resource) -> [Option<Bound>; 2] {
        let (limit, source) = self.limit_of_client(account, resource);
        let itself = Bound { limit, source, scope: Scope::Client };
        match account {
            Some(Account { parent: Some(parent), .. }) => {
                let (limit, source) = self.limit_of_root(self.accounts.at(*parent), resource);
                [Some(itself), Some(Bound { limit, source, scope: Scope::Tree })]
            }
            Some(parent) if !parent.children.is_empty() => [Some(Bound { scope: Scope::Tree, ..itself }), None],
            _ => [Some(itself), None],
        }
    }

    fn measure(
        &self,
        bound: Bound,
        client: &str,
        account: Option<&Account>,
        resource: Resource,
        buffers: Buffers<'_>,
    ) -> Measure {
        let usage = match (bound.scope, resource) {
            (Scope::Client, Resource::BufferBytes) => u128::from(buffers(client)),
            (Scope::Client, other) => account.map_or(0, |account| account.usage[other]),
            // Nobody keeps this sum.
            (Scope::Tree, Resource::BufferBytes) => {
                self.accounts.tree(account).map(|one| u128::from(buffers(one))).sum()
            }
            (Scope::Tree, other) => self.accounts.root(account).map_or(0, |root| root.tree[other]),
        };
        Measure { bound, usage }
    }

    pub(super) fn limit_of_client(&self, account: Option<&Account>, resource: Resource) -> (i64, Source) {
        let parent = account.and_then(|account| account.parent);
        let own = account.and_then(|account| account.own[resource]);
        let registered = self.registered[resource];
        let limit = match parent {
            Some(parent) => {
                let (of_parent, _) = self.limit_of_root(self.accounts.at(parent), resource);
                of_child(own, registered, of_parent)
            }
            None => own.or(registered).unwrap_or(0),
        };
        (limit, source(own, registered))
    }

    pub(super) fn limit_of_root(&self, root: &Account, resource: Resource) -> (i64, Source) {
        let (own, registered) = (root.own[resource], self.registered[resource]);
        (own.or(registered).unwrap_or(0), source(own, registered))
    }

    fn told(&self, scope: Scope) -> Option<Scope> {
        (self.model == Model::StrictTwoLevel).then_some(scope)
    }
}

fn source(own: Option<i64>, registered: Option<i64>) -> Source {
    match (own, registered) {
        (Some(_), _) => Source::Client,
        (None, Some(_)) => Source::Registered,
        (None, None) => Source::Unregistered,
    }
}

/// Adds the names that are no resource to what was judged.
pub(super) fn with_unknown(judged: Result<(), OverLimit>, client: &str, unknown: Vec<Over>) -> Result<(), OverLimit> {
    if unknown.is_empty() {
        return judged;
    }
    let mut over = judged.err().map(|refused| refused.over).unwrap_or_default();
    over.extend(unknown);
    over.sort_by(|one, other| one.resource.cmp(&other.resource));
    Err(OverLimit { client: client.to_owned(), over, retryable: false })
}

/// Usage is kept wider than anything that is claimed, so that no sum of claims overflows; 2^64 of them do not fit into
/// memory.
fn wide(usage: u128) -> i128 {
    i128::try_from(usage).unwrap_or(i128::MAX >> 1)
}

fn signed(usage: u128) -> i64 {
    i64::try_from(usage).unwrap_or(i64::MAX)
}
