//! Limits in memory, and the rule that they keep. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::error::InvalidLimit;
use super::limits::Limits;
use super::{Model, UNLIMITED, fits_under};

/// A store of limits that refuses what would break a tree: no child's own limit is over what its parent has, be that
/// the parent's own or the registered one. 0 is a limit like any other, and under an unlimited parent everything fits.
///
/// A limit of a project is kept, and holds, also for a resource that has no registered one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitTable {
    model: Model,
    registered: BTreeMap<String, i64>,
    projects: BTreeMap<String, Project>,
}

/// A project is known as long as it has a limit, a parent or a child.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Project {
    parent: Option<String>,
    children: BTreeSet<String>,
    limits: BTreeMap<String, i64>,
}

/// One limit to set or to remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change<'a> {
    /// Whose; none: the registered one.
    pub project: Option<&'a str>,
    /// Of what.
    pub resource: &'a str,
    /// None removes it.
    pub limit: Option<i64>,
}

impl LimitTable {
    /// Without any limit, so that nothing is allowed.
    pub fn new(model: Model) -> Self {
        LimitTable { model, registered: BTreeMap::new(), projects: BTreeMap::new() }
    }

    /// Puts a project below another. There are two levels, in the model that has them.
    pub fn adopt(&mut self, child: &str, parent: &str) -> Result<(), InvalidLimit> {
        let why = if self.model == Model::Flat {
            Some("the model flat has no parents")
        } else if child == parent {
            Some("it is the same")
        } else if self.projects.get(parent).is_some_and(|above| above.parent.is_some()) {
            Some("it has a parent itself, and there are two levels")
        } else if self.projects.get(child).is_some_and(|below| !below.children.is_empty()) {
            Some("it has children itself, and there are two levels")
        } else {
            None
        };
        if let Some(why) = why {
            return Err(InvalidLimit::Parent { child: child.to_owned(), parent: parent.to_owned(), why });
        }
        for (resource, &limit) in self.projects.get(child).map(|below| &below.limits).into_iter().flatten() {
            self.check_child(child, limit, parent, resource)?;
        }
        self.link(child, parent);
        Ok(())
    }

    fn link(&mut self, child: &str, parent: &str) {
        let below = self.projects.entry(child.to_owned()).or_default();
        if let Some(before) = below.parent.replace(parent.to_owned()) {
            if let Some(above) = self.projects.get_mut(&before) {
                above.children.remove(child);
            }
            self.forget_if_empty(&before);
        }
        self.projects.entry(parent.to_owned()).or_default().children.insert(child.to_owned());
    }

    /// Sets one limit, a project's or (none) the registered one. It may be lower than what is used now.
    pub fn set(&mut self, project: Option<&str>, resource: &str, limit: i64) -> Result<(), InvalidLimit> {
        self.apply(&[Change { project, resource, limit: Some(limit) }])
    }

    /// Removes one limit; whether there was one.
    pub fn unset(&mut self, project: Option<&str>, resource: &str) -> Result<bool, InvalidLimit> {
        let before = self.get(project, resource);
        self.apply(&[Change { project, resource, limit: None }])?;
        Ok(before.is_some())
    }

    /// Makes all changes or, where one would break the rule, none. They are judged by what they lead to together, so
    /// their order does not matter.
    pub fn apply(&mut self, changes: &[Change<'_>]) -> Result<(), InvalidLimit> {
        for limit in changes.iter().filter_map(|change| change.limit) {
            if limit < UNLIMITED {
                return Err(InvalidLimit::OutOfRange { limit });
            }
        }
        let before: Vec<Change<'_>> = changes.iter().map(|&change| self.lay(change)).collect();
        let checked = changes.iter().try_for_each(|change| self.check(change));
        if checked.is_err() {
            for change in before.into_iter().rev() {
                self.lay(change);
            }
        }
        checked
    }

    /// Makes a change that nobody judged; what takes it back.
    pub(super) fn lay<'a>(&mut self, change: Change<'a>) -> Change<'a> {
        let resource = change.resource.to_owned();
        let limits = match change.project {
            None => &mut self.registered,
            Some(project) => &mut self.projects.entry(project.to_owned()).or_default().limits,
        };
        let before = match change.limit {
            Some(limit) => limits.insert(resource, limit),
            None => limits.remove(&resource),
        };
        if let Some(project) = change.project {
            self.forget_if_empty(project);
        }
        Change { limit: before, ..change }
    }

    /// The limit that was set, if it was.
    pub fn get(&self, project: Option<&str>, resource: &str) -> Option<i64> {
        match project {
            None => self.registered.get(resource).copied(),
            Some(project) => self.projects.get(project)?.limits.get(resource).copied(),
        }
    }

    /// Whether the project has a limit, a parent or a child.
    pub(super) fn knows(&self, project: &str) -> bool {
        self.projects.contains_key(project)
    }

    /// Every project that has a limit, a parent or a child, with its parent.
    pub(super) fn projects(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.projects.iter().map(|(name, project)| (name.as_str(), project.parent.as_deref()))
    }

    /// The first child whose own limit is over its parent's, if the table was made without being judged.
    pub(super) fn broken(&self) -> Result<(), InvalidLimit> {
        let children = self.projects.iter().filter_map(|(child, below)| Some((child, below, below.parent.as_ref()?)));
        for (child, below, parent) in children {
            for (resource, &limit) in &below.limits {
                self.check_child(child, limit, parent, resource)?;
            }
        }
        Ok(())
    }

    fn check(&self, change: &Change<'_>) -> Result<(), InvalidLimit> {
        let Some(project) = change.project else {
            let on_default = self.projects.iter().filter(|(_, above)| !above.limits.contains_key(change.resource));
            return on_default.map(|(parent, _)| parent).try_for_each(|p| self.check_children(p, change.resource));
        };
        let Some(found) = self.projects.get(project) else { return Ok(()) };
        if let (Some(parent), Some(&limit)) = (&found.parent, found.limits.get(change.resource)) {
            self.check_child(project, limit, parent, change.resource)?;
        }
        self.check_children(project, change.resource)
    }

    fn check_children(&self, parent: &str, resource: &str) -> Result<(), InvalidLimit> {
        let children = self.projects.get(parent).map(|above| &above.children).into_iter().flatten();
        for child in children {
            if let Some(limit) = self.get(Some(child), resource) {
                self.check_child(child, limit, parent, resource)?;
            }
        }
        Ok(())
    }

    fn check_child(&self, child: &str, limit: i64, parent: &str, resource: &str) -> Result<(), InvalidLimit> {
        let of_parent = self.get(Some(parent), resource).or(self.get(None, resource)).unwrap_or(0);
        if fits_under(limit, of_parent) {
            return Ok(());
        }
        let (resource, child, parent) = (resource.to_owned(), child.to_owned(), parent.to_owned());
        Err(InvalidLimit::OverParent { resource, child, limit, parent, of_parent })
    }

    fn forget_if_empty(&mut self, project: &str) {
        if self.projects.get(project).is_some_and(|found| *found == Project::default()) {
            self.projects.remove(project);
        }
    }
}

impl Limits for LimitTable {
    fn registered_limit(&self, resource_name: &str) -> Option<i64> {
        self.get(None, resource_name)
    }

    fn registered_limits(&self) -> Vec<(String, i64)> {
        self.registered.iter().map(|(name, limit)| (name.clone(), *limit)).collect()
    }

    fn project_limit(&self, project: &str, resource_name: &str) -> Option<i64> {
        self.get(Some(project), resource_name)
    }

    fn project_limits(&self, project: &str) -> Vec<(String, i64)> {
        let limits = self.projects.get(project).map(|found| &found.limits);
        limits.into_iter().flatten().map(|(name, limit)| (name.clone(), *limit)).collect()
    }

    fn model(&self) -> Model {
        self.model
    }

    fn parent(&self, project: &str) -> Option<String> {
        self.projects.get(project)?.parent.clone()
    }

    fn children(&self, project: &str) -> Vec<String> {
        self.projects.get(project).map(|found| found.children.iter().cloned().collect()).unwrap_or_default()
    }
}
