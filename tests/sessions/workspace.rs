//! The private working directory of a session: made for it, and gone with it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::support::{Daemon, Launch, is_root, json, skip};

fn daemon() -> Daemon {
    Daemon::start(&[("children.workspaces", json!("w"))])
}

fn path_of(opened: &serde_json::Value) -> PathBuf {
    PathBuf::from(opened["cwd"].as_str().unwrap())
}

#[test]
fn a_session_has_a_private_directory_that_is_its_working_directory() {
    let daemon = daemon();
    let mut client = daemon.tcp();
    let opened = client.ok("session.open", json!({}));
    let path = path_of(&opened);
    assert!(path.starts_with(daemon.launch.folder.join("w")), "{path:?}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o700);
    let session = opened["session"].as_str().unwrap();
    let record = client.run_in(session, "pwd; id -u; echo text > file; cat file; cd \"$HOME\" && ls");
    let uid = fs::metadata(&path).unwrap().uid();
    assert_eq!(record["stdout"], format!("{}\n{uid}\ntext\nfile\n", path.display()), "{record}");
    assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "text\n");
}

#[test]
fn the_directory_is_removed_when_the_session_closes() {
    let daemon = daemon();
    let mut client = daemon.tcp();
    let opened = client.ok("session.open", json!({}));
    let path = path_of(&opened);
    let session = opened["session"].as_str().unwrap();
    client.run_in(session, "mkdir -p a/b; echo x > a/b/c; ln -s /etc link; mkfifo pipe; echo hidden > .h");
    client.ok("session.close", json!({"session": session}));
    assert!(!path.exists(), "{path:?} is still there");
    assert!(Path::new("/etc/passwd").exists());
}

#[test]
fn the_directory_goes_with_the_connection_and_with_a_single_command() {
    let daemon = daemon();
    let mut client = daemon.tcp();
    client.open(json!({}));
    client.run("echo x > file");
    drop(client);
    daemon.stats_show("all sessions are closed", |stats| (stats["sessions"]["current"] == 0).then_some(()));
    let left: Vec<_> =
        fs::read_dir(daemon.launch.folder.join("w")).unwrap().map(|entry| entry.unwrap().path()).collect();
    // But for the daemon's own folder for what it removes.
    let is_left = |path: &PathBuf| path.is_dir() && !path.to_str().unwrap().contains("/.outgoing-");
    assert!(!left.iter().any(is_left), "{left:?}");
}

#[test]
fn two_sessions_have_two_directories() {
    let daemon = daemon();
    let mut client = daemon.tcp();
    let one = path_of(&client.ok("session.open", json!({})));
    let two = path_of(&client.ok("session.open", json!({})));
    assert_ne!(one, two);
}

#[test]
fn a_session_cannot_look_into_the_directory_of_another() {
    if !is_root() {
        return skip("sessions share a uid unless the daemon is root");
    }
    let daemon = daemon();
    let mut client = daemon.tcp();
    let other = client.ok("session.open", json!({}));
    client.run_in(other["session"].as_str().unwrap(), "umask 000; echo secret > file");
    let session = client.open(json!({}));
    let record =
        client.run_in(&session, &format!("cat {}/file || ls {}", path_of(&other).display(), path_of(&other).display()));
    assert_ne!(record["exit_code"], 0, "{record}");
    assert_eq!(record["stdout"], "");
}

#[test]
fn a_deep_tree_in_it_is_removed_whole() {
    let daemon = daemon();
    let mut client = daemon.tcp();
    let opened = client.ok("session.open", json!({}));
    let session = opened["session"].as_str().unwrap();
    // 4000 levels: deeper than a path may be long, and than a stack would like.
    let chain = vec!["d"; 100].join("/");
    let record = client.run_in(
        session,
        &format!("for i in $(seq 40); do mkdir -p {chain} && cd -P {chain} || exit 1; done; echo x > file"),
    );
    assert_eq!(record["exit_code"], 0, "{record}");
    client.ok("session.close", json!({"session": session}));
    assert!(!path_of(&opened).exists());
}

#[test]
fn traps_in_it_do_not_lead_the_removal_astray() {
    let daemon = daemon();
    let outside = daemon.launch.folder.open_to_all("outside");
    fs::write(outside.join("precious"), "kept").unwrap();
    fs::set_permissions(outside.join("precious"), fs::Permissions::from_mode(0o666)).unwrap();
    let mut client = daemon.tcp();
    let opened = client.ok("session.open", json!({}));
    let session = opened["session"].as_str().unwrap();
    let traps = format!(
        "ln -s {0} out; mkdir real; ln -s ../.. real/up; ln -s loop loop; mkdir -p locked/in; echo x > locked/in/file; \
         chmod 000 locked/in; chmod 500 locked; printf x > \"$(printf 'a\\nb')\"; printf x > -rf; chmod 000 .",
        outside.display()
    );
    client.run_in(session, &traps);
    client.ok("session.close", json!({"session": session}));
    assert!(!path_of(&opened).exists());
    assert_eq!(fs::read_to_string(outside.join("precious")).unwrap(), "kept");
}

#[test]
fn a_command_may_remove_its_own_directory() {
    let daemon = daemon();
    let mut client = daemon.tcp();
    let opened = client.ok("session.open", json!({}));
    let session = opened["session"].as_str().unwrap();
    client.run_in(session, "cd /; rm -rf \"$HOME\" 2>/dev/null; true");
    let answer = client.request("exec.run", json!({"session": session, "cmd": "true"}));
    if path_of(&opened).exists() {
        // Where the folder above it is not the session's, only what is in it can be removed.
        assert_eq!(answer["result"]["status"], "exited", "{answer}");
    } else {
        assert_eq!(answer["error"]["data"]["stage"], "cwd", "{answer}");
        assert_eq!(answer["error"]["data"]["errno"], "ENOENT", "{answer}");
    }
    client.ok("session.close", json!({"session": session}));
}

#[test]
fn a_directory_that_the_client_names_is_left_alone() {
    let daemon = daemon();
    let folder = daemon.launch.folder.open_to_all("mine");
    let mut client = daemon.tcp();
    let session = client.open(json!({"cwd": folder}));
    client.run_in(&session, "echo x > file");
    client.ok("session.close", json!({"session": session}));
    assert_eq!(fs::read_to_string(folder.join("file")).unwrap(), "x\n");
}

#[test]
fn inv14_a_session_does_not_get_where_its_uid_may_not_go() {
    if !is_root() {
        return skip("only root may enter what the session's uid may not");
    }
    let daemon = daemon();
    let closed = daemon.launch.folder.open_to_all("closed");
    let inner = closed.join("inner");
    fs::create_dir(&inner).unwrap();
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(inner.join("file"), "secret").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    client.run_in(&session, &format!("ln -s {} link", inner.display()));
    let shell = client.open(json!({"shell": true}));

    let refused = [
        ("session.open", json!({"cwd": inner})),
        ("session.open", json!({"cwd": inner, "shell": true})),
        ("exec.run", json!({"cmd": "cat file", "cwd": inner})),
        ("exec.run", json!({"cmd": "cat file", "cwd": inner, "session": session})),
        ("exec.run", json!({"cmd": "cat file", "cwd": "link", "session": session})),
        ("exec.run", json!({"cmd": "cat file", "cwd": inner, "session": shell})),
        ("exec.run", json!({"argv": ["cat", "file"], "cwd": inner, "session": shell})),
    ];
    for (method, params) in refused {
        let error = client.refused(method, params.clone(), "SPAWN_FAILED");
        let told = (&error["data"]["stage"], &error["data"]["errno"]);
        assert_eq!(told, (&json!("cwd"), &json!("EACCES")), "{method} {params}: {error}");
    }
}

#[test]
fn a_directory_below_the_own_one_is_found_where_the_folders_above_are_closed() {
    let launch = Launch::new();
    let above = launch.folder.join("above");
    fs::create_dir(&above).unwrap();
    fs::set_permissions(&above, fs::Permissions::from_mode(0o700)).unwrap();
    let daemon = launch.set("children.workspaces", json!(above.join("workspaces"))).start();
    let mut client = daemon.tcp();
    let session = client.open(json!({}));
    client.run_in(&session, "mkdir below; echo found > below/file");
    let record = client.ok("exec.run", json!({"session": session, "cmd": "cat file", "cwd": "below"}));
    assert_eq!(record["stdout"], "found\n", "{record}");
}
