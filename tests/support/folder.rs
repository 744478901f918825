//! Temporary folders that commands of any uid can enter, and gates that hold a command until a test opens them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static FOLDERS: AtomicU32 = AtomicU32::new(0);

/// A folder of a test's own, removed with everything in it.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Folder {
        let number = FOLDERS.fetch_add(1, Ordering::Relaxed);
        // Short: the path of a Unix socket in it has room for 107 bytes.
        let path = std::env::temp_dir().join(format!("cof-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let folder = Folder(path);
        let scratch = folder.open_to_all("tmp");
        // As /tmp: for root's daemon, others must not be able to take away what is in it.
        fs::set_permissions(scratch, fs::Permissions::from_mode(0o1777)).unwrap();
        folder
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// For temporary files, whoever makes them.
    pub fn scratch(&self) -> PathBuf {
        self.0.join("tmp")
    }

    /// A folder in it that anybody may write to.
    pub fn open_to_all(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        path
    }

    /// A closed gate.
    pub fn gate(&self) -> Gate {
        Gate(self.0.join(format!("gate-{}", FOLDERS.fetch_add(1, Ordering::Relaxed))))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Fails only where a test left something that it was about to report anyway.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A command can wait at it; the test opens it.
pub struct Gate(PathBuf);

impl Gate {
    /// Shell text that returns once the gate is open.
    pub fn wait(&self) -> String {
        format!("while [ ! -e {} ]; do sleep 0.02; done", self.0.display())
    }

    pub fn open(&self) {
        fs::write(&self.0, "").unwrap();
    }
}
