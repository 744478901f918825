//! Enforcement for a program that owns its usage. Pure but for the callback and the store of limits.

use std::collections::BTreeMap;

use super::error::{EnforceError, OverLimitInfo, ProjectOverLimit, Scope};
use super::limits::Limits;
use super::{Model, is_over, of_child};

/// Decides whether a claim fits; what it decides on comes from a store of limits and a callback that tells usage.
///
/// The callback is given a project (none: usage that is nobody's in particular) and the names of resources, and tells
/// how much of each there is now; names that it was not asked for are ignored. In a tree it is called for each project
/// of the tree, so that a claim costs as much as there are children.
#[derive(Debug)]
pub struct Enforcer<L, U> {
    limits: L,
    usage: U,
}

/// Limit and usage of one resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProjectUsage {
    /// How much there may be; [`UNLIMITED`](super::UNLIMITED) is no limit.
    pub limit: i64,
    /// How much there is.
    pub usage: i64,
}

impl<L, U> Enforcer<L, U>
where
    L: Limits,
    U: Fn(Option<&str>, &[&str]) -> BTreeMap<String, i64>,
{
    /// Over a store of limits, which also says by which model, and a callback that tells usage.
    pub fn new(limits: L, usage: U) -> Self {
        Enforcer { limits, usage }
    }

    /// Whether the project may have so much more of each resource. All that is over is told, sorted by name.
    ///
    /// A claim of 0 asks whether what is there is within the limit. A negative one is measured by what it leaves, so
    /// that giving back too little of what is over is refused as well.
    pub fn enforce(&self, project: Option<&str>, claims: &[(&str, i64)]) -> Result<(), EnforceError> {
        check_project(project)?;
        let claims = sorted(claims)?;
        let names: Vec<&str> = claims.iter().map(|(name, _)| *name).collect();
        let place = self.place(project);
        let limits: Vec<(i64, Option<i64>)> = names.iter().map(|name| self.limits_of(project, &place, name)).collect();
        let usage = self.usage_of(project, &place, &names)?;
        let mut over = Vec::new();
        for ((&(name, delta), (limit, of_tree)), (used, used_in_tree)) in claims.iter().zip(limits).zip(usage) {
            let mut judge = |scope, limit, usage: i128| {
                if is_over(usage + i128::from(delta), limit) {
                    let current_usage = narrowed(usage);
                    over.push(OverLimitInfo { resource_name: name.to_owned(), limit, current_usage, delta, scope });
                }
            };
            // What a parent uses by itself is part of what its tree does.
            if !matches!(place, Place::Parent { .. }) {
                judge(Scope::Client, limit, used);
            }
            if let Some(of_tree) = of_tree {
                judge(Scope::Tree, of_tree, used_in_tree);
            }
        }
        if over.is_empty() { Ok(()) } else { Err(EnforceError::OverLimit(ProjectOverLimit::new(project, over)?)) }
    }

    /// Limit and usage of the project itself, in the order of the names; a name that stands twice is told once.
    pub fn calculate_usage(
        &self,
        project: Option<&str>,
        names: &[&str],
    ) -> Result<Vec<(String, ProjectUsage)>, EnforceError> {
        check_project(project)?;
        if names.is_empty() {
            return Err(invalid("the names of resources must not be empty"));
        }
        let place = self.place(project);
        let usage = (self.usage)(project, names);
        let mut told: Vec<(String, ProjectUsage)> = Vec::with_capacity(names.len());
        for name in names {
            if told.iter().all(|(known, _)| known != name) {
                let usage = of_name(&usage, name)?;
                let (limit, _) = self.limits_of(project, &place, name);
                told.push(((*name).to_owned(), ProjectUsage { limit, usage }));
            }
        }
        Ok(told)
    }

    /// The registered limits of these names, 0 for one that has none; without names all that are registered.
    pub fn registered_limits(&self, names: Option<&[&str]>) -> Vec<(String, i64)> {
        let Some(names) = names else { return self.limits.registered_limits() };
        names.iter().map(|name| ((*name).to_owned(), self.limits.registered_limit(name).unwrap_or(0))).collect()
    }

    /// The limits that hold for the project for each of these names. Without names, the project's own limits only:
    /// they are not merged with the registered ones.
    pub fn project_limits(
        &self,
        project: Option<&str>,
        names: Option<&[&str]>,
    ) -> Result<Vec<(String, i64)>, EnforceError> {
        check_project(project)?;
        match (project, names) {
            (None, None) => Err(invalid("a project or the names of resources must be given")),
            (Some(project), None) => Ok(self.limits.project_limits(project)),
            (project, Some(names)) => {
                let place = self.place(project);
                Ok(names.iter().map(|name| ((*name).to_owned(), self.limits_of(project, &place, name).0)).collect())
            }
        }
    }

    fn place(&self, project: Option<&str>) -> Place {
        let Some(project) = project.filter(|_| self.limits.model() == Model::StrictTwoLevel) else {
            return Place::Alone;
        };
        if let Some(parent) = self.limits.parent(project) {
            return Place::Child { parent };
        }
        match self.limits.children(project) {
            children if children.is_empty() => Place::Alone,
            children => Place::Parent { children },
        }
    }

    /// The project's own effective limit of one resource, and its tree's if it is in one.
    fn limits_of(&self, project: Option<&str>, place: &Place, name: &str) -> (i64, Option<i64>) {
        let own = project.and_then(|project| self.limits.project_limit(project, name));
        let registered = || self.limits.registered_limit(name);
        match place {
            Place::Alone => (own.or_else(registered).unwrap_or(0), None),
            Place::Parent { .. } => {
                let limit = own.or_else(registered).unwrap_or(0);
                (limit, Some(limit))
            }
            Place::Child { parent } => {
                let registered = registered();
                let of_parent = self.limits.project_limit(parent, name).or(registered).unwrap_or(0);
                (of_child(own, registered, of_parent), Some(of_parent))
            }
        }
    }

    /// What the project uses of each name, and what its whole tree does.
    fn usage_of(
        &self,
        project: Option<&str>,
        place: &Place,
        names: &[&str],
    ) -> Result<Vec<(i128, i128)>, EnforceError> {
        let mut found: Vec<(i128, i128)> = Vec::with_capacity(names.len());
        let own = (self.usage)(project, names);
        for name in names {
            let own = i128::from(of_name(&own, name)?);
            found.push((own, own));
        }
        for other in self.others(project, place) {
            let usage = (self.usage)(Some(&other), names);
            for (name, (_, tree)) in names.iter().zip(&mut found) {
                *tree += i128::from(of_name(&usage, name)?);
            }
        }
        Ok(found)
    }

    /// The other projects of the same tree.
    fn others(&self, project: Option<&str>, place: &Place) -> Vec<String> {
        match place {
            Place::Alone => Vec::new(),
            Place::Parent { children } => children.clone(),
            Place::Child { parent } => {
                let siblings = self.limits.children(parent).into_iter().filter(|other| Some(&**other) != project);
                std::iter::once(parent.clone()).chain(siblings).collect()
            }
        }
    }
}

/// Where a project stands in its tree.
enum Place {
    Alone,
    Parent { children: Vec<String> },
    Child { parent: String },
}

fn check_project(project: Option<&str>) -> Result<(), EnforceError> {
    if project == Some("") {
        return Err(invalid("the name of a project must not be empty"));
    }
    Ok(())
}

/// By name, as refusals list them.
fn sorted<'a>(claims: &[(&'a str, i64)]) -> Result<Vec<(&'a str, i64)>, EnforceError> {
    if claims.is_empty() {
        return Err(invalid("a claim must name a resource"));
    }
    let mut claims = claims.to_vec();
    claims.sort_unstable();
    match claims.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(EnforceError::InvalidArgument(format!("a claim names {} twice", pair[0].0))),
        None => Ok(claims),
    }
}

fn of_name(usage: &BTreeMap<String, i64>, name: &str) -> Result<i64, EnforceError> {
    usage.get(name).copied().ok_or_else(|| EnforceError::MissingUsage { resource_name: name.to_owned() })
}

fn invalid(what: &str) -> EnforceError {
    EnforceError::InvalidArgument(what.to_owned())
}

/// The sum of a tree, in the width of its parts.
fn narrowed(usage: i128) -> i64 {
    i64::try_from(usage).unwrap_or(if usage < 0 { i64::MIN } else { i64::MAX })
}
