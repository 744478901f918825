//! The configuration: what is valid, after it was read.
//!
//! Pure values, no thread. [`Config`] is what every actor works from. Where its keys come from is in `source`, what
//! each may be and its default in `read`, which of them must agree in `rules`, and how a value that cannot be
//! honoured is told in `error`. Serialized, it has the spelling of `config.json`.

mod error;
mod read;
mod reader;
mod rules;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

pub use error::{ConfigError, ConfigErrors, Origin};

/// The whole configuration, group by group, with the names of `config.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// Address of the TCP listener (`IP:PORT`; port 0 asks the system for one); none: no TCP.
    pub listen: Option<String>,
    /// Path of the Unix socket; none: no Unix socket.
    pub unix_socket: Option<PathBuf>,
    /// Permissions of the Unix socket.
    pub unix_socket_mode: Mode,
    /// Folder of what survives a restart; none: nothing does.
    pub state_dir: Option<PathBuf>,
    pub auth: Auth,
    pub connections: Connections,
    pub sessions: Sessions,
    pub commands: Commands,
    pub limits: DefaultLimits,
    pub quotas: Quotas,
    pub rate: Rate,
    pub children: Children,
    pub memory: Memory,
    pub cgroup: Cgroup,
    pub reaper: Tick,
    pub stats: Tick,
    pub shutdown: Shutdown,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Auth {
    pub token_file: Option<PathBuf>,
    pub trusted_uids: Vec<u32>,
    #[serde(serialize_with = "number")]
    pub login_grace_s: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Connections {
    pub max_connections: u64,
    pub reserved_connections: u64,
    pub max_inflight_per_connection: u64,
    pub max_line_bytes: u64,
    #[serde(serialize_with = "number")]
    pub line_timeout_s: f64,
    pub max_bad_lines: u64,
    pub max_batch: u64,
    pub write_buffer_soft_bytes: u64,
    pub write_buffer_hard_bytes: u64,
    #[serde(serialize_with = "number")]
    pub write_stall_s: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sessions {
    pub max_sessions: u64,
    #[serde(serialize_with = "number")]
    pub max_idle_sec: f64,
    pub max_history: u64,
    /// Worker threads; 0: one per core, at most four.
    pub threads: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Commands {
    pub max_commands: u64,
    pub max_commands_per_session: u64,
    pub max_queued: u64,
    #[serde(serialize_with = "number")]
    pub default_timeout_s: f64,
    #[serde(serialize_with = "number")]
    pub max_timeout_s: f64,
    pub kill_grace_ms: u64,
    pub drain_ms: u64,
    pub unkillable_after_ms: u64,
    pub max_output_bytes: u64,
    pub max_stdin_bytes: u64,
    pub max_buffer_bytes: u64,
    #[serde(serialize_with = "number")]
    pub retain_s: f64,
    #[serde(serialize_with = "number")]
    pub key_window_s: f64,
}

/// The limits of a command unless its session or itself asks for less; -1 is unlimited.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DefaultLimits {
    #[serde(serialize_with = "number")]
    pub limit_cpu_sec: f64,
    pub limit_memory_bytes: i64,
    pub limit_address_space_bytes: i64,
    pub limit_nproc: i64,
    pub limit_nofile: i64,
    pub limit_fsize_bytes: i64,
    pub limit_core_bytes: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quotas {
    pub model: QuotaModel,
    pub registered: BTreeMap<String, i64>,
    pub clients: BTreeMap<String, ClientQuota>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QuotaModel {
    Flat,
    StrictTwoLevel,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClientQuota {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    #[serde(flatten)]
    pub limits: BTreeMap<String, i64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rate {
    /// `"5r/s"` or `"300r/m"`; none: no rate limit.
    pub rate: Option<String>,
    pub burst: u64,
    /// null, a number, or `"nodelay"`.
    pub delay: Delay,
    pub max_keys: u64,
    pub dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delay {
    All,
    After(u64),
    None,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Children {
    pub run_as: RunAs,
    pub uid_base: u32,
    pub uid_count: u32,
    pub oom_score_adj: i32,
    pub nice: i32,
    pub umask: Mode,
    pub pass_env: Vec<String>,
    pub no_new_privs: bool,
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

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Memory {
    pub reserve_bytes: u64,
    pub strict: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cgroup {
    pub mode: CgroupMode,
    pub root: Option<PathBuf>,
    /// CPUs that all commands together may use, as 1.5; none: all.
    #[serde(serialize_with = "number_or_null")]
    pub cpu_quota: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CgroupMode {
    Auto,
    On,
    Off,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tick {
    pub interval_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shutdown {
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
