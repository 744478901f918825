//! What flows out of a command: read in turns, paused where its reader is behind, watched for silence.

use std::time::{Duration, Instant};

use super::{Command, Due, Next, Phase, Pipe};
use crate::worker::pipes::{Output, Sink, Turn};
use crate::worker::record::Verdict;
use crate::worker::stream::Stream;
use crate::worker::tools::Tools;

/// A drip is looked at so often; a streamed one more rarely, for each look is a line to its reader.
const REARM: Duration = Duration::from_millis(2);
const REARM_STREAM: Duration = Duration::from_millis(10);

impl Command {
    pub(super) fn output(&mut self, pipe: Pipe) -> &mut Output {
        if pipe == Pipe::Stderr { &mut self.stderr } else { &mut self.stdout }
    }

    pub(super) fn read(&mut self, pipe: Pipe, tools: &mut Tools) {
        let last = self.phase == Phase::Ended && self.tree_gone;
        let exec = self.exec;
        let (turn, got) = self.output(pipe).read(&mut tools.scratch, &tools.registry, last);
        if got > 0 {
            self.last_output = Instant::now();
            tools.count_read(got);
        }
        match turn {
            Turn::More => tools.ready.push_back((exec, pipe)),
            Turn::Pause => {
                let pause = if matches!(self.output(pipe).sink, Sink::Stream(_)) { REARM_STREAM } else { REARM };
                self.remind(Instant::now() + pause, Due::Rearm(pipe), tools);
            }
            Turn::Waiting | Turn::Blocked | Turn::Ended => {}
        }
        if self.kill_on_output_limit && self.output(pipe).total() > self.output_limit {
            self.kill(Verdict::Output, tools);
        }
    }

    pub(super) fn listen(&mut self, pipe: Pipe, tools: &mut Tools) {
        let token = pipe.token(self.exec);
        if let Err(error) = self.output(pipe).listen(&tools.registry, token) {
            // Out of memory for a watch, or of watches: it cannot be looked after, so it must not run.
            log::error!("exec={} cannot be listened to: {error}", self.exec);
            self.kill(Verdict::Cancelled, tools);
        }
    }

    /// The reader of its stream has taken a piece.
    pub fn taken(&mut self, tools: &mut Tools) -> Next {
        self.resume(Stream::taken, tools)
    }

    /// The reader of its stream is gone, and it runs on: for others, or to its end.
    pub fn unheard(&mut self, tools: &mut Tools) -> Next {
        self.resume(Stream::deafen, tools)
    }

    fn resume(&mut self, step: impl Fn(&mut Stream), tools: &mut Tools) -> Next {
        for pipe in [Pipe::Stdout, Pipe::Stderr] {
            if let Sink::Stream(stream) = &mut self.output(pipe).sink {
                step(stream);
            }
            self.read(pipe, tools);
        }
        self.next()
    }

    pub(super) fn stall_due(&mut self, now: Instant, tools: &mut Tools) {
        let Some(stall) = self.stall else { return };
        // A reader that is behind keeps a stream silent; that is not the command's silence.
        let blocked = |output: &Output| matches!(&output.sink, Sink::Stream(stream) if stream.is_blocked());
        if blocked(&self.stdout) || blocked(&self.stderr) {
            self.last_output = now;
        }
        if now >= self.last_output + stall {
            self.ask(Verdict::Stall, tools);
        } else if self.phase == Phase::Running {
            self.remind(self.last_output + stall, Due::Stall, tools);
        }
    }
}
