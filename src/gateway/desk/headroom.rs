//! Whether the host has memory left for one more command.

use super::Desk;
use crate::admission::headroom::{Tight, admits};
use crate::protocol::fault::{Fault, Reason};
use crate::protocol::limits::Limits;

impl Desk {
    /// The last question before a command starts: what it would take must be there.
    pub(super) fn check_headroom(&mut self, limits: &Limits) -> Result<(), Fault> {
        let memory = &self.config.memory;
        if memory.reserve_bytes == 0 && !memory.strict {
            return Ok(());
        }
        // A host that does not tell cannot be asked; the log has said so.
        let Some(available) = self.headroom.available(self.turn_began) else { return Ok(()) };
        admits(available, memory.reserve_bytes, memory.strict, limits.memory_bytes).map_err(refusal)
    }
}

fn refusal(Tight { limit, usage }: Tight) -> Fault {
    let message = format!("the host has {limit} bytes of memory above the reserve; {usage} were asked for");
    Fault::new(Reason::Capacity, message)
        .text("resource", "memory")
        .number("limit", i64::try_from(limit).unwrap_or(i64::MAX))
        .number("usage", usage)
}
