//! The conversation: keys to the daemon, output to the terminal, signals to where they belong.
//!
//! Runs on the main thread and blocks in its poll alone. One write of keys is under way at a time; while its answer is
//! missing no more keys are read, so what is typed ahead waits in the terminal, where there is a bound for it.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};

use super::raw::Raw;
use super::screen::Screen;
use super::{End, Failure};
use crate::client::{ClientError, Duplex, Event, Resize, WriteParams};

/// Keys of one write: a paste is many.
const KEYS_BYTES: usize = 4096;
/// A command that does not read is asked again so often.
const FULL_PAUSE: Duration = Duration::from_millis(50);

const ENDING: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

/// A command on a terminal of the daemon, from its start to its end.
pub(super) struct Talk<'r> {
    duplex: Duplex,
    exec: String,
    raw: &'r Raw,
    screen: Screen,
    signals: Signals,
    /// The request whose answer is the record.
    record: i64,
    keys: Keys,
    /// The terminal has no more keys: it is gone.
    deaf: bool,
}

/// What was typed and is not taken by the daemon.
enum Keys {
    None,
    /// Under way in this request.
    Sent(Vec<u8>, i64),
    /// The command does not read: to be asked again then.
    Full(Vec<u8>, Instant),
}

impl<'r> Talk<'r> {
    pub fn new(mut duplex: Duplex, exec: String, raw: &'r Raw) -> Result<Talk<'r>, ClientError> {
        let signals = Signals::new().map_err(|error| ClientError::Io { step: "listen to signals".into(), error })?;
        let screen = Screen::open().map_err(|error| ClientError::Io { step: "open the terminal".into(), error })?;
        #[derive(serde::Serialize)]
        struct Wait<'a> {
            exec: &'a str,
        }
        let record = duplex.send("exec.wait", &Wait { exec: &exec })?;
        let mut talk = Talk { duplex, exec, raw, screen, signals, record, keys: Keys::None, deaf: false };
        // It may have changed before anybody listened.
        talk.resize()?;
        Ok(talk)
    }

    pub fn run(mut self) -> Result<End, Failure> {
        loop {
            // A terminal that takes nothing holds up the command, and not us.
            while self.screen.is_clear()
                && let Some(event) = self.duplex.next()?
            {
                if let Some(end) = self.on(event)? {
                    return Ok(end);
                }
            }
            if let Some(signal) = self.wait()? {
                return Ok(End::Signal(signal));
            }
        }
    }

    /// Waits for whatever comes first, and takes it; the signal that ends us, if one did.
    fn wait(&mut self) -> Result<Option<i32>, Failure> {
        let failed = |error: Errno| ClientError::Io { step: "wait".into(), error: error.into() };
        let stdin = io::stdin();
        let takes_keys = matches!(self.keys, Keys::None) && !self.deaf;
        // A descriptor that is asked for nothing would still say that it is gone, again and again.
        let from = match self.screen.is_clear() {
            true => PollFd::new(self.duplex.as_fd(), PollFlags::POLLIN),
            false => PollFd::new(self.screen.as_fd(), PollFlags::POLLOUT),
        };
        let mut fds = [
            from,
            PollFd::new(self.signals.bell.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
        ];
        let fds = if takes_keys { &mut fds[..] } else { &mut fds[..2] };
        match poll(fds, self.pause()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(failed(errno).into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready[1] {
            if let Some(signal) = self.signals.ending() {
                return Ok(Some(signal));
            }
            // After a stop, or with another size.
            let _ = self.raw.again();
            self.resize()?;
        }
        if ready[0] {
            match self.screen.is_clear() {
                true => self.duplex.fill()?,
                false => self.screen.go_on().map_err(|_| Failure::Stdout)?,
            }
        }
        if ready.get(2) == Some(&true) {
            self.read_keys()?;
        }
        self.ask_again()?;
        Ok(None)
    }

    fn pause(&self) -> PollTimeout {
        match &self.keys {
            Keys::Full(_, at) => {
                let left = at.saturating_duration_since(Instant::now()).as_millis() as u16;
                PollTimeout::from(left.saturating_add(1))
            }
            Keys::None | Keys::Sent(..) => PollTimeout::NONE,
        }
    }

    fn on(&mut self, event: Event) -> Result<Option<End>, Failure> {
        match event {
            Event::Piece(piece) => {
                let bytes = piece.bytes().map_err(|error| ClientError::Protocol(error.to_string()))?;
                self.screen.show(bytes.into_owned()).map_err(|_| Failure::Stdout)?;
            }
            Event::Answer { id, result } if id == self.record => {
                let record = serde_json::from_str(result?.get()).map_err(|error| {
                    ClientError::Protocol(format!("the answer to exec.wait is not as expected: {error}"))
                })?;
                return Ok(Some(End::Command(Box::new(record))));
            }
            Event::Answer { id: 0, result } => drop(result?),
            Event::Answer { id, result } => {
                let keys = std::mem::replace(&mut self.keys, Keys::None);
                self.keys = match (keys, result) {
                    (Keys::Sent(keys, sent), Err(ClientError::Refused(refused))) if sent == id && refused.retryable => {
                        Keys::Full(keys, Instant::now() + FULL_PAUSE)
                    }
                    // Taken; or the command has ended, and its record is on its way.
                    (Keys::Sent(_, sent), _) if sent == id => Keys::None,
                    // The answer to a resize.
                    (keys, _) => keys,
                };
            }
        }
        Ok(None)
    }

    fn read_keys(&mut self) -> Result<(), ClientError> {
        let mut keys = vec![0; KEYS_BYTES];
        match io::stdin().lock().read(&mut keys) {
            // Raw, a terminal has no end but its own.
            Ok(0) => self.deaf = true,
            Ok(read) => {
                keys.truncate(read);
                self.send_keys(keys)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => self.deaf = true,
        }
        Ok(())
    }

    fn send_keys(&mut self, keys: Vec<u8>) -> Result<(), ClientError> {
        let id = self.duplex.send("exec.write", &WriteParams::new(&self.exec, &keys, false))?;
        self.keys = Keys::Sent(keys, id);
        Ok(())
    }

    fn ask_again(&mut self) -> Result<(), ClientError> {
        match std::mem::replace(&mut self.keys, Keys::None) {
            Keys::Full(keys, at) if Instant::now() >= at => self.send_keys(keys),
            keys => {
                self.keys = keys;
                Ok(())
            }
        }
    }

    fn resize(&mut self) -> Result<(), ClientError> {
        let (cols, rows) = Raw::size();
        self.duplex.send("exec.resize", &Resize { exec: &self.exec, cols, rows }).map(drop)
    }
}

/// Signals as something to read: a byte each, its number.
struct Signals {
    bell: UnixStream,
    pending: [std::sync::Arc<std::sync::atomic::AtomicBool>; ENDING.len()],
}

impl Signals {
    fn new() -> io::Result<Signals> {
        let (bell, rope) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        let pending = ENDING.map(|_| Default::default());
        for (signal, flag) in ENDING.iter().zip(&pending) {
            signal_hook::flag::register(*signal, std::sync::Arc::clone(flag))?;
        }
        for signal in ENDING.iter().chain(&[SIGWINCH, SIGCONT]) {
            signal_hook::low_level::pipe::register(*signal, rope.try_clone()?)?;
        }
        Ok(Signals { bell, pending })
    }

    /// The signal that ends us, if one has come; all rings are heard then.
    fn ending(&mut self) -> Option<i32> {
        let mut rings = [0; 64];
        while matches!(self.bell.read(&mut rings), Ok(1..)) {}
        let came = |(_, flag): &(&i32, &std::sync::Arc<std::sync::atomic::AtomicBool>)| {
            flag.swap(false, std::sync::atomic::Ordering::SeqCst)
        };
        ENDING.iter().zip(&self.pending).find(came).map(|(signal, _)| *signal)
    }
}
