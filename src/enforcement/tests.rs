//! Reports for hosts of several kinds; none of them is the one the test runs on.

use super::host::{HardLimits, OwnCgroup};
use super::*;
use crate::config::{CgroupMode, Rate};

/// An ordinary user on a roomy host.
fn user() -> Host {
    Host {
        uid: 1000,
        user: Some("ann".to_owned()),
        capabilities: 0,
        uid_map: vec![(0, u32::MAX)],
        initial_user_namespace: true,
        hard: HardLimits {
            cpu_sec: u64::MAX,
            address_space_bytes: u64::MAX,
            nproc: 7000,
            nofile: 4096,
            fsize_bytes: u64::MAX,
            core_bytes: u64::MAX,
        },
        nr_open: 1 << 20,
        core_pattern_is_pipe: false,
        mem_total_bytes: Some(1 << 30),
        swap_total_bytes: 0,
        cgroup: None,
        children_files: true,
        pidfd: true,
        oom_score_adj: 0,
    }
}

fn root() -> Host {
    Host { uid: 0, user: Some("root".to_owned()), capabilities: u64::MAX, ..user() }
}

fn with(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

fn row(config: &Config, host: &Host, name: &str) -> Row {
    report(config, host).into_iter().find(|row| row.name == name).unwrap()
}

fn note(row: &Row) -> &str {
    row.note.as_deref().unwrap_or_default()
}

fn unbound(config: &Config, host: &Host) -> Vec<&'static str> {
    report(config, host).iter().filter(|row| row.cannot_bind()).map(|row| row.name).collect()
}

#[test]
fn the_defaults_bind_for_root_and_for_an_ordinary_user() {
    assert!(unbound(&Config::default(), &root()).is_empty());
    assert!(unbound(&Config::default(), &user()).is_empty());
}

#[test]
fn every_limit_has_one_row_with_a_known_enforcer() {
    let rows = report(&Config::default(), &user());
    let names: std::collections::BTreeSet<_> = rows.iter().map(|row| row.name).collect();
    assert_eq!(names.len(), rows.len());
    assert_eq!(rows.len(), 26);
    for row in &rows {
        let known = ["rlimit", "watchdog", "timer", "ring", "admission", "cgroup", "kernel", "none"];
        assert!(known.contains(&row.by), "{row:?}");
        assert!(!row.cannot_bind() || row.advice.is_some(), "{row:?}");
    }
}

#[test]
fn nproc_is_per_session_per_user_or_not_at_all() {
    let config = Config::default();
    assert!(note(&row(&config, &root(), "nproc")).contains("session's own uid"));
    assert!(
        note(&row(&config, &user(), "nproc")).contains("the tasks that uid 1000 has when a command starts, plus 64")
    );

    let same = with(|c| c.children.run_as = RunAs::Same);
    let nproc = row(&same, &root(), "nproc");
    assert_eq!((nproc.by, nproc.binds), ("rlimit", false));
    assert!(note(&nproc).contains("root is exempt, so it does not bind here"));
    // Root of a user namespace is somebody else outside, and not exempt.
    let inner = Host { initial_user_namespace: false, uid_map: vec![(0, 65_536)], ..root() };
    assert!(row(&same, &inner, "nproc").binds);

    let job = with(|c| c.children.run_as = RunAs::User("job".to_owned()));
    assert!(note(&row(&job, &root(), "nproc")).contains("all tasks of job count together"));
    let as_root = with(|c| c.children.run_as = RunAs::User("root".to_owned()));
    assert!(!row(&as_root, &root(), "nproc").binds);
    let unlimited = with(|c| (c.limits.limit_nproc, c.children.run_as) = (-1, RunAs::Same));
    assert!(row(&unlimited, &root(), "nproc").binds);
}

#[test]
fn run_as_says_who_can_reach_whom() {
    let config = Config::default();
    assert_eq!(note(&row(&config, &root(), "run_as")), "a uid of its own for each session, 200000 to 204095");
    let own = row(&config, &user(), "run_as");
    assert!(own.binds && note(&own).contains("the daemon's own uid 1000 and can reach it"));

    let pool = with(|c| c.children.run_as = RunAs::Pool);
    assert!(!row(&pool, &user(), "run_as").binds);
    let job = with(|c| c.children.run_as = RunAs::User("job".to_owned()));
    assert!(!row(&job, &user(), "run_as").binds);
    assert!(row(&job, &root(), "run_as").binds);
    // One's own name needs no capability.
    let ann = with(|c| c.children.run_as = RunAs::User("ann".to_owned()));
    assert!(row(&ann, &user(), "run_as").binds);

    let bare = Host { capabilities: 0, ..root() };
    assert!(!row(&config, &bare, "run_as").binds);
    let same = with(|c| c.children.run_as = RunAs::Same);
    let asked = row(&same, &bare, "run_as");
    assert!(asked.binds && note(&asked).contains("which is root"));
    // SETUID and SETGID without KILL.
    let tied = Host { capabilities: 0b1100_0000, ..root() };
    assert!(note(&row(&config, &tied, "run_as")).contains("cannot end a command"));
    let inner = Host { initial_user_namespace: false, uid_map: vec![(0, 1), (1, 65_536)], ..root() };
    let unmapped = row(&config, &inner, "run_as");
    assert!(!unmapped.binds && unmapped.advice.unwrap().ends_with("0 to 0, 1 to 65536"));
}

#[test]
fn a_lower_hard_limit_binds_first_unless_it_can_be_raised() {
    let config = Config::default();
    let mut low = user();
    low.hard =
        HardLimits { cpu_sec: 10, nofile: 100, address_space_bytes: 1 << 30, nproc: 5, fsize_bytes: 0, ..low.hard };
    for name in ["cpu_sec", "nofile", "address_space_bytes", "nproc", "fsize_bytes"] {
        let row = row(&config, &low, name);
        assert!(row.binds && note(&row).contains("the daemon's own hard limit of"), "{row:?}");
        assert!(row.advice.unwrap().contains("CAP_SYS_RESOURCE"));
    }
    assert!(note(&row(&config, &low, "address_space_bytes")).contains("of 1 GiB binds first"));
    let able = Host { capabilities: 1 << 24, ..low.clone() };
    assert!(!note(&row(&config, &able, "cpu_sec")).contains("binds first"));
    // A capability in a user namespace raises nothing.
    let inner = Host { initial_user_namespace: false, ..able };
    assert!(note(&row(&config, &inner, "cpu_sec")).contains("binds first"));

    let unlimited = with(|c| (c.limits.limit_cpu_sec, c.limits.limit_fsize_bytes) = (-1.0, -1));
    let inherited = row(&unlimited, &low, "cpu_sec");
    assert_eq!((inherited.configured.as_str(), inherited.by), ("unlimited", "rlimit"));
    assert!(note(&inherited).contains("inherit the daemon's own hard limit of 10 s"));
    assert_eq!(row(&unlimited, &user(), "cpu_sec").by, "none");
    let many = with(|c| c.limits.limit_nofile = 1 << 21);
    assert!(note(&row(&many, &root(), "nofile")).contains("fs.nr_open, 1048576, binds first"));
}

#[test]
fn cpu_time_is_shown_as_configured() {
    let config = with(|c| c.limits.limit_cpu_sec = 1.5);
    assert_eq!(row(&config, &user(), "cpu_sec").configured, "1.5 s");
    let exact = Host { hard: HardLimits { cpu_sec: 2, ..user().hard }, ..user() };
    assert!(!note(&row(&config, &exact, "cpu_sec")).contains("binds first"));
}

#[test]
fn memory_is_sampled_and_swap_escapes() {
    let config = Config::default();
    let plain = row(&config, &user(), "memory_bytes");
    assert_eq!((plain.by, plain.configured.as_str()), ("watchdog", "256 MiB"));
    assert!(note(&plain).contains("at most 250 ms late"));
    let swapping = Host { swap_total_bytes: 1 << 31, children_files: false, ..user() };
    let swapping = row(&config, &swapping, "memory_bytes");
    assert!(note(&swapping).contains("of 2 GiB of swap") && note(&swapping).contains("all of /proc is walked"));
    assert!(swapping.binds && swapping.advice.unwrap().contains("MemorySwapMax=0"));
    let tiny = Host { mem_total_bytes: Some(128 << 20), ..user() };
    assert!(unbound(&config, &tiny).contains(&"memory_bytes"));
    let unknown = Host { mem_total_bytes: None, ..user() };
    assert!(row(&config, &unknown, "memory_bytes").binds);
    assert_eq!(row(&with(|c| c.limits.limit_memory_bytes = -1), &tiny, "memory_bytes").by, "none");
}

#[test]
fn a_core_pattern_that_is_a_pipe_takes_dumps_of_any_size() {
    let piped = Host { core_pattern_is_pipe: true, ..user() };
    assert!(note(&row(&Config::default(), &piped, "core_bytes")).contains("set to 1 byte"));
    let some = with(|c| c.limits.limit_core_bytes = 1 << 20);
    assert!(!row(&some, &piped, "core_bytes").binds);
    assert!(row(&some, &user(), "core_bytes").binds);
    assert!(row(&with(|c| c.limits.limit_core_bytes = -1), &piped, "core_bytes").binds);
}

#[test]
fn connections_commands_shells_and_jobs_need_descriptors() {
    // 112 of the daemon's own, 256 connections, 16 commands of 7, 64 shells of 17, and 28 jobs more of 2 in each.
    let at = |nofile| Host { hard: HardLimits { nofile, ..user().hard }, ..user() };
    let of = |nofile| row(&Config::default(), &at(nofile), "max_connections");
    assert!(of(5152).binds && note(&of(5152)).ends_with("up to 5152 descriptors, of 5152"), "{:?}", of(5152));
    assert_eq!(of(5152).advice, None);
    for fewer in [5151, 1568] {
        let row = of(fewer);
        assert!(row.binds && note(&row).contains("more than 4 may lose their outputs"), "{row:?}");
        assert!(row.advice.unwrap().contains("LimitNOFILE=5152"));
    }
    let short = of(1567);
    assert!(!short.binds && short.advice.unwrap().contains("1568 are the least"));
    // The daemon raises its limit to the hard one and no further, whatever it may.
    assert!(!row(&Config::default(), &Host { capabilities: 1 << 24, ..at(1567) }, "max_connections").binds);
    assert!(note(&of(u64::MAX)).ends_with("of unlimited"));
    let small = with(|c| (c.connections.max_connections, c.sessions.max_sessions) = (16, 4));
    assert!(row(&small, &at(1024), "max_connections").binds);
    assert_eq!(row(&small, &at(1024), "max_connections_per_client").configured, "64");
}

#[test]
fn an_oom_score_sticks_with_the_capability_alone() {
    let config = Config::default();
    assert!(note(&row(&config, &root(), "oom_score_adj")).contains("cannot go below it"));
    assert!(note(&row(&config, &user(), "oom_score_adj")).contains("may lower it again"));
    let lower = with(|c| c.children.oom_score_adj = -100);
    assert!(!row(&lower, &user(), "oom_score_adj").binds);
    assert!(row(&lower, &root(), "oom_score_adj").binds);
    let exposed = Host { oom_score_adj: 500, ..root() };
    assert!(row(&config, &exposed, "oom_score_adj").advice.unwrap().contains("OOMScoreAdjust=-300"));
}

#[test]
fn an_old_kernel_and_a_small_host_are_told() {
    assert_eq!(unbound(&Config::default(), &Host { pidfd: false, ..user() }), ["timeout_s"]);
    let tiny = Host { mem_total_bytes: Some(32 << 20), ..user() };
    assert_eq!(unbound(&Config::default(), &tiny), ["memory_bytes", "max_buffer_bytes"]);
}

#[test]
fn what_is_not_enforced_yet_is_said_and_does_not_count_as_unbound() {
    let rows = report(&Config::default(), &user());
    let pending: Vec<_> = rows.iter().filter(|row| row.pending).collect();
    assert_eq!(pending.len(), 2);
    assert!(pending.iter().all(|row| row.by == "none" && note(row).starts_with(NOT_YET) && !row.cannot_bind()));
    // Nothing is asked of these by default.
    assert!(row(&Config::default(), &user(), "auth").binds);
    let asked = with(|c| c.auth.token_file = Some("/t".into()));
    let auth = row(&asked, &user(), "auth");
    assert_eq!((auth.configured.as_str(), auth.binds), ("/t", false));
}

#[test]
fn quotas_and_rates_say_what_is_configured() {
    let quotas = row(&Config::default(), &user(), "quotas");
    assert_eq!((quotas.configured.as_str(), quotas.by), ("flat, 5 registered, 0 clients", "admission"));
    let rate = |dry_run| {
        row(&with(|c| c.rate = Rate { rate: Some("5r/s".into()), dry_run, ..c.rate.clone() }), &user(), "rate")
    };
    assert_eq!((rate(false).configured.as_str(), rate(false).by), ("5r/s", "admission"));
    assert!(note(&rate(true)).starts_with("dry_run"));
    assert_eq!(row(&Config::default(), &user(), "rate").by, "none");
}

#[test]
fn quotas_of_addresses_are_no_more_than_a_request_and_that_is_said() {
    let quotas = row(&Config::default(), &user(), "quotas");
    assert!(note(&quotas).contains("no identity") && quotas.binds, "{quotas:?}");
    assert!(quotas.advice.unwrap().contains("unix_socket"));
    let by_uid = row(&with(|c| c.listen = None), &user(), "quotas");
    assert_eq!((by_uid.note, by_uid.advice), (None, None));
}

#[test]
fn the_cgroup_row_says_what_is_delegated() {
    let own = |controllers: &[&str], writable| {
        let controllers = controllers.iter().map(|c| (*c).to_owned()).collect();
        Host { cgroup: Some(OwnCgroup { folder: "/cg/own".into(), controllers, writable }), ..user() }
    };
    let config = Config::default();
    assert!(note(&row(&config, &user(), "cgroup")).contains("no cgroup v2 hierarchy"));
    let closed = row(&config, &own(&["memory"], false), "cgroup");
    assert!(note(&closed).contains("/cg/own has memory; not writable"));
    assert!(closed.advice.unwrap().contains("Delegate=yes"));
    assert!(row(&config, &own(&[], true), "cgroup").advice.unwrap().contains("Delegate=memory pids cpu"));
    assert_eq!(row(&config, &own(&["cpu", "memory", "pids"], true), "cgroup").advice, None);
    assert_eq!(note(&row(&with(|c| c.cgroup.mode = CgroupMode::Off), &user(), "cgroup")), NOT_YET);
    assert!(!row(&with(|c| c.cgroup.mode = CgroupMode::On), &user(), "cgroup").binds);
}

#[test]
fn the_object_of_system_info_is_one_row_a_limit() {
    let same = with(|c| c.children.run_as = RunAs::Same);
    let json: serde_json::Value = serde_json::from_slice(&to_json(&report(&same, &root()))).unwrap();
    assert_eq!(json["nproc"]["by"], "rlimit");
    assert_eq!(json["nproc"]["binds"], false);
    assert_eq!(json["max_sessions"], serde_json::json!({"by": "admission", "note": null}));
    assert_eq!(json["rate"], serde_json::json!({"by": "none", "note": "requests come as they come"}));
    assert_eq!(to_json(&[]), b"{}");
}

#[test]
fn sizes_are_whole_in_their_unit() {
    for (n, text) in [(0, "0 B"), (1, "1 B"), (1024, "1 KiB"), (1536, "1536 B"), (4 << 30, "4 GiB"), (3 << 40, "3 TiB")]
    {
        assert_eq!(bytes(n), text);
    }
}
