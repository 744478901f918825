//! One session: an actor with an address, private state and one event at a time, hosted by a worker.
//!
//! It owns its commands' ids, its environment, its limits and its working directory; what a command does is in
//! `command`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::shell::Shell;
use super::tools::Setup;
use crate::admission::budget::Spent;
use crate::ids::{ClientName, ExecId, RequestId, SessionId};
use crate::message::{Opening, ToGateway};
use crate::process::identity::Variable;
use crate::process::launch;
use crate::process::workspace::Workspace;
use crate::protocol::budget::Budget;
use crate::protocol::encode::Object;
use crate::protocol::limits::Limits;
use crate::protocol::request::STANDARD_SHELL;
use crate::sys::clone::Identity;

/// Where a session stands.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// A trial tells whether its directory can be used.
    Opening {
        request: RequestId,
    },
    Open,
    /// Its commands are being ended, then its directory goes; these requests wait for that.
    Closing {
        requests: Vec<RequestId>,
        idle: bool,
    },
}

pub struct Session {
    pub id: SessionId,
    pub client: ClientName,
    pub state: State,
    pub persist: bool,
    /// Opened by a command that had none, and closed behind it.
    pub ephemeral: bool,
    /// Closes when no command runs any more: its connection is gone, and what runs may finish.
    pub close_when_idle: bool,
    pub limits: Limits,
    pub identity: Option<Identity>,
    pub cwd: String,
    pub home: String,
    /// Its private directory, if it has one.
    pub workspace: Option<Workspace>,
    pub idle: Duration,
    /// What is told when it is gone: the record of the command that it was opened for, whose places are free by then.
    pub farewell: Vec<ToGateway>,
    /// Commands that run and are not given up.
    pub running: Vec<ExecId>,
    /// Its directory is being removed, and it is gone when that is done.
    pub removing: bool,
    /// The shell that its `cmd` commands share.
    pub shell: Option<Box<Shell>>,
    /// Commands that wait for a slot to start in it.
    pub expected: u32,
    name: Option<String>,
    env: Vec<(String, String)>,
    clear_env: bool,
    last_active: Instant,
    pub(super) budget: Budget,
    /// By commands that are over.
    pub(super) spent: Spent,
    history: VecDeque<(ExecId, Box<[u8]>)>,
}

impl Session {
    /// `workspace` is its private directory, the default for what it does not name itself.
    pub fn new(id: SessionId, opening: Opening, workspace: Option<Workspace>, setup: &Setup) -> Session {
        let Opening { request, client, limits, place, spec } = opening;
        let base = workspace.as_ref().map_or("", |workspace| &*workspace.path);
        let cwd = launch::directory(base, spec.cwd.as_deref());
        let now = Instant::now();
        let uid = setup.policy.of_session(place).filter(|_| setup.policy.is_pool()).map(|identity| identity.uid);
        Session {
            id,
            client,
            state: request.map_or(State::Open, |request| State::Opening { request }),
            persist: spec.persist,
            ephemeral: request.is_none(),
            close_when_idle: request.is_none(),
            limits,
            identity: setup.policy.of_session(place),
            home: cwd.clone(),
            workspace,
            cwd,
            idle: spec
                .idle_ms
                .map_or(Duration::from_secs_f64(setup.config.sessions.max_idle_sec), Duration::from_millis),
            farewell: Vec::new(),
            running: Vec::new(),
            removing: false,
            shell: spec.shell.map(|path| Box::new(Shell::new(path, &setup.unique(id), uid))),
            expected: 0,
            name: spec.name,
            env: spec.env,
            clear_env: spec.clear_env,
            last_active: now,
            budget: spec.budget,
            spent: Spent::nothing(now),
            history: VecDeque::new(),
        }
    }

    /// A directory as [`Common::plan`](launch::Common::plan) wants it.
    pub fn place<'a>(&'a self, cwd: &'a str) -> (Option<&'a Workspace>, &'a str) {
        (self.workspace.as_ref(), cwd)
    }

    /// The environment of one of its commands.
    pub fn environment(&self, exec: Option<ExecId>, command: &[(String, String)], setup: &Setup) -> Vec<Variable> {
        let own = [
            ("COFFERDAM_EXEC", exec.map_or_else(String::new, |exec| setup.unique(exec))),
            ("COFFERDAM_SESSION", setup.unique(self.id)),
        ];
        setup.environment.of_command(self.clear_env, &self.home, &self.env, command, own)
    }

    pub fn command_started(&mut self, exec: ExecId) {
        self.running.push(exec);
        self.last_active = Instant::now();
    }

    /// A command has left; where it ran, its record without the outputs stays. Those that are remembered no longer
    /// for that: more than one where the maximum was lowered meanwhile.
    pub fn command_gone(&mut self, exec: ExecId, ran: Option<Ran>, history_max: usize) -> Vec<ExecId> {
        self.running.retain(|running| *running != exec);
        self.last_active = Instant::now();
        let Some(Ran { record, cpu, output_bytes }) = ran else { return Vec::new() };
        self.spent.count(cpu, output_bytes);
        if self.ephemeral || history_max == 0 {
            return Vec::new();
        }
        let over = (self.history.len() + 1).saturating_sub(history_max);
        let forgotten = self.history.drain(..over).map(|(exec, _)| exec).collect();
        self.history.push_back((exec, record));
        forgotten
    }

    /// Somebody has asked for something.
    pub fn touch(&mut self) {
        self.last_active = Instant::now();
    }

    /// When the reaper may close it, if nothing happens until then.
    pub fn idle_due(&self) -> Instant {
        self.last_active + self.idle
    }

    pub fn is_idle(&self) -> bool {
        self.state == State::Open && self.running.is_empty() && self.expected == 0
    }

    pub fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing { .. })
    }

    fn usage(&self, object: &mut Object) {
        let mut usage = object.object("usage");
        usage.ms("cpu_ms", self.spent.cpu.as_micros() as u64);
        usage.int("output_bytes", self.spent.output_bytes);
        usage.int("wall_ms", self.spent.opened.elapsed().as_millis() as u64);
        usage.end();
    }

    /// `"result":…` of `session.open`.
    pub fn opened_body(&self) -> Vec<u8> {
        let mut body = b"\"result\":".to_vec();
        let mut result = Object::begin(&mut body);
        result.str("session", &self.id.to_string());
        result.str("cwd", &self.cwd);
        let mut limits = result.object("limits");
        self.limits.encode(&mut limits);
        limits.end();
        result.end();
        body
    }

    /// `"result":…` of `session.close`.
    pub fn closed_body(&self) -> Vec<u8> {
        let mut body = b"\"result\":".to_vec();
        let mut result = Object::begin(&mut body);
        result.bool("closed", true);
        result.int("commands", self.spent.commands);
        self.usage(&mut result);
        result.end();
        body
    }

    /// The object of `session.info` and `session.list`.
    pub fn info(&self, out: &mut Vec<u8>, commands_max: usize, ceilings: &Limits) {
        let mut info = Object::begin(out);
        info.str("session", &self.id.to_string());
        info.opt_str("name", self.name.as_deref());
        info.str("client", &self.client);
        info.str("cwd", &self.cwd);
        match self.shell.as_deref().map(|shell| &*shell.path) {
            Some(path) if path != STANDARD_SHELL => info.str("shell", path),
            shell => info.bool("shell", shell.is_some()),
        }
        info.bool("persist", self.persist);
        info.bool("busy", self.running.len() >= commands_max);
        let running: Vec<String> = self.running.iter().map(ExecId::to_string).collect();
        info.strings("running", running.iter().map(String::as_str));
        info.int("created_ms_ago", self.spent.opened.elapsed().as_millis() as u64);
        let idle = if self.running.is_empty() { self.last_active.elapsed() } else { Duration::ZERO };
        info.int("idle_ms", idle.as_millis() as u64);
        info.int("commands", self.spent.commands);
        self.usage(&mut info);
        let mut limits = info.object("limits");
        self.limits.within(ceilings).encode(&mut limits);
        limits.end();
        let mut budget = info.object("budget");
        self.budget.encode(&mut budget);
        budget.end();
        info.end();
    }

    /// `"result":…` of `session.history`: newest last.
    pub fn history_body(&self, last: Option<u64>) -> Vec<u8> {
        let last = last.map_or(self.history.len(), |last| usize::try_from(last).unwrap_or(usize::MAX));
        let mut body = b"\"result\":{\"commands\":[".to_vec();
        for (at, (_, record)) in self.history.iter().skip(self.history.len().saturating_sub(last)).enumerate() {
            if at > 0 {
                body.push(b',');
            }
            body.extend_from_slice(record);
        }
        body.extend_from_slice(b"]}");
        body
    }
}

/// What a session remembers of a command that ran.
pub struct Ran {
    pub record: Box<[u8]>,
    pub cpu: Duration,
    pub output_bytes: u64,
}
