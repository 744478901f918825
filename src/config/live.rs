//! Which keys can change while the daemon runs. Pure.
//!
//! What stands in the one table here is settled at the start: sockets are bound, threads run, uids are locked, folders
//! are open. Every other key is live: a reload changes it for what comes after.

use serde_json::Value;

use super::Config;
use super::error::shortened;

/// Written as fields, so that a key that does not exist does not compile.
macro_rules! settled {
    ($($first:ident $(. $rest:ident)?),* $(,)?) => {
        /// Keeps what runs of every key whose change needs a restart.
        fn keep_settled(running: &Config, next: &mut Config) {
            $(next.$first $(.$rest)? = running.$first $(.$rest)?.clone();)*
        }

        #[cfg(test)]
        const SETTLED: &[&str] = &[$(concat!(stringify!($first) $(, ".", stringify!($rest))?)),*];
    };
}

settled! {
    listen,
    unix_socket,
    unix_socket_mode,
    state_dir,
    // Whether there is authentication at all decides where may be listened; what the file holds is live.
    auth.token_file,
    sessions.threads,
    children.run_as,
    children.uid_base,
    children.uid_count,
    children.workspaces,
    cgroup.mode,
    cgroup.root,
    cgroup.cpu_quota,
}

/// A key that has two values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub key: String,
    /// As JSON, shortened.
    pub one: String,
    pub other: String,
}

impl Config {
    /// What `asked` makes of the configuration that runs: all that it says, but for what needs a restart.
    pub(crate) fn next(&self, asked: &Config) -> Config {
        let mut next = asked.clone();
        keep_settled(self, &mut next);
        // A rule between a live key and a settled one: the uids of more sessions are not ours.
        if next.sessions.max_sessions > u64::from(next.children.uid_count) {
            next.sessions.max_sessions = self.sessions.max_sessions;
        }
        next
    }

    /// Every key that has another value there.
    pub(crate) fn differences(&self, other: &Config) -> Vec<Difference> {
        keys(self)
            .into_iter()
            .zip(keys(other))
            .filter(|((_, one), (_, other))| one != other)
            .map(|((key, one), (_, other))| Difference {
                key,
                one: shortened(&one.to_string()),
                other: shortened(&other.to_string()),
            })
            .collect()
    }
}

/// All keys with their values; every configuration has the same.
fn keys(config: &Config) -> Vec<(String, Value)> {
    let Ok(Value::Object(all)) = serde_json::to_value(config) else { return Vec::new() };
    let mut keys = Vec::new();
    for (name, value) in all {
        match value {
            Value::Object(group) => keys.extend(group.into_iter().map(|(key, value)| (format!("{name}.{key}"), value))),
            value => keys.push((name, value)),
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(differences: &[Difference]) -> Vec<&str> {
        differences.iter().map(|difference| difference.key.as_str()).collect()
    }

    #[test]
    fn what_is_live_is_taken_and_what_is_settled_stays() {
        let running = Config::default();
        let mut asked = Config { listen: Some("127.0.0.1:1".into()), ..Config::default() };
        asked.sessions.threads = 3;
        asked.limits.limit_nofile = 99;
        asked.quotas.registered.clear();
        let next = running.next(&asked);
        assert_eq!(next.listen, running.listen);
        assert_eq!(next.limits.limit_nofile, 99);
        assert_eq!(named(&running.differences(&next)), ["limits.limit_nofile", "quotas.registered"]);
        let kept = next.differences(&asked);
        assert_eq!(named(&kept), ["listen", "sessions.threads"]);
        assert_eq!((kept[0].one.as_str(), kept[0].other.as_str()), (r#""127.0.0.1:7643""#, r#""127.0.0.1:1""#));
    }

    #[test]
    fn more_sessions_than_the_pool_has_uids_wait_for_the_restart_that_widens_it() {
        let running = Config::default();
        let mut asked = Config::default();
        (asked.sessions.max_sessions, asked.children.uid_count) = (5000, 5000);
        let next = running.next(&asked);
        assert_eq!(next.sessions.max_sessions, running.sessions.max_sessions);
        assert_eq!(named(&next.differences(&asked)), ["children.uid_count", "sessions.max_sessions"]);
        asked.sessions.max_sessions = u64::from(running.children.uid_count);
        assert_eq!(running.next(&asked).sessions.max_sessions, u64::from(running.children.uid_count));
    }

    #[test]
    fn the_readme_names_what_needs_a_restart() {
        let readme = include_str!("../../README.md");
        let (paragraph, _) = readme.split_once("These need a restart:").unwrap().1.split_once("\n\n").unwrap();
        let (list, _) = paragraph.split_once(". They are told").unwrap();
        let told: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
        assert_eq!(told, SETTLED);
    }
}
