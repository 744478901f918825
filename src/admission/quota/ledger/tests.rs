//! The ledger by example; `model_check` has it against a reference.

use super::*;
use crate::config::ClientQuota;

/// Name, parent, limits of its own.
type Client = (&'static str, Option<&'static str>, &'static [(&'static str, i64)]);

fn quotas(model: Model, registered: &[(&str, i64)], clients: &[Client]) -> Quotas {
    let limits = |rows: &[(&str, i64)]| rows.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect();
    let clients = clients.iter().map(|(name, parent, rows)| {
        ((*name).to_owned(), ClientQuota { parent: parent.map(str::to_owned), limits: limits(rows) })
    });
    Quotas { model, registered: limits(registered), clients: clients.collect() }
}

fn flat(registered: &[(&str, i64)]) -> Ledger {
    Ledger::new(&quotas(Model::Flat, registered, &[]), Overrides::default()).unwrap()
}

fn none(_: &str) -> u64 {
    0
}

fn of(n: u64) -> Amount {
    Amount::Of(n)
}

const ALL_UNLIMITED: [(&str, i64); 5] =
    [("sessions", -1), ("commands", -1), ("memory_bytes", -1), ("processes", -1), ("buffer_bytes", -1)];

#[test]
fn inv9_a_claim_counts_until_it_is_released() {
    let mut ledger = flat(&[("sessions", 2), ("memory_bytes", 100)]);
    let asked = [(Resource::Sessions, of(1)), (Resource::MemoryBytes, of(60))];
    let claim = ledger.claim("a", &asked, &none).unwrap();
    assert_eq!(claim.amount(Resource::MemoryBytes), 60);
    assert_eq!(ledger.usage("a", Resource::MemoryBytes, &none), 60);
    assert_eq!(ledger.usage("b", Resource::MemoryBytes, &none), 0);
    // All or nothing: the second session would fit, its memory does not.
    let refused = ledger.claim("a", &asked, &none).unwrap_err();
    let row = Over { resource: "memory_bytes".into(), limit: 100, usage: 60, delta: 60, scope: None };
    assert_eq!(refused, OverLimit { client: "a".to_owned(), over: vec![row], retryable: true });
    assert_eq!(refused.to_string(), "a is over its quota: 60 more memory_bytes, with 60 of 100 in use");
    assert_eq!(ledger.usage("a", Resource::Sessions, &none), 1);
    ledger.release(claim);
    assert_eq!(ledger.usage("a", Resource::MemoryBytes, &none), 0);
    assert_eq!(ledger.clients(), 0);
}

#[test]
fn all_that_is_over_is_told_by_name_and_what_can_never_fit_is_not_worth_another_try() {
    let mut ledger = flat(&[("sessions", 0), ("commands", 1)]);
    let held = ledger.claim("a", &[(Resource::Commands, of(1))], &none).unwrap();
    let asked = [(Resource::Sessions, of(1)), (Resource::Processes, of(7)), (Resource::Commands, of(1))];
    let refused = ledger.claim("a", &asked, &none).unwrap_err();
    let rows: Vec<_> = refused.over.iter().map(|row| (&*row.resource, row.limit, row.usage, row.delta)).collect();
    assert_eq!(rows, [("commands", 1, 1, 1), ("processes", 0, 0, 7), ("sessions", 0, 0, 1)]);
    assert!(!refused.retryable);
    let refused = ledger.claim("a", &[(Resource::Commands, of(1))], &none).unwrap_err();
    assert!(refused.retryable);
    // The same resource twice is one claim of both.
    let refused = ledger.claim("b", &[(Resource::Commands, of(1)), (Resource::Commands, of(1))], &none).unwrap_err();
    assert_eq!((refused.over[0].delta, refused.retryable), (2, false));
    ledger.release(held);
}

#[test]
fn what_has_no_end_fits_under_no_limit_only() {
    let mut ledger = flat(&[("memory_bytes", -1), ("processes", i64::MAX)]);
    let claim = ledger.claim("a", &[(Resource::MemoryBytes, Amount::Unlimited)], &none).unwrap();
    assert_eq!(ledger.usage("a", Resource::MemoryBytes, &none), 0);
    ledger.release(claim);
    let refused = ledger.claim("a", &[(Resource::Processes, Amount::Unlimited)], &none).unwrap_err();
    assert_eq!((refused.over[0].delta, refused.over[0].limit, refused.retryable), (-1, i64::MAX, false));
    assert_eq!(refused.to_string(), "a is over its quota: unlimited processes, with a limit of 9223372036854775807");
}

#[test]
fn no_sum_of_claims_overflows() {
    let mut ledger = flat(&ALL_UNLIMITED);
    let claims: Vec<Claim> =
        (0..5).map(|_| ledger.claim("a", &[(Resource::MemoryBytes, of(u64::MAX))], &none).unwrap()).collect();
    assert_eq!(ledger.usage("a", Resource::MemoryBytes, &none), u64::MAX);
    ledger.set(None, Resource::MemoryBytes, i64::MAX).unwrap();
    let refused = ledger.claim("a", &[(Resource::MemoryBytes, of(u64::MAX))], &none).unwrap_err();
    assert_eq!((refused.over[0].usage, refused.over[0].delta), (i64::MAX, i64::MAX));
    claims.into_iter().for_each(|claim| ledger.release(claim));
    assert_eq!((ledger.usage("a", Resource::MemoryBytes, &none), ledger.clients()), (0, 0));
}

#[test]
fn inv9_a_claim_that_is_lost_comes_back_by_itself() {
    let mut ledger = flat(&[("commands", 1)]);
    let one = [(Resource::Commands, of(1))];
    drop(ledger.claim("a", &one, &none).unwrap());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _claim = ledger.claim("a", &one, &none).unwrap();
        // As a panic, without its lines on stderr.
        std::panic::resume_unwind(Box::new("between the claim and its effect"));
    }));
    assert!(panicked.is_err());
    let claim = ledger.claim("a", &one, &none).unwrap();
    ledger.release(claim);
    assert_eq!((ledger.usage("a", Resource::Commands, &none), ledger.clients()), (0, 0));
}

#[test]
fn inv9_a_claim_cut_in_two_comes_back_in_parts() {
    let mut ledger = flat(&ALL_UNLIMITED);
    let asked = [(Resource::Sessions, of(1)), (Resource::Commands, of(1)), (Resource::Processes, of(9))];
    let mut session = ledger.claim("a", &asked, &none).unwrap();
    let command = ledger.split(&mut session, Resource::Commands);
    let used = |ledger: &mut Ledger| {
        [Resource::Sessions, Resource::Commands, Resource::Processes].map(|what| ledger.usage("a", what, &none))
    };
    assert_eq!(used(&mut ledger), [1, 1, 9]);
    ledger.release(command);
    assert_eq!(used(&mut ledger), [1, 0, 9]);
    assert_eq!(ledger.clients(), 1);
    ledger.release(session);
    assert_eq!((used(&mut ledger), ledger.clients()), ([0, 0, 0], 0));
}

#[test]
fn buffer_bytes_are_judged_by_what_is_held_elsewhere() {
    let mut ledger = flat(&[("commands", 8), ("buffer_bytes", 100)]);
    let held = |client: &str| if client == "a" { 70 } else { 0 };
    let asked = [(Resource::Commands, of(1)), (Resource::BufferBytes, of(31))];
    let refused = ledger.claim("a", &asked, &held).unwrap_err();
    let rows: Vec<_> = refused.over.iter().map(|row| (&*row.resource, row.limit, row.usage, row.delta)).collect();
    assert_eq!(rows, [("buffer_bytes", 100, 70, 31)]);
    let claim = ledger.claim("b", &asked, &held).unwrap();
    assert_eq!(claim.amount(Resource::BufferBytes), 0, "whoever holds the bytes counts them");
    assert_eq!(ledger.usage("a", Resource::BufferBytes, &held), 70);
    ledger.release(claim);
}

#[test]
fn check_claims_nothing_and_takes_names() {
    let mut ledger = flat(&[("commands", 2)]);
    let claim = ledger.claim("a", &[(Resource::Commands, of(2))], &none).unwrap();
    assert!(ledger.check("a", &[("commands", 0), ("widgets", 0)], &none).is_ok());
    ledger.set(None, Resource::Commands, 1).unwrap();
    let refused = ledger.check("a", &[("widgets", 3), ("commands", 0), ("aaa", 1)], &none).unwrap_err();
    let rows: Vec<_> = refused.over.iter().map(|row| (&*row.resource, row.limit, row.usage, row.delta)).collect();
    assert_eq!(rows, [("aaa", 0, 0, 1), ("commands", 1, 2, 0), ("widgets", 0, 0, 3)]);
    assert!(!refused.retryable);
    assert!(ledger.check("a", &[("commands", 0)], &none).unwrap_err().retryable);
    assert!(ledger.check("nobody", &[("commands", 1)], &none).is_ok());
    assert_eq!(ledger.clients(), 1, "to ask takes no memory");
    ledger.release(claim);
}

#[test]
fn show_tells_where_each_limit_comes_from() {
    let configured = quotas(Model::Flat, &[("sessions", 8), ("commands", -1)], &[("a", None, &[("processes", 5)])]);
    let mut ledger = Ledger::new(&configured, Overrides::default()).unwrap();
    let shown = ledger.show("a", &|_| 3).map(|row| (row.resource.name(), row.limit, row.usage, row.source.as_str()));
    let expected = [
        ("buffer_bytes", 0, 3, "unregistered"),
        ("commands", -1, 0, "registered"),
        ("memory_bytes", 0, 0, "unregistered"),
        ("processes", 5, 0, "client"),
        ("sessions", 8, 0, "registered"),
    ];
    assert_eq!(shown, expected);
    assert_eq!(ledger.clients(), 1, "the one of the configuration");
}

#[test]
fn limits_that_were_set_win_until_they_are_unset() {
    let mut ledger = flat(&[("sessions", 8)]);
    assert_eq!(ledger.set(None, Resource::Sessions, 3), Ok(None));
    assert_eq!(ledger.set(Some("a"), Resource::Sessions, 0), Ok(None));
    assert_eq!(ledger.set(Some("a"), Resource::Sessions, 5), Ok(Some(0)));
    assert_eq!((ledger.limit("a", Resource::Sessions), ledger.limit("b", Resource::Sessions)), (5, 3));
    let told: Vec<String> = ledger.overruled().map(|row| row.to_string()).collect();
    let registered =
        "the registered limit of sessions was set to 3 and wins over the 8 of the configuration until it is unset";
    let own = "the limit of sessions of \"a\" was set to 5 until it is unset; the configuration has none";
    assert_eq!(told, [registered, own]);
    // Another configuration lies under them as well.
    ledger.reload(&quotas(Model::Flat, &[("sessions", 9)], &[("a", None, &[("sessions", 7)])])).unwrap();
    assert_eq!((ledger.limit("a", Resource::Sessions), ledger.limit("b", Resource::Sessions)), (5, 3));
    assert_eq!(ledger.unset(Some("a"), Resource::Sessions), Ok(Some(5)));
    assert_eq!(ledger.unset(Some("a"), Resource::Sessions), Ok(None));
    assert_eq!(ledger.unset(None, Resource::Sessions), Ok(Some(3)));
    assert_eq!((ledger.limit("a", Resource::Sessions), ledger.limit("b", Resource::Sessions)), (7, 9));
    assert!(ledger.overrides().is_empty());
    // As after a restart.
    let mut overrides = Overrides::default();
    overrides.put(Some("b"), Resource::Sessions, Some(1)).unwrap();
    let ledger = Ledger::new(&quotas(Model::Flat, &[("sessions", 8)], &[]), overrides).unwrap();
    assert_eq!(ledger.limit("b", Resource::Sessions), 1);
}

#[test]
fn a_limit_below_usage_stops_new_claims_only() {
    let mut ledger = flat(&[("commands", 3)]);
    let one = [(Resource::Commands, of(1))];
    let mut claims: Vec<Claim> = (0..3).map(|_| ledger.claim("a", &one, &none).unwrap()).collect();
    ledger.set(Some("a"), Resource::Commands, 2).unwrap();
    assert!(ledger.claim("a", &one, &none).is_err());
    ledger.release(claims.pop().unwrap());
    assert!(ledger.claim("a", &one, &none).is_err(), "at the limit");
    ledger.release(claims.pop().unwrap());
    claims.push(ledger.claim("a", &one, &none).unwrap());
    claims.into_iter().for_each(|claim| ledger.release(claim));
}

#[test]
fn a_tree_is_told_by_its_scope() {
    let clients: [Client; 3] = [("root", None, &[("commands", 4)]), ("kid", Some("root"), &[]), ("lone", None, &[])];
    let configured = quotas(Model::StrictTwoLevel, &[("commands", 3), ("buffer_bytes", 100)], &clients);
    let mut ledger = Ledger::new(&configured, Overrides::default()).unwrap();
    let of_root = ledger.claim("root", &[(Resource::Commands, of(2))], &none).unwrap();
    let of_kid = ledger.claim("kid", &[(Resource::Commands, of(1))], &none).unwrap();
    let held = |client: &str| if client == "lone" { 0 } else { 30 };
    let mut row = |client: &str, resource: Resource| {
        let shown = ledger.show(client, &held)[resource as usize].clone();
        (shown.limit, shown.usage, shown.scope.unwrap().as_str(), shown.source.as_str())
    };
    assert_eq!(row("kid", Resource::Commands), (4, 3, "tree", "client"), "1 is left of 4, and 2 of 3");
    assert_eq!(row("root", Resource::Commands), (4, 3, "tree", "client"));
    assert_eq!(row("lone", Resource::Commands), (3, 0, "client", "registered"));
    assert_eq!(row("kid", Resource::BufferBytes), (100, 60, "tree", "registered"));
    assert_eq!(row("lone", Resource::BufferBytes), (100, 0, "client", "registered"));
    let refused = ledger.claim("kid", &[(Resource::Commands, of(2)), (Resource::BufferBytes, of(41))], &held);
    let refused = refused.unwrap_err();
    let told = "kid is over its quota: 41 more buffer_bytes, with 60 of 100 of its tree in use; \
                2 more commands, with 3 of 4 of its tree in use";
    assert_eq!((refused.to_string(), refused.retryable), (told.to_owned(), true));
    let widgets = ledger.check("lone", &[("widgets", 1)], &none).unwrap_err();
    assert_eq!(widgets.over[0].scope, Some(Scope::Client));
    // The parent's usage goes with the parent: a child that leaves takes its own along.
    ledger.reload(&quotas(Model::StrictTwoLevel, &[("commands", 3)], &[])).unwrap();
    assert_eq!(ledger.usage("kid", Resource::Commands, &none), 1);
    ledger.release(of_root);
    ledger.release(of_kid);
    assert_eq!(ledger.clients(), 0);
}

#[test]
fn limits_that_break_the_tree_are_refused_and_change_nothing() {
    let clients: [Client; 2] = [("root", None, &[("commands", 4)]), ("kid", Some("root"), &[("commands", 4)])];
    let configured = quotas(Model::StrictTwoLevel, &[("commands", 3)], &clients);
    let mut ledger = Ledger::new(&configured, Overrides::default()).unwrap();
    let refused = ledger.set(Some("kid"), Resource::Commands, 5).unwrap_err();
    assert_eq!(refused.to_string(), "the limit of commands of kid, 5, is over that of its parent root, 4");
    assert!(ledger.set(Some("root"), Resource::Commands, 3).is_err());
    assert_eq!(ledger.limit("kid", Resource::Commands), 4);
    assert!(ledger.overrides().is_empty());
    ledger.set(Some("kid"), Resource::Commands, 2).unwrap();
    ledger.set(Some("root"), Resource::Commands, 2).unwrap();
    assert!(ledger.unset(Some("kid"), Resource::Commands).is_err(), "it would go back to 4");
    ledger.unset(Some("root"), Resource::Commands).unwrap();
    ledger.unset(Some("kid"), Resource::Commands).unwrap();
    // A configuration may come under what was set, and then the parent's limit holds for both.
    ledger.set(Some("kid"), Resource::Commands, 4).unwrap();
    let clients: [Client; 2] = [("root", None, &[("commands", 1)]), ("kid", Some("root"), &[])];
    ledger.reload(&quotas(Model::StrictTwoLevel, &[], &clients)).unwrap();
    assert!(ledger.broken().is_err());
    assert_eq!(ledger.limit("kid", Resource::Commands), 1);
    let refused = ledger.claim("kid", &[(Resource::Commands, of(2))], &none).unwrap_err();
    assert_eq!((refused.over[0].limit, refused.over[0].scope), (1, Some(Scope::Tree)));
}

#[test]
fn a_configuration_that_cannot_hold_is_refused_and_changes_nothing() {
    let mut ledger = flat(&[("sessions", 8)]);
    let deep: [Client; 3] = [("a", None, &[]), ("b", Some("a"), &[]), ("c", Some("b"), &[])];
    let of_flat: [Client; 1] = [("b", Some("a"), &[])];
    for (bad, field) in [
        (quotas(Model::Flat, &[("widgets", 1)], &[]), "resource"),
        (quotas(Model::Flat, &[("sessions", -2)], &[]), "limit"),
        (quotas(Model::StrictTwoLevel, &[], &deep), "client"),
        (quotas(Model::Flat, &[], &of_flat), "client"),
    ] {
        assert_eq!(ledger.reload(&bad).unwrap_err().field(), field);
        assert_eq!(ledger.limit("a", Resource::Sessions), 8);
    }
}

#[test]
fn inv7_limits_of_clients_end_at_their_bound() {
    use crate::admission::overrides::{CLIENT_BYTES_MAX, CLIENTS_MAX};
    let mut ledger = flat(&[]);
    for client in 0..CLIENTS_MAX {
        ledger.set(Some(&client.to_string()), Resource::Sessions, 1).unwrap();
    }
    let refused = ledger.set(Some("one more"), Resource::Sessions, 1).unwrap_err();
    assert_eq!((refused.field(), ledger.clients()), ("client", CLIENTS_MAX));
    assert_eq!(ledger.limit("one more", Resource::Sessions), 0);
    ledger.set(Some("0"), Resource::Commands, 1).unwrap();
    ledger.set(None, Resource::Commands, 1).unwrap();
    ledger.unset(Some("1"), Resource::Sessions).unwrap();
    assert!(ledger.set(Some(&"x".repeat(CLIENT_BYTES_MAX + 1)), Resource::Sessions, 1).is_err());
    assert!(ledger.set(Some(""), Resource::Sessions, 1).is_err());
    ledger.set(Some(&"x".repeat(CLIENT_BYTES_MAX)), Resource::Sessions, 1).unwrap();
    assert_eq!(ledger.clients(), CLIENTS_MAX);
    assert_eq!(ledger.set(None, Resource::Sessions, -2), Err(InvalidLimit::OutOfRange { limit: -2 }));
}

#[test]
fn inv7_a_client_without_claims_takes_no_memory() {
    let mut ledger = flat(&ALL_UNLIMITED);
    for client in 0..10_000 {
        let claim = ledger.claim(&format!("ip:{client}"), &[(Resource::Sessions, of(1))], &none).unwrap();
        assert_eq!(ledger.clients(), 1);
        ledger.release(claim);
    }
    assert_eq!(ledger.clients(), 0);
}
