//! Workspaces that are made so that their removal fails, never ends, or hits something else.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::exec_support::*;
use crate::program::Hostile;
use crate::support::*;

/// A launch whose workspaces lie in a folder of the test's.
fn launch() -> Launch {
    Launch::new().set("children.workspaces", json!("w"))
}

fn folder_of(daemon: &Daemon) -> PathBuf {
    daemon.launch.folder.join("w")
}

/// A session and the path of its workspace.
#[track_caller]
fn open(client: &mut Conn) -> (String, PathBuf) {
    let opened = client.ok("session.open", json!({}));
    (opened["session"].as_str().unwrap().to_owned(), opened["cwd"].as_str().unwrap().into())
}

/// What is in the folder of the workspaces; the folder for what is removed only where there is something in it.
fn left(folder: &Path) -> Vec<PathBuf> {
    let entries = |path: &Path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let (outgoing, others): (Vec<_>, Vec<_>) =
        entries(folder).into_iter().partition(|path| path.to_str().unwrap().contains("/.outgoing-"));
    others.into_iter().chain(outgoing.iter().flat_map(|path| entries(path))).collect()
}

/// Moves what lies deep into the top under names of its own, as a removal without recursion may well do.
fn remove_by_moving_up(top: &Path) -> io::Result<()> {
    let mut moved = 0;
    loop {
        let Some(entry) = fs::read_dir(top)?.next().transpose()? else { return fs::remove_dir(top) };
        for below in fs::read_dir(entry.path())? {
            moved += 1;
            fs::rename(below?.path(), top.join(format!(".moved-{moved}")))?;
        }
        fs::remove_dir(entry.path())?;
    }
}

/// One kind of tree a line.
const TREES: [&str; 20] = [
    "mkdir -p .moved-1/k/x",
    "mkdir -p .moved-4/.moved-3/.moved-2/.moved-1/x",
    "for i in $(seq 0 60); do mkdir -p $i/$i/$i; done",
    "for i in $(seq 0 60); do mkdir -p d/$i/x; echo x >$i; done",
    "mkdir -p .outgoing-0123456789abcdef/s1/0/x s1-0123456789abcdef/y cofferdam-0123456789abcdef/z",
    "mkdir -p a/b/c/d; chmod 000 a/b/c/d a/b/c a/b a",
    "mkdir -p a/b/c; chmod 1777 a a/b a/b/c .",
    "mkdir -p a/b/c; chmod 2555 a/b a; chmod 0 .",
    "mkdir a; for i in $(seq 100); do echo x >a/$i; done; chmod 500 a",
    "d=$(seq -s/ 200); for i in 1 2 3 4 5; do mkdir -p $d && cd -P $d; done; echo x >end",
    "for i in $(seq 100); do mkdir -p w/$i/x/y; done",
    "ln -s .. up; ln -s / root; ln -s . self; ln -s loop loop; ln -s /etc/passwd file; ln -s up/up/up far",
    "mkdir real; ln -s ../.. real/up; ln -s $PWD real/home; chmod 0 real",
    "mkfifo f; mkdir -p a/b; mkfifo a/b/f; chmod 0 f a/b/f a/b",
    "mkdir -p -- -rf '--' '*' '$HOME' '..x' '...' ' ' '\\'",
    "mkdir -p \"$(printf 'a\\nb')/$(printf '\\001\\033[2J\\377')/x\"; echo x >\"$(printf 'x\\ny')\"",
    "n=$(printf '%0255d' 0); mkdir -p $n/$n/$n; echo x >$n/$n/$n/$n",
    "echo x >f; for i in $(seq 200); do ln f l$i; done; chmod 0 f",
    "mkdir -p 0 1 2 3/4/5; echo x >4; ln -s 3/4 5; mkfifo 6; chmod 0 3",
    "mkdir -p a/x b/x; cd a/x; (sleep 1000 &); chmod 0 .. .",
];

#[test]
fn s08_no_tree_keeps_a_workspace() {
    let daemon = launch().start();
    let mut client = daemon.control();
    // The control: the first of them defeats a removal that moves things up in the tree itself.
    let shared = Shared::new();
    fs::create_dir_all(shared.path("top/.moved-1/k/x")).unwrap();
    assert_eq!(remove_by_moving_up(&shared.path("top")).unwrap_err().kind(), io::ErrorKind::DirectoryNotEmpty);
    for tree in TREES {
        let (session, path) = open(&mut client);
        let record = client.run_in(&session, tree);
        assert_eq!(record["exit_code"], 0, "{tree}: {record}");
        client.ok("session.close", json!({"session": session}));
        assert!(!path.exists(), "{tree}");
        assert_eq!(left(&folder_of(&daemon)), [] as [PathBuf; 0], "{tree}");
    }
    // All at once, and of a single command, whose session goes with it.
    let all = TREES.iter().enumerate().map(|(at, tree)| format!("(mkdir t{at} && cd t{at} && {tree})\n"));
    let record = client.run(&all.collect::<String>());
    assert_eq!(record["status"], "exited", "{record}");
    assert_eq!(left(&folder_of(&daemon)), [] as [PathBuf; 0]);
    assert!(!daemon.log().contains("cannot be removed"), "{}", daemon.log());
}

/// Makes a file immutable, or mutable again; false where that cannot be done here.
fn set_immutable(path: &Path, immutable: bool) -> bool {
    let Some(chattr) = tool("chattr") else { return false };
    let changed =
        Command::new(chattr).arg(if immutable { "+i" } else { "-i" }).arg(path).stderr(Stdio::null()).status();
    changed.is_ok_and(|status| status.success())
}

#[test]
fn s08_what_cannot_be_removed_keeps_nothing_else() {
    let daemon = launch().start();
    let mut client = daemon.control();
    let (session, path) = open(&mut client);
    client
        .run_in(&session, "mkdir -p a/b; for i in $(seq 50); do mkdir -p d$i/x; echo x >a/b/f$i; echo x >d$i/f; done");
    let stuck = path.join("a/b/f7");
    if !is_root() || !set_immutable(&stuck, true) {
        client.ok("session.close", json!({"session": session}));
        return skip("no file can be made immutable here");
    }
    // The control: a removal stops there.
    assert!(fs::remove_dir_all(path.join("a")).is_err() && stuck.exists());
    client.ok("session.close", json!({"session": session}));
    assert!(!path.exists(), "nobody comes to it by its path");
    let folder = folder_of(&daemon);
    let rest = left(&folder);
    let all: Vec<_> = rest.iter().flat_map(|path| files_below(path)).collect();
    assert!(all.len() == 1 && all[0].ends_with("f7"), "{all:?}");
    wait_until("the log says so", DEADLINE, || daemon.log().contains("cannot be removed").then_some(()));
    // Others go on, and once it can be removed a later start does it.
    assert_eq!(client.run("echo x >f; cat f")["stdout"], "x\n");
    assert!(set_immutable(&all[0], false));
    let kept = Shared::new();
    fs::rename(&folder, kept.path("w")).unwrap();
    fs::create_dir(&folder).unwrap();
    drop((client, daemon));
    let next = Launch::new().set("children.workspaces", json!(kept.path("w"))).start();
    assert_eq!(left(&kept.path("w")), [] as [PathBuf; 0], "{}", next.log());
}

/// Every file below a directory.
fn files_below(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// Has the process in mounts of its own, which nobody else sees.
fn own_mounts() -> io::Result<()> {
    use nix::libc;
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let (none, root) = (c"none".as_ptr(), c"/".as_ptr());
    // SAFETY: a system call on constant texts; it changes what this process's mounts tell others.
    let made = unsafe { libc::mount(none, root, std::ptr::null(), libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()) };
    if made == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn s08_a_mount_point_is_not_entered_and_keeps_nothing_else() {
    let unshared = || Some(Command::new(tool("unshare")?).args(["-m", "true"]).status().ok()?.success());
    if !is_root() || unshared() != Some(true) || tool("nsenter").is_none() {
        return skip("nobody can mount here");
    }
    let outside = Shared::new();
    fs::create_dir(outside.path("in")).unwrap();
    outside.file("in/precious", "kept", 0o666);
    // The control: a plain removal goes through the mount.
    let plain = Shared::new();
    fs::create_dir_all(plain.path("top/m")).unwrap();
    let script = format!("mount --bind {0} {1}/m && rm -rf {1}", outside.text("in"), plain.text("top"));
    Command::new(tool("unshare").unwrap()).args(["-m", "sh", "-c", &script]).stderr(Stdio::null()).status().unwrap();
    assert!(!outside.path("in/precious").exists());
    outside.file("in/precious", "kept", 0o666);

    let daemon = launch().before_exec(own_mounts).start();
    let mut client = daemon.control();
    let (session, path) = open(&mut client);
    client.run_in(
        &session,
        "mkdir -p a/m; echo x >file; for i in $(seq 20); do mkdir -p a/d$i/x; echo x >a/f$i; done; >b",
    );
    let mount = |from: &str, to: &Path| {
        let mut command = Command::new(tool("nsenter").unwrap());
        command.arg(format!("--mount=/proc/{}/ns/mnt", daemon.runtime_pid)).args(["mount", "--bind", from]).arg(to);
        assert!(command.status().unwrap().success());
    };
    mount(&outside.text("in"), &path.join("a/m"));
    mount(&outside.text("in/precious"), &path.join("b"));
    client.ok("session.close", json!({"session": session}));
    assert!(!path.exists());
    assert_eq!(fs::read_to_string(outside.path("in/precious")).unwrap(), "kept");
    let rest: Vec<_> = left(&folder_of(&daemon)).iter().flat_map(|path| files_below(path)).collect();
    assert!(rest.iter().all(|path| path.ends_with("b") || path.ends_with("precious")), "{rest:?}");
    assert_eq!(client.run("echo on")["stdout"], "on\n");
}

#[test]
fn s09_a_neighbour_that_writes_there_does_not_hold_up_the_close() {
    if !is_root() {
        return skip("sessions share a uid unless the daemon is root");
    }
    let hostile = Hostile::build();
    let fills = |path: &Path| {
        wait_until("files are made there", DEADLINE, || {
            let mut entries = fs::read_dir(path).ok()?;
            entries
                .any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with('f')))
                .then_some(())
        })
    };
    // The control: who empties a directory in the plain way finds it full again, and who has made it his own does not.
    let plain = hostile.folder.path("plain");
    fs::create_dir(&plain).unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o777)).unwrap();
    let filler = hostile.spawn(1_290_000_001, &["fill", plain.to_str().unwrap(), "60"]);
    for _ in 0..3 {
        fills(&plain);
        fs::read_dir(&plain).unwrap().for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
    }
    fills(&plain);
    chown(&plain, Some(0), Some(0)).unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o700)).unwrap();
    drop(filler);

    let daemon = launch().start();
    let mut client = daemon.control();
    let (first, path) = open(&mut client);
    client.run_in(&first, "mkdir -p below/x; chmod 777 . below below/x");
    let (second, _) = open(&mut client);
    let mut other = daemon.control();
    let folders = ["", "below", "below/x"].map(|name| path.join(name));
    let fill = folders.iter().map(|folder| format!("{} fill {} 60 &", hostile.path(), folder.display()));
    let line = format!("{} wait", fill.collect::<Vec<_>>().join(" "));
    let asked = other.ask("exec.run", json!({"session": second, "cmd": line}));
    folders.iter().for_each(|folder| fills(folder));
    let owner = fs::metadata(path.join("below/x/f0")).unwrap().uid();
    assert_ne!(owner, fs::metadata(&path).unwrap().uid(), "it is another session that writes");

    client.ok("session.close", json!({"session": first}));
    assert!(!path.exists());
    assert_eq!(daemon.stats()["commands"]["running"], 1, "the neighbour goes on all the time");
    let rest = left(&folder_of(&daemon));
    assert!(rest.iter().all(|path| path.to_str().unwrap().contains(&format!("/{second}-"))), "{rest:?}");
    client.ok("session.close", json!({"session": second}));
    other.answer(&asked);
    assert_eq!(left(&folder_of(&daemon)), [] as [PathBuf; 0]);
}
