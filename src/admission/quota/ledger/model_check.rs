//! The ledger against a reference that keeps nothing but the list of what is held, and adds it up for each question.
//!
//! Random operations from a fixed seed: claims of all kinds, releases, claims that are lost and claims that a panic
//! unwinds past, limits set and unset, other configurations with other trees, clients that vanish with all they have.

mod reference;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::*;
use crate::admission::quota::UNLIMITED;
use crate::config::ClientQuota;
use reference::{Reference, Row, amounts};

const CLIENTS: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
const SEEDS: u64 = 6;
const STEPS: usize = 25_000;

struct Random(u64);

impl Random {
    /// Below `end`: xorshift64*.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % end
    }

    fn client(&mut self) -> &'static str {
        CLIENTS[self.below(CLIENTS.len() as u64) as usize]
    }

    fn resource(&mut self) -> Resource {
        Resource::ALL[self.below(5) as usize]
    }

    fn limit(&mut self) -> i64 {
        self.below(14) as i64 - 1
    }

    fn claims(&mut self) -> Vec<(Resource, Amount)> {
        (0..=self.below(4))
            .map(|_| {
                let amount = if self.below(20) == 0 { Amount::Unlimited } else { Amount::Of(self.below(5)) };
                (self.resource(), amount)
            })
            .collect()
    }

    fn quotas(&mut self) -> Quotas {
        let model = if self.below(3) == 0 { Model::Flat } else { Model::StrictTwoLevel };
        let limits = |random: &mut Random, one_in: u64| {
            let some: Vec<Resource> = Resource::ALL.into_iter().filter(|_| random.below(one_in) == 0).collect();
            some.into_iter().map(|resource| (resource.name().to_owned(), random.limit())).collect()
        };
        let mut clients = BTreeMap::new();
        for client in CLIENTS {
            if self.below(2) == 0 {
                // Mostly below one of the first two, which mostly are below nobody.
                let parent = match self.below(5) {
                    0 => Some(self.client()),
                    1..=3 if client > "b" => Some(["a", "b"][self.below(2) as usize]),
                    _ => None,
                };
                let parent = parent.filter(|_| model == Model::StrictTwoLevel).map(str::to_owned);
                clients.insert(client.to_owned(), ClientQuota { parent, limits: limits(self, 9) });
            }
        }
        Quotas { model, registered: limits(self, 2), clients }
    }
}

struct Check {
    random: Random,
    ledger: Ledger,
    reference: Reference,
    /// In the order of the reference's `held`.
    claims: Vec<Claim>,
    /// So that the test shows that it tests something.
    granted: usize,
    refused: usize,
    refused_limits: usize,
    reloads: usize,
}

impl Check {
    fn new(seed: u64) -> Check {
        let quotas = crate::config::Config::default().quotas;
        Check {
            random: Random(seed),
            ledger: Ledger::new(&quotas, Overrides::default()).unwrap(),
            reference: Reference { quotas, set: BTreeMap::new(), held: Vec::new(), buffers: BTreeMap::new() },
            claims: Vec::new(),
            granted: 0,
            refused: 0,
            refused_limits: 0,
            reloads: 0,
        }
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..45 => self.claim(),
            45..65 => self.end(|ledger, claim| ledger.release(claim)),
            65..70 => self.end(|_, claim| drop(claim)),
            70..73 => self.split(),
            73..75 => self.vanish(),
            75..83 => self.set(),
            83..89 => self.unset(),
            89..91 => self.reload(),
            91..95 => {
                let client = self.random.client();
                let held = self.random.below(12);
                self.reference.buffers.insert(client, held);
            }
            _ => self.check(),
        }
        self.compare();
    }

    fn claim(&mut self) {
        let (client, asked) = (self.random.client(), self.random.claims());
        let (rows, retryable) = self.reference.judge(client, &asked);
        let panics = self.random.below(10) == 0;
        let Check { ledger, reference, .. } = self;
        let buffers = |client: &str| reference.buffers.get(client).copied().unwrap_or(0);
        let claimed = catch_unwind(AssertUnwindSafe(|| {
            let claimed = ledger.claim(client, &asked, &buffers);
            if panics {
                resume_unwind(Box::new("between the claim and its effect"));
            }
            claimed
        }));
        match claimed {
            Err(_) => {}
            Ok(Ok(claim)) => {
                assert!(rows.is_empty(), "{client} {asked:?} was granted over {rows:?}");
                self.granted += 1;
                self.claims.push(claim);
                self.reference.held.push((client, amounts(&asked)));
            }
            Ok(Err(refused)) => {
                self.refused += 1;
                same(&refused, &rows, retryable);
            }
        }
    }

    fn check(&mut self) {
        let (client, asked) = (self.random.client(), self.random.claims());
        let asked: Vec<_> = asked.into_iter().filter(|(_, amount)| *amount != Amount::Unlimited).collect();
        let named: Vec<(&str, u64)> =
            asked.iter().map(|(resource, amount)| (resource.name(), amount.counted() as u64)).collect();
        let (rows, retryable) = self.reference.judge(client, &asked);
        let Check { ledger, reference, .. } = self;
        let buffers = |client: &str| reference.buffers.get(client).copied().unwrap_or(0);
        match ledger.check(client, &named, &buffers) {
            Ok(()) => assert!(rows.is_empty(), "{client} {named:?} is over {rows:?}"),
            Err(refused) => same(&refused, &rows, retryable),
        }
    }

    fn end(&mut self, how: impl Fn(&mut Ledger, Claim)) {
        if self.claims.is_empty() {
            return;
        }
        let at = self.random.below(self.claims.len() as u64) as usize;
        self.reference.held.swap_remove(at);
        how(&mut self.ledger, self.claims.swap_remove(at));
    }

    fn split(&mut self) {
        if self.claims.is_empty() {
            return;
        }
        let at = self.random.below(self.claims.len() as u64) as usize;
        let resource = self.random.resource();
        let part = self.ledger.split(&mut self.claims[at], resource);
        let (client, held) = &mut self.reference.held[at];
        let mut amounts = PerResource::default();
        amounts[resource] = std::mem::take(&mut held[resource]);
        assert_eq!(part.amount(resource), amounts[resource]);
        let client = *client;
        self.claims.push(part);
        self.reference.held.push((client, amounts));
    }

    fn vanish(&mut self) {
        let client = self.random.client();
        for at in (0..self.claims.len()).rev() {
            if self.reference.held[at].0 == client {
                self.reference.held.swap_remove(at);
                let claim = self.claims.swap_remove(at);
                if self.random.below(2) == 0 {
                    self.ledger.release(claim);
                }
            }
        }
        self.reference.buffers.remove(client);
    }

    fn set(&mut self) {
        let client = (self.random.below(4) > 0).then(|| self.random.client());
        let (resource, limit) = (self.random.resource(), self.random.limit());
        let before = self.reference.set.insert((client, resource), limit);
        let fits = self.reference.fits(client, resource);
        let set = self.ledger.set(client, resource, limit);
        if fits {
            assert_eq!(set, Ok(before));
        } else {
            assert!(matches!(set, Err(InvalidLimit::OverParent { .. })), "{client:?} {resource} {limit}: {set:?}");
            self.restore(client, resource, before);
        }
    }

    fn unset(&mut self) {
        let set: Vec<_> = self.reference.set.keys().copied().collect();
        let (client, resource) = match set.len() as u64 {
            0 => (None, self.random.resource()),
            n => set[self.random.below(n) as usize],
        };
        let before = self.reference.set.remove(&(client, resource));
        let fits = before.is_none() || self.reference.fits(client, resource);
        let unset = self.ledger.unset(client, resource);
        if fits {
            assert_eq!(unset, Ok(before));
        } else {
            assert!(matches!(unset, Err(InvalidLimit::OverParent { .. })), "{client:?} {resource}: {unset:?}");
            self.restore(client, resource, before);
        }
    }

    fn restore(&mut self, client: Option<&'static str>, resource: Resource, before: Option<i64>) {
        self.refused_limits += 1;
        match before {
            Some(before) => self.reference.set.insert((client, resource), before),
            None => self.reference.set.remove(&(client, resource)),
        };
    }

    fn reload(&mut self) {
        let quotas = self.random.quotas();
        let valid = Reference::is_valid(&quotas);
        assert_eq!(self.ledger.reload(&quotas).is_ok(), valid, "{quotas:?}");
        if valid {
            self.reloads += 1;
            self.reference.quotas = quotas;
        }
    }

    /// All that the ledger says of one client is what the reference says.
    fn compare(&mut self) {
        let client = self.random.client();
        let Check { ledger, reference, .. } = self;
        let buffers = |client: &str| reference.buffers.get(client).copied().unwrap_or(0);
        for row in ledger.show(client, &buffers) {
            let bounds = reference.bounds(client, row.resource);
            let room = |limit: i64, used: i64| if limit == UNLIMITED { i64::MAX } else { limit - used };
            let (limit, used, scope) =
                *bounds.iter().min_by_key(|(limit, used, _)| room(*limit, *used)).expect("one at least");
            let expected = (limit, used, reference.scope(scope));
            assert_eq!((row.limit, row.usage as i64, row.scope), expected, "{client} {}", row.resource);
            assert_eq!(ledger.usage(client, row.resource, &buffers) as i64, reference.usage(client, row.resource));
            let finite = bounds.iter().map(|(limit, ..)| *limit).filter(|limit| *limit != UNLIMITED);
            assert_eq!(ledger.limit(client, row.resource), finite.min().unwrap_or(UNLIMITED));
        }
        assert_eq!(ledger.overrides().iter().count(), reference.set.len());
    }

    /// Clients that the ledger remembers though nothing is held: those that have limits or a place in a tree.
    fn finish(mut self) -> (usize, usize, usize, usize) {
        while !self.claims.is_empty() {
            self.end(|ledger, claim| ledger.release(claim));
        }
        self.reference.buffers.clear();
        for client in CLIENTS {
            for resource in Resource::ALL {
                assert_eq!(self.ledger.usage(client, resource, &|_| 0), 0, "{client} {resource}");
            }
        }
        self.compare();
        let reference = &self.reference;
        let kept = CLIENTS.iter().filter(|client| {
            reference.parent(client).is_some()
                || !reference.children(client).is_empty()
                || Resource::ALL.iter().any(|resource| reference.own(Some(client), *resource).is_some())
        });
        assert_eq!(self.ledger.clients(), kept.count());
        (self.granted, self.refused, self.refused_limits, self.reloads)
    }
}

fn same(refused: &OverLimit, rows: &[Row], retryable: bool) {
    let told: Vec<Row> = refused
        .over
        .iter()
        .map(|row| (Resource::from_name(&row.resource).unwrap(), row.limit, row.usage, row.delta, row.scope))
        .collect();
    assert_eq!((told.as_slice(), refused.retryable), (rows, retryable), "{}", refused.client);
}

#[test]
fn inv9_the_ledger_is_its_reference_whatever_happens() {
    for seed in 1..=SEEDS {
        let mut check = Check::new(seed);
        for step in 0..STEPS {
            let stepped = catch_unwind(AssertUnwindSafe(|| check.step()));
            assert!(stepped.is_ok(), "seed {seed}, step {step}");
        }
        let (granted, refused, refused_limits, reloads) = check.finish();
        let busy = granted > STEPS / 20 && refused > STEPS / 20 && refused_limits > 50 && reloads > 20;
        assert!(busy, "seed {seed}: {granted} granted, {refused} refused, {refused_limits} limits, {reloads} reloads");
    }
}
