//! Usage by client, and the claims that make it. Pure; the gateway is its only owner.
//!
//! A decision and its claim are one step of one owner, so no two clients both get the last unit. What was granted is a
//! [`Claim`], and giving that back takes it away. One that is lost on the way (an early return, a panic that unwinds
//! past it) comes back by itself with the next call, so usage cannot leak.
//!
//! Claims of `buffer_bytes` are judged here and counted elsewhere: how many bytes are held for a client changes with
//! each of them, so whoever holds them keeps the sum. Each call that needs it is given a way to ask.
//!
//! Limits lie in layers: what the configuration says, and over it what was set at run time, until it is unset. A tree
//! that is broken by the two together (a reload may do that) still holds: the parent's limit is measured for all.

mod accounts;
mod claim;
mod judge;
#[cfg(test)]
mod model_check;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::error::{InvalidLimit, Scope};
use super::table::{Change, LimitTable};
use super::{Model, PerResource, Resource};
use crate::admission::overrides::Overrides;
use crate::config::Quotas;
use accounts::Accounts;
use claim::{Held, Strays};

pub use claim::{Amount, Claim};
pub use judge::{Over, OverLimit, Overruled, Source, Standing};

/// How many bytes are held for a client now.
type Buffers<'a> = &'a dyn Fn(&str) -> u64;

/// Who has how much of what, and how much they may have.
///
/// A claim costs one look-up by name, a release none; both cost the same however many children a tree has, but for a
/// claim of `buffer_bytes` in a tree with a finite limit of it. A client that has claims, or stands in the
/// configuration or among the limits that were set, takes some 300 bytes; any other takes none.
#[derive(Debug)]
pub struct Ledger {
    model: Model,
    /// What the configuration says: what a limit goes back to when it is unset.
    configured: LimitTable,
    overrides: Overrides,
    /// The configuration with the overrides over it: what holds.
    table: LimitTable,
    registered: PerResource<Option<i64>>,
    accounts: Accounts,
    strays: Arc<Strays>,
}

impl Ledger {
    /// Nothing is used yet. An error is about the configuration, not about what was set at run time.
    pub fn new(quotas: &Quotas, overrides: Overrides) -> Result<Ledger, InvalidLimit> {
        let configured = configured(quotas)?;
        let mut ledger = Ledger {
            model: quotas.model,
            table: configured.clone(),
            configured,
            overrides,
            registered: PerResource::default(),
            accounts: Accounts::default(),
            strays: Arc::default(),
        };
        ledger.lay_overrides();
        Ok(ledger)
    }

    /// Puts another configuration in the place of the first one. Usage, claims and overrides stay; on an error
    /// everything does.
    pub fn reload(&mut self, quotas: &Quotas) -> Result<(), InvalidLimit> {
        self.settle();
        self.configured = configured(quotas)?;
        self.model = quotas.model;
        self.lay_overrides();
        Ok(())
    }

    fn lay_overrides(&mut self) {
        self.table = self.configured.clone();
        for (project, resource, limit) in self.overrides.iter() {
            self.table.lay(Change { project, resource: resource.name(), limit: Some(limit) });
        }
        for resource in Resource::ALL {
            self.registered[resource] = self.table.get(None, resource.name());
        }
        self.accounts.rebuild(&self.table);
    }

    /// Takes so much of each resource for the client, all of it or nothing. What the client has afterwards is what
    /// the claim stands for, until it is given to [`release`](Self::release).
    pub fn claim(
        &mut self,
        client: &str,
        claims: &[(Resource, Amount)],
        buffers: Buffers<'_>,
    ) -> Result<Claim, OverLimit> {
        self.settle();
        let asked = claim::sums(claims);
        let found = self.accounts.key(client);
        self.judge(client, found, &asked, buffers)?;
        let mut amounts = PerResource::default();
        for (resource, amount) in asked.iter().filter(|(resource, _)| *resource != Resource::BufferBytes) {
            amounts[resource] = amount.counted();
        }
        let key = self.accounts.hold(client, found, &amounts);
        Ok(Claim::new(Held { key, amounts }, &self.strays))
    }

    /// Gives back what was claimed.
    pub fn release(&mut self, claim: Claim) {
        self.settle();
        if let Some(held) = claim.give_up(&self.strays) {
            self.accounts.give_back(&held);
        }
    }

    /// Cuts a claim in two, so that each part may be given back at its own time: the new one has all of one resource.
    pub fn split(&mut self, claim: &mut Claim, resource: Resource) -> Claim {
        self.settle();
        let held = claim.cut(resource, &self.strays);
        self.accounts.share(held.key);
        Claim::new(held, &self.strays)
    }

    /// Takes in the claims that were lost on their way.
    fn settle(&mut self) {
        for held in self.strays.take() {
            self.accounts.give_back(&held);
        }
    }

    /// Whether the client could claim so much of each, by name. 0 asks whether what there is is within the limit; a
    /// name that is no resource has the limit 0 and the usage 0. Nothing is claimed.
    pub fn check(&mut self, client: &str, claims: &[(&str, u64)], buffers: Buffers<'_>) -> Result<(), OverLimit> {
        self.settle();
        let known: Vec<_> =
            claims.iter().filter_map(|&(name, n)| Some((Resource::from_name(name)?, Amount::Of(n)))).collect();
        let sums = claim::sums(&known);
        let judged = self.judge(client, self.accounts.key(client), &sums, buffers);
        let lone = (self.model != Model::Flat).then_some(Scope::Client);
        let unknown = claims.iter().filter(|(name, n)| Resource::from_name(name).is_none() && *n > 0);
        judge::with_unknown(judged, client, unknown.map(|&(name, n)| Over::unknown(name, n, lone)).collect())
    }

    /// How much of a resource the client has now, its children not counted.
    pub fn usage(&mut self, client: &str, resource: Resource, buffers: Buffers<'_>) -> u64 {
        self.settle();
        match resource {
            Resource::BufferBytes => buffers(client),
            other => self.accounts.find(client).map_or(0, |account| claim::narrowed(account.usage[other])),
        }
    }

    /// Each resource, what the client may have and has of it, and where the limit comes from. In a tree, the row is
    /// about whichever has less left: the client, or the tree.
    pub fn show(&mut self, client: &str, buffers: Buffers<'_>) -> [Standing; Resource::ALL.len()] {
        self.settle();
        Resource::ALL.map(|resource| self.standing(client, resource, buffers))
    }

    /// The most that the client may have of a resource, whatever others of its tree have.
    pub fn limit(&self, client: &str, resource: Resource) -> i64 {
        let account = self.accounts.find(client);
        let (of_client, _) = self.limit_of_client(account, resource);
        match self.accounts.root(account) {
            Some(root) => super::lower(of_client, self.limit_of_root(root, resource).0),
            None => of_client,
        }
    }

    /// Sets a limit over the configuration, a client's or (none) the registered one; what was set before. It may be
    /// lower than what is used: that stops new claims only.
    pub fn set(&mut self, client: Option<&str>, resource: Resource, limit: i64) -> Result<Option<i64>, InvalidLimit> {
        self.settle();
        let change = Change { project: client, resource: resource.name(), limit: Some(limit) };
        let previous = self.table.get(client, resource.name());
        self.table.apply(&[change])?;
        let put = self.overrides.put(client, resource, Some(limit));
        if put.is_err() {
            self.table.lay(Change { limit: previous, ..change });
        }
        self.refresh(client, resource);
        put
    }

    /// Goes back to what the configuration says; what was set until now. Refused where a child's own limit would then
    /// be over its parent's: that one has to go first.
    pub fn unset(&mut self, client: Option<&str>, resource: Resource) -> Result<Option<i64>, InvalidLimit> {
        self.settle();
        let Some(set) = self.overrides.get(client, resource) else { return Ok(None) };
        let limit = self.configured.get(client, resource.name());
        self.table.apply(&[Change { project: client, resource: resource.name(), limit }])?;
        self.overrides.put(client, resource, None)?;
        self.refresh(client, resource);
        Ok(Some(set))
    }

    fn refresh(&mut self, client: Option<&str>, resource: Resource) {
        let limit = self.table.get(client, resource.name());
        match client {
            None => self.registered[resource] = limit,
            Some(client) => self.accounts.set_own(client, resource, limit, self.table.knows(client)),
        }
    }

    /// What was set at run time, to be saved.
    pub fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// What was set at run time beside what the configuration says, for the log.
    pub fn overruled(&self) -> impl Iterator<Item = Overruled> {
        self.overrides.iter().map(|(client, resource, limit)| Overruled {
            client: client.map(str::to_owned),
            resource,
            limit,
            configured: self.configured.get(client, resource.name()),
        })
    }

    /// Whether the limits that were set break the tree of the configuration that they lie over, and how. They hold all
    /// the same, and the parent's limit with them.
    pub fn broken(&self) -> Result<(), InvalidLimit> {
        self.table.broken()
    }

    /// Clients that take memory now.
    pub fn clients(&self) -> usize {
        self.accounts.len()
    }
}

/// The configuration's limits as a table.
fn configured(quotas: &Quotas) -> Result<LimitTable, InvalidLimit> {
    let mut table = LimitTable::new(quotas.model);
    for (client, quota) in &quotas.clients {
        if let Some(parent) = &quota.parent {
            table.adopt(client, parent)?;
        }
    }
    let registered = quotas.registered.iter().map(|(resource, limit)| (None, resource, *limit));
    let clients = quotas.clients.iter().flat_map(|(client, quota)| {
        quota.limits.iter().map(move |(resource, limit)| (Some(client.as_str()), resource, *limit))
    });
    let changes: Vec<Change<'_>> = registered
        .chain(clients)
        .map(|(project, resource, limit)| Change { project, resource, limit: Some(limit) })
        .collect();
    if let Some(change) = changes.iter().find(|change| Resource::from_name(change.resource).is_none()) {
        return Err(InvalidLimit::Resource { name: change.resource.to_owned() });
    }
    table.apply(&changes)?;
    Ok(table)
}
