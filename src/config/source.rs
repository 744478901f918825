//! What is written: a file, `--set`, and flags become a flat list of keys with their values as raw JSON.
//!
//! Pure but for [`read_file`]. Knows which groups there are and nothing of what their keys mean.

use std::borrow::Cow;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{ConfigError, Origin, shortened};
use super::trusted;

/// What is read in the working directory when no file is named.
pub(super) const FILE_NAME: &str = "config.json";

/// A file larger than this is no configuration: a mistyped path, and memory spent before the first limit stands.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Keys that hold keys. `reader` asserts that it reads these and no others.
pub(super) const GROUPS: [&str; 13] = [
    "auth",
    "connections",
    "sessions",
    "commands",
    "limits",
    "quotas",
    "rate",
    "children",
    "memory",
    "cgroup",
    "reaper",
    "stats",
    "shutdown",
];

/// One key as written. `group` is empty at the top level.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub group: String,
    pub key: String,
    pub raw: Cow<'a, str>,
    pub origin: Origin,
}

impl Entry<'_> {
    pub fn path(&self) -> String {
        join(&self.group, &self.key)
    }
}

pub(super) fn join(group: &str, key: &str) -> String {
    if group.is_empty() { key.to_owned() } else { format!("{group}.{key}") }
}

/// The members of an object in the order written, a key that stands twice included; the values are not parsed yet.
pub(super) struct Fields<'a>(pub Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members<'a>(std::marker::PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Members<'a> {
            type Value = Fields<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Fields<'a>, M::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry::<String, &'de RawValue>()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(Members(std::marker::PhantomData))
    }
}

/// Reads a file whole; errors call it `named`. Never waits: a FIFO or a device is told, not read. As root it reads none
/// that somebody else could have written.
pub(super) fn read_file(path: &Path, named: &Path) -> Result<String, ConfigError> {
    let refuse = |reason: String, accepted: &str| {
        fault(&Origin::File(named.to_owned()), String::new(), "", &reason, accepted.to_owned())
    };
    let failed = |step: &str, e: io::Error| refuse(format!("cannot be {step}: {e}"), "");
    // Not blocking, so that opening a FIFO returns at once; std opens with O_CLOEXEC.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(|e| failed("opened", e))?;
    let meta = file.metadata().map_err(|e| failed("examined", e))?;
    if !meta.is_file() {
        let kind = if meta.is_dir() { "is a directory" } else { "is not a regular file" };
        return Err(refuse(kind.to_owned(), "a regular file"));
    }
    trusted::check(&meta, path).map_err(|trusted::Untrusted { reason, accepted }| refuse(reason, &accepted))?;
    let mut bytes = Vec::new();
    // One byte more than allowed, since the file may grow while it is read.
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| failed("read", e))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(refuse("is too large".to_owned(), &format!("at most {FILE_BYTES_MAX} bytes")));
    }
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = before.iter().filter(|&&b| b == b'\n').count() + 1;
        refuse(format!("line {line}: not UTF-8"), "JSON in UTF-8")
    })
}

/// The keys of a file's text.
pub(super) fn from_text<'a>(text: &'a str, path: &Path, errors: &mut Vec<ConfigError>) -> Vec<Entry<'a>> {
    let origin = Origin::File(path.to_owned());
    let whole: &RawValue = match serde_json::from_str(text) {
        Ok(whole) => whole,
        Err(e) => {
            let said = e.to_string();
            let said = said.split(" at line ").next().unwrap_or_default();
            let reason = format!("line {}, column {}: not JSON: {said}", e.line(), e.column());
            errors.push(fault(&origin, String::new(), "", &reason, "a JSON object without comments".to_owned()));
            return Vec::new();
        }
    };
    let mut entries = Vec::new();
    for (key, raw) in members(whole.get(), "", &origin, errors) {
        if !GROUPS.contains(&key.as_str()) {
            entries.push(Entry { group: String::new(), key, raw: raw.get().into(), origin: origin.clone() });
        } else if raw.get() != "null" {
            for (inner, raw) in members(raw.get(), &key, &origin, errors) {
                entries.push(Entry { group: key.clone(), key: inner, raw: raw.get().into(), origin: origin.clone() });
            }
        }
    }
    entries
}

/// The members of an object, each once; what is wrong with it is told under the name of `key`.
pub(super) fn members<'a>(
    raw: &'a str,
    key: &str,
    origin: &Origin,
    errors: &mut Vec<ConfigError>,
) -> Vec<(String, &'a RawValue)> {
    let Ok(Fields(fields)) = serde_json::from_str::<Fields<'a>>(raw) else {
        errors.push(fault(origin, key.to_owned(), raw, "is of the wrong type", "an object {…}".to_owned()));
        return Vec::new();
    };
    let mut once: Vec<(String, &RawValue)> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (name, raw) in fields {
        if seen.insert(name.clone()) {
            once.push((name, raw));
        } else {
            errors.push(fault(origin, join(key, &name), raw.get(), "stands twice", "each key once".to_owned()));
        }
    }
    once
}

/// Lays one `group.key=JSON` over what stands already; of two for the same key the later counts.
pub(super) fn lay_set<'a>(entries: &mut Vec<Entry<'a>>, set: &'a str) -> Result<(), ConfigError> {
    let refuse = |key: &str, found: &str, reason: &str, accepted: &str| {
        Err(fault(&Origin::Set, key.to_owned(), found, reason, accepted.to_owned()))
    };
    let Some((path, raw)) = set.split_once('=') else {
        return refuse("", set, "has no value", "group.key=JSON");
    };
    let (path, raw) = (path.trim(), raw.trim());
    if GROUPS.contains(&path) {
        return refuse(path, raw, "is a whole group", &format!("one key of it, {path}.KEY=JSON"));
    }
    if let Err(e) = serde_json::from_str::<&RawValue>(raw) {
        let said = e.to_string();
        let said = said.split(" at line ").next().unwrap_or_default();
        let hint = format!("JSON; a string needs its quotes through the shell, as --set '{path}=\"text\"'");
        return refuse(path, raw, &format!("is not JSON ({said})"), &hint);
    }
    let (group, key) = match path.split_once('.') {
        Some((group, key)) if GROUPS.contains(&group) => (group, key),
        _ => ("", path),
    };
    lay(entries, group, key, raw.into(), Origin::Set);
    Ok(())
}

/// Lays a flag's value over what stands already.
pub(super) fn lay_flag(entries: &mut Vec<Entry<'_>>, flag: &'static str, key: &str, value: &str) {
    let raw = serde_json::to_string(value).expect("a str is always JSON");
    lay(entries, "", key, raw.into(), Origin::Flag(flag));
}

fn lay<'a>(entries: &mut Vec<Entry<'a>>, group: &str, key: &str, raw: Cow<'a, str>, origin: Origin) {
    entries.retain(|e| e.group != group || e.key != key);
    entries.push(Entry { group: group.to_owned(), key: key.to_owned(), raw, origin });
}

/// An error with its value shortened.
pub(super) fn fault(origin: &Origin, key: String, found: &str, reason: &str, accepted: String) -> ConfigError {
    ConfigError { origin: origin.clone(), key, found: shortened(found), reason: reason.to_owned(), accepted }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> (Vec<String>, Vec<String>) {
        let mut errors = Vec::new();
        let entries = from_text(text, Path::new("f"), &mut errors);
        let shown = entries.iter().map(|e| format!("{}={}", e.path(), e.raw)).collect();
        (shown, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn groups_are_flattened_and_other_keys_kept_as_they_are() {
        let (entries, errors) = text(r#"{"listen":"x","rate":{"burst":1,"delay":null},"auth":null,"new":{"a":1}}"#);
        assert_eq!(entries, [r#"listen="x""#, "rate.burst=1", "rate.delay=null", r#"new={"a":1}"#]);
        assert!(errors.is_empty());
    }

    #[test]
    fn what_is_not_json_is_told_with_its_place() {
        let (_, errors) = text("{\n  \"listen\": oops\n}");
        assert!(errors[0].starts_with("f: line 2, column 13: not JSON: expected value"), "{errors:?}");
        let (_, errors) = text("");
        assert!(errors[0].starts_with("f: line 1, column 0: not JSON: EOF"), "{errors:?}");
        let (_, errors) = text("{} {}");
        assert!(errors[0].contains("trailing characters"), "{errors:?}");
        // Deep nesting costs an error, not the stack.
        let (_, errors) = text(&"[".repeat(1 << 20));
        assert_eq!(errors.len(), 1);
    }

    #[test]
    fn what_is_not_an_object_is_told() {
        assert_eq!(text("[1]").1, ["f: [1] is of the wrong type; accepted: an object {…}"]);
        assert_eq!(text(r#"{"rate":5}"#).1, ["f: rate: 5 is of the wrong type; accepted: an object {…}"]);
    }

    #[test]
    fn a_key_that_stands_twice_is_told_at_every_level() {
        let (_, errors) = text(r#"{"rate":{"burst":1,"burst":2},"listen":"a","listen":"b","rate":{}}"#);
        let keys: Vec<_> = errors.iter().map(|e| e.split(" stands twice").next().unwrap()).collect();
        assert_eq!(keys, [r#"f: listen: "b""#, "f: rate: {}", "f: rate.burst: 2"]);
    }

    #[test]
    fn a_set_lies_over_the_file_and_the_later_one_counts() {
        let mut entries = from_text(r#"{"rate":{"burst":1}}"#, Path::new("f"), &mut Vec::new());
        lay_set(&mut entries, "rate.burst=2").unwrap();
        lay_set(&mut entries, " rate.burst = 3 ").unwrap();
        lay_flag(&mut entries, "--listen", "listen", "a\"b");
        let shown: Vec<_> = entries.iter().map(|e| format!("{}={}", e.path(), e.raw)).collect();
        assert_eq!(shown, ["rate.burst=3", r#"listen="a\"b""#]);
    }

    #[test]
    fn a_set_that_cannot_be_read_is_told_with_a_hint() {
        let told = |set| lay_set(&mut Vec::new(), set).unwrap_err().to_string();
        assert!(told("listen=127.0.0.1:0").contains(r#"needs its quotes through the shell, as --set 'listen="text"'"#));
        assert!(told("listen=").contains("is not JSON"));
        assert_eq!(told("listen"), "--set listen has no value; accepted: group.key=JSON");
        assert_eq!(told("rate={}"), "--set rate: {} is a whole group; accepted: one key of it, rate.KEY=JSON");
    }

    #[test]
    fn only_a_regular_file_of_a_sane_size_is_read() {
        let dir = std::env::temp_dir().join(format!("cofferdam-source-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let told = |path: &Path| read_file(path, path).unwrap_err().to_string();

        assert!(told(&dir).ends_with("is a directory; accepted: a regular file"));
        assert!(told(&dir.join("none")).contains("cannot be opened: No such file"));
        assert!(told(Path::new("/dev/null")).contains("is not a regular file"));
        let fifo = dir.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(told(&fifo).contains("is not a regular file"));

        let file = dir.join("file");
        std::fs::write(&file, vec![b' '; FILE_BYTES_MAX as usize]).unwrap();
        assert_eq!(read_file(&file, &file).unwrap().len() as u64, FILE_BYTES_MAX);
        std::fs::write(&file, vec![b' '; FILE_BYTES_MAX as usize + 1]).unwrap();
        assert!(told(&file).ends_with("is too large; accepted: at most 1048576 bytes"));
        std::fs::write(&file, b"{}\n\xff").unwrap();
        assert!(told(&file).contains("line 2: not UTF-8"));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
