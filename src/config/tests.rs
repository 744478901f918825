//! The configuration as a whole: the file, `--set` and flags in, a [`Config`] or all its errors out.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::source::FILE_NAME;
use super::*;

/// A folder of its own, gone at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("cofferdam-config-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn with(text: &str) -> Self {
        let folder = Self::new();
        std::fs::write(folder.0.join(FILE_NAME), text).unwrap();
        folder
    }

    fn load(&self, sets: &[&str]) -> Result<Config, ConfigErrors> {
        let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
        Config::load_in(&self.0, None, &sets, None, None)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// What is told about these `--set` over the defaults; empty if nothing.
fn told(sets: &[&str]) -> String {
    Folder::new().load(sets).err().map(|e| e.to_string()).unwrap_or_default()
}

fn set(set: &str) -> Config {
    Folder::new().load(&[set]).unwrap()
}

fn json<T: Serialize>(value: T) -> String {
    serde_json::to_string(&value).unwrap()
}

#[test]
fn values_are_dumped_as_the_file_writes_them() {
    assert_eq!(json(Mode(0o600)), r#""0600""#);
    assert_eq!(json(Mode(0o077)), r#""077""#);
    assert_eq!(json([Delay::All, Delay::After(3), Delay::None]), r#"[null,3,"nodelay"]"#);
    assert_eq!(json([RunAs::Auto, RunAs::User("job".into())]), r#"["auto","job"]"#);
    assert_eq!(json(QuotaModel::StrictTwoLevel), r#""strict_two_level""#);
    assert_eq!(json(Shutdown { drain_s: 10.0 }), r#"{"drain_s":10}"#);
    assert_eq!(json(Shutdown { drain_s: 0.25 }), r#"{"drain_s":0.25}"#);
    assert!(json(set("limits.limit_cpu_sec=-1").limits).starts_with(r#"{"limit_cpu_sec":-1,"#));
}

#[test]
fn the_defaults_are_valid() {
    assert_eq!(Folder::new().load(&[]).unwrap(), Config::default());
    assert_eq!(Folder::with("{}").load(&[]).unwrap(), Config::default());
}

#[test]
fn the_file_of_the_repository_holds_every_key_with_its_default() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(FILE_NAME);
    assert_eq!(Config::load(Some(&path), &[], None, None).unwrap(), Config::default());
    let file: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(file, serde_json::to_value(Config::default()).unwrap());
}

#[test]
fn every_group_is_known_to_the_source() {
    let dumped = serde_json::to_value(Config::default()).unwrap();
    let groups: Vec<_> = dumped.as_object().unwrap().iter().filter(|(_, v)| v.is_object()).map(|(k, _)| k).collect();
    assert_eq!(groups.len(), source::GROUPS.len());
    assert!(groups.iter().all(|group| source::GROUPS.contains(&group.as_str())));
}

#[test]
fn what_is_dumped_can_be_read_again() {
    let sets = [
        "rate.rate=\"300r/m\"",
        "rate.delay=3",
        "children.run_as=\"nobody\"",
        "children.umask=\"027\"",
        "commands.drain_ms=0",
        "limits.limit_nproc=-1",
        "shutdown.drain_s=0.5",
        "quotas.model=\"strict-two-level\"",
        r#"quotas.clients={"a":{"sessions":4},"b":{"parent":"a","sessions":4}}"#,
        "cgroup.cpu_quota=1.5",
        "listen=null",
        "unix_socket=\"/run/c.sock\"",
    ];
    let config = Folder::new().load(&sets).unwrap();
    assert_eq!(Folder::with(&json(&config)).load(&[]).unwrap(), config);
}

#[test]
fn a_partial_file_is_laid_under_sets_and_flags() {
    let folder = Folder::with(r#"{"listen":"127.0.0.1:1","rate":{"burst":3},"memory":null}"#);
    let config = folder.load(&["rate.max_keys=7", "listen=\"[::1]:2\""]).unwrap();
    assert_eq!((config.rate.burst, config.rate.max_keys), (3, 7));
    assert_eq!(config.listen.as_deref(), Some("[::1]:2"));
    assert_eq!(config.memory, Config::default().memory);

    let socket = Path::new("s");
    let config = Config::load_in(&folder.0, None, &[], Some("localhost:0"), Some(socket)).unwrap();
    assert_eq!(config.listen.as_deref(), Some("localhost:0"));
    assert_eq!(config.unix_socket, Some(folder.0.join("s")));
}

#[test]
fn a_file_that_is_named_must_be_there_and_a_link_to_nowhere_is_told() {
    let folder = Folder::new();
    let told = Config::load_in(&folder.0, Some(Path::new("none.json")), &[], None, None).unwrap_err().to_string();
    assert!(told.starts_with("none.json: cannot be opened: No such file"), "{told}");

    std::os::unix::fs::symlink("nowhere", folder.0.join(FILE_NAME)).unwrap();
    let told = folder.load(&[]).unwrap_err().to_string();
    assert!(told.starts_with("config.json: cannot be opened: No such file"), "{told}");
}

#[test]
fn a_path_is_relative_to_the_files_folder_or_to_the_working_directory() {
    let folder = Folder::new();
    std::fs::create_dir(folder.0.join("etc")).unwrap();
    let text = r#"{"state_dir":"state","unix_socket":"/run/c.sock","auth":{"token_file":"../tokens"}}"#;
    std::fs::write(folder.0.join("etc/c.json"), text).unwrap();
    let sets = ["children.workspaces=\"w\"".to_owned()];
    let config = Config::load_in(&folder.0, Some(Path::new("etc/c.json")), &sets, None, None).unwrap();
    assert_eq!(config.state_dir, Some(folder.0.join("etc/state")));
    assert_eq!(config.auth.token_file, Some(folder.0.join("etc/../tokens")));
    assert_eq!(config.unix_socket, Some("/run/c.sock".into()));
    assert_eq!(config.children.workspaces, Some(folder.0.join("w")));
}

#[test]
fn everything_wrong_is_told_at_once() {
    let folder = Folder::with(
        r#"{"listen": 7643, "lisden": 1, "rate": {"burst": -1, "burst": 2}, "sessions": {"max_session": 1}}"#,
    );
    let errors = folder.load(&["commands.max_commands=0", "nothing", "stats.interval_ms=\"1s\""]).unwrap_err();
    let lines: Vec<String> = errors.to_string().lines().map(str::to_owned).collect();
    let starts = [
        "config.json: rate.burst: 2 stands twice",
        "--set nothing has no value",
        "config.json: listen: 7643 is of the wrong type; accepted: null, or IP:PORT",
        "--set commands.max_commands: 0 is out of range; accepted: an integer from 1 to 100000",
        "config.json: rate.burst: -1 is out of range; accepted: an integer from 0 to 1000000",
        "--set stats.interval_ms: \"1s\" is of the wrong type",
        "config.json: lisden: unknown key (meant listen?); accepted: ",
        "config.json: sessions.max_session: unknown key (meant max_sessions?); accepted: max_history, ",
    ];
    assert_eq!(lines.len(), starts.len(), "{lines:#?}");
    for (line, start) in lines.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}\nis not\n{start}");
    }
}

#[test]
fn a_listener_is_on_the_loopback() {
    for good in ["127.0.0.1:7643", "127.9.9.9:0", "[::1]:65535", "localhost:0", "[::ffff:127.0.0.1]:1"] {
        assert_eq!(set(&format!("listen={good:?}")).listen.as_deref(), Some(good));
    }
    for open in ["0.0.0.0:1", "[::]:1", "192.168.0.1:1", "8.8.8.8:53", "[fe80::1]:1", "[::ffff:10.0.0.1]:1"] {
        let told = told(&[&format!("listen={open:?}")]);
        assert!(
            told.starts_with(&format!("--set listen: {open:?} is not loopback, which is refused without")),
            "{told}"
        );
    }
    for bad in ["", "7643", ":7643", "127.0.0.1", "localhost", "localhost:65536", "localhost:+1", "example.com:80"] {
        let told = told(&[&format!("listen={bad:?}")]);
        assert!(told.contains("is not an address; accepted: null, or IP:PORT"), "{told}");
    }
    let told = Config::load_in(&Folder::new().0, None, &[], Some("0.0.0.0:1"), None).unwrap_err().to_string();
    assert!(told.starts_with("--listen: \"0.0.0.0:1\" is not loopback"), "{told}");
}

#[test]
fn there_is_a_listener_and_a_socket_path_fits() {
    assert!(told(&["listen=null"]).starts_with("--set listen: null leaves no listener"));
    assert_eq!(told(&["listen=null", "unix_socket=\"/run/c\""]), "");
    assert_eq!(told(&[&format!("unix_socket=\"/{}\"", "x".repeat(106))]), "");
    let told = told(&[&format!("unix_socket=\"/{}\"", "x".repeat(107))]);
    assert!(told.ends_with("is too long for a socket; accepted: an absolute path of at most 107 bytes"), "{told}");
}

#[test]
fn a_default_gives_way_downwards_to_what_is_written() {
    assert_eq!(set("commands.max_timeout_s=5").commands.default_timeout_s, 5.0);
    assert_eq!(set("connections.max_connections=4").connections.reserved_connections, 2);
    assert_eq!(set("connections.max_connections=1").connections.reserved_connections, 0);
    let few = ["connections.write_buffer_hard_bytes=4096", "commands.max_output_bytes=1024"];
    assert_eq!(Folder::new().load(&few).unwrap().connections.write_buffer_soft_bytes, 4096);
}

#[test]
fn keys_that_do_not_agree_are_told_where_they_stand() {
    let cases: [(&[&str], &str); 8] = [
        (
            &["commands.default_timeout_s=11", "commands.max_timeout_s=10"],
            "commands.default_timeout_s: 11 is over commands.max_timeout_s; accepted: at most 10",
        ),
        (
            &["connections.write_buffer_hard_bytes=12582911"],
            "connections.write_buffer_hard_bytes: 12582911 is less than three times commands.max_output_bytes",
        ),
        (
            &["commands.max_output_bytes=5592406"],
            "connections.write_buffer_hard_bytes: 16777216 (the default) is less than three times",
        ),
        (
            &["connections.write_buffer_soft_bytes=16777217"],
            "connections.write_buffer_soft_bytes: 16777217 is over connections.write_buffer_hard_bytes",
        ),
        (
            &["connections.max_connections=4", "connections.reserved_connections=4"],
            "connections.reserved_connections: 4 leaves nothing of connections.max_connections; accepted: less than 4",
        ),
        (&["children.uid_count=63"], "children.uid_count: 63 is less than sessions.max_sessions"),
        (&["sessions.max_sessions=4097"], "children.uid_count: 4096 (the default) is less than sessions.max_sessions"),
        (&["children.uid_base=4294967294"], "children.uid_base: 4294967294 leads the pool"),
    ];
    for (sets, expected) in cases {
        let told = told(sets);
        assert!(told.starts_with(&format!("--set {expected}")), "{told}\nis not\n{expected}");
        assert_eq!(told.lines().count(), 1);
    }
    assert_eq!(told(&["commands.max_output_bytes=5592405"]), "");
    assert_eq!(told(&["connections.max_connections=4", "connections.reserved_connections=3"]), "");
    assert_eq!(told(&["children.uid_count=64"]), "");
    // A key that was refused is not told a second time for what its default would break.
    assert_eq!(told(&["commands.max_output_bytes=0"]).lines().count(), 1);
}

#[test]
fn limits_have_floors_and_zero_is_never_unlimited() {
    for (key, floor) in [
        ("limit_cpu_sec", 1),
        ("limit_memory_bytes", 1 << 20),
        ("limit_address_space_bytes", 1 << 20),
        ("limit_nproc", 1),
        ("limit_nofile", 4),
        ("limit_fsize_bytes", 1),
        ("limit_core_bytes", 0),
    ] {
        assert_eq!(told(&[&format!("limits.{key}={floor}")]), "");
        assert_eq!(told(&[&format!("limits.{key}=-1")]), "");
        let below = if floor == 0 { -2 } else { floor - 1 };
        assert!(told(&[&format!("limits.{key}={below}")]).contains("is out of range; accepted: -1 (unlimited) or"));
    }
    for key in ["sessions.max_sessions", "commands.max_commands", "connections.max_batch", "commands.max_timeout_s"] {
        assert!(told(&[&format!("{key}=0")]).contains(" 0 is out of range"), "{key}");
    }
    for key in ["commands.kill_grace_ms", "commands.max_queued", "shutdown.drain_s", "sessions.threads", "rate.burst"] {
        assert_eq!(told(&[&format!("{key}=0")]), "", "{key}");
    }
}

#[test]
fn a_rate_is_written_as_in_nginx() {
    assert_eq!(set("rate.rate=\"5r/s\"").rate.rate.as_deref(), Some("5r/s"));
    assert_eq!(set("rate.rate=\"300r/m\"").rate.rate.as_deref(), Some("300r/m"));
    assert_eq!(set("rate.rate=null").rate.rate, None);
    for bad in ["0r/s", "0.5r/s", "-1r/s", "+1r/s", "1r/h", "r/s", "5", "1000001r/s", "5 r/s"] {
        let told = told(&[&format!("rate.rate={bad:?}")]);
        assert!(told.contains("accepted: null, or requests a second or minute"), "{bad}: {told}");
    }
    assert!(told(&["rate.rate=5"]).contains("wrong type"));
    assert_eq!(set("rate.delay=\"nodelay\"").rate.delay, Delay::None);
    assert_eq!(set("rate.delay=0").rate.delay, Delay::After(0));
    assert_eq!(set("rate.delay=null").rate.delay, Delay::All);
    for bad in ["-1", "1.5", "\"delay\"", "true", "1000001"] {
        assert!(told(&[&format!("rate.delay={bad}")]).contains("accepted: null (every excess"), "{bad}");
    }
    assert!(told(&["rate.max_keys=1000001"]).contains("from 1 to 1000000"));
}

#[test]
fn registered_quotas_replace_the_default_whole() {
    let registered = set(r#"quotas.registered={"sessions":0}"#).quotas.registered;
    assert_eq!(registered, BTreeMap::from([("sessions".to_owned(), 0)]));
    assert!(set("quotas.registered={}").quotas.registered.is_empty());
    let told = told(&[r#"quotas.registered={"session":1,"commands":-2,"processes":"x","commands":1}"#]);
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), 4, "{told}");
    assert!(lines[0].starts_with("--set quotas.registered.commands: 1 stands twice"));
    assert!(
        lines[1].starts_with("--set quotas.registered.session: unknown key (meant sessions?); accepted: sessions,")
    );
    assert!(lines[2].starts_with("--set quotas.registered.commands: -2 is out of range; accepted: -1 (unlimited) or"));
    assert!(lines[3].starts_with("--set quotas.registered.processes: \"x\" is of the wrong type"));
}

#[test]
fn quotas_of_clients_are_two_levels_and_a_child_stays_within_its_parent() {
    let tree = |clients: &str| told(&["quotas.model=\"strict_two_level\"", &format!("quotas.clients={clients}")]);
    assert_eq!(tree(r#"{"a":{"sessions":9},"b":{"parent":"a","sessions":9},"c":{"parent":null}}"#), "");
    // Under an unlimited parent everything fits; the registered limit stands for a parent's that is not set.
    assert_eq!(tree(r#"{"a":{"sessions":-1},"b":{"parent":"a","sessions":-1}}"#), "");
    assert_eq!(tree(r#"{"a":{},"b":{"parent":"a","processes":5,"sessions":8}}"#), "");
    for (clients, expected) in [
        (
            r#"{"a":{},"b":{"parent":"a","sessions":9}}"#,
            "b.sessions: 9 is over its parent's limit; accepted: at most 8",
        ),
        (r#"{"a":{"sessions":0},"b":{"parent":"a","sessions":5}}"#, "b.sessions: 5 is over its parent's limit"),
        (r#"{"a":{},"b":{"parent":"a","sessions":-1}}"#, "b.sessions: -1 is over its parent's limit"),
        (r#"{"b":{"parent":"a"}}"#, "b.parent: \"a\" is no client of the configuration"),
        (r#"{"b":{"parent":"b"}}"#, "b.parent: \"b\" is the client itself"),
        (r#"{"a":{},"b":{"parent":"a"},"c":{"parent":"b"}}"#, "c.parent: \"b\" has a parent itself"),
        (r#"{"b":{"parent":3}}"#, "b.parent: 3 is of the wrong type"),
        (r#"{"b":5}"#, "b: 5 is of the wrong type; accepted: an object"),
        (r#"{"":{}}"#, ": a client without a name"),
    ] {
        let told = tree(clients);
        assert!(told.starts_with(&format!("--set quotas.clients.{expected}")), "{told}\nis not\n{expected}");
    }
    let flat = told(&[r#"quotas.clients={"a":{},"b":{"parent":"a"}}"#]);
    assert!(flat.contains("has no meaning in the model flat"), "{flat}");
}

#[test]
fn children_are_checked() {
    assert_eq!(set("children.run_as=\"pool\"").children.run_as, RunAs::Pool);
    assert_eq!(set("children.run_as=\"job\"").children.run_as, RunAs::User("job".into()));
    assert!(told(&["children.run_as=\"\""]).contains("is not a user's name"));
    assert!(told(&["children.pass_env=[\"A\",\"B=C\"]"]).contains("accepted: a list of names of variables"));
    assert!(told(&["children.pass_env=\"A\""]).contains("wrong type"));
    assert!(told(&["children.oom_score_adj=-1000"]).contains("from -999 to 1000"));
    assert!(told(&["children.nice=20"]).contains("from -20 to 19"));
    assert!(told(&["children.uid_base=0"]).contains("from 1 to"));
    assert!(told(&["auth.trusted_uids=[-1]"]).contains("accepted: a list of uids"));
    assert_eq!(set("auth.trusted_uids=[0,1000]").auth.trusted_uids, [0, 1000]);
    assert!(told(&["cgroup.mode=\"maybe\""]).contains(r#"accepted: "auto", "on", "off""#));
    assert!(told(&["cgroup.cpu_quota=0"]).contains("null or a number from 0.01"));
}
