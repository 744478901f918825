//! What admission costs: the time of a decision about the request rate, and of a claim of a quota and its release, with
//! a thousand clients known; and the memory of ten thousand clients that the rate remembers. No daemon: the library
//! alone.
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark is not the daemon: it starts, signals and waits as it likes"
)]

#[allow(dead_code, reason = "this one measures the library, and starts no daemon")]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use cofferdam::admission::overrides::Overrides;
use cofferdam::admission::quota::{Amount, Claim, Ledger, Model, Resource};
use cofferdam::admission::rate::{Decision, Limiter, Outcome, Rate, RateError, Rule, decide_all};
use cofferdam::config::{ClientQuota, Config};
use common::{Outcome as BenchOutcome, row};

const CLIENTS: usize = 1_000;
/// What admission may add to a request, all of it together.
const DECISION_NS_MAX: f64 = 2_000.0;
const KEYS: usize = 10_000;
const KEYS_BYTES_MAX: usize = 2 << 20;
const MIB: f64 = (1 << 20) as f64;

#[global_allocator]
static COUNTED: Counted = Counted;

fn main() -> ExitCode {
    common::main("admission", bench)
}

fn bench(smoke: bool) -> BenchOutcome {
    let (rounds, decisions) = if smoke { (3, 20_000) } else { (15, 1_000_000) };
    println!("# a decision with {CLIENTS} clients known, the median of {rounds} rounds of {decisions}");
    let clients: Vec<String> = (0..CLIENTS).map(|n| format!("ip:10.0.{}.{}", n / 256, n % 256)).collect();
    let rate_ns = rate_time(&clients, rounds, decisions)?;
    let quota_ns = quota_time(&clients, rounds, decisions)?;
    decision_row("both: passed, claimed and released", rate_ns + quota_ns);
    remembered()?;
    Ok(())
}

// Time.

/// The rows of the rate; the time of a request that passes.
fn rate_time(clients: &[String], rounds: usize, decisions: u64) -> Result<f64, Box<dyn Error>> {
    let client = |nth: u64| clients[scattered(nth) as usize % CLIENTS].as_str();

    // A thousand requests a millisecond, so that each client asks once a millisecond on average.
    let mut passing = Known::new("2000r/s", 1000, clients)?;
    let passed_ns = median(rounds, decisions, |nth| passing.limiter.decide(client(nth), passing.after(nth / 1000)));
    expect(&passing.limiter.decide(client(0), passing.after(rounds as u64 * decisions / 1000)), false)?;
    decision_row("rate: one that passes", passed_ns);
    let mut refusing = Known::new("1r/m", 0, clients)?;
    let ns = median(rounds, decisions, |nth| refusing.limiter.decide(client(nth), refusing.after(0)));
    expect(&refusing.limiter.decide(client(0), refusing.after(0)), true)?;
    decision_row("rate: one that is refused", ns);
    let (mut first, mut second) = (Known::new("2000r/s", 1000, clients)?, Known::new("3000r/s", 1000, clients)?);
    let ns = median(rounds, decisions, |nth| {
        let (client, now_ms) = (client(nth), first.after(nth / 1000));
        decide_all(&mut [(&mut first.limiter, client), (&mut second.limiter, client)], false, now_ms)
    });
    decision_row("rate: two limits on one request", ns);
    // Every client is a new one that drives out the oldest.
    let strangers: Vec<String> = (0..2 * KEYS).map(|n| format!("ip:2001:db8::{n:x}")).collect();
    let mut full = Limiter::new(rule("1r/m", 10)?, CLIENTS);
    let ns = median(rounds, decisions, |nth| full.decide(&strangers[nth as usize % strangers.len()], 0));
    decision_row("rate: a stranger, the table full", ns);
    Ok(passed_ns)
}

/// The rows of the quotas; the time of what a command claims and gives back, in a tree.
fn quota_time(clients: &[String], rounds: usize, decisions: u64) -> Result<f64, Box<dyn Error>> {
    let of_command: &[_] = &[(Resource::Commands, Amount::Of(1))];
    let mut ns = 0.0;
    for (what, model, claims) in [
        ("quota: a session's claim and release", Model::Flat, OF_SESSION),
        ("quota: a command's claim and release", Model::Flat, of_command),
        ("quota: a command's in a tree", Model::StrictTwoLevel, of_command),
    ] {
        let (mut ledger, open) = ledger(model, clients)?;
        let mut refused = 0;
        ns = median(rounds, decisions, |nth| {
            let client = &clients[scattered(nth) as usize % CLIENTS];
            match ledger.claim(client, claims, &|_| 0) {
                Ok(claim) => ledger.release(claim),
                Err(_) => refused += 1,
            }
        });
        if refused > 0 || ledger.clients() < clients.len() {
            return Err(format!("{what}: {refused} refused, {} clients known", ledger.clients()).into());
        }
        drop(open);
        decision_row(what, ns);
    }
    Ok(ns)
}

const OF_SESSION: &[(Resource, Amount)] = &[
    (Resource::Sessions, Amount::Of(1)),
    (Resource::MemoryBytes, Amount::Of(256 << 20)),
    (Resource::Processes, Amount::Of(64)),
];

/// A ledger in which every client has a session open, and in a tree the same parent.
fn ledger(model: Model, clients: &[String]) -> Result<(Ledger, Vec<Claim>), Box<dyn Error>> {
    let mut quotas = Config::default().quotas;
    quotas.model = model;
    if model == Model::StrictTwoLevel {
        let limits = ["sessions", "commands"].map(|name| (name.to_owned(), 1 << 20));
        quotas.clients.insert("everybody".to_owned(), ClientQuota { parent: None, limits: limits.into() });
        for client in clients {
            let quota = ClientQuota { parent: Some("everybody".to_owned()), limits: [].into() };
            quotas.clients.insert(client.clone(), quota);
        }
    }
    let mut ledger = Ledger::new(&quotas, Overrides::default())?;
    let open = clients.iter().map(|client| ledger.claim(client, OF_SESSION, &|_| 0)).collect::<Result<_, _>>();
    let open = open.map_err(|over| format!("no client is over its limits yet: {over:?}"))?;
    Ok((ledger, open))
}

/// A limiter that has heard of all clients.
struct Known {
    limiter: Limiter,
    now_ms: u64,
}

impl Known {
    fn new(rate: &str, burst: u32, clients: &[String]) -> Result<Known, RateError> {
        let mut known = Known { limiter: Limiter::new(rule(rate, burst)?, KEYS), now_ms: 1_000_000 };
        for client in clients {
            known.limiter.decide(client, known.now_ms);
        }
        Ok(known)
    }

    fn after(&self, ms: u64) -> u64 {
        self.now_ms + ms
    }
}

fn rule(rate: &str, burst: u32) -> Result<Rule, RateError> {
    Ok(Rule { burst, delay: None, ..Rule::new(rate.parse::<Rate>()?) })
}

/// What was measured is what the row says.
fn expect(decision: &Decision, refused: bool) -> Result<(), Box<dyn Error>> {
    match matches!(decision.outcome, Outcome::Reject { .. }) == refused {
        true => Ok(()),
        false => Err(format!("not what was to be measured: {decision:?}").into()),
    }
}

/// No client is near the one before it in memory.
fn scattered(nth: u64) -> u64 {
    nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

fn median<T>(rounds: usize, decisions: u64, mut decide: impl FnMut(u64) -> T) -> f64 {
    // Time goes on from round to round.
    let mut each_ns: Vec<f64> = (0..rounds as u64)
        .map(|round| {
            let start = Instant::now();
            for nth in round * decisions..(round + 1) * decisions {
                black_box(decide(black_box(nth)));
            }
            start.elapsed().as_nanos() as f64 / decisions as f64
        })
        .collect();
    each_ns.sort_by(f64::total_cmp);
    each_ns[rounds / 2]
}

fn decision_row(what: &str, ns: f64) {
    row(what, format!("{ns:.0} ns"), Some(("<= 2 us", ns <= DECISION_NS_MAX)));
}

// Memory.

fn remembered() -> Result<(), Box<dyn Error>> {
    println!("# what the allocator was asked for, and what malloc rounds each piece up to");
    for (what, name) in [
        ("ip:127.0.0.1 and such", (|n| format!("ip:10.0.{}.{}", n / 256, n % 256)) as fn(usize) -> String),
        ("the longest IPv6 addresses", |n| format!("ip:2001:0db8:85a3:0000:0000:8a2e:0370:{n:04x}")),
    ] {
        let before = COUNTED.bytes();
        let mut limiter = Limiter::new(rule("5r/s", 10)?, KEYS);
        // Some more than are remembered: what was driven out must be gone.
        for n in 0..KEYS + 100 {
            limiter.decide(&name(n), 0);
        }
        let bytes = COUNTED.bytes() - before;
        if limiter.len() != KEYS {
            return Err(format!("{} keys are remembered, not {KEYS}", limiter.len()).into());
        }
        let figure = format!("{:.2} MiB", bytes as f64 / MIB);
        row(&format!("{KEYS} keys, {what}"), figure, Some(("<= 2 MiB", bytes <= KEYS_BYTES_MAX)));
    }
    Ok(())
}

/// The system's allocator, and what it gave out and has not got back.
struct Counted;

static BYTES: AtomicUsize = AtomicUsize::new(0);

/// malloc keeps the size beside each piece, and pieces are multiples of 16.
fn taken(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16).max(32)
}

impl Counted {
    fn bytes(&self) -> usize {
        BYTES.load(Ordering::Relaxed)
    }
}

// SAFETY: every piece is the system allocator's own, asked for and given back with the layout that came.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(taken(layout), Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        BYTES.fetch_sub(taken(layout), Ordering::Relaxed);
        // SAFETY: the piece came from `alloc` above with this layout, as the caller promises.
        unsafe { System.dealloc(piece, layout) }
    }
}
