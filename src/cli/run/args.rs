//! What was typed after `cofferdam run`, and what of it makes no sense.
//!
//! Pure values, no thread. The floors are the protocol's: below them no program starts at all.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use lexopt::Arg::{Long, Value};

use super::TIMEOUT_S_MAX;
use crate::cli::{Stop, other, text, utf8};

pub(in crate::cli) const HELP: &str = "\
cofferdam run: one program under limits, without a daemon

Usage: cofferdam run [OPTION]… -- COMMAND [ARG…]

The program has this environment and working directory, its output is passed through as it comes, and no process of it
is left behind. Only limits that are given bind.

Limits:
  --timeout S             wall clock, in seconds
  --stall S               longest silence on both outputs, in seconds
  --cpu S                 CPU time, in seconds; at least 1
  --memory SIZE           memory of the whole tree; at least 1M
  --address-space SIZE    virtual memory of one process; at least 1M
  --nproc N               processes and threads
  --nofile N              open descriptors of one process; at least 4
  --fsize SIZE            size of a file that it writes
  --output-limit SIZE     bytes of one output; more end the program (with --json: bytes kept of each)

Options:
  --cwd DIR               working directory
  --env K=V               one environment variable; may be repeated
  --stdin FILE|-          what it reads, - is our own standard input; default: nothing
  --json                  print the record, with the output in it, and not the output
  --usage                 print a table of what it used up on stderr
  -h, --help              print this
  -V, --version           print the version

S may be fractional. SIZE is bytes, or as 64K, 64M, 1G (base 1024).

Exit code: the program's own; 124 timed out; 125 cofferdam failed; 126 not executable; 127 not found; 128+N ended by
signal N, by a limit too; 141 whoever read our output is gone; 2 wrong usage.

Example:
  cofferdam run --timeout 10 --memory 256M --usage -- make test
";

/// The least memory, in bytes, that a program may be given.
const MEMORY_BYTES_MIN: i64 = 1 << 20;
/// The least CPU time, in seconds.
const CPU_S_MIN: f64 = 1.0;
/// The fewest descriptors: the standard three and one to load the program with.
const NOFILE_MIN: i64 = 4;

/// What was typed.
#[derive(Debug, Default, PartialEq)]
pub(super) struct RunArgs {
    pub timeout_s: Option<f64>,
    pub stall_s: Option<f64>,
    pub cpu_s: Option<f64>,
    pub memory_bytes: Option<i64>,
    pub address_space_bytes: Option<i64>,
    pub nproc: Option<i64>,
    pub nofile: Option<i64>,
    pub fsize_bytes: Option<i64>,
    pub output_limit_bytes: Option<u64>,
    pub cwd: Option<String>,
    pub env: BTreeMap<String, String>,
    pub stdin: Option<StdinFrom>,
    pub json: bool,
    pub usage: bool,
    /// Never empty.
    pub command: Vec<String>,
}

#[derive(Debug, PartialEq)]
pub(super) enum StdinFrom {
    Ours,
    File(PathBuf),
}

pub(super) fn parse(mut parser: lexopt::Parser) -> Result<RunArgs, Stop> {
    let mut args = RunArgs::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("timeout") => args.timeout_s = Some(seconds(&mut parser, "--timeout")?),
            Long("stall") => args.stall_s = Some(seconds(&mut parser, "--stall")?),
            Long("cpu") => {
                let s = seconds(&mut parser, "--cpu")?;
                args.cpu_s = Some(at_least("--cpu", s, CPU_S_MIN)?);
            }
            Long("memory") => args.memory_bytes = Some(memory(&mut parser, "--memory")?),
            Long("address-space") => args.address_space_bytes = Some(memory(&mut parser, "--address-space")?),
            Long("nproc") => args.nproc = Some(count(&mut parser, "--nproc", 1)?),
            Long("nofile") => args.nofile = Some(count(&mut parser, "--nofile", NOFILE_MIN)?),
            Long("fsize") => {
                let bytes = size(&mut parser, "--fsize")?;
                args.fsize_bytes = Some(at_least("--fsize", bytes, 1)?);
            }
            Long("output-limit") => args.output_limit_bytes = Some(size(&mut parser, "--output-limit")?.unsigned_abs()),
            Long("cwd") => args.cwd = Some(not_empty(text(&mut parser, "--cwd")?, "--cwd")?),
            Long("env") => {
                let (name, value) = variable(text(&mut parser, "--env")?)?;
                args.env.insert(name, value);
            }
            Long("stdin") => args.stdin = Some(stdin(parser.value()?)),
            Long("json") => args.json = true,
            Long("usage") => args.usage = true,
            Value(program) => {
                args.command.push(utf8(program, "COMMAND")?);
                for (n, word) in parser.raw_args()?.enumerate() {
                    args.command.push(utf8(word, &format!("argument {} of COMMAND", n + 1))?);
                }
            }
            arg => return Err(other(arg)),
        }
    }
    match args.command.is_empty() {
        true => Err(Stop::Usage("COMMAND is missing".into())),
        false => Ok(args),
    }
}

fn stdin(from: OsString) -> StdinFrom {
    match from.to_str() {
        Some("-") => StdinFrom::Ours,
        _ => StdinFrom::File(from.into()),
    }
}

/// A duration: more than nothing, at most a year.
fn seconds(parser: &mut lexopt::Parser, name: &str) -> Result<f64, Stop> {
    let typed = text(parser, name)?;
    match typed.parse::<f64>() {
        Ok(s) if s > 0.0 && s <= TIMEOUT_S_MAX => Ok(s),
        _ => Err(Stop::Usage(format!("{name}: {typed:?} is no number of seconds over 0 and up to {TIMEOUT_S_MAX}"))),
    }
}

fn count(parser: &mut lexopt::Parser, name: &str, least: i64) -> Result<i64, Stop> {
    let typed = text(parser, name)?;
    let n = typed.parse().map_err(|_| Stop::Usage(format!("{name}: {typed:?} is not a whole number")))?;
    at_least(name, n, least)
}

fn memory(parser: &mut lexopt::Parser, name: &str) -> Result<i64, Stop> {
    let bytes = size(parser, name)?;
    at_least(name, bytes, MEMORY_BYTES_MIN)
}

fn size(parser: &mut lexopt::Parser, name: &str) -> Result<i64, Stop> {
    let typed = text(parser, name)?;
    size_of(&typed).ok_or_else(|| Stop::Usage(format!("{name}: {typed:?} is no size as 65536, 64K, 64M or 1G")))
}

/// A size in bytes: `65536`, `64K`, `64M`, `1G`, base 1024; none if it is not that, or more than there can be.
fn size_of(typed: &str) -> Option<i64> {
    let (digits, shift) = match typed.char_indices().last()? {
        (at, 'K') => (&typed[..at], 10),
        (at, 'M') => (&typed[..at], 20),
        (at, 'G') => (&typed[..at], 30),
        _ => (typed, 0),
    };
    // Not left to parse(): it takes a sign.
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse::<i64>().ok()).flatten()?.checked_mul(1 << shift)
}

fn at_least<T: PartialOrd + std::fmt::Display>(name: &str, value: T, least: T) -> Result<T, Stop> {
    match value < least {
        true => Err(Stop::Usage(format!("{name}: {value} is less than {least}, the least that makes sense"))),
        false => Ok(value),
    }
}

fn variable(typed: String) -> Result<(String, String), Stop> {
    match typed.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Stop::Usage(format!("--env: {typed:?} is not K=V"))),
    }
}

fn not_empty(typed: String, name: &str) -> Result<String, Stop> {
    match typed.is_empty() {
        true => Err(Stop::Usage(format!("{name}: is empty"))),
        false => Ok(typed),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn parsed(words: &[&str]) -> Result<RunArgs, String> {
        parse(lexopt::Parser::from_args(words)).map_err(|stop| match stop {
            Stop::Usage(what) => what,
            Stop::Help | Stop::Version => panic!("no usage error"),
        })
    }

    #[test]
    fn everything_that_can_be_given() {
        let words = "--timeout 1.5 --stall 0.25 --cpu 2 --memory 64M --address-space 1G --nproc 8 --nofile 32 \
             --fsize 64K --output-limit 0 --cwd /x --env A=1 --env B=2=3 --env A= --stdin - --json --usage -- ls -l --";
        let args = parsed(&words.split_ascii_whitespace().collect::<Vec<_>>()).unwrap();
        let want = RunArgs {
            timeout_s: Some(1.5),
            stall_s: Some(0.25),
            cpu_s: Some(2.0),
            memory_bytes: Some(64 << 20),
            address_space_bytes: Some(1 << 30),
            nproc: Some(8),
            nofile: Some(32),
            fsize_bytes: Some(64 << 10),
            output_limit_bytes: Some(0),
            cwd: Some("/x".into()),
            env: [("A", ""), ("B", "2=3")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            stdin: Some(StdinFrom::Ours),
            json: true,
            usage: true,
            command: ["ls", "-l", "--"].map(String::from).into(),
        };
        assert_eq!(args, want);
    }

    #[test]
    fn what_follows_the_command_is_the_commands() {
        let args = parsed(&["--json", "sh", "--usage", "-c", "exit 3"]).unwrap();
        assert!(args.json && !args.usage);
        assert_eq!(args.command, ["sh", "--usage", "-c", "exit 3"]);
    }

    #[test]
    fn sizes() {
        for (typed, bytes) in [
            ("0", Some(0)),
            ("65536", Some(65536)),
            ("64K", Some(64 << 10)),
            ("64M", Some(64 << 20)),
            ("1G", Some(1 << 30)),
            ("8589934591G", Some(8_589_934_591 << 30)),
            ("8589934592G", None),
            ("99999999999999999999", None),
            ("", None),
            ("K", None),
            ("-1", None),
            ("+1", None),
            ("1.5G", None),
            ("1k", None),
            ("1T", None),
            ("1KiB", None),
            ("64 K", None),
            ("1ü", None),
        ] {
            assert_eq!(size_of(typed), bytes, "{typed:?}");
        }
    }

    #[test]
    fn wrong_usage_names_the_argument() {
        for (words, named) in [
            (&[][..], "COMMAND"),
            (&["--"], "COMMAND"),
            (&["--timeout", "0", "x"], "--timeout"),
            (&["--timeout", "inf", "x"], "--timeout"),
            (&["--timeout", "NaN", "x"], "--timeout"),
            (&["--timeout=-1", "x"], "--timeout"),
            (&["--stall", "soon", "x"], "--stall"),
            (&["--cpu", "0.5", "x"], "--cpu"),
            (&["--memory", "1023K", "x"], "--memory"),
            (&["--address-space", "4", "x"], "--address-space"),
            (&["--nproc", "0", "x"], "--nproc"),
            (&["--nofile", "3", "x"], "--nofile"),
            (&["--fsize", "0", "x"], "--fsize"),
            (&["--output-limit", "many", "x"], "--output-limit"),
            (&["--env", "A", "x"], "--env"),
            (&["--env", "=A", "x"], "--env"),
            (&["--cwd", "", "x"], "--cwd"),
            (&["--what", "x"], "--what"),
            (&["--memory"], "--memory"),
        ] {
            let what = parsed(words).unwrap_err();
            assert!(what.contains(named), "{words:?}: {what}");
        }
    }

    #[test]
    fn what_json_cannot_say_is_wrong_usage() {
        let bad = OsString::from_vec(vec![b'a', 0xff]);
        let words = vec!["echo".into(), "a".into(), bad];
        let Err(Stop::Usage(what)) = parse(lexopt::Parser::from_args(words)) else { panic!("taken") };
        assert!(what.starts_with("argument 2 of COMMAND: "), "{what}");
    }
}
