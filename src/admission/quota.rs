//! Quotas by claim: how much of each resource somebody may have, and whether they may have more. Pure.
//!
//! A **limit** is how much of a resource a project (or client) may have, **usage** what it has now, a **claim** asks
//! for more, and **enforcement** compares usage and claim with the limit. A *registered* limit is everybody's default;
//! a *project* limit stands in its place for one, be it lower, higher or 0. What has neither has the limit 0, so that a
//! resource that nobody thought of is not free. [`UNLIMITED`] is no limit.
//!
//! There are two users of this model:
//!
//! - [`Enforcer`] decides for a program that owns its usage and tells it by a callback. As with every check before an
//!   act, two claims that are decided at once may both pass: such a program holds a lock around the two.
//! - [`Ledger`] owns the usage itself. Its decision and its claim are one step, so nothing comes between.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use cofferdam::admission::quota::{Enforcer, LimitTable, Model};
//!
//! let mut limits = LimitTable::new(Model::Flat);
//! limits.set(None, "widgets", 100)?;
//! limits.set(Some("p2"), "widgets", 10)?;
//! let usage = |_project: Option<&str>, _names: &[&str]| BTreeMap::from([("widgets".to_owned(), 7)]);
//!
//! let enforcer = Enforcer::new(limits, usage);
//! assert!(enforcer.enforce(Some("p1"), &[("widgets", 4)]).is_ok());
//! let refused = enforcer.enforce(Some("p2"), &[("widgets", 4)]).unwrap_err();
//! assert_eq!(
//!     refused.to_string(),
//!     "Project p2 is over a limit for [Resource widgets is over limit of 10 due to current usage 7 and delta 4]"
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Trees
//!
//! In the model [`Model::StrictTwoLevel`] a project may have a parent, which has none itself. What a parent and all its
//! children use together stays within the parent's limit, and no child's own limit is over its parent's. The limits of
//! the children together may well be: limits may be promised twice, what is there cannot. A child with no limit of its
//! own has the registered one or its parent's, whichever is less.

mod enforcer;
mod error;
mod ledger;
mod limits;
mod resource;
mod table;
#[cfg(test)]
mod vectors;

use std::str::FromStr;

pub use crate::config::QuotaModel as Model;
pub use enforcer::{Enforcer, ProjectUsage};
pub use error::{EnforceError, InvalidLimit, OverLimitInfo, ProjectOverLimit, Scope, UnsupportedModel};
pub use ledger::{Amount, Claim, Ledger, Over, OverLimit, Overruled, Source, Standing};
pub use limits::{Cached, Limits};
pub use resource::{PerResource, Resource};
pub use table::{Change, LimitTable};

/// No limit. Every negative limit is read so, this one is written.
pub const UNLIMITED: i64 = -1;

impl FromStr for Model {
    type Err = UnsupportedModel;

    /// Both spellings: of those who write `strict-two-level`, half send `strict_two_level`.
    fn from_str(name: &str) -> Result<Model, UnsupportedModel> {
        match name {
            "flat" => Ok(Model::Flat),
            "strict_two_level" | "strict-two-level" => Ok(Model::StrictTwoLevel),
            other => Err(UnsupportedModel(other.to_owned())),
        }
    }
}

/// Whether usage so high is over the limit.
fn is_over(total: i128, limit: i64) -> bool {
    limit >= 0 && total > i128::from(limit)
}

/// Whether a child may have `limit` of its own under a parent's.
fn fits_under(limit: i64, of_parent: i64) -> bool {
    of_parent < 0 || (0..=of_parent).contains(&limit)
}

/// The lower of two limits.
fn lower(one: i64, other: i64) -> i64 {
    match (one < 0, other < 0) {
        (true, _) => other,
        (_, true) => one,
        _ => one.min(other),
    }
}

/// A child's effective limit: its own, else the registered one or what its parent has, whichever is less, else 0.
fn of_child(own: Option<i64>, registered: Option<i64>, of_parent: i64) -> i64 {
    own.or_else(|| registered.map(|registered| lower(registered, of_parent))).unwrap_or(0)
}
