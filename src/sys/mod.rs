//! The only room with unsafe code: one call a block, each with the argument for its soundness.
//!
//! What the crates in use wrap safely is used from there; here is the rest.
#![allow(unsafe_code)]

pub mod clone;
pub mod process;
pub mod pty;
pub mod residue;
pub mod starter;
pub mod wait;
