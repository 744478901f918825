//! The library as other programs embed it: a client of a daemon, and the runtime inside of this process.

// What the daemon itself must not use.
#![allow(clippy::disallowed_methods)]

#[path = "../exec_support/mod.rs"]
mod exec_support;
#[path = "../support/mod.rs"]
mod support;

mod background;
mod client;
mod runtime;
