//! Outputs of commands that are over, and that background jobs have open still: read and thrown away, so that the jobs
//! live on. What a job writes later belongs to no command.

use std::time::{Duration, Instant};

use super::super::Worker;
use super::super::command::{Command, Due, Pipe};
use super::super::pipes::{Output, Sink, Turn};
use super::super::ring::Ring;
use crate::admission::buffers::{Account, Share};
use crate::ids::{ExecId, SessionId};
use crate::protocol::request::Keep;

/// The outputs of one such command.
pub struct Lingering {
    pub session: SessionId,
    outputs: [Output; 2],
}

/// Commands of one session whose outputs are read on. Beyond it the oldest are closed, and whoever writes there gets
/// SIGPIPE.
const LINGERING_MAX: usize = 32;
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
            self.forget_oldest(session);
            self.lingering.insert(exec, Lingering { session, outputs });
            for pipe in [Pipe::Stdout, Pipe::Stderr] {
                self.listen_on(exec, pipe);
            }
        }
        lingers
    }

    fn forget_oldest(&mut self, session: SessionId) {
        let mut own: Vec<ExecId> = self
            .lingering
            .iter()
            .filter(|(_, lingering)| lingering.session == session)
            .map(|(exec, _)| *exec)
            .collect();
        own.sort_unstable();
        for exec in own.iter().take((own.len() + 1).saturating_sub(LINGERING_MAX)) {
            self.forget_lingering(*exec);
        }
    }

    fn forget_lingering(&mut self, exec: ExecId) {
        self.lingering.remove(&exec);
        for pipe in [Pipe::Stdout, Pipe::Stderr] {
            self.tools.deadlines.clear(&(exec, Due::Rearm(pipe)));
        }
    }

    pub(in super::super) fn forget_all_lingering(&mut self, session: SessionId) {
        let all: Vec<ExecId> = self
            .lingering
            .iter()
            .filter(|(_, lingering)| lingering.session == session)
            .map(|(exec, _)| *exec)
            .collect();
        for exec in all {
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
