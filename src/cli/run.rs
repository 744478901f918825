//! `cofferdam run`: one program under limits, the whole runtime in this process and no daemon.
//!
//! Runs on the main thread of the runtime process, beside the runtime's own threads: as its client, over a socket pair.
//! Owns nothing of the command; what it knows of it is what any client is told. What was typed is in `args`, what its
//! end means in `outcome`.

mod args;
pub(super) mod outcome;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::value::RawValue;

use self::args::{RunArgs, StdinFrom};
use super::{Stop, complain};
use crate::client::{Client, ClientError, OnOutputLimit, OpenSession, OutputPiece, OutputStream, Record, Run};
use crate::config::{Config, DefaultLimits, Mode, RunAs};
use crate::runtime::{self, Runtime};

pub(super) use self::args::HELP;

/// Exit code when it is cofferdam that failed.
const OURS_FAILED: i32 = 125;
/// Exit code when whoever read our output is gone, as of a program that SIGPIPE ended: 128 + 13.
const READER_GONE: i32 = 141;
/// Longest wall clock, in seconds: a year, the most that a configuration may say.
const TIMEOUT_S_MAX: f64 = 365.0 * 86_400.0;
/// Longest that whoever reads our output may leave it lying, in seconds: a day, likewise. `cofferdam run … | less`.
const READER_STALL_S_MAX: f64 = 86_400.0;
/// Longest line that we send, in bytes: arguments and environment (2 MiB to the kernel) at six times their size, as
/// JSON may need for control characters.
const REQUEST_BYTES_MAX: u64 = 16 << 20;

pub(super) fn main(parser: lexopt::Parser) -> Result<i32, Stop> {
    let args = args::parse(parser)?;
    Ok(crate::guard::enclose(OURS_FAILED, move || run_inside(args)))
}

/// The whole of it, in the runtime process.
fn run_inside(args: RunArgs) -> i32 {
    let name = args.command[0].clone();
    run(&args).unwrap_or_else(|failure| {
        if let Some(what) = &failure.what {
            complain(&format!("cofferdam: {name}: {what}"));
        }
        failure.code
    })
}

/// Why there is no record to map to an exit code.
#[derive(Debug)]
struct Failure {
    code: i32,
    /// What to say; nothing when nobody would read it.
    what: Option<String>,
}

impl Failure {
    fn ours(what: impl std::fmt::Display) -> Failure {
        Failure { code: OURS_FAILED, what: Some(what.to_string()) }
    }

    /// Our own output could not be written.
    fn output(error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure { code: READER_GONE, what: None },
            _ => Failure::ours(format_args!("cannot write its output: {error}")),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure { code: outcome::code_of_error(&error), what: Some(error.to_string()) }
    }
}

fn run(args: &RunArgs) -> Result<i32, Failure> {
    let stdin = args.stdin.as_ref().map(open_stdin).transpose()?;
    let options = runtime::Options {
        stdin,
        exclusive: true,
        signals: true,
        hangup_stops: true,
        watch_vm: args.usage,
        inherit: true,
        sources: None,
    };
    let runtime = Runtime::start_with(config_for(args), options).map_err(Failure::ours)?;
    let mut client = runtime.connect().map_err(Failure::ours)?;
    client.set_line_bytes_max(answer_bytes_max(args));
    let session = client.open(&session_for(args)?)?.session;
    let command = command_for(args, session);
    let record = match args.json {
        true => run_to_json(&mut client, &command)?,
        false => pass_through(&mut client, &command)?,
    };
    if args.usage {
        let _ = io::stderr().write_all(outcome::table(&record).as_bytes());
    } else if !args.json
        && let Some(line) = outcome::limit_line(&record, args)
    {
        complain(&line);
    }
    Ok(outcome::code_of(&record))
}

/// Runs the command with its output passed through: every byte, whatever waits for it.
fn pass_through(client: &mut Client, command: &Run) -> Result<Record, Failure> {
    let (stdout, stderr) = (own(io::stdout().as_fd())?, own(io::stderr().as_fd())?);
    let mut broken = None;
    let outcome = client.run_streamed(command, |piece: OutputPiece| {
        let bytes = piece.bytes().map_err(io::Error::other)?;
        let to = match piece.stream {
            OutputStream::Stdout => &stdout,
            OutputStream::Stderr => &stderr,
        };
        write_fully(to, &bytes).inspect_err(|error| broken = Some(Failure::output(error)))
    });
    match broken {
        Some(failure) => Err(failure),
        None => Ok(outcome?),
    }
}

/// Runs the command and prints its record, as the daemon wrote it.
fn run_to_json(client: &mut Client, command: &Run) -> Result<Record, Failure> {
    let params = serde_json::to_string(command).map_err(Failure::ours)?;
    let answer: Box<RawValue> = client.call("exec.run", Some(&params), &mut |_| {})?;
    let record = serde_json::from_str(answer.get()).map_err(Failure::ours)?;
    let stdout = own(io::stdout().as_fd())?;
    write_fully(&stdout, format!("{answer}\n").as_bytes()).map_err(|error| Failure::output(&error))?;
    Ok(record)
}

/// A descriptor of ours as a file: unbuffered, unlike [`io::stdout`], so that what is written is out.
fn own(fd: BorrowedFd<'_>) -> Result<File, Failure> {
    fd.try_clone_to_owned().map(File::from).map_err(|error| Failure::output(&error))
}

/// Writes all of it. A descriptor that somebody made non-blocking is waited for: it is shared with whoever started us,
/// so the flag is not ours to clear.
fn write_fully(mut to: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match poll(&mut [PollFd::new(to.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE) {
                    Ok(_) | Err(nix::Error::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn open_stdin(from: &StdinFrom) -> Result<OwnedFd, Failure> {
    let opened = match from {
        StdinFrom::Ours => io::stdin().as_fd().try_clone_to_owned(),
        StdinFrom::File(path) => File::open(path).map(OwnedFd::from),
    };
    let name = match from {
        StdinFrom::Ours => "standard input".into(),
        StdinFrom::File(path) => path.display().to_string(),
    };
    opened.map_err(|error| Failure::ours(format_args!("cannot read {name}: {error}")))
}

/// A configuration in which only what was asked for binds, as with `timeout` and `ulimit`.
fn config_for(args: &RunArgs) -> Config {
    let limits = DefaultLimits {
        limit_cpu_sec: args.cpu_s.unwrap_or(-1.0),
        limit_memory_bytes: args.memory_bytes.unwrap_or(-1),
        limit_address_space_bytes: args.address_space_bytes.unwrap_or(-1),
        limit_nproc: args.nproc.unwrap_or(-1),
        limit_nofile: args.nofile.unwrap_or(-1),
        limit_fsize_bytes: args.fsize_bytes.unwrap_or(-1),
        limit_core_bytes: -1,
    };
    let mut config = Config { listen: None, unix_socket: None, limits, ..Config::default() };
    config.quotas.registered.values_mut().for_each(|limit| *limit = -1);

    config.sessions.max_sessions = 1;
    config.sessions.threads = 1;
    config.commands.max_commands = 1;
    config.commands.max_commands_per_session = 1;
    config.commands.max_timeout_s = TIMEOUT_S_MAX;
    config.commands.default_timeout_s = args.timeout_s.unwrap_or(TIMEOUT_S_MAX);

    // The kept outputs (with --json) need room in the buffers and in the answer.
    let output_bytes = config.commands.max_output_bytes.max(args.output_limit_bytes.unwrap_or(0));
    config.commands.max_output_bytes = output_bytes;
    config.commands.max_buffer_bytes = config.commands.max_buffer_bytes.max(output_bytes.saturating_mul(3));
    config.connections.write_buffer_hard_bytes =
        config.connections.write_buffer_hard_bytes.max(output_bytes.saturating_mul(4));
    config.connections.max_line_bytes = REQUEST_BYTES_MAX;
    config.connections.write_stall_s = READER_STALL_S_MAX;

    config.children.run_as = RunAs::Same;
    config.children.nice = 0;
    config.children.umask = own_umask().unwrap_or(config.children.umask);
    config.children.workspaces = None;
    config.memory.reserve_bytes = 0;
    // Ctrl-C ends the command, it does not wait for it.
    config.shutdown.drain_s = 0.0;
    config
}

/// Two outputs of the longest kind at 1.4 times their size, and the rest of the record.
fn answer_bytes_max(args: &RunArgs) -> usize {
    let output_bytes = args.output_limit_bytes.unwrap_or(0).saturating_mul(3).saturating_add(64 << 20);
    usize::try_from(output_bytes).unwrap_or(usize::MAX - 1)
}

/// Our umask, read rather than set and set back: that would show to other threads.
fn own_umask() -> Option<Mode> {
    let mut status = String::new();
    File::open("/proc/self/status").and_then(|mut file| file.read_to_string(&mut status)).ok()?;
    let bits = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(bits.trim(), 8).ok().map(Mode)
}

/// The command sees our environment and our working directory, as under `timeout` and `env`.
fn session_for(args: &RunArgs) -> Result<OpenSession, Failure> {
    let mut env = inherited_env(std::env::vars_os());
    env.extend(args.env.clone());
    let here = || match std::env::current_dir().map(|dir| dir.into_os_string().into_string()) {
        Ok(Ok(dir)) => dir,
        // Removed, or not UTF-8, which JSON cannot say: the command's own parent is in it.
        Ok(Err(_)) | Err(_) => "/proc/self/cwd".to_owned(),
    };
    let cwd = match &args.cwd {
        Some(dir) if dir.starts_with('/') => dir.clone(),
        Some(dir) => format!("{}/{dir}", here()),
        None => here(),
    };
    Ok(OpenSession { cwd: Some(cwd), env, clear_env: Some(true), ..OpenSession::default() })
}

/// What of an environment JSON can say; a variable that is not UTF-8 is left out.
fn inherited_env(vars: impl Iterator<Item = (std::ffi::OsString, std::ffi::OsString)>) -> BTreeMap<String, String> {
    vars.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| !name.is_empty() && !name.contains('='))
        .collect()
}

fn command_for(args: &RunArgs, session: String) -> Run {
    let kill = (!args.json && args.output_limit_bytes.is_some()).then_some(OnOutputLimit::Kill);
    Run {
        timeout_s: args.timeout_s,
        stall_timeout_s: args.stall_s,
        output_limit_bytes: args.output_limit_bytes,
        on_output_limit: kill,
        ..Run::argv(args.command.iter().cloned()).in_session(session)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test's own threads")]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn args(words: &[&str]) -> RunArgs {
        let Ok(args) = args::parse(lexopt::Parser::from_args(words)) else { panic!("refused: {words:?}") };
        args
    }

    #[test]
    fn only_what_is_given_binds() {
        let config = config_for(&args(&["--", "true"]));
        assert_eq!(config.limits.limit_cpu_sec, -1.0);
        assert_eq!(config.limits.limit_memory_bytes, -1);
        assert_eq!(config.limits.limit_nofile, -1);
        assert_eq!(config.limits.limit_core_bytes, -1);
        assert_eq!(config.commands.default_timeout_s, TIMEOUT_S_MAX);
        assert_eq!((config.listen, config.unix_socket), (None, None));
        assert_eq!(config.children.run_as, RunAs::Same);

        let config = config_for(&args(&["--cpu", "1.5", "--memory", "64M", "--timeout", "2", "--", "true"]));
        assert_eq!(config.limits.limit_cpu_sec, 1.5);
        assert_eq!(config.limits.limit_memory_bytes, 64 << 20);
        assert_eq!(config.limits.limit_address_space_bytes, -1);
        assert_eq!(config.commands.default_timeout_s, 2.0);
    }

    #[test]
    fn a_large_output_limit_has_room_in_the_answer() {
        let config = config_for(&args(&["--json", "--output-limit", "1G", "--", "true"]));
        assert_eq!(config.commands.max_output_bytes, 1 << 30);
        assert!(config.connections.write_buffer_hard_bytes >= 3 << 30);
        assert!(answer_bytes_max(&args(&["--output-limit", "1G", "true"])) > 3 << 30);
    }

    #[test]
    fn too_much_output_ends_the_command_unless_it_is_kept() {
        let run = command_for(&args(&["--output-limit", "10", "yes"]), "s1".into());
        assert_eq!((run.output_limit_bytes, run.on_output_limit), (Some(10), Some(OnOutputLimit::Kill)));
        let run = command_for(&args(&["--output-limit", "10", "--json", "yes"]), "s1".into());
        assert_eq!((run.output_limit_bytes, run.on_output_limit), (Some(10), None));
        let run = command_for(&args(&["yes"]), "s1".into());
        assert_eq!((run.output_limit_bytes, run.on_output_limit), (None, None));
    }

    #[test]
    fn the_environment_is_ours_and_what_is_added_wins() {
        let vars = [("A", "1"), ("B", "2"), ("=C", "3")].map(|(k, v)| (OsString::from(k), OsString::from(v)));
        let bad = (OsString::from("BAD"), OsString::from_vec(vec![0xff]));
        let env = inherited_env(vars.into_iter().chain([bad]));
        assert_eq!(env.into_iter().collect::<Vec<_>>(), [("A".into(), "1".into()), ("B".into(), "2".into())]);

        let Ok(open) = session_for(&args(&["--env", "PATH=/here", "--cwd", "sub", "true"])) else { panic!("refused") };
        assert_eq!(open.env["PATH"], "/here");
        let cwd = open.cwd.unwrap();
        assert!(cwd.starts_with('/') && cwd.ends_with("/sub"), "{cwd}");
    }

    #[test]
    fn all_is_written_to_a_pipe_that_does_not_block() {
        let (mut reader, writer) = io::pipe().unwrap();
        let writer = File::from(OwnedFd::from(writer));
        let flags = nix::fcntl::OFlag::O_NONBLOCK;
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
        let written = std::thread::spawn(move || write_fully(&writer, &vec![7; 1 << 20]));
        let mut seen = Vec::new();
        reader.read_to_end(&mut seen).unwrap();
        written.join().unwrap().unwrap();
        assert_eq!(seen, vec![7; 1 << 20]);
    }

    #[test]
    fn a_reader_who_is_gone_is_told_as_sigpipe_would() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let error = write_fully(&File::from(OwnedFd::from(writer)), b"x").unwrap_err();
        assert_eq!(Failure::output(&error).code, 141);
        assert_eq!(Failure::output(&io::ErrorKind::StorageFull.into()).code, OURS_FAILED);
    }
}
