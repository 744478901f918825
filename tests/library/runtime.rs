//! `cofferdam::Runtime` inside of this process: start, submit, stop, and nothing is left.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cofferdam::client::{LimitSet, OpenSession, Run, Status};
use cofferdam::{Client, Config, Runtime};

use crate::exec_support::{living, mark, wait_gone, wait_living};
use crate::support::{DEADLINE, Launch, is_root, procs, wait_until};

/// A runtime counts threads, descriptors and children of this process as its own: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A runtime of a test's own.
struct Inside {
    runtime: Option<Runtime>,
    /// Holds the range of uids.
    _launch: Launch,
    _turn: MutexGuard<'static, ()>,
}

impl Inside {
    #[track_caller]
    fn start(change: impl FnOnce(&mut Config)) -> Inside {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let launch = Launch::new();
        let mut config = Config { listen: None, ..Config::default() };
        if is_root() {
            config.children.uid_base = launch.uids.start;
            config.children.uid_count = launch.uids.end - launch.uids.start;
        }
        change(&mut config);
        let runtime = Runtime::start(config).unwrap_or_else(|error| panic!("{error}"));
        Inside { runtime: Some(runtime), _launch: launch, _turn: turn }
    }

    #[track_caller]
    fn client(&self) -> Client {
        let mut client = self.runtime.as_ref().unwrap().connect().unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client
    }

    fn stop(&mut self) {
        self.runtime.take().unwrap().stop();
    }
}

/// Children of this process, dead ones too; not the daemons of the other tests, which are its children as well.
fn children_but_daemons(own: i32) -> Vec<String> {
    let children = procs::children(own).into_iter().map(|child| child.command);
    children.filter(|command| !command.contains("cofferdam")).collect()
}

#[test]
fn a_runtime_inside_runs_commands() {
    let inside = Inside::start(|_| {});
    let mut client = inside.client();

    let record = client.run(&Run::cmd("echo hi; exit 3")).unwrap();

    assert_eq!((record.exit_code, record.stdout.as_deref()), (Some(3), Some("hi\n")));
}

#[test]
fn a_command_is_submitted_without_a_client() {
    let inside = Inside::start(|_| {});
    let runtime = inside.runtime.as_ref().unwrap();

    let record = runtime.submit(&Run::argv(["cat"]).with_stdin(b"a\xff")).unwrap();
    assert_eq!(record.stdout_kept().unwrap(), b"a\xff");

    let error = runtime.submit(&Run::argv(["/nope"])).unwrap_err();
    assert_eq!(error.refused().unwrap().reason, "SPAWN_FAILED");
    assert_eq!(runtime.local_addr(), None, "it listens nowhere");
}

#[test]
fn commands_are_submitted_from_many_threads() {
    let inside = Inside::start(|_| {});
    let runtime = inside.runtime.as_ref().unwrap();

    std::thread::scope(|scope| {
        for code in 0..6 {
            scope.spawn(move || {
                for _ in 0..5 {
                    let record = runtime.submit(&Run::cmd(format!("exit {code}"))).unwrap();
                    assert_eq!(record.exit_code, Some(code));
                }
            });
        }
    });
}

#[test]
fn a_runtime_inside_listens_where_it_is_asked_to() {
    let inside = Inside::start(|config| config.listen = Some("127.0.0.1:0".into()));

    let address = inside.runtime.as_ref().unwrap().local_addr().unwrap();

    Client::connect(address).unwrap().ping().unwrap();
}

#[test]
fn a_runtime_inside_that_cannot_listen_does_not_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let launch = Launch::new();
    let mut config = Config { listen: Some(address.clone()), ..Config::default() };
    if is_root() {
        config.children.uid_base = launch.uids.start;
        config.children.uid_count = launch.uids.end - launch.uids.start;
    }

    let Err(error) = Runtime::start(config) else { panic!("it started") };

    assert!(error.to_string().contains(&address), "{error}");
}

#[test]
fn a_runtime_inside_holds_sessions_and_limits() {
    let inside = Inside::start(|config| config.limits.limit_nofile = 40);
    let mut client = inside.client();
    let limits = LimitSet { nofile: Some(30), ..LimitSet::default() };
    let opened = client.open(&OpenSession { limits: Some(limits), ..OpenSession::default() }).unwrap();

    let record = client.run(&Run::cmd("ulimit -n; touch file; ls").in_session(&opened.session)).unwrap();
    assert_eq!(record.stdout.as_deref(), Some("30\nfile\n"));
    assert_eq!(client.run(&Run::cmd("ulimit -n")).unwrap().stdout.as_deref(), Some("40\n"));

    client.close(&opened.session).unwrap();
    assert!(!std::path::Path::new(&opened.cwd).exists(), "{} is left", opened.cwd);
}

#[test]
fn a_runtime_inside_leaves_the_descriptors_of_its_program_alone() {
    let hard = rlimit::Resource::NOFILE.get_hard().unwrap();
    let inside = Inside::start(|config| {
        config.limits.limit_nofile = -1;
        rlimit::Resource::NOFILE.set(hard - 1, hard).unwrap();
    });
    let record = inside.client().run(&Run::cmd("ulimit -Sn; ulimit -Hn")).unwrap();
    assert_eq!(record.stdout, Some(format!("{}\n{hard}\n", hard - 1)));
    assert_eq!(rlimit::Resource::NOFILE.get_soft().unwrap(), hard - 1);
    rlimit::Resource::NOFILE.set(hard, hard).unwrap();
}

#[test]
fn a_program_may_connect_to_its_own_runtime_long_before_it_asks() {
    let inside = Inside::start(|config| {
        config.listen = Some("127.0.0.1:0".into());
        config.connections.first_line_s = 0.05;
    });
    let mut own = inside.client();
    // Others may not: by the time that this one is closed, our own would be.
    let mut other = std::net::TcpStream::connect(inside.runtime.as_ref().unwrap().local_addr().unwrap()).unwrap();
    other.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(std::io::Read::read(&mut other, &mut [0]).unwrap(), 0);
    own.ping().unwrap();
}

#[test]
fn two_clients_of_a_runtime_inside_are_served_at_a_time() {
    let inside = Inside::start(|_| {});
    let shared = crate::exec_support::Shared::new();
    let meet = |own: &str, other: &str| {
        Run::cmd(format!(": >{}; while [ ! -e {} ]; do sleep 0.02; done", shared.text(own), shared.text(other)))
    };

    let (mut first, mut second) = (inside.client(), inside.client());
    let (to_a, to_b) = (meet("a", "b"), meet("b", "a"));
    let other = std::thread::spawn(move || first.run(&to_a).unwrap());

    assert!(second.run(&to_b).unwrap().success());
    assert!(other.join().unwrap().success());
}

#[test]
fn a_command_inside_times_out() {
    let inside = Inside::start(|_| {});
    let mark = mark();

    let line = format!("sleep {mark} & exec sleep {mark}");
    let record = inside.client().run(&Run { timeout_s: Some(0.3), ..Run::cmd(line) }).unwrap();

    assert_eq!((record.status, record.limit.as_deref()), (Status::TimedOut, Some("timeout_s")));
    wait_gone(&mark);
}

#[test]
fn a_client_of_a_runtime_inside_that_is_dropped_takes_its_sessions_with_it() {
    let inside = Inside::start(|_| {});
    let mut client = inside.client();
    let opened = client.open(&OpenSession::default()).unwrap();

    drop(client);

    wait_until("its folder is removed", DEADLINE, || (!std::path::Path::new(&opened.cwd).exists()).then_some(()));
}

#[test]
fn a_stopped_runtime_leaves_nothing_in_this_process() {
    let mut inside = Inside::start(|config| config.shutdown.drain_s = 0.1);
    let own = std::process::id() as i32;
    let mark = mark();
    let mut client = inside.client();
    let line = format!("setsid sleep {mark} & sleep {mark}");
    let waiting = std::thread::spawn(move || client.run(&Run::cmd(line)));
    wait_living(&mark, 3);

    inside.stop();

    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
    let record = waiting.join().unwrap().unwrap();
    assert_eq!(record.status, Status::Shutdown);
    assert_eq!(children_but_daemons(own), [""; 0]);
}

/// Those that the runtime has ended. One that dies by itself before anybody has looked cannot be told from a child of the
/// embedding program, which may wait for it: that needs `Options::exclusive`.
#[test]
fn orphans_of_commands_inside_are_reaped() {
    let inside = Inside::start(|_| {});
    let own = std::process::id() as i32;
    let mut client = inside.client();
    let mark = mark();

    for _ in 0..10 {
        let line = format!("setsid sleep {mark} & (setsid sh -c 'sleep {mark} & sleep {mark}' &); exit 3");
        assert_eq!(client.run(&Run::cmd(line)).unwrap().exit_code, Some(3));
    }

    wait_gone(&mark);
    wait_until("no child of this process is left", DEADLINE, || children_but_daemons(own).is_empty().then_some(()));
}

#[test]
fn runtimes_inside_can_be_started_again_and_again() {
    let counts = |_: &Inside| procs::descriptors_and_threads(std::process::id() as i32);
    let mut seen = Vec::new();

    for _ in 0..5 {
        let mut inside = Inside::start(|_| {});
        assert!(inside.client().run(&Run::cmd("true")).unwrap().success());
        seen.push(counts(&inside));
        inside.stop();
    }

    let most = |which: fn(&(usize, usize)) -> usize| seen.iter().flatten().map(which).max().unwrap_or(0);
    let first = seen[0].unwrap_or((0, 0));
    // The other tests of this binary wait for their turn meanwhile; a leak would show five times.
    assert!(most(|held| held.0) <= first.0 + 4 && most(|held| held.1) <= first.1 + 4, "{seen:?}");
}

#[test]
fn another_configuration_is_in_effect_when_reload_returns() {
    let mut config = None;
    let mut inside = Inside::start(|start| config = Some(start.clone()));
    let config = config.unwrap();
    let mut client = inside.client();
    let session = client.open(&OpenSession::default()).unwrap().session;
    for files in [40, 50, 60] {
        let mut next = config.clone();
        next.limits.limit_nofile = files;
        assert_eq!(inside.runtime.as_ref().unwrap().reload(next), Ok(Vec::new()));
        let record = client.run(&Run::cmd("ulimit -n")).unwrap();
        assert_eq!(record.stdout, Some(format!("{files}\n")));
    }
    let record = client.run(&Run::cmd("echo on").in_session(session)).unwrap();
    assert_eq!(record.stdout.as_deref(), Some("on\n"));
    inside.stop();
}

#[test]
fn reload_names_what_needs_a_restart_to_each_that_asks() {
    let mut config = None;
    let mut inside = Inside::start(|start| config = Some(start.clone()));
    let config = config.unwrap();
    let runtime = inside.runtime.as_ref().unwrap();
    std::thread::scope(|scope| {
        let mut asking = Vec::new();
        for threads in 0..8 {
            let mut next = config.clone();
            next.sessions.threads = threads;
            asking.push((threads, scope.spawn(move || runtime.reload(next).unwrap())));
        }
        for (threads, asking) in asking {
            let expected: &[&str] = if threads == config.sessions.threads { &[] } else { &["sessions.threads"] };
            assert_eq!(asking.join().unwrap(), expected);
        }
    });
    inside.stop();
}
