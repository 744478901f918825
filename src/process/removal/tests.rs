use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nix::fcntl::open;

use super::*;

/// A folder with one for what goes, and a tree to be removed.
struct Place {
    root: PathBuf,
    folder: OwnedFd,
}

impl Place {
    fn new(test: &str) -> Place {
        let root = std::env::temp_dir().join(format!("cofferdam-removal-{}-{test}", std::process::id()));
        fs::create_dir(&root).unwrap();
        let folder = open(&root, OPEN_DIR, Mode::empty()).unwrap();
        Place { root, folder }
    }

    fn tree(&self) -> PathBuf {
        let tree = self.root.join("tree");
        fs::create_dir(&tree).unwrap();
        tree
    }

    fn remove(&self, until: Instant) -> Removed {
        Outgoing::open(&self.folder, c"out").unwrap().remove(&self.folder, &[c"tree"], c"s1", until)
    }

    fn is_clean(&self) -> bool {
        !self.root.join("tree").exists() && fs::read_dir(self.root.join("out")).unwrap().next().is_none()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn soon() -> Instant {
    Instant::now() + WORK_MAX
}

fn set_mode(path: impl AsRef<std::path::Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn depth_links_and_permissions_do_not_hinder_it() {
    let place = Place::new("deep");
    let tree = place.tree();
    let outside = place.root.join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "x").unwrap();
    set_mode(&outside, 0o755);
    symlink(&outside, tree.join("link")).unwrap();
    symlink("..", tree.join("loop")).unwrap();
    fs::create_dir_all(tree.join("a/b")).unwrap();
    fs::write(tree.join("a/b/file"), "x").unwrap();
    set_mode(tree.join("a/b"), 0o0);
    set_mode(tree.join("a"), 0o0);
    let mut deep = openat(AT_FDCWD, &tree, OPEN_DIR, Mode::empty()).unwrap();
    for _ in 0..3000 {
        mkdirat(&deep, "d", Mode::S_IRWXU).unwrap();
        deep = openat(&deep, "d", OPEN_DIR, Mode::empty()).unwrap();
    }
    for file in 0..5000 {
        fs::write(tree.join(format!("f{file}")), "").unwrap();
    }
    set_mode(&tree, 0o0);
    place.remove(soon()).unwrap();
    assert!(place.is_clean());
    assert!(outside.join("kept").exists());
    assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o777, 0o755, "nothing outside is made ours");
}

#[test]
fn no_name_is_in_the_way() {
    let place = Place::new("names");
    let tree = place.tree();
    let next = NEXT.load(Ordering::Relaxed);
    // The numbers that come next, here and where they are moved to, as full directories and as files.
    let heap = place.root.join("out/s1");
    fs::create_dir_all(&heap).unwrap();
    for number in next..next + 40 {
        fs::create_dir_all(tree.join(format!("{number}/{number}/x"))).unwrap();
        match number % 3 {
            0 => fs::write(heap.join(number.to_string()), "x").unwrap(),
            1 => fs::create_dir_all(heap.join(format!("{number}/x/y"))).unwrap(),
            _ => {}
        }
    }
    fs::create_dir_all(tree.join(".moved-1/k/x/.moved-2/s1/out")).unwrap();
    place.remove(soon()).unwrap();
    assert!(place.is_clean());
}

#[test]
fn what_was_left_goes_with_a_later_call() {
    let place = Place::new("later");
    assert_eq!(place.remove(soon()), Ok(()), "nothing there is nothing left");
    fs::create_dir_all(place.tree().join("a/b/c")).unwrap();
    assert_eq!(place.remove(Instant::now()), Err(Errno::ETIMEDOUT));
    assert!(!place.root.join("tree").exists(), "nobody reaches it by its path any more");
    assert!(!place.is_clean());
    assert_eq!(place.remove(soon()), Ok(()));
    assert!(place.is_clean());
}

#[test]
fn two_calls_at_once_do_not_disturb_each_other() {
    let place = Place::new("twice");
    fs::create_dir_all(place.tree().join("a/b")).unwrap();
    let heap = place.root.join("out/s1");
    fs::create_dir_all(&heap).unwrap();
    let held = open(&heap, OPEN_DIR, Mode::empty()).unwrap();
    let other = Flock::lock(held, FlockArg::LockExclusive).unwrap();
    assert_eq!(place.remove(soon()), Err(Errno::EAGAIN));
    drop(other);
    assert_eq!(place.remove(soon()), Ok(()));
    assert!(place.is_clean());
}

#[test]
fn a_directory_becomes_ours_before_it_is_read() {
    let place = Place::new("ours");
    let tree = place.tree();
    set_mode(&tree, 0o777);
    let root = Uid::effective().is_root();
    if root {
        std::os::unix::fs::chown(&tree, Some(4321), Some(4321)).unwrap();
    }
    let mut work = Work { until: soon(), first: None };
    work.take_over(&place.folder, c"tree").unwrap();
    let facts = fs::metadata(&tree).unwrap();
    assert_eq!((facts.uid(), facts.mode() & 0o7777), (Uid::effective().as_raw(), 0o700));
    assert_eq!(work.first, None);
    // A link is not followed.
    symlink("tree", place.root.join("link")).unwrap();
    assert!(work.take_over(&place.folder, c"link").is_err());
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test's own thread")]
fn whoever_adds_without_end_as_our_own_uid_holds_it_up_for_so_long_only() {
    let place = Place::new("filled");
    let tree = place.tree();
    let stop = Arc::new(AtomicBool::new(false));
    let directory = open(&tree, OPEN_DIR, Mode::empty()).unwrap();
    let filler = std::thread::spawn({
        let stop = stop.clone();
        move || {
            let flags = OFlag::O_CREAT | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            for number in 0..1_000_000u64 {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let _ = openat(&directory, format!("f{number}").as_str(), flags, Mode::S_IRWXU);
            }
        }
    });
    while fs::read_dir(&tree).unwrap().count() < 100 {
        std::thread::yield_now();
    }
    // Whether it is gone by then or not: the call comes back while files are still made.
    let _ = place.remove(Instant::now() + Duration::from_millis(50));
    stop.store(true, Ordering::Relaxed);
    filler.join().unwrap();
    assert_eq!(place.remove(soon()), Ok(()));
    assert!(place.is_clean());
}
