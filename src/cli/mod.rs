//! The command line: which command, and what every command has in common (help, version, wrong usage).
//!
//! Runs on the main thread, before any other exists. A file a command: each reads its own arguments, does its work and
//! gives an exit code. Nothing here writes by a macro that panics: a closed pipe is no reason to.

mod call;
mod check;
mod doctor;
mod run;
mod serve;
mod shell;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use lexopt::Arg::{Long, Short};

use crate::config::{Config, ConfigErrors};
use crate::enforcement::Host;

/// Exit code of what was done.
const DONE: i32 = 0;
/// Exit code of what failed.
const FAILED: i32 = 1;
/// Exit code of wrong usage, and of a configuration that cannot be honoured.
const USAGE: i32 = 2;

const HELP: &str = "\
cofferdam runs other programs for its clients under limits, and is never brought down by them

Usage: cofferdam [COMMAND] [OPTION]…

Commands:
  serve    the daemon (also without a command)
  run      one program under limits, without a daemon
  call     one request to a daemon
  shell    an interactive terminal on a daemon
  check    validate a configuration and print what it comes to
  doctor   which limits bind on this host, and what to change where they do not

Options, of every command too:
  -h, --help       print this, or with a command its options
  -V, --version    print the version

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration; `run` has those of its program.

Example:
  cofferdam run --timeout 10 --memory 256M -- make test
";

const CHECK_HELP: &str = "\
cofferdam check: validate a configuration and print what it comes to, as JSON

Usage: cofferdam check [OPTION]…

Options:
  --config FILE    the configuration; default: config.json here, or the same defaults built in
  -h, --help       print this
  -V, --version    print the version

Example:
  cofferdam check --config /etc/cofferdam/config.json
";

const DOCTOR_HELP: &str = "\
cofferdam doctor: which limits bind on this host, and what to change where they do not

Usage: cofferdam doctor [OPTION]…

Options:
  --config FILE    the configuration; default: config.json here, or the same defaults built in
  --json           print the report as JSON
  -h, --help       print this
  -V, --version    print the version

Exit code 1: something that is configured cannot bind on this host.

Example:
  cofferdam doctor --json
";

/// Why a command did not get to its work.
enum Stop {
    Help,
    Version,
    /// Names the argument at fault.
    Usage(String),
}

impl From<lexopt::Error> for Stop {
    fn from(error: lexopt::Error) -> Stop {
        Stop::Usage(error.to_string())
    }
}

/// One command: its help, and what it does with what follows its name.
struct Command {
    name: &'static str,
    help: &'static str,
    main: fn(lexopt::Parser) -> Result<i32, Stop>,
}

const SERVE: Command = Command { name: "serve", help: serve::HELP, main: serve::main };

const COMMANDS: [Command; 6] = [
    SERVE,
    Command { name: "run", help: run::HELP, main: run::main },
    Command { name: "call", help: call::HELP, main: call::main },
    Command { name: "shell", help: shell::HELP, main: shell::main },
    Command { name: "check", help: CHECK_HELP, main: check_main },
    Command { name: "doctor", help: DOCTOR_HELP, main: doctor_main },
];

/// Does what the arguments say, the program's own name first, and gives the exit code.
pub fn main(args: impl Iterator<Item = OsString>) -> i32 {
    let mut rest: Vec<OsString> = args.skip(1).collect();
    let first = rest.first().map(|first| first.to_string_lossy().into_owned());
    let (command, help) = match first.as_deref() {
        None => (SERVE, HELP),
        // `cofferdam --listen …` serves, `cofferdam --help` is about all of it.
        Some(option) if option.starts_with('-') => (SERVE, HELP),
        Some(name) => match COMMANDS.into_iter().find(|command| command.name == name) {
            Some(command) => {
                rest.remove(0);
                let help = command.help;
                (command, help)
            }
            None => return usage("cofferdam", &format!("no command {name:?}")),
        },
    };
    match (command.main)(lexopt::Parser::from_args(rest)) {
        Ok(code) => code,
        Err(Stop::Help) => print(help),
        Err(Stop::Version) => print(concat!("cofferdam ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(Stop::Usage(what)) => usage(&format!("cofferdam {}", command.name), &what),
    }
}

fn check_main(mut parser: lexopt::Parser) -> Result<i32, Stop> {
    let mut path: Option<PathBuf> = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Long("config") => path = Some(parser.value()?.into()),
            arg => return Err(other(arg)),
        }
    }
    Ok(match Config::load(path.as_deref(), &[], None, None) {
        Ok(config) => printed("check", check::check(&config, &mut io::stdout().lock()).map(|()| DONE)),
        Err(errors) => misconfigured("check", &errors),
    })
}

fn doctor_main(mut parser: lexopt::Parser) -> Result<i32, Stop> {
    let (mut path, mut json): (Option<PathBuf>, bool) = (None, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("config") => path = Some(parser.value()?.into()),
            Long("json") => json = true,
            arg => return Err(other(arg)),
        }
    }
    Ok(match Config::load(path.as_deref(), &[], None, None) {
        Ok(config) => {
            let all_bind = doctor::doctor(&config, &Host::probe(), json, &mut io::stdout().lock());
            printed("doctor", all_bind.map(|all_bind| if all_bind { DONE } else { FAILED }))
        }
        Err(errors) => misconfigured("doctor", &errors),
    })
}

/// The exit code of what printed its result.
fn printed(command: &str, code: io::Result<i32>) -> i32 {
    code.unwrap_or_else(|error| {
        // Whoever closed the pipe has read enough, but nobody knows what.
        if error.kind() != io::ErrorKind::BrokenPipe {
            complain(&format!("cofferdam {command}: cannot print: {error}"));
        }
        FAILED
    })
}

/// Tells what is wrong with a configuration, a line each.
fn misconfigured(command: &str, errors: &ConfigErrors) -> i32 {
    errors.to_string().lines().for_each(|line| complain(&format!("cofferdam {command}: {line}")));
    USAGE
}

/// What every command makes of an argument that it does not know itself.
fn other(arg: lexopt::Arg<'_>) -> Stop {
    match arg {
        Long("help") | Short('h') => Stop::Help,
        Long("version") | Short('V') => Stop::Version,
        arg => arg.unexpected().into(),
    }
}

/// The value of the option `name`, as text.
fn text(parser: &mut lexopt::Parser, name: &str) -> Result<String, Stop> {
    utf8(parser.value()?, name)
}

fn utf8(value: OsString, name: &str) -> Result<String, Stop> {
    value.into_string().map_err(|value| Stop::Usage(format!("{name}: {value:?} is not UTF-8")))
}

/// Prints what was asked for. Whoever closed the pipe has read enough.
fn print(text: &str) -> i32 {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    DONE
}

fn usage(command: &str, what: &str) -> i32 {
    complain(&format!("{command}: {what}; try '{command} --help'"));
    USAGE
}

/// One line on standard error; nobody is left to tell when that fails.
fn complain(what: &str) {
    let line: String = what.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn code(args: &[&str]) -> i32 {
        main(["cofferdam"].iter().chain(args).map(OsString::from))
    }

    #[test]
    fn help_and_version_are_everywhere() {
        for args in [vec!["--help"], vec!["-h"], vec!["--version"], vec!["-V"]] {
            assert_eq!(code(&args), DONE, "{args:?}");
        }
        for command in COMMANDS {
            assert_eq!(code(&[command.name, "--help"]), DONE, "{}", command.name);
            assert_eq!(code(&[command.name, "--version"]), DONE, "{}", command.name);
            assert!(command.help.contains("\nExample"), "{} shows no example", command.name);
            assert!(HELP.contains(&format!("\n  {} ", command.name)), "{} is not listed", command.name);
        }
    }

    #[test]
    fn wrong_usage_is_2() {
        assert_eq!(code(&["sevre"]), USAGE);
        assert_eq!(code(&[""]), USAGE);
        assert_eq!(code(&["--no-such-option"]), USAGE);
        for command in COMMANDS {
            assert_eq!(code(&[command.name, "--no-such-option"]), USAGE, "{}", command.name);
        }
    }

    #[test]
    fn arguments_that_are_not_utf8_are_wrong_usage() {
        let bad = || OsString::from_vec(vec![b'-', b'-', 0xff]);
        for args in
            [vec![bad()], vec!["run".into(), bad()], vec!["call".into(), bad()], vec![OsString::from_vec(vec![0xff])]]
        {
            assert_eq!(main([OsString::from("cofferdam")].into_iter().chain(args.clone())), USAGE, "{args:?}");
        }
    }
}
