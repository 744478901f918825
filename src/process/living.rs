//! What of ours lives: sessions, commands, main processes that are not reaped yet, and the threads that started them.
//!
//! Workers write a part each, and errands read all parts to tell whose a process is, by facts of the kernel: its parent,
//! its uid, its session. A part has a lock that is held for a few instructions; nobody but a look at processes that
//! nobody of ours started, which is rare, ever meets a worker there.
//!
//! A child of one of our threads that is no main process of ours is a *stray*: an orphan that the kernel gave to our main
//! thread, for we are a subreaper, or a process that a command has made a sibling of itself (`CLONE_PARENT`), which is a
//! child of the thread that started the command. Strays stay, dead ones too, until they are reaped here and nowhere else.

mod guards;
mod lists;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getsid};

pub use self::guards::{Joined, Leader, LivingCommand, LivingSession, Starting};
use self::lists::ChildList;
use super::proc::{self, Stat};
use super::spawn::Ticket;
use crate::ids::{ExecId, SessionId};

/// The table of it; shared by the workers and the errands of one runtime.
#[derive(Debug)]
pub struct Living {
    /// The children of the main thread, which starts none.
    adopted: ChildList,
    parts: Box<[Mutex<Part>]>,
    /// Held while strays are reaped: a number in a list is nobody else's until whoever holds this reaps it.
    reaping: Mutex<()>,
}

/// What lives of one worker.
#[derive(Debug, Default)]
struct Part {
    /// The lists of the threads that start, or have started, its commands.
    lists: Vec<ChildList>,
    /// Starts under way: their children are told of by the ticket alone.
    starting: Vec<(SessionId, Arc<Ticket>)>,
    /// Main processes that are not reaped, of commands and of shells.
    leaders: HashMap<i32, SessionId>,
    sessions: HashMap<SessionId, Facts>,
    commands: HashMap<ExecId, (SessionId, Vec<u8>)>,
}

/// What whoever looks at processes has to know of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The uid that its processes run under.
    pub uid: u32,
    /// Processes of its shell live on between its commands.
    pub has_shell: bool,
    /// `COFFERDAM_SESSION=…`, as its processes bear it.
    pub mark: Vec<u8>,
}

/// What else lives in a session, seen by one of its commands.
#[derive(Debug, Default, Clone)]
pub struct Others {
    pub has_shell: bool,
    /// Main processes of the others.
    pub leaders: Vec<i32>,
    /// `COFFERDAM_EXEC=…` of the others.
    pub marks: Vec<Vec<u8>>,
}

impl Others {
    /// Whether nothing else lives there, so that the uid alone tells whose a process is.
    pub fn are_none(&self) -> bool {
        !self.has_shell && self.leaders.is_empty() && self.marks.is_empty()
    }

    /// Whether a process is in the session or the group of one of their main processes.
    pub fn lead(&self, stat: &Stat) -> bool {
        self.leaders.iter().any(|leader| stat.session == *leader || stat.group == *leader)
    }
}

impl Part {
    fn knows(&self, pid: i32) -> bool {
        let is_started =
            || self.starting.iter().any(|(_, ticket)| ticket.report.pid().is_some_and(|own| own.as_raw() == pid));
        self.leaders.contains_key(&pid) || is_started()
    }

    /// Whether a child of one of its threads is a main process, or may be one that has not told its number yet.
    fn may_know(&self, pid: i32) -> bool {
        self.has_nameless_start() || self.knows(pid)
    }

    /// Whether there may be a child whose number nobody has told yet: it does so first of all, and its starter forgets the
    /// number before it reaps one that could not be started.
    fn has_nameless_start(&self) -> bool {
        self.starting.iter().any(|(_, ticket)| ticket.report.pid().is_none())
    }

    /// Whether a main process of a session is not reaped, or may come yet.
    fn has_main_process(&self, session: SessionId) -> bool {
        let starts = || self.starting.iter().any(|(of, _)| *of == session);
        self.leaders.values().any(|of| *of == session) || starts()
    }

    /// Whether all children of its threads are main processes.
    fn has_no_strays(&self) -> bool {
        self.lists.iter().all(|list| list.holds_only(|pid| self.knows(pid)))
    }
}

impl Living {
    /// For so many workers. To be made by the process whose children it looks at.
    pub fn new(workers: usize) -> Arc<Living> {
        let parts = (0..workers.max(1)).map(|_| Mutex::default()).collect();
        Arc::new(Living { adopted: ChildList::of_main_thread(), parts, reaping: Mutex::new(()) })
    }

    fn lock(&self, part: usize) -> MutexGuard<'_, Part> {
        self.parts[part].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn part_of(&self, session: SessionId) -> MutexGuard<'_, Part> {
        self.lock(session.worker(self.parts.len()))
    }

    fn parts(&self) -> impl Iterator<Item = MutexGuard<'_, Part>> {
        (0..self.parts.len()).map(|part| self.lock(part))
    }

    // What workers say.

    /// The calling thread starts commands of this worker from now on, until it drops what it gets.
    pub fn join(self: &Arc<Self>, worker: usize) -> Joined {
        let list = ChildList::of_this_thread();
        let tid = list.tid;
        self.lock(worker).lists.push(list);
        Joined { living: self.clone(), worker, tid }
    }

    /// A start is about to begin.
    pub fn starting(self: &Arc<Self>, session: SessionId, ticket: &Arc<Ticket>) -> Starting {
        self.part_of(session).starting.push((session, ticket.clone()));
        Starting { living: self.clone(), session, ticket: ticket.clone() }
    }

    /// A session lives until what is returned is dropped.
    pub fn session(self: &Arc<Self>, session: SessionId, facts: Facts) -> LivingSession {
        self.part_of(session).sessions.insert(session, facts);
        LivingSession { living: self.clone(), session }
    }

    /// A command lives until what is returned is dropped. `mark`: `COFFERDAM_EXEC=…`.
    pub fn command(self: &Arc<Self>, session: SessionId, exec: ExecId, mark: &[u8]) -> LivingCommand {
        self.part_of(session).commands.insert(exec, (session, mark.to_vec()));
        LivingCommand { living: self.clone(), session, exec }
    }

    // What they and others ask.

    /// Whether certainly no process of a session's commands lives but below its main processes. A few system calls.
    ///
    /// Whatever outlives its parent becomes a child of our main thread or is one of the starting thread already, and
    /// stays in that list, dead or alive, until we reap it. The main thread's list is read twice: a process goes from the
    /// other list to that one and never back, unless something is reaped in between, and then it is there the second
    /// time.
    pub fn has_no_strays(&self, session: SessionId) -> bool {
        self.adopted.is_empty() && self.part_of(session).has_no_strays() && self.adopted.is_empty()
    }

    /// Whether certainly no process of a session lives.
    pub fn is_over(&self, session: SessionId) -> bool {
        !self.part_of(session).has_main_process(session) && self.has_no_strays(session)
    }

    /// Whether there is certainly no stray at all.
    pub fn has_none(&self) -> bool {
        self.adopted.is_empty() && self.parts().all(|part| part.has_no_strays()) && self.adopted.is_empty()
    }

    /// Strays that may belong to a session: orphans, and the children of the threads that started its commands.
    pub fn strays_beside(&self, session: SessionId) -> Strays {
        let mut strays = self.adopted_strays();
        strays.add(&self.part_of(session));
        strays
    }

    /// Every stray by its number, dead ones included.
    pub fn strays(&self) -> Strays {
        let mut strays = self.adopted_strays();
        self.parts().for_each(|part| strays.add(&part));
        strays
    }

    fn adopted_strays(&self) -> Strays {
        let mut strays = Strays { pids: self.adopted.pids(), are_all: true };
        if self.adopted.is_of_all() {
            // The children of all threads stand in one list then.
            for part in self.parts() {
                strays.pids.retain(|pid| !part.may_know(*pid));
                strays.are_all &= !part.has_nameless_start();
            }
        }
        strays
    }

    /// Reaps a stray if it is dead; never waits.
    #[expect(
        clippy::disallowed_methods,
        reason = "a named child that no worker has started, under the lock of reaping"
    )]
    pub fn reap(&self, stray: i32) -> bool {
        let _reaping = self.reaping.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever is no main process by now, nor may be one, never becomes one while its number is taken.
        if self.parts().any(|part| part.may_know(stray)) {
            return false;
        }
        waitpid(Pid::from_raw(stray), Some(WaitPidFlag::WNOHANG)).is_ok_and(|status| status.pid().is_some())
    }

    /// What lives in a session beside the command, or the shell, that bears this mark and has this main process.
    pub fn others(&self, session: SessionId, leader: i32, mark: &[u8]) -> Others {
        let part = self.part_of(session);
        // A shell itself bears the mark of its session.
        let has_shell = part.sessions.get(&session).is_some_and(|facts| facts.has_shell && facts.mark != mark);
        let leaders = part.leaders.iter().filter(|(pid, of)| **of == session && **pid != leader);
        let marks = part.commands.values().filter(|(of, other)| *of == session && other != mark);
        Others {
            has_shell,
            leaders: leaders.map(|(pid, _)| *pid).collect(),
            marks: marks.map(|(_, mark)| mark.clone()).collect(),
        }
    }

    /// Whether a session has this uid still.
    pub fn has_uid(&self, session: SessionId, uid: u32) -> bool {
        self.part_of(session).sessions.get(&session).is_some_and(|facts| facts.uid == uid)
    }

    /// The session whose uid this is, where each has its own: whether processes of it may live without a command.
    pub fn may_live_under(&self, uid: u32) -> Option<bool> {
        self.parts().find_map(|part| {
            let (session, facts) = part.sessions.iter().find(|(_, facts)| facts.uid == uid)?;
            let runs = || part.commands.values().any(|(of, _)| of == session);
            Some(facts.has_shell || runs() || part.has_main_process(*session))
        })
    }

    /// Whether a process is in the session or the group of a main process.
    pub fn is_led(&self, stat: &Stat) -> bool {
        self.parts().any(|part| [stat.session, stat.group].iter().any(|pid| part.leaders.contains_key(pid)))
    }

    /// Whether a mark is that of a command, or of a session with a shell, that lives.
    pub fn has_mark(&self, line: &[u8]) -> bool {
        self.parts().any(|part| {
            let of_shell = part.sessions.values().any(|facts| facts.has_shell && facts.mark == line);
            of_shell || part.commands.values().any(|(_, mark)| mark == line)
        })
    }
}

/// Strays by their numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strays {
    pub pids: Vec<i32>,
    /// None was left out that may have been a main process.
    pub are_all: bool,
}

impl Strays {
    fn add(&mut self, part: &Part) {
        let pids = part.lists.iter().flat_map(ChildList::pids);
        self.pids.extend(pids.filter(|pid| !part.may_know(*pid)));
        self.are_all &= !part.has_nameless_start();
    }

    /// Those that are there, as they are now.
    pub fn look(&self) -> Vec<Stat> {
        self.pids.iter().copied().filter_map(proc::stat).collect()
    }
}

/// Whether a process is in our own session: commands lead sessions of their own, and none can join ours.
pub fn is_of_own_session(stat: &Stat) -> bool {
    getsid(None).is_ok_and(|own| own.as_raw() == stat.session)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inv9_what_lives_is_known_until_it_is_dropped() {
        let living = Living::new(2);
        let (session, ticket) = (SessionId(3), Arc::<Ticket>::default());
        let facts = Facts { uid: 7, has_shell: false, mark: b"COFFERDAM_SESSION=x".to_vec() };
        let open = living.session(session, facts);
        assert!(living.has_uid(session, 7) && !living.has_uid(session, 8));
        assert_eq!((living.may_live_under(7), living.may_live_under(8)), (Some(false), None));
        let command = living.command(session, ExecId(1), b"COFFERDAM_EXEC=a");
        assert!(living.has_mark(b"COFFERDAM_EXEC=a") && !living.has_mark(b"COFFERDAM_SESSION=x"));
        assert_eq!(living.may_live_under(7), Some(true));
        let starting = living.starting(session, &ticket);
        let leader = starting.started(Pid::from_raw(1 << 30));
        drop(starting);
        assert!(living.part_of(session).starting.is_empty() && !living.is_over(session));
        assert!(living.others(session, 1 << 30, b"COFFERDAM_EXEC=a").are_none());
        let others = living.others(session, 0, b"COFFERDAM_EXEC=b");
        assert_eq!((others.leaders, others.marks), (vec![1 << 30], vec![b"COFFERDAM_EXEC=a".to_vec()]));
        drop((leader, command, open));
        for part in living.parts() {
            assert!(part.leaders.is_empty() && part.commands.is_empty() && part.sessions.is_empty());
        }
    }

    #[test]
    fn a_thread_counts_as_long_as_it_starts_commands() {
        let living = Living::new(1);
        let joined = living.join(0);
        assert_eq!(living.lock(0).lists.len(), 1);
        assert!(living.lock(0).lists[0].holds_only(|_| false), "this thread has no child");
        drop(joined);
        assert!(living.lock(0).lists.is_empty());
    }
}
