//! Files and folders that somebody else owns or may write to: a daemon of root's takes nothing from there.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::*;

const SOMEBODY: u32 = 65534;

fn set_mode(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn give_to(path: impl AsRef<Path>, uid: u32) {
    chown(path, Some(uid), None).unwrap();
}

/// Exit code and what was said of a command line of the daemon, run in the launch's folder.
#[track_caller]
fn said(mut command: Command) -> (Option<i32>, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("it ends", DEADLINE, || child.try_wait().unwrap());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The start is refused, in a line with all of these words.
#[track_caller]
fn refused(command: Command, words: &[&str]) {
    let (code, said) = said(command);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.lines().any(|line| words.iter().all(|word| line.contains(word))), "{words:?} in: {said}");
}

fn cofferdam(launch: &Launch, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cofferdam"));
    command.args(words).current_dir(launch.folder.path()).stdin(Stdio::null());
    command
}

/// What a stranger would like a daemon of root's to read: commands run as root.
fn evil() -> Value {
    json!({"children": {"run_as": "same"}})
}

fn launch_with_evil_config() -> Launch {
    let launch = Launch::new().without("children.uid_base").without("children.uid_count");
    launch.with_config(&evil())
}

#[test]
fn s11_root_takes_no_configuration_that_others_could_have_written() {
    if !is_root() {
        return skip("an ordinary user's daemon trusts whom its user trusts");
    }
    // The control: what stands there decides whose uid commands have.
    let daemon = launch_with_evil_config().start();
    assert_eq!(daemon.control().run("id -u")["stdout"], "0\n");
    drop(daemon);

    let launch = launch_with_evil_config();
    let (folder, file) = (launch.folder.path().to_owned(), launch.config());
    let path = file.to_str().unwrap();
    let every_way = |words: &[&str]| {
        let also = |extra: &[&'static str]| [words, extra].concat();
        refused(launch.command(), &also(&["config.json", "chown root"]));
        for words in [&["check"][..], &["doctor"], &["serve", "--config", path], &["check", "--config", path]] {
            refused(cofferdam(&launch, words), &also(&["config.json"]));
        }
    };
    give_to(&file, SOMEBODY);
    every_way(&["belongs to the user 65534", path]);
    give_to(&file, 0);
    give_to(&folder, SOMEBODY);
    every_way(&["its folder", folder.to_str().unwrap(), "belongs to the user 65534"]);
    give_to(&folder, 0);
    set_mode(&file, 0o664);
    refused(launch.command(), &["config.json", "its mode is 0664", &format!("chmod go-w {path}")]);
    set_mode(&file, 0o644);
    set_mode(&folder, 0o777);
    refused(launch.command(), &["its folder", "its mode is 0777", &format!("chmod go-w {}", folder.display())]);
    // Nobody replaces what is root's in a sticky folder; but a link that is somebody's leads where he likes.
    set_mode(&folder, 0o1777);
    let link = launch.folder.join("link.json");
    symlink(&file, &link).unwrap();
    let check = || cofferdam(&launch, &["check", "--config", link.to_str().unwrap()]);
    assert_eq!(said(check()).0, Some(0));
    std::os::unix::fs::lchown(&link, Some(SOMEBODY), None).unwrap();
    refused(check(), &["the link", link.to_str().unwrap(), "belongs to the user 65534"]);
}

#[test]
fn s11_a_reload_takes_none_either_and_the_old_configuration_stays() {
    if !is_root() {
        return skip("an ordinary user's daemon trusts whom its user trusts");
    }
    let daemon = Launch::new().with_config(&json!({"sessions": {"max_history": 5}})).start();
    let info = || daemon.control().ok("system.info", json!({}));
    let reload = |ok: bool| {
        daemon.signal(Signal::SIGHUP);
        wait_until("the configuration was read again", DEADLINE, || {
            let info = info();
            (info["reload"]["ok"] == ok).then_some(info)
        })
    };
    fs::write(daemon.launch.config(), json!({"sessions": {"max_history": 6}}).to_string()).unwrap();
    give_to(daemon.launch.config(), SOMEBODY);
    let told = reload(false);
    assert_eq!(told["limits"]["max_history"], 5, "{told}");
    assert!(told["reload"]["error"].as_str().unwrap().contains("belongs to the user 65534"), "{told}");
    wait_until("the log says so", DEADLINE, || daemon.log().contains("stays as it was").then_some(()));
    // The control: from root's own hand it is taken.
    give_to(daemon.launch.config(), 0);
    assert_eq!(reload(true)["limits"]["max_history"], 6);
}

#[test]
fn s20_root_keeps_nothing_in_a_folder_that_others_could_change() {
    let refused_for_root = |launch: &Launch, words: &[&str]| match is_root() {
        true => refused(launch.command(), words),
        // The control: an ordinary user's daemon starts there as it always did.
        false => {
            let mut child = launch.command().spawn().unwrap();
            wait_until("it listens", DEADLINE, || launch.socket().exists().then_some(()));
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
            wait_until("it ends", DEADLINE, || child.try_wait().unwrap());
        }
    };
    for key in ["state_dir", "children.workspaces"] {
        let launch = Launch::new();
        let folder = launch.folder.open_to_all("kept");
        let launch = launch.set(key, json!(folder));
        let path = folder.to_str().unwrap();
        refused_for_root(&launch, &[key, path, "its mode is 0777", &format!("chmod go-w {path}")]);
        set_mode(&folder, 0o1777);
        refused_for_root(&launch, &[key, path, "its mode is 1777"]);
        set_mode(&folder, 0o755);
        if is_root() {
            give_to(&folder, SOMEBODY);
            refused(launch.command(), &[key, path, "belongs to the user 65534", &format!("chown root {path}")]);
            give_to(&folder, 0);
        }
        // The control: nobody else's, it does.
        launch.start();
    }
    let launch = Launch::new();
    set_mode(launch.folder.path(), 0o777);
    refused_for_root(&launch, &["unix_socket", launch.folder.path().to_str().unwrap(), "its mode is 0777"]);
    set_mode(launch.folder.path(), 0o1777);
    launch.start();

    let launch = Launch::new();
    set_mode(launch.folder.scratch(), 0o777);
    let scratch = launch.folder.scratch();
    refused_for_root(&launch, &["children.workspaces", "temporary folder", scratch.to_str().unwrap()]);
}

#[test]
fn s20_a_workspace_is_entered_where_it_is_and_not_where_its_path_leads() {
    let launch = Launch::new();
    let above = launch.folder.open_to_all("above");
    let (path, moved, elsewhere) = (above.join("w"), above.join("moved"), launch.folder.join("closed"));
    fs::create_dir(&elsewhere).unwrap();
    let daemon = launch.set("children.workspaces", json!(path)).start();
    let mut client = daemon.control();
    let opened = client.ok("session.open", json!({}));
    let session = opened["session"].as_str().unwrap();
    let own = Path::new(opened["cwd"].as_str().unwrap());
    let made = fs::metadata(own).unwrap().ino();
    // Whoever may write above it leads the path behind closed doors.
    let decoy = elsewhere.join(own.file_name().unwrap());
    fs::create_dir(&decoy).unwrap();
    fs::write(decoy.join("secret"), "secret").unwrap();
    set_mode(&elsewhere, 0o700);
    fs::rename(&path, &moved).unwrap();
    symlink(&elsewhere, &path).unwrap();
    // The control: to follow the path is to be led.
    assert_eq!(fs::metadata(own).unwrap().ino(), fs::metadata(&decoy).unwrap().ino());
    let record = client.run_in(session, "stat -c %i .; ls");
    assert_eq!(record["stdout"], format!("{made}\n"), "{record}");
    client.ok("session.close", json!({"session": session}));
    assert!(decoy.join("secret").exists(), "and what is removed is not there either");
    fs::remove_file(&path).unwrap();
    fs::rename(&moved, &path).unwrap();
}
