//! What comes back for connections, from workers and from the desk, goes to where it belongs. Part of `gateway`'s turn.

use mio::Token;

use super::connection::Connection;
use super::desk::Settled;
use super::{Gateway, activate};
use crate::ids::RequestId;
use crate::protocol::answer;
use crate::protocol::fault::Fault;

impl Gateway {
    pub(super) fn on_connection(&mut self, token: Token, step: impl FnOnce(&mut Connection)) {
        if let Some(connection) = self.connections.get_mut(&token) {
            step(connection);
            activate(&mut self.active, token, connection);
        }
    }

    /// Puts an answer where it belongs: on a line of its own, or into its place in a batch.
    pub(super) fn answer(&mut self, request: RequestId, body: &[u8], more: bool) {
        if let Some(token) = self.desk.beat_of(request) {
            let line = answer::notification("system.stats", body);
            return self.on_connection(token, |connection| connection.outbox.line(line));
        }
        let Some(answered) = self.desk.answered(request, more) else { return };
        self.on_connection(answered.token, |connection| connection.answer(answered, body, more));
    }

    pub(super) fn piece(&mut self, request: RequestId, body: Vec<u8>, more: bool) {
        if let Some(token) = self.desk.pulled_by(request, more) {
            self.on_connection(token, |connection| {
                connection.outbox.piece(request, body, more);
                if !more {
                    connection.book.delivered(request);
                }
            });
        }
    }

    fn refused(&mut self, request: RequestId, fault: &Fault) {
        let mut body = Vec::new();
        self.desk.refused(fault, &mut body);
        self.answer(request, &body, false);
    }

    /// Tells what became of requests that had to wait.
    pub(super) fn tell_settled(&mut self) {
        while let Some((request, answer)) = self.desk.next_settled() {
            match answer {
                Settled::Body(body) => self.answer(request, &body, false),
                Settled::Refused(fault) => self.refused(request, &fault),
            }
        }
    }
}
