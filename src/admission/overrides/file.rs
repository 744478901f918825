//! The file of limits that were set. Blocks for as long as the file system likes: errands call it, and the start.
//!
//! At every moment after the first save there are two whole copies, in files of their own: [`save`] replaces the file,
//! then its copy, each by a rename of what is already on the disk. A process that is killed in between leaves both
//! whole; what somebody else does to the file does nothing to the copy.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::unistd::geteuid;

use super::Overrides;
use crate::ownership::{Asked, Facts};

/// Twice what [`CLIENTS_MAX`](super::CLIENTS_MAX) clients take whose names are all of characters that JSON writes in
/// six bytes: a larger file is none of ours.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Added to the file's name for the copy of the last state that was saved.
const LAST_GOOD: &str = ".last-good";
/// Added to the file's name while it is written.
const NEW: &str = ".new";

/// What was read at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The limits that hold.
    pub overrides: Overrides,
    /// Why the file was refused, and the limits are those of the copy of the last good one.
    pub refused: Option<StateError>,
}

/// What is wrong with a file, or which step failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateError {
    /// The file.
    pub path: PathBuf,
    /// What about it, as one clause.
    pub what: String,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} {}", self.path.display(), self.what)
    }
}

impl std::error::Error for StateError {}

/// Reads the file. One that is not there is no limits; one that is torn, or none of ours, or that another user could
/// have written is refused, and its last good copy stands in. An error if there is none to stand in.
pub fn load(path: &Path) -> Result<Loaded, StateError> {
    match read(path) {
        Ok(overrides) => Ok(Loaded { overrides: overrides.unwrap_or_default(), refused: None }),
        Err(refused) => match read(&with(path, LAST_GOOD)) {
            Ok(Some(overrides)) => Ok(Loaded { overrides, refused: Some(refused) }),
            Ok(None) => Err(no_copy(refused, "; there is no copy of it")),
            Err(copy) => Err(no_copy(refused, &format!(", and {copy}"))),
        },
    }
}

/// Whoever reads this has a daemon that does not start.
fn no_copy(StateError { path, what }: StateError, copy: &str) -> StateError {
    let what = format!("{what}{copy}; mend it, or remove both: then the limits are those of the configuration");
    StateError { path, what }
}

/// Replaces the file and then its copy. When it returns, a power cut loses neither. Calls for one file must not
/// overlap, or an older state may replace a newer one.
///
/// Once the file is replaced, its limits are those of the next start, whatever becomes of the copy: an older copy is a
/// good one still, so that it could not be replaced is for the log.
pub fn save(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    replace(path, bytes)?;
    if let Err(error) = replace(&with(path, LAST_GOOD), bytes) {
        log::warn!("the limits are saved, and their copy stays as it was: {error}");
    }
    Ok(())
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let new = with(path, NEW);
    // A process that was killed while it wrote has left one.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&new, "removed", &error)),
        _ => {}
    }
    // The name is new, so no link of somebody else's is followed.
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new);
    let mut file = opened.map_err(|error| failed(&new, "made", &error))?;
    let written = file.write_all(bytes).map_err(|error| failed(&new, "written", &error));
    if let Err(error) = written.and_then(|()| file.sync_all().map_err(|error| failed(&new, "synced", &error))) {
        // On a disk that is full, half a file would be in the way of others.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    fs::rename(&new, path).map_err(|error| failed(&new, "renamed", &error))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| failed(folder, "synced", &error))
}

/// None: there is no such file.
fn read(path: &Path) -> Result<Option<Overrides>, StateError> {
    let refuse = |what: &str| Err(StateError { path: path.to_owned(), what: what.to_owned() });
    // Not blocking, so that opening a FIFO returns at once.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return refuse("is a link"),
        Err(error) => return Err(failed(path, "opened", &error)),
    };
    let meta = file.metadata().map_err(|error| failed(path, "examined", &error))?;
    if !meta.is_file() {
        return refuse("is not a regular file");
    }
    if let Some(foreign) = Facts::from(&meta).foreign_to(geteuid().as_raw(), Asked::OursAlone) {
        return refuse(&foreign.to_string());
    }
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes);
    read.map_err(|error| failed(path, "read", &error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return refuse(&format!("is over {FILE_BYTES_MAX} bytes"));
    }
    match Overrides::decode(&bytes) {
        Ok(overrides) => Ok(Some(overrides)),
        Err(what) => refuse(&what),
    }
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

fn failed(path: &Path, step: &str, error: &io::Error) -> StateError {
    StateError { path: path.to_owned(), what: format!("cannot be {step}: {error}") }
}
