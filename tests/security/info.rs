//! `system.info` tells a client its own business: no name of another client, and no quota of it.

use crate::support::*;

const ENTRIES: [&str; 4] = ["ip:127.0.0.1", "group:ours", "uid:4040404", "secret-tenant"];

fn config(sessions: u64) -> Value {
    json!({"quotas": {
        "model": "strict_two_level",
        "clients": {
            "group:ours": {"sessions": 1000, "commands": 500},
            "ip:127.0.0.1": {"parent": "group:ours", "sessions": sessions},
            "secret-tenant": {"sessions": 777},
            "uid:4040404": {"parent": "secret-tenant", "sessions": 776},
        },
    }})
}

/// Names of clients that stand anywhere in what one is told.
fn named(info: &Value) -> Vec<&'static str> {
    let text = info.to_string();
    ENTRIES.into_iter().filter(|name| text.contains(name)).collect()
}

/// Has a daemon read another configuration, the first since its start: what an admin is told then.
#[track_caller]
fn reload(daemon: &Daemon, config: &Value) -> Value {
    std::fs::write(daemon.launch.config(), config.to_string()).unwrap();
    daemon.signal(Signal::SIGHUP);
    let mut admin = daemon.unix();
    wait_until("it has read it", DEADLINE, || {
        Some(admin.ok("system.info", json!({}))).filter(|info| !info["reload"].is_null())
    })
}

#[test]
fn a_client_is_told_its_own_quotas_and_those_of_its_parent() {
    let daemon = Launch::new().without("quotas.registered").with_config(&config(9)).start();
    // Control: there is something to tell, and an admin is told it.
    let all = daemon.unix().ok("system.info", json!({}));
    assert_eq!(named(&all).len(), ENTRIES.len(), "{all}");

    let own = daemon.tcp().ok("system.info", json!({}));
    assert_eq!(named(&own), ["ip:127.0.0.1", "group:ours"], "{own}");
    let quotas = &own["limits"]["quotas"];
    assert_eq!(quotas["clients"]["ip:127.0.0.1"], json!({"parent": "group:ours", "sessions": 9}));
    assert_eq!(quotas["clients"]["group:ours"], json!({"sessions": 1000, "commands": 500}));
    let stranger = daemon.tcp_as(9).ok("system.info", json!({}));
    assert_eq!(named(&stranger), Vec::<&str>::new(), "{stranger}");
    for key in ["model", "registered"] {
        assert_eq!(stranger["limits"]["quotas"][key], all["limits"]["quotas"][key]);
    }
    // All else is the same for all.
    let rest = |mut info: Value| {
        info["uptime_ms"].take();
        info["limits"]["quotas"].take();
        info
    };
    assert_eq!(rest(stranger), rest(all.clone()));
    assert_eq!(rest(own), rest(all));

    reload(&daemon, &config(5));
    let own = daemon.tcp().ok("system.info", json!({}));
    assert_eq!(own["limits"]["quotas"]["clients"]["ip:127.0.0.1"]["sessions"], 5);
    assert_eq!(named(&own), ["ip:127.0.0.1", "group:ours"], "{own}");
}

#[test]
fn what_is_wrong_with_the_quotas_of_another_is_told_to_admins() {
    let daemon = Launch::new().without("quotas.registered").with_config(&config(9)).start();
    let mut wrong = config(9);
    wrong["quotas"]["clients"]["secret-tenant"]["sessions"] = json!("many");
    wrong["commands"] = json!({"max_commands": 0});
    let all = reload(&daemon, &wrong);
    assert_eq!(all["reload"]["ok"], false);
    let error = |info: &Value| info["reload"]["error"].as_str().unwrap().to_owned();
    assert!(error(&all).contains("secret-tenant") && error(&all).contains("max_commands"), "{all}");
    let own = daemon.tcp().ok("system.info", json!({}));
    assert_eq!(own["reload"]["ok"], false);
    assert!(!error(&own).contains("secret-tenant") && error(&own).contains("max_commands"), "{own}");
}
