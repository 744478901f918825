//! inv9: several clients do everything at once, in an order that a seed gives, while limits change under them. Whatever
//! each is told, the books are right in the end.

use std::sync::Arc;

use crate::support::{Conn, Daemon, Launch, Signal, Value, json};
use crate::view::*;

/// xorshift64: the same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize].clone()
    }
}

/// One client at its work.
struct Actor {
    daemon: Arc<Daemon>,
    number: u8,
    conn: Conn,
    sessions: Vec<String>,
    dice: Dice,
}

impl Actor {
    fn new(daemon: &Arc<Daemon>, number: u8, seed: u64) -> Actor {
        let conn = daemon.tcp_as(number);
        Actor { daemon: Arc::clone(daemon), number, conn, sessions: Vec::new(), dice: Dice(seed) }
    }

    fn act(&mut self) {
        match self.dice.below(12) {
            0 | 1 => self.open(),
            2 => self.close(),
            3..=5 => self.run(),
            6 | 7 => self.start(),
            8 => self.leave(),
            9 => self.change_limits(),
            10 => self.daemon.signal(Signal::SIGHUP),
            _ => drop(self.conn.request("limit.show", json!({}))),
        }
    }

    fn open(&mut self) {
        let budgets = [json!({}), json!({"commands": 2}), json!({"wall_s": 0.1}), json!({"output_bytes": 10})];
        let params = json!({"idle_s": self.dice.pick(&[0.05, 5.0]), "budget": self.dice.pick(&budgets)});
        let answer = self.conn.request("session.open", params);
        self.sessions.extend(answer["result"]["session"].as_str().map(str::to_owned));
    }

    fn close(&mut self) {
        if let Some(session) = self.sessions.pop() {
            self.conn.request("session.close", json!({"session": session}));
        }
    }

    fn session(&mut self) -> Value {
        match self.sessions.is_empty() || self.dice.below(2) == 0 {
            true => Value::Null,
            false => json!(self.dice.pick(&self.sessions)),
        }
    }

    fn run(&mut self) {
        let cmd = self.dice.pick(&["true", "sleep 0.03", "head -c 200000 /dev/zero", "exit 3", "sleep 9", "sleep 9 &"]);
        let key = self.dice.pick(&[Value::Null, Value::Null, json!("a"), json!("b")]);
        let queue_ms = self.dice.pick(&[0, 20, 500]);
        let session = self.session();
        let params = json!({"session": session, "cmd": cmd, "key": key, "queue_ms": queue_ms, "timeout_s": 0.1});
        self.conn.request("exec.run", params);
    }

    fn start(&mut self) {
        let session = self.session();
        if session.is_null() {
            return;
        }
        let cmd = self.dice.pick(&["true", "sleep 0.05", "sleep 9", "/no/such/program"]);
        let answer = self.conn.request("exec.start", json!({"session": session, "cmd": cmd, "timeout_s": 0.2}));
        if let Some(exec) = answer["result"]["exec"].as_str() {
            let method = self.dice.pick(&["exec.wait", "exec.kill"]);
            let params = match method {
                "exec.wait" => json!({"exec": exec, "wait_s": 0.05}),
                _ => json!({"exec": exec}),
            };
            self.conn.request(method, params);
        }
    }

    /// Asks for several, waits for none, and is gone.
    fn leave(&mut self) {
        for _ in 0..self.dice.below(4) {
            let ends = self.dice.pick(&["cancel", "finish"]);
            self.conn
                .ask("exec.run", json!({"cmd": "sleep 9", "queue_ms": 300, "on_disconnect": ends, "timeout_s": 0.2}));
        }
        self.conn = self.daemon.tcp_as(self.number);
        self.sessions.clear();
    }

    fn change_limits(&mut self) {
        let (resource, limit) = (self.dice.pick(&["sessions", "commands"]), self.dice.below(6));
        let whom = json!({"client": ip(self.number), "resource": resource, "limit": limit});
        let method = self.dice.pick(&["limit.set", "limit.unset"]);
        let mut params = whom;
        if method == "limit.unset" {
            params.as_object_mut().unwrap().remove("limit");
        }
        self.daemon.unix().ok(method, params);
    }
}

#[test]
fn inv9_everything_at_once_leaves_nothing() {
    let config = json!({"quotas": {"registered": {
        "sessions": 4, "commands": 3, "memory_bytes": -1, "processes": -1, "buffer_bytes": 4 << 20}}});
    let settings = [
        ("commands.max_commands", json!(4)),
        ("commands.kill_grace_ms", json!(20)),
        ("commands.key_window_s", json!(0.1)),
        ("sessions.max_sessions", json!(12)),
        ("reaper.interval_ms", json!(20)),
    ];
    let launch = Launch::new().without("quotas.registered").with_config(&config).set_all(&settings);
    let daemon = Arc::new(launch.start());
    let actors: Vec<_> = (0..6_u8)
        .map(|at| {
            let mut actor = Actor::new(&daemon, 2 + at % 3, 0x9e37_79b9_7f4a_7c15 ^ u64::from(at + 1));
            std::thread::spawn(move || (0..120).for_each(|_| actor.act()))
        })
        .collect();
    for actor in actors {
        actor.join().unwrap();
    }
    for number in 2..=4 {
        wait_unused(&daemon, &ip(number));
    }
    let stats = daemon.stats_show("all of it is over", |stats| {
        let idle = stats["sessions"]["current"] == 0 && stats["commands"]["running"] == 0;
        (idle && stats["output"]["buffered_bytes"] == 0).then(|| stats.clone())
    });
    assert!(stats["commands"]["finished"].as_u64().unwrap() > 10, "{stats}");
}
