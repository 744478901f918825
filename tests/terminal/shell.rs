//! `cofferdam shell`, at a real terminal: what a person sees, and what is left of it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use nix::libc;
use nix::pty::{Winsize, openpty};
use nix::sys::signal::kill;
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

use crate::exec_support::*;
use crate::support::*;

/// A window with `cofferdam shell` in it.
struct Window {
    child: Child,
    keys: File,
    /// Our side of it, to see its mode.
    side: OwnedFd,
    before: Termios,
    shown: Arc<Mutex<Vec<u8>>>,
    seen: usize,
}

impl Window {
    #[track_caller]
    fn open(daemon: &Daemon, command: &[&str]) -> Window {
        Window::open_at(&format!("unix:{}", daemon.launch.socket().display()), command, true)
    }

    /// Without somebody who `looks`, the screen takes what fits into it.
    #[track_caller]
    fn open_at(addr: &str, command: &[&str], looks: bool) -> Window {
        let mut arguments = vec!["shell", "--addr", addr];
        arguments.extend(command);
        let size = Winsize { ws_row: 30, ws_col: 90, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(&size, None).unwrap();
        let before = tcgetattr(&pair.slave).unwrap();
        let side = || Stdio::from(pair.slave.try_clone().unwrap());
        let mut program = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
        program.args(&arguments).env("TERM", "vt220").env_remove("RUST_LOG");
        program.stdin(side()).stdout(side()).stderr(side());
        let at_home = || {
            nix::unistd::setsid()?;
            // SAFETY: a system call on plain numbers; the terminal is descriptor 0 by now.
            nix::errno::Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
            Ok(())
        };
        // SAFETY: two system calls, which is all that may be done after a fork.
        unsafe { program.pre_exec(at_home) };
        let child = program.spawn().unwrap();
        let shown: Arc<Mutex<Vec<u8>>> = Arc::default();
        let mut screen = File::from(pair.master.try_clone().unwrap());
        let sink = Arc::clone(&shown);
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while looks && let Ok(read @ 1..) = screen.read(&mut piece) {
                sink.lock().unwrap().extend_from_slice(&piece[..read]);
            }
        });
        Window { child, keys: File::from(pair.master), side: pair.slave, before, shown, seen: 0 }
    }

    #[track_caller]
    fn types(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` shows behind what was seen before.
    #[track_caller]
    fn sees(&mut self, text: &str) {
        let (shown, seen) = (Arc::clone(&self.shown), self.seen);
        let found = std::panic::catch_unwind(|| {
            wait_until(&format!("{text:?} shows"), DEADLINE, || {
                let shown = shown.lock().unwrap();
                let at = shown[seen..].windows(text.len()).position(|window| window == text.as_bytes())?;
                Some(seen + at + text.len())
            })
        });
        match found {
            Ok(end) => self.seen = end,
            Err(_) => panic!("{text:?} does not show in {:?}", String::from_utf8_lossy(&self.shown.lock().unwrap())),
        }
    }

    fn resize(&self, cols: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open, and the kernel only reads the size.
        assert_eq!(unsafe { libc::ioctl(self.keys.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }, 0);
    }

    #[track_caller]
    fn mode(&self) -> Termios {
        tcgetattr(self.side.as_fd()).unwrap()
    }

    fn is_raw(&self) -> bool {
        !self.mode().local_flags.contains(nix::sys::termios::LocalFlags::ICANON)
    }

    /// Waits for its end; the terminal is as it was.
    #[track_caller]
    fn ends(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = wait_until("it ends", DEADLINE, || child.try_wait().unwrap());
        let (now, before) = (self.mode(), &self.before);
        assert_eq!(now.local_flags, before.local_flags);
        assert_eq!(now.input_flags, before.input_flags);
        assert_eq!(now.output_flags, before.output_flags);
        assert_eq!(now.control_chars, before.control_chars);
        status
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn somebody_works_in_it_and_leaves_with_a_code() {
    let daemon = Daemon::start(&[]);
    let mut window = Window::open(&daemon, &["--", "sh", "-i"]);
    let mark = mark();
    window.types("PS1='rea''dy> '; stty size; echo $TERM; tty\n");
    window.sees("30 90\r\nvt220\r\n/dev/pts/");
    window.sees("ready> ");
    window.types("cd /usr; pwd\n");
    window.sees("/usr\r\n");
    window.types(&format!("sleep {mark}\n"));
    wait_living(&mark, 1);
    window.types("\u{3}");
    window.sees("ready> ");
    wait_gone(&mark);
    assert!(window.is_raw());
    window.types("exit 42\n");
    assert_eq!(window.ends().code(), Some(42));
}

#[test]
fn without_a_command_there_is_a_shell_with_job_control() {
    let daemon = Daemon::start(&[]);
    let mut window = Window::open(&daemon, &[]);
    window.types("PS1='ready''> '\n");
    window.sees("ready> ");
    let before = String::from_utf8_lossy(&window.shown.lock().unwrap()).into_owned();
    assert!(!before.contains("job control"), "{before}");
    window.types("echo $-\n");
    window.sees("m");
    window.types("exit\n");
    assert_eq!(window.ends().code(), Some(0));
}

#[test]
fn the_window_s_size_is_followed() {
    let daemon = Daemon::start(&[]);
    let cmd = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.02; done";
    let mut window = Window::open(&daemon, &["--", "/bin/sh", "-c", cmd]);
    window.sees("ready\r\n");
    window.resize(123, 45);
    window.sees("45 123\r\n");
    window.resize(60, 20);
    window.sees("20 60\r\n");
    window.types("\u{3}");
    assert_eq!(window.ends().code(), Some(130));
}

#[test]
fn a_large_output_comes_whole() {
    let daemon = Daemon::start(&[]);
    let mut window = Window::open(&daemon, &["--", "seq", "1", "50000"]);
    assert_eq!(window.ends().code(), Some(0));
    let expected: String = (1..=50_000).map(|number| format!("{number}\r\n")).collect();
    let shown = Arc::clone(&window.shown);
    wait_until("all of it shows", DEADLINE, || (shown.lock().unwrap().len() >= expected.len()).then_some(()));
    assert!(*shown.lock().unwrap() == expected.as_bytes(), "the output differs");
}

#[test]
fn a_paste_that_nobody_reads_at_once_is_not_lost() {
    let daemon = Daemon::start(&[("commands.max_stdin_bytes", json!(5000))]);
    let cmd = "stty raw -echo; echo ready; sleep 0.3; head -c 60000 | md5sum";
    let mut window = Window::open(&daemon, &["--", "/bin/sh", "-c", cmd]);
    window.sees("ready");
    let paste: String = (0..).map(|number| format!("{number}\n")).take(12_000).collect();
    let expected = sh(&mut daemon.tcp(), "i=0; seq 0 12000 | head -c 60000 | md5sum");
    window.types(&paste[..60_000]);
    window.sees(text(&expected).trim());
    assert_eq!(window.ends().code(), Some(0));
}

#[test]
fn every_way_out_puts_the_terminal_back_and_closes_the_session() {
    let daemon = Daemon::start(&[]);
    let mark = mark();
    let cmd = format!("echo ready; sleep {mark} & sleep {mark}");
    for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
        let mut window = Window::open(&daemon, &["--", "/bin/sh", "-c", &cmd]);
        window.sees("ready");
        wait_living(&mark, 2);
        kill(Pid::from_raw(window.child.id() as i32), signal).unwrap();
        assert_eq!(window.ends().code(), Some(128 + signal as i32));
        wait_gone(&mark);
    }
    daemon.stats_show("the sessions are gone", |stats| (stats["sessions"]["current"] == 0).then_some(()));
}

#[test]
fn over_tcp_too_its_session_ends_with_it() {
    let daemon = Daemon::start(&[]);
    let mark = mark();
    let cmd = format!("echo ready; sleep {mark} & sleep {mark}");
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let mut window = Window::open_at(&daemon.address.unwrap().to_string(), &["--", "/bin/sh", "-c", &cmd], true);
        window.sees("ready");
        wait_living(&mark, 2);
        kill(Pid::from_raw(window.child.id() as i32), signal).unwrap();
        window.child.wait().unwrap();
        wait_gone(&mark);
    }
    daemon.stats_show("the sessions are gone", |stats| (stats["sessions"]["current"] == 0).then_some(()));
}

#[test]
fn a_screen_that_takes_nothing_holds_up_no_signal() {
    let daemon = Daemon::start(&[]);
    let mark = mark();
    let cmd = format!("sleep {mark} & yes");
    let addr = format!("unix:{}", daemon.launch.socket().display());
    let mut window = Window::open_at(&addr, &["--", "/bin/sh", "-c", &cmd], false);
    wait_living(&mark, 1);
    // More than any screen holds.
    daemon.stats_show("output", |stats| (stats["output"]["bytes_read"].as_u64() > Some(1 << 17)).then_some(()));
    kill(Pid::from_raw(window.child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(window.ends().code(), Some(128 + Signal::SIGTERM as i32));
    wait_gone(&mark);
}

#[test]
fn a_command_that_is_ended_tells_how() {
    let daemon = Daemon::start(&[("commands.max_timeout_s", json!(1)), ("commands.default_timeout_s", json!(0.5))]);
    let mut window = Window::open(&daemon, &["--", "sleep", "60"]);
    let status = window.ends();
    assert_eq!(status.code(), Some(124));
    window.sees("timed_out (timeout_s)");

    let mut window = Window::open(&daemon, &["--", "/bin/sh", "-c", "kill -SEGV $$"]);
    assert_eq!(window.ends().code(), Some(128 + 11));
    let mut window = Window::open(&daemon, &["--", "/nonexistent/program"]);
    assert_eq!(window.ends().code(), Some(127));
    window.sees("No such file");
}

#[test]
fn a_daemon_that_dies_leaves_the_terminal_as_it_was() {
    let mut daemon = Daemon::start(&[]);
    let mut window = Window::open(&daemon, &["--", "/bin/sh", "-c", "echo ready; sleep 60"]);
    window.sees("ready");
    daemon.killed = true;
    daemon.signal_runtime(Signal::SIGKILL);
    assert_eq!(window.ends().code(), Some(125));
    daemon.exit();
}

#[test]
fn it_needs_a_terminal() {
    let output = Command::new(env!("CARGO_BIN_EXE_cofferdam")).arg("shell").stdin(Stdio::null()).output().unwrap();
    assert_eq!((output.status.code(), output.status.signal()), (Some(2), None));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no terminal"), "{output:?}");
}
