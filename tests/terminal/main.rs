//! Commands on a pseudo-terminal (section 6), and `cofferdam shell`, a terminal from the command line.

// What the daemon itself must not use.
#![allow(clippy::disallowed_methods)]

#[path = "../exec_support/mod.rs"]
mod exec_support;
#[path = "../support/mod.rs"]
mod support;

mod jobs;
mod keys;
mod screen;
mod shell;
mod size;
mod typist;
