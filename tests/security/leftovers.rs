//! What a session leaves behind by its uid, and who gets that uid next.

use std::collections::HashSet;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::exec_support::*;
use crate::program::{Hostile, uid_of_nobody};
use crate::support::*;

/// A number for objects and a name for files that no other test uses.
fn names() -> (String, String) {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id() * 16 + NEXT.fetch_add(1, Ordering::Relaxed) % 16;
    (format!("{:#x}", 0x5ec0_0000 + number), format!("cofferdam-left-{number}"))
}

/// What the hostile program finds of it in a session, and the uid there.
#[track_caller]
fn found(record: &Value) -> (Vec<String>, u32) {
    heard(&text(record))
}

#[track_caller]
fn heard(said: &str) -> (Vec<String>, u32) {
    let (things, uid) = said.trim().rsplit_once("uid ").unwrap_or_else(|| panic!("{said:?}"));
    (things.split_whitespace().map(str::to_owned).collect(), uid.parse().unwrap())
}

#[track_caller]
fn uid_of(conn: &mut Conn) -> u32 {
    text(&sh(conn, "id -u")).trim().parse().unwrap()
}

#[test]
fn inv9_uids_take_turns_through_the_whole_pool() {
    if !is_root() {
        return skip("only a daemon of root gives out uids");
    }
    let daemon = Daemon::start(&[("children.uid_count", json!(70)), ("sessions.max_sessions", json!(4))]);
    let mut conn = daemon.tcp();

    let uids: Vec<u32> = (0..140).map(|_| uid_of(&mut conn)).collect();

    assert_eq!(uids.iter().collect::<HashSet<_>>().len(), 70);
    assert_eq!(uids[..70], uids[70..], "each waits for all others");
}

/// The first of two thousand uids that no daemon has had: what is done to their keyrings lasts.
fn unused_uids() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    1_400_000_000 + std::process::id() % (1 << 15) * 8000 + NEXT.fetch_add(1, Ordering::Relaxed) % 4 * 2000
}

#[test]
fn all_sessions_may_open_at_once_under_uids_that_nobody_has_had() {
    if !is_root() {
        return skip("only a daemon of root gives out uids");
    }
    let daemon = Daemon::start(&[
        ("children.uid_base", json!(unused_uids())),
        ("children.uid_count", json!(2000)),
        ("sessions.max_sessions", json!(400)),
    ]);
    let mut conns: Vec<Conn> = (0..4).map(|_| daemon.tcp()).collect();

    for _ in 0..3 {
        let asked: Vec<Vec<Value>> =
            conns.iter_mut().map(|conn| (0..100).map(|_| conn.ask("session.open", json!({}))).collect()).collect();
        for (conn, asked) in conns.iter_mut().zip(asked) {
            for id in asked {
                let session = conn::granted(conn.answer(&id))["session"].as_str().unwrap().to_owned();
                close(conn, &session);
            }
        }
    }
    assert_eq!(daemon.stats()["sessions"]["opened"], 1200);
}

/// Leaves things under a uid, has it come round, and looks for them.
#[track_caller]
fn leave_and_look(daemon: &Daemon, hostile: &Hostile) {
    let (key, name) = names();
    let (mut conn, mut other) = (daemon.unix(), daemon.tcp());
    let session = conn.open(json!({}));
    run(&mut conn, json!({"session": session, "argv": hostile.argv(&["leave", &key, &name])}));
    // The control: within the session all of it is found.
    let (things, uid) =
        found(&run(&mut conn, json!({"session": session, "argv": hostile.argv(&["find", &key, &name])})));
    for thing in ["shm", "msg", "sem", "/tmp", "/tmp.d", "/dev/shm", "/dev/shm.d"] {
        assert!(things.iter().any(|found| found == thing), "no {thing} among {things:?}");
    }
    close(&mut conn, &session);
    let again = (0..1000).find_map(|_| {
        let record = other.request("exec.run", json!({"argv": hostile.argv(&["find", &key, &name])}));
        let (things, next) = found(record.get("result")?);
        (next == uid).then_some(things)
    });

    assert_eq!(again, Some(Vec::new()), "uid {uid} comes round, and finds nothing");
    let stats = daemon.stats();
    assert_eq!(stats["sessions"]["uids_set_aside"], 0, "{stats}");
}

#[test]
fn inv14_nothing_of_a_session_is_the_next_ones_of_its_uid() {
    if !is_root() {
        return skip("only a daemon of root gives out uids");
    }
    let hostile = Hostile::build();
    for (uids, sessions) in [(2, 2), (40, 8)] {
        let settings = [("children.uid_count", json!(uids)), ("sessions.max_sessions", json!(sessions))];
        leave_and_look(&Daemon::start(&settings), &hostile);
    }
}

#[test]
fn what_a_session_has_left_goes_soon_where_nobody_needs_its_uid() {
    if !is_root() {
        return skip("only a daemon of root gives out uids");
    }
    let hostile = Hostile::build();
    let daemon = Daemon::start(&[]);
    let mut conn = daemon.tcp();
    let (key, name) = names();

    let record = run(&mut conn, json!({"argv": hostile.argv(&["leave", &key, &name])}));
    let uid: u32 = text(&record).trim().parse().unwrap();
    let left = format!("/dev/shm/{name}");
    wait_until("the files are gone", DEADLINE, || (!std::path::Path::new(&left).exists()).then_some(()));
    wait_until("the objects are gone", DEADLINE, || {
        let (things, _) = found_by(&hostile, uid, &key, &name);
        things.is_empty().then_some(())
    });
}

/// What a plain process of this uid finds.
fn found_by(hostile: &Hostile, uid: u32, key: &str, name: &str) -> (Vec<String>, u32) {
    heard(&hostile.plain(uid, &["find", key, name]))
}

#[test]
fn inv9_no_keyring_outlives_a_session_and_none_puts_its_uid_out_of_use() {
    if !is_root() {
        return skip("only a daemon of root gives out uids");
    }
    let hostile = Hostile::build();
    let (_, name) = names();
    let plain = |uid, way| heard(&hostile.plain(uid, &["keyrings", &name, way])).0;
    // The control: under a uid of its own one program finds what another has left, and nobody can remove it.
    let uid = uid_of_nobody();
    assert!(plain(uid, "lock").is_empty());
    if !plain(uid, "lock").iter().any(|ring| ring == "user") {
        return skip("there are no keyrings here");
    }

    for uids in [1, 3] {
        let daemon = Daemon::start(&[
            ("children.uid_base", json!(unused_uids())),
            ("children.uid_count", json!(uids)),
            ("sessions.max_sessions", json!(uids.min(2))),
        ]);
        let mut conn = daemon.unix();
        for way in ["open", "lock", "revoke", "open", "lock", "revoke", "open"] {
            let record = run(&mut conn, json!({"argv": hostile.argv(&["keyrings", &name, way])}));
            assert_eq!(found(&record).0, Vec::<String>::new(), "{way}");
        }
        let stats = daemon.stats();
        assert_eq!(stats["sessions"]["uids_set_aside"], 0, "{stats}");
    }
}

/// A file that not even root can remove, until it is let go.
struct Immutable(String);

impl Immutable {
    fn make(path: &str) -> Option<Immutable> {
        let made = Command::new("chattr").args(["+i", path]).output().is_ok_and(|output| output.status.success());
        made.then(|| Immutable(path.to_owned()))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let _ = Command::new("chattr").args(["-i", &self.0]).output();
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn inv9_a_uid_that_cannot_be_cleaned_is_set_aside_until_it_can() {
    if !is_root() {
        return skip("only a daemon of root gives out uids");
    }
    let daemon = Daemon::start(&[("children.uid_count", json!(1)), ("sessions.max_sessions", json!(1))]);
    let mut conn = daemon.unix();
    let (_, name) = names();
    let path = format!("/var/tmp/{name}");
    let session = conn.open(json!({}));
    run(&mut conn, json!({"session": session, "cmd": format!("echo secret >{path}")}));
    let Some(immutable) = Immutable::make(&path) else {
        let _ = std::fs::remove_file(&path);
        return skip("no file can be made immutable here");
    };
    // The processes are gone, and that is what the answer is about.
    close(&mut conn, &session);

    let refused = conn.refused("session.open", json!({}), "CAPACITY");
    assert_eq!((&refused["data"]["resource"], &refused["data"]["retryable"]), (&json!("sessions"), &json!(true)));
    assert!(refused["message"].as_str().unwrap().contains("set aside"), "{refused}");
    assert_eq!(daemon.stats()["sessions"]["uids_set_aside"], 1);
    drop(immutable);
    let session = wait_until("the uid comes back", DEADLINE, || {
        let opened = conn.request("session.open", json!({}));
        Some(opened["result"]["session"].as_str()?.to_owned())
    });
    assert_eq!(daemon.stats()["sessions"]["uids_set_aside"], 0);
    close(&mut conn, &session);
}
