//! What the actors tell each other: one closed enum per mailbox.
//!
//! Orders are imperatives, facts are past tense, both in the receiver's words.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admission::buffers::{Claim, Share};
use crate::config::Config;
use crate::ids::{ClientName, ExecId, RequestId, SessionId};
use crate::process::background::Background;
use crate::process::census::Counted;
use crate::process::removal::Removed;
use crate::process::residue::Cleaned;
use crate::process::spawn::{Launched, SpawnFault};
use crate::process::tree::{Sample, Swept};
use crate::protocol::fault::Fault;
use crate::protocol::limits::Limits;
use crate::protocol::request::{OpenSession, Order, Run};
use crate::runtime::reload::{Reloaded, Reloader, Wish};
use crate::stats::Tally;
use crate::worker::{Setup, Told};

/// To `worker-k`.
#[derive(Debug)]
pub enum ToWorker {
    Open {
        session: SessionId,
        opening: Box<Opening>,
    },
    Run {
        request: RequestId,
        exec: ExecId,
        session: SessionId,
        running: Box<Running>,
    },
    Close {
        request: RequestId,
        session: SessionId,
    },
    /// One command more, or less, waits for a slot to start in the session: until then it is not idle.
    Expect {
        session: SessionId,
        more: bool,
    },
    /// The connection that opened the session is gone.
    Abandon {
        session: SessionId,
    },
    /// Nobody can receive the command's answer any more.
    Cancel {
        exec: ExecId,
    },
    /// What a client asks of one command.
    Exec {
        request: RequestId,
        exec: ExecId,
        order: Box<Order>,
    },
    /// The connection that takes the command's stream is gone.
    Unheard {
        exec: ExecId,
    },
    /// Its running commands as one fragment of `exec.list`: those of a client, of a session, or all.
    ListCommands {
        request: RequestId,
        client: Option<ClientName>,
        session: Option<SessionId>,
    },
    Info {
        request: RequestId,
        session: SessionId,
    },
    History {
        request: RequestId,
        session: SessionId,
        last: Option<u64>,
    },
    /// Its sessions as one fragment of `session.list`: those of a client, or all.
    List {
        request: RequestId,
        client: Option<ClientName>,
    },
    /// Answers a request with what a command of another request came to.
    Tell {
        request: RequestId,
        told: Arc<Told>,
    },
    /// The socket has taken the last piece of an answer, or of a stream.
    More {
        request: RequestId,
    },
    /// The rest of an answer is not wanted any more.
    Forget {
        request: RequestId,
    },
    /// The reaper asks whether the session is idle still; if it is, it closes.
    CheckIdle {
        session: SessionId,
    },
    Launched {
        exec: ExecId,
        launched: Launched,
    },
    Probed {
        session: SessionId,
        probed: Result<(), SpawnFault>,
    },
    Swept {
        exec: ExecId,
        swept: Swept,
    },
    /// None: nobody could look.
    Sampled {
        exec: ExecId,
        sample: Option<Sample>,
    },
    /// What a session's shell has left in the background; none: nobody could look.
    JobsSeen {
        session: SessionId,
        background: Option<Background>,
    },
    /// So many processes of it were killed, for together they were over a limit of the session.
    JobsEnded {
        session: SessionId,
        killed: u64,
    },
    /// The processes of a session that closes are gone; or not, where they outlive SIGKILL.
    ProcessesEnded {
        session: SessionId,
        are_gone: bool,
    },
    /// The uid of a session that closes has left nothing; or what.
    UidCleaned {
        session: SessionId,
        cleaned: Result<(), String>,
    },
    WorkspaceRemoved {
        session: SessionId,
        removed: Removed,
    },
    /// Ends every command, at once or by way of SIGTERM, and closes every session; answers `WorkerEmpty`.
    EndAll {
        at_once: bool,
    },
    /// What it goes by from now on.
    Reload {
        setup: Arc<Setup>,
    },
    Stop,
    /// A step of a session, injected.
    #[cfg(test)]
    Step {
        session: SessionId,
        step: Step,
    },
}

#[cfg(test)]
pub struct Step(pub Box<dyn FnOnce() + Send>);

#[cfg(test)]
impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Step")
    }
}

/// A session to open.
#[derive(Debug)]
pub struct Opening {
    /// None: an ephemeral session, opened by the command that it is for.
    pub request: Option<RequestId>,
    pub client: ClientName,
    pub limits: Limits,
    /// The number of its uid, where they come from a pool.
    pub place: u32,
    /// The uid is to be clean when the session is gone, for somebody may need it at once.
    pub clean_at_end: bool,
    pub spec: OpenSession,
}

/// A command to run.
#[derive(Debug)]
pub struct Running {
    /// Opens its session first, and closes it behind the command.
    pub ephemeral: Option<Box<Opening>>,
    pub limits: Limits,
    pub spec: Run,
    /// The request's id as it was sent, where pieces of a stream must name it.
    pub id: Option<Box<str>>,
    pub asked_at: Instant,
    /// What its input and its outputs may take.
    pub buffers: Claim,
}

/// To `gateway`.
#[derive(Debug)]
pub enum ToGateway {
    /// A whole answer's body (`"result":…` or `"error":…`), or its first piece.
    Answer {
        request: RequestId,
        body: Vec<u8>,
        more: bool,
    },
    /// What a command with a retry key comes to, for all who ask with the same.
    Kept {
        request: RequestId,
        told: Arc<Told>,
    },
    /// The next piece of an answer.
    Piece {
        request: RequestId,
        body: Vec<u8>,
        more: bool,
    },
    /// One notification line of a stream.
    Stream {
        request: RequestId,
        line: Vec<u8>,
        share: Share,
    },
    /// A fragment of an answer that several actors make together.
    Fragment {
        request: RequestId,
        body: Vec<u8>,
    },
    Refused {
        request: RequestId,
        fault: Fault,
    },
    SessionOpened {
        session: SessionId,
    },
    SessionGone {
        session: SessionId,
        idle: bool,
        left: Left,
    },
    /// What sessions had left was looked for: of which uids there is something still, and of which sessions the workspace.
    CleanedUp {
        cleaned: Cleaned,
        sessions: Vec<SessionId>,
    },
    /// So many more uids are ready for sessions, but for those that cannot be used.
    UidsPrepared {
        count: u32,
        unusable: Vec<u32>,
    },
    CommandStarted {
        exec: ExecId,
    },
    CommandGone {
        exec: ExecId,
        session: SessionId,
        end: CommandEnd,
    },
    /// The limits that were set are on the disk, or why not.
    LimitsSaved {
        saved: Result<(), String>,
    },
    /// A started command whose slot is about to be free is kept for whoever asks for it.
    CommandKept {
        exec: ExecId,
    },
    /// It is kept no longer.
    CommandForgotten {
        exec: ExecId,
    },
    Adopt {
        stream: std::os::unix::net::UnixStream,
    },
    /// No more listening, sessions or commands; answers `Drained` to the reaper when no command runs.
    Drain,
    /// The configuration was read again: what goes from now on, and what is told of it.
    Reload(Box<Reloaded>),
    /// Delivers what can be delivered until the deadline, then stops.
    Stop {
        deadline: Instant,
    },
}

/// What may be left of a session that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Its workspace could not be removed.
    pub workspace: bool,
    pub uid: UidFate,
}

impl Left {
    /// Nothing has run in it.
    pub fn nothing() -> Left {
        Left { workspace: false, uid: UidFate::Clean }
    }
}

/// What is known of the uid of a session that is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UidFate {
    /// Nothing is left of it.
    Clean,
    /// It has no process; what else it has left is to be removed before it is used again.
    Rests,
    /// Something of it is left that could not be removed.
    SetAside,
}

/// How a command left its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandEnd {
    /// It never ran.
    NotStarted,
    Finished {
        status: crate::protocol::record::Status,
        spawn_us: u64,
        total_us: u64,
        bytes_read: u64,
        bytes_dropped: u64,
        /// Of this command; what its session has used up.
        cpu: Duration,
        output_bytes: u64,
    },
}

/// To `reaper`.
#[derive(Debug)]
pub enum ToReaper {
    SessionOpened {
        session: SessionId,
        worker: usize,
        idle_ms: u64,
    },
    SessionIdleUntil {
        session: SessionId,
        due: Instant,
    },
    SessionGone {
        session: SessionId,
    },
    /// A command left processes behind, or found some: sweep soon.
    OrphansSeen,
    /// A client asked for it.
    Drain,
    /// No command runs any more.
    Drained,
    /// A worker has ended all its commands and closed all its sessions.
    WorkerEmpty {
        worker: usize,
    },
    /// Strays that belong to nobody were looked for.
    Counted {
        counted: Counted,
    },
    /// All that was owed is written.
    Delivered,
    /// Somebody wants another configuration.
    Reload {
        wish: Wish,
    },
    Reloaded {
        reloader: Box<Reloader>,
        reloaded: Box<Reloaded>,
    },
    Stop,
}

/// To `stats`.
#[derive(Debug)]
pub enum ToStats {
    Count(Box<Tally>),
    /// Asks for the whole of `system.stats`; what the gateway counted last comes along, so that the answer has it.
    Snapshot {
        request: RequestId,
        tally: Box<Tally>,
    },
    Reload {
        config: Arc<Config>,
    },
    Stop,
}
