//! The memory that a client's commands need to start, and what is held for its connections.

use super::Desk;
use super::quotas::over_limit;
use crate::admission::buffers::{Account, Claim, Need, OUTPUT_BYTES, Quota, Share, Short, beyond_free};
use crate::admission::quota::{Ledger, Over, OverLimit, Resource, Scope};
use crate::config::{Config, QuotaModel};
use crate::ids::ClientName;
use crate::protocol::fault::Fault;
use crate::protocol::request::Run;

impl Desk {
    /// The account that everything held for a client counts in.
    pub fn account(&mut self, client: &ClientName) -> Account {
        let (config, ledger) = (&self.config, &self.ledger);
        self.accounts.account(client, || quota(config, ledger, client))
    }

    /// The configuration, or a limit, has changed.
    pub(super) fn adjust_buffers(&mut self) {
        let (config, ledger) = (&self.config, &self.ledger);
        self.accounts.daemon().set_max(config.commands.max_buffer_bytes);
        self.accounts.adjust(|client| quota(config, ledger, client));
    }

    /// All that the daemon holds.
    pub fn buffers(&self) -> &Account {
        self.accounts.daemon()
    }

    /// Takes what a request's params take while it waits for its time or a slot.
    pub(super) fn hold_bytes(&mut self, client: &ClientName, bytes: usize) -> Result<Share, Fault> {
        let account = self.account(client);
        let model = self.config.quotas.model;
        Share::take(&account, bytes).map_err(|short| refusal(client, model, short))
    }

    /// Takes what a session keeps of its params, if that is more than every session may.
    pub(super) fn hold_params(&mut self, client: &ClientName, bytes: usize) -> Result<Option<Share>, Fault> {
        match beyond_free(bytes) {
            0 => Ok(None),
            beyond => self.hold_bytes(client, beyond).map(Some),
        }
    }

    /// Takes what a command must have to start. It comes back by itself, wherever what was taken ends up.
    pub(super) fn claim_buffers(&mut self, client: &ClientName, need: Need) -> Result<Claim, Fault> {
        let account = self.account(client);
        let model = self.config.quotas.model;
        need.claim(&account).map_err(|short| refusal(client, model, short))
    }
}

/// Its input, 64 KiB for each output, less where no more is kept, and what its worker keeps of `params` bytes.
pub(super) fn need(run: &Run, params: usize) -> Need {
    let output = if run.stream { OUTPUT_BYTES } else { OUTPUT_BYTES.min(run.output_limit_bytes) };
    Need {
        stdin: run.stdin.as_ref().map_or(0, Vec::len),
        stdout: output,
        stderr: if run.merge_stderr || run.pty.is_some() { 0 } else { output },
        params: beyond_free(params),
    }
}

/// What the ledger let pass a moment ago can be short all the same, where outputs have grown in the meantime.
fn refusal(client: &str, model: QuotaModel, short: Short) -> Fault {
    match short {
        Short::Daemon { limit, usage, delta } => Fault::buffers_full(limit, usage, delta),
        Short::Client { limit, usage, delta, tree } => {
            let scope = match model {
                QuotaModel::Flat => None,
                QuotaModel::StrictTwoLevel => Some(if tree { Scope::Tree } else { Scope::Client }),
            };
            let told = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
            let resource = Resource::BufferBytes.name().into();
            let row = Over { resource, limit: told(limit), usage: told(usage), delta: told(delta), scope };
            over_limit(OverLimit { client: client.into(), over: vec![row], retryable: delta <= limit })
        }
    }
}

/// What a client may have now, and its tree.
fn quota(config: &Config, ledger: &Ledger, client: &str) -> Quota {
    let quotas = &config.quotas;
    let limit = |client: &str| ledger.limit(client, Resource::BufferBytes);
    let parent = || {
        let own = quotas.clients.get(client)?;
        let is_parent = || quotas.clients.values().any(|other| other.parent.as_deref() == Some(client));
        own.parent.as_deref().or(is_parent().then_some(client))
    };
    let tree = match quotas.model {
        QuotaModel::Flat => None,
        QuotaModel::StrictTwoLevel => parent().map(|parent| (parent.into(), limit(parent))),
    };
    Quota { limit: limit(client), tree }
}
