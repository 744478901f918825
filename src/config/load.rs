//! From what is named on a command line to a configuration: the file, `--set` and flags, read at the start and again at
//! every reload.
//!
//! Reads the file; may block as long as its file system does.

use std::path::{Path, PathBuf};

use super::error::{ConfigErrors, Origin};
use super::reader::Reader;
use super::source::{self, Entry, FILE_NAME};
use super::{Config, ConfigError, read, rules};

/// Where a configuration comes from, kept to read it again.
#[derive(Debug, Clone)]
pub struct Sources {
    work_base: PathBuf,
    path: Option<PathBuf>,
    sets: Vec<String>,
    listen: Option<String>,
    unix_socket: Option<PathBuf>,
}

impl Sources {
    /// A file (none: `config.json` of the working directory as it is now, if it is there), what lies on top of it as
    /// `group.key=JSON`, and the two flags.
    pub fn new(
        path: Option<PathBuf>,
        sets: Vec<String>,
        listen: Option<String>,
        unix_socket: Option<PathBuf>,
    ) -> Sources {
        // A working directory that is gone or unreadable leaves relative paths as they are.
        let work_base = std::env::current_dir().unwrap_or_default();
        Sources { work_base, path, sets, listen, unix_socket }
    }

    /// Reads all of it. A file that was found once must be there from then on: its loss is no wish for the defaults.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn load(&mut self) -> Result<Config, ConfigErrors> {
        self.path = self.path.take().or_else(|| found(&self.work_base));
        let (listen, unix_socket) = (self.listen.as_deref(), self.unix_socket.as_deref());
        Config::load_in(&self.work_base, self.path.as_deref(), &self.sets, listen, unix_socket)
    }
}

/// The file that nobody has to name. A link to nowhere is there, and is told as a file that cannot be opened.
fn found(work_base: &Path) -> Option<PathBuf> {
    work_base.join(FILE_NAME).symlink_metadata().is_ok().then(|| FILE_NAME.into())
}

impl Config {
    /// Reads the file (none: `config.json` of the working directory if it is there), lays each `group.key=JSON` of
    /// `sets` over it, then the two flags, and tells everything that is wrong at once.
    ///
    /// As root it takes no file that another user owns or may write to, or could put another in the place of.
    pub fn load(
        path: Option<&Path>,
        sets: &[String],
        listen: Option<&str>,
        unix_socket: Option<&Path>,
    ) -> Result<Config, ConfigErrors> {
        // Gone or unreadable working directories leave relative paths as they are.
        let work_base = std::env::current_dir().unwrap_or_default();
        Self::load_in(&work_base, path, sets, listen, unix_socket)
    }

    /// [`Config::load`] with the working directory given.
    pub(super) fn load_in(
        work_base: &Path,
        path: Option<&Path>,
        sets: &[String],
        listen: Option<&str>,
        unix_socket: Option<&Path>,
    ) -> Result<Config, ConfigErrors> {
        let found = if path.is_none() { found(work_base) } else { None };
        let path = path.or(found.as_deref());
        let mut errors = Vec::new();
        let text = path.map(|path| source::read_file(&work_base.join(path), path)).transpose();
        let text = text.unwrap_or_else(|e| {
            errors.push(e);
            None
        });
        let mut entries = match (&text, path) {
            (Some(text), Some(path)) => source::from_text(text, path, &mut errors),
            _ => Vec::new(),
        };
        for set in sets {
            source::lay_set(&mut entries, set).unwrap_or_else(|e| errors.push(e));
        }
        if let Some(listen) = listen {
            source::lay_flag(&mut entries, "--listen", "listen", listen);
        }
        if let Some(socket) = unix_socket {
            lay_socket(&mut entries, socket, &mut errors);
        }
        let file_base = path.and_then(Path::parent).map_or_else(|| work_base.to_owned(), |dir| work_base.join(dir));
        let mut reader = Reader::new(entries, errors, &file_base, work_base);
        let config = read::config(&mut reader);
        rules::check(&config, &mut reader);
        reader.finish(config)
    }
}

fn lay_socket(entries: &mut Vec<Entry<'_>>, socket: &Path, errors: &mut Vec<ConfigError>) {
    match socket.to_str() {
        Some(text) => source::lay_flag(entries, "--unix-socket", "unix_socket", text),
        None => errors.push(source::fault(
            &Origin::Flag("--unix-socket"),
            "unix_socket".to_owned(),
            &socket.to_string_lossy(),
            "is not UTF-8",
            "a path in UTF-8".to_owned(),
        )),
    }
}
