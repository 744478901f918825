//! Who a command is: its environment, and the uid that it runs under. Pure, after one look at our own at the start.

use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::poll::{PollTimeout, poll};
use nix::unistd::{Uid, User};

use crate::config::{Children, RunAs};
use crate::sys::clone::Identity;

/// What each command's environment starts from.
#[derive(Debug, Clone)]
pub struct BaseEnvironment {
    passed: Vec<Variable>,
    path: String,
    lang: String,
    user: String,
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_LANG: &str = "C.UTF-8";
const SHELL: &str = "/bin/sh";

/// A name, and a value that need not be text.
pub type Variable = (String, Vec<u8>);

impl BaseEnvironment {
    /// Reads our own environment, once.
    pub fn of_daemon(pass_env: &[String], policy: &Policy) -> Self {
        let own = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| own(name).and_then(|value| value.into_string().ok());
        let user = match policy {
            Policy::Same => User::from_uid(Uid::effective()).ok().flatten().map(|user| user.name),
            Policy::As { name, .. } => Some(name.clone()),
            Policy::Pool { .. } => None,
        };
        BaseEnvironment {
            passed: pass_env.iter().filter_map(|name| Some((name.clone(), own(name)?.into_vec()))).collect(),
            path: text("PATH").unwrap_or_else(|| DEFAULT_PATH.into()),
            lang: text("LANG").unwrap_or_else(|| DEFAULT_LANG.into()),
            user: user.unwrap_or_else(|| "cofferdam".into()),
        }
    }

    /// The whole environment of a command; what names it stands first, where a search for it finds it soonest.
    pub fn of_command(
        &self,
        clear: bool,
        home: &str,
        session: &[(String, String)],
        command: &[(String, String)],
        own: [(&'static str, String); 2],
    ) -> Vec<Variable> {
        let mut all: Vec<Variable> =
            own.into_iter().map(|(name, value)| (name.to_owned(), value.into_bytes())).collect();
        let ours = all.len();
        let mut put = |name: &str, value: &[u8]| match all.iter_mut().position(|(known, _)| known == name) {
            Some(at) if at < ours => {}
            Some(at) => all[at].1 = value.to_vec(),
            None => all.push((name.to_owned(), value.to_vec())),
        };
        if !clear {
            for (name, value) in &self.passed {
                put(name, value);
            }
            let defaults =
                [("PATH", &*self.path), ("HOME", home), ("USER", &self.user), ("SHELL", SHELL), ("LANG", &self.lang)];
            for (name, value) in defaults {
                put(name, value.as_bytes());
            }
        }
        for (name, value) in session.iter().chain(command) {
            put(name, value.as_bytes());
        }
        all
    }
}

/// Where a program without a slash in its name is looked for.
pub fn search_path(environment: &[Variable]) -> &[u8] {
    environment.iter().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH.as_bytes(), |(_, path)| path)
}

/// Whose uid commands run under, settled at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    Same,
    As { name: String, identity: Identity },
    Pool { base: u32 },
}

impl Policy {
    pub fn of_config(children: &Children) -> Result<Policy, String> {
        let root = Uid::effective().is_root();
        let pool = Policy::Pool { base: children.uid_base };
        match &children.run_as {
            RunAs::Same => Ok(Policy::Same),
            RunAs::Auto if root => Ok(pool),
            RunAs::Auto => Ok(Policy::Same),
            RunAs::Pool if root => Ok(pool),
            RunAs::Pool => Err("children.run_as: \"pool\" needs a daemon that is started as root".into()),
            RunAs::User(name) => {
                let user = User::from_name(name).ok().flatten();
                let user = user.ok_or_else(|| format!("children.run_as: there is no user \"{name}\" on this host"))?;
                let identity = Identity { uid: user.uid.as_raw(), gid: user.gid.as_raw() };
                match () {
                    () if user.uid == Uid::effective() => Ok(Policy::Same),
                    () if root => Ok(Policy::As { name: user.name, identity }),
                    () => Err(format!("children.run_as: \"{name}\" needs a daemon that is started as root")),
                }
            }
        }
    }

    /// The identity of a session that holds the given place among all that can be open; none: our own.
    pub fn of_session(&self, place: u32) -> Option<Identity> {
        match self {
            Policy::Same => None,
            Policy::As { identity, .. } => Some(*identity),
            Policy::Pool { base } => Some(Identity { uid: base + place, gid: base + place }),
        }
    }

    /// A uid then belongs to one session alone.
    pub fn is_pool(&self) -> bool {
        matches!(self, Policy::Pool { .. })
    }
}

/// The uids of a pool, locked: another daemon's range on this host cannot overlap it. A file lock per byte, a byte per
/// uid; the kernel gives it back whenever and however this process ends.
#[derive(Debug)]
pub struct UidRange {
    _lock: std::fs::File,
}

/// One place for all daemons of a host that can switch uids.
const UID_LOCKS: &str = "/run/cofferdam-uids.lock";

/// A predecessor that was killed ends its commands before it gives its uids back: a restart waits for that.
const PREDECESSOR: Duration = Duration::from_secs(3);
const PREDECESSOR_LOOK_MS: u16 = 20;

impl UidRange {
    pub fn lock(base: u32, count: u32) -> Result<UidRange, String> {
        let open = || {
            use std::os::unix::fs::OpenOptionsExt;
            std::fs::File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(UID_LOCKS)
        };
        let file = open().map_err(|error| format!("children.uid_base: cannot open {UID_LOCKS}: {error}"))?;
        let range = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: base.into(),
            l_len: count.into(),
            l_pid: 0,
        };
        let deadline = Instant::now() + PREDECESSOR;
        let mut locked = fcntl(&file, FcntlArg::F_OFD_SETLK(&range));
        while locked.is_err() && Instant::now() < deadline {
            let _ = poll(&mut [], PollTimeout::from(PREDECESSOR_LOOK_MS));
            locked = fcntl(&file, FcntlArg::F_OFD_SETLK(&range));
        }
        match locked {
            Ok(_) => Ok(UidRange { _lock: file }),
            Err(errno) => Err(format!(
                "children.uid_base: {base} with uid_count {count}: another daemon on this host has uids of that range \
                 ({errno}); give this one a range of its own"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    fn base() -> BaseEnvironment {
        BaseEnvironment {
            passed: vec![("TZ".into(), b"UTC".to_vec()), ("LANG".into(), b"old".to_vec())],
            path: "/bin".into(),
            lang: "C".into(),
            user: "u".into(),
        }
    }

    #[test]
    fn later_variables_win_and_ours_always() {
        let own = [("COFFERDAM_SESSION", "s".to_owned()), ("COFFERDAM_EXEC", "e".to_owned())];
        let session = [pair("A", "1"), pair("HOME", "/h"), pair("COFFERDAM_EXEC", "forged")];
        let all = base().of_command(false, "/base", &session, &[pair("A", "2")], own.clone());
        let value = |name: &str| {
            all.iter().find(|(known, _)| known == name).map(|(_, value)| std::str::from_utf8(value).unwrap())
        };
        assert_eq!(value("A"), Some("2"));
        assert_eq!(value("HOME"), Some("/h"));
        assert_eq!(value("LANG"), Some("C"));
        assert_eq!(value("TZ"), Some("UTC"));
        assert_eq!(value("COFFERDAM_EXEC"), Some("e"));
        let bare = base().of_command(true, "/base", &[pair("A", "1")], &[], own);
        assert_eq!(bare.len(), 3);
    }
}
