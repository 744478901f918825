//! What the tests of admission look at: usage, refusals, and an order in which things happened.

use std::fs;

use crate::exec_support::Shared;
use crate::support::{Conn, DEADLINE, Daemon, Gate, Value, json, procs, wait_until};

/// The resources that a quota can be set for, sorted.
pub const RESOURCES: [&str; 5] = ["buffer_bytes", "commands", "memory_bytes", "processes", "sessions"];

/// `quotas.registered` with these limits and no other.
pub fn registered(limits: Value) -> (&'static str, Value) {
    let mut all = json!({"sessions": -1, "commands": -1, "memory_bytes": -1, "processes": -1, "buffer_bytes": -1});
    all.as_object_mut().unwrap().extend(limits.as_object().unwrap().clone());
    ("quotas.registered", all)
}

/// The client that connects from 127.0.0.`number`.
pub fn ip(number: u8) -> String {
    format!("ip:127.0.0.{number}")
}

/// The client that connects over the Unix socket.
pub fn own_uid() -> String {
    format!("uid:{}", nix::unistd::geteuid())
}

/// `{"limit":…,"usage":…,"source":…}` of one resource of a client, as an admin sees it.
#[track_caller]
pub fn row(admin: &mut Conn, client: &str, resource: &str) -> Value {
    let shown = admin.ok("limit.show", json!({"client": client}));
    assert_eq!(shown["client"], client, "{shown}");
    let row = shown["limits"][resource].clone();
    assert!(row.is_object(), "{resource}: {shown}");
    row
}

#[track_caller]
pub fn usage(admin: &mut Conn, client: &str, resource: &str) -> i64 {
    let row = row(admin, client, resource);
    row["usage"].as_i64().unwrap_or_else(|| panic!("usage is a whole number: {row}"))
}

#[track_caller]
pub fn limit(admin: &mut Conn, client: &str, resource: &str) -> i64 {
    let row = row(admin, client, resource);
    row["limit"].as_i64().unwrap_or_else(|| panic!("limit is a whole number: {row}"))
}

/// inv9: waits until a client has nothing of anything any more.
#[track_caller]
pub fn wait_unused(daemon: &Daemon, client: &str) {
    let mut admin = daemon.unix();
    wait_until(&format!("the usage of {client} is zero again"), DEADLINE, || {
        let shown = admin.ok("limit.show", json!({"client": client}));
        RESOURCES.iter().all(|resource| shown["limits"][resource]["usage"] == 0).then_some(())
    });
}

/// What a refusal must not change.
#[derive(Debug, PartialEq)]
struct Holdings {
    usage: Value,
    sessions: (Value, Value),
    commands: (Value, Value),
    processes: Vec<i32>,
}

impl Holdings {
    #[track_caller]
    fn of(daemon: &Daemon, client: &str) -> Holdings {
        let stats = daemon.stats();
        let mut usage = daemon.unix().ok("limit.show", json!({"client": client}))["limits"].take();
        for resource in RESOURCES {
            usage[resource] = usage[resource]["usage"].take();
        }
        Holdings {
            usage,
            sessions: (stats["sessions"]["current"].clone(), stats["sessions"]["opened"].clone()),
            commands: (stats["commands"]["running"].clone(), stats["commands"]["started"].clone()),
            processes: procs::children(daemon.runtime_pid).iter().map(|process| process.pid).collect(),
        }
    }
}

/// Does what must be refused, and expects the daemon to hold afterwards what it held before: no claim, no session, no
/// process more.
#[track_caller]
pub fn changes_nothing<T>(daemon: &Daemon, client: &str, refused: impl FnOnce() -> T) -> T {
    let before = Holdings::of(daemon, client);
    let told = refused();
    assert_eq!(Holdings::of(daemon, client), before);
    told
}

/// One line of `over`: resource, limit, usage, delta.
pub type Over<'r> = (&'r str, i64, i64, i64);

/// An OVER_LIMIT tells exactly this.
#[track_caller]
pub fn expect_over(error: &Value, client: &str, over: &[Over], retryable: bool) {
    let rows: Vec<Value> = over
        .iter()
        .map(|(resource, limit, usage, delta)| {
            json!({"resource": resource, "limit": limit, "usage": usage, "delta": delta})
        })
        .collect();
    assert_eq!(error["code"], -32021, "{error}");
    let expected = json!({"reason": "OVER_LIMIT", "retryable": retryable, "client": client, "over": rows});
    assert_eq!(error["data"], expected, "{error}");
}

/// A CAPACITY tells exactly this; when to come back may stand beside it.
#[track_caller]
pub fn expect_capacity(error: &Value, resource: &str, limit: i64, usage: i64) {
    assert_eq!(error["code"], -32020, "{error}");
    let mut data = error["data"].clone();
    // Of buffer_bytes also what was asked for: the caller's to compare.
    data.as_object_mut().unwrap().remove("delta");
    if let Some(ms) = data.as_object_mut().unwrap().remove("retry_after_ms") {
        assert!(ms.as_u64().is_some_and(|ms| ms > 0), "{error}");
    }
    let expected =
        json!({"reason": "CAPACITY", "retryable": true, "resource": resource, "limit": limit, "usage": usage});
    assert_eq!(data, expected, "{error}");
}

/// INVALID_PARAMS that names the field.
#[track_caller]
pub fn expect_bad(conn: &mut Conn, method: &str, params: Value, field: &str) {
    let shown = format!("{method} {:.400}", params.to_string());
    let error = conn.refused(method, params, "INVALID_PARAMS");
    assert_eq!(error["data"]["field"], field, "{shown}: {error}");
}

/// Shell text for a command that does nothing but stand there, in one process, until it is ended.
pub const STANDING: &str = "exec sleep 1000";

/// Has a command stand there, started: the id of its request.
#[track_caller]
pub fn stand(daemon: &Daemon, conn: &mut Conn, params: Value) -> Value {
    start(daemon, conn, STANDING, params)
}

/// Has a command run until the gate opens, started: the id of its request.
#[track_caller]
pub fn hold(daemon: &Daemon, conn: &mut Conn, gate: &Gate, params: Value) -> Value {
    start(daemon, conn, &gate.wait(), params)
}

#[track_caller]
fn start(daemon: &Daemon, conn: &mut Conn, cmd: &str, mut params: Value) -> Value {
    let running = daemon.stats()["commands"]["running"].as_u64().unwrap();
    params["cmd"] = json!(cmd);
    let id = conn.ask("exec.run", params);
    daemon.wait_running(running + 1);
    id
}

/// Sends a command that has to wait for its turn, and waits until it has been seen: the id of its request.
#[track_caller]
pub fn enqueue(conn: &mut Conn, params: Value) -> Value {
    let id = conn.ask("exec.run", params);
    // Requests of one connection are decided in the order in which they come.
    conn.ping();
    id
}

/// Waits until the log, which is written by a thread of its own, tells this.
#[track_caller]
pub fn wait_log(daemon: &Daemon, text: &str) {
    wait_until(&format!("the log tells {text:?}"), DEADLINE, || daemon.log().contains(text).then_some(()));
}

/// Waits until the daemon has seen all connections go but so many of the test's own.
#[track_caller]
pub fn wait_connections(daemon: &Daemon, count: u64) {
    daemon.stats_show(&format!("{count} connections and this one are left"), |stats| {
        (stats["connections"]["current"] == count + 1).then_some(())
    });
}

/// A file to which commands of all sessions append, so that it tells which ran, how often, and in what order.
pub struct Log(Shared);

impl Log {
    pub fn new() -> Log {
        let shared = Shared::new();
        shared.file("log", "", 0o666);
        Log(shared)
    }

    /// Shell text that appends one word.
    pub fn say(&self, word: &str) -> String {
        format!("echo {word} >>{}", self.0.text("log"))
    }

    /// The words so far.
    pub fn words(&self) -> Vec<String> {
        let text = fs::read_to_string(self.0.path("log")).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// The record that an answer must hold.
#[track_caller]
pub fn record(answer: Value) -> Value {
    assert!(answer["result"]["status"].is_string(), "a record was expected: {answer}");
    answer["result"].clone()
}

/// The answer to `id` is a record of a command that left with code 0.
#[track_caller]
pub fn expect_done(conn: &mut Conn, id: &Value) -> Value {
    let record = record(conn.answer(id));
    assert_eq!((&record["status"], &record["exit_code"]), (&json!("exited"), &json!(0)), "{record}");
    record
}

/// The answer to `id` is an error of this reason: the error.
#[track_caller]
pub fn expect_refusal(conn: &mut Conn, id: &Value, reason: &str) -> Value {
    let answer = conn.answer(id);
    assert_eq!(answer["error"]["data"]["reason"], reason, "{answer}");
    answer["error"].clone()
}

/// Longer than any test runs.
pub const LONG_MS: i64 = 600_000;

/// A daemon with one slot.
pub fn one_slot(more: &[(&str, Value)]) -> Daemon {
    let mut settings = vec![("commands.max_commands", json!(1))];
    settings.extend_from_slice(more);
    Daemon::start(&settings)
}

/// What a command that waits for its turn asks for.
pub fn waiting(cmd: &str) -> Value {
    json!({"cmd": cmd, "queue_ms": LONG_MS})
}

/// The same, in a session.
pub fn waiting_in(session: &str, cmd: &str) -> Value {
    json!({"session": session, "cmd": cmd, "queue_ms": LONG_MS})
}

/// Has so many commands of a client wait, each of which says its name and number.
#[track_caller]
pub fn line_up(client: &mut Conn, log: &Log, name: &str, count: usize) -> Vec<Value> {
    (0..count).map(|number| enqueue(client, waiting(&log.say(&format!("{name}{number}"))))).collect()
}
