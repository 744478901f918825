//! Reading the configuration again while everything runs. Pure but for the reading and the log: the reaper has it done
//! by an errand, for a file system may hang, and then hands what came of it to everybody.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Sender;

use super::assembly::{About, about};
use crate::config::{Config, ConfigError, ConfigErrors, Sources};
use crate::enforcement::{self, Host};
use crate::process::identity::BaseEnvironment;
use crate::process::launch::Common;
use crate::worker::Setup;

/// What a reload starts from: it goes to the errand and comes back.
#[derive(Debug)]
pub struct Reloader {
    /// None: there is no file to read again.
    pub sources: Option<Sources>,
    /// What is in effect.
    pub config: Arc<Config>,
    pub setup: Arc<Setup>,
}

/// What somebody asks for.
#[derive(Debug)]
pub enum Wish {
    /// SIGHUP: the file again.
    Sources,
    /// A program that embeds us: this configuration, and to be told which keys need a restart.
    Given(Box<Config>, Sender<Vec<String>>),
}

/// What came of a wish.
#[derive(Debug)]
pub struct Reloaded {
    pub report: Report,
    /// None: everything stays as it was.
    pub change: Option<Change>,
    /// Who is told when it is in effect.
    pub told: Option<Sender<Vec<String>>>,
}

/// What `system.info` tells of the last reload.
#[derive(Debug, Clone)]
pub struct Report {
    pub at: Instant,
    pub error: Option<String>,
    /// The same for clients who are no admins: without what names others.
    pub error_for_all: Option<String>,
    /// Keys that have another value now, and keep the old one until a restart.
    pub restart_needed: Vec<String>,
}

/// The next configuration, and what is made of it once for all.
#[derive(Debug, Clone)]
pub struct Change {
    pub config: Arc<Config>,
    pub setup: Arc<Setup>,
    pub about: About,
}

impl Reloader {
    /// Does what is wished for, and logs it; the effect is the reaper's to bring about.
    pub fn carry_out(&mut self, wish: Wish) -> Reloaded {
        match wish {
            Wish::Sources => self.read_again(),
            Wish::Given(config, told) => Reloaded { told: Some(told), ..self.adopt(&config) },
        }
    }

    fn read_again(&mut self) -> Reloaded {
        let Some(sources) = &mut self.sources else {
            log::warn!("SIGHUP: the configuration was not read from anywhere, and stays as it is");
            let why = "there is no file to read again".to_owned();
            return refused(why.clone(), why);
        };
        match sources.load() {
            Ok(config) => self.adopt(&config),
            Err(errors) => {
                for error in &errors.0 {
                    log::error!("{error}");
                }
                log::error!("SIGHUP: the configuration stays as it was");
                refused(errors.to_string(), without_clients(&errors))
            }
        }
    }

    fn adopt(&mut self, asked: &Config) -> Reloaded {
        let mut next = self.config.next(asked);
        if next.sessions.max_sessions > self.setup.policy.sessions_max() {
            next.sessions.max_sessions = self.config.sessions.max_sessions;
        }
        let next = Arc::new(next);
        let changed = self.config.differences(&next);
        let kept = next.differences(asked);
        for difference in &changed {
            log::info!("{}: {} instead of {}", difference.key, difference.other, difference.one);
        }
        for difference in &kept {
            log::warn!("{}: {} needs a restart; until then {}", difference.key, difference.other, difference.one);
        }
        log::info!("the configuration was read again: {} changed, {} need a restart", changed.len(), kept.len());
        tell_what_no_longer_binds(&self.config, &next);
        self.setup = Arc::new(with(&self.setup, &next));
        self.config = next;
        let change = Change { config: self.config.clone(), setup: self.setup.clone(), about: about(&self.config) };
        let restart_needed = kept.into_iter().map(|difference| difference.key).collect();
        let report = Report { at: Instant::now(), error: None, error_for_all: None, restart_needed };
        Reloaded { report, change: Some(change), told: None }
    }
}

fn refused(error: String, for_all: String) -> Reloaded {
    let (error, error_for_all) = (Some(error), Some(for_all));
    let report = Report { at: Instant::now(), error, error_for_all, restart_needed: Vec::new() };
    Reloaded { report, change: None, told: None }
}

/// A line an error; what is wrong with the quotas of single clients would name them.
fn without_clients(errors: &ConfigErrors) -> String {
    let line = |error: &ConfigError| match error.key.as_str() {
        key if key == "quotas" || key.starts_with("quotas.clients") => {
            "quotas: what is wrong there is told to admins".to_owned()
        }
        _ => error.to_string(),
    };
    let mut lines: Vec<String> = errors.0.iter().map(line).collect();
    lines.dedup();
    lines.join("\n")
}

/// What the workers go by from then on.
fn with(setup: &Setup, config: &Arc<Config>) -> Setup {
    let children = &config.children;
    Setup {
        environment: BaseEnvironment::of_daemon(&children.pass_env, &setup.policy),
        common: Common {
            oom_score_adj: children.oom_score_adj,
            nice: children.nice,
            umask: children.umask.0,
            no_new_privs: children.no_new_privs,
            ..setup.common.clone()
        },
        config: config.clone(),
        ..setup.clone()
    }
}

/// A limit that the next configuration has and this host cannot hold is told, as at the start.
fn tell_what_no_longer_binds(before: &Config, next: &Config) {
    let host = Host::probe();
    let known = enforcement::report(before, &host);
    for row in enforcement::report(next, &host).into_iter().filter(|row| row.cannot_bind() && !known.contains(row)) {
        row.warn();
    }
}
