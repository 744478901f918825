//! The limits of a session: a request may lower a ceiling, never raise it.

use crate::support::{Daemon, json};

#[test]
fn inv13_a_session_may_lower_the_configured_limits_and_its_commands_obey() {
    let daemon = Daemon::start(&[("limits.limit_nofile", json!(100))]);
    let mut client = daemon.tcp();
    let opened = client.ok("session.open", json!({"limits": {"nofile": 50, "fsize_bytes": 512_000, "cpu_sec": 9}}));
    assert_eq!(opened["limits"]["nofile"], 50);
    assert_eq!(opened["limits"]["fsize_bytes"], 512_000);
    let session = opened["session"].as_str().unwrap();
    let record = client.run_in(session, "ulimit -Sn; ulimit -Hn; ulimit -Sf; ulimit -St");
    assert_eq!(record["stdout"], "50\n50\n1000\n9\n");
    // Another session has the configured ones.
    assert_eq!(client.run("ulimit -Sn")["stdout"], "100\n");
}

#[test]
fn inv13_a_command_may_lower_the_limits_of_its_session_for_itself_alone() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"limits": {"nofile": 50}}));
    let lower = json!({"session": session, "cmd": "ulimit -n", "limits": {"nofile": 20}});
    assert_eq!(client.ok("exec.run", lower)["stdout"], "20\n");
    assert_eq!(client.run_in(&session, "ulimit -n")["stdout"], "50\n");
}

#[test]
fn inv13_no_request_raises_a_limit() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let names = ["cpu_sec", "memory_bytes", "address_space_bytes", "nproc", "nofile", "fsize_bytes"];
    let opened = client.ok("session.open", json!({}));
    let session = opened["session"].as_str().unwrap();
    for name in names {
        let limit = opened["limits"][name].as_f64().unwrap() as i64;
        // The same is not more.
        client.open(json!({"limits": {name: limit}}));
        for more in [limit + 1, i64::MAX, -1] {
            let limits = json!({name: more});
            let refusals = [
                client.refused("session.open", json!({"limits": limits}), "INVALID_PARAMS"),
                client.refused("exec.run", json!({"cmd": "true", "limits": limits}), "INVALID_PARAMS"),
                client.refused(
                    "exec.run",
                    json!({"session": session, "cmd": "true", "limits": limits}),
                    "INVALID_PARAMS",
                ),
            ];
            for error in refusals {
                assert!(error["message"].as_str().unwrap().contains(name), "{error}");
            }
        }
    }
    client.refused("session.open", json!({"limits": {"core_bytes": 1 << 20}}), "INVALID_PARAMS");
}

#[test]
fn a_command_may_not_pass_the_limit_that_its_session_lowered() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"limits": {"nofile": 50}}));
    let higher = json!({"session": session, "cmd": "true", "limits": {"nofile": 51}});
    client.refused("exec.run", higher, "INVALID_PARAMS");
}

#[test]
fn limits_have_floors() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.tcp();
    let mib = 1 << 20;
    let floors = [("memory_bytes", mib), ("address_space_bytes", mib), ("nofile", 4), ("cpu_sec", 1)];
    for (name, floor) in floors {
        client.open(json!({"limits": {name: floor}}));
        client.refused("session.open", json!({"limits": {name: floor - 1}}), "INVALID_PARAMS");
        client.refused("exec.run", json!({"cmd": "true", "limits": {name: floor - 1}}), "INVALID_PARAMS");
    }
    client.refused("exec.run", json!({"cmd": "true", "limits": {"cpu_sec": 0.5}}), "INVALID_PARAMS");
}

#[test]
fn where_the_configuration_has_no_limit_a_session_may_set_one_or_none() {
    let daemon = Daemon::start(&[("limits.limit_nofile", json!(200)), ("limits.limit_fsize_bytes", json!(-1))]);
    let mut client = daemon.tcp();
    assert_eq!(client.run("ulimit -f")["stdout"], "unlimited\n");
    let opened = client.ok("session.open", json!({"limits": {"fsize_bytes": -1}}));
    assert_eq!(opened["limits"]["fsize_bytes"], -1);
    let opened = client.ok("session.open", json!({"limits": {"fsize_bytes": 1024}}));
    assert_eq!(opened["limits"]["fsize_bytes"], 1024);
}
