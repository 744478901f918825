//! Who may have how much, decided before anything starts. Pure but for `overrides`' file: values in, decisions out.

pub(crate) mod account;
pub(crate) mod budget;
pub(crate) mod buffers;
pub(crate) mod descriptors;
pub(crate) mod headroom;
pub mod overrides;
pub(crate) mod queue;
pub mod quota;
pub mod rate;
pub(crate) mod retry;
#[cfg(test)]
pub(crate) mod seeded;
pub(crate) mod slots;

pub use quota::Enforcer;
