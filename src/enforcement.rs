//! An honest report: each limit, what holds it on this host, and what to change where nothing does.
//!
//! Pure: [`report`] compares a configuration with a [`Host`]. `system.info`, the log at start and `doctor` show it.

pub mod descriptors;
mod host;
mod pending;
mod rlimits;
#[cfg(test)]
mod tests;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::config::{Config, RunAs};

pub use host::Host;

const NOT_YET: &str = "not enforced yet";

/// One limit.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Row {
    pub name: &'static str,
    pub configured: String,
    /// `rlimit`, `watchdog`, `timer`, `ring`, `admission`, `cgroup`, `kernel` (an attribute of the process) or `none`.
    pub by: &'static str,
    pub note: Option<String>,
    /// False: it is configured and does not hold.
    pub binds: bool,
    /// This version has the key and not yet the means.
    pub pending: bool,
    pub advice: Option<String>,
}

impl Row {
    fn new(name: &'static str, configured: impl Into<String>, by: &'static str) -> Self {
        Row { name, configured: configured.into(), by, note: None, binds: true, pending: false, advice: None }
    }

    fn pending(name: &'static str, configured: Option<String>) -> Self {
        let binds = configured.is_none();
        let configured = configured.unwrap_or_else(|| "none".to_owned());
        Row { binds, pending: true, ..Row::new(name, configured, "none") }.note(NOT_YET)
    }

    fn note(mut self, note: impl Into<String>) -> Self {
        let note = note.into();
        self.note = Some(self.note.map_or(note.clone(), |before| format!("{before}; {note}")));
        self
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        let advice = advice.into();
        self.advice = Some(self.advice.map_or(advice.clone(), |before| format!("{before}; {advice}")));
        self
    }

    fn cannot(mut self) -> Self {
        self.binds = false;
        self
    }

    /// Logs that it does not bind.
    pub fn warn(&self) {
        let note = self.note.as_deref().unwrap_or("it cannot bind on this host");
        log::warn!("{} = {} does not bind: {note}", self.name, self.configured);
    }

    /// It is configured and this host cannot hold it, though this version would.
    pub fn cannot_bind(&self) -> bool {
        !self.binds && !self.pending
    }
}

/// The `enforcement` object of `system.info`: {"memory_bytes":{"by":…,"note":…},…}, with `"binds":false` where a limit
/// is configured and does not hold.
pub fn to_json(rows: &[Row]) -> Vec<u8> {
    struct Object<'a>(&'a [Row]);
    impl Serialize for Object<'_> {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.collect_map(self.0.iter().map(|row| (row.name, Enforced(row))))
        }
    }
    struct Enforced<'a>(&'a Row);
    impl Serialize for Enforced<'_> {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            let mut map = to.serialize_map(None)?;
            map.serialize_entry("by", self.0.by)?;
            map.serialize_entry("note", &self.0.note)?;
            if !self.0.binds {
                map.serialize_entry("binds", &false)?;
            }
            map.end()
        }
    }
    serde_json::to_vec(&Object(rows)).expect("strings and booleans are always JSON")
}

/// Every limit of the configuration, in the order of a command's life.
pub fn report(config: &Config, host: &Host) -> Vec<Row> {
    let mut rows = vec![
        rlimits::cpu(config, host),
        memory(config, host),
        rlimits::address_space(config, host),
        rlimits::nproc(config, host),
        rlimits::nofile(config, host),
        rlimits::fsize(config, host),
        rlimits::core(config, host),
        timeout(config, host),
        output(config),
        Row::new("max_stdin_bytes", bytes(config.commands.max_stdin_bytes), "admission"),
        Row::new("max_sessions", config.sessions.max_sessions.to_string(), "admission"),
        Row::new("max_commands", config.commands.max_commands.to_string(), "admission"),
        Row::new("max_queued", config.commands.max_queued.to_string(), "admission"),
        Row::new("key_window_s", format!("{} s", config.commands.key_window_s), "admission"),
        Row::new("retain_s", format!("{} s", config.commands.retain_s), "timer"),
        quotas(config),
        rate(config),
        descriptors::connections(config, host),
        connections_of_a_client(config),
        buffers(config, host),
        reserve(config),
        oom_score_adj(config, host),
        no_new_privs(config),
        run_as(config, host),
    ];
    rows.extend(pending::pending(config, host));
    rows
}

/// Whose uid the commands will have.
enum Identity<'a> {
    Same,
    Pool,
    User(&'a str),
}

fn identity<'a>(config: &'a Config, host: &Host) -> Identity<'a> {
    match &config.children.run_as {
        RunAs::Auto if host.is_root() && host.can_switch_user() => Identity::Pool,
        RunAs::Auto | RunAs::Same => Identity::Same,
        RunAs::Pool => Identity::Pool,
        RunAs::User(name) if host.user.as_ref() == Some(name) => Identity::Same,
        RunAs::User(name) => Identity::User(name),
    }
}

fn memory(config: &Config, host: &Host) -> Row {
    let Ok(wanted) = u64::try_from(config.limits.limit_memory_bytes) else {
        return Row::new("memory_bytes", "unlimited", "none");
    };
    let mut row = Row::new("memory_bytes", bytes(wanted), "watchdog")
        .note("resident memory of the whole tree, sampled: at most 250 ms late, and a shorter burst passes");
    if !host.children_files {
        row = row.note("all of /proc is walked, as this kernel does not list a task's children");
    }
    if host.swap_total_bytes > 0 {
        row = row.note(format!("what is swapped out does not count, of {} of swap", bytes(host.swap_total_bytes)));
        row = row.advise("swapoff -a, or MemorySwapMax=0 for the daemon's service");
    }
    match host.mem_total_bytes {
        Some(total) if total < wanted => row
            .cannot()
            .note(format!("more than the {} of this host: the kernel kills first", bytes(total)))
            .advise(format!("limits.limit_memory_bytes below {total}")),
        _ => row,
    }
}

fn timeout(config: &Config, host: &Host) -> Row {
    let commands = &config.commands;
    let configured = format!("{} s, at most {} s", commands.default_timeout_s, commands.max_timeout_s);
    let row = Row::new("timeout_s", configured, "timer")
        .note(format!("SIGTERM, SIGKILL to the whole tree {} ms later", commands.kill_grace_ms));
    if host.pidfd {
        return row;
    }
    row.cannot().note("this kernel has no pidfd to wait for a command with").advise("a kernel of 5.11 or later")
}

fn output(config: &Config) -> Row {
    Row::new("output_limit_bytes", bytes(config.commands.max_output_bytes), "ring")
        .note("kept of each stream; what is over it is read, counted and dropped, or ends the command where asked")
}

fn connections_of_a_client(config: &Config) -> Row {
    let most = config.connections.max_connections_per_client;
    Row::new("max_connections_per_client", most.to_string(), "admission")
}

fn buffers(config: &Config, host: &Host) -> Row {
    let wanted = config.commands.max_buffer_bytes;
    let row = Row::new("max_buffer_bytes", bytes(wanted), "ring")
        .note("all commands together; a ring that cannot grow drops its oldest bytes, counted");
    match host.mem_total_bytes {
        Some(total) if total < wanted => row
            .cannot()
            .note(format!("more than the {} of this host", bytes(total)))
            .advise(format!("commands.max_buffer_bytes below {total}")),
        _ => row,
    }
}

fn quotas(config: &Config) -> Row {
    let quotas = &config.quotas;
    let (registered, clients) = (quotas.registered.len(), quotas.clients.len());
    let configured = format!("{}, {registered} registered, {clients} clients", quotas.model.name());
    let row = Row::new("quotas", configured, "admission");
    if config.listen.is_none() {
        return row;
    }
    row.note(ADDRESS_IS_NO_IDENTITY).advise("listen null, and a unix_socket, where a client is a uid")
}

/// What quotas and rates are worth where a client is an address.
pub const ADDRESS_IS_NO_IDENTITY: &str = "without tokens a client on TCP is its address, which is no identity: one local \
    process has as many as it likes, so quotas and rates of clients bind only who plays fair there";

fn rate(config: &Config) -> Row {
    let rate = &config.rate;
    let Some(configured) = &rate.rate else {
        return Row::new("rate", "none", "none").note("requests come as they come");
    };
    let row = Row::new("rate", configured, "admission");
    let row = if rate.dry_run { row.note("dry_run: counted, and nothing is refused or delayed") } else { row };
    if config.listen.is_some() { row.note("by client, as quotas") } else { row }
}

fn reserve(config: &Config) -> Row {
    let row = Row::new("memory.reserve_bytes", bytes(config.memory.reserve_bytes), "admission");
    if config.memory.strict { row.note("and memory_bytes of the command above it") } else { row }
}

fn oom_score_adj(config: &Config, host: &Host) -> Row {
    let wanted = config.children.oom_score_adj;
    let own = host.oom_score_adj;
    let row = Row::new("oom_score_adj", wanted.to_string(), "kernel");
    if host.can_raise_limits() {
        let row = row.note("a command cannot go below it");
        return if own < wanted { row } else { row.advise(OWN_SCORE) };
    }
    if wanted < own {
        return row
            .cannot()
            .note(format!("without CAP_SYS_RESOURCE nothing goes below the daemon's own {own}"))
            .advise(format!("OOMScoreAdjust={wanted} or less for the daemon's service, or CAP_SYS_RESOURCE"));
    }
    let row = row.note("without CAP_SYS_RESOURCE a command may lower it again, to the daemon's own at the least");
    if own < wanted {
        row.advise("AmbientCapabilities=CAP_SYS_RESOURCE for the daemon's service, to make it stick")
    } else {
        row.advise(OWN_SCORE)
    }
}

const OWN_SCORE: &str =
    "OOMScoreAdjust=-300 for the daemon's service, as the kernel would now kill it as soon as a command";

fn no_new_privs(config: &Config) -> Row {
    if config.children.no_new_privs {
        return Row::new("no_new_privs", "true", "kernel")
            .note("set-user-ID programs and file capabilities gain nothing");
    }
    Row::new("no_new_privs", "false", "none").note("set-user-ID programs gain their rights, and may leave the limits")
}

fn run_as(config: &Config, host: &Host) -> Row {
    let children = &config.children;
    let row = |by| Row::new("run_as", children.run_as.as_str(), by);
    match identity(config, host) {
        Identity::Pool if !host.can_switch_user() => row("none")
            .cannot()
            .note("the daemon cannot give a command another uid")
            .advise("start it as root, or with CAP_SETUID, CAP_SETGID and CAP_KILL"),
        Identity::User(name) if !host.can_switch_user() => row("none")
            .cannot()
            .note(format!("the daemon cannot run commands as {name}"))
            .advise(format!("start it as {name} or as root, or with CAP_SETUID, CAP_SETGID and CAP_KILL")),
        Identity::Pool | Identity::User(_) if !host.can_kill() => row("kernel")
            .cannot()
            .note("the daemon cannot end a command that has another uid")
            .advise("CAP_KILL for the daemon"),
        Identity::Pool if !host.maps(children.uid_base, children.uid_count) => row("none")
            .cannot()
            .note("not all uids of the pool exist in the daemon's user namespace")
            .advise(format!("children.uid_base and uid_count within the uids of /proc/self/uid_map: {}", ranges(host))),
        Identity::Pool => row("kernel").note(format!(
            "a uid of its own for each session, {} to {}",
            children.uid_base,
            u64::from(children.uid_base) + u64::from(children.uid_count) - 1
        )),
        Identity::User(name) => {
            row("kernel").note(format!("commands run as {name}: they can reach each other, not the daemon"))
        }
        Identity::Same => same(row("none"), config, host),
    }
}

fn same(row: Row, config: &Config, host: &Host) -> Row {
    let row = row.note(format!("commands run as the daemon's own uid {} and can reach it", host.uid));
    match (&config.children.run_as, host.is_root()) {
        // A daemon of root that cannot do what auto means for root; `same` has to be asked for by name.
        (RunAs::Auto, true) => row.cannot().note("which is root: nothing on this host is out of their reach").advise(
            "give it CAP_SETUID, CAP_SETGID and CAP_KILL, or another user, or ask for children.run_as \"same\"",
        ),
        (_, true) => row
            .note("which is root: nothing on this host is out of their reach")
            .advise("children.run_as \"pool\", or another user for the daemon"),
        (_, false) => row.advise("start the daemon as root, for a uid of its own for each session"),
    }
}

fn ranges(host: &Host) -> String {
    let shown = host.uid_map.iter().map(|&(first, n)| format!("{first} to {}", u64::from(first) + u64::from(n) - 1));
    shown.collect::<Vec<_>>().join(", ")
}

fn shown(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() }
}

/// A size in the largest unit of which it is a whole number.
fn bytes(n: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| n > 0 && n.trailing_zeros() >= *shift) {
        Some((shift, unit)) => format!("{} {unit}", n >> shift),
        None => format!("{n} B"),
    }
}
