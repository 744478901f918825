//! What the daemon itself counts. Pure.

use std::fmt;
use std::ops::{Index, IndexMut};

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};

/// What a quota of the daemon may limit, in the order in which refusals list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// Bytes held for the client now: rings, input, unsent answers.
    BufferBytes,
    /// Commands that run.
    Commands,
    /// The memory limits of the open sessions together.
    MemoryBytes,
    /// The process limits of the open sessions together.
    Processes,
    /// Open sessions.
    Sessions,
}

impl Resource {
    /// Each of them, sorted by name.
    pub const ALL: [Resource; 5] =
        [Resource::BufferBytes, Resource::Commands, Resource::MemoryBytes, Resource::Processes, Resource::Sessions];

    /// As it is written in requests, answers and the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Resource::BufferBytes => "buffer_bytes",
            Resource::Commands => "commands",
            Resource::MemoryBytes => "memory_bytes",
            Resource::Processes => "processes",
            Resource::Sessions => "sessions",
        }
    }

    /// The resource of this name, if there is one.
    pub fn from_name(name: &str) -> Option<Resource> {
        Resource::ALL.into_iter().find(|resource| resource.name() == name)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something for each resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PerResource<T>([T; Resource::ALL.len()]);

impl<T> Index<Resource> for PerResource<T> {
    type Output = T;
    fn index(&self, resource: Resource) -> &T {
        &self.0[resource as usize]
    }
}

impl<T> IndexMut<Resource> for PerResource<T> {
    fn index_mut(&mut self, resource: Resource) -> &mut T {
        &mut self.0[resource as usize]
    }
}

impl PerResource<u128> {
    pub(super) fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(one, other)| *one += other);
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(one, other)| *one -= other);
    }
}

impl<T> PerResource<Option<T>> {
    /// Whether there is nothing for any of them.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// What there is, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (Resource, &T)> {
        Resource::ALL.into_iter().filter_map(|resource| Some((resource, self[resource].as_ref()?)))
    }
}

/// An object with a field for each resource that has something.
impl<T: Serialize> Serialize for PerResource<Option<T>> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.iter().map(|(resource, value)| (resource.name(), value)))
    }
}

/// An unknown name and one that stands twice are errors.
impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for PerResource<Option<T>> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Fields(PerResource::default()))
    }
}

struct Fields<T>(PerResource<Option<T>>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
    type Value = PerResource<Option<T>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of resources")
    }

    fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<Self::Value, M::Error> {
        while let Some((name, value)) = map.next_entry::<String, T>()? {
            let resource = Resource::from_name(&name);
            let resource = resource.ok_or_else(|| M::Error::custom(format_args!("no resource is named {name:?}")))?;
            if self.0[resource].replace(value).is_some() {
                return Err(M::Error::custom(format_args!("{name} stands twice")));
            }
        }
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_in_the_order_of_their_names() {
        assert!(Resource::ALL.is_sorted_by_key(|resource| resource.name()));
        for (at, resource) in Resource::ALL.into_iter().enumerate() {
            assert_eq!(resource as usize, at);
            assert_eq!(Resource::from_name(resource.name()), Some(resource));
        }
        assert_eq!(Resource::from_name("Sessions"), None);
    }
}
