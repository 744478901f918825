//! Another configuration at the desk: it holds for what is asked from now on, and takes nothing from anybody.

use super::{Desk, retries};
use crate::admission::rate::Limiter;
use crate::protocol::limits::Limits;
use crate::runtime::reload::{Change, Reloaded};
use crate::runtime::tell_overruled;

impl Desk {
    /// Whether anything changes; the report stands in `system.info` in any case.
    pub fn reload(&mut self, reloaded: Reloaded) -> bool {
        let Reloaded { report, change, told } = reloaded;
        let changed = change.is_some();
        if let Some(Change { config, about, setup: _ }) = change {
            self.ceilings = Limits::of_config(&config.limits);
            self.slots.resize(config.sessions.max_sessions, config.commands.max_commands);
            self.queue.resize(config.commands.max_queued as usize);
            // Both were validated with the configuration.
            let _ = Limiter::follow_config(&mut self.limiter, &config.rate);
            match self.ledger.reload(&config.quotas) {
                Ok(()) => tell_overruled(&self.ledger),
                Err(error) => log::error!("quotas: {error}; they stay as they were"),
            }
            self.keyed.retries.reconfigure(retries::bounds(&config), self.now_ms());
            self.about = about;
            self.config = config;
            self.adjust_buffers();
            self.divide_descriptors();
            self.start_waiters();
        }
        if let Some(told) = told {
            // Whoever has stopped waiting does not mind.
            let _ = told.try_send(report.restart_needed.clone());
        }
        self.last_reload = Some(report);
        changed
    }
}
