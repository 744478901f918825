//! Outputs of commands that are over, and that background jobs have open still: read and thrown away, so that the jobs
//! live on. What a job writes later belongs to no command.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::super::Worker;
use super::super::command::{Command, Due, Pipe};
use super::super::pipes::{Output, Sink, Turn};
use super::super::ring::Ring;
use crate::admission::buffers::{Account, Share};
use crate::enforcement::descriptors::{JOBS_CLAIMED, JOBS_MAX};
use crate::ids::{ExecId, SessionId};
use crate::protocol::request::Keep;

/// The outputs of one such command.
pub struct Lingering {
    pub session: SessionId,
    outputs: [Output; 2],
    /// Its descriptors; none: they are in the claim of its session's shell.
    share: Option<Share>,
}

/// A drip is looked at so often.
const REARM: Duration = Duration::from_millis(2);

impl Worker {
    /// Takes over what of a command's outputs has not ended; whether that is the case for each.
    pub(super) fn linger(&mut self, command: &mut Command) -> [bool; 2] {
        let mut lingers = [false; 2];
        let mut at = 0;
        let outputs = command.detach_outputs(&self.tools).map(|pipe| {
            let mut output = Output::none(Sink::Ring(Ring::new(Keep::Tail, 0, Share::none(&Account::of_daemon(0)))));
            if let Some(pipe) = pipe {
                output.open(pipe, false);
                lingers[at] = true;
            }
            at += 1;
            output
        });
        if lingers.contains(&true) {
            let (exec, session) = (command.exec, command.session);
            let share = self.make_room(session);
            self.lingering.insert(exec, Lingering { session, outputs, share });
            for pipe in [Pipe::Stdout, Pipe::Stderr] {
                self.listen_on(exec, pipe);
            }
        }
        lingers
    }

    /// Descriptors for one more; none: there are some in the claim of the session's shell. Where there are none at all, or
    /// too many linger, the oldest of the same session are closed, and whoever writes there gets SIGPIPE: nobody else
    /// pays for them.
    fn make_room(&mut self, session: SessionId) -> Option<Share> {
        let mut own = VecDeque::from(self.lingering_of(session));
        loop {
            let claimed = own.iter().filter(|exec| self.lingering[*exec].share.is_none()).count() as u64;
            if JOBS_MAX > own.len() as u64 {
                if JOBS_CLAIMED > claimed {
                    return None;
                }
                if let Some(share) = self.tools.descriptors.job() {
                    return Some(share);
                }
                self.tell_short(session);
            }
            // With none left, there is room in the shell's claim.
            self.forget_lingering(own.pop_front()?);
        }
    }

    fn tell_short(&mut self, session: SessionId) {
        let Some(shell) = self.shell(session) else { return };
        if !std::mem::replace(&mut shell.told_short, true) {
            log::warn!(
                "session={session} has more background jobs than descriptors can be had for: the oldest lose their \
                 outputs (SIGPIPE)"
            );
        }
    }

    /// Oldest first.
    fn lingering_of(&self, session: SessionId) -> Vec<ExecId> {
        let of_session = self.lingering.iter().filter(|(_, lingering)| lingering.session == session);
        let mut own: Vec<ExecId> = of_session.map(|(exec, _)| *exec).collect();
        own.sort_unstable();
        own
    }

    fn forget_lingering(&mut self, exec: ExecId) {
        self.lingering.remove(&exec);
        for pipe in [Pipe::Stdout, Pipe::Stderr] {
            self.tools.deadlines.clear(&(exec, Due::Rearm(pipe)));
        }
    }

    pub(in super::super) fn forget_all_lingering(&mut self, session: SessionId) {
        for exec in self.lingering_of(session) {
            self.forget_lingering(exec);
        }
    }

    pub(in super::super) fn listen_on(&mut self, exec: ExecId, pipe: Pipe) {
        let Some(lingering) = self.lingering.get_mut(&exec) else { return };
        let output = &mut lingering.outputs[usize::from(pipe == Pipe::Stderr)];
        if let Err(error) = output.listen(&self.tools.registry, pipe.token(exec)) {
            log::error!("exec={exec} what it has left cannot be listened to: {error}");
            output.close();
        }
    }

    /// Something came, or the last who had it open has closed it.
    pub(in super::super) fn read_on(&mut self, exec: ExecId, pipe: Pipe) {
        let Some(lingering) = self.lingering.get_mut(&exec) else { return };
        let output = &mut lingering.outputs[usize::from(pipe == Pipe::Stderr)];
        match output.read(&mut self.tools.scratch, &self.tools.registry, false).0 {
            Turn::More => self.tools.ready.push_back((exec, pipe)),
            Turn::Pause => self.tools.deadlines.set((exec, Due::Rearm(pipe)), Instant::now() + REARM),
            Turn::Waiting | Turn::Blocked | Turn::Ended => {}
        }
        if lingering.outputs.iter().all(Output::has_ended) {
            self.forget_lingering(exec);
        }
    }
}
