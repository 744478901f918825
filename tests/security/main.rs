//! Attacks on other sessions and on the daemon, each by a real hostile program against a real daemon.
//!
//! Each test of a protection has its control: in the same test the attack works on a plain child process, or on what
//! the attacker owns. Every attack is bounded in count, time, processes and memory, and reaches nothing but processes
//! that the test started.

// What the daemon itself must not use.
#![allow(clippy::disallowed_methods)]

#[path = "../exec_support/mod.rs"]
mod exec_support;
#[path = "../support/mod.rs"]
mod support;

mod background;
mod chaos;
mod descriptors;
mod framed;
mod hanging;
mod headless;
mod held;
mod info;
mod leftovers;
mod neutral;
mod owners;
mod params;
mod program;
mod reach;
mod reports;
mod siblings;
mod silent;
mod start_checks;
mod starter;
mod stopped;
mod workspaces;
