//! Fifty shell sessions at once: no byte is lost, none stands in another's output.

use crate::support::{Daemon, Value, json};

const SESSIONS: usize = 50;
const ROUNDS: usize = 20;

#[test]
fn fifty_sessions_never_lose_or_mix_a_byte() {
    let daemon = Daemon::start(&[
        ("sessions.max_sessions", json!(64)),
        ("commands.max_commands", json!(64)),
        (
            "quotas.registered",
            json!({"sessions": -1, "commands": -1, "memory_bytes": -1, "processes": -1, "buffer_bytes": -1}),
        ),
    ]);
    let mut client = daemon.tcp();
    let shells = crate::shells();
    let sessions: Vec<String> =
        (0..SESSIONS).map(|at| client.open(json!({"shell": shells[at % shells.len()]}))).collect();
    for (at, session) in sessions.iter().enumerate() {
        crate::says(&mut client, session, &format!("me=session-{at}; n=0"));
    }
    for round in 1..=ROUNDS {
        let bytes = 1 + (round * 7919) % 30_000;
        let cmd = format!(
            "n=$((n+1)); printf '%s:%s:' $me $n; head -c {bytes} /dev/zero | tr '\\0' x; printf ':%s' $me; echo $me >&2"
        );
        let asked: Vec<Value> =
            sessions.iter().map(|session| client.ask("exec.run", json!({"session": session, "cmd": cmd}))).collect();
        for (at, asked) in asked.iter().enumerate() {
            let record = client.answer(asked)["result"].clone();
            let expected = format!("session-{at}:{round}:{}:session-{at}", "x".repeat(bytes));
            assert!(record["stdout"] == json!(expected), "round {round} of session {at}: {record}");
            assert_eq!(record["stderr"], format!("session-{at}\n"));
        }
    }
}
