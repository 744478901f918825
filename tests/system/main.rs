//! The system methods, section 3 of the protocol, and the control lane of section 2.
#![allow(clippy::disallowed_methods, reason = "a test starts programs and threads as anybody does")]

#[path = "../support/mod.rs"]
mod support;

mod info;
mod lane;
mod reload;
mod stats;
mod subscription;
