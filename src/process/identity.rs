//! Who a command is: its environment, and the uid that it runs under. Pure, after one look at our own at the start.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::unix::ffi::OsStringExt;

use nix::unistd::{Uid, User};

use crate::config::{Children, Config, RunAs};
use crate::enforcement::Host;
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
    As {
        name: String,
        identity: Identity,
    },
    Pool {
        base: u32,
        /// Uids for sessions; all of the pool, unless half of it has to serve as the neutral ones.
        count: u32,
        /// All of it.
        uid_count: u32,
        /// The first of as many neutral uids: see [`Identity::neutral`].
        neutrals: u32,
    },
}

/// Neutral uids lie this far above those that they stand for. Nobody gives out uids of the upper half of the numbers:
/// many programs take them for negative ones.
const UPPER_HALF: u32 = 1 << 31;

impl Policy {
    pub fn of_config(config: &Config, host: &Host) -> Result<Policy, String> {
        let root = Uid::effective().is_root();
        match &config.children.run_as {
            RunAs::Same => Ok(Policy::Same),
            RunAs::Auto if !root => Ok(Policy::Same),
            RunAs::Auto | RunAs::Pool if root => Policy::pool(config, host),
            RunAs::Auto | RunAs::Pool => Err("children.run_as: \"pool\" needs a daemon that is started as root".into()),
            RunAs::User(name) => {
                let user = User::from_name(name).ok().flatten();
                let user = user.ok_or_else(|| format!("children.run_as: there is no user \"{name}\" on this host"))?;
                match () {
                    () if user.uid == Uid::effective() => Ok(Policy::Same),
                    () if root => Policy::user(user, &config.children, host),
                    () => Err(format!("children.run_as: \"{name}\" needs a daemon that is started as root")),
                }
            }
        }
    }

    fn pool(config: &Config, host: &Host) -> Result<Policy, String> {
        let (base, uid_count) = (config.children.uid_base, config.children.uid_count);
        if let Some(neutrals) = mirrored(base, uid_count, host) {
            return Ok(Policy::Pool { base, count: uid_count, uid_count, neutrals });
        }
        let (count, sessions) = (uid_count / 2, config.sessions.max_sessions);
        if u64::from(count) < sessions {
            return Err(format!(
                "children.uid_count: {uid_count} is less than two uids for each of sessions.max_sessions ({sessions}): \
                 {}, so half of the pool is kept for what the daemon does as a session's uid; needed are at least {}",
                unmirrored(base, host),
                sessions.saturating_mul(2)
            ));
        }
        Ok(Policy::Pool { base, count, uid_count, neutrals: base + count })
    }

    fn user(user: User, children: &Children, host: &Host) -> Result<Policy, String> {
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        let last_of_pool = children.uid_base.saturating_add(children.uid_count.saturating_sub(1));
        let last_of_host =
            host.uid_map.iter().map(|&(first, count)| first.saturating_add(count.saturating_sub(1))).max();
        let spare = [Some(last_of_pool), last_of_host].into_iter().flatten();
        let spare = spare.filter(|spare| ![0, uid, u32::MAX].contains(spare) && host.maps(*spare, 1));
        let neutral = mirrored(uid, 1, host).or_else(|| spare.into_iter().next()).ok_or_else(|| {
            format!(
                "children.uid_base: {} with uid_count {}: {}, so a child that is being started as {} needs a uid of \
                 its own from the pool, and the last of it is not in /proc/self/uid_map either",
                children.uid_base,
                children.uid_count,
                unmirrored(uid, host),
                user.name
            )
        })?;
        Ok(Policy::As { name: user.name, identity: Identity { uid, gid, neutral } })
    }

    /// The identity of a session that holds the given place among all that can be open; none: our own.
    pub fn of_session(&self, place: u32) -> Option<Identity> {
        match self {
            Policy::Same => None,
            Policy::As { identity, .. } => Some(*identity),
            Policy::Pool { base, neutrals, .. } => {
                Some(Identity { uid: base + place, gid: base + place, neutral: neutrals + place })
            }
        }
    }

    /// A uid then belongs to one session alone.
    pub fn is_pool(&self) -> bool {
        matches!(self, Policy::Pool { .. })
    }

    /// The uids of sessions, as first and count, where each has its own.
    pub fn session_range(&self) -> Option<(u32, u32)> {
        match self {
            Policy::Pool { base, count, .. } => Some((*base, *count)),
            Policy::Same | Policy::As { .. } => None,
        }
    }

    /// The identity with this uid, where it is one of the pool.
    pub fn of_pool(&self, uid: u32) -> Option<Identity> {
        let (base, count) = self.session_range()?;
        self.of_session(uid.checked_sub(base).filter(|place| *place < count)?)
    }

    /// The most sessions that there can be, where a uid is one session's alone.
    pub fn sessions_max(&self) -> u64 {
        match self {
            Policy::Pool { count, .. } => (*count).into(),
            Policy::Same | Policy::As { .. } => u64::MAX,
        }
    }

    /// All uids of the pool, as first and count.
    pub fn pool_range(&self) -> Option<(u32, u32)> {
        match self {
            Policy::Pool { base, uid_count, .. } => Some((*base, *uid_count)),
            Policy::Same | Policy::As { .. } => None,
        }
    }

    /// The neutral uids, as first and count.
    pub fn neutrals(&self) -> Option<(u32, u32)> {
        match self {
            Policy::Same => None,
            Policy::As { identity, .. } => Some((identity.neutral, 1)),
            Policy::Pool { count, neutrals, .. } => Some((*neutrals, *count)),
        }
    }

    /// Whether a process with these ids is one of a daemon that acts as a command's uid.
    pub fn acts(&self, real: u32, effective: u32) -> bool {
        self.neutrals().is_some_and(|(first, count)| {
            let place = real.wrapping_sub(first);
            place < count && self.of_session(place).is_some_and(|identity| identity.uid == effective)
        })
    }
}

/// The first of the uids in the upper half that stand for these, if they exist here.
fn mirrored(first: u32, count: u32, host: &Host) -> Option<u32> {
    // The very last number is "no uid" to the kernel.
    let below = u64::from(first) + u64::from(count) < u64::from(UPPER_HALF);
    (below && host.maps(first + UPPER_HALF, count)).then(|| first + UPPER_HALF)
}

/// Why there is no such uid.
fn unmirrored(first: u32, host: &Host) -> String {
    match first.checked_add(UPPER_HALF) {
        Some(above) if !host.maps(above, 1) => format!("uid {above} is not in /proc/self/uid_map"),
        Some(_) | None => format!("the uids from {first} up reach into those from {UPPER_HALF} up"),
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

    /// A host whose user namespace has these uids, as first and count.
    fn host(uid_map: &[(u32, u32)]) -> Host {
        Host { uid_map: uid_map.to_vec(), ..Host::probe() }
    }

    fn config(uid_base: u32, uid_count: u32, max_sessions: u64) -> Config {
        let mut config = Config::default();
        (config.children.uid_base, config.children.uid_count) = (uid_base, uid_count);
        config.sessions.max_sessions = max_sessions;
        config
    }

    #[test]
    fn inv14_each_uid_has_a_neutral_one_that_no_session_has() {
        let policy = Policy::pool(&config(1000, 8, 8), &host(&[(0, u32::MAX)])).unwrap();
        assert_eq!(policy, Policy::Pool { base: 1000, count: 8, uid_count: 8, neutrals: UPPER_HALF + 1000 });
        let identity = policy.of_session(7).unwrap();
        assert_eq!(identity, Identity { uid: 1007, gid: 1007, neutral: UPPER_HALF + 1007 });
        assert_eq!(policy.neutrals(), Some((UPPER_HALF + 1000, 8)));
        assert!(policy.acts(UPPER_HALF + 1007, 1007));
        assert!(!policy.acts(UPPER_HALF + 1007, 1006) && !policy.acts(UPPER_HALF + 1008, 1008));
        assert!(!policy.acts(UPPER_HALF + 1007, UPPER_HALF + 1007) && !policy.acts(1007, 1007));
        // The last number is no uid.
        let last = Policy::pool(&config(UPPER_HALF - 9, 8, 4), &host(&[(0, u32::MAX)])).unwrap();
        assert_eq!(last.of_session(7).unwrap().neutral, u32::MAX - 1);
    }

    #[test]
    fn inv18_half_of_a_pool_is_neutral_where_there_are_no_other_uids() {
        for (base, map) in [(1000, (0, 65_536)), (UPPER_HALF + 5, (0, u32::MAX)), (UPPER_HALF - 8, (0, u32::MAX))] {
            let policy = Policy::pool(&config(base, 16, 8), &host(&[map])).unwrap();
            assert_eq!(policy, Policy::Pool { base, count: 8, uid_count: 16, neutrals: base + 8 });
            assert_eq!(policy.sessions_max(), 8);
            let refused = Policy::pool(&config(base, 15, 8), &host(&[map])).unwrap_err();
            assert!(refused.starts_with("children.uid_count: 15 is less than two uids"), "{refused}");
            assert!(refused.ends_with("needed are at least 16"), "{refused}");
        }
    }

    #[test]
    fn a_users_neutral_uid_is_one_that_exists_here() {
        let user = |uid| User { uid: Uid::from_raw(uid), ..User::from_uid(Uid::from_raw(0)).unwrap().unwrap() };
        let neutral = |uid, map: &[(u32, u32)]| {
            let policy = Policy::user(user(uid), &config(200, 10, 4).children, &host(map))?;
            Ok::<u32, String>(policy.of_session(3).unwrap().neutral)
        };
        assert_eq!(neutral(1000, &[(0, u32::MAX)]), Ok(UPPER_HALF + 1000));
        assert_eq!(neutral(1000, &[(0, 65_536)]), Ok(209));
        assert_eq!(neutral(50, &[(0, 100)]), Ok(99));
        assert_eq!(neutral(209, &[(209, 1)]).unwrap_err().split(':').next(), Some("children.uid_base"));
    }
}
