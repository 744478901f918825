//! Descriptors of the daemon: who takes many keeps nobody else from having a few.

use rlimit::Resource;

use crate::exec_support::*;
use crate::support::*;

/// What the daemon of these tests may open; far less than it is configured for.
const FEW: u64 = 256;
/// Background jobs that a session may leave.
const JOBS: usize = 32;

fn few() -> std::io::Result<()> {
    Resource::NOFILE.set(FEW, FEW)
}

/// Opens sessions with shells and leaves as many background jobs in each as it gets: the sessions, and why there are no
/// more.
#[track_caller]
fn hoard(conn: &mut Conn, sessions: usize) -> (Vec<String>, Option<Value>) {
    let mut open = Vec::new();
    for _ in 0..sessions {
        let answer = conn.request("session.open", json!({"shell": true}));
        if let Some(error) = answer.get("error") {
            return (open, Some(error["data"].clone()));
        }
        let session = answer["result"]["session"].as_str().unwrap().to_owned();
        for _ in 0..JOBS {
            assert_eq!(conn.run_in(&session, "sleep 1000 &")["status"], "exited");
        }
        open.push(session);
    }
    (open, None)
}

fn held(daemon: &Daemon) -> u64 {
    daemon.stats()["process"]["fds"].as_u64().unwrap()
}

/// Commands run for a client that has nothing to do with all that, and whoever comes is served.
#[track_caller]
fn serves_others(daemon: &Daemon) {
    for mut conn in [daemon.tcp_as(2), daemon.unix()] {
        assert_eq!(text(&sh(&mut conn, "echo well")), "well\n");
    }
}

#[test]
fn inv7_background_jobs_of_one_leave_descriptors_for_all_others() {
    // Control: where there are enough, what one client does takes more than the other daemon may open at all.
    let roomy = Daemon::start(&[]);
    let mut attacker = roomy.tcp_as(1);
    let (open, refused) = hoard(&mut attacker, 5);
    assert_eq!((open.len(), refused), (5, None));
    assert!(held(&roomy) > FEW, "{}", held(&roomy));

    let daemon = Launch::new().before_exec(few).start();
    let mut attacker = daemon.tcp_as(1);
    let (open, refused) = hoard(&mut attacker, 5);
    let refused = refused.expect("no more shells than there are descriptors for");
    assert_eq!((&refused["reason"], &refused["resource"]), (&json!("CAPACITY"), &json!("descriptors")), "{refused}");
    assert_eq!(refused["retryable"], true, "{refused}");
    assert!(refused["limit"].is_u64() && refused["usage"].is_u64(), "{refused}");
    serves_others(&daemon);
    assert!(held(&daemon) < FEW / 2, "{}", held(&daemon));
    let told = daemon.log().matches("has more background jobs than descriptors").count();
    assert!((1..=open.len()).contains(&told), "once a session: {}", daemon.log());
    // Who goes on is the only one who pays.
    for session in &open {
        assert_eq!(attacker.run_in(session, "sleep 1000 & echo on")["stdout"], "on\n");
    }
    serves_others(&daemon);
    // What is given back can be had again.
    close(&mut attacker, &open[0]);
    attacker.open(json!({"shell": true}));
}

#[test]
fn a_job_that_has_lost_its_output_gets_sigpipe_and_those_of_others_write_on() {
    let daemon = Launch::new().before_exec(few).start();
    let folder = daemon.launch.folder.open_to_all("jobs");
    let job = |name: &str| {
        let (go, done) = (folder.join("go"), folder.join(name));
        format!("(until [ -e {} ]; do sleep 0.01; done; echo x; echo on >{}) & echo $!", go.display(), done.display())
    };
    let (mut neighbour, mut attacker) = (daemon.tcp_as(2), daemon.tcp_as(1));
    let theirs = neighbour.open(json!({"shell": true}));
    neighbour.run_in(&theirs, &job("neighbour"));
    let own = attacker.open(json!({"shell": true}));
    let first: i32 = text(&attacker.run_in(&own, &job("first"))).trim().parse().unwrap();
    for _ in 0..JOBS - 2 {
        attacker.run_in(&own, "sleep 1000 &");
    }
    attacker.run_in(&own, &job("last"));

    std::fs::write(folder.join("go"), "").unwrap();
    for name in ["neighbour", "last"] {
        // Control for the one that was closed: these wrote to the same kind of pipe, and went on.
        wait_until("a job has written", DEADLINE, || folder.join(name).exists().then_some(()));
    }
    wait_until("the oldest has ended", DEADLINE, || (!procs::is_alive(first)).then_some(()));
    assert!(!folder.join("first").exists());
}

#[test]
fn the_daemon_may_open_what_it_can_and_its_commands_what_it_was_started_with() {
    let odd = || Resource::NOFILE.set(64, 512);
    let daemon = Launch::new().set("limits.limit_nofile", json!(-1)).before_exec(odd).start();
    // Control: the guard, which opens nothing, has the limits that both were started with.
    assert_eq!(limits_of(daemon.pid), ["64", "512"]);
    assert_eq!(limits_of(daemon.runtime_pid), ["512", "512"]);
    let (mut conn, ask) = (daemon.tcp(), "ulimit -Sn; ulimit -Hn");
    assert_eq!(text(&sh(&mut conn, ask)), "64\n512\n");
    let session = conn.open(json!({"shell": true}));
    assert_eq!(text(&conn.run_in(&session, ask)), "64\n512\n");
    let asked = run(&mut conn, json!({"cmd": ask, "limits": {"nofile": 100}}));
    assert_eq!(text(&asked), "100\n100\n");
}

/// Soft and hard limit of descriptors of a process.
fn limits_of(pid: i32) -> [String; 2] {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let row = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut words = row.split_whitespace().map(str::to_owned);
    [words.next().unwrap(), words.next().unwrap()]
}

#[test]
fn inv7_the_unix_socket_has_descriptors_left_when_tcp_has_taken_all() {
    let daemon = Launch::new().before_exec(|| Resource::NOFILE.set(128, 128)).start();
    let gate = daemon.launch.folder.gate();
    let mut busy = daemon.tcp_as(1);
    let mut running = Vec::new();
    let refused = loop {
        let id = busy.ask("exec.run", json!({"cmd": gate.wait()}));
        if let Some(answer) =
            wait_until("it runs, or is refused", DEADLINE, || settled(&daemon, &mut busy, &id, running.len()))
        {
            break answer;
        }
        running.push(id);
    };
    assert!(!running.is_empty());
    assert_eq!(refused["error"]["data"]["resource"], "descriptors", "{refused}");
    // Control: whoever has no place of its own is refused now.
    let mut other = daemon.tcp_as(2);
    assert_eq!(other.refused("exec.run", json!({"cmd": "true"}), "CAPACITY")["data"]["resource"], "descriptors");
    let waits = other.ask("exec.run", json!({"cmd": "echo waited", "queue_ms": 60_000}));
    let mut crowd = Vec::new();
    let refused = loop {
        let mut conn = daemon.tcp_as(3);
        let _ = conn.try_send_bytes("{\"id\":1,\"method\":\"system.ping\"}\n");
        let answer = conn.recv();
        if answer["id"] != 1 {
            break answer;
        }
        crowd.push(conn);
    };
    assert_eq!(refused["error"]["data"]["resource"], "descriptors", "{refused}");

    let mut admin = daemon.unix();
    assert_eq!(text(&sh(&mut admin, "echo here")), "here\n");
    let mut more: Vec<Conn> = (0..2).map(|_| daemon.unix()).collect();
    more.iter_mut().for_each(Conn::ping);
    drop((crowd, more));
    gate.open();
    // A command that waited has its turn when descriptors are free.
    assert_eq!(text(&record_of(&mut other, &waits)), "waited\n");
    for id in &running {
        record_of(&mut busy, id);
    }
}

/// Whether the last command runs (none), or its refusal; nothing while neither is known.
fn settled(daemon: &Daemon, conn: &mut Conn, id: &Value, others: usize) -> Option<Option<Value>> {
    if daemon.stats()["commands"]["running"] == others + 1 {
        return Some(None);
    }
    let rejected = daemon.stats()["commands"]["rejected"] == 1;
    rejected.then(|| Some(conn.answer(id)))
}
