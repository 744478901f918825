//! `exec.run` of section 6: what may be asked, how a command ends, what its record says.

// What the daemon itself must not use.
#![allow(clippy::disallowed_methods)]

#[path = "../exec_support/mod.rs"]
mod exec_support;
#[path = "../support/mod.rs"]
mod support;

mod concurrency;
mod disconnect;
mod encoding;
mod environment;
mod keep;
mod kill;
mod limits;
mod params;
mod record;
mod rlimits;
mod spawn;
mod status;
mod stdin;
mod stream;
mod watchdog;
