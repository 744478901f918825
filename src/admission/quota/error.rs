//! Why a claim or a limit is refused. Pure.

use std::error::Error;
use std::fmt;

use super::UNLIMITED;

/// What [`Enforcer`](super::Enforcer) may refuse a request for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnforceError {
    /// The request makes no sense, whatever the limits are.
    InvalidArgument(String),
    /// The usage callback left out a resource that it was asked for.
    MissingUsage {
        /// Of what.
        resource_name: String,
    },
    /// The claim does not fit.
    OverLimit(ProjectOverLimit),
}

impl fmt::Display for EnforceError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            EnforceError::InvalidArgument(what) => f.write_str(what),
            EnforceError::MissingUsage { resource_name } => {
                write!(f, "unable to get current usage for {resource_name}")
            }
            EnforceError::OverLimit(over) => over.fmt(f),
        }
    }
}

impl Error for EnforceError {}

/// A claim that does not fit: all resources that are over, sorted by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectOverLimit {
    project: Option<String>,
    infos: Vec<OverLimitInfo>,
}

impl ProjectOverLimit {
    /// Refuses to be about nothing.
    pub fn new(project: Option<&str>, infos: Vec<OverLimitInfo>) -> Result<Self, EnforceError> {
        if infos.is_empty() {
            return Err(EnforceError::InvalidArgument("over a limit takes at least one resource".to_owned()));
        }
        Ok(ProjectOverLimit { project: project.map(str::to_owned), infos })
    }

    /// Whose claim it was; none where it was nobody's in particular.
    pub fn project(&self) -> Option<&str> {
        self.project.as_deref()
    }

    /// What is over, never empty. Of a resource that is over in both scopes the project comes before the tree.
    pub fn over_limit_infos(&self) -> &[OverLimitInfo] {
        &self.infos
    }
}

impl fmt::Display for ProjectOverLimit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Project {} is over a limit for [", self.project.as_deref().unwrap_or("None"))?;
        for (at, info) in self.infos.iter().enumerate() {
            write!(f, "{}{info}", if at == 0 { "" } else { ", " })?;
        }
        f.write_str("]")
    }
}

impl Error for ProjectOverLimit {}

/// One resource of which a claim asks too much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverLimitInfo {
    /// Of what.
    pub resource_name: String,
    /// How much there may be.
    pub limit: i64,
    /// How much there is.
    pub current_usage: i64,
    /// How much more was asked for.
    pub delta: i64,
    /// Whose limit it is.
    pub scope: Scope,
}

impl fmt::Display for OverLimitInfo {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let OverLimitInfo { resource_name, limit, current_usage, delta, scope } = self;
        let of_tree = if *scope == Scope::Tree { " of the tree" } else { "" };
        write!(f, "Resource {resource_name} is over limit of {limit}{of_tree} ")?;
        write!(f, "due to current usage {current_usage} and delta {delta}")
    }
}

/// Whose limit and usage a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The project (or client) by itself.
    Client,
    /// A parent with all its children together.
    Tree,
}

impl Scope {
    /// As it is written on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Client => "client",
            Scope::Tree => "tree",
        }
    }
}

/// A model of enforcement that is none of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsupportedModel(pub String);

impl fmt::Display for UnsupportedModel {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "enforcement model {} is not supported", self.0)
    }
}

impl Error for UnsupportedModel {}

/// Why a limit cannot be what it was to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidLimit {
    /// Neither a number of at least 0 nor [`UNLIMITED`].
    OutOfRange {
        /// What was asked for.
        limit: i64,
    },
    /// A child's own limit would be over its parent's.
    OverParent {
        /// Of what.
        resource: String,
        /// Whose limit would be over.
        child: String,
        /// It.
        limit: i64,
        /// Whose child that is.
        parent: String,
        /// What the parent would have.
        of_parent: i64,
    },
    /// A project cannot be another's child.
    Parent {
        /// Which cannot be a child.
        child: String,
        /// Of whom.
        parent: String,
        /// Why.
        why: &'static str,
    },
    /// No client has such a name.
    Client {
        /// The most bytes of a name.
        bytes_max: usize,
    },
    /// No resource has such a name.
    Resource {
        /// What was found in its place.
        name: String,
    },
    /// As many clients as there may be have limits of their own already.
    TooMany {
        /// So many.
        clients_max: usize,
    },
}

impl InvalidLimit {
    /// Which parameter of a `limit.set` is at fault.
    pub fn field(&self) -> &'static str {
        match self {
            InvalidLimit::OutOfRange { .. } | InvalidLimit::OverParent { .. } => "limit",
            InvalidLimit::Parent { .. } | InvalidLimit::Client { .. } | InvalidLimit::TooMany { .. } => "client",
            InvalidLimit::Resource { .. } => "resource",
        }
    }
}

impl fmt::Display for InvalidLimit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            InvalidLimit::OutOfRange { limit } => {
                write!(f, "{limit} is no limit: it is at least 0, or {UNLIMITED} for unlimited")
            }
            InvalidLimit::OverParent { resource, child, limit, parent, of_parent } => {
                let (limit, of_parent) = (Written(*limit), Written(*of_parent));
                write!(
                    f,
                    "the limit of {resource} of {child}, {limit}, is over that of its parent {parent}, {of_parent}"
                )
            }
            InvalidLimit::Parent { child, parent, why } => write!(f, "{parent} cannot be the parent of {child}: {why}"),
            InvalidLimit::Client { bytes_max } => write!(f, "a client's name has 1 to {bytes_max} bytes"),
            InvalidLimit::Resource { name } => write!(f, "no resource is named {name:?}"),
            InvalidLimit::TooMany { clients_max } => {
                write!(f, "{clients_max} clients have limits that were set, and more are not remembered")
            }
        }
    }
}

impl Error for InvalidLimit {}

/// A limit for a person.
struct Written(i64);

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if self.0 < 0 { f.write_str("unlimited") } else { self.0.fmt(f) }
    }
}
