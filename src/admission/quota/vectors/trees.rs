//! Two levels: enforcement (H1 to H14) and which limits may be set. Each enforcement is asked of the enforcer and of
//! the ledger; they must agree.

use super::*;
use crate::admission::overrides::Overrides;
use crate::config::{ClientQuota, Quotas};

/// The resource of the vectors by the name that the ledger has for it.
const CORES: &str = "processes";

struct Tree {
    registered: i64,
    /// Name, its own limit, its usage. The first is the root, the others are below it.
    nodes: Vec<(&'static str, Option<i64>, u64)>,
}

fn tree(nodes: &[(&'static str, Option<i64>, u64)]) -> Tree {
    Tree { registered: 10, nodes: nodes.to_vec() }
}

impl Tree {
    fn table(&self) -> LimitTable {
        let mut table = LimitTable::new(Model::StrictTwoLevel);
        for (child, _, _) in &self.nodes[1..] {
            table.adopt(child, self.nodes[0].0).unwrap();
        }
        table.set(None, CORES, self.registered).unwrap();
        for (node, limit, _) in &self.nodes {
            if let Some(limit) = limit {
                table.set(Some(node), CORES, *limit).unwrap();
            }
        }
        table
    }

    fn enforce(&self, project: &str, delta: i64) -> Result<(), Vec<(i64, i64, i64, Scope)>> {
        let usage = |project: Option<&str>, _: &[&str]| {
            let node = self.nodes.iter().find(|(name, _, _)| Some(*name) == project).unwrap();
            usage_of(&[(CORES, node.2 as i64)])
        };
        Enforcer::new(self.table(), usage).enforce(Some(project), &[(CORES, delta)]).map_err(|refused| {
            let EnforceError::OverLimit(over) = refused else { panic!("{refused}") };
            over.over_limit_infos().iter().map(|i| (i.limit, i.current_usage, i.delta, i.scope)).collect()
        })
    }

    /// The ledger of the same tree, brought to the same usage while there were no limits.
    fn claim(&self, client: &str, delta: u64) -> Result<(), (i64, i64, i64, Scope)> {
        let mut quotas = Quotas {
            model: Model::StrictTwoLevel,
            registered: BTreeMap::from([(CORES.to_owned(), UNLIMITED)]),
            clients: BTreeMap::new(),
        };
        for (at, (name, _, _)) in self.nodes.iter().enumerate() {
            let parent = (at > 0).then(|| self.nodes[0].0.to_owned());
            quotas.clients.insert((*name).to_owned(), ClientQuota { parent, limits: BTreeMap::new() });
        }
        let mut ledger = Ledger::new(&quotas, Overrides::default()).unwrap();
        let none = &|_: &str| 0;
        let claims: Vec<Claim> = self
            .nodes
            .iter()
            .map(|&(name, _, usage)| ledger.claim(name, &[(Resource::Processes, Amount::Of(usage))], none).unwrap())
            .collect();
        quotas.registered.insert(CORES.to_owned(), self.registered);
        for (name, limit, _) in &self.nodes {
            let limits = limit.map(|limit| (CORES.to_owned(), limit)).into_iter().collect();
            quotas.clients.get_mut(*name).unwrap().limits = limits;
        }
        ledger.reload(&quotas).unwrap();
        let claimed = ledger.claim(client, &[(Resource::Processes, Amount::Of(delta))], none);
        claims.into_iter().for_each(|claim| ledger.release(claim));
        claimed.map(drop).map_err(|refused| {
            let [row] = refused.over.as_slice() else { panic!("{refused}") };
            assert_eq!(row.resource, CORES);
            (row.limit, row.usage, row.delta, row.scope.unwrap())
        })
    }
}

#[test]
fn vectors_h1_to_h8_and_h11_to_h13_enforcement() {
    use Scope::{Client, Tree};
    let a4 = |b, c| tree(&[("A", Some(20), 4), ("B", None, b), ("C", None, c)]);
    let a4_d = || tree(&[("A", Some(20), 4), ("B", None, 8), ("C", None, 8), ("D", None, 0)]);
    for (id, tree, client, delta, expected) in [
        ("H1", a4(0, 0), "B", 8, None),
        ("H2", a4(8, 0), "C", 8, None),
        ("H3", a4(8, 8), "A", 2, Some((20, 20, 2, Tree))),
        ("H4", a4_d(), "D", 2, Some((20, 20, 2, Tree))),
        ("H6", self::tree(&[("A", Some(20), 4), ("B", Some(12), 8), ("C", None, 8)]), "B", 1, Some((20, 20, 1, Tree))),
        ("H7", self::tree(&[("A", Some(20), 2), ("B", Some(12), 8), ("C", None, 6)]), "B", 4, None),
        ("H8", self::tree(&[("A", Some(20), 2), ("B", Some(12), 12), ("C", None, 6)]), "C", 2, Some((20, 20, 2, Tree))),
        ("H11, first", self::tree(&[("A", Some(6), 0), ("B", None, 0)]), "B", 6, None),
        ("H11, then", self::tree(&[("A", Some(6), 0), ("B", None, 0)]), "B", 7, Some((6, 0, 7, Client))),
        ("H12", self::tree(&[("A", Some(6), 0), ("B", None, 6), ("C", None, 0)]), "C", 1, Some((6, 6, 1, Tree))),
        ("H13", self::tree(&[("A", Some(20), 0), ("B", None, 0)]), "B", 11, Some((10, 0, 11, Client))),
        ("an unlimited root", self::tree(&[("A", Some(-1), 50), ("B", None, 10)]), "B", 1, Some((10, 10, 1, Client))),
        ("all unlimited", self::tree(&[("A", Some(-1), 50), ("B", Some(-1), 10)]), "B", 1000, None),
        ("a root of nothing", self::tree(&[("A", Some(0), 0), ("B", None, 0)]), "B", 1, Some((0, 0, 1, Client))),
    ] {
        let enforced = tree.enforce(client, delta);
        assert_eq!(enforced.as_ref().err().map(|over| over[0]), expected, "{id}");
        // The ledger tells one row a resource. Where both scopes are over by as much, that is the client's.
        assert_eq!(tree.claim(client, delta as u64).err(), expected, "{id}, the ledger");
    }
}

#[test]
fn what_is_over_in_both_scopes_is_told_twice_by_the_enforcer_and_once_by_the_ledger() {
    let full = tree(&[("A", Some(12), 9), ("B", None, 2)]);
    let over = full.enforce("B", 9).unwrap_err();
    assert_eq!(over, [(10, 2, 9, Scope::Client), (12, 11, 9, Scope::Tree)]);
    assert_eq!(full.claim("B", 9), Err((12, 11, 9, Scope::Tree)), "the one with less left");
}

#[test]
fn vector_h5_there_are_two_levels() {
    let mut table = tree(&[("A", Some(20), 0), ("C", None, 0)]).table();
    let refused = table.adopt("E", "C").unwrap_err();
    assert_eq!(refused.to_string(), "C cannot be the parent of E: it has a parent itself, and there are two levels");
    assert!(table.adopt("A", "Z").unwrap_err().to_string().contains("it has children itself"));
    assert!(table.adopt("A", "A").is_err());
    assert!(LimitTable::new(Model::Flat).adopt("E", "C").is_err());
    assert_eq!(table.children("C"), Vec::<String>::new());
}

#[test]
fn vectors_h9_h10_and_h14_limits_of_children_end_at_their_parents() {
    let mut table = tree(&[("A", Some(20), 0), ("B", None, 0), ("C", None, 0)]).table();
    let before = table.clone();
    let refused = table.set(Some("B"), CORES, 30).unwrap_err();
    assert_eq!(refused.to_string(), "the limit of processes of B, 30, is over that of its parent A, 20");
    assert_eq!(refused.field(), "limit");
    assert_eq!(table, before, "a refused limit changes nothing");
    table.adopt("D", "A").unwrap();
    assert!(table.set(Some("D"), CORES, 30).is_err());
    // Their sum may be over it.
    table.set(Some("B"), CORES, 15).unwrap();
    table.set(Some("C"), CORES, 18).unwrap();
    // A child that comes with a limit brings it under the parent's.
    table.set(Some("F"), CORES, 21).unwrap();
    assert!(table.adopt("F", "A").is_err());
    table.set(Some("F"), CORES, 20).unwrap();
    table.adopt("F", "A").unwrap();
}

type Limit = (&'static str, i64);

#[test]
fn limits_are_validated_as_keystone_does() {
    for (existing, new, accepted) in [
        (&[("A", 20)][..], &[("B", 15)][..], true),
        (&[("A", 20), ("B", 15)], &[("C", 18)], true),
        (&[("A", 20), ("B", 15)], &[("C", 21)], false),
        (&[("A", 20)], &[("B", 20)], true),
        (&[], &[("B", 5)], true),
        (&[], &[("C", 11)], false),
        (&[("B", 9)], &[("A", 12)], true),
        (&[("B", 9)], &[("A", 9)], true),
        (&[("B", 9)], &[("A", 8)], false),
        (&[], &[("A", 12), ("B", 9), ("C", 5), ("D", 9), ("E", 5), ("F", 4)], true),
        (&[], &[("A", 12), ("B", 9), ("C", 5), ("D", 9), ("E", 5), ("F", 10)], false),
        (&[("A", 12), ("B", 9), ("E", 5)], &[("C", 5), ("D", 4)], false),
        (&[("A", 10), ("B", 6), ("C", 7)], &[("C", 9)], true),
        (&[("A", 10), ("B", 6), ("C", 7)], &[("C", 11)], false),
        (&[("C", 7)], &[("C", 9)], true),
        (&[("C", 7)], &[("C", 11)], false),
        (&[("A", 10), ("B", 6), ("C", 7)], &[("A", 8)], true),
        (&[("A", 10), ("B", 6), ("C", 7)], &[("A", 6)], false),
        (&[("A", 5)], &[("A", 20), ("B", 15)], true),
        (&[("A", 5)], &[("B", 15), ("A", 20)], true),
        (&[], &[("B", 9), ("A", 8)], false),
        (&[], &[("A", 8), ("B", 9)], false),
        // Where it has quirks, the sane rule: 0 is a limit, and -1 is more than any other.
        (&[("A", 0)], &[("B", 5)], false),
        (&[("A", 0)], &[("B", 0)], true),
        (&[("A", -1)], &[("B", 5)], true),
        (&[("A", -1)], &[("B", -1)], true),
        (&[("A", 10)], &[("B", -1)], false),
        (&[("B", 5)], &[("A", -1)], true),
        (&[("A", -1), ("B", -1)], &[("A", 100)], false),
        (&[("A", 20), ("B", 15)], &[("B", 0)], true),
        (&[], &[("B", -2)], false),
    ] as [(&[Limit], &[Limit], bool); 31]
    {
        let mut table = of_volumes(existing, Some(10));
        let before = table.clone();
        let changes: Vec<Change<'_>> = new.iter().map(|(project, limit)| change(project, *limit)).collect();
        let applied = table.apply(&changes);
        assert_eq!(applied.is_ok(), accepted, "{existing:?} {new:?}: {applied:?}");
        if accepted {
            new.iter().for_each(|(project, limit)| assert_eq!(table.get(Some(project), "volume"), Some(*limit)));
        } else {
            assert_eq!(table, before, "{existing:?} {new:?}");
        }
    }
}

/// A over B and C, D over E and F.
fn of_volumes(existing: &[Limit], registered: Option<i64>) -> LimitTable {
    let mut table = LimitTable::new(Model::StrictTwoLevel);
    for (child, parent) in [("B", "A"), ("C", "A"), ("E", "D"), ("F", "D")] {
        table.adopt(child, parent).unwrap();
    }
    if let Some(registered) = registered {
        table.set(None, "volume", registered).unwrap();
    }
    let changes: Vec<Change<'_>> = existing.iter().map(|(project, limit)| change(project, *limit)).collect();
    table.apply(&changes).unwrap();
    table
}

fn change<'a>(project: &'a str, limit: i64) -> Change<'a> {
    Change { project: Some(project), resource: "volume", limit: Some(limit) }
}

/// Keystone refuses any limit of a project without a registered one, and any change of a registered one while a
/// project has its own. Here the rule of the tree decides alone.
#[test]
fn registered_limits_stand_for_those_of_parents() {
    let mut table = of_volumes(&[], Some(-1));
    table.set(Some("B"), "volume", 5).unwrap();
    assert!(table.set(None, "volume", 4).is_err(), "B has 5");
    table.set(None, "volume", 5).unwrap();
    assert!(table.unset(None, "volume").is_err(), "B would have more than nothing");
    table.set(Some("A"), "volume", 9).unwrap();
    assert_eq!(table.unset(None, "volume"), Ok(true));
    assert!(table.unset(Some("A"), "volume").is_err(), "B would have more than nothing");
    assert_eq!(table.unset(Some("B"), "volume"), Ok(true));
    assert_eq!(table.unset(Some("A"), "volume"), Ok(true));
    assert_eq!(table.unset(Some("A"), "volume"), Ok(false));
    let mut table = of_volumes(&[], None);
    assert!(table.set(Some("B"), "volume", 5).is_err(), "its parent has nothing");
    table.set(Some("B"), "volume", 0).unwrap();
    table.set(Some("Z"), "volume", 5).unwrap();
}
