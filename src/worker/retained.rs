//! Commands that were started, have ended, and are kept for whoever asks later; and what is asked of any command.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::command::{Command, Due};
use super::record::{Finished, Held, Kept};
use super::waits::Wanted;
use super::{Answer, Worker};
use crate::admission::buffers::Account;
use crate::ids::{ExecId, RequestId, SessionId};
use crate::message::ToGateway;
use crate::protocol::encode::{Body, Object};
use crate::protocol::fault::Fault;
use crate::protocol::request::Order;

/// The record of a command, with its outputs.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub finished: Finished,
    pub stdout: Kept,
    pub stderr: Kept,
    pub base64: bool,
    /// Whose memory it takes.
    pub account: Account,
}

/// What a command with a retry key came to.
#[derive(Debug)]
pub enum Told {
    /// It was started, and goes on by itself: the body of the answer.
    Started(Vec<u8>),
    Ended(Box<Outcome>),
}

impl Told {
    /// What it takes, a record's few numbers included.
    pub fn bytes(&self) -> usize {
        match self {
            Told::Started(body) => body.len(),
            Told::Ended(outcome) => outcome.bytes() as usize + RECORD_BYTES,
        }
    }
}

/// A record without its outputs takes so much, about.
const RECORD_BYTES: usize = 512;

impl Outcome {
    pub fn output(&self, stderr: bool) -> Kept {
        if stderr { self.stderr.clone() } else { self.stdout.clone() }
    }

    pub fn body(&self) -> Body {
        self.finished.body(&self.stdout, &self.stderr, self.base64)
    }

    /// Bytes that it keeps.
    fn bytes(&self) -> u64 {
        (self.stdout.bytes().unwrap_or(0) + self.stderr.bytes().unwrap_or(0)) as u64
    }

    /// Keeps the counts alone; how many bytes went.
    fn drop_output(&mut self) -> u64 {
        let before = self.bytes();
        for kept in [&mut self.stdout, &mut self.stderr] {
            if let Some(held) = &mut kept.held {
                *held = Arc::new(Held { bytes: Vec::new(), head: 0, _share: None });
            }
        }
        before
    }
}

impl Worker {
    /// What is asked of one command.
    pub(super) fn exec(&mut self, request: RequestId, exec: ExecId, order: Order) {
        match order {
            Order::Wait { wait_ms } => self.wait_for_record(request, exec, wait_ms),
            Order::Read(read) => self.read_part(exec, request, read),
            Order::Write { .. } | Order::Signal(_) | Order::Kill | Order::Resize(_) => {
                let tools = &mut self.tools;
                let command = self.commands.get_mut(&exec).filter(|command| !command.has_ended());
                let done = match command {
                    Some(command) => command.obey(order, tools),
                    None => Err(Fault::exec_finished(&exec.to_string())),
                };
                match done {
                    Ok(body) => self.tools.gateway.tell(ToGateway::Answer { request, body, more: false }),
                    Err(fault) => self.refuse_order(request, fault),
                }
            }
        }
    }

    fn wait_for_record(&mut self, request: RequestId, exec: ExecId, wait_ms: Option<u64>) {
        if let Some(outcome) = self.retained.get(&exec) {
            let (body, account) = (outcome.body(), outcome.account.clone());
            return self.tell_body(request, None, &account, body);
        }
        match self.commands.get(&exec) {
            Some(command) if !command.given_up => {
                self.wait_for(exec, request, Wanted::Record, wait_ms);
                if wait_ms == Some(0) {
                    self.waited(exec, request);
                }
            }
            // Its record was told, and is not kept.
            Some(_) | None => self.refuse_order(request, Fault::exec_not_found(&exec.to_string())),
        }
    }

    /// Answers everybody who waits for a command that has ended.
    pub(super) fn tell_waiting(&mut self, exec: ExecId, session: SessionId, outcome: &Outcome) {
        for (request, wanted) in self.all_waiting(exec) {
            match wanted {
                Wanted::Record => self.tell_body(request, Some(session), &outcome.account, outcome.body()),
                Wanted::Part(read) => {
                    self.tell_part_of_ended(exec, request, &read, outcome);
                }
            }
        }
    }

    /// An answer, encoded as the socket takes it; behind the end of this session, where that is the command's own.
    pub(super) fn tell_body(&mut self, request: RequestId, session: Option<SessionId>, account: &Account, body: Body) {
        let mut answer = Answer { body, account: account.clone() };
        let mut piece = Vec::with_capacity(1024);
        answer.body.encode(answer.piece_bytes(), &mut piece);
        let more = !answer.body.is_empty();
        // What an answer held that is encoded to its end comes back before the answer goes out.
        if more {
            self.answers.insert(request, answer);
        } else {
            drop(answer);
        }
        let answer = ToGateway::Answer { request, body: piece, more };
        match session {
            Some(session) => self.answer(session, answer),
            None => self.tools.gateway.tell(answer),
        }
    }

    /// The answer to one who asks with the retry key of another's command.
    pub(super) fn tell_again(&mut self, request: RequestId, told: &Told) {
        match told {
            Told::Started(body) => {
                self.tools.gateway.tell(ToGateway::Answer { request, body: body.clone(), more: false })
            }
            Told::Ended(outcome) => self.tell_body(request, None, &outcome.account, outcome.body()),
        }
    }

    /// Keeps the outcome of a command that was started, for whoever asks within the time.
    pub(super) fn retain(&mut self, command: &Command, outcome: &Outcome) {
        let config = &self.tools.setup.config;
        let retain = Duration::try_from_secs_f64(config.commands.retain_s).unwrap_or_default();
        let open = self.sessions.get(&command.session).is_some_and(|session| !session.is_closing());
        if !command.background || !open || retain.is_zero() || config.sessions.max_history == 0 {
            return;
        }
        let bytes_max = config.commands.max_buffer_bytes / 2;
        let retained_bytes = &self.tools.setup.retained_bytes;
        let mut bytes = retained_bytes.fetch_add(outcome.bytes(), Ordering::Relaxed) + outcome.bytes();
        self.retained.insert(command.exec, outcome.clone());
        // The other half is for what runs. The oldest outputs go first; their records stay, and count them as dropped.
        for outcome in self.retained.values_mut() {
            if bytes <= bytes_max {
                break;
            }
            let dropped = outcome.drop_output();
            bytes = retained_bytes.fetch_sub(dropped, Ordering::Relaxed) - dropped;
            self.tools.tally.bytes_dropped += dropped;
        }
        self.tools.deadlines.set((command.exec, Due::Forget), Instant::now() + retain);
        self.tools.gateway.leave(ToGateway::CommandKept { exec: command.exec });
    }

    /// Keeps a command no longer.
    pub(super) fn forget(&mut self, exec: ExecId) {
        let Some(outcome) = self.retained.remove(&exec) else { return };
        self.tools.setup.retained_bytes.fetch_sub(outcome.bytes(), Ordering::Relaxed);
        self.tools.deadlines.clear(&(exec, Due::Forget));
        self.tools.gateway.tell(ToGateway::CommandForgotten { exec });
    }

    /// A session goes, and with it all that was kept for it.
    pub(super) fn forget_all(&mut self, session: SessionId) {
        let of_it = |(exec, outcome): (&ExecId, &Outcome)| (outcome.finished.session == session).then_some(*exec);
        for exec in self.retained.iter().filter_map(of_it).collect::<Vec<_>>() {
            self.forget(exec);
        }
    }

    /// Its commands as one fragment of `exec.list`: those of a client, of a session, or all.
    pub(super) fn list_commands(&self, request: RequestId, client: Option<&str>, session: Option<SessionId>) {
        let wanted = |command: &&Command| {
            let owner = self.sessions.get(&command.session).map(|session| &*session.client);
            session.is_none_or(|session| session == command.session)
                && client.is_none_or(|client| owner == Some(client))
        };
        let mut all: Vec<&Command> = self.commands.values().filter(wanted).collect();
        all.sort_unstable_by_key(|command| command.exec);
        let mut body = Vec::new();
        for command in all {
            let before = body.len();
            if before > 0 {
                body.push(b',');
            }
            if !command.list(&mut body) {
                body.truncate(before);
            }
        }
        self.tools.gateway.tell(ToGateway::Fragment { request, body });
    }
}

/// `"result":…` of `exec.start`.
pub fn started_body(exec: ExecId, session: SessionId, pid: Option<i32>) -> Vec<u8> {
    let mut body = b"\"result\":".to_vec();
    let mut result = Object::begin(&mut body);
    result.str("exec", &exec.to_string());
    result.str("session", &session.to_string());
    result.opt_int("pid", pid);
    result.end();
    body
}
