use std::sync::Arc;

use super::*;
use crate::admission::seeded::Seeded;
use crate::config::Config;
use crate::protocol::request::{Call, Run as RunParams};

const BOUNDS: Bounds = Bounds { window_ms: 1000, keys_max: 100, keys_per_client_max: 10, record_bytes_max: 1000 };

fn client(name: &str) -> ClientName {
    Arc::from(name)
}

fn record(text: &str) -> Arc<[u8]> {
    Arc::from(text.as_bytes())
}

/// Begins a run that must be the first of its key; its own waiter is 0.
fn begin(retries: &mut Retries<u32, Arc<[u8]>>, name: &str, key: &str, now_ms: u64) -> RunId {
    match retries.claim(&client(name), key, &"params", 0, now_ms) {
        Claimed::Run(id) => id,
        claimed => panic!("{name} {key}: {claimed:?}"),
    }
}

fn is_empty<W, R>(retries: &Retries<W, R>) -> bool {
    let sets = retries.ends.is_empty() && retries.records.is_empty();
    retries.runs.is_empty() && retries.clients.is_empty() && sets && retries.record_bytes == 0
}

#[test]
fn the_second_waits_and_the_third_gets_the_record() {
    let (mut retries, a) = (Retries::new(BOUNDS), client("a"));
    let Claimed::Run(id) = retries.claim(&a, "k", &"params", 1, 0) else { panic!() };
    assert_eq!(retries.claim(&a, "k", &"params", 2, 5), Claimed::Waits(id));
    assert_eq!(retries.claim(&a, "k", &"params", 3, 5), Claimed::Waits(id));
    assert_eq!(retries.finished(id, record("done"), 4, 10), [1, 2, 3]);
    assert_eq!(retries.claim(&a, "k", &"params", 4, 11), Claimed::Record(record("done")));
    // Another client's key of that name, and another key, are others.
    begin(&mut retries, "b", "k", 11);
    begin(&mut retries, "a", "l", 11);
}

#[test]
fn other_params_are_told_whether_it_runs_or_has_run() {
    let (mut retries, a) = (Retries::new(BOUNDS), client("a"));
    let id = begin(&mut retries, "a", "k", 0);
    assert_eq!(retries.claim(&a, "k", &"others", 1, 0), Claimed::OtherParams);
    assert_eq!(retries.finished(id, record("done"), 4, 10), [0]);
    assert_eq!(retries.claim(&a, "k", &"others", 1, 10), Claimed::OtherParams);
    assert_eq!(retries.claim(&a, "k", &"params", 1, 10), Claimed::Record(record("done")));
}

#[test]
fn the_window_counts_from_the_end() {
    let (mut retries, a) = (Retries::new(BOUNDS), client("a"));
    let id = begin(&mut retries, "a", "k", 0);
    retries.expire(1_000_000);
    assert_eq!((retries.runs.len(), retries.expires_at_ms()), (1, None), "what runs is not forgotten");
    retries.finished(id, record("done"), 4, 1_000_000);
    assert_eq!(retries.expires_at_ms(), Some(1_001_000));
    assert_eq!(retries.claim(&a, "k", &"params", 1, 1_000_999), Claimed::Record(record("done")));
    assert!(matches!(retries.claim(&a, "k", &"params", 1, 1_001_000), Claimed::Run(again) if again > id));
}

#[test]
fn a_run_that_was_refused_has_not_happened() {
    let (mut retries, a) = (Retries::new(BOUNDS), client("a"));
    let id = begin(&mut retries, "a", "k", 0);
    for waiter in 1..=2 {
        retries.claim(&a, "k", &"params", waiter, 0);
    }
    assert!(!retries.leave(id, |waiter| *waiter == 0));
    assert_eq!(retries.gave_up(id), [1, 2]);
    assert!(is_empty(&retries));
    assert!(retries.gave_up(id).is_empty(), "an end that comes late is ignored");
    assert!(retries.finished(id, record("late"), 4, 0).is_empty());
    assert!(is_empty(&retries));
    let again = begin(&mut retries, "a", "k", 0);
    assert!(again > id);
    assert!(retries.leave(again, |_| true), "nobody waits for it any more");
}

#[test]
fn inv7_keys_end_at_their_bounds_and_none_is_forgotten_before_its_time() {
    let mut retries = Retries::new(Bounds { keys_per_client_max: 2, keys_max: 3, ..BOUNDS });
    let first = begin(&mut retries, "a", "k1", 0);
    begin(&mut retries, "a", "k2", 0);
    let claim =
        |retries: &mut Retries<u32, Arc<[u8]>>, name, now| retries.claim(&client(name), "k3", &"params", 7, now);
    assert_eq!(claim(&mut retries, "a", 5), Claimed::Full { limit: 2, usage: 2, until_ms: None });
    begin(&mut retries, "b", "k", 5);
    assert_eq!(claim(&mut retries, "c", 5), Claimed::Full { limit: 3, usage: 3, until_ms: None });
    retries.finished(first, record("1"), 1, 9);
    assert_eq!(claim(&mut retries, "a", 10), Claimed::Full { limit: 2, usage: 2, until_ms: Some(1009) });
    assert_eq!(claim(&mut retries, "c", 1008), Claimed::Full { limit: 3, usage: 3, until_ms: Some(1009) });
    assert!(matches!(claim(&mut retries, "a", 1009), Claimed::Run(_)));
}

#[test]
fn inv7_records_end_at_their_bytes_and_their_keys_stay() {
    let (mut retries, a) = (Retries::new(Bounds { record_bytes_max: 10, ..BOUNDS }), client("a"));
    let ids: Vec<RunId> = ["k1", "k2", "k3"].iter().map(|key| begin(&mut retries, "a", key, 0)).collect();
    retries.finished(ids[0], record("12345"), 5, 1);
    retries.finished(ids[1], record("12345"), 5, 2);
    assert_eq!((retries.runs.len(), retries.record_bytes), (3, 10));
    retries.finished(ids[2], record("1"), 1, 3);
    assert_eq!((retries.runs.len(), retries.record_bytes), (3, 6));
    assert_eq!(retries.claim(&a, "k1", &"params", 1, 3), Claimed::RecordGone);
    assert_eq!(retries.claim(&a, "k2", &"params", 1, 3), Claimed::Record(record("12345")));
    // One that fits nowhere drives out nobody; who waits for it has it.
    let large = begin(&mut retries, "a", "k4", 3);
    retries.claim(&a, "k4", &"params", 9, 3);
    assert_eq!(retries.finished(large, record("12345678901"), 11, 4), [0, 9]);
    assert_eq!((retries.runs.len(), retries.record_bytes), (4, 6));
    assert_eq!(retries.claim(&a, "k4", &"params", 1, 4), Claimed::RecordGone);
    retries.reconfigure(Bounds { record_bytes_max: 5, ..BOUNDS }, 4);
    assert_eq!((retries.runs.len(), retries.record_bytes), (4, 1));
    retries.expire(1004);
    assert!(is_empty(&retries));
}

#[test]
fn without_a_window_a_key_lives_as_long_as_its_run() {
    let mut retries = Retries::new(Bounds { window_ms: 0, ..BOUNDS });
    let id = begin(&mut retries, "a", "k", 0);
    assert_eq!(retries.claim(&client("a"), "k", &"params", 1, 0), Claimed::Waits(id));
    assert_eq!(retries.finished(id, record("done"), 4, 0), [0, 1]);
    assert!(is_empty(&retries));
}

#[test]
fn the_same_params_are_the_same_however_they_are_written() {
    let parsed =
        |params: &str| match Call::parse("exec.run", Some(serde_json::from_str(params).unwrap()), &Config::default()) {
            Ok(Call::Run(run)) => *run,
            other => panic!("{params}: {other:?}"),
        };
    let written = r#"{"cmd":"a","env":{"A":"1","B":"2"},"limits":{"nofile":9,"cpu_sec":2},"timeout_s":2}"#;
    let first: RunParams = parsed(written);
    let mut retries = Retries::<(), Arc<[u8]>>::new(BOUNDS);
    let Claimed::Run(id) = retries.claim(&client("a"), "k", &first, (), 0) else { panic!() };
    for same in [
        r#"{"timeout_s":2.0,"limits":{"cpu_sec":2e0,"nofile":9},"env":{"B":"2","A":"1"},"cmd":"a"}"#,
        r#" { "cmd" : "\u0061", "env":{"A":"1","B":"2"},"limits":{"nofile":9,"cpu_sec":2},"timeout_s":2,"stream":false} "#,
    ] {
        assert_eq!(retries.claim(&client("a"), "k", &parsed(same), (), 0), Claimed::Waits(id), "{same}");
    }
    for other in [
        r#"{"cmd":"b","env":{"A":"1","B":"2"},"limits":{"nofile":9,"cpu_sec":2},"timeout_s":2}"#,
        r#"{"argv":["a"],"env":{"A":"1","B":"2"},"limits":{"nofile":9,"cpu_sec":2},"timeout_s":2}"#,
        r#"{"cmd":"a","env":{"A":"1","B":"2"},"limits":{"nofile":9,"cpu_sec":2},"timeout_s":3}"#,
        r#"{"cmd":"a","env":{"A":"1","B":"2"},"limits":{"nofile":9,"cpu_sec":-1},"timeout_s":2}"#,
        r#"{"cmd":"a","env":{"A":"1","B":"2"},"limits":{"nofile":9,"cpu_sec":2},"timeout_s":2,"stdin":""}"#,
        r#"{"cmd":"a","env":{"A":"1","B":"2"},"limits":{"nofile":9,"cpu_sec":2},"timeout_s":2,"session":"s1"}"#,
    ] {
        assert_eq!(retries.claim(&client("a"), "k", &parsed(other), (), 0), Claimed::OtherParams, "{other}");
    }
}

/// A list of all that is remembered, in the order in which it began.
struct Known {
    id: RunId,
    client: ClientName,
    key: &'static str,
    params: u64,
    waiters: Vec<u32>,
    /// When it ended, and its record while there is room for it.
    end: Option<(u64, Option<Arc<[u8]>>)>,
}

struct Reference {
    bounds: Bounds,
    runs: Vec<Known>,
}

impl Reference {
    fn claim(
        &mut self,
        client: &ClientName,
        key: &'static str,
        params: u64,
        waiter: u32,
    ) -> Result<Claimed<Arc<[u8]>>, ()> {
        let Some(run) = self.runs.iter_mut().find(|run| run.client == *client && run.key == key) else {
            let of_client: Vec<&Known> = self.runs.iter().filter(|run| run.client == *client).collect();
            let all: Vec<&Known> = self.runs.iter().collect();
            for (runs, limit) in [(of_client, self.bounds.keys_per_client_max), (all, self.bounds.keys_max)] {
                if runs.len() >= limit {
                    let oldest = runs.iter().filter_map(|run| run.end.as_ref().map(|(at, _)| *at)).min();
                    let until_ms = oldest.map(|at| at + self.bounds.window_ms);
                    return Ok(Claimed::Full { limit, usage: runs.len(), until_ms });
                }
            }
            return Err(());
        };
        Ok(match &run.end {
            _ if run.params != params => Claimed::OtherParams,
            Some((_, Some(record))) => Claimed::Record(record.clone()),
            Some((_, None)) => Claimed::RecordGone,
            None => {
                run.waiters.push(waiter);
                Claimed::Waits(run.id)
            }
        })
    }

    fn record_bytes(&self) -> usize {
        self.runs.iter().filter_map(|run| run.end.as_ref()?.1.as_ref()).map(|record| record.len()).sum()
    }

    fn finish(&mut self, id: RunId, record: Arc<[u8]>, now: u64) -> Vec<u32> {
        let Some(at) = self.runs.iter().position(|run| run.id == id && run.end.is_none()) else { return Vec::new() };
        let waiters = std::mem::take(&mut self.runs[at].waiters);
        let fits = record.len() <= self.bounds.record_bytes_max;
        while fits && self.record_bytes() + record.len() > self.bounds.record_bytes_max {
            let kept =
                self.runs.iter_mut().filter(|run| matches!(&run.end, Some((_, Some(record))) if !record.is_empty()));
            let oldest = kept.min_by_key(|run| (run.end.as_ref().map(|(at, _)| *at), run.id)).unwrap();
            oldest.end.as_mut().unwrap().1 = None;
        }
        self.runs[at].end = Some((now, fits.then_some(record)));
        waiters
    }
}

#[test]
fn agrees_with_a_simple_reference() {
    let mut seen = [0; 6];
    for seed in 0..20 {
        let mut seeded = Seeded(seed);
        let bounds = Bounds {
            window_ms: 1 + seeded.below(300),
            keys_max: 1 + seeded.below(12) as usize,
            keys_per_client_max: 1 + seeded.below(6) as usize,
            record_bytes_max: seeded.below(60) as usize,
        };
        let (mut retries, mut reference) = (Retries::new(bounds), Reference { bounds, runs: Vec::new() });
        let (mut now, mut last) = (0, RunId(0));
        for nth in 0..2500 {
            let place = format!("seed {seed}, operation {nth}");
            now += seeded.below(10);
            reference.runs.retain(|run| run.end.as_ref().is_none_or(|(at, _)| now - at < bounds.window_ms));
            let running: Vec<RunId> = reference.runs.iter().filter(|run| run.end.is_none()).map(|run| run.id).collect();
            let some_run = match seeded.below(8) {
                // One that may be gone.
                0 => RunId(last.0.saturating_sub(seeded.below(12))),
                _ if running.is_empty() => RunId(0),
                _ => seeded.one_of(&running),
            };
            match seeded.below(10) {
                0..=5 => {
                    let client = client(seeded.one_of(&["uid:1", "uid:2", "ip:::1"]));
                    let key = seeded.one_of(&["k1", "k2", "k3", "k4", "k5", "k6"]);
                    let (params, waiter) = (seeded.below(5) / 4, seeded.below(1000) as u32);
                    let claimed = retries.claim(&client, key, &params, waiter, now);
                    seen[kind(&claimed)] += 1;
                    match (reference.claim(&client, key, params, waiter), claimed) {
                        (Ok(expected), claimed) => assert_eq!(claimed, expected, "{place}"),
                        (Err(()), Claimed::Run(id)) => {
                            assert!(id > last, "{place}");
                            last = id;
                            reference.runs.push(Known { id, client, key, params, waiters: vec![waiter], end: None });
                        }
                        (Err(()), claimed) => panic!("{place}: {claimed:?}"),
                    }
                }
                6 | 7 => {
                    retries.expire(now);
                    let record: Arc<[u8]> = vec![7; seeded.below(25) as usize].into();
                    let expected = reference.finish(some_run, record.clone(), now);
                    if running.contains(&some_run) {
                        assert_eq!(retries.finished(some_run, record.clone(), record.len(), now), expected, "{place}");
                    }
                }
                8 => {
                    let waiters = retries.gave_up(some_run);
                    let gone = reference.runs.iter().position(|run| run.id == some_run && run.end.is_none());
                    let expected = gone.map(|at| reference.runs.remove(at).waiters);
                    assert_eq!(waiters, expected.unwrap_or_default(), "{place}");
                }
                _ => {
                    let gone = seeded.below(4) as u32;
                    let nobody = retries.leave(some_run, |waiter| waiter % 4 == gone);
                    let run = reference.runs.iter_mut().find(|run| run.id == some_run && run.end.is_none());
                    let expected = run.is_some_and(|run| {
                        run.waiters.retain(|waiter| waiter % 4 != gone);
                        run.waiters.is_empty()
                    });
                    assert_eq!(nobody, expected, "{place}");
                }
            }
            retries.expire(now);
            let known = (reference.runs.len(), reference.record_bytes());
            assert_eq!((retries.runs.len(), retries.record_bytes), known, "{place}");
            let keys: usize = retries.clients.values().map(|client| client.keys.len()).sum();
            let ends: usize = retries.clients.values().map(|client| client.ends.len()).sum();
            assert_eq!((keys, ends), (retries.runs.len(), retries.ends.len()), "{place}");
            assert!(retries.clients.values().all(|client| !client.keys.is_empty()), "{place}");
        }
        for id in retries.runs.keys().copied().collect::<Vec<_>>() {
            retries.gave_up(id);
        }
        retries.expire(now + bounds.window_ms);
        assert!(is_empty(&retries), "seed {seed}: {retries:?}");
    }
    assert!(seen.iter().all(|count| *count > 500), "{seen:?}");
}

fn kind(claimed: &Claimed<Arc<[u8]>>) -> usize {
    match claimed {
        Claimed::Run(_) => 0,
        Claimed::Waits(_) => 1,
        Claimed::Record(_) => 2,
        Claimed::RecordGone => 3,
        Claimed::OtherParams => 4,
        Claimed::Full { .. } => 5,
    }
}
