//! Hostile commands, and faults around the daemon: the limit ends the offending unit, the service goes on.
//!
//! Every load here is bounded in count, time, processes and memory. What must hold after each case (nothing left of a
//! session, descriptors and threads as at the start) is asserted by `Daemon` when it goes out of scope.

// What the daemon itself must not use.
#![allow(clippy::disallowed_methods)]

#[path = "../exec_support/mod.rs"]
mod exec_support;
#[path = "../support/mod.rs"]
mod support;

mod cleanup;
mod crash;
mod floods;
mod inherit;
mod lease;
mod memory;
mod odd_start;
mod orphans;
mod races;
mod signals;
mod storms;
