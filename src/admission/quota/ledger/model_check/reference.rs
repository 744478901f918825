//! The ledger in its simplest form: a list of what is held, and every question answered by adding it up. Slow, and
//! plain enough to be seen to be right.

use std::collections::BTreeMap;

use super::super::*;
use super::CLIENTS;
use crate::admission::quota::{UNLIMITED, fits_under};

/// Of what, the limit, what is used, what was asked for, and whose limit.
pub(super) type Row = (Resource, i64, i64, i64, Option<Scope>);

pub(super) struct Reference {
    pub quotas: Quotas,
    pub set: BTreeMap<(Option<&'static str>, Resource), i64>,
    pub held: Vec<(&'static str, PerResource<u64>)>,
    pub buffers: BTreeMap<&'static str, u64>,
}

impl Reference {
    fn configured(quotas: &Quotas, client: Option<&str>, resource: Resource) -> Option<i64> {
        match client {
            None => quotas.registered.get(resource.name()).copied(),
            Some(client) => quotas.clients.get(client)?.limits.get(resource.name()).copied(),
        }
    }

    pub fn own(&self, client: Option<&str>, resource: Resource) -> Option<i64> {
        let set = self.set.iter().find(|((of, what), _)| *of == client && *what == resource);
        set.map(|(_, limit)| *limit).or_else(|| Self::configured(&self.quotas, client, resource))
    }

    fn default_of(&self, client: &str, resource: Resource) -> i64 {
        self.own(Some(client), resource).or(self.own(None, resource)).unwrap_or(0)
    }

    pub fn parent(&self, client: &str) -> Option<&str> {
        self.quotas.clients.get(client)?.parent.as_deref()
    }

    pub fn children(&self, client: &str) -> Vec<&'static str> {
        CLIENTS.into_iter().filter(|child| self.parent(child) == Some(client)).collect()
    }

    pub fn usage(&self, client: &str, resource: Resource) -> i64 {
        if resource == Resource::BufferBytes {
            return self.buffers.get(client).copied().unwrap_or(0) as i64;
        }
        self.held.iter().filter(|(of, _)| *of == client).map(|(_, amounts)| amounts[resource] as i64).sum()
    }

    /// Limit, usage and scope of whatever binds the client: itself and its tree.
    pub fn bounds(&self, client: &str, resource: Resource) -> Vec<(i64, i64, Scope)> {
        let of_tree = |root: &str| {
            let children: i64 = self.children(root).iter().map(|child| self.usage(child, resource)).sum();
            (self.default_of(root, resource), self.usage(root, resource) + children, Scope::Tree)
        };
        let used = self.usage(client, resource);
        match self.parent(client) {
            Some(parent) => {
                let own = self.own(Some(client), resource).unwrap_or_else(|| match self.own(None, resource) {
                    None => 0,
                    Some(registered) => match (registered, self.default_of(parent, resource)) {
                        (UNLIMITED, of_parent) => of_parent,
                        (registered, UNLIMITED) => registered,
                        (registered, of_parent) => registered.min(of_parent),
                    },
                });
                vec![(own, used, Scope::Client), of_tree(parent)]
            }
            None if !self.children(client).is_empty() => vec![of_tree(client)],
            None => vec![(self.default_of(client, resource), used, Scope::Client)],
        }
    }

    pub fn scope(&self, scope: Scope) -> Option<Scope> {
        (self.quotas.model == Model::StrictTwoLevel).then_some(scope)
    }

    pub fn judge(&self, client: &str, claims: &[(Resource, Amount)]) -> (Vec<Row>, bool) {
        let mut rows = Vec::new();
        let mut retryable = true;
        for resource in Resource::ALL {
            let asked: Vec<Amount> = claims.iter().filter(|(what, _)| *what == resource).map(|(_, n)| *n).collect();
            if asked.is_empty() {
                continue;
            }
            let endless = asked.contains(&Amount::Unlimited);
            let sum: i64 = asked.iter().map(|n| if let Amount::Of(n) = n { *n as i64 } else { 0 }).sum();
            let mut over: Vec<(i64, i64, Scope)> = self.bounds(client, resource);
            over.retain(|(limit, used, _)| *limit != UNLIMITED && (endless || used + sum > *limit));
            retryable &= !over.iter().any(|(limit, ..)| endless || sum > *limit);
            if let Some((limit, used, scope)) = over.into_iter().min_by_key(|(limit, used, _)| limit - used) {
                let delta = if endless { UNLIMITED } else { sum };
                rows.push((resource, limit, used, delta, self.scope(scope)));
            }
        }
        (rows, retryable)
    }

    /// Whether limits keep the rule where a change of one could break it.
    pub fn fits(&self, changed: Option<&str>, resource: Resource) -> bool {
        let children = CLIENTS.into_iter().filter_map(|child| Some((child, self.parent(child)?)));
        let concerned = children.filter(|(child, parent)| match changed {
            None => self.own(Some(parent), resource).is_none(),
            Some(changed) => changed == *child || changed == *parent,
        });
        concerned
            .filter_map(|(child, parent)| Some((self.own(Some(child), resource)?, parent)))
            .all(|(limit, parent)| fits_under(limit, self.default_of(parent, resource)))
    }

    /// Whether a configuration is one: two levels, and no child's limit over its parent's.
    pub fn is_valid(quotas: &Quotas) -> bool {
        let alone =
            Reference { quotas: quotas.clone(), set: BTreeMap::new(), held: Vec::new(), buffers: BTreeMap::new() };
        CLIENTS.iter().all(|client| match alone.parent(client) {
            Some(parent) => parent != *client && alone.parent(parent).is_none(),
            None => true,
        }) && Resource::ALL.iter().all(|resource| CLIENTS.iter().all(|client| alone.fits(Some(client), *resource)))
    }
}

/// What a claim comes to: nothing where it had no end, and of buffers never.
pub(super) fn amounts(claims: &[(Resource, Amount)]) -> PerResource<u64> {
    let mut sums = PerResource::default();
    for (resource, amount) in claims {
        let endless = claims.iter().any(|(what, n)| what == resource && *n == Amount::Unlimited);
        if let (Amount::Of(n), false) = (amount, endless || *resource == Resource::BufferBytes) {
            sums[*resource] += n;
        }
    }
    sums
}
