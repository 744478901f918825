//! Whether root may take a configuration for what root wants: nobody else could have written the file, put another in
//! its place, or led its path elsewhere.
//!
//! Asks the file system; decides by [`ownership`](crate::ownership).

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use crate::ownership::{Asked, Facts, Foreign};

/// Links on the way to a file; the kernel follows as many.
const LINKS_MAX: usize = 40;

/// Why it is not taken, as a clause about the file, and what would be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Untrusted {
    pub reason: String,
    pub accepted: String,
}

/// Looks at a file that was opened by this path. Where we are not root, there is nothing to look at.
pub(super) fn check(opened: &Metadata, path: &Path) -> Result<(), Untrusted> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    if let Some(foreign) = Facts::from(opened).foreign_to_root(Asked::OursAlone) {
        return refuse("", path, foreign, "a file that only root can write to");
    }
    check_way(path)
}

/// Looks at the folder, and where a link is followed at the link and at the folder that it leads to. Whoever could
/// change one of them between the opening and this look is somebody for whom it is refused.
fn check_way(path: &Path) -> Result<(), Untrusted> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let folder = folder_of(&path);
        let facts = folder.metadata().map_err(|error| unseen(&folder, &error))?;
        if let Some(foreign) = Facts::from(&facts).foreign_to_root(Asked::OursStay) {
            return refuse("its folder ", &folder, foreign, "a folder where only root can replace it");
        }
        let facts = path.symlink_metadata().map_err(|error| unseen(&path, &error))?;
        if !facts.is_symlink() {
            return Ok(());
        }
        // The mode of a link says nothing.
        let facts = Facts { mode: 0, ..Facts::from(&facts) };
        if let Some(foreign) = facts.foreign_to_root(Asked::OursAlone) {
            return refuse("the link ", &path, foreign, "a link of root's");
        }
        path = folder.join(path.read_link().map_err(|error| unseen(&path, &error))?);
    }
    let reason = format!("is behind more than {LINKS_MAX} links");
    Err(Untrusted { reason, accepted: "a shorter way to the file".to_owned() })
}

fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}

fn refuse(what: &str, path: &Path, foreign: Foreign, wanted: &str) -> Result<(), Untrusted> {
    let reason = if what.is_empty() { foreign.to_string() } else { format!("{what}{} {foreign}", path.display()) };
    Err(Untrusted { reason, accepted: format!("for a daemon of root's {wanted}: {}", foreign.mend(path)) })
}

fn unseen(path: &Path, error: &std::io::Error) -> Untrusted {
    Untrusted {
        reason: format!("cannot be trusted, for {} cannot be examined: {error}", path.display()),
        accepted: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};

    const SOMEBODY: Option<u32> = Some(65534);

    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("cofferdam-trusted-{}-{test}", std::process::id()));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            Folder(path)
        }

        fn file(&self) -> PathBuf {
            let path = self.0.join("config.json");
            fs::write(&path, "{}").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
            path
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn reason(path: &Path) -> Option<String> {
        check(&path.metadata().unwrap(), path).err().map(|untrusted| untrusted.reason)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn root_takes_no_file_that_others_could_write_or_replace() {
        let folder = Folder::new("file");
        let file = folder.file();
        assert_eq!(reason(&file), None);
        if !nix::unistd::geteuid().is_root() {
            set_mode(&file, 0o666);
            set_mode(&folder.0, 0o777);
            assert_eq!(reason(&file), None, "an ordinary user's daemon has that user's rights and no more");
            return;
        }
        set_mode(&file, 0o664);
        assert_eq!(reason(&file).unwrap(), "may be written by others: its mode is 0664");
        set_mode(&file, 0o600);
        chown(&file, SOMEBODY, None).unwrap();
        assert_eq!(reason(&file).unwrap(), "belongs to the user 65534, not to 0");
        chown(&file, Some(0), None).unwrap();
        set_mode(&folder.0, 0o1777);
        assert_eq!(reason(&file), None, "nobody replaces it in a sticky folder");
        set_mode(&folder.0, 0o777);
        let told = format!("its folder {} may be written by others: its mode is 0777", folder.0.display());
        assert_eq!(reason(&file).unwrap(), told);
        set_mode(&folder.0, 0o1777);
        chown(&folder.0, SOMEBODY, None).unwrap();
        assert!(reason(&file).unwrap().contains("belongs to the user 65534"));
    }

    #[test]
    fn root_follows_no_link_that_others_could_change() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (near, far) = (Folder::new("near"), Folder::new("far"));
        let (file, link) = (far.file(), near.0.join("link"));
        symlink(&file, &link).unwrap();
        assert_eq!(reason(&link), None);
        set_mode(&far.0, 0o777);
        assert!(reason(&link).unwrap().starts_with(&format!("its folder {}", far.0.display())));
        set_mode(&far.0, 0o755);
        set_mode(&near.0, 0o1777);
        assert_eq!(reason(&link), None);
        lchown(&link, SOMEBODY, None).unwrap();
        assert!(reason(&link).unwrap().starts_with(&format!("the link {} belongs", link.display())));
    }
}
