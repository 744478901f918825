//! What the end of a command means: an exit code, a line, a table.
//!
//! Pure values, no thread.

use std::fmt::Write;

use nix::sys::signal::Signal;
use serde::Deserialize;

use super::OURS_FAILED;
use super::args::RunArgs;
use crate::client::{ClientError, Record, RpcError, Status};

/// Exit code of a command that timed out, as of `timeout`.
const TIMED_OUT: i32 = 124;
/// Exit code of a program that is there and cannot be run.
const NOT_EXECUTABLE: i32 = 126;
/// Exit code of a program that is not there.
const NOT_FOUND: i32 = 127;
/// What a signal's number is added to.
const SIGNALED: i32 = 128;

/// The exit code that a shell would see, had it run the command itself.
pub(in crate::cli) fn code_of(record: &Record) -> i32 {
    match record.status {
        Status::Exited => record.exit_code.unwrap_or(OURS_FAILED),
        Status::TimedOut => TIMED_OUT,
        Status::Unkillable => OURS_FAILED,
        // A command may leave by itself on the SIGTERM that comes first: it was ended by it all the same.
        Status::Cancelled | Status::Shutdown => by_signal(record, Signal::SIGTERM),
        Status::Signaled | Status::CpuLimit | Status::MemoryLimit | Status::OutputLimit => {
            by_signal(record, Signal::SIGKILL)
        }
    }
}

fn by_signal(record: &Record, unless_told: Signal) -> i32 {
    SIGNALED + record.signal.as_deref().and_then(number_of).unwrap_or(unless_told as i32)
}

/// The number of a signal: by its name, a real-time one by `SIGRTMIN+N` or by itself.
fn number_of(name: &str) -> Option<i32> {
    if let Ok(signal) = name.parse::<Signal>() {
        return Some(signal as i32);
    }
    let number = match name.strip_prefix("SIGRTMIN") {
        Some("") => nix::libc::SIGRTMIN(),
        Some(plus) => nix::libc::SIGRTMIN() + plus.strip_prefix('+')?.parse::<i32>().ok()?,
        None if name == "SIGRTMAX" => nix::libc::SIGRTMAX(),
        None => match name.strip_prefix("SIGRTMAX-") {
            Some(minus) => nix::libc::SIGRTMAX() - minus.parse::<i32>().ok()?,
            None => name.strip_prefix("SIG").unwrap_or(name).parse().ok()?,
        },
    };
    (1..=64).contains(&number).then_some(number)
}

/// The exit code when there is no record: the command never ran, or is gone with the runtime.
pub(in crate::cli) fn code_of_error(error: &ClientError) -> i32 {
    #[derive(Deserialize)]
    struct SpawnFailed {
        stage: String,
        errno: String,
    }
    let Some(RpcError { reason, data: Some(data), .. }) = error.refused() else { return OURS_FAILED };
    let Ok(SpawnFailed { stage, errno }) = serde_json::from_str(data.get()) else { return OURS_FAILED };
    if reason != "SPAWN_FAILED" || !matches!(stage.as_str(), "resolve" | "exec") {
        return OURS_FAILED;
    }
    match errno.as_str() {
        "ENOENT" => NOT_FOUND,
        "EACCES" | "ENOEXEC" | "EPERM" | "EISDIR" | "ENOTDIR" | "ETXTBSY" | "ELIBBAD" => NOT_EXECUTABLE,
        _ => OURS_FAILED,
    }
}

/// One line about the limit that ended the command, if one did.
pub(super) fn limit_line(record: &Record, args: &RunArgs) -> Option<String> {
    let limit = record.limit.as_deref()?;
    let what = match record.status {
        Status::Unkillable => "outlived SIGKILL after its",
        _ => "ended by",
    };
    let value = value_of(limit, args).map(|value| format!(" ({value})")).unwrap_or_default();
    let after = seconds(record.wall_ms / 1000.0);
    Some(format!("cofferdam: {}: {what} {limit} limit{value} after {after}", args.command[0]))
}

/// What a limit was set to.
fn value_of(limit: &str, args: &RunArgs) -> Option<String> {
    match limit {
        "timeout_s" => args.timeout_s.map(seconds),
        "stall_timeout_s" => args.stall_s.map(seconds),
        "cpu_sec" => args.cpu_s.map(seconds),
        "memory_bytes" => args.memory_bytes.map(|n| size(n.unsigned_abs())),
        "address_space_bytes" => args.address_space_bytes.map(|n| size(n.unsigned_abs())),
        "fsize_bytes" => args.fsize_bytes.map(|n| size(n.unsigned_abs())),
        "output_limit_bytes" => args.output_limit_bytes.map(size),
        "nproc" => args.nproc.map(|n| n.to_string()),
        "nofile" => args.nofile.map(|n| n.to_string()),
        _ => None,
    }
}

/// What the command used up, a row each, for people.
pub(super) fn table(record: &Record) -> String {
    let dash = || "-".to_owned();
    let rows = [
        ("status", record.status.as_str().to_owned()),
        ("limit", record.limit.clone().unwrap_or_else(dash)),
        ("exit code", record.exit_code.map_or_else(dash, |code| code.to_string())),
        ("signal", record.signal.clone().unwrap_or_else(dash)),
        ("wall", seconds(record.wall_ms / 1000.0)),
        ("cpu user", seconds(record.usage.cpu_user_ms / 1000.0)),
        ("cpu system", seconds(record.usage.cpu_system_ms / 1000.0)),
        ("peak resident", size(record.usage.max_rss_bytes)),
        ("peak virtual", record.usage.max_vm_bytes.map_or_else(dash, size)),
        ("stdout", format!("{} bytes", record.stdout_bytes)),
        ("stderr", format!("{} bytes", record.stderr_bytes)),
        ("descendants killed", record.descendants_killed.to_string()),
    ];
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut table, (name, value)| {
        let _ = writeln!(table, "{name:<width$}  {value}");
        table
    })
}

/// Seconds to the millisecond, without zeros that say nothing.
fn seconds(s: f64) -> String {
    let text = format!("{s:.3}");
    format!("{} s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A size as it would be typed, where it is round; else with one decimal.
fn size(bytes: u64) -> String {
    let (shift, unit) = match bytes {
        0..1024 => return format!("{bytes} bytes"),
        1024..0x10_0000 => (10, "KiB"),
        0x10_0000..0x4000_0000 => (20, "MiB"),
        0x4000_0000.. => (30, "GiB"),
    };
    match bytes.trailing_zeros() >= shift {
        true => format!("{} {unit}", bytes >> shift),
        false => format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(status: &str, limit: &str, exit_code: &str, signal: &str) -> Record {
        let quoted = |text: &str| if text == "null" { text.to_owned() } else { format!("{text:?}") };
        let (limit, signal) = (quoted(limit), quoted(signal));
        serde_json::from_str(&format!(
            r#"{{"exec":"e1","session":"s1","status":"{status}","limit":{limit},"exit_code":{exit_code},
            "signal":{signal},"stdout":null,"stdout_bytes":3,"stdout_dropped":0,"stderr":null,"stderr_bytes":0,
            "stderr_dropped":0,"wall_ms":1020.4,"spawn_ms":0.4,"usage":{{"cpu_user_ms":1000,"cpu_system_ms":1.5,
            "max_rss_bytes":1843200,"max_vm_bytes":1073741824,"memory_peak_bytes":null,"processes_peak":null}},
            "descendants_killed":2}}"#
        ))
        .unwrap()
    }

    fn args(words: &[&str]) -> RunArgs {
        let Ok(args) = super::super::args::parse(lexopt::Parser::from_args(words)) else { panic!("refused") };
        args
    }

    #[test]
    fn exit_codes_of_records() {
        for (status, limit, exit_code, signal, code) in [
            ("exited", "null", "0", "null", 0),
            ("exited", "null", "3", "null", 3),
            ("signaled", "null", "null", "SIGSEGV", 139),
            ("signaled", "null", "null", "SIGRTMIN+1", 128 + nix::libc::SIGRTMIN() + 1),
            ("timed_out", "timeout_s", "null", "SIGKILL", 124),
            ("timed_out", "stall_timeout_s", "null", "null", 124),
            ("cpu_limit", "cpu_sec", "null", "SIGXCPU", 128 + 24),
            ("memory_limit", "memory_bytes", "null", "SIGKILL", 137),
            ("output_limit", "output_limit_bytes", "null", "null", 137),
            ("output_limit", "fsize_bytes", "null", "SIGXFSZ", 128 + 25),
            ("cancelled", "null", "null", "SIGKILL", 137),
            ("shutdown", "null", "null", "SIGTERM", 143),
            ("shutdown", "null", "null", "null", 143),
            ("unkillable", "timeout_s", "null", "null", 125),
        ] {
            assert_eq!(code_of(&record(status, limit, exit_code, signal)), code, "{status} {limit} {signal}");
        }
    }

    #[test]
    fn exit_codes_of_errors() {
        for (reason, stage, errno, code) in [
            ("SPAWN_FAILED", "resolve", "ENOENT", 127),
            ("SPAWN_FAILED", "exec", "ENOENT", 127),
            ("SPAWN_FAILED", "resolve", "EACCES", 126),
            ("SPAWN_FAILED", "exec", "ENOEXEC", 126),
            ("SPAWN_FAILED", "exec", "E2BIG", 125),
            ("SPAWN_FAILED", "cwd", "ENOENT", 125),
            ("SPAWN_FAILED", "cwd", "EACCES", 125),
            ("SPAWN_FAILED", "fork", "EAGAIN", 125),
            ("CAPACITY", "exec", "ENOENT", 125),
        ] {
            let data = format!(r#"{{"reason":"{reason}","stage":"{stage}","errno":"{errno}"}}"#);
            let data = Some(serde_json::value::RawValue::from_string(data).unwrap());
            let error = RpcError { code: -32030, message: "no".into(), reason: reason.into(), retryable: false, data };
            assert_eq!(code_of_error(&ClientError::Refused(error)), code, "{reason} {stage} {errno}");
        }
        assert_eq!(code_of_error(&ClientError::Protocol("no".into())), OURS_FAILED);
        assert_eq!(super::super::READER_GONE, SIGNALED + number_of("SIGPIPE").unwrap());
    }

    #[test]
    fn signals_have_numbers() {
        for (name, number) in
            [("SIGHUP", Some(1)), ("SIGKILL", Some(9)), ("SIG34", Some(34)), ("SIGRTMAX", Some(64)), ("SIG65", None)]
        {
            assert_eq!(number_of(name), number, "{name}");
        }
    }

    #[test]
    fn a_limit_that_ended_the_command_is_told_in_one_line() {
        let line = limit_line(&record("cpu_limit", "cpu_sec", "null", "SIGXCPU"), &args(&["--cpu", "1", "yes", "no"]));
        assert_eq!(line.as_deref(), Some("cofferdam: yes: ended by cpu_sec limit (1 s) after 1.02 s"));
        let memory = record("memory_limit", "memory_bytes", "null", "SIGKILL");
        let line = limit_line(&memory, &args(&["--memory", "64M", "x"])).unwrap();
        assert_eq!(line, "cofferdam: x: ended by memory_bytes limit (64 MiB) after 1.02 s");
        assert_eq!(limit_line(&record("exited", "null", "0", "null"), &args(&["x"])), None);
        assert_eq!(limit_line(&record("signaled", "null", "null", "SIGHUP"), &args(&["x"])), None);
    }

    #[test]
    fn the_table_is_aligned() {
        let table = table(&record("cpu_limit", "cpu_sec", "null", "SIGXCPU"));
        let at = |row: &str| table.lines().find(|line| line.starts_with(row)).unwrap()[20..].to_owned();
        assert_eq!(at("status"), "cpu_limit");
        assert_eq!(at("exit code"), "-");
        assert_eq!(at("wall"), "1.02 s");
        assert_eq!(at("cpu system"), "0.002 s");
        assert_eq!(at("peak resident"), "1.8 MiB");
        assert_eq!(at("peak virtual"), "1 GiB");
        assert_eq!(at("descendants killed"), "2");
    }

    #[test]
    fn amounts_are_short_and_exact_where_they_can_be() {
        assert_eq!((seconds(1.0), seconds(0.25), seconds(100.0)), ("1 s".into(), "0.25 s".into(), "100 s".into()));
        assert_eq!((size(1023), size(65536), size(1536)), ("1023 bytes".into(), "64 KiB".into(), "1.5 KiB".into()));
    }
}
