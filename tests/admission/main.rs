//! Admission, sections 2, 5 to 9 of the protocol: who may have how much, and what is told to those who may not.
//!
//! Over the wire alone, with several clients at once: each address of the loopback is one, and the uid of the Unix
//! socket another, an admin.
#![allow(clippy::disallowed_methods, reason = "a test starts programs and threads as anybody does")]

#[path = "../exec_support/mod.rs"]
mod exec_support;
#[path = "../support/mod.rs"]
mod support;

mod background;
mod budget;
mod extremes;
mod headroom;
mod key_waiters;
mod keys;
mod memory;
mod order;
mod queue;
mod quotas;
mod rate;
mod rate_costs;
mod releases;
mod reload;
mod reload_while_held;
mod rules;
mod state;
mod storm;
mod tree;
mod view;
mod waiters;
