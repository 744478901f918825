//! Whether there are descriptors left for what a client asks for.

use super::Desk;
use crate::admission::buffers::{Share, Short};
use crate::enforcement::descriptors::{Cost, Needs};
use crate::protocol::fault::Fault;

impl Desk {
    /// Other maxima are configured.
    pub(super) fn divide_descriptors(&self) {
        self.descriptors.divide(&Needs::of(&self.config));
    }

    /// Whether a command could start now; asked before it is decided whether it waits.
    pub(super) fn check_descriptors(&self, by_unix: bool) -> Result<(), Fault> {
        self.descriptors.check_command(by_unix).map_err(refusal)
    }

    /// What a command takes while it starts; it comes back with its slot, a part of it when it runs.
    pub(super) fn claim_descriptors(&self, cost: Cost, by_unix: bool) -> Result<Share, Fault> {
        self.descriptors.command(cost.starting, by_unix).map_err(refusal)
    }
}

pub(super) fn refusal(short: Short) -> Fault {
    let (Short::Daemon { limit, usage, delta } | Short::Client { limit, usage, delta, .. }) = short;
    Fault::descriptors_full(limit, usage, delta)
}
