//! Runs other programs for its clients on a small machine, under limits, and is never brought down by them.
//!
//! There are three ways in: the daemon and its line protocol (`cofferdam serve`, see the README), [`Client`] to talk to
//! a daemon, and [`Runtime`] to have one inside another program. They share every line below.
//!
//! ```no_run
//! use cofferdam::client::{LimitSet, Run};
//! use cofferdam::{Config, Runtime};
//!
//! let mut config = Config::default();
//! config.listen = None; // no TCP port: only this program is a client
//! let runtime = Runtime::start(config)?;
//! let limits = LimitSet { memory_bytes: Some(64 << 20), ..LimitSet::default() };
//! let record = runtime.submit(&Run { timeout_s: Some(5.0), limits: Some(limits), ..Run::cmd("sort /etc/passwd") })?;
//! println!("{} after {} ms", record.status.as_str(), record.wall_ms);
//! runtime.stop();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The thread map
//!
//! Plain threads are the actors. Each owns its state alone, has one mailbox and one place where it blocks; what they
//! know of each other is messages (`message`), and no lock stands on a path that a request takes, but for one that is
//! never contended while nothing hangs (`worker::relief`), and one for each worker that nobody but a look at stray
//! processes contends (`process::living`). Two things are counted by several, in atomics
//! (`admission::account`): the memory that is held for clients, and the descriptors that may be open for them.
//!
//! ```text
//!   guard process             holds the lifeline; forwards signals; kills what a dead runtime leaves
//!     └─ runtime process
//!          clients ══ TCP, Unix ══▶ gateway ──ToWorker──▶ worker-0 … worker-N ══ pipes, pidfds ══▶ process trees
//!                                   gateway ◀─ToGateway── worker-k
//!          signals ═══════════════▶ reaper ── orders: close what idles, reload, end all ──▶ gateway, workers
//!                                   relief ── goes on in place of a worker whose start of a command hangs
//!                                   errand-k ◀── what may block in a file system ── gateway, workers, reaper
//!          every thread ─counters─▶ stats          every thread ─lines─▶ log
//! ```
//!
//! | thread | blocks in | owns |
//! | --- | --- | --- |
//! | guard (a process of its own) | `sigwait` | the runtime's process, and whatever it leaves behind |
//! | `reaper`, on the runtime's main thread | its poll: signals, mailbox, next sweep | when strays are looked for, idle expiry, the order of shutdown and reload |
//! | `gateway` | its poll: listeners, connections, mailbox | connections, framing, requests in flight; admission: sessions and slots, quotas, rate, queue, retry keys |
//! | `worker-k` | its poll: pipes and pidfds of its children, mailbox, next deadline | its sessions and their commands, from the start to the reap |
//! | `relief` | a channel, with a tick while a command is being started | the state of a worker that is starting a command |
//! | `errand-k` | reading its queue | trials of a working directory, walks of /proc, ending sessions' processes, removing what they leave, reading the configuration again, saving limits |
//! | `stats` | a channel | counters, histograms, samples of /proc |
//! | `log` | a channel | stderr |
//!
//! A program that embeds a [`Runtime`] has no guard and no `log`, and its reaper runs on a thread of that name.
//!
//! # The invariants
//!
//! What holds whatever clients and commands do. Tests and comments name them by number.
//!
//! 1. Only the worker that owns a child signals it, never after it was reaped: reaping takes the handle away, and with
//!    it the means (`process::child`).
//! 2. A main process that has ended is looked at without being reaped, then its tree is killed, and only then is it
//!    reaped: until then its number is nobody else's.
//! 3. A child that has to be given up alive is killed and kept in a graveyard until it is gone. Nobody waits for it.
//! 4. An answer follows its effect. One request has one answer, one command one final record.
//! 5. A panic while a session is served ends that session, with `INTERNAL`, and nothing else; so release builds unwind.
//! 6. A thread blocks in its one place only. What it does in one turn is bounded in messages and bytes, a slow turn is
//!    logged, and what has to wait (SIGTERM, grace, SIGKILL) waits as a deadline in the state.
//! 7. Whatever a client can make grow, be it a queue, line, ring, list or map, ends at a number of the configuration.
//! 8. "Full" and "gone" are two answers, and both give the message back.
//! 9. A claim (a slot, a session's place, a quota, memory) is taken before its effect and given back exactly once.
//! 10. Mailboxes push, then wake unless somebody has; the owner disarms before it drains and arms itself again when it
//!     stops early. No message is left lying.
//! 11. No id is used twice in a process's life. One that is unknown belongs to an event that came late, and is ignored.
//! 12. Workers and reaper touch no socket; the gateway touches no pid and encodes no output.
//! 13. All limits hold before a command's first instruction. A request lowers a ceiling or leaves it; it raises none.
//! 14. Nothing of ours leaks into a command: no descriptor, signal mask, disposition, controlling terminal, capability,
//!     key or priority, and of the environment only what `pass_env` names. What we do as a command's uid is out of that
//!     uid's reach.
//! 15. The daemon does not exit with a child left, and no child survives the daemon.
//! 16. Statistics may be late, and what is lost is counted; they slow nobody down.
//! 17. All unsafe code is in `sys`, a call a block, each with its argument.
//! 18. A configuration that cannot be honoured stops the start, and names the key, what was found and what is needed.
//!
//! Some are held by the compiler (17, and 1 by ownership), some by clippy (`clippy.toml` lists the calls that are
//! disallowed, each with the invariant it would break), the rest by tests.
#![deny(unsafe_code)]
#![warn(missing_docs)]
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod admission;
#[doc(hidden)]
pub mod cli;
pub mod client;
pub mod config;
mod deadlines;
mod enforcement;
mod gateway;
mod guard;
mod ids;
mod logging;
mod mailbox;
mod message;
mod ownership;
mod process;
mod protocol;
mod reaper;
pub mod runtime;
mod stats;
mod strings;
mod sys;
mod threads;
mod worker;

pub use client::Client;
pub use config::Config;
pub use protocol::record::Record;
pub use runtime::Runtime;

/// The README's examples, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
