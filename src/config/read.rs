//! Every key: its name, its default and what is accepted. The only place where a default stands.
//!
//! Pure. Where the contract of the protocol gives no default, a comment says where ours
//! comes from. A default that was not written gives way downwards to what was (a `max_timeout_s` of 5 lowers the
//! default timeout), never upwards: more memory and more uids have to be asked for.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use super::reader::Reader;
use super::source;
use super::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The shortest duration that is not "none": a millisecond, the resolution of the daemon's timers.
const SHORTEST_S: f64 = 0.001;
const DAY_S: f64 = 86_400.0;
const YEAR_S: f64 = 365.0 * DAY_S;

/// What may be limited by a quota.
const RESOURCES: [&str; 5] = ["sessions", "commands", "memory_bytes", "processes", "buffer_bytes"];

impl Default for Config {
    fn default() -> Self {
        let mut reader = Reader::new(Vec::new(), Vec::new(), Path::new(""), Path::new(""));
        let config = config(&mut reader);
        reader.finish(config).expect("the defaults are valid: test the_defaults_are_valid")
    }
}

pub(super) fn config(r: &mut Reader<'_>) -> Config {
    Config {
        listen: listen(r),
        unix_socket: r.path("unix_socket"),
        unix_socket_mode: r.mode("unix_socket_mode", Mode(0o600)),
        state_dir: r.path("state_dir"),
        auth: r.group("auth", auth),
        connections: r.group("connections", connections),
        sessions: r.group("sessions", sessions),
        commands: r.group("commands", commands),
        limits: r.group("limits", limits),
        quotas: r.group("quotas", quotas),
        rate: r.group("rate", rate),
        children: r.group("children", children),
        memory: r.group("memory", memory),
        cgroup: r.group("cgroup", cgroup),
        reaper: r.group("reaper", tick),
        stats: r.group("stats", tick),
        shutdown: r.group("shutdown", shutdown),
    }
}

fn auth(r: &mut Reader<'_>) -> Auth {
    Auth {
        token_file: r.path("token_file"),
        trusted_uids: r.parsed_by("trusted_uids", Vec::new(), "a list of uids, as [0, 1000]", Ok::<Vec<u32>, _>),
        // A login is the first thing a program sends; ten seconds are for a person at a terminal.
        login_grace_s: r.seconds("login_grace_s", 10.0, SHORTEST_S..=3600.0),
    }
}

fn connections(r: &mut Reader<'_>) -> Connections {
    let max_connections = r.integer("max_connections", 256, 1..=100_000);
    let write_buffer_hard_bytes = r.integer("write_buffer_hard_bytes", 16 * MIB, KIB..=64 << 30);
    Connections {
        max_connections,
        // More than max_connections is allowed: then that one binds.
        max_connections_per_client: r.integer("max_connections_per_client", 64, 1..=100_000),
        first_line_s: r.seconds("first_line_s", 10.0, SHORTEST_S..=DAY_S),
        // At most half of few connections: the other listener is not shut out by a default.
        reserved_connections: r.integer("reserved_connections", 4.min(max_connections / 2), 0..=99_999),
        max_inflight_per_connection: r.integer("max_inflight_per_connection", 128, 1..=65_536),
        max_line_bytes: r.integer("max_line_bytes", 2 * MIB, KIB..=1 << 30),
        line_timeout_s: r.seconds("line_timeout_s", 30.0, SHORTEST_S..=DAY_S),
        // 0: the first bad line closes.
        max_bad_lines: r.integer("max_bad_lines", 16, 0..=1_000_000),
        max_batch: r.integer("max_batch", 64, 1..=10_000),
        write_buffer_soft_bytes: r.integer(
            "write_buffer_soft_bytes",
            (256 * KIB).min(write_buffer_hard_bytes),
            KIB..=64 << 30,
        ),
        write_buffer_hard_bytes,
        write_stall_s: r.seconds("write_stall_s", 30.0, SHORTEST_S..=DAY_S),
    }
}

fn sessions(r: &mut Reader<'_>) -> Sessions {
    Sessions {
        max_sessions: r.integer("max_sessions", 64, 1..=100_000),
        max_idle_sec: r.seconds("max_idle_sec", 3600.0, SHORTEST_S..=YEAR_S),
        // 0: none is kept.
        max_history: r.integer("max_history", 32, 0..=100_000),
        threads: r.integer("threads", 0, 0..=64),
    }
}

fn commands(r: &mut Reader<'_>) -> Commands {
    let max_timeout_s = r.seconds("max_timeout_s", 3600.0, SHORTEST_S..=YEAR_S);
    Commands {
        max_commands: r.integer("max_commands", 16, 1..=100_000),
        // More than max_commands is allowed: then that one binds.
        max_commands_per_session: r.integer("max_commands_per_session", 1, 1..=100_000),
        // 0: nobody waits.
        max_queued: r.integer("max_queued", 256, 0..=1_000_000),
        default_timeout_s: r.seconds("default_timeout_s", 60_f64.min(max_timeout_s), SHORTEST_S..=YEAR_S),
        max_timeout_s,
        // 0: SIGKILL at once.
        kill_grace_ms: r.integer("kill_grace_ms", 500, 0..=600_000),
        drain_ms: r.integer("drain_ms", 200, 0..=60_000),
        // Sooner than this an ordinary exit under load would count as stuck in the kernel.
        unkillable_after_ms: r.integer("unkillable_after_ms", 2000, 100..=600_000),
        max_output_bytes: r.integer("max_output_bytes", 4 * MIB, 1..=16 << 30),
        max_stdin_bytes: r.integer("max_stdin_bytes", MIB, 1..=16 << 30),
        // A command starts only if 64 KiB for each of its outputs fit.
        max_buffer_bytes: r.integer("max_buffer_bytes", 64 * MIB, 128 * KIB..=1 << 50),
        retain_s: r.seconds("retain_s", 60.0, 0.0..=YEAR_S),
        key_window_s: r.seconds("key_window_s", 300.0, 0.0..=YEAR_S),
    }
}

/// The floors are those of a request: below them the loader fails or the kernel kills at exec.
fn limits(r: &mut Reader<'_>) -> DefaultLimits {
    const MIB: i64 = 1 << 20;
    DefaultLimits {
        limit_cpu_sec: r.seconds_limit("limit_cpu_sec", 60.0, 1.0..=YEAR_S),
        limit_memory_bytes: r.limit("limit_memory_bytes", 256 * MIB, MIB),
        limit_address_space_bytes: r.limit("limit_address_space_bytes", 4096 * MIB, MIB),
        limit_nproc: r.limit("limit_nproc", 64, 1),
        limit_nofile: r.limit("limit_nofile", 256, 4),
        limit_fsize_bytes: r.limit("limit_fsize_bytes", 256 * MIB, 1),
        // 0 is a real limit here: no core file.
        limit_core_bytes: r.limit("limit_core_bytes", 0, 0),
    }
}

fn quotas(r: &mut Reader<'_>) -> Quotas {
    use QuotaModel::{Flat, StrictTwoLevel};
    let words = [("flat", Flat), ("strict_two_level", StrictTwoLevel), ("strict-two-level", StrictTwoLevel)];
    let registered = [8, 8, -1, -1, -1];
    let registered = RESOURCES.iter().zip(registered).map(|(name, limit)| ((*name).to_owned(), limit)).collect();
    Quotas {
        model: r.choice("model", Flat, &words),
        // Replaces the default whole: a resource it does not name is unregistered, which is a limit of 0.
        registered: r.counts("registered", registered, &RESOURCES),
        clients: clients(r),
    }
}

fn clients(r: &mut Reader<'_>) -> BTreeMap<String, ClientQuota> {
    let mut clients = BTreeMap::new();
    let Some((raw, origin)) = r.given("clients") else { return clients };
    for (client, raw) in source::members(&raw, "quotas.clients", &origin, &mut r.errors) {
        let path = format!("quotas.clients.{client}");
        if client.is_empty() {
            r.refuse(&origin, &path, "", "a client without a name", "the name of a client, as \"uid:1000\"");
            continue;
        }
        let mut quota = ClientQuota { parent: None, limits: BTreeMap::new() };
        for (name, raw) in source::members(raw.get(), &path, &origin, &mut r.errors) {
            let path = format!("{path}.{name}");
            if name == "parent" {
                match serde_json::from_str(raw.get()) {
                    Ok(parent) => quota.parent = parent,
                    Err(_) => r.refuse(&origin, &path, raw.get(), "is of the wrong type", "null or a client's name"),
                }
            } else if let Some(count) = r.count(&path, &name, raw.get(), &origin, &RESOURCES) {
                quota.limits.insert(name, count);
            }
        }
        clients.insert(client, quota);
    }
    clients
}

fn rate(r: &mut Reader<'_>) -> Rate {
    Rate {
        rate: r.parsed_by("rate", None, "null, or requests a second or minute as \"5r/s\" or \"300r/m\"", rate_text),
        // nginx's default: a request over the rate is refused at once.
        burst: r.integer("burst", 0, 0..=1_000_000),
        delay: delay(r),
        max_keys: r.integer("max_keys", 10_000, 1..=1_000_000),
        // As in nginx, a rate that is set is applied unless one asks to try it first.
        dry_run: r.boolean("dry_run", false),
    }
}

/// Accepts what nginx does: a whole number of at least 1 and its unit.
fn rate_text(text: String) -> Result<Option<String>, std::borrow::Cow<'static, str>> {
    let count = text.strip_suffix("r/s").or_else(|| text.strip_suffix("r/m")).ok_or("has no unit r/s or r/m")?;
    let digits = !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
    // A million a second: the rate is kept in thousandths and multiplied by milliseconds, far from overflow.
    match count.parse::<u64>() {
        Ok(1..=1_000_000) if digits => Ok(Some(text)),
        _ => Err("is not a rate: its number is whole, from 1 to 1000000".into()),
    }
}

fn delay(r: &mut Reader<'_>) -> Delay {
    let accepted = "null (every excess request is delayed), a number of requests from 0 to 1000000, or \"nodelay\"";
    r.parsed_by("delay", Delay::All, accepted, |value: serde_json::Value| match (value.as_str(), value.as_u64()) {
        (Some("nodelay"), _) => Ok(Delay::None),
        (_, Some(requests @ 0..=1_000_000)) => Ok(Delay::After(requests)),
        (Some(_), _) => Err("is none of the words".into()),
        _ if value.is_number() => Err("is out of range".into()),
        _ => Err("is of the wrong type".into()),
    })
}

fn children(r: &mut Reader<'_>) -> Children {
    Children {
        run_as: r.parsed_by("run_as", RunAs::Auto, "\"auto\", \"same\", \"pool\" or the name of a user", run_as),
        // Above what distributions give to people (1000–60000), to services (61184–65519), to subordinate uids of
        // users (from 100000, 65536 each) and to containers (to 1879048191): systemd's list of uids, UIDS-GIDS.md, has
        // nobody from there to 2147352575. Neither the pool nor a command may be root.
        uid_base: r.integer("uid_base", 1_900_000_000, 1..=u32::MAX - 1),
        // Many more than sessions, so that a uid rests before it is somebody else's.
        uid_count: r.integer("uid_count", 4096, 1..=1 << 20),
        // Not -1000: a tree that the kernel may not kill for memory livelocks its cgroup.
        oom_score_adj: r.integer("oom_score_adj", 500, -999..=1000),
        // The daemon's own priority.
        nice: r.integer("nice", 0, -20..=19),
        umask: r.mode("umask", Mode(0o077)),
        // How text is spelt and what time it is; nothing that could be a secret.
        pass_env: pass_env(r),
        no_new_privs: r.boolean("no_new_privs", true),
        workspaces: r.path("workspaces"),
    }
}

fn run_as(text: String) -> Result<RunAs, std::borrow::Cow<'static, str>> {
    match text.as_str() {
        "auto" => Ok(RunAs::Auto),
        "same" => Ok(RunAs::Same),
        "pool" => Ok(RunAs::Pool),
        name if name.is_empty() || name.contains([':', '/', '\0', '\n']) => Err("is not a user's name".into()),
        _ => Ok(RunAs::User(text)),
    }
}

fn pass_env(r: &mut Reader<'_>) -> Vec<String> {
    let default = vec!["LANG".to_owned(), "TZ".to_owned()];
    r.parsed_by("pass_env", default, "a list of names of variables, as [\"LANG\", \"TZ\"]", |names: Vec<String>| {
        let bad = names.iter().any(|name| name.is_empty() || name.contains(['=', '\0']));
        if bad { Err("holds a name that is empty or has = or NUL in it".into()) } else { Ok(names) }
    })
}

fn memory(r: &mut Reader<'_>) -> Memory {
    Memory {
        // 0: nothing is kept back.
        reserve_bytes: r.integer("reserve_bytes", 32 * MIB, 0..=1 << 50),
        strict: r.boolean("strict", false),
    }
}

fn cgroup(r: &mut Reader<'_>) -> Cgroup {
    let words = [("auto", CgroupMode::Auto), ("on", CgroupMode::On), ("off", CgroupMode::Off)];
    Cgroup {
        mode: r.choice("mode", CgroupMode::Auto, &words),
        // None: the cgroup the daemon was started in.
        root: r.path("root"),
        // The kernel's smallest quota is 1 ms in a period of 100 ms.
        cpu_quota: r.optional_number("cpu_quota", 0.01..=4096.0),
    }
}

fn tick(r: &mut Reader<'_>) -> Tick {
    // More often than every 10 ms would be a load of its own.
    Tick { interval_ms: r.integer("interval_ms", 1000, 10..=60_000) }
}

fn shutdown(r: &mut Reader<'_>) -> Shutdown {
    Shutdown { drain_s: r.seconds("drain_s", 10.0, 0.0..=DAY_S) }
}

fn listen(r: &mut Reader<'_>) -> Option<String> {
    let accepted = "null, or IP:PORT or localhost:PORT of the loopback, as \"127.0.0.1:7643\" or \"[::1]:7643\"";
    // 7643 is assigned to nobody by IANA.
    let default = Some("127.0.0.1:7643".to_owned());
    r.nullable_by("listen", default, None, accepted, |text| {
        let on_loopback = match text.strip_prefix("localhost:") {
            Some(port) => is_port(port).then_some(true),
            None => text.parse::<SocketAddr>().ok().map(|address| address.ip().to_canonical().is_loopback()),
        };
        match on_loopback {
            Some(true) => Ok(Some(text)),
            Some(false) => Err("is not loopback, which is refused without authentication, and there is none in this \
                version: whoever reaches the port could run any program"
                .into()),
            None => Err("is not an address".into()),
        }
    })
}

fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok()
}
