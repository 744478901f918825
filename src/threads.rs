//! Starting threads, and waiting for them, but not for ever.

use std::any::Any;
use std::io::{self, Write};
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam_channel::{Receiver, bounded};

/// Stacks of threads that parse JSON; what is not touched costs nothing.
const STACK_BYTES: usize = 1 << 20;

/// Starts a thread of ours: named, with a stack that is large enough for any of them. A panic that reaches its top is
/// a fault of the whole runtime, which must not go on half.
#[allow(
    clippy::disallowed_methods,
    reason = "the one place that starts threads, and the end of a runtime that is broken"
)]
pub fn thread(name: String, main: impl FnOnce() + Send + 'static) -> io::Result<Joinable> {
    let (ending, ended) = bounded::<()>(0);
    let told = name.clone();
    let handle = std::thread::Builder::new().name(name.clone()).stack_size(STACK_BYTES).spawn(move || {
        let _ending = ending;
        if let Err(payload) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(main)) {
            // Written, not logged: the log's own thread has no time left for it.
            let _ = writeln!(io::stderr(), "cofferdam: {told} has panicked, the runtime ends: {}", said(&*payload));
            std::process::abort();
        }
    })?;
    Ok(Joinable { name, handle, ended })
}

/// A thread that can be waited for, but not for ever.
pub struct Joinable {
    name: String,
    handle: JoinHandle<()>,
    ended: Receiver<()>,
}

impl Joinable {
    pub fn join(self, deadline: Instant) {
        // The sender is dropped at the thread's end: the wait ends with "disconnected".
        match self.ended.recv_deadline(deadline) {
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => log::error!("{} does not end", self.name),
            Ok(()) | Err(crossbeam_channel::RecvTimeoutError::Disconnected) => drop(self.handle.join()),
        }
    }
}

/// The text of a panic, where it has one.
fn said(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a text")
}
