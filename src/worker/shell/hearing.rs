//! What a shell reports, as it comes: read with pauses where it is not the shell that writes, and acted upon.

use std::time::{Duration, Instant};

use super::super::Worker;
use super::super::command::{Due, Pipe};
use super::super::record::Verdict;
use super::report::Report;
use super::script::{BEGUN, READY};
use super::{Shell, Stand, feeder};
use crate::ids::{ExecId, SessionId};

/// No path is longer.
const PATH_BYTES_MAX: usize = 4096;
/// Reads of reports in one turn: a command that floods them holds up nobody else.
const REPORT_READS: usize = 4;
/// A command has one report or two, and traps before them that come in a few pieces. After so many reads without one
/// that counts somebody else writes there, and is read in pauses: whatever comes costs next to nothing then.
const UNHEARD_MAX: u32 = 8;
const REPORT_PAUSE: Duration = Duration::from_millis(20);

impl Worker {
    pub(super) fn read_reports(&mut self, id: SessionId) {
        for _ in 0..REPORT_READS {
            let scratch = &mut self.tools.scratch;
            let Some(shell) = self.sessions.get_mut(&id).and_then(|session| session.shell.as_deref_mut()) else {
                return;
            };
            let Some(report) = &shell.report else { return };
            let Ok(read) = nix::unistd::read(&report.end, scratch) else { return };
            let emptied = read < scratch.len();
            shell.unheard += 1;
            let awaited = shell.awaited();
            if let Some(report) = shell.reports.feed(&scratch[..read], &awaited) {
                self.heard(id, report);
            }
            if self.shell(id).is_none_or(|shell| shell.unheard >= UNHEARD_MAX) {
                break;
            }
            if emptied {
                return;
            }
        }
        self.pause_reports(id);
    }

    fn pause_reports(&mut self, id: SessionId) {
        let Some(shell) = self.sessions.get_mut(&id).and_then(|session| session.shell.as_deref_mut()) else { return };
        let (Some(host), Some(report)) = (shell.host, &shell.report) else { return };
        if !std::mem::replace(&mut shell.paused, true) {
            feeder::deafen(&report.end, &self.tools.registry);
        }
        self.tools.deadlines.set((host, Due::Rearm(Pipe::Stdout)), Instant::now() + REPORT_PAUSE);
    }

    /// A pause is over; what has come meanwhile is an event at once.
    pub(in super::super) fn listen_to_reports(&mut self, host: ExecId) {
        let Some(id) = self.commands.get(&host).map(|command| command.session) else { return };
        let Some(shell) = self.sessions.get_mut(&id).and_then(|session| session.shell.as_deref_mut()) else { return };
        let Some(report) = shell.report.as_ref().filter(|_| shell.host == Some(host) && shell.paused) else { return };
        match feeder::listen(&report.end, &self.tools.registry, Pipe::Stdout.token(host)) {
            Ok(()) => shell.paused = false,
            Err(error) => {
                log::error!("session={id} its shell cannot be listened to: {error}");
                self.with(host, |command, tools| {
                    command.kill(Verdict::Cancelled, tools);
                    command.next()
                });
            }
        }
    }

    fn heard(&mut self, id: SessionId, report: Report) {
        let Some(shell) = self.shell(id) else { return };
        match (report, shell.stand) {
            (Report::Ready { kind }, _) => {
                shell.unheard = 0;
                self.shell_ready(id, &kind);
            }
            (Report::Begun { mark }, Stand::Runs(exec)) if mark == shell.mark.begun => {
                shell.unheard = 0;
                let Some(stdin) = shell.stdin.take() else { return };
                if let Some(fifos) = &shell.fifos {
                    fifos.retire(&stdin);
                }
                if let Some(command) = self.commands.get_mut(&exec) {
                    command.attach_input(stdin.end, &self.tools);
                }
            }
            (Report::Over { mark, code, errexit, cwd }, Stand::Runs(exec)) if mark == shell.mark.over => {
                (shell.stand, shell.unheard) = (Stand::Ready, 0);
                // A process that fails would end a shell that ends with what fails.
                shell.last = Some(code).filter(|code| *code != 0 && !errexit);
                let cwd = self.follow(id, cwd);
                self.with(exec, |command, tools| command.reported(code, Some(cwd), tools));
            }
            // Late, or made up by a command.
            (Report::Begun { .. } | Report::Over { .. }, _) => {}
        }
    }

    /// The session's directory is the shell's. What the shell says may be made up, where a command has written to PWD;
    /// then the kernel is asked.
    fn follow(&mut self, id: SessionId, told: String) -> String {
        let Some(session) = self.sessions.get_mut(&id) else { return told };
        let Some(shell) = session.shell.as_deref_mut() else { return told };
        if shell.stays {
            return session.cwd.clone();
        }
        let usable = told.starts_with('/') && told.len() <= PATH_BYTES_MAX && !told.contains(['\u{fffd}', '\0']);
        let cwd = if usable && !shell.words.pwd { Some(told) } else { shell.directory() };
        if let Some(cwd) = cwd {
            session.cwd = cwd;
        }
        session.cwd.clone()
    }
}

impl Shell {
    /// How the reports begin that count now.
    fn awaited(&self) -> Vec<String> {
        match self.stand {
            Stand::Starting => vec![format!("{READY} ")],
            Stand::Runs(_) => vec![format!("{BEGUN} 0 - {}'", self.mark.begun), format!("{} ", self.mark.over)],
            Stand::Off | Stand::Ready => Vec::new(),
        }
    }

    /// Its working directory, as the kernel knows it.
    fn directory(&self) -> Option<String> {
        let pid = self.process.as_ref()?.pid;
        let path = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
        let path = path.to_str()?;
        Some(path.strip_suffix(" (deleted)").unwrap_or(path).to_owned())
    }
}
