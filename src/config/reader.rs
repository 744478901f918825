//! Takes typed values out of what was written, one line a key, and collects every error on the way.
//!
//! Pure. Each method names a key, its default and what is accepted. A value that cannot be honoured is told and read
//! as its default, so that one pass finds all errors; `finish` tells the keys that nobody asked for.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::Mode;
use super::error::{ConfigError, ConfigErrors, Origin, shortened};
use super::source::{Entry, GROUPS, fault, join, members};

/// No size or count is larger: 2^60, an exbibyte, leaves room to add a few without overflow.
pub(super) const LIMIT_MAX: i64 = 1 << 60;

const WRONG_TYPE: &str = "is of the wrong type";
const OUT_OF_RANGE: &str = "is out of range";

/// Why a value is refused, in a clause that follows it.
type Reason = Cow<'static, str>;

pub(super) struct Reader<'a> {
    entries: Vec<Entry<'a>>,
    /// Keys that were asked for, as (group, key).
    asked: Vec<(&'static str, &'static str)>,
    group: &'static str,
    /// What a relative path is relative to, in the file and elsewhere.
    file_base: PathBuf,
    work_base: PathBuf,
    pub errors: Vec<ConfigError>,
}

impl<'a> Reader<'a> {
    pub fn new(entries: Vec<Entry<'a>>, errors: Vec<ConfigError>, file_base: &Path, work_base: &Path) -> Self {
        let (file_base, work_base) = (file_base.to_owned(), work_base.to_owned());
        Reader { entries, asked: Vec::new(), group: "", file_base, work_base, errors }
    }

    /// The configuration, if nothing was wrong with it.
    pub fn finish<T>(mut self, config: T) -> Result<T, ConfigErrors> {
        self.refuse_unknown();
        if self.errors.is_empty() { Ok(config) } else { Err(ConfigErrors(self.errors)) }
    }

    /// Reads one group.
    pub fn group<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Self) -> T) -> T {
        debug_assert!(GROUPS.contains(&name), "{name} is missing in source::GROUPS");
        self.group = name;
        let value = read(self);
        self.group = "";
        value
    }

    pub fn integer<T>(&mut self, key: &'static str, default: T, range: RangeInclusive<T>) -> T
    where
        T: Copy + Display + Into<i128> + TryFrom<i128>,
    {
        let accepted = format!("an integer from {} to {}", range.start(), range.end());
        self.typed(key, default, &accepted, |raw| {
            let value = whole(raw)?;
            let inside = (*range.start()).into() <= value && value <= (*range.end()).into();
            if inside { T::try_from(value).map_err(|_| OUT_OF_RANGE.into()) } else { Err(OUT_OF_RANGE.into()) }
        })
    }

    /// A limit that can be lifted: -1 is unlimited, 0 is not.
    pub fn limit(&mut self, key: &'static str, default: i64, floor: i64) -> i64 {
        let accepted = format!("-1 (unlimited) or an integer from {floor} to {LIMIT_MAX}");
        self.typed(key, default, &accepted, |raw| match whole(raw)? {
            -1 => Ok(-1),
            n if (i128::from(floor)..=i128::from(LIMIT_MAX)).contains(&n) => Ok(n as i64),
            _ => Err(OUT_OF_RANGE.into()),
        })
    }

    /// A duration, fractional if you like.
    pub fn seconds(&mut self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> f64 {
        let accepted = format!("seconds from {} to {}", range.start(), range.end());
        self.typed(key, default, &accepted, |raw| number_in(raw, &range))
    }

    /// As `seconds`, and -1 is unlimited.
    pub fn seconds_limit(&mut self, key: &'static str, default: f64, range: RangeInclusive<f64>) -> f64 {
        let accepted = format!("-1 (unlimited) or seconds from {} to {}", range.start(), range.end());
        self.typed(key, default, &accepted, |raw| number_in(raw, &(-1.0..=-1.0)).or_else(|_| number_in(raw, &range)))
    }

    /// A number or null.
    pub fn optional_number(&mut self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let accepted = format!("null or a number from {} to {}", range.start(), range.end());
        self.typed(key, None, &accepted, |raw| number_in(raw, &range).map(Some))
    }

    pub fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        self.typed(key, default, "true or false", parsed)
    }

    /// One of a few words.
    pub fn choice<T: Clone>(&mut self, key: &'static str, default: T, words: &[(&str, T)]) -> T {
        let accepted = words.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        self.typed(key, default, &accepted, |raw| {
            let text: String = parsed(raw)?;
            let found = words.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| value.clone()).ok_or("is none of the words".into())
        })
    }

    /// Permission bits in octal, as `"0600"`.
    pub fn mode(&mut self, key: &'static str, default: Mode) -> Mode {
        self.typed(key, default, "a string of 3 or 4 octal digits up to \"0777\"", |raw| {
            let text: String = parsed(raw)?;
            if !(3..=4).contains(&text.len()) || !text.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
                return Err("is not an octal mode".into());
            }
            let bits = u32::from_str_radix(&text, 8).map_err(|_| Reason::from(OUT_OF_RANGE))?;
            if bits <= 0o777 { Ok(Mode(bits)) } else { Err(OUT_OF_RANGE.into()) }
        })
    }

    /// A path or null; relative to the folder of the file it stands in, else to the working directory.
    pub fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let from_file = matches!(self.origin(self.group, key), Origin::File(_));
        let base = if from_file { self.file_base.clone() } else { self.work_base.clone() };
        self.typed(key, None, "null or a path", |raw| {
            let text: String = parsed(raw)?;
            match text.as_str() {
                "" => Err("is empty".into()),
                text if text.contains('\0') => Err("holds a NUL".into()),
                text => Ok(Some(base.join(text))),
            }
        })
    }

    /// A value with a rule of its own, told by `parse`. Null is the default.
    pub fn parsed_by<T, W: DeserializeOwned>(
        &mut self,
        key: &'static str,
        default: T,
        accepted: &str,
        parse: impl FnOnce(W) -> Result<T, Reason>,
    ) -> T {
        self.typed(key, default, accepted, |raw| parse(parsed::<W>(raw)?))
    }

    /// As `parsed_by`, where null is a value and not the default.
    pub fn nullable_by<T>(
        &mut self,
        key: &'static str,
        default: T,
        null: T,
        accepted: &str,
        parse: impl FnOnce(String) -> Result<T, Reason>,
    ) -> T {
        if self.written(key).is_some_and(|(raw, _)| raw == "null") {
            return null;
        }
        self.parsed_by(key, default, accepted, parse)
    }

    /// An object of integers with names from a list, -1 being unlimited and 0 none.
    pub fn counts(
        &mut self,
        key: &'static str,
        default: BTreeMap<String, i64>,
        names: &[&str],
    ) -> BTreeMap<String, i64> {
        let Some((raw, origin)) = self.given(key) else { return default };
        let mut counts = BTreeMap::new();
        let path = join(self.group, key);
        for (name, raw) in members(&raw, &path, &origin, &mut self.errors) {
            if let Some(count) = self.count(&join(&path, &name), &name, raw.get(), &origin, names) {
                counts.insert(name, count);
            }
        }
        counts
    }

    /// One of `counts`.
    pub fn count(&mut self, path: &str, name: &str, raw: &str, origin: &Origin, names: &[&str]) -> Option<i64> {
        if !names.contains(&name) {
            self.errors.push(unknown(origin, path, name, names));
            return None;
        }
        match whole(raw) {
            Ok(n) if (-1..=i128::from(LIMIT_MAX)).contains(&n) => return Some(n as i64),
            Ok(_) => self.refuse(origin, path, raw, OUT_OF_RANGE, COUNT_ACCEPTED),
            Err(reason) => self.refuse(origin, path, raw, &reason, COUNT_ACCEPTED),
        }
        None
    }

    /// The value of a key of the current group, unless it is absent or null.
    pub fn given(&mut self, key: &'static str) -> Option<(Cow<'a, str>, Origin)> {
        self.written(key).filter(|(raw, _)| raw != "null")
    }

    pub fn refuse(&mut self, origin: &Origin, path: &str, found: &str, reason: &str, accepted: &str) {
        self.errors.push(fault(origin, path.to_owned(), found, reason, accepted.to_owned()));
    }

    /// Where a key stands.
    pub fn origin(&self, group: &str, key: &str) -> Origin {
        let entry = self.entries.iter().find(|e| e.group == group && e.key == key);
        entry.map_or(Origin::Default, |e| e.origin.clone())
    }

    /// Whether something was wrong with this key already.
    pub fn refused(&self, path: &str) -> bool {
        self.errors.iter().any(|e| e.key == path)
    }

    fn written(&mut self, key: &'static str) -> Option<(Cow<'a, str>, Origin)> {
        if !self.asked.contains(&(self.group, key)) {
            self.asked.push((self.group, key));
        }
        let entry = self.entries.iter().find(|e| e.group == self.group && e.key == key)?;
        Some((entry.raw.clone(), entry.origin.clone()))
    }

    fn typed<T>(
        &mut self,
        key: &'static str,
        default: T,
        accepted: &str,
        parse: impl FnOnce(&str) -> Result<T, Reason>,
    ) -> T {
        let Some((raw, origin)) = self.given(key) else { return default };
        parse(&raw).unwrap_or_else(|reason| {
            self.refuse(&origin, &join(self.group, key), &raw, &reason, accepted);
            default
        })
    }

    fn refuse_unknown(&mut self) {
        let asked: HashSet<(&str, &str)> = self.asked.iter().copied().collect();
        for entry in &self.entries {
            if asked.contains(&(entry.group.as_str(), entry.key.as_str())) {
                continue;
            }
            let mut names: Vec<&str> =
                asked.iter().filter(|(group, _)| *group == entry.group).map(|(_, k)| *k).collect();
            if entry.group.is_empty() {
                names.extend(GROUPS);
            }
            names.sort_unstable();
            self.errors.push(unknown(&entry.origin, &entry.path(), &entry.key, &names));
        }
    }
}

const COUNT_ACCEPTED: &str = "-1 (unlimited) or an integer from 0 (none) to 1152921504606846976";

fn unknown(origin: &Origin, path: &str, name: &str, names: &[&str]) -> ConfigError {
    let near = nearest(name, names).map(|near| format!(" (meant {near}?)")).unwrap_or_default();
    let reason = format!("unknown key{near}");
    fault(origin, shortened(path), "", &reason, names.join(", "))
}

fn parsed<T: DeserializeOwned>(raw: &str) -> Result<T, Reason> {
    serde_json::from_str(raw).map_err(|_| WRONG_TYPE.into())
}

/// A whole number, however large: what its range is, is the caller's to say.
fn whole(raw: &str) -> Result<i128, Reason> {
    if !raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return Err(WRONG_TYPE.into());
    }
    if raw.contains(['.', 'e', 'E']) {
        return Err("is not written as a whole number".into());
    }
    raw.parse().map_err(|_| OUT_OF_RANGE.into())
}

fn number_in(raw: &str, range: &RangeInclusive<f64>) -> Result<f64, Reason> {
    if !raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return Err(WRONG_TYPE.into());
    }
    match raw.parse() {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => Err(OUT_OF_RANGE.into()),
    }
}

/// The name that was most likely meant: two letters differ, or a third of a long one, and never half of it.
fn nearest<'n>(name: &str, names: &[&'n str]) -> Option<&'n str> {
    // A name this long is no slip of a key, and the distance costs its length.
    if name.len() > 64 {
        return None;
    }
    let (distance, near) = names.iter().map(|near| (distance(name, near), *near)).min()?;
    (distance <= 2.max(near.len() / 3) && distance * 2 < near.len()).then_some(near)
}

/// Letters to insert, delete or replace (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::super::source::lay_set;
    use super::*;

    /// Reads one key and gives the value and what was told.
    fn read<T>(set: &str, take: impl FnOnce(&mut Reader<'_>) -> T) -> (T, String) {
        let mut entries = Vec::new();
        lay_set(&mut entries, set).unwrap();
        let mut reader = Reader::new(entries, Vec::new(), Path::new("/file"), Path::new("/base"));
        let value = take(&mut reader);
        let told = reader.finish(()).err().map(|e| e.to_string()).unwrap_or_default();
        (value, told)
    }

    #[test]
    fn an_integer_is_whole_and_in_its_range() {
        let integer = |raw: &str| read(&format!("k={raw}"), |r| r.integer("k", 5u64, 1..=10));
        assert_eq!(integer("1"), (1, String::new()));
        assert_eq!(integer("10"), (10, String::new()));
        assert_eq!(integer("null"), (5, String::new()));
        let told = |raw: &str, reason: &str| {
            assert_eq!(integer(raw), (5, format!("--set k: {raw} {reason}; accepted: an integer from 1 to 10")));
        };
        told("0", OUT_OF_RANGE);
        told("11", OUT_OF_RANGE);
        told("-1", OUT_OF_RANGE);
        told(&"9".repeat(60), OUT_OF_RANGE);
        told("1.5", "is not written as a whole number");
        told("1e1", "is not written as a whole number");
        told(r#""5""#, WRONG_TYPE);
        told("true", WRONG_TYPE);
        told("[5]", WRONG_TYPE);
    }

    #[test]
    fn a_limit_is_lifted_by_minus_one_alone() {
        let limit = |raw: &str| read(&format!("k={raw}"), |r| r.limit("k", 64, 4));
        assert_eq!(limit("-1").0, -1);
        assert_eq!(limit("4").0, 4);
        for bad in ["0", "3", "-2", "1152921504606846977"] {
            assert!(limit(bad).1.contains("is out of range; accepted: -1 (unlimited) or an integer from 4"), "{bad}");
        }
        let cpu = |raw: &str| read(&format!("k={raw}"), |r| r.seconds_limit("k", 60.0, 1.0..=100.0));
        assert_eq!(cpu("-1").0, -1.0);
        assert_eq!(cpu("1.5").0, 1.5);
        assert!(cpu("0.5").1.contains("is out of range"));
    }

    #[test]
    fn seconds_may_be_fractional_and_are_finite() {
        let seconds = |raw: &str| read(&format!("k={raw}"), |r| r.seconds("k", 9.0, 0.001..=60.0));
        assert_eq!(seconds("0.25"), (0.25, String::new()));
        assert_eq!(seconds("1e1").0, 10.0);
        for bad in ["0", "60.1", "1e999", "-1"] {
            assert!(seconds(bad).1.contains("is out of range; accepted: seconds from 0.001 to 60"), "{bad}");
        }
        assert!(seconds(r#""1""#).1.contains(WRONG_TYPE));
    }

    #[test]
    fn a_mode_is_octal_in_a_string() {
        let mode = |raw: &str| read(&format!("k={raw}"), |r| r.mode("k", Mode(0)));
        assert_eq!(mode(r#""0600""#).0, Mode(0o600));
        assert_eq!(mode(r#""077""#).0, Mode(0o77));
        for bad in [r#""0800""#, r#""1777""#, r#""77""#, r#""00600""#, "600", r#""+600""#, r#""""#] {
            assert!(mode(bad).1.contains("octal digits"), "{bad}");
        }
    }

    #[test]
    fn a_path_is_relative_to_what_it_stands_in() {
        let path = |raw: &str| read(&format!("k={raw}"), |r| r.path("k"));
        assert_eq!(path(r#""a/b""#).0, Some("/base/a/b".into()));
        assert_eq!(path(r#""/a""#).0, Some("/a".into()));
        assert_eq!(path("null").0, None);
        assert!(path(r#""""#).1.contains("is empty"));
        assert!(path(r#""a\u0000""#).1.contains("holds a NUL"));
        assert!(path("3").1.contains(WRONG_TYPE));
    }

    #[test]
    fn words_and_booleans_are_told_with_what_is_accepted() {
        let word = |raw: &str| read(&format!("k={raw}"), |r| r.choice("k", 0, &[("on", 1), ("off", 2)]));
        assert_eq!(word(r#""off""#).0, 2);
        assert_eq!(word(r#""of""#).1, r#"--set k: "of" is none of the words; accepted: "on", "off""#);
        assert!(word("1").1.contains(WRONG_TYPE));
        assert!(read("k=1", |r| r.boolean("k", true)).1.ends_with("accepted: true or false"));
    }

    #[test]
    fn an_unknown_key_is_told_with_the_nearest_and_all_names() {
        let (_, told) =
            read("rate.brust=1", |r| r.group("rate", |r| (r.boolean("rate", true), r.boolean("burst", true))));
        assert_eq!(told, "--set rate.brust: unknown key (meant burst?); accepted: burst, rate");
        let (_, told) = read("zzz=1", |r| r.boolean("listen", true));
        assert!(told.starts_with("--set zzz: unknown key; accepted: auth, cgroup, "), "{told}");
    }

    #[test]
    fn the_distance_counts_letters() {
        assert_eq!(distance("burst", "burst"), 0);
        assert_eq!(distance("brust", "burst"), 2);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(nearest("max_session", &["max_sessions", "threads"]), Some("max_sessions"));
        assert_eq!(nearest("x", &["max_sessions", "threads"]), None);
    }
}
