//! The behaviour of oslo.limit, vector by vector. The numbers are those of its own tests in their order, `D` those
//! that were derived by running it, `H` (in `trees`) those of the hierarchy.
//!
//! Not here, for there is nothing that they could be about: 1 and most of 2, 3 and 9 (arguments of a wrong type, which
//! do not compile), 6 (there is nothing between an enforcer and its model), and 20 and 24 to 33 (which of a Keystone's
//! endpoints to ask).

mod lookups;
mod trees;

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::*;

/// A store that writes down what it is asked.
#[derive(Default)]
struct Store {
    registered: Vec<(&'static str, i64)>,
    projects: RefCell<Vec<(&'static str, &'static str, i64)>>,
    asked: RefCell<Vec<String>>,
}

impl Store {
    fn new(registered: &[(&'static str, i64)], projects: &[(&'static str, &'static str, i64)]) -> Store {
        Store { registered: registered.to_vec(), projects: RefCell::new(projects.to_vec()), asked: RefCell::default() }
    }

    fn note(&self, what: String) {
        self.asked.borrow_mut().push(what);
    }

    /// How often it was asked for registered limits, and for those of projects.
    fn requests(&self) -> (usize, usize) {
        let asked = self.asked.borrow();
        let registered = asked.iter().filter(|asked| asked.starts_with("registered")).count();
        (registered, asked.len() - registered)
    }
}

impl Limits for Store {
    fn registered_limit(&self, resource_name: &str) -> Option<i64> {
        self.note(format!("registered {resource_name}"));
        self.registered.iter().find(|(name, _)| *name == resource_name).map(|(_, limit)| *limit)
    }

    fn registered_limits(&self) -> Vec<(String, i64)> {
        self.note("registered".to_owned());
        self.registered.iter().map(|(name, limit)| ((*name).to_owned(), *limit)).collect()
    }

    fn project_limit(&self, project: &str, resource_name: &str) -> Option<i64> {
        self.note(format!("{project} {resource_name}"));
        let projects = self.projects.borrow();
        projects.iter().find(|(of, name, _)| *of == project && *name == resource_name).map(|(_, _, limit)| *limit)
    }

    fn project_limits(&self, project: &str) -> Vec<(String, i64)> {
        self.note(project.to_owned());
        let projects = self.projects.borrow();
        let own = projects.iter().filter(|(of, _, _)| *of == project);
        own.map(|(_, name, limit)| ((*name).to_owned(), *limit)).collect()
    }
}

fn usage_of(rows: &[(&str, i64)]) -> BTreeMap<String, i64> {
    rows.iter().map(|(name, n)| ((*name).to_owned(), *n)).collect()
}

type Row = (&'static str, i64, i64, i64);

fn over_rows(refused: &EnforceError) -> Vec<(&str, i64, i64, i64)> {
    let EnforceError::OverLimit(over) = refused else { panic!("{refused}") };
    over.over_limit_infos().iter().map(|i| (i.resource_name.as_str(), i.limit, i.current_usage, i.delta)).collect()
}

/// One enforcement in the model flat.
struct Vector {
    id: &'static str,
    registered: &'static [(&'static str, i64)],
    projects: &'static [(&'static str, &'static str, i64)],
    usage: &'static [(&'static str, i64)],
    project: Option<&'static str>,
    claim: &'static [(&'static str, i64)],
    over: &'static [Row],
}

/// Of the project `p`, which has no limits of its own.
const fn plain(
    id: &'static str,
    registered: &'static [(&'static str, i64)],
    usage: &'static [(&'static str, i64)],
    claim: &'static [(&'static str, i64)],
    over: &'static [Row],
) -> Vector {
    Vector { id, registered, projects: &[], usage, project: Some("p"), claim, over }
}

const FIXTURE: &[(&str, i64)] = &[("widgets", 100), ("sprockets", 50)];
const FIXTURE_2: &[(&str, &str, i64)] = &[("project2", "widgets", 10)];

const fn fixture(
    id: &'static str,
    project: &'static str,
    usage: &'static [(&'static str, i64)],
    claim: &'static [(&'static str, i64)],
    over: &'static [Row],
) -> Vector {
    Vector { id, registered: FIXTURE, projects: FIXTURE_2, usage, project: Some(project), claim, over }
}

const TENS: &[(&str, i64)] = &[("widgets", 10), ("sprockets", 10)];
const THREES: &[(&str, i64)] = &[("widgets", 3), ("sprockets", 3)];

const VECTORS: &[Vector] = &[
    plain("16", &[("a", 1), ("b", 2)], &[("a", 0), ("b", 1)], &[("a", 1), ("b", 1)], &[]),
    plain("17", &[("a", 1), ("b", 2)], &[("a", 0), ("b", 1)], &[("a", 2), ("b", 1)], &[("a", 1, 0, 2)]),
    plain("18", &[("a", -1)], &[("a", 0)], &[("a", 1)], &[]),
    plain("19", &[], &[("a", 1), ("b", 1)], &[("a", 0), ("b", 0)], &[("a", 0, 1, 0), ("b", 0, 1, 0)]),
    Vector {
        id: "19b",
        registered: &[],
        projects: &[],
        usage: &[("a", 1), ("b", 1)],
        project: None,
        claim: &[("a", 0), ("b", 0)],
        over: &[("a", 0, 1, 0), ("b", 0, 1, 0)],
    },
    Vector {
        id: "8",
        registered: &[("a", 10), ("b", 10)],
        projects: &[("bar", "b", 6)],
        usage: &[("a", 5), ("b", 5), ("c", 5)],
        project: Some("bar"),
        claim: &[("a", 1), ("b", 0), ("c", 1)],
        over: &[("c", 0, 5, 1)],
    },
    plain("21", &[("a", -1)], &[("a", 0)], &[("a", 1)], &[]),
    plain("22", &[("a", -1)], &[("a", 1000)], &[("a", 500)], &[]),
    plain("23", &[("a", 10)], &[("a", 9)], &[("a", 2)], &[("a", 10, 9, 2)]),
    fixture("54", "project1", TENS, &[("sprockets", 1), ("widgets", 1)], &[]),
    fixture("55", "project1", TENS, &[("sprockets", 1), ("widgets", 102)], &[("widgets", 100, 10, 102)]),
    fixture("56, first", "project2", THREES, &[("sprockets", 1)], &[]),
    fixture("56, then", "project2", THREES, &[("sprockets", 50)], &[("sprockets", 50, 3, 50)]),
    fixture("57, first", "project2", THREES, &[("widgets", 7)], &[]),
    fixture("57, then", "project2", THREES, &[("widgets", 10)], &[("widgets", 10, 3, 10)]),
    plain("D1", &[("a", 10)], &[("a", 9)], &[("a", 1)], &[]),
    plain("D2", &[("a", 10)], &[("a", 10)], &[("a", 0)], &[]),
    plain("D3", &[("a", 10)], &[("a", 11)], &[("a", 0)], &[("a", 10, 11, 0)]),
    plain("D4", &[("a", 10)], &[("a", 20)], &[("a", -5)], &[("a", 10, 20, -5)]),
    plain("D5", &[("a", 10)], &[("a", 20)], &[("a", -10)], &[]),
    plain("D6", &[], &[("a", 0)], &[("a", 0)], &[]),
    plain("D7", &[], &[("a", 0)], &[("a", 1)], &[("a", 0, 0, 1)]),
    Vector { projects: &[("p", "a", 0)], ..plain("D8", &[("a", 10)], &[("a", 0)], &[("a", 1)], &[("a", 0, 0, 1)]) },
    Vector { projects: &[("p", "a", 50)], ..plain("D9", &[("a", 10)], &[("a", 40)], &[("a", 10)], &[]) },
    Vector { projects: &[("p", "a", -1)], ..plain("D10", &[("a", 1)], &[("a", 5)], &[("a", 5)], &[]) },
    Vector { projects: &[("p", "a", 3)], ..plain("D11", &[("a", -1)], &[("a", 3)], &[("a", 1)], &[("a", 3, 3, 1)]) },
    Vector { project: None, projects: &[("p", "a", 1)], ..plain("D12", &[("a", 10)], &[("a", 5)], &[("a", 1)], &[]) },
    Vector {
        project: None,
        projects: &[("p", "a", 50)],
        ..plain("D13", &[("a", 10)], &[("a", 10)], &[("a", 1)], &[("a", 10, 10, 1)])
    },
    Vector { projects: &[("q", "a", 1)], ..plain("D14", &[("a", 10)], &[("a", 5)], &[("a", 1)], &[]) },
    plain(
        "D15",
        &[("a", 1), ("b", 1), ("C", 1)],
        &[("a", 1), ("b", 1), ("C", 1)],
        &[("b", 1), ("a", 1), ("C", 1)],
        &[("C", 1, 1, 1), ("a", 1, 1, 1), ("b", 1, 1, 1)],
    ),
    plain(
        "D16",
        &[("a", 1), ("b", 9), ("c", 1)],
        &[("a", 1), ("b", 1), ("c", 1)],
        &[("c", 1), ("b", 1), ("a", 1)],
        &[("a", 1, 1, 1), ("c", 1, 1, 1)],
    ),
    plain("D19", &[("a", 10)], &[("a", 0), ("z", 1000)], &[("a", 1)], &[]),
    plain("D20", &[("a", -7)], &[("a", 1000)], &[("a", 1)], &[]),
    plain("D21", &[("a", 0)], &[("a", 0)], &[("a", 0)], &[]),
    Vector { projects: &[("p", "a", 5)], ..plain("D22", &[], &[("a", 4)], &[("a", 1)], &[]) },
    // Not of the model: nothing overflows.
    plain("X1", &[("a", i64::MAX)], &[("a", i64::MAX)], &[("a", i64::MAX)], &[("a", i64::MAX, i64::MAX, i64::MAX)]),
    plain("X2", &[("a", 0)], &[("a", i64::MIN)], &[("a", i64::MIN)], &[]),
];

#[test]
fn flat_enforcement_is_as_in_the_vectors() {
    for vector in VECTORS {
        let store = Store::new(vector.registered, vector.projects);
        let enforcer = Enforcer::new(&store, |_: Option<&str>, _: &[&str]| usage_of(vector.usage));
        let enforced = enforcer.enforce(vector.project, vector.claim);
        match (&enforced, vector.over) {
            (Ok(()), []) => {}
            (Ok(()), _) => panic!("{}: was accepted", vector.id),
            (Err(refused), over) => assert_eq!(over_rows(refused), over, "{}", vector.id),
        }
    }
}

#[test]
fn vectors_16_to_18_ask_for_sorted_names_once() {
    let asked = RefCell::new(Vec::new());
    let usage = |project: Option<&str>, names: &[&str]| {
        asked.borrow_mut().push((project.map(str::to_owned), names.join(",")));
        usage_of(&[("a", 0), ("b", 1)])
    };
    let store = Store::new(&[("a", 1), ("b", -1)], &[]);
    let enforcer = Enforcer::new(&store, usage);
    enforcer.enforce(Some("p"), &[("b", 1), ("a", 1)]).unwrap();
    assert_eq!(*asked.borrow(), [(Some("p".to_owned()), "a,b".to_owned())]);
    assert_eq!(*store.asked.borrow(), ["p a", "registered a", "p b", "registered b"]);
}

#[test]
fn vector_17_has_the_texts_of_oslo_limit() {
    let store = Store::new(&[("a", 1)], &[]);
    let enforcer = Enforcer::new(&store, |_: Option<&str>, _: &[&str]| usage_of(&[("a", 0), ("b", 0)]));
    let refused = enforcer.enforce(Some("p"), &[("a", 2)]).unwrap_err();
    let expected = "Project p is over a limit for [Resource a is over limit of 1 due to current usage 0 and delta 2]";
    assert_eq!(refused.to_string(), expected);
    let EnforceError::OverLimit(over) = refused else { panic!("{refused}") };
    assert_eq!(over.project(), Some("p"));
    let refused = enforcer.enforce(None, &[("b", 1), ("a", 2)]).unwrap_err();
    let expected = "Project None is over a limit for [Resource a is over limit of 1 due to current usage 0 and delta 2, \
                    Resource b is over limit of 0 due to current usage 0 and delta 1]";
    assert_eq!(refused.to_string(), expected);
    assert!(ProjectOverLimit::new(Some("p"), Vec::new()).is_err(), "over nothing");
}

#[test]
fn vectors_2_and_3_arguments_are_checked_before_the_callback_runs() {
    let store = Store::new(&[("a", 1)], &[]);
    let never = |_: Option<&str>, _: &[&str]| -> BTreeMap<String, i64> { panic!("was called") };
    let enforcer = Enforcer::new(&store, never);
    for (project, claim) in
        [(Some(""), [("a", 1)].as_slice()), (Some("p"), &[]), (None, &[]), (Some("p"), &[("a", 1), ("b", 1), ("a", 1)])]
    {
        let refused = enforcer.enforce(project, claim).unwrap_err();
        assert!(matches!(refused, EnforceError::InvalidArgument(_)), "{project:?} {claim:?}: {refused}");
    }
    assert_eq!(store.requests(), (0, 0));
}

#[test]
fn vectors_4_and_5_models_by_name() {
    assert_eq!("flat".parse(), Ok(Model::Flat));
    // Both spellings, and both are implemented: of the model followed here, neither is.
    assert_eq!("strict_two_level".parse(), Ok(Model::StrictTwoLevel));
    assert_eq!("strict-two-level".parse(), Ok(Model::StrictTwoLevel));
    let refused = "foo".parse::<Model>().unwrap_err();
    assert_eq!(refused.to_string(), "enforcement model foo is not supported");
}

#[test]
fn vectors_d17_and_d18_usage_that_is_missing_is_told_before_anything_that_is_over() {
    for registered in [[("a", 0), ("b", 1)], [("a", 0), ("b", -1)]] {
        let store = Store::new(&registered, &[]);
        let enforcer = Enforcer::new(&store, |_: Option<&str>, _: &[&str]| usage_of(&[("a", 5)]));
        let refused = enforcer.enforce(Some("p"), &[("a", 1), ("b", 1)]).unwrap_err();
        assert_eq!(refused, EnforceError::MissingUsage { resource_name: "b".to_owned() });
        assert_eq!(refused.to_string(), "unable to get current usage for b");
        let refused = enforcer.calculate_usage(Some("p"), &["a", "b"]).unwrap_err();
        assert_eq!(refused, EnforceError::MissingUsage { resource_name: "b".to_owned() });
    }
}
