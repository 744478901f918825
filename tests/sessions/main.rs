//! Sessions, section 5 of the protocol: what they are given, what they own, how they end.
#![allow(clippy::disallowed_methods, reason = "a test starts programs and threads as anybody does")]

#[path = "../support/mod.rs"]
mod support;

mod budget;
mod busy;
mod clients;
mod closing;
mod environment;
mod history;
mod idle;
mod limits;
mod opening;
mod workspace;
