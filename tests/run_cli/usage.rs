//! Help, version, and what is wrong usage.

use crate::{Done, Running, cofferdam};

#[track_caller]
fn cli(arguments: &[&str]) -> Done {
    Running::start(&mut cofferdam(arguments)).wait()
}

#[test]
fn help_is_everywhere() {
    for command in ["", "serve", "run", "call", "check", "doctor"] {
        for help in ["--help", "-h"] {
            let arguments: Vec<&str> = [command, help].into_iter().filter(|word| !word.is_empty()).collect();
            let done = cli(&arguments);
            assert!(done.expect_quiet(0).out().contains("cofferdam"), "{arguments:?}: {}", done.out());
        }
    }
}

#[test]
fn the_help_of_run_names_every_option() {
    let help = cli(&["run", "--help"]).out();

    for option in [
        "--timeout",
        "--stall",
        "--cpu",
        "--memory",
        "--address-space",
        "--nproc",
        "--nofile",
        "--fsize",
        "--output-limit",
        "--cwd",
        "--env",
        "--stdin",
        "--json",
        "--usage",
    ] {
        assert!(help.contains(option), "{option} is not in the help");
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    for arguments in
        [vec!["--version"], vec!["serve", "--version"], vec!["run", "--version"], vec!["call", "--version"]]
    {
        assert_eq!(cli(&arguments).expect_quiet(0).out(), format!("cofferdam {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn wrong_usage_is_2_and_says_what_is_wrong() {
    for arguments in [
        vec!["no-such-command"],
        vec!["--no-such-option"],
        vec!["serve", "--no-such-option"],
        vec!["serve", "extra"],
        vec!["serve", "--listen"],
        vec!["check", "extra"],
        vec!["doctor", "--jsn"],
        vec!["run"],
        vec!["run", "--"],
        vec!["run", "--no-such-option", "--", "true"],
        vec!["run", "--timeout", "--", "true"],
    ] {
        let done = cli(&arguments);
        assert_eq!((done.code(), done.out().as_str()), (2, ""), "{arguments:?}: {}", done.stderr);
        assert!(!done.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn values_of_run_that_make_no_sense_are_wrong_usage() {
    for (option, values) in [
        ("--timeout", vec!["0", "-1", "soon", "NaN", "inf", "1e400", ""]),
        ("--stall", vec!["0", "-1", "x"]),
        ("--cpu", vec!["0", "0.5", "-1", "x"]),
        ("--memory", vec!["0", "-1", "64Q", "M", "1048575", "99999999999G", "1.5.M", ""]),
        ("--address-space", vec!["0", "12Q", "1000"]),
        ("--nproc", vec!["0", "-1", "x"]),
        ("--nofile", vec!["0", "3", "x"]),
        ("--fsize", vec!["0", "-1", "x"]),
        ("--output-limit", vec!["-1", "x"]),
        ("--env", vec!["NOVALUE", "=x", ""]),
    ] {
        for value in values {
            let done = cli(&["run", option, value, "--", "true"]);
            assert_eq!(done.code(), 2, "{option} {value:?}: {}", done.stderr);
            assert!(done.stderr.contains(option), "{option} {value:?}: {}", done.stderr);
        }
    }
}

#[test]
fn help_for_nobody_is_no_crash() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);

    let done = Running::start(cofferdam(&["run", "--help"]).stdout(writer)).wait();

    assert!(done.status.code().is_some_and(|code| code < 100), "{done:?}");
    assert!(!done.stderr.contains("panicked"), "{done:?}");
}
