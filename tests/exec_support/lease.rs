//! A program whose exec hangs until its file is given free.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::{Shared, python};
use crate::support::skip;

/// Somebody who holds a lease on a program and does not give it up.
pub struct Lease {
    holder: Child,
    pub program: String,
    _shared: Shared,
}

impl Lease {
    pub fn take() -> Option<Lease> {
        let python = python()?;
        let shared = Shared::new();
        let program = shared.file("leased", std::fs::read("/bin/true").unwrap(), 0o755);
        let script = "import fcntl, os, signal, sys\n\
            signal.signal(signal.SIGIO, signal.SIG_IGN)\n\
            fd = os.open(sys.argv[1], os.O_RDONLY)\n\
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
            print('held', flush=True)\n\
            sys.stdin.read()";
        let mut holder = Command::new(python)
            .args(["-c", script, &program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let lease = Lease { holder, program, _shared: shared };
        if line != "held\n" {
            skip("no leases on the files of this machine");
            return None;
        }
        Some(lease)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
