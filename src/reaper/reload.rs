//! Another configuration: read by an errand, one at a time, and handed to everybody in the order that keeps promises.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Phase, Reaper};
use crate::config::Config;
use crate::message::{ToGateway, ToStats, ToWorker};
use crate::process::errands::Errand;
use crate::runtime::messages_max;
use crate::runtime::reload::{Change, Reloaded, Reloader, Wish};

/// What is wished for, and who carries it out.
pub struct Reloading {
    /// None while an errand has it.
    reloader: Option<Box<Reloader>>,
    /// To come: one reading of the file at most, and a given configuration for each thread that waits for it.
    wishes: VecDeque<Wish>,
}

impl Reloading {
    pub fn new(reloader: Box<Reloader>) -> Reloading {
        Reloading { reloader: Some(reloader), wishes: VecDeque::new() }
    }
}

/// The reaper's share of a configuration.
pub fn sweep_every(config: &Config) -> Duration {
    Duration::from_millis(config.reaper.interval_ms)
}

/// How long commands may finish at the end.
pub fn drain(config: &Config) -> Duration {
    Duration::from_secs_f64(config.shutdown.drain_s)
}

impl Reaper {
    pub(super) fn reload(&mut self, wish: Wish) {
        if self.phase != Phase::Serving {
            // A program that waits finds its sender gone.
            return log::info!("the daemon is stopping: its configuration is not read again");
        }
        let wishes = &mut self.reloading.wishes;
        // A reading that has not begun will find what this one would.
        if !matches!(wish, Wish::Sources) || !wishes.iter().any(|wish| matches!(wish, Wish::Sources)) {
            wishes.push_back(wish);
        }
        self.next_reload();
    }

    fn next_reload(&mut self) {
        let Some(reloader) = self.reloading.reloader.take() else { return };
        let Some(wish) = self.reloading.wishes.pop_front() else {
            self.reloading.reloader = Some(reloader);
            return;
        };
        self.links.relief.errands.submit(Errand::Reload { reloader, wish, reaper: self.links.own.clone() });
        self.links.relief.watch();
    }

    pub(super) fn reloaded(&mut self, reloader: Box<Reloader>, reloaded: Box<Reloaded>) {
        self.reloading.reloader = Some(reloader);
        if self.phase != Phase::Serving {
            self.reloading.wishes.clear();
            return log::info!("the daemon is stopping: the configuration that was read has no effect");
        }
        if let Some(change) = &reloaded.change {
            self.hand_out(change);
        }
        // Last: what the gateway admits by the new configuration finds everybody else knowing it.
        self.links.gateway.tell(ToGateway::Reload(reloaded));
        self.next_reload();
    }

    fn hand_out(&mut self, change: &Change) {
        let (config, setup) = (&change.config, &change.setup);
        self.policy.sweep_every = sweep_every(config);
        self.policy.drain = drain(config);
        self.next_sweep = self.next_sweep.min(std::time::Instant::now() + self.policy.sweep_every);
        let messages_max = messages_max(&config.connections);
        self.links.gateway.allow(messages_max);
        self.links.own.allow(messages_max);
        for worker in &self.links.workers {
            worker.allow(messages_max);
            worker.tell(ToWorker::Reload { setup: Arc::clone(setup) });
        }
        let _ = self.links.stats.send(ToStats::Reload { config: Arc::clone(config) });
    }
}
