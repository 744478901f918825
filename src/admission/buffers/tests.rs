use super::*;

fn flat(limit: i64) -> Quota {
    Quota { limit, tree: None }
}

fn accounts(max: u64) -> Accounts {
    Accounts::new(Account::of_daemon(max))
}

fn name(client: &str) -> ClientName {
    client.into()
}

#[test]
fn inv9_a_share_counts_in_the_whole_chain_and_comes_back_once() {
    let mut accounts = accounts(1000);
    let a = accounts.account(&name("a"), || flat(600));
    let b = accounts.account(&name("b"), || flat(-1));
    let mut share = Share::take(&a, 600).unwrap();
    assert_eq!((accounts.used("a"), accounts.used("b"), accounts.daemon().used()), (600, 0, 600));
    assert_eq!(
        Share::take(&a, 1).unwrap_err(),
        Short::Client { limit: 600, usage: 600, delta: 1, tree: false },
        "the client's own limit is told before the daemon's"
    );
    assert_eq!(Share::take(&b, 401).unwrap_err(), Short::Daemon { limit: 1000, usage: 600, delta: 401 });
    assert_eq!((accounts.used("b"), accounts.daemon().used()), (0, 600), "a refusal takes nothing");
    let part = share.split(200);
    assert_eq!((share.bytes(), part.bytes(), a.used()), (400, 200, 600));
    assert!(share.resize(100) && !share.resize(401) && share.resize(400));
    drop(part);
    share.force(2000);
    assert_eq!((a.used(), accounts.daemon().used(), a.room(), b.room()), (2000, 2000, 0, 0));
    assert!(!share.resize(2001) && share.resize(50));
    drop(share);
    assert_eq!((a.used(), accounts.daemon().used()), (0, 0));
}

#[test]
fn a_claim_is_all_or_nothing() {
    let mut accounts = accounts(1000);
    let a = accounts.account(&name("a"), || flat(-1));
    let need = Need { stdin: 10, stdout: 500, stderr: 390, params: 100 };
    let claim = need.claim(&a).unwrap();
    let outputs = (claim.stdout.bytes(), claim.stderr.bytes());
    assert_eq!((claim.stdin.bytes(), outputs, claim.params.bytes()), (10, (500, 390), 100));
    assert_eq!(need.claim(&a).unwrap_err(), Short::Daemon { limit: 1000, usage: 1000, delta: 1000 });
    drop(claim);
    assert_eq!(accounts.daemon().used(), 0);
}

#[test]
fn a_tree_holds_its_parent_and_all_its_children_together() {
    let mut accounts = accounts(10_000);
    let quota = |limit| move || Quota { limit, tree: Some((name("p"), 1000)) };
    let parent = accounts.account(&name("p"), quota(1000));
    let child = accounts.account(&name("c"), quota(-1));
    let of_parent = Share::take(&parent, 300).unwrap();
    assert_eq!(
        Share::take(&child, 701).unwrap_err(),
        Short::Client { limit: 1000, usage: 300, delta: 701, tree: true }
    );
    let of_child = Share::take(&child, 700).unwrap();
    assert_eq!((accounts.used("p"), accounts.used("c")), (300, 700));
    drop((of_parent, of_child));
    assert_eq!((parent.used(), child.used(), child.room(), accounts.daemon().used()), (0, 0, 1000, 0));
}

#[test]
fn a_limit_that_is_lowered_takes_nothing_away_and_stops_what_comes() {
    let mut accounts = accounts(10_000);
    let a = accounts.account(&name("a"), || flat(-1));
    let share = Share::take(&a, 500).unwrap();
    accounts.adjust(|_| flat(100));
    assert_eq!((a.used(), a.room(), a.is_full()), (500, 0, true));
    assert!(Share::take(&a, 1).is_err());
    drop(share);
    assert!(Share::take(&a, 100).is_ok() && Share::take(&a, 101).is_err());
    accounts.adjust(|_| flat(-1));
    accounts.daemon().set_max(50);
    assert_eq!(Share::take(&a, 51).unwrap_err(), Short::Daemon { limit: 50, usage: 0, delta: 51 });
}

#[test]
fn a_tree_that_is_none_any_more_holds_nobody_up() {
    let mut accounts = accounts(10_000);
    let in_tree = |limit| Quota { limit: -1, tree: Some((name("parent"), limit)) };
    let child = accounts.account(&name("child"), || in_tree(100));
    assert_eq!(Share::take(&child, 101).unwrap_err(), Short::Client { limit: 100, usage: 0, delta: 101, tree: true });
    accounts.adjust(|_| in_tree(200));
    assert!(Share::take(&child, 200).is_ok() && Share::take(&child, 201).is_err());
    // The child is somebody else's now, and nobody else of the parent's is there.
    accounts.adjust(|client| if client == "parent" { in_tree(50) } else { flat(-1) });
    assert!(Share::take(&child, 50).is_ok() && Share::take(&child, 51).is_err());
    accounts.adjust(|_| flat(-1));
    assert!(Share::take(&child, 10_000).is_ok());
}

#[test]
fn inv7_who_holds_nothing_is_forgotten() {
    let mut accounts = accounts(1 << 20);
    let kept = accounts.account(&name("kept"), || flat(-1));
    let share = Share::take(&kept, 1).unwrap();
    drop(kept);
    for client in 0..10_000 {
        let quota = || Quota { limit: -1, tree: Some((name(&format!("p{}", client / 2)), -1)) };
        accounts.account(&name(&format!("c{client}")), quota);
        assert!(accounts.clients.len() <= IDLE_MAX && accounts.trees.len() <= IDLE_MAX);
    }
    assert_eq!(accounts.used("kept"), 1);
    drop(share);
    accounts.adjust(|_| flat(-1));
    assert_eq!((accounts.clients.len(), accounts.trees.len()), (0, 0));
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test's own threads")]
fn inv9_no_race_passes_a_limit_or_loses_a_byte() {
    let mut accounts = accounts(5000);
    let clients = ["a", "b"].map(|client| accounts.account(&name(client), || flat(3000)));
    let threads: Vec<_> = (0..4u64)
        .map(|thread| {
            let clients = clients.clone();
            let run = move || {
                let mut seed = thread + 1;
                let mut random = move |below: u64| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (seed >> 33) % below
                };
                let mut held: Vec<Share> = Vec::new();
                for _ in 0..50_000 {
                    let account = &clients[random(2) as usize];
                    assert!(account.used() <= 3000);
                    match random(3) {
                        0 => held.extend(Share::take(account, random(1500) as usize)),
                        1 => drop(held.pop()),
                        _ => drop(held.last_mut().map(|share| share.resize(random(1500) as usize))),
                    }
                }
            };
            std::thread::Builder::new().spawn(run).unwrap()
        })
        .collect();
    while threads.iter().any(|thread| !thread.is_finished()) {
        assert!(accounts.daemon().used() <= 5000);
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!((clients[0].used(), clients[1].used(), accounts.daemon().used()), (0, 0, 0));
}
