//! A connection's turn, from its bytes to its end. Part of `gateway`'s turn.

use std::time::{Duration, Instant};

use mio::Token;

use super::connection::ReadTurn;
use super::lines::carry_out;
use super::{Gateway, activate};

/// While a connection has something that may time out, all are looked at so often.
const TICK: Duration = Duration::from_millis(100);
/// After its last answer a connection that is closed by us may still send for so long: a close at once would reset it,
/// and the answer could be lost with what it had sent.
const LINGER: Duration = Duration::from_secs(1);

impl Gateway {
    /// One connection's turn: what it sent is read and carried out, what it is owed is written.
    pub(super) fn serve(&mut self, token: Token, now: Instant) {
        let may_finish = self.finishing.is_none_or(|finishing| finishing == token);
        let Some(connection) = self.connections.get_mut(&token) else { return };
        connection.active = false;
        if connection.linger_until.is_some() {
            return self.part(token, now);
        }
        if connection.hung_up {
            // What it sent before is carried out; a notification asks for no more than that.
            while connection.read(&mut self.scratch, now) == ReadTurn::Some
                && carry_out(token, connection, &mut self.desk)
            {}
            return self.disconnect(token);
        }
        if connection.write(now, |source| self.desk.go_on(source)).is_err() {
            return self.disconnect(token);
        }
        let alive = carry_out(token, connection, &mut self.desk);
        if alive && connection.may_read() && connection.readable {
            match connection.read_within(&mut self.scratch, now, may_finish) {
                ReadTurn::Some => drop(carry_out(token, connection, &mut self.desk)),
                ReadTurn::None | ReadTurn::Closed => {}
                ReadTurn::Failed => return self.disconnect(token),
            }
        }
        connection.note_open_line(now);
        if connection.write(now, |source| self.desk.go_on(source)).is_err()
            || connection.outbox.unsent() > connection.hard_bytes
        {
            return self.disconnect(token);
        }
        connection.settle();
        if connection.is_finished() {
            return self.part(token, now);
        }
        if connection.wants_turn() {
            activate(&mut self.active, token, connection);
        }
        if connection.may_time_out() && self.next_tick.is_none() {
            self.next_tick = Some(now + TICK);
        }
        if connection.holding.finishing {
            self.finishing = Some(token);
        } else {
            self.finished(token);
        }
    }

    /// If it was this one that all parched connections waited for, they are looked at again.
    fn finished(&mut self, token: Token) {
        if self.finishing != Some(token) {
            return;
        }
        self.finishing = None;
        for (token, connection) in self.connections.iter_mut().filter(|(_, connection)| connection.holding.parched) {
            activate(&mut self.active, *token, connection);
        }
    }

    /// All is said. Our side is closed; what still comes is read and dropped for a while.
    fn part(&mut self, token: Token, now: Instant) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        if connection.read_closed {
            return self.disconnect(token);
        }
        if connection.linger_until.is_none() {
            connection.linger_until = Some(now + LINGER);
            connection.socket.shutdown_write();
            self.next_tick.get_or_insert(now + TICK);
            let connection = &self.connections[&token];
            self.desk.disconnected(token, &connection.book);
        }
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.discard(&mut self.scratch) {
            ReadTurn::Some => activate(&mut self.active, token, connection),
            ReadTurn::None => {}
            ReadTurn::Closed | ReadTurn::Failed => self.forget(token),
        }
    }

    fn disconnect(&mut self, token: Token) {
        let Some(connection) = self.connections.get(&token) else { return };
        if connection.linger_until.is_none() {
            self.desk.disconnected(token, &connection.book);
        }
        self.forget(token);
    }

    fn forget(&mut self, token: Token) {
        if let Some(connection) = self.connections.remove(&token) {
            self.finished(token);
            self.desk.connection_gone(&connection.peer.client);
        }
    }

    /// Closes what has timed out, and looks at what waits for memory; sleeps again when nothing may time out.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.next_tick.is_none_or(|at| now < at) {
            return;
        }
        let mut late = Vec::new();
        let mut waiting = false;
        for (token, connection) in &mut self.connections {
            match connection.timed_out(now) {
                Some(why) => late.push((*token, why)),
                None => waiting |= connection.may_time_out(),
            }
            if connection.holding.parched {
                // There may be memory again.
                activate(&mut self.active, *token, connection);
            }
        }
        for (token, why) in late {
            log::info!("{}: {why}; the connection is closed", self.connections[&token].peer.client);
            self.disconnect(token);
        }
        self.next_tick = waiting.then(|| now + TICK);
    }
}
