//! Idle sessions: the reaper closes those that nobody uses.

use crate::support::{DEADLINE, Daemon, Value, json, wait_until};

/// A reaper that looks often, so that a test need not wait.
const OFTEN: (&str, i64) = ("reaper.interval_ms", 50);

fn daemon(more: &[(&str, Value)]) -> Daemon {
    let mut settings = vec![(OFTEN.0, json!(OFTEN.1))];
    settings.extend_from_slice(more);
    Daemon::start(&settings)
}

#[test]
fn an_idle_session_is_closed_by_the_reaper() {
    let daemon = daemon(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"idle_s": 0.3}));
    let other = client.open(json!({}));
    daemon.stats_show("it is closed", |stats| (stats["sessions"]["reaped_idle"] == 1).then_some(()));
    client.refused("exec.run", json!({"session": session, "cmd": "true"}), "SESSION_NOT_FOUND");
    client.ok("session.info", json!({"session": other}));
}

#[test]
fn a_persistent_session_expires_too() {
    let daemon = daemon(&[]);
    daemon.tcp().open(json!({"idle_s": 0.3, "persist": true}));
    daemon.stats_show("it is closed", |stats| {
        (stats["sessions"]["reaped_idle"] == 1 && stats["sessions"]["current"] == 0).then_some(())
    });
}

#[test]
fn a_session_without_idle_s_has_the_configured_one() {
    let daemon = daemon(&[("sessions.max_idle_sec", json!(0.3))]);
    let mut client = daemon.tcp();
    client.open(json!({}));
    daemon.stats_show("it is closed", |stats| (stats["sessions"]["reaped_idle"] == 1).then_some(()));
}

#[test]
fn asking_about_a_session_does_not_keep_it() {
    let daemon = daemon(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"idle_s": 0.3}));
    wait_until("it is closed although it is looked at all the time", DEADLINE, || {
        let answer = client.request("session.info", json!({"session": session}));
        (answer["error"]["data"]["reason"] == "SESSION_NOT_FOUND").then_some(())
    });
}

#[test]
fn a_session_with_a_command_running_is_not_idle() {
    let daemon = daemon(&[]);
    let mut client = daemon.tcp();
    let session = client.open(json!({"idle_s": 0.2}));
    let record = client.run_in(&session, "sleep 1; echo done");
    assert_eq!(record["status"], "exited");
    assert_eq!(record["stdout"], "done\n");
    daemon.stats_show("it is closed afterwards", |stats| (stats["sessions"]["reaped_idle"] == 1).then_some(()));
}

#[test]
fn a_session_that_is_used_stays() {
    let daemon = daemon(&[]);
    let mut client = daemon.tcp();
    let kept = client.open(json!({"idle_s": 3}));
    // Used until another, as old, has long expired.
    client.open(json!({"idle_s": 0.5}));
    let mut control = daemon.unix();
    wait_until("the other one expires", DEADLINE, || {
        assert_eq!(client.run_in(&kept, "true")["status"], "exited");
        (control.ok("system.stats", json!({}))["sessions"]["reaped_idle"] == 1).then_some(())
    });
    client.ok("session.close", json!({"session": kept}));
}

#[test]
fn idle_s_is_bounded_by_the_configuration() {
    let daemon = daemon(&[("sessions.max_idle_sec", json!(100))]);
    let mut client = daemon.tcp();
    client.open(json!({"idle_s": 100}));
    for bad in [json!(100.5), json!(101), json!(0), json!(-1), json!(-5), json!(1e308)] {
        let error = client.refused("session.open", json!({"idle_s": bad}), "INVALID_PARAMS");
        assert_eq!(error["data"]["field"], "idle_s", "{error}");
    }
    assert_eq!(daemon.stats()["sessions"]["opened"], 1);
}
