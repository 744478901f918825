//! The configuration: what is valid, after it was read.
//!
//! Pure values, no thread. [`Config`] is what every actor works from. Where its keys come from is in `load` and
//! `source`, what each may be and its default in `read`, which of them must agree in `rules`, which can change while
//! the daemon runs in `live`, and how a value that cannot be honoured is told in `error`. Serialized, it has the
//! spelling of `config.json`.

mod error;
mod live;
mod load;
mod read;
mod reader;
mod rules;
mod source;
#[cfg(test)]
mod tests;
mod trusted;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

pub use error::{ConfigError, ConfigErrors, Origin};
pub use load::Sources;

/// The whole configuration, group by group, with the names of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Address of the TCP listener (`IP:PORT`; port 0 asks the system for one); none: no TCP.
    pub listen: Option<String>,
    /// Path of the Unix socket; none: no Unix socket.
    pub unix_socket: Option<PathBuf>,
    /// Permissions of the Unix socket.
    pub unix_socket_mode: Mode,
    /// Folder of what survives a restart, the limits that were set; none: nothing does.
    pub state_dir: Option<PathBuf>,
    /// Who may log in.
    pub auth: Auth,
    /// Bounds of connections.
    pub connections: Connections,
    /// Bounds of sessions.
    pub sessions: Sessions,
    /// Bounds of commands.
    pub commands: Commands,
    /// The limits of a command that asks for none.
    pub limits: DefaultLimits,
    /// Who may have how much.
    pub quotas: Quotas,
    /// How fast a client may ask.
    pub rate: Rate,
    /// What commands run as.
    pub children: Children,
    /// The host's memory that commands leave alone.
    pub memory: Memory,
    /// Control groups. Not in effect yet.
    pub cgroup: Cgroup,
    /// How often orphans are looked for.
    pub reaper: Tick,
    /// How often statistics are taken. Not in effect: they are taken when they are asked for.
    pub stats: Tick,
    /// How the daemon ends.
    pub shutdown: Shutdown,
}

/// Authentication. Not in effect yet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Auth {
    /// File of token digests. Not in effect yet.
    pub token_file: Option<PathBuf>,
    /// Uids whose connections on the Unix socket need no login. Not in effect yet.
    pub trusted_uids: Vec<u32>,
    /// Seconds in which a connection must log in, 0.001 to 3600. Not in effect yet.
    #[serde(serialize_with = "number")]
    pub login_grace_s: f64,
}

/// Bounds of connections.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Connections {
    /// Connections at once, 1 to 100,000; one more gets `CAPACITY` and is closed.
    pub max_connections: u64,
    /// Connections of one client at once, 1 to 100,000; one more gets `CAPACITY` and is closed.
    pub max_connections_per_client: u64,
    /// Seconds in which a connection must have sent a well-formed request; past it the connection is closed.
    #[serde(serialize_with = "number")]
    pub first_line_s: f64,
    /// Of them, so many are for the Unix socket alone, where there is one.
    pub reserved_connections: u64,
    /// Unanswered requests of one connection, 1 to 65,536; past it the connection is not read.
    pub max_inflight_per_connection: u64,
    /// Bytes of a line without its end, 1 KiB to 1 GiB; a longer one is `REQUEST_TOO_LARGE`.
    pub max_line_bytes: u64,
    /// Seconds from the first byte of a line to its end; past it the connection is closed.
    #[serde(serialize_with = "number")]
    pub line_timeout_s: f64,
    /// Bad lines that a connection is forgiven in its life.
    pub max_bad_lines: u64,
    /// Requests of a batch, 1 to 10,000.
    pub max_batch: u64,
    /// Bytes of unsent answers; past it the connection is not read.
    pub write_buffer_soft_bytes: u64,
    /// Bytes of unsent answers; past it the connection is closed. At least three times `max_output_bytes`.
    pub write_buffer_hard_bytes: u64,
    /// Seconds in which a client takes nothing of what it is sent; past it the connection is closed.
    #[serde(serialize_with = "number")]
    pub write_stall_s: f64,
}

/// Bounds of sessions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sessions {
    /// Sessions at once, 1 to 100,000.
    pub max_sessions: u64,
    /// Seconds without a command after which a session is closed.
    #[serde(serialize_with = "number")]
    pub max_idle_sec: f64,
    /// Finished records that a session keeps, without their outputs.
    pub max_history: u64,
    /// Worker threads; 0: one per core, at most four.
    pub threads: u64,
}

/// Bounds of commands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Commands {
    /// Commands at once, 1 to 100,000.
    pub max_commands: u64,
    /// Commands of one session at once.
    pub max_commands_per_session: u64,
    /// Commands that may wait for a slot; one more is `CAPACITY`.
    pub max_queued: u64,
    /// Seconds of wall-clock time of a command that names none.
    #[serde(serialize_with = "number")]
    pub default_timeout_s: f64,
    /// Seconds of wall-clock time that a command may ask for.
    #[serde(serialize_with = "number")]
    pub max_timeout_s: f64,
    /// Milliseconds from SIGTERM to SIGKILL; 0: SIGKILL at once.
    pub kill_grace_ms: u64,
    /// Milliseconds for pipes that somebody keeps open after a command has ended.
    pub drain_ms: u64,
    /// Milliseconds after SIGKILL at which a command that is still there is given up.
    pub unkillable_after_ms: u64,
    /// Bytes kept of each output of a command.
    pub max_output_bytes: u64,
    /// Bytes of input of a command.
    pub max_stdin_bytes: u64,
    /// Bytes held for all clients together: outputs, inputs, unsent answers, unfinished lines over 16 KiB.
    pub max_buffer_bytes: u64,
    /// Seconds for which a finished background command is kept.
    #[serde(serialize_with = "number")]
    pub retain_s: f64,
    /// Seconds for which a retry key is remembered after its command has ended.
    #[serde(serialize_with = "number")]
    pub key_window_s: f64,
}

/// The limits of a command unless its session or itself asks for less; -1 is unlimited.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DefaultLimits {
    /// Seconds of CPU time of a process, and of the tree, from 1.
    #[serde(serialize_with = "number")]
    pub limit_cpu_sec: f64,
    /// Bytes of resident memory of the tree, from 1 MiB.
    pub limit_memory_bytes: i64,
    /// Bytes of address space of a process, from 1 MiB.
    pub limit_address_space_bytes: i64,
    /// Tasks of the session's uid, from 1.
    pub limit_nproc: i64,
    /// Descriptors of a process, from 4.
    pub limit_nofile: i64,
    /// Bytes of a file that a process writes, from 1.
    pub limit_fsize_bytes: i64,
    /// Bytes of a core file.
    pub limit_core_bytes: i64,
}

/// Quotas of clients.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quotas {
    /// How limits of clients relate to each other.
    pub model: QuotaModel,
    /// The limits of a client that has none of its own, by resource.
    pub registered: BTreeMap<String, i64>,
    /// The limits of single clients.
    pub clients: BTreeMap<String, ClientQuota>,
}

/// How limits of clients relate to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaModel {
    /// Each client by itself.
    Flat,
    /// A parent's limit holds for it and all its children together.
    StrictTwoLevel,
}

impl QuotaModel {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            QuotaModel::Flat => "flat",
            QuotaModel::StrictTwoLevel => "strict_two_level",
        }
    }
}

/// The limits of one client.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClientQuota {
    /// The client whose limit holds for all its children together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// By resource; -1 is unlimited.
    #[serde(flatten)]
    pub limits: BTreeMap<String, i64>,
}

/// The request rate of a client.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rate {
    /// `"5r/s"` or `"300r/m"`; none: no rate limit.
    pub rate: Option<String>,
    /// Requests over the rate that are not refused.
    pub burst: u64,
    /// null, a number, or `"nodelay"`.
    pub delay: Delay,
    /// Clients that are remembered.
    pub max_keys: u64,
    /// Counts and refuses nothing.
    pub dry_run: bool,
}

/// Which requests over the rate are delayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    /// Every one.
    All,
    /// Those after so many, which pass at once.
    After(u64),
    /// None.
    None,
}

/// What commands run as.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Children {
    /// Whose uid commands run under.
    pub run_as: RunAs,
    /// First uid of the pool; pools of one host must not overlap.
    pub uid_base: u32,
    /// Uids of the pool, at least `max_sessions`.
    pub uid_count: u32,
    /// How much rather the kernel takes a command than the daemon when memory runs out, -999 to 1000.
    pub oom_score_adj: i32,
    /// Niceness of commands, -20 to 19.
    pub nice: i32,
    /// File mode creation mask of commands.
    pub umask: Mode,
    /// Variables of the daemon that commands see.
    pub pass_env: Vec<String>,
    /// Set-user-ID programs gain nothing.
    pub no_new_privs: bool,
    /// Folder of the sessions' private directories; none: one below the system's temporary folder.
    pub workspaces: Option<PathBuf>,
}

/// Whose uid commands run under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunAs {
    /// A pool for a daemon started as root, else the daemon's own.
    Auto,
    /// The daemon's own uid.
    Same,
    /// A uid of its own for each session.
    Pool,
    /// This user, for all.
    User(String),
}

/// The host's memory that commands leave alone.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Memory {
    /// Bytes that must be available on the host for a command to start.
    pub reserve_bytes: u64,
    /// A command's whole memory limit must fit above the reserve.
    pub strict: bool,
}

/// Control groups. Not in effect yet.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cgroup {
    /// Whether commands get cgroups. Not in effect yet.
    pub mode: CgroupMode,
    /// The cgroup below which they are made. Not in effect yet.
    pub root: Option<PathBuf>,
    /// CPUs that all commands together may use, as 1.5; none: all.
    #[serde(serialize_with = "number_or_null")]
    pub cpu_quota: Option<f64>,
}

/// Whether commands get cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupMode {
    /// Where the host delegates them.
    Auto,
    /// They must.
    On,
    /// They do not.
    Off,
}

/// An interval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tick {
    /// Milliseconds, 10 to 60,000.
    pub interval_ms: u64,
}

/// How the daemon ends.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shutdown {
    /// Seconds for which running commands may finish at shutdown.
    #[serde(serialize_with = "number")]
    pub drain_s: f64,
}

/// Permission bits, written in octal as `"0600"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode(pub u32);

impl Serialize for Mode {
    /// The spelling of an octal number in C: 0o600 as `"0600"`, 0o077 as `"077"`.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("0{:o}", self.0))
    }
}

impl Serialize for Delay {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Delay::All => to.serialize_none(),
            Delay::After(requests) => to.serialize_u64(*requests),
            Delay::None => to.serialize_str("nodelay"),
        }
    }
}

impl RunAs {
    /// As `config.json` writes it.
    pub fn as_str(&self) -> &str {
        match self {
            RunAs::Auto => "auto",
            RunAs::Same => "same",
            RunAs::Pool => "pool",
            RunAs::User(name) => name,
        }
    }
}

impl Serialize for RunAs {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

/// A duration: whole ones as `60`, not as `60.0`.
fn number<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
    // 2^53: up to it every whole number is exact in an f64.
    if value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0 {
        to.serialize_i64(*value as i64)
    } else {
        to.serialize_f64(*value)
    }
}

fn number_or_null<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => number(value, to),
        None => to.serialize_none(),
    }
}
