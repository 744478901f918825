//! What a running nginx answered, as vectors: every outcome here was seen from the module itself.

use super::*;

fn rule(text: &str) -> Rule {
    let mut words = text.split(' ');
    let rate = words.next().and_then(|rate| rate.parse().ok()).expect("a rate");
    let mut rule = Rule::new(rate);
    for word in words {
        match word.split_once('=') {
            Some(("burst", n)) => rule.burst = n.parse().unwrap(),
            Some(("delay", n)) => rule.delay = Some(n.parse().unwrap()),
            None if word == "nodelay" => rule.delay = None,
            _ => panic!("{word} is no word of a rule"),
        }
    }
    rule
}

fn shown(decision: Decision) -> String {
    match decision.outcome {
        Outcome::Pass => "P".to_owned(),
        Outcome::Delay { ms } => format!("D{ms}"),
        Outcome::Reject { .. } => "R".to_owned(),
    }
}

/// Arrivals (`12@0` is twelve at once) and what became of them (`3xP`, `D200`, `R/5`: with that excess).
fn vector(text: &str, arrivals: &str, outcomes: &str) {
    let mut limiter = Limiter::new(rule(text), 10);
    let mut outcomes = outcomes.split_whitespace().flat_map(|word| match word.split_once('x') {
        Some((n, word)) => vec![word; n.parse().unwrap()],
        None => vec![word],
    });
    for (nth, at) in times(arrivals).into_iter().enumerate() {
        let decision = limiter.decide("key", at);
        let expected = outcomes.next().expect("an outcome for each");
        let found = match expected.contains('/') {
            true => format!("{}/{}", shown(decision), decision.excess),
            false => shown(decision),
        };
        assert_eq!(found, expected, "{text}: request {nth} at {at}, {decision:?}");
    }
    assert_eq!(outcomes.next(), None, "{text}: an outcome too many");
}

fn times(arrivals: &str) -> Vec<u64> {
    let one = |word: &str| match word.split_once('@') {
        Some((n, at)) => vec![at.parse().unwrap(); n.parse().unwrap()],
        None => vec![word.parse().unwrap()],
    };
    arrivals.split_whitespace().flat_map(one).collect()
}

#[test]
fn twelve_at_once_and_some_at_the_edges() {
    let arrivals = "12@0 199 200 200 399 400 401";
    vector(
        "5r/s burst=10 nodelay",
        arrivals,
        "P/0 P/1000 P/2000 P/3000 P/4000 P/5000 P/6000 P/7000 P/8000 P/9000 P/10000 R/11000 \
         R/10005 P/10000 R/11000 R/10005 P/10000 R/10995",
    );
    vector(
        "5r/s burst=10",
        arrivals,
        "P D200 D400 D600 D800 D1000 D1200 D1400 D1600 D1800 D2000 R R D2000 R R D2000 R",
    );
    vector("5r/s burst=10 delay=5", arrivals, "6xP D200 D400 D600 D800 D1000 R R D1000 R R D1000 R");
    vector("5r/s", arrivals, "P 11xR R/5 P/0 R/1000 R/5 P/0 R/995");
    vector("5r/s burst=3 delay=5", arrivals, "4xP 8xR R/3005 P/3000 R R P R");
}

#[test]
fn thirteen_at_once_and_two_bursts_more() {
    let arrivals = "13@0 100 200 200 400 4@1000 12@3000";
    vector(
        "5r/s burst=10 nodelay",
        arrivals,
        "11xP 2xR R/10500 P R P P/8000 P/9000 P/10000 R \
         P/1000 P/2000 P/3000 P/4000 P/5000 P/6000 P/7000 P/8000 P/9000 P/10000 R R",
    );
    vector(
        "5r/s burst=10",
        arrivals,
        "P D200 D400 D600 D800 D1000 D1200 D1400 D1600 D1800 D2000 2xR R D2000 R D2000 D1600 D1800 D2000 R \
         D200 D400 D600 D800 D1000 D1200 D1400 D1600 D1800 D2000 R R",
    );
    vector(
        "5r/s burst=10 delay=5",
        arrivals,
        "6xP D200 D400 D600 D800 D1000 2xR R D1000 R D1000 D600 D800 D1000 R 5xP D200 D400 D600 D800 D1000 R R",
    );
    vector("5r/s", arrivals, "P 12xR R/500 P R P P R R R P 11xR");
    // A bucket that was full is as good as new 2,200 ms later: eleven again, 4,200 ms after the last of them.
    vector("5r/s burst=10 nodelay", "12@0 12@4200", "11xP R 11xP R");
    vector("5r/s burst=10 nodelay", "12@0 12@2200", "11xP R P/0 10xP R");
    vector("5r/s burst=10 nodelay", "12@0 12@2199", "11xP R P/5 9xP R/10005 R");
}

#[test]
fn twice_as_often_as_allowed() {
    let every_100: Vec<String> = (0..=2300).step_by(100).map(|at| at.to_string()).collect();
    let every_100 = every_100.join(" ");
    let grows: Vec<String> = (0..=20).map(|nth| format!("P/{}", nth * 500)).collect();
    vector("5r/s burst=10 nodelay", &every_100, &format!("{} R/10500 P/10000 R", grows.join(" ")));
    let delays: Vec<String> = (1..=20).map(|nth| format!("D{}", nth * 100)).collect();
    vector("5r/s burst=10", &every_100, &format!("P {} R D2000 R", delays.join(" ")));
    let delays: Vec<String> = (1..=10).map(|nth| format!("D{}", nth * 100)).collect();
    vector("5r/s burst=10 delay=5", &every_100, &format!("11xP {} R D1000 R", delays.join(" ")));
}

#[test]
fn single_sequences() {
    vector("5r/s", "0 199 398 597 796 995 1194 1393", "P R P R P R P R");
    vector("5r/s", "0 200 400 600 800 1000 1200 1400", "8xP");
    vector("5r/s", "0 1 199 200 201 399 400 599 600 601 1000 1001", "P R R P R R P R P R P R");
    vector("5r/s burst=10", "0 600 600 600 601 1200", "P P D200 D400 D599/2995 D200");
    vector("1r/m", "0 30000 60000 62499 62500 62501 125000 125001", "P R R R/1 P R P R");
    vector(
        "10r/m burst=2",
        "0 0 0 0 6024 6025 6026 12049 12050 18072",
        "P D6024 D12048 R R/2001 D12048 R R/2001 D12048 R/2001",
    );
    vector(
        "3r/s burst=2",
        "0 1 333 334 335 666 667 668 1000 1001",
        "P D332/997 D333/1001 D666/1998 R R/2002 D666/1999 R D666/2000 R",
    );
    vector("1r/s burst=1", "0 1 333 666 1000 1001", "P D999/999 R R D1000/1000 R");
    for rate in ["1000r/s", "2000r/s"] {
        vector(rate, "0 0 1 1 1 2 3 5 5", "P R P R R P P P R");
    }
}

#[test]
fn a_clock_that_steps_back_does_no_harm() {
    vector("5r/s burst=10", "1000 900 800 1000 1199 1200", "P D200 D400 D600 D601/3005 D800");
    vector("5r/s burst=10", "100000 39000 39001 39200 100000", "P D199/995 D398/1990 D399/1995 P");
    // The edge of what counts as a step: a minute leaks nothing, a millisecond more leaks one.
    vector("5r/s burst=10", "100000 40000 40000", "P D200/1000 D400/2000");
    vector("5r/s burst=10", "100000 39999 39999", "P D199/995 D399/1995");
}

/// One request a millisecond for ten minutes, the last millisecond included.
#[test]
fn the_rate_is_what_gets_through() {
    for (text, expected) in [
        ("5r/s", 3001),
        ("5r/s burst=10 nodelay", 3011),
        ("1r/m", 10),
        ("10r/m", 100),
        ("30r/m", 301),
        ("100r/m", 999),
        ("3r/s", 1797),
    ] {
        let mut limiter = Limiter::new(rule(text), 1);
        let through = (0..=600_000).filter(|at| limiter.decide("key", *at).outcome == Outcome::Pass).count();
        assert_eq!(through, expected, "{text}");
    }
}

#[test]
fn rates_are_cut_to_thousandths() {
    let milli = |text: &str| text.parse::<Rate>().map(Rate::milli_per_s).map_err(|error| error.to_string());
    for (text, expected) in [
        ("5r/s", 5000),
        ("1r/m", 16),
        ("7r/m", 116),
        ("10r/m", 166),
        ("30r/m", 500),
        ("100r/m", 1666),
        ("300r/m", 5000),
    ] {
        assert_eq!(milli(text), Ok(expected), "{text}");
    }
    assert_eq!(milli("1000000r/s"), Ok(1_000_000_000));
    for text in [
        "",
        "5",
        "r/s",
        "0r/s",
        "0r/m",
        "0.5r/s",
        "-1r/s",
        "+1r/s",
        "1r/h",
        "1 r/s",
        "1r/s ",
        "1000001r/s",
        "9999999999r/s",
    ] {
        assert!(milli(text).unwrap_err().contains("is not a rate"), "{text}");
    }
    // What is told back has an end.
    assert!(milli(&"9".repeat(10_000)).unwrap_err().len() < 200);
}

/// With nginx's own names of zones: m1 is 5r/s burst 2, m2 burst 1, both without delay.
#[test]
fn several_limits_are_charged_together_or_not_at_all() {
    let limiter = |text| Limiter::new(rule(text), 10);
    let statuses = |m1: &mut Limiter, m2: &mut Limiter, keys: [&str; 2]| {
        let decisions = (0..4).map(|_| decide_all(&mut [(&mut *m1, keys[0]), (&mut *m2, keys[1])], false, 7));
        decisions.map(|decision| decision.status()).collect::<Vec<_>>()
    };
    let (mut m1, mut m2) = (limiter("5r/s burst=2 nodelay"), limiter("5r/s burst=1 nodelay"));
    assert_eq!(statuses(&mut m1, &mut m2, ["k", "k"]), ["PASSED", "PASSED", "REJECTED", "REJECTED"]);
    let mut m3 = limiter("5r/s burst=1 nodelay");
    assert_eq!(statuses(&mut m1, &mut m3, ["k", ""]), ["PASSED", "REJECTED", "REJECTED", "REJECTED"]);
    assert_eq!(statuses(&mut m1, &mut m3, ["", "k"]), ["PASSED", "PASSED", "REJECTED", "REJECTED"]);
    assert_eq!(statuses(&mut m1, &mut m3, ["new", ""]), ["PASSED", "PASSED", "PASSED", "REJECTED"]);
    assert_eq!(statuses(&mut m1, &mut m3, ["", ""]), ["", "", "", ""]);
}

#[test]
fn of_several_delays_the_longest_counts() {
    let (mut fast, mut slow) = (Limiter::new(rule("10r/s burst=9"), 9), Limiter::new(rule("2r/s burst=9"), 9));
    let mut both = |now| decide_all(&mut [(&mut slow, "k"), (&mut fast, "k")], false, now).outcome;
    assert_eq!(both(0), Outcome::Pass);
    assert_eq!(both(0), Outcome::Delay { ms: 500 });
    assert_eq!(both(100), Outcome::Delay { ms: 900 });
}

#[test]
fn a_key_that_is_empty_or_too_long_is_not_limited() {
    let mut limiter = Limiter::new(rule("1r/s"), 10);
    let longest = "k".repeat(KEY_BYTES_MAX);
    for key in ["", &format!("{longest}k")] {
        for _ in 0..2 {
            let decision = limiter.decide(key, 0);
            assert_eq!((decision.outcome, decision.status()), (Outcome::Pass, ""));
        }
    }
    assert!(limiter.is_empty());
    assert_eq!(limiter.decide(&longest, 0).status(), "PASSED");
    assert_eq!(limiter.decide(&longest, 0).status(), "REJECTED");
}

#[test]
fn a_dry_run_counts_as_ever_and_lets_everything_pass() {
    let mut dry = Limiter::new(Rule { dry_run: true, ..rule("5r/s burst=1") }, 10);
    let mut wet = Limiter::new(rule("5r/s burst=1"), 10);
    for (at, status) in [(0, "PASSED"), (0, "DELAYED_DRY_RUN"), (0, "REJECTED_DRY_RUN"), (200, "DELAYED_DRY_RUN")] {
        let (tried, done) = (dry.decide("k", at), wet.decide("k", at));
        assert_eq!((tried.status(), tried.enforced()), (status, Outcome::Pass), "at {at}");
        assert_eq!((tried.outcome, tried.excess), (done.outcome, done.excess), "at {at}");
        assert_eq!(done.enforced(), done.outcome);
    }
}

#[test]
fn inv7_one_key_too_many_and_the_oldest_has_its_burst_again() {
    let mut limiter = Limiter::new(rule("1r/m burst=1 nodelay"), 3);
    let status = |limiter: &mut Limiter, key| limiter.decide(key, 0).status();
    for key in ["a", "b", "c"] {
        assert_eq!([(); 3].map(|()| status(&mut limiter, key)), ["PASSED", "PASSED", "REJECTED"]);
    }
    // A refusal is heard of as well, so that b is the oldest now.
    assert_eq!(status(&mut limiter, "a"), "REJECTED");
    assert_eq!(status(&mut limiter, "d"), "PASSED");
    assert_eq!(limiter.len(), 3);
    assert_eq!([status(&mut limiter, "a"), status(&mut limiter, "c")], ["REJECTED", "REJECTED"]);
    assert_eq!([(); 3].map(|()| status(&mut limiter, "b")), ["PASSED", "PASSED", "REJECTED"]);
    assert_eq!(limiter.len(), 3);
}

/// Two for each new one; and none that is still owed, as nginx would at such a rate after a minute's rest.
#[test]
fn buckets_that_leaked_out_are_forgotten() {
    let mut limiter = Limiter::new(rule("1r/m"), 100);
    for key in ["a", "b", "c", "d"] {
        limiter.decide(key, 0);
    }
    limiter.decide("e", 62_499);
    assert_eq!(limiter.len(), 5);
    assert_eq!(limiter.decide("a", 62_499).status(), "REJECTED");
    limiter.decide("f", 62_500);
    assert_eq!(limiter.len(), 4, "b and c are gone");
    limiter.decide("g", 62_500);
    assert_eq!(limiter.len(), 4, "d is gone, and e is not yet");
}

#[test]
fn a_new_rule_finds_the_buckets_as_they_were() {
    let mut limiter = Limiter::new(rule("5r/s burst=10 nodelay"), 10);
    for key in ["a", "b", "c"] {
        (0..11).for_each(|_| assert_eq!(limiter.decide(key, 0).status(), "PASSED"));
    }
    limiter.reconfigure(rule("10r/s burst=5 nodelay"), 2);
    assert_eq!(limiter.len(), 2);
    // 10,000 and one request more leak down to 5,000 in 600 ms.
    assert_eq!(limiter.decide("b", 0).outcome, Outcome::Reject { retry_after_ms: 600 });
    assert_eq!(limiter.decide("c", 599).outcome, Outcome::Reject { retry_after_ms: 1 });
    assert_eq!(limiter.decide("c", 600).excess, 5000);
    assert_eq!(limiter.decide("a", 600).excess, 0);
}

#[test]
fn a_configuration_makes_changes_and_ends_a_limiter() {
    let mut config = config::Config::default().rate;
    let mut limiter = Limiter::of_config(&config).unwrap();
    assert!(limiter.is_none());
    (config.rate, config.burst, config.delay) = (Some("60r/m".to_owned()), 3, config::Delay::After(2));
    Limiter::follow_config(&mut limiter, &config).unwrap();
    assert_eq!(limiter.as_ref().unwrap().rule(), &rule("1r/s burst=3 delay=2"));
    limiter.as_mut().unwrap().decide("k", 0);
    (config.delay, config.dry_run) = (config::Delay::None, true);
    Limiter::follow_config(&mut limiter, &config).unwrap();
    assert_eq!(limiter.as_ref().unwrap().rule(), &Rule { dry_run: true, ..rule("1r/s burst=3 nodelay") });
    assert_eq!(limiter.as_ref().unwrap().len(), 1);
    config.rate = Some("often".to_owned());
    assert!(Limiter::follow_config(&mut limiter, &config).is_err());
    assert!(limiter.is_some(), "a bad text changes nothing");
    config.rate = None;
    Limiter::follow_config(&mut limiter, &config).unwrap();
    assert!(limiter.is_none());
}
