//! Who can write to a file or a folder, going by its owner and mode. Pure.
//!
//! A daemon of root does what its files say, and removes what is in its folders; so whoever can write there is root. An
//! ACL needs no look of its own: what it allows at most stands in the bits of the group.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::FileStat;
use nix::unistd::geteuid;

/// Owner and mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The owner's uid.
    pub uid: u32,
    /// The mode; bits of the kind are ignored.
    pub mode: u32,
}

/// What is asked of a folder or file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Nobody else can write to it.
    OursAlone,
    /// Nobody else can replace or remove what is ours in it: a sticky folder, as `/tmp`, will do.
    OursStay,
}

/// How somebody else could write there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Foreign {
    facts: Facts,
    us: u32,
    others_write: bool,
}

const STICKY: u32 = 0o1000;
const OTHERS_WRITE: u32 = 0o022;

impl From<&Metadata> for Facts {
    fn from(meta: &Metadata) -> Facts {
        Facts { uid: meta.uid(), mode: meta.mode() }
    }
}

impl From<&FileStat> for Facts {
    fn from(stat: &FileStat) -> Facts {
        Facts { uid: stat.st_uid, mode: stat.st_mode }
    }
}

impl Facts {
    /// How somebody else than `us` could write there.
    pub fn foreign_to(self, us: u32, asked: Asked) -> Option<Foreign> {
        let others_write = self.mode & OTHERS_WRITE != 0 && !(asked == Asked::OursStay && self.mode & STICKY != 0);
        (self.uid != us || others_write).then_some(Foreign { facts: self, us, others_write })
    }

    /// The same for a daemon of root. Another trusts whom its user trusts.
    pub fn foreign_to_root(self, asked: Asked) -> Option<Foreign> {
        geteuid().is_root().then(|| self.foreign_to(0, asked)).flatten()
    }
}

impl Foreign {
    /// What to do about it.
    pub fn mend(&self, path: &Path) -> String {
        let path = path.display();
        let us = if self.us == 0 { "root".to_owned() } else { self.us.to_string() };
        let owner = (self.facts.uid != self.us).then(|| format!("chown {us} {path}"));
        let mode = self.others_write.then(|| format!("chmod go-w {path}"));
        owner.into_iter().chain(mode).collect::<Vec<_>>().join(" && ")
    }
}

impl fmt::Display for Foreign {
    /// As a clause about the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts { uid, mode } = self.facts;
        match uid == self.us {
            true => write!(f, "may be written by others: its mode is {:04o}", mode & 0o7777),
            false => write!(f, "belongs to the user {uid}, not to {}", self.us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_else_can_write_to_is_ours() {
        use Asked::{OursAlone, OursStay};
        for (uid, mode, asked, ours) in [
            (0, 0o100644, OursAlone, true),
            (0, 0o100600, OursAlone, true),
            (0, 0o040755, OursAlone, true),
            (0, 0o100664, OursAlone, false),
            (0, 0o100646, OursAlone, false),
            (7, 0o100600, OursAlone, false),
            (0, 0o041777, OursAlone, false),
            (0, 0o041777, OursStay, true),
            (0, 0o041775, OursStay, true),
            (0, 0o040777, OursStay, false),
            // The owner of a sticky folder can replace what is in it.
            (7, 0o041777, OursStay, false),
            (7, 0o040755, OursStay, false),
        ] {
            let facts = Facts { uid, mode };
            assert_eq!(facts.foreign_to(0, asked).is_none(), ours, "{uid} {mode:o} {asked:?}");
        }
    }

    #[test]
    fn what_is_wrong_and_how_to_mend_it_is_told() {
        let told = |uid, mode, us| {
            let foreign = Facts { uid, mode }.foreign_to(us, Asked::OursAlone).unwrap();
            (foreign.to_string(), foreign.mend(Path::new("/x")))
        };
        assert_eq!(told(7, 0o100644, 0), ("belongs to the user 7, not to 0".into(), "chown root /x".into()));
        assert_eq!(told(7, 0o100666, 8).1, "chown 8 /x && chmod go-w /x");
        let writable = "may be written by others: its mode is 1777";
        assert_eq!(told(0, 0o041777, 0), (writable.into(), "chmod go-w /x".into()));
    }
}
