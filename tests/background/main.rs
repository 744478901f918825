//! Commands that go on by themselves (section 6): started, waited for, read by offset, written to, signalled, listed,
//! and kept for a while when they have ended.

// What the daemon itself must not use.
#![allow(clippy::disallowed_methods)]

#[path = "../exec_support/mod.rs"]
mod exec_support;
#[path = "../support/mod.rs"]
mod support;

mod list;
mod read;
mod retention;
mod signal;
mod start;
mod steps;
mod stream;
mod wait;
mod write;
