//! Commands that wait for a slot: clients take turns, and within a client who came first goes first. Pure.
//!
//! Slots are given by [`Queue::take_next`], which asks of each waiter whether it could start now: one may wait for a
//! slot of the daemon, another for its session, a third for its client's quota. Who cannot start is passed over and keeps its
//! place, so that it blocks neither other clients nor the other sessions of its own. A client that got a slot goes to
//! the end of the round, as does one that comes; so whoever asks for the first time waits for one turn of each of the
//! others at most, however long their queues are.
//!
//! Places are shared out likewise. Where all are taken, the client with the most waiters gives up its newest for one
//! that has at least two fewer: so one client alone may fill the queue, and still keeps nobody out of it.

use std::collections::{BTreeMap, HashMap};

use crate::ids::ClientName;

/// A place in the queue; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// A waiter was taken in.
#[derive(Debug, PartialEq, Eq)]
pub struct Queued<T> {
    pub ticket: Ticket,
    /// Another one that made room for it, and waits no longer.
    pub gave_way: Option<T>,
}

/// The queue is full: what should have waited comes back.
#[derive(Debug, PartialEq, Eq)]
pub struct Full<T> {
    pub waiter: T,
    pub limit: usize,
    pub usage: usize,
}

/// What is asked about when a slot is free.
#[derive(Debug)]
pub enum Candidate<'a, T> {
    /// Whether it may run one more command at all. If not, nothing that it has is looked at, however much that is.
    Client(&'a ClientName),
    /// Whether it could start now.
    Waiter(&'a T),
}

/// All waiters of all clients.
#[derive(Debug)]
pub struct Queue<T> {
    waiters_max: usize,
    clients: HashMap<ClientName, Line<T>>,
    /// The round: whose turn comes when.
    turns: BTreeMap<u64, ClientName>,
    /// Whose a ticket is.
    tickets: HashMap<Ticket, ClientName>,
    last_turn: u64,
    last_ticket: u64,
}

/// The waiters of one client, never none.
#[derive(Debug)]
struct Line<T> {
    turn: u64,
    waiters: BTreeMap<Ticket, T>,
}

impl<T> Queue<T> {
    pub fn new(waiters_max: usize) -> Queue<T> {
        Queue {
            waiters_max,
            clients: HashMap::new(),
            turns: BTreeMap::new(),
            tickets: HashMap::new(),
            last_turn: 0,
            last_ticket: 0,
        }
    }

    /// Another bound. Who waits already goes on waiting.
    pub fn resize(&mut self, waiters_max: usize) {
        self.waiters_max = waiters_max;
    }

    pub fn len(&self) -> usize {
        self.tickets.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// Queues up behind the others of the same client, in the place of a greedier client's where there is no other.
    pub fn push(&mut self, client: ClientName, waiter: T) -> Result<Queued<T>, Full<T>> {
        let mut gave_way = None;
        if self.len() >= self.waiters_max {
            let newest = self.may_give_way_to(&client).filter(|_| self.waiters_max > 0);
            gave_way = newest.and_then(|ticket| self.remove(ticket));
            if gave_way.is_none() {
                return Err(Full { waiter, limit: self.waiters_max, usage: self.len() });
            }
        }
        Ok(Queued { ticket: self.admit(client, waiter), gave_way })
    }

    fn admit(&mut self, client: ClientName, waiter: T) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.tickets.insert(ticket, client.clone());
        if let Some(line) = self.clients.get_mut(&client) {
            line.waiters.insert(ticket, waiter);
        } else {
            let turn = self.end_of_round(client.clone());
            self.clients.insert(client, Line { turn, waiters: BTreeMap::from([(ticket, waiter)]) });
        }
        debug_assert_eq!(self.clients.len(), self.turns.len());
        ticket
    }

    /// The newest waiter of the client that has the most, if a client has so few that it may have the place. Two fewer,
    /// so that neither has less than the other had: clients that are level do not take places from each other in turn.
    fn may_give_way_to(&self, client: &ClientName) -> Option<Ticket> {
        let own = self.clients.get(client).map_or(0, |line| line.waiters.len());
        let newest = |line: &Line<T>| Some((line.waiters.len(), *line.waiters.last_key_value()?.0));
        // Among clients that are level it is the newest of all.
        let (most, ticket) = self.clients.values().filter_map(newest).max()?;
        (most >= own + 2).then_some(ticket)
    }

    pub fn get(&self, ticket: Ticket) -> Option<&T> {
        self.clients.get(self.tickets.get(&ticket)?)?.waiters.get(&ticket)
    }

    /// Takes out one that waits no longer: its client is gone, or its time is over. Its client's turn is as it was.
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let client = self.tickets.remove(&ticket)?;
        let line = self.clients.get_mut(&client)?;
        let waiter = line.waiters.remove(&ticket);
        if line.waiters.is_empty() {
            self.turns.remove(&line.turn);
            self.clients.remove(&client);
        }
        waiter
    }

    /// Takes out the next one that can start, in turn. To be asked again for each slot that is free, and whenever
    /// something that a waiter waits for has changed.
    pub fn take_next(&mut self, mut may: impl FnMut(Candidate<'_, T>) -> bool) -> Option<T> {
        let (client, ticket) = self.turns.values().find_map(|client| {
            if !may(Candidate::Client(client)) {
                return None;
            }
            let mut waiters = self.clients.get(client)?.waiters.iter();
            let (ticket, _) = waiters.find(|(_, waiter)| may(Candidate::Waiter(waiter)))?;
            Some((client.clone(), *ticket))
        })?;
        let waiter = self.remove(ticket);
        if let Some(turn) = self.clients.get(&client).map(|line| line.turn) {
            self.turns.remove(&turn);
            let turn = self.end_of_round(client.clone());
            self.clients.entry(client).and_modify(|line| line.turn = turn);
        }
        waiter
    }

    /// All waiters, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (Ticket, &T)> {
        self.clients.values().flat_map(|line| line.waiters.iter().map(|(ticket, waiter)| (*ticket, waiter)))
    }

    fn end_of_round(&mut self, client: ClientName) -> u64 {
        self.last_turn += 1;
        self.turns.insert(self.last_turn, client);
        self.last_turn
    }
}

/// A queue in which nobody can wait, to stand in for one that is being looked at.
impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue::new(0)
    }
}

#[cfg(test)]
mod tests;
