//! What the configuration has and this version does not hold yet, so that nobody believes otherwise. Pure.
//!
//! A row leaves this file in the change that makes it bind.

use super::{Host, Row, bytes};
use crate::config::{CgroupMode, Config, QuotaModel};

pub(super) fn pending(config: &Config, host: &Host) -> Vec<Row> {
    let (commands, memory) = (&config.commands, &config.memory);
    vec![
        Row::pending("auth", auth(config)),
        Row::pending("quotas", quotas(config)),
        Row::pending("rate", config.rate.rate.clone()),
        Row::pending("max_queued", Some(commands.max_queued.to_string())),
        Row::pending("key_window_s", Some(format!("{} s", commands.key_window_s))),
        Row::pending("retain_s", Some(format!("{} s", commands.retain_s))),
        Row::pending("memory.reserve_bytes", (memory.reserve_bytes > 0).then(|| bytes(memory.reserve_bytes))),
        Row::pending("memory.strict", memory.strict.then(|| "true".to_owned())),
        cgroup(config, host),
        Row::pending("reload", Some("SIGHUP".to_owned())),
    ]
}

fn auth(config: &Config) -> Option<String> {
    match (&config.auth.token_file, config.auth.trusted_uids.len()) {
        (Some(file), _) => Some(file.display().to_string()),
        (None, 0) => None,
        (None, uids) => Some(format!("{uids} trusted uids")),
    }
}

fn quotas(config: &Config) -> Option<String> {
    let quotas = &config.quotas;
    let model = match quotas.model {
        QuotaModel::Flat => "flat",
        QuotaModel::StrictTwoLevel => "strict_two_level",
    };
    Some(format!("{model}, {} registered, {} clients", quotas.registered.len(), quotas.clients.len()))
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
