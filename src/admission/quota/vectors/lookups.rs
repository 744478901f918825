//! Limits and usage as they are looked up, and how often the store is asked for them.

use super::*;

type Told = Vec<(String, ProjectUsage)>;

fn told(rows: &[(&str, i64, i64)]) -> Told {
    rows.iter().map(|&(name, limit, usage)| (name.to_owned(), ProjectUsage { limit, usage })).collect()
}

fn pairs(rows: &[(&str, i64)]) -> Vec<(String, i64)> {
    rows.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect()
}

fn no_usage(_: Option<&str>, _: &[&str]) -> BTreeMap<String, i64> {
    BTreeMap::new()
}

/// Of a project (none: registered limits), by names (none: all).
type LookUp<'a> = dyn Fn(Option<&str>, Option<&[&str]>) -> Vec<(String, i64)> + 'a;

/// An enforcer over the store, and one over a cache of it, so that each vector runs on both.
fn both(store: &Store, run: impl Fn(&LookUp<'_>), requests: impl Fn(bool) -> (usize, usize)) {
    let plain = Enforcer::new(store, no_usage);
    run(&|project, names| match (project, names) {
        (None, names) => plain.registered_limits(names),
        (project, names) => plain.project_limits(project, names).unwrap(),
    });
    assert_eq!(store.requests(), requests(false), "not cached");
    store.asked.borrow_mut().clear();
    let cached = Enforcer::new(Cached::new(store, 100), no_usage);
    run(&|project, names| match (project, names) {
        (None, names) => cached.registered_limits(names),
        (project, names) => cached.project_limits(project, names).unwrap(),
    });
    assert_eq!(store.requests(), requests(true), "cached");
}

#[test]
fn vector_7_limit_and_usage_of_each_name() {
    let store = Store::new(&[("a", 10), ("b", 5)], &[]);
    let enforcer = Enforcer::new(&store, |_: Option<&str>, _: &[&str]| usage_of(&[("a", 1), ("b", 2)]));
    assert_eq!(enforcer.calculate_usage(Some("p"), &["a", "b"]), Ok(told(&[("a", 10, 1), ("b", 5, 2)])));
    // In the order asked for, each once; unlimited is told as it is.
    assert_eq!(enforcer.calculate_usage(Some("p"), &["b", "a", "b"]), Ok(told(&[("b", 5, 2), ("a", 10, 1)])));
}

#[test]
fn vector_8_usage_of_what_has_no_limit() {
    let store = Store::new(&[("a", 10), ("b", 10)], &[("bar", "b", 6)]);
    let enforcer = Enforcer::new(&store, |_: Option<&str>, _: &[&str]| usage_of(&[("a", 5), ("b", 5), ("c", 5)]));
    let expected = told(&[("a", 10, 5), ("b", 6, 5), ("c", 0, 5)]);
    assert_eq!(enforcer.calculate_usage(Some("bar"), &["a", "b", "c"]), Ok(expected));
}

#[test]
fn vectors_9_and_49_arguments_of_look_ups_are_checked() {
    let store = Store::new(&[], &[]);
    let enforcer = Enforcer::new(&store, no_usage);
    for refused in [
        enforcer.calculate_usage(Some(""), &["a"]).unwrap_err(),
        enforcer.calculate_usage(Some("p"), &[]).unwrap_err(),
        enforcer.project_limits(None, None).unwrap_err(),
        enforcer.project_limits(Some(""), None).unwrap_err(),
    ] {
        assert!(matches!(refused, EnforceError::InvalidArgument(_)), "{refused}");
    }
    assert_eq!(store.requests(), (0, 0));
}

#[test]
fn vector_58_usage_with_the_fixture() {
    let store = Store::new(FIXTURE, FIXTURE_2);
    let usage = |project: Option<&str>, _: &[&str]| usage_of(if project == Some("project1") { TENS } else { THREES });
    let enforcer = Enforcer::new(&store, usage);
    assert_eq!(enforcer.calculate_usage(Some("project2"), &["widgets"]), Ok(told(&[("widgets", 10, 3)])));
    let expected = told(&[("widgets", 100, 10), ("sprockets", 50, 10)]);
    assert_eq!(enforcer.calculate_usage(Some("project1"), &["widgets", "sprockets"]), Ok(expected));
}

#[test]
fn vectors_12_and_13_usage_with_and_without_a_cache() {
    let registered = [("a", 5), ("b", 7), ("c", 8), ("d", 3)];
    let projects = [("p", "a", 2), ("p", "b", 4), ("other", "a", 1), ("other", "b", 2)];
    let store = Store::new(&registered, &projects);
    let usage = |_: Option<&str>, _: &[&str]| usage_of(&[("a", 1), ("b", 3), ("c", 2), ("d", 0)]);
    let names = ["a", "b", "c", "d"];
    let expected = Ok(told(&[("a", 2, 1), ("b", 4, 3), ("c", 8, 2), ("d", 3, 0)]));
    assert_eq!(Enforcer::new(Cached::new(&store, 9), usage).calculate_usage(Some("p"), &names), expected);
    assert_eq!(store.requests(), (1, 3));
    store.asked.borrow_mut().clear();
    assert_eq!(Enforcer::new(&store, usage).calculate_usage(Some("p"), &names), expected);
    assert_eq!(store.requests(), (2, 4));
}

#[test]
fn vectors_10_14_and_34_to_36_registered_limits_by_name() {
    let store = Store::new(&[("a", 1), ("c", 2)], &[]);
    let enforcer = Enforcer::new(&store, no_usage);
    assert_eq!(enforcer.registered_limits(Some(&["a", "b", "c"])), pairs(&[("a", 1), ("b", 0), ("c", 2)]));
    assert_eq!(enforcer.registered_limits(None), pairs(&[("a", 1), ("c", 2)]));
    assert_eq!(store.registered_limit("c"), Some(2));
    let empty = Store::new(&[], &[]);
    assert_eq!(empty.registered_limit("foo"), None);
    assert_eq!(Enforcer::new(&empty, no_usage).registered_limits(None), []);
}

#[test]
fn vectors_11_15_37_and_44_a_project_falls_back_on_what_is_registered() {
    let store = Store::new(&[("b", 2)], &[("prj", "a", 1)]);
    let enforcer = Enforcer::new(&store, no_usage);
    let found = |names: &[&str]| enforcer.project_limits(Some("prj"), Some(names)).unwrap();
    assert_eq!(found(&["a", "b"]), pairs(&[("a", 1), ("b", 2)]));
    assert_eq!(*store.asked.borrow(), ["prj a", "prj b", "registered b"]);
    assert_eq!(found(&["c", "d"]), pairs(&[("c", 0), ("d", 0)]));
    assert_eq!(found(&["b", "c", "a"]), pairs(&[("b", 2), ("c", 0), ("a", 1)]), "the order is the caller's");
    store.asked.borrow_mut().clear();
    assert_eq!(enforcer.project_limits(None, Some(&["a", "b"])), Ok(pairs(&[("a", 0), ("b", 2)])));
    assert_eq!(*store.asked.borrow(), ["registered a", "registered b"]);
}

#[test]
fn vectors_38_to_41_one_limit_twice() {
    let store = Store::new(&[("foo", 5)], &[("p", "foo", 3)]);
    let twice = |project: Option<&'static str>, expected: i64| {
        move |look_up: &LookUp<'_>| {
            for _ in 0..2 {
                assert_eq!(look_up(project, Some(&["foo"])), pairs(&[("foo", expected)]));
            }
        }
    };
    both(&store, twice(Some("p"), 3), |cached| (0, if cached { 1 } else { 2 }));
    store.asked.borrow_mut().clear();
    both(&store, twice(None, 5), |cached| (if cached { 1 } else { 2 }, 0));
}

#[test]
fn vectors_42_and_43_a_new_limit_is_seen_at_once() {
    for (cached, registered_after_2, projects_after_3, projects_after_4) in [(true, 1, 3, 3), (false, 2, 3, 4)] {
        let store = Store::new(&[("foo", 5)], &[]);
        let plain = Enforcer::new(&store, no_usage);
        let cache = Enforcer::new(Cached::new(&store, 9), no_usage);
        let look_up = || {
            let names = ["foo"];
            let found = if cached {
                cache.project_limits(Some("prj"), Some(&names))
            } else {
                plain.project_limits(Some("prj"), Some(&names))
            };
            found.unwrap()[0].1
        };
        assert_eq!((look_up(), look_up()), (5, 5));
        assert_eq!(store.requests().0, registered_after_2);
        store.projects.borrow_mut().push(("prj", "foo", 1));
        assert_eq!(look_up(), 1);
        assert_eq!(store.requests().1, projects_after_3);
        assert_eq!(look_up(), 1);
        assert_eq!(store.requests().1, projects_after_4);
    }
}

#[test]
fn vectors_45_to_48_registered_limits_all_and_by_name() {
    let store = Store::new(&[("foo", 5), ("bar", 7)], &[]);
    let expected = pairs(&[("foo", 5), ("bar", 7)]);
    both(
        &store,
        |look_up| {
            assert_eq!(look_up(None, None), expected);
            assert_eq!(look_up(None, Some(&["foo", "bar"])), expected);
        },
        |cached| (if cached { 1 } else { 3 }, 0),
    );
    store.asked.borrow_mut().clear();
    both(
        &store,
        |look_up| assert_eq!(look_up(None, Some(&["foo", "bar"])), expected),
        |cached| (if cached { 1 } else { 2 }, 0),
    );
}

#[test]
fn vectors_50_to_53_limits_of_one_project_all_and_by_name() {
    let projects = [("p", "foo", 2), ("p", "bar", 4), ("other", "foo", 1), ("other", "bar", 2)];
    let store = Store::new(&[("foo", 5), ("bar", 7)], &projects);
    let expected = pairs(&[("foo", 2), ("bar", 4)]);
    both(
        &store,
        |look_up| {
            assert_eq!(look_up(Some("p"), None), expected);
            assert_eq!(look_up(Some("p"), Some(&["foo", "bar"])), expected);
        },
        |cached| (0, if cached { 1 } else { 3 }),
    );
    store.asked.borrow_mut().clear();
    both(
        &store,
        |look_up| assert_eq!(look_up(Some("p"), Some(&["foo", "bar"])), expected),
        |cached| (0, if cached { 1 } else { 2 }),
    );
}
