//! `cofferdam serve`: the configuration from file and options, then guard and runtime.
//!
//! Runs on the main thread while it is the only one, which is what lets the guard fork.

use std::path::PathBuf;

use lexopt::Arg::Long;

use super::{FAILED, Stop, misconfigured, other, text};
use crate::config::Sources;

pub(super) const HELP: &str = "\
cofferdam serve: the daemon

Usage: cofferdam serve [OPTION]…

Options:
  --config FILE             the configuration; default: config.json here, or the same defaults built in
  --listen ADDR             the TCP listener, IP:PORT; port 0 asks the system for one
  --unix-socket PATH        the Unix socket
  --set group.key=JSON      one key of the configuration; may be repeated
  -h, --help                print this
  -V, --version             print the version

When it is ready it prints one line of JSON on stdout; \"pid\" there is the process to signal. SIGTERM ends it, SIGHUP
makes it read the configuration again.

Example:
  cofferdam serve --listen 127.0.0.1:0 --set limits.limit_cpu_sec=10
";

#[derive(Debug, Clone, Default, PartialEq)]
struct ServeArgs {
    config: Option<PathBuf>,
    listen: Option<String>,
    unix_socket: Option<PathBuf>,
    sets: Vec<String>,
}

pub(super) fn main(parser: lexopt::Parser) -> Result<i32, Stop> {
    let args = parse(parser)?;
    // The guard forks first: what the reading of a configuration touches then is not its memory.
    Ok(crate::guard::enclose(FAILED, move || serve(&args)))
}

/// The whole of it, in the runtime process.
fn serve(args: &ServeArgs) -> i32 {
    let args = args.clone();
    let mut sources = Sources::new(args.config, args.sets, args.listen, args.unix_socket);
    match sources.load() {
        Ok(config) => crate::runtime::serve(config, sources),
        Err(errors) => misconfigured("serve", &errors),
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<ServeArgs, Stop> {
    let mut args = ServeArgs::default();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("config") => args.config = Some(parser.value()?.into()),
            Long("listen") => args.listen = Some(text(&mut parser, "--listen")?),
            Long("unix-socket") => args.unix_socket = Some(parser.value()?.into()),
            Long("set") => args.sets.push(text(&mut parser, "--set")?),
            arg => return Err(other(arg)),
        }
    }
    Ok(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_may_be_repeated() {
        let words = ["--config=c.json", "--set", "rate.burst=3", "--listen", "[::1]:0", "--set", "stats.interval_ms=9"];
        let Ok(args) = parse(lexopt::Parser::from_args(words)) else { panic!("refused") };
        assert_eq!(args.config, Some("c.json".into()));
        assert_eq!(args.listen.as_deref(), Some("[::1]:0"));
        assert_eq!(args.unix_socket, None);
        assert_eq!(args.sets, ["rate.burst=3", "stats.interval_ms=9"]);
    }

    #[test]
    fn what_it_does_not_know_is_named() {
        for (words, named) in [(vec!["extra"], "extra"), (vec!["--sets", "x"], "--sets"), (vec!["--set"], "--set")] {
            let Err(Stop::Usage(what)) = parse(lexopt::Parser::from_args(words)) else { panic!("taken: {named}") };
            assert!(what.contains(named), "{what}");
        }
    }
}
