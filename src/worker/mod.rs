//! Runs on `worker-k`. Owns its sessions and their commands: children, pipes, deadlines. Blocks in its poll alone;
//! never touches a socket, and leaves to the errands what a file system may hold up.

mod budget;
mod closing;
mod command;
mod commands;
mod pipes;
mod reads;
mod record;
mod relief;
mod retained;
mod ring;
mod session;
mod sessions;
mod shell;
mod stream;
mod terminal;
mod tools;
mod waits;

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use nix::sys::signal::SigSet;

use self::command::{Command, Pipe};
pub use self::commands::too_long;
pub use self::relief::Relief;
use self::retained::Outcome;
pub use self::retained::Told;
use self::session::Session;
use self::shell::Lingering;
pub use self::tools::Setup;
use self::tools::Tools;
use self::waits::Waits;
use crate::admission::buffers::Account;
use crate::admission::descriptors::Descriptors;
use crate::ids::{ExecId, RequestId, SessionId};
use crate::mailbox::{Inbox, Mailbox};
use crate::message::{ToGateway, ToReaper, ToStats, ToWorker};
use crate::process::child::{Child, Children};
use crate::process::living::Joined;
use crate::protocol::encode::Body;
use crate::sys::clone::Stack;
use crate::sys::starter;

/// Token of the mailbox; commands use four each from 0 upwards, and never get there.
pub const INBOX: Token = Token(usize::MAX);
/// Messages, events and pipes of one turn: nobody waits longer than for so many others.
const TURN_MAX: usize = 128;
/// A turn that takes longer is told: something in it blocks that should not.
const SLOW_TURN: Duration = Duration::from_millis(100);
/// Read of a pipe at once: all that one holds unless it was made larger.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Of an answer, encoded at once.
const PIECE_BYTES: usize = 64 * 1024;
/// The same where the memory for all is used up: the rest of the answer takes its own until it is encoded to the end, so
/// there must be a next piece, and it must be small.
const SHORT_PIECE_BYTES: usize = 4 * 1024;
/// Counts are handed over at the end of a command, and this often while one runs.
const TALLY_EVERY: Duration = Duration::from_millis(250);

pub struct Worker {
    index: usize,
    poll: Poll,
    inbox: Inbox<ToWorker>,
    tools: Tools,
    sessions: HashMap<SessionId, Session>,
    commands: HashMap<ExecId, Command>,
    /// Answers that the socket has not taken to the end.
    answers: HashMap<RequestId, Answer>,
    /// Streamed commands by their request.
    streams: HashMap<RequestId, ExecId>,
    /// Started commands that have ended, oldest first.
    retained: BTreeMap<ExecId, Outcome>,
    waits: Waits,
    /// Children given up alive: killed, and reaped when they are gone (invariant 3).
    graveyard: HashMap<ExecId, (SessionId, Child)>,
    /// Outputs that outlived their commands, for background jobs have them open.
    lingering: HashMap<ExecId, Lingering>,
    last_host: u64,
    /// What is being started, while the state is parked.
    starting: Option<ExecId>,
    /// Every session closes, and the reaper hears of the last.
    ending: bool,
    stopping: bool,
}

/// An answer on its way; its outputs bring the memory that they take.
struct Answer {
    body: Body,
    /// Whose memory the pieces take.
    account: Account,
}

impl Answer {
    /// How much of it to encode at once.
    fn piece_bytes(&self) -> usize {
        let full = self.account.room() < PIECE_BYTES as u64 * 2;
        if full { SHORT_PIECE_BYTES } else { PIECE_BYTES }
    }
}

/// What the runtime hands to a worker.
pub struct Links {
    pub relief: Arc<Relief>,
    pub descriptors: Descriptors,
    pub own: Mailbox<ToWorker>,
    pub gateway: Mailbox<ToGateway>,
    pub reaper: Mailbox<ToReaper>,
    pub stats: crossbeam_channel::Sender<ToStats>,
}

impl Worker {
    pub fn new(
        index: usize,
        poll: Poll,
        inbox: Inbox<ToWorker>,
        links: Links,
        setup: Arc<Setup>,
    ) -> std::io::Result<Self> {
        let registry = poll.registry().try_clone()?;
        let Links { relief, descriptors, own, gateway, reaper, stats } = links;
        let tools = Tools {
            setup,
            registry,
            relief,
            descriptors,
            own,
            gateway,
            reaper,
            stats,
            deadlines: Default::default(),
            starts: Default::default(),
            scratch: vec![0; SCRATCH_BYTES],
            ready: Default::default(),
            tally: Default::default(),
            tally_since: None,
        };
        Ok(Worker {
            index,
            poll,
            inbox,
            tools,
            sessions: HashMap::new(),
            commands: HashMap::new(),
            answers: HashMap::new(),
            streams: HashMap::new(),
            retained: BTreeMap::new(),
            waits: Waits::default(),
            graveyard: HashMap::new(),
            lingering: HashMap::new(),
            last_host: 0,
            starting: None,
            ending: false,
            stopping: false,
        })
    }

    /// Until it is told to stop, or another thread goes on in its place. `_joined` goes last: what its commands have made
    /// siblings of themselves is a child of this thread until its end.
    pub fn run(self: Box<Self>, relief: &Relief, _joined: Joined) {
        let _ = SigSet::all().thread_block();
        if !self.tools.setup.common.inherit {
            self.leave_what_is_the_starters();
        }
        let mut worker = self;
        let mut events = Events::with_capacity(TURN_MAX);
        let mut stack = Stack::new();
        let children = Children::none();
        while !worker.stopping {
            // First what was left by the thread that this one relieves.
            while let Some(start) = worker.tools.starts.pop_front() {
                let exec = start.exec;
                worker.starting = Some(exec);
                let Some((back, launched)) = relief.start(worker, start, &mut stack, &children) else {
                    return children.outlive();
                };
                worker = back;
                worker.starting = None;
                worker.guarded(Some(exec), None, |worker| worker.launched(exec, launched));
            }
            worker.turn(&mut events);
        }
    }

    /// Commands inherit from this thread, and nothing of whoever started us is theirs.
    fn leave_what_is_the_starters(&self) {
        let steps = [
            ("inheritable and ambient capabilities", starter::keep_no_capability_across_exec()),
            ("scheduling priority", starter::reset_priority_of_children(self.tools.setup.common.nice)),
            ("I/O priority", starter::reset_io_priority()),
            ("session keyring", starter::leave_session_keyring()),
        ];
        for (what, done) in steps {
            if let Err(errno) = done {
                log::error!("worker-{}: commands inherit the daemon's {what}: {errno}", self.index);
            }
        }
    }

    fn turn(&mut self, events: &mut Events) {
        self.wait(events);
        let began = Instant::now();
        self.drain_inbox();
        for event in &*events {
            if event.token() != INBOX {
                let (exec, pipe) = Pipe::of_token(event.token());
                self.guarded(Some(exec), None, |worker| worker.ready(exec, pipe));
            }
        }
        for _ in 0..self.tools.ready.len().min(TURN_MAX) {
            let Some((exec, pipe)) = self.tools.ready.pop_front() else { break };
            self.guarded(Some(exec), None, |worker| worker.ready(exec, pipe));
        }
        let now = Instant::now();
        for _ in 0..TURN_MAX {
            let Some((exec, due)) = self.tools.deadlines.pop_due(now) else { break };
            self.guarded(Some(exec), None, |worker| worker.due(exec, due));
        }
        if self.tools.tally_since.is_some_and(|since| now >= since + TALLY_EVERY) {
            self.tools.report_tally();
        }
        if began.elapsed() > SLOW_TURN {
            log::warn!("worker-{} had a turn of {} ms", self.index, began.elapsed().as_millis());
        }
    }

    fn wait(&mut self, events: &mut Events) {
        let now = Instant::now();
        let mut timeout = self.tools.deadlines.wait(now);
        if let Some(since) = self.tools.tally_since {
            let report = (since + TALLY_EVERY).saturating_duration_since(now);
            timeout = Some(timeout.map_or(report, |timeout| timeout.min(report)));
        }
        if !self.tools.ready.is_empty() {
            timeout = Some(Duration::ZERO);
        }
        if let Err(error) = self.poll.poll(events, timeout)
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            log::error!("worker-{} cannot poll: {error}", self.index);
        }
    }

    fn drain_inbox(&mut self) {
        self.inbox.disarm();
        for _ in 0..TURN_MAX {
            let Some(message) = self.inbox.next() else { return };
            let (exec, session) = addressee(&message);
            self.guarded(exec, session, |worker| worker.on(message));
        }
        self.inbox.rearm();
    }

    /// Runs one step. A panic in it ends the session that it was for, with INTERNAL, and nothing else (invariant 5).
    fn guarded(&mut self, exec: Option<ExecId>, session: Option<SessionId>, step: impl FnOnce(&mut Self)) {
        let session = session.or_else(|| self.commands.get(&exec?).map(|command| command.session));
        if catch_unwind(AssertUnwindSafe(|| step(self))).is_err()
            && let Some(session) = session
        {
            log::error!("session={session} worker-{}: a fault of ours; the session is ended", self.index);
            self.end_faulty(session);
        }
    }

    fn on(&mut self, message: ToWorker) {
        match message {
            ToWorker::Open { session, opening } => self.open(session, *opening),
            ToWorker::Run { request, exec, session, running } => self.start(request, exec, session, *running),
            ToWorker::Close { request, session } => self.close(session, Some(request), false),
            ToWorker::Expect { session, more } => self.expect(session, more),
            ToWorker::Abandon { session } => self.abandon(session),
            ToWorker::Cancel { exec } => {
                self.with(exec, |command, tools| {
                    command.wanted = false;
                    if !command.finish_on_disconnect {
                        command.hang_up(tools);
                    }
                    command.unheard(tools)
                });
            }
            ToWorker::Exec { request, exec, order } => {
                self.exec(request, exec, *order);
                self.with(exec, |command, _| command.next());
            }
            ToWorker::Unheard { exec } => self.with(exec, |command, tools| command.unheard(tools)),
            ToWorker::ListCommands { request, client, session } => {
                self.list_commands(request, client.as_deref(), session)
            }
            ToWorker::Info { request, session } => {
                let (commands_max, ceilings) = (self.commands_max(), self.ceilings());
                self.tell_of(request, session, |session| {
                    let mut body = b"\"result\":".to_vec();
                    session.info(&mut body, commands_max, &ceilings);
                    body
                });
            }
            ToWorker::History { request, session, last } => {
                self.tell_of(request, session, |session| session.history_body(last));
            }
            ToWorker::List { request, client } => self.list(request, client.as_deref()),
            ToWorker::Tell { request, told } => self.tell_again(request, &told),
            ToWorker::More { request } => self.more(request),
            ToWorker::Forget { request } => self.forget_request(request),
            ToWorker::CheckIdle { session } => self.check_idle(session),
            ToWorker::Launched { exec, launched } => self.launched(exec, launched),
            ToWorker::Probed { session, probed } => self.probed(session, probed),
            ToWorker::Swept { exec, swept } => self.with(exec, |command, tools| command.swept(swept, tools)),
            ToWorker::Sampled { exec, sample } => self.sampled(exec, sample),
            ToWorker::JobsSeen { session, background } => self.jobs_seen(session, background),
            ToWorker::JobsEnded { session, killed } => self.jobs_ended(session, killed),
            ToWorker::ProcessesEnded { session, are_gone } => self.processes_ended(session, are_gone),
            ToWorker::UidCleaned { session, cleaned } => self.uid_cleaned(session, cleaned),
            ToWorker::WorkspaceRemoved { session, removed } => self.workspace_removed(session, removed),
            ToWorker::EndAll { at_once } => self.end_all(at_once),
            ToWorker::Reload { setup } => self.tools.setup = setup,
            ToWorker::Stop => self.stopping = true,
            #[cfg(test)]
            ToWorker::Step { step, .. } => (step.0)(),
        }
    }
}

/// Whose step a message is, for the case that the step is faulty.
fn addressee(message: &ToWorker) -> (Option<ExecId>, Option<SessionId>) {
    match message {
        ToWorker::Open { session, .. }
        | ToWorker::Run { session, .. }
        | ToWorker::Close { session, .. }
        | ToWorker::Expect { session, .. }
        | ToWorker::Abandon { session }
        | ToWorker::Info { session, .. }
        | ToWorker::History { session, .. }
        | ToWorker::CheckIdle { session }
        | ToWorker::Probed { session, .. }
        | ToWorker::JobsSeen { session, .. }
        | ToWorker::JobsEnded { session, .. }
        | ToWorker::ProcessesEnded { session, .. }
        | ToWorker::UidCleaned { session, .. }
        | ToWorker::WorkspaceRemoved { session, .. } => (None, Some(*session)),
        ToWorker::Cancel { exec }
        | ToWorker::Exec { exec, .. }
        | ToWorker::Unheard { exec }
        | ToWorker::Launched { exec, .. }
        | ToWorker::Swept { exec, .. }
        | ToWorker::Sampled { exec, .. } => (Some(*exec), None),
        ToWorker::List { .. }
        | ToWorker::ListCommands { .. }
        | ToWorker::Tell { .. }
        | ToWorker::More { .. }
        | ToWorker::Forget { .. }
        | ToWorker::EndAll { .. }
        | ToWorker::Reload { .. }
        | ToWorker::Stop => (None, None),
        #[cfg(test)]
        ToWorker::Step { session, .. } => (None, Some(*session)),
    }
}
