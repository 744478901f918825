//! Where an enforcer's limits come from. Pure but for what an implementation does.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A store of limits. What it does not find, or cannot find out now, is no limit: then nothing is allowed.
///
/// [`LimitTable`](super::LimitTable) is one that holds them in memory.
pub trait Limits {
    /// Everybody's default of one resource.
    fn registered_limit(&self, resource_name: &str) -> Option<i64>;

    /// Every default, in the store's own order.
    fn registered_limits(&self) -> Vec<(String, i64)>;

    /// What one project has in place of a default, if it has.
    fn project_limit(&self, project: &str, resource_name: &str) -> Option<i64>;

    /// All that one project has in place of defaults, in the store's own order.
    fn project_limits(&self, project: &str) -> Vec<(String, i64)>;

    /// How limits of projects relate to each other.
    fn model(&self) -> super::Model {
        super::Model::Flat
    }

    /// The project above this one; only asked in a model that has such.
    fn parent(&self, _project: &str) -> Option<String> {
        None
    }

    /// The projects below this one; only asked in a model that has such.
    fn children(&self, _project: &str) -> Vec<String> {
        Vec::new()
    }
}

impl<L: Limits + ?Sized> Limits for &L {
    fn registered_limit(&self, resource_name: &str) -> Option<i64> {
        (**self).registered_limit(resource_name)
    }
    fn registered_limits(&self) -> Vec<(String, i64)> {
        (**self).registered_limits()
    }
    fn project_limit(&self, project: &str, resource_name: &str) -> Option<i64> {
        (**self).project_limit(project, resource_name)
    }
    fn project_limits(&self, project: &str) -> Vec<(String, i64)> {
        (**self).project_limits(project)
    }
    fn model(&self) -> super::Model {
        (**self).model()
    }
    fn parent(&self, project: &str) -> Option<String> {
        (**self).parent(project)
    }
    fn children(&self, project: &str) -> Vec<String> {
        (**self).children(project)
    }
}

/// A store that remembers what another one found, for one where each question is a journey.
///
/// An enforcer remembers nothing by itself: to ask a table in memory costs less than to ask a cache. What is found is
/// remembered for good: a limit that is changed or removed may not be seen before there is a new `Cached`. One question
/// loads all limits of its project, or all registered ones. What is *not* found is asked for each time, so that a new
/// limit is seen at once. Parents and children are not remembered.
#[derive(Debug)]
pub struct Cached<L> {
    inner: L,
    projects_max: usize,
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    registered: BTreeMap<String, i64>,
    projects: BTreeMap<String, BTreeMap<String, i64>>,
}

impl<L: Limits> Cached<L> {
    /// Remembers at most so many projects: with one more, all of them are forgotten.
    pub fn new(inner: L, projects_max: usize) -> Self {
        Cached { inner, projects_max, found: Mutex::default() }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        // Each change of the maps is one call: what a panic leaves is whole.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load_registered(&self) -> Vec<(String, i64)> {
        let limits = self.inner.registered_limits();
        self.found().registered.extend(limits.iter().cloned());
        limits
    }

    fn load_project(&self, project: &str) -> Vec<(String, i64)> {
        let limits = self.inner.project_limits(project);
        if !limits.is_empty() {
            let mut found = self.found();
            if found.projects.len() >= self.projects_max && !found.projects.contains_key(project) {
                found.projects.clear();
            }
            found.projects.entry(project.to_owned()).or_default().extend(limits.iter().cloned());
        }
        limits
    }
}

impl<L: Limits> Limits for Cached<L> {
    fn registered_limit(&self, resource_name: &str) -> Option<i64> {
        let known = self.found().registered.get(resource_name).copied();
        known.or_else(|| named(self.load_registered(), resource_name))
    }

    fn registered_limits(&self) -> Vec<(String, i64)> {
        self.load_registered()
    }

    fn project_limit(&self, project: &str, resource_name: &str) -> Option<i64> {
        let known = self.found().projects.get(project).and_then(|limits| limits.get(resource_name)).copied();
        known.or_else(|| named(self.load_project(project), resource_name))
    }

    fn project_limits(&self, project: &str) -> Vec<(String, i64)> {
        self.load_project(project)
    }

    fn model(&self) -> super::Model {
        self.inner.model()
    }

    fn parent(&self, project: &str) -> Option<String> {
        self.inner.parent(project)
    }

    fn children(&self, project: &str) -> Vec<String> {
        self.inner.children(project)
    }
}

fn named(limits: Vec<(String, i64)>, resource_name: &str) -> Option<i64> {
    limits.into_iter().find(|(name, _)| name == resource_name).map(|(_, limit)| limit)
}

#[cfg(test)]
mod tests {
    use super::super::{LimitTable, Model};
    use super::*;

    #[test]
    fn inv7_a_cache_ends_at_its_bound() {
        let mut table = LimitTable::new(Model::Flat);
        for project in 0..10 {
            table.set(Some(&format!("p{project}")), "a", project).unwrap();
        }
        let cached = Cached::new(&table, 3);
        for project in 0..10 {
            assert_eq!(cached.project_limit(&format!("p{project}"), "a"), Some(project));
            assert!(cached.found().projects.len() <= 3);
            assert_eq!(cached.project_limit(&format!("nobody {project}"), "a"), None);
            assert!(cached.found().projects.len() <= 3);
        }
    }
}
