//! File systems that hang: what waits for them is given up, and nobody else waits.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::exec_support::*;
use crate::program::{Hostile, Plain};
use crate::support::*;

/// A folder in which every look for a name waits for an answer that nobody gives, until this goes or the waiter is killed.
struct Hanging {
    path: String,
    mounter: Plain,
}

impl Hanging {
    /// None: this test may not mount.
    fn mount(hostile: &Hostile, path: &Path) -> Option<Hanging> {
        let path = path.to_str().unwrap().to_owned();
        let mut mounter = Command::new(hostile.path());
        mounter.args(["automount", &path]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut mounter = mounter.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(mounter.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        let hanging = Hanging { path, mounter: Plain(mounter) };
        if said != "mounted\n" {
            skip(&format!("nothing can be mounted here: {said}"));
            return None;
        }
        Some(hanging)
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        // Whoever waits is let go, then nobody can come any more.
        drop(self.mounter.0.stdin.take());
        let _ = self.mounter.0.wait();
        let _ = Command::new("umount").args(["-l", &self.path]).output();
    }
}

/// The control: a plain program waits there until it is killed.
#[track_caller]
fn control(hanging: &Hanging) {
    let path = format!("{}/x", hanging.path);
    let plain = Command::new("stat").arg(&path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut plain = Plain(plain);
    wait_until("it waits", DEADLINE, || {
        let stack = std::fs::read_to_string(format!("/proc/{}/wchan", plain.pid())).unwrap_or_default();
        (stack.contains("autofs") || procs::one(plain.pid())?.state == 'D').then_some(())
    });
    plain.0.kill().unwrap();
    plain.expect_end();
}

fn errand_threads(daemon: &Daemon) -> usize {
    procs::threads(daemon.runtime_pid).iter().filter(|name| name.starts_with("errand-")).count()
}

#[test]
fn inv6_more_trials_than_threads_hang_and_are_given_up() {
    if !is_root() {
        return skip("only root can mount what hangs");
    }
    let hostile = Hostile::build();
    let daemon = Daemon::start(&[]);
    let Some(hanging) = Hanging::mount(&hostile, &daemon.launch.folder.open_to_all("hangs")) else { return };
    control(&hanging);

    let mut conns: Vec<Conn> = (0..20).map(|_| daemon.unix()).collect();
    let ask = |conn: &mut Conn| conn.ask("session.open", json!({"cwd": format!("{}/x", hanging.path)}));
    let asked: Vec<Value> = conns.iter_mut().map(ask).collect();
    wait_until("all threads that there may be hang", DEADLINE, || (errand_threads(&daemon) == 16).then_some(()));
    // What needs no errand is as fast as ever; what does waits for its turn, and no longer.
    let mut neighbour = daemon.tcp();
    for _ in 0..20 {
        assert_well(&mut neighbour);
    }
    let open = neighbour.open(json!({"cwd": "/"}));
    assert_eq!(text(&run(&mut neighbour, json!({"session": open, "cmd": "pwd"}))), "/\n");
    for (conn, id) in conns.iter_mut().zip(&asked) {
        let error = conn.answer(id)["error"].clone();
        assert_eq!(
            (&error["data"]["reason"], &error["data"]["stage"]),
            (&json!("SPAWN_FAILED"), &json!("cwd")),
            "{error}"
        );
    }
    wait_until("the threads end", DEADLINE, || (errand_threads(&daemon) == 1).then_some(()));
    let log = daemon.log();
    assert!(log.matches("errands wait").count() <= 1, "{log}");
    drop(conns);
    assert_well(&mut neighbour);
}

#[test]
fn inv6_a_disk_that_hangs_holds_up_who_saves_to_it_alone() {
    if !is_root() {
        return skip("only root can mount what hangs");
    }
    let hostile = Hostile::build();
    let launch = Launch::new();
    let disk = launch.folder.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mut daemon = launch.set("state_dir", json!(disk.join("state"))).start();
    let (mut admin, mut neighbour) = (daemon.unix(), daemon.tcp());
    let set = |limit: u32| json!({"resource": "sessions", "client": "x", "limit": limit});
    admin.ok("limit.set", set(3));
    let Some(hanging) = Hanging::mount(&hostile, &disk) else { return };
    control(&hanging);

    let first = admin.ask("limit.set", set(4));
    for _ in 0..20 {
        assert_well(&mut neighbour);
    }
    let error = admin.answer(&first)["error"].clone();
    assert!(error["message"].as_str().unwrap().contains("hangs"), "{error}");
    // It hangs still, and nobody waits for it again.
    admin.refused("limit.set", set(5), "INTERNAL");
    assert_eq!(admin.ok("limit.show", json!({"client": "x"}))["limits"]["sessions"]["limit"], 3);
    assert_well(&mut neighbour);
    drop(hanging);
    wait_until("the thread is free, and limits are saved again", DEADLINE, || {
        admin.request("limit.set", set(6)).get("result").is_some().then_some(())
    });
    drop((admin, neighbour));
    daemon.finish();
}
