//! Limits that were set while the daemon ran, and the file in which they survive it. Owned by the gateway as part of
//! its ledger; the file may block, so an errand writes it.
//!
//! The file is JSON, one person can read and, while no daemon runs, edit:
//!
//! ```json
//! {"format":"cofferdam limits","version":1,"registered":{"sessions":4},"clients":{"uid:1000":{"commands":2}}}
//! ```

mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::quota::{InvalidLimit, PerResource, Resource, UNLIMITED};

pub use file::{Loaded, StateError, load, save};

/// Clients with limits that were set: each costs memory for as long as it has them. More than a small machine serves,
/// and the file stays within what is read in a moment.
pub const CLIENTS_MAX: usize = 4096;

/// Bytes of a client's name in them.
pub const CLIENT_BYTES_MAX: usize = 255;

/// What a file of ours says first; another one's is refused.
const FORMAT: &str = "cofferdam limits";
const VERSION: u64 = 1;

/// Limits that win over the configuration until they are unset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overrides {
    registered: PerResource<Option<i64>>,
    clients: BTreeMap<String, PerResource<Option<i64>>>,
}

impl Overrides {
    /// Whether nothing was set.
    pub fn is_empty(&self) -> bool {
        self.registered.is_empty() && self.clients.is_empty()
    }

    /// What was set, if it was: for a client, or (none) for all that have nothing of their own.
    pub fn get(&self, client: Option<&str>, resource: Resource) -> Option<i64> {
        match client {
            None => self.registered[resource],
            Some(client) => self.clients.get(client)?[resource],
        }
    }

    /// What was set: the registered limits, then each client's.
    pub fn iter(&self) -> impl Iterator<Item = (Option<&str>, Resource, i64)> {
        let registered = std::iter::once((None, &self.registered));
        let clients = self.clients.iter().map(|(client, limits)| (Some(client.as_str()), limits));
        registered
            .chain(clients)
            .flat_map(|(client, limits)| limits.iter().map(move |(resource, &limit)| (client, resource, limit)))
    }

    /// Sets one limit, or removes it; what it was before.
    pub fn put(
        &mut self,
        client: Option<&str>,
        resource: Resource,
        limit: Option<i64>,
    ) -> Result<Option<i64>, InvalidLimit> {
        if let Some(limit) = limit.filter(|limit| *limit < UNLIMITED) {
            return Err(InvalidLimit::OutOfRange { limit });
        }
        let Some(client) = client else { return Ok(std::mem::replace(&mut self.registered[resource], limit)) };
        let known = self.clients.get_mut(client);
        match (known, limit) {
            (None, None) => Ok(None),
            (None, Some(_)) => {
                self.admit(client)?[resource] = limit;
                Ok(None)
            }
            (Some(limits), _) => {
                let before = std::mem::replace(&mut limits[resource], limit);
                if limits.is_empty() {
                    self.clients.remove(client);
                }
                Ok(before)
            }
        }
    }

    fn admit(&mut self, client: &str) -> Result<&mut PerResource<Option<i64>>, InvalidLimit> {
        if client.is_empty() || client.len() > CLIENT_BYTES_MAX {
            return Err(InvalidLimit::Client { bytes_max: CLIENT_BYTES_MAX });
        }
        if self.clients.len() >= CLIENTS_MAX {
            return Err(InvalidLimit::TooMany { clients_max: CLIENTS_MAX });
        }
        Ok(self.clients.entry(client.to_owned()).or_default())
    }

    /// As the file has it.
    pub fn encode(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct File<'a> {
            format: &'a str,
            version: u64,
            registered: &'a PerResource<Option<i64>>,
            clients: &'a BTreeMap<String, PerResource<Option<i64>>>,
        }
        let Overrides { registered, clients } = self;
        let file = File { format: FORMAT, version: VERSION, registered, clients };
        let mut bytes = serde_json::to_vec(&file).expect("names and numbers, written to memory");
        bytes.push(b'\n');
        bytes
    }

    /// Reads what a file has; what is wrong with it, if it is not one of ours and whole.
    pub fn decode(bytes: &[u8]) -> Result<Overrides, String> {
        #[derive(Deserialize)]
        struct Kind {
            format: Option<String>,
            version: Option<u64>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            #[serde(rename = "format")]
            _format: String,
            #[serde(rename = "version")]
            _version: u64,
            registered: PerResource<Option<i64>>,
            clients: Clients,
        }
        let torn = |error: serde_json::Error| format!("is torn or none of ours: {error}");
        let text = bytes.trim_ascii();
        if !text.starts_with(b"{") {
            return Err("is torn or none of ours: it holds no object".to_owned());
        }
        let kind: Kind = serde_json::from_slice(text).map_err(torn)?;
        if kind.format.as_deref() != Some(FORMAT) {
            return Err(format!("is none of ours: its format is not {FORMAT:?}"));
        }
        if kind.version != Some(VERSION) {
            return Err(format!("is of another version: this one reads version {VERSION}"));
        }
        let file: File = serde_json::from_slice(text).map_err(torn)?;
        let mut overrides = Overrides::default();
        let clients = file.clients.0.iter().map(|(client, limits)| (Some(client.as_str()), limits));
        for (client, limits) in std::iter::once((None, &file.registered)).chain(clients) {
            for (resource, &limit) in limits.iter() {
                overrides.put(client, resource, Some(limit)).map_err(|invalid| invalid.to_string())?;
            }
        }
        Ok(overrides)
    }
}

/// A map in which no client stands twice.
struct Clients(BTreeMap<String, PerResource<Option<i64>>>);

impl<'de> Deserialize<'de> for Clients {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Clients;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of clients")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Clients, M::Error> {
                let mut clients = BTreeMap::new();
                while let Some((client, limits)) = map.next_entry::<String, _>()? {
                    if clients.contains_key(&client) {
                        return Err(M::Error::custom(format_args!("{client:?} stands twice")));
                    }
                    clients.insert(client, limits);
                }
                Ok(Clients(clients))
            }
        }
        from.deserialize_map(Members)
    }
}
