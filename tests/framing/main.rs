//! Transport and framing, section 1 of the protocol: what a line may be, and what a connection lives through.
#![allow(clippy::disallowed_methods, reason = "a test starts programs and threads as anybody does")]

#[path = "../support/mod.rs"]
mod support;

mod accepting;
mod batches;
mod ending;
mod envelope;
mod first_line;
mod lines;
mod parameters;
mod pipelining;
mod slow_readers;
