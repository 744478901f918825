//! `limit.show`, `limit.check`, `limit.set`, `limit.unset`: quotas as clients see and admins change them.
//!
//! A limit that was set holds when its answer comes, and is saved by then where there is a `state_dir`. Saving may
//! block, so it is an errand; one change is under way at a time, and the others wait behind it.

use std::collections::VecDeque;
use std::path::PathBuf;

use super::inflight::Work;
use super::{Asked, Decision, Desk, Settled};
use crate::admission::quota::{InvalidLimit, Ledger, OverLimit, Resource, Standing};
use crate::gateway::socket::Peer;
use crate::ids::RequestId;
use crate::process::errands::Errand;
use crate::protocol::answer;
use crate::protocol::fault::{Fault, Over, Reason};
use crate::protocol::request::LimitCall;

/// Who may have how much, and where what is set at run time is kept.
pub struct Quotas {
    pub ledger: Ledger,
    /// None: it is gone with the daemon.
    pub file: Option<PathBuf>,
}

/// A limit to set, or (none) to unset.
#[derive(Debug)]
pub(super) struct Change {
    client: Option<Box<str>>,
    resource: Resource,
    limit: Option<i64>,
}

impl Change {
    /// Makes the change; what was set before it.
    fn make(&self, ledger: &mut Ledger) -> Result<Option<i64>, InvalidLimit> {
        match self.limit {
            Some(limit) => ledger.set(self.client.as_deref(), self.resource, limit),
            None => ledger.unset(self.client.as_deref(), self.resource),
        }
    }
}

/// Changes of limits on their way to the disk.
#[derive(Debug, Default)]
pub(super) struct Changes {
    file: Option<PathBuf>,
    /// The one that is being saved, and what takes it back.
    saving: Option<(RequestId, Change)>,
    waiting: VecDeque<(RequestId, Change)>,
}

impl Changes {
    pub fn to(file: Option<PathBuf>) -> Changes {
        Changes { file, ..Changes::default() }
    }
}

impl Desk {
    pub(super) fn limit(&mut self, asked: &Asked, call: LimitCall) -> Result<Decision, Fault> {
        match call {
            LimitCall::Show { client } => {
                let client = whose(asked.peer, client)?;
                Ok(Decision::Now(self.show(&client)))
            }
            LimitCall::Check { client, claims } => {
                let client = whose(asked.peer, client)?;
                let claims: Vec<(&str, u64)> = claims.iter().map(|(name, amount)| (name.as_str(), *amount)).collect();
                let accounts = &self.accounts;
                let held = |client: &str| accounts.used(client);
                self.ledger.check(&client, &claims, &held).map_err(over_limit)?;
                Ok(Decision::Now(answer::result(b"{\"ok\":true}")))
            }
            LimitCall::Set { client, resource, limit } => {
                self.change(asked, Change { client, resource, limit: Some(limit) })
            }
            LimitCall::Unset { client, resource } => self.change(asked, Change { client, resource, limit: None }),
        }
    }

    fn show(&mut self, client: &str) -> Vec<u8> {
        let accounts = &self.accounts;
        let held = |client: &str| accounts.used(client);
        let standings = self.ledger.show(client, &held);
        answer::object(|result| {
            result.str("client", client);
            result.str("model", self.config.quotas.model.name());
            let mut limits = result.object("limits");
            for Standing { resource, limit, usage, source, scope } in standings {
                let mut row = limits.object(resource.name());
                row.int("limit", limit);
                row.int("usage", usage);
                row.str("source", source.as_str());
                if let Some(scope) = scope {
                    row.str("scope", scope.as_str());
                }
                row.end();
            }
            limits.end();
        })
    }

    fn change(&mut self, asked: &Asked, change: Change) -> Result<Decision, Fault> {
        if !asked.peer.admin {
            return Err(Fault::new(Reason::Forbidden, "changing a limit needs an admin"));
        }
        let done = || Ok(Decision::Now(answer::result(b"{}")));
        if self.changes.saving.is_some() {
            self.changes.waiting.push_back((asked.request, change));
            return Ok(Decision::Later(Work::Settled));
        }
        let undo = self.make(change)?;
        self.start_waiters();
        if self.changes.file.is_none() {
            return done();
        }
        self.save(asked.request, undo);
        Ok(Decision::Later(Work::Settled))
    }

    /// Makes a change; what takes it back.
    fn make(&mut self, change: Change) -> Result<Change, Fault> {
        let before = change.make(&mut self.ledger).map_err(|error| Fault::field(error.field(), &error))?;
        self.adjust_buffers();
        Ok(Change { limit: before, ..change })
    }

    fn save(&mut self, request: RequestId, undo: Change) {
        let Some(path) = self.changes.file.clone() else { return };
        self.changes.saving = Some((request, undo));
        let bytes = self.ledger.overrides().encode();
        self.errand(Errand::SaveLimits { path, bytes, gateway: self.own.clone() });
    }

    /// The change is on the disk, or cannot get there: then it never was.
    pub fn limits_saved(&mut self, saved: Result<(), String>) {
        let Some((request, undo)) = self.changes.saving.take() else { return };
        let answer = match saved {
            Ok(()) => Settled::Body(answer::result(b"{}")),
            Err(why) => {
                log::error!("a limit was not changed, for it could not be saved: {why}");
                // It was so a moment ago, and nothing else has changed a limit since.
                let _ = undo.make(&mut self.ledger);
                self.adjust_buffers();
                Settled::Refused(Fault::internal(&format!("the limit could not be saved, and stays as it was: {why}")))
            }
        };
        self.settle(request, answer);
        self.start_waiters();
        while self.changes.saving.is_none()
            && let Some((request, change)) = self.changes.waiting.pop_front()
        {
            match self.make(change) {
                Ok(undo) => self.save(request, undo),
                Err(fault) => self.settle(request, Settled::Refused(fault)),
            }
        }
    }
}

/// Whom a call is about: oneself, or for an admin anybody.
fn whose(peer: &Peer, client: Option<Box<str>>) -> Result<Box<str>, Fault> {
    match client {
        Some(other) if *other != *peer.client && !peer.admin => {
            Err(Fault::new(Reason::Forbidden, "another client's limits are shown to admins only"))
        }
        Some(client) => Ok(client),
        None => Ok(Box::from(&*peer.client)),
    }
}

/// OVER_LIMIT, as the ledger tells it.
pub(super) fn over_limit(refused: OverLimit) -> Fault {
    let message = refused.to_string();
    let row = |over: crate::admission::quota::Over| Over {
        resource: over.resource.into_owned(),
        limit: over.limit,
        usage: over.usage,
        delta: over.delta,
        scope: over.scope.map(|scope| scope.as_str()),
    };
    Fault::over_limit(message, &refused.client, refused.over.into_iter().map(row).collect(), refused.retryable)
}
