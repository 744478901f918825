use super::*;
use std::os::unix::fs::PermissionsExt;

fn workspaces(test: &str) -> (Workspaces, PathBuf) {
    let root = std::env::temp_dir().join(format!("cofferdam-test-{}-{test}", std::process::id()));
    (Workspaces::new(Some(&root), "run", false), root)
}

fn path_of(workspace: Workspace) -> PathBuf {
    workspace.path.into()
}

#[test]
fn a_workspace_is_private_and_goes_with_its_session() {
    let (all, root) = workspaces("private");
    let path = path_of(all.make("s1", None).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    std::fs::write(path.join("file"), "x").unwrap();
    assert!(!all.remove_empty("s1"));
    all.remove("s1").unwrap();
    assert!(!path.exists());
    assert!(all.remove_empty("s1"));
    drop(all);
    std::fs::remove_dir(root).unwrap();
}

#[test]
fn a_removal_may_be_asked_for_again_and_again() {
    let (all, root) = workspaces("again");
    let path = path_of(all.make("s1", None).unwrap());
    let neighbour = path_of(all.make("s12", None).unwrap());
    all.make_shell_folder("s1").unwrap();
    std::fs::create_dir_all(path.join("a/b")).unwrap();
    // What an earlier call has left.
    std::fs::create_dir_all(root.join(".outgoing-run/s1/7/x/y")).unwrap();
    for _ in 0..3 {
        all.remove("s1").unwrap();
        let left: Vec<_> = std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(neighbour.exists() && std::fs::read_dir(root.join(".outgoing-run")).unwrap().next().is_none());
    }
    drop(all);
    std::fs::remove_dir(neighbour).unwrap();
    std::fs::remove_dir(root).unwrap();
}

#[test]
fn what_dead_runs_left_goes_and_what_live_ones_have_stays() {
    let (live, root) = workspaces("stale");
    let kept = path_of(live.make("s1", None).unwrap());
    let (other, dead) = (root.join("other"), root.join("s7-0123456789abcdef"));
    std::fs::create_dir_all(dead.join("below")).unwrap();
    let removing = root.join(".outgoing-0123456789abcdef");
    std::fs::create_dir_all(removing.join("s7/3/x")).unwrap();
    std::fs::create_dir(&other).unwrap();
    let start = || Workspaces::new(Some(&root), "0000000000000001", false).open().unwrap();
    start();
    assert!(dead.exists() && kept.exists(), "somebody has the folder");
    drop(live);
    start();
    assert!(!dead.exists() && kept.exists() && other.exists(), "only what bears a session's name goes");
    assert!(!removing.exists(), "and what a dead run was about to remove");
    let (run, somebodys) = (root.join("cofferdam-0123456789abcdef"), root.join("cofferdam-backup"));
    std::fs::create_dir_all(run.join("s1")).unwrap();
    std::fs::create_dir(&somebodys).unwrap();
    let last = Workspaces::new(Some(&root), "0000000000000001", false);
    last.clear_dead_runs(last.folder().unwrap(), &root);
    drop(last);
    assert!(!run.exists() && other.exists());
    assert!(somebodys.exists(), "only what bears a run's name goes");
    std::fs::remove_dir_all(root).unwrap();
}
