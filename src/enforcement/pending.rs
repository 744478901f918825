//! What the configuration has and this version does not hold yet, so that nobody believes otherwise. Pure.
//!
//! A row leaves this file in the change that makes it bind.

use super::{Host, Row};
use crate::config::{CgroupMode, Config};

pub(super) fn pending(config: &Config, host: &Host) -> Vec<Row> {
    vec![Row::pending("auth", auth(config)), cgroup(config, host)]
}

fn auth(config: &Config) -> Option<String> {
    match (&config.auth.token_file, config.auth.trusted_uids.len()) {
        (Some(file), _) => Some(file.display().to_string()),
        (None, 0) => None,
        (None, uids) => Some(format!("{uids} trusted uids")),
    }
}

fn cgroup(config: &Config, host: &Host) -> Row {
    let (mode, configured) = match config.cgroup.mode {
        CgroupMode::Auto => ("auto", config.cgroup.cpu_quota.is_some()),
        CgroupMode::On => ("on", true),
        CgroupMode::Off => ("off", false),
    };
    let mut row = Row::pending("cgroup", Some(mode.to_owned()));
    // `auto` takes what there is: with nothing else asked of it, nothing fails to hold.
    row.binds = !configured;
    if config.cgroup.mode == CgroupMode::Off {
        return row;
    }
    let Some(own) = &host.cgroup else {
        return row.note("no cgroup v2 hierarchy is mounted here").advise("a host with cgroup v2");
    };
    let controllers = if own.controllers.is_empty() { "no controllers".to_owned() } else { own.controllers.join(" ") };
    let row = row.note(format!("{} has {controllers}", own.folder.display()));
    if !own.writable {
        return row
            .note("not writable")
            .advise("Delegate=yes for the daemon's service, for a version that uses cgroups");
    }
    if ["memory", "pids", "cpu"].iter().all(|name| own.controllers.iter().any(|c| c == name)) {
        return row;
    }
    row.advise("Delegate=memory pids cpu for the daemon's service, for a version that uses cgroups")
}
