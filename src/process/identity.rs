//! Who a command is: its environment, and the uid that it runs under. Pure, after one look at our own at the start.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::poll::{PollTimeout, poll};
use nix::unistd::{Uid, User};

use crate::config::{Children, RunAs};
use crate::strings::{Strings, name_of};
use crate::sys::clone::Identity;

/// What each command's environment starts from.
#[derive(Debug, Clone)]
pub struct BaseEnvironment {
    /// As `NAME=VALUE`; values need not be text.
    passed: Strings,
    path: String,
    lang: String,
    user: String,
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_LANG: &str = "C.UTF-8";
const SHELL: &str = "/bin/sh";

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
        let mut passed = Strings::default();
        for (name, value) in pass_env.iter().filter_map(|name| Some((name, own(name)?.into_vec()))) {
            passed.push_parts(&[name.as_bytes(), b"=", &value]);
        }
        BaseEnvironment {
            passed,
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
        session: &Strings,
        command: &Strings,
        own: [(&'static str, String); 2],
    ) -> Strings {
        let mut ours = Strings::default();
        own.iter().for_each(|(name, value)| ours.push_parts(&[name.as_bytes(), b"=", value.as_bytes()]));
        let given = if clear { Strings::default() } else { self.given(home) };
        merged(&ours, [&given, session, command])
    }

    /// What every command gets that has no environment of its own.
    fn given(&self, home: &str) -> Strings {
        let mut given = self.passed.clone();
        let defaults =
            [("PATH", &*self.path), ("HOME", home), ("USER", &self.user), ("SHELL", SHELL), ("LANG", &self.lang)];
        defaults.iter().for_each(|(name, value)| given.push_parts(&[name.as_bytes(), b"=", value.as_bytes()]));
        given
    }
}

/// Each variable once, where its name stands first, as it stands last; but one of `ours` as it stands there.
fn merged(ours: &Strings, others: [&Strings; 3]) -> Strings {
    let lists = || std::iter::once(ours).chain(others);
    let count = lists().map(Strings::count).sum();
    let mut kept: Vec<&[u8]> = Vec::with_capacity(count);
    // Names are hashed by keys that std draws at random, so nobody can choose names that collide.
    let mut places: HashMap<&[u8], usize> = HashMap::with_capacity(count);
    for variable in lists().flat_map(Strings::iter) {
        match places.entry(name_of(variable)) {
            Entry::Vacant(place) => {
                place.insert(kept.len());
                kept.push(variable);
            }
            Entry::Occupied(place) if *place.get() < ours.count() => {}
            Entry::Occupied(place) => kept[*place.get()] = variable,
        }
    }
    Strings::of(&kept)
}

/// Where a program without a slash in its name is looked for.
pub fn search_path(environment: &Strings) -> &[u8] {
    environment.iter().find_map(|variable| variable.strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH.as_bytes())
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
    use crate::admission::seeded::Seeded;

    fn list(variables: &[&str]) -> Strings {
        variables.iter().map(|variable| variable.as_bytes()).collect()
    }

    fn base() -> BaseEnvironment {
        BaseEnvironment {
            passed: list(&["TZ=UTC", "LANG=old"]),
            path: "/bin".into(),
            lang: "C".into(),
            user: "u".into(),
        }
    }

    #[test]
    fn later_variables_win_and_ours_always() {
        let own = [("COFFERDAM_SESSION", "s".to_owned()), ("COFFERDAM_EXEC", "e".to_owned())];
        let session = list(&["A=1", "HOME=/h", "COFFERDAM_EXEC=forged"]);
        let all = base().of_command(false, "/base", &session, &list(&["A=2"]), own.clone());
        let expected = list(&[
            "COFFERDAM_SESSION=s",
            "COFFERDAM_EXEC=e",
            "TZ=UTC",
            "LANG=C",
            "PATH=/bin",
            "HOME=/h",
            "USER=u",
            "SHELL=/bin/sh",
            "A=2",
        ]);
        assert_eq!(all, expected);
        let bare = base().of_command(true, "/base", &list(&["A=1"]), &Strings::default(), own);
        assert_eq!(bare, list(&["COFFERDAM_SESSION=s", "COFFERDAM_EXEC=e", "A=1"]));
    }

    /// The same by looking each name up among all.
    fn merged_slowly(ours: &Strings, others: [&Strings; 3]) -> Strings {
        let mut all: Vec<&[u8]> = ours.iter().collect();
        for variable in others.into_iter().flat_map(Strings::iter) {
            match all.iter().position(|known| name_of(known) == name_of(variable)) {
                Some(at) if at < ours.count() => {}
                Some(at) => all[at] = variable,
                None => all.push(variable),
            }
        }
        Strings::of(&all)
    }

    #[test]
    fn merging_gives_what_looking_each_name_up_gives() {
        let mut random = Seeded(7);
        for _ in 0..500 {
            let mut drawn = |count: u64| {
                let mut all = Strings::default();
                for _ in 0..random.below(count + 1) {
                    // Few names, so that they meet; some begin as others do, some have no value, or one with a `=`.
                    let name = random.one_of(&["A", "AB", "B", "", "COFFERDAM_EXEC", "\u{e9}"]);
                    let value = random.one_of(&["", "=", "1", "A=1"]);
                    all.push_parts(&[name.as_bytes(), random.below(5).to_string().as_bytes(), b"=", value.as_bytes()]);
                }
                all
            };
            let (given, session, command) = (drawn(8), drawn(20), drawn(20));
            let ours = list(&["COFFERDAM_EXEC1=a", "COFFERDAM_EXEC2=b"]);
            let others = [&given, &session, &command];
            assert_eq!(merged(&ours, others), merged_slowly(&ours, others));
        }
    }

    /// By looking each name up among all it would take an hour.
    #[test]
    fn inv6_merging_takes_as_long_as_the_lists_are() {
        let numbered = |value: &str| {
            let mut all = Strings::default();
            (0..300_000).for_each(|number: u32| all.push_parts(&[format!("{number:x}={value}").as_bytes()]));
            all
        };
        let (session, command) = (numbered("session"), numbered("command"));
        assert_eq!(merged(&Strings::default(), [&Strings::default(), &session, &command]), command);
    }
}
