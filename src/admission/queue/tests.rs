use std::sync::Arc;

use super::*;
use crate::admission::seeded::Seeded;

impl<T> Queue<T> {
    fn next(&mut self, mut can_start: impl FnMut(&T) -> bool) -> Option<T> {
        self.take_next(|candidate| match candidate {
            Candidate::Client(_) => true,
            Candidate::Waiter(waiter) => can_start(waiter),
        })
    }
}

fn client(name: &str) -> ClientName {
    Arc::from(name)
}

fn order<T>(queue: &mut Queue<T>) -> Vec<T> {
    std::iter::from_fn(|| queue.next(|_| true)).collect()
}

#[test]
fn clients_take_turns_and_within_one_the_first_goes_first() {
    let mut queue = Queue::new(100);
    for waiter in ["a1", "a2", "a3", "b1", "c1", "b2"] {
        queue.push(client(&waiter[..1]), waiter).unwrap();
    }
    assert_eq!(order(&mut queue), ["a1", "b1", "c1", "a2", "b2", "a3"]);
    assert!(queue.is_empty());
}

/// The promise: with sixteen of one client in the queue, the first of another starts after one slot's turn at most.
#[test]
fn a_greedy_client_has_one_turn_before_another_clients_first() {
    for served_before in 0..16 {
        let mut queue = Queue::new(256);
        for n in 0..16 {
            queue.push(client("greedy"), n).unwrap();
        }
        for _ in 0..served_before {
            queue.next(|_| true).unwrap();
        }
        queue.push(client("modest"), 100).unwrap();
        let turns_before = order(&mut queue).iter().position(|waiter| *waiter == 100).unwrap();
        assert!(turns_before <= 1, "{turns_before} turns after {served_before}");
    }
}

#[test]
fn who_cannot_start_blocks_neither_others_nor_its_own_clients_other_sessions() {
    let mut queue = Queue::new(100);
    for waiter in ["a:busy:1", "a:busy:2", "a:free:1", "b:busy:1", "c:free:1", "a:free:2"] {
        queue.push(client(&waiter[..1]), waiter).unwrap();
    }
    let mut free = || queue.next(|waiter| waiter.contains("free"));
    assert_eq!([free(), free(), free(), free()], [Some("a:free:1"), Some("c:free:1"), Some("a:free:2"), None]);
    // Who was passed over has its turn still: b is before a, which has had two slots since.
    assert_eq!(order(&mut queue), ["b:busy:1", "a:busy:1", "a:busy:2"]);
}

/// Its turn is spent by a slot, not by being looked at.
#[test]
fn a_client_that_is_passed_over_keeps_its_turn() {
    let mut queue = Queue::new(100);
    for waiter in ["a1", "b1", "b2", "c1", "b3"] {
        queue.push(client(&waiter[..1]), waiter).unwrap();
    }
    let mut without_a = || queue.next(|waiter| !waiter.starts_with('a'));
    assert_eq!([without_a(), without_a(), without_a()], [Some("b1"), Some("c1"), Some("b2")]);
    assert_eq!(queue.len(), 2);
    assert_eq!(order(&mut queue), ["a1", "b3"]);
}

#[test]
fn who_leaves_is_gone_and_so_is_its_client() {
    let mut queue = Queue::new(3);
    let tickets: Vec<Ticket> =
        ["a1", "a2", "b1"].iter().map(|waiter| queue.push(client(&waiter[..1]), *waiter).unwrap().ticket).collect();
    assert_eq!(queue.get(tickets[0]), Some(&"a1"));
    assert_eq!(queue.remove(tickets[0]), Some("a1"));
    assert_eq!((queue.remove(tickets[0]), queue.get(tickets[0])), (None, None));
    assert_eq!(queue.remove(tickets[2]), Some("b1"));
    assert_eq!((queue.clients.len(), queue.turns.len(), queue.tickets.len()), (1, 1, 1));
    assert_eq!(order(&mut queue), ["a2"]);
    assert_eq!((queue.clients.len(), queue.turns.len(), queue.tickets.len()), (0, 0, 0));
}

#[test]
fn inv7_the_queue_ends_at_its_bound() {
    let mut queue = Queue::new(2);
    let first = queue.push(client("a"), 1).unwrap().ticket;
    queue.push(client("b"), 2).unwrap();
    assert_eq!(queue.push(client("c"), 3), Err(Full { waiter: 3, limit: 2, usage: 2 }));
    assert_eq!((queue.clients.len(), queue.turns.len()), (2, 2), "who was refused left no trace");
    queue.remove(first);
    queue.push(client("c"), 3).unwrap();
    queue.resize(1);
    assert_eq!(queue.push(client("d"), 4), Err(Full { waiter: 4, limit: 1, usage: 2 }));
    assert_eq!(order(&mut queue), [2, 3]);
    assert_eq!(Queue::new(0).push(client("a"), 1), Err(Full { waiter: 1, limit: 0, usage: 0 }));
}

#[test]
fn the_newest_of_whoever_has_most_gives_way_to_whoever_has_fewer() {
    let mut queue = Queue::new(6);
    for waiter in ["a1", "a2", "b1", "a3", "b2", "a4"] {
        assert_eq!(queue.push(client(&waiter[..1]), waiter).unwrap().gave_way, None);
    }
    let mut push = |waiter: &'static str| match queue.push(client(&waiter[..1]), waiter) {
        Ok(queued) => queued.gave_way,
        Err(full) => Some(full.waiter),
    };
    assert_eq!([push("a5"), push("c1")], [Some("a5"), Some("a4")], "four, two, none: a is refused, c is not");
    assert_eq!([push("b3"), push("c2")], [Some("b3"), Some("a3")], "three, two, one: b has but one fewer than a");
    assert_eq!([push("a4"), push("b3"), push("c3")].map(Option::unwrap), ["a4", "b3", "c3"], "all are level");
    assert_eq!(push("d1"), Some("c2"), "the newest of all, where several have most");
    assert_eq!(push("d2"), Some("d2"));
    assert_eq!(order(&mut queue), ["a1", "b1", "c1", "d1", "a2", "b2"]);
}

#[test]
fn whoever_comes_to_a_queue_that_was_shortened_is_no_worse_off() {
    let mut queue = Queue::new(4);
    (0..4).for_each(|n| assert!(queue.push(client("a"), n).is_ok()));
    queue.resize(2);
    assert_eq!(queue.push(client("b"), 10).map(|queued| queued.gave_way), Ok(Some(3)));
    assert_eq!(queue.len(), 4);
    queue.resize(0);
    assert_eq!(queue.push(client("c"), 20), Err(Full { waiter: 20, limit: 0, usage: 4 }), "nobody may wait");
}

#[test]
fn all_who_wait_are_there_to_be_looked_at() {
    let mut queue = Queue::new(100);
    let tickets: Vec<Ticket> =
        ["b1", "a1", "a2"].iter().map(|waiter| queue.push(client(&waiter[..1]), *waiter).unwrap().ticket).collect();
    assert_eq!(queue.next(|_| true), Some("b1"));
    let mut all: Vec<(Ticket, &str)> = queue.iter().map(|(ticket, waiter)| (ticket, *waiter)).collect();
    all.sort();
    assert_eq!(all, [(tickets[1], "a1"), (tickets[2], "a2")]);
    assert!(queue.push(client("b"), "b2").unwrap().ticket > tickets[2], "no ticket is used twice");
}

/// The number of its client, that of its session, and its own.
type Waiter = (u64, u64, u64);

/// A list of clients in turn, each with a list of its waiters.
#[derive(Default)]
struct Reference(Vec<(ClientName, Vec<(Ticket, Waiter)>)>);

impl Reference {
    fn push(&mut self, client: &ClientName, ticket: Ticket, waiter: Waiter) {
        match self.0.iter_mut().find(|(known, _)| known == client) {
            Some((_, line)) => line.push((ticket, waiter)),
            None => self.0.push((client.clone(), vec![(ticket, waiter)])),
        }
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Waiter> {
        let mut removed = None;
        for (_, line) in &mut self.0 {
            if let Some(at) = line.iter().position(|(known, _)| *known == ticket) {
                removed = Some(line.remove(at).1);
            }
        }
        self.0.retain(|(_, line)| !line.is_empty());
        removed
    }

    fn next(&mut self, can_start: impl Fn(Waiter) -> bool) -> Option<Waiter> {
        let (at, nth) =
            self.0.iter().enumerate().find_map(|(at, (_, line))| {
                line.iter().position(|(_, waiter)| can_start(*waiter)).map(|nth| (at, nth))
            })?;
        let (client, mut line) = self.0.remove(at);
        let (_, waiter) = line.remove(nth);
        if !line.is_empty() {
            self.0.push((client, line));
        }
        Some(waiter)
    }

    /// Whose newest gives way to another waiter of a client, if the queue is full.
    fn newest_of_most(&self, of: &ClientName) -> Option<Ticket> {
        let own = self.0.iter().find(|(client, _)| client == of).map_or(0, |(_, line)| line.len());
        let greedier = self.0.iter().filter(|(_, line)| line.len() >= own + 2);
        greedier.map(|(_, line)| (line.len(), line.last().unwrap().0)).max().map(|(_, ticket)| ticket)
    }

    fn len(&self) -> usize {
        self.0.iter().map(|(_, line)| line.len()).sum()
    }
}

#[test]
fn agrees_with_a_simple_reference() {
    const WAITERS_MAX: usize = 40;
    let (mut started, mut removed, mut refused, mut gave) = (0, 0, 0, 0);
    for seed in 0..20 {
        let mut seeded = Seeded(seed);
        let clients: Vec<ClientName> = (0..6).map(|n| client(&format!("uid:{n}"))).collect();
        let (mut queue, mut reference) = (Queue::new(WAITERS_MAX), Reference::default());
        let mut last = Ticket(0);
        for nth in 0..2500 {
            let place = format!("seed {seed}, operation {nth}");
            match seeded.below(20) {
                0..=10 => {
                    // Low numbers of sessions come more often.
                    let (of, session) = (seeded.below(6).min(seeded.below(6)), seeded.next() % (1 + seeded.below(9)));
                    let (client, waiter) = (&clients[of as usize], (of, session, nth));
                    let full = reference.len() == WAITERS_MAX;
                    let newest = reference.newest_of_most(client).filter(|_| full);
                    match queue.push(client.clone(), waiter) {
                        Ok(Queued { ticket, gave_way }) => {
                            assert!(ticket > last, "{place}");
                            last = ticket;
                            assert_eq!(gave_way, newest.and_then(|newest| reference.remove(newest)), "{place}");
                            gave += u64::from(gave_way.is_some());
                            reference.push(client, ticket, waiter);
                        }
                        Err(full) => {
                            refused += 1;
                            assert_eq!(newest, None, "{place}");
                            assert_eq!((full.waiter, full.usage), (waiter, WAITERS_MAX), "{place}");
                        }
                    }
                }
                11 | 12 => {
                    let ticket = Ticket(last.0.saturating_sub(seeded.below(60)));
                    let gone = reference.remove(ticket);
                    assert_eq!((queue.get(ticket).copied(), queue.remove(ticket)), (gone, gone), "{place}");
                    removed += u64::from(gone.is_some());
                }
                _ => {
                    let (busy, poor) = (seeded.next(), seeded.next() & seeded.next());
                    let can_start = |(of, session, _): Waiter| poor >> of & 1 == 0 && busy >> session & 1 == 0;
                    let (found, expected) = (queue.next(|waiter| can_start(*waiter)), reference.next(can_start));
                    started += u64::from(found.is_some());
                    assert_eq!(found, expected, "{place}");
                }
            }
            assert_eq!((queue.len(), queue.clients.len()), (reference.len(), reference.0.len()), "{place}");
            assert_eq!((queue.turns.len(), queue.tickets.len()), (queue.clients.len(), queue.len()), "{place}");
        }
    }
    let all = [started, removed, refused, gave];
    assert!(all.iter().all(|count| *count > 500), "{all:?}");
}

#[test]
fn a_client_that_may_run_nothing_is_passed_over_without_a_look_at_what_it_has() {
    let mut queue = Queue::new(9);
    for (client, waiter) in [("a", "a1"), ("a", "a2"), ("b", "b1")] {
        queue.push(client.into(), waiter).unwrap();
    }
    let mut seen = Vec::new();
    let next = queue.take_next(|candidate| match candidate {
        Candidate::Client(client) => **client != *"a",
        Candidate::Waiter(waiter) => {
            seen.push(*waiter);
            true
        }
    });
    assert_eq!((next, seen), (Some("b1"), vec!["b1"]));
    assert_eq!(queue.next(|_| true), Some("a1"));
}
