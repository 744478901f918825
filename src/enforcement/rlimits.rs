//! Limits that the kernel holds for each process: getrlimit(2). Pure.

use super::{Host, Identity, Row, bytes, identity};
use crate::config::Config;

/// A row for a limit that the kernel holds as a resource limit of each process.
fn by_rlimit(name: &'static str, wanted: i64, hard: u64, unit: &str, host: &Host, show: fn(u64) -> String) -> Row {
    let Ok(wanted) = u64::try_from(wanted) else {
        if hard == u64::MAX {
            return Row::new(name, "unlimited", "none");
        }
        let note = format!("commands inherit the daemon's own hard limit of {}", show(hard));
        return Row::new(name, "unlimited", "rlimit").note(note);
    };
    let row = Row::new(name, show(wanted), "rlimit");
    if hard >= wanted || host.can_raise_limits() {
        return row;
    }
    row.note(format!("the daemon's own hard limit of {} binds first", show(hard)))
        .advise(format!("start it with {unit}={wanted} or more, or with CAP_SYS_RESOURCE"))
}

pub(super) fn cpu(config: &Config, host: &Host) -> Row {
    // Whole seconds to the kernel; -1 stays itself.
    let wanted = config.limits.limit_cpu_sec.ceil() as i64;
    let mut row = by_rlimit("cpu_sec", wanted, host.hard.cpu_sec, "LimitCPU", host, |n| format!("{n} s"));
    if wanted == -1 {
        return row;
    }
    row.configured = format!("{} s", config.limits.limit_cpu_sec);
    row.note("per process; for the whole tree by a watchdog, at most 250 ms late")
}

pub(super) fn address_space(config: &Config, host: &Host) -> Row {
    let wanted = config.limits.limit_address_space_bytes;
    let row = by_rlimit("address_space_bytes", wanted, host.hard.address_space_bytes, "LimitAS", host, bytes);
    if wanted == -1 { row } else { row.note("per process; what is reserved counts, used or not") }
}

pub(super) fn nproc(config: &Config, host: &Host) -> Row {
    let wanted = config.limits.limit_nproc;
    let row = by_rlimit("nproc", wanted, host.hard.nproc, "LimitNPROC", host, |n| n.to_string());
    if wanted == -1 {
        return row;
    }
    // The kernel exempts uid 0 of the host alone, not root of a user namespace.
    let exempt = |row: Row| {
        row.cannot()
            .note("per uid; root is exempt, so it does not bind here")
            .advise("children.run_as \"pool\", or another user for the daemon")
    };
    match identity(config, host) {
        Identity::Pool => row.note("tasks of the session's own uid: per session, threads count"),
        Identity::Same if host.is_root() && host.initial_user_namespace => exempt(row),
        Identity::Same => row.note(format!(
            "per uid: the tasks that uid {} has when a command starts, plus {wanted}; its other programs count too",
            host.uid
        )),
        Identity::User("root") if host.initial_user_namespace => exempt(row),
        Identity::User(name) => row.note(format!("per uid: all tasks of {name} count together, over all sessions")),
    }
}

pub(super) fn nofile(config: &Config, host: &Host) -> Row {
    let wanted = config.limits.limit_nofile;
    let row = by_rlimit("nofile", wanted, host.hard.nofile, "LimitNOFILE", host, |n| n.to_string());
    let row = if wanted == -1 { row } else { row.note("per process") };
    if u64::try_from(wanted).is_ok_and(|wanted| wanted > host.nr_open) {
        return row
            .note(format!("fs.nr_open, {}, binds first", host.nr_open))
            .advise(format!("sysctl fs.nr_open={wanted}"));
    }
    row
}

pub(super) fn fsize(config: &Config, host: &Host) -> Row {
    let wanted = config.limits.limit_fsize_bytes;
    let row = by_rlimit("fsize_bytes", wanted, host.hard.fsize_bytes, "LimitFSIZE", host, bytes);
    if wanted == -1 { row } else { row.note("per file, not a total") }
}

pub(super) fn core(config: &Config, host: &Host) -> Row {
    let wanted = config.limits.limit_core_bytes;
    let row = by_rlimit("core_bytes", wanted, host.hard.core_bytes, "LimitCORE", host, bytes);
    match wanted {
        _ if !host.core_pattern_is_pipe => row,
        -1 => row,
        0 | 1 => row.note("set to 1 byte: core_pattern is a pipe, and 0 would not keep its program from running"),
        _ => row
            .cannot()
            .note("core_pattern is a pipe: its program gets the whole dump, whatever the limit")
            .advise("limits.limit_core_bytes 0, or a kernel.core_pattern that is a file"),
    }
}
