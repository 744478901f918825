//! Untrusted JSON in: objects as named fields that stay unparsed until they are asked for. Pure.
//!
//! There is no tree of values here: what a client sends costs memory in proportion to its length, an array is never
//! read as an object, and a field that stands twice or that nobody knows is an error that names it.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::fault::Fault;
use crate::strings::Strings;

/// Levels of arrays and objects within each other; deeper is PARSE_ERROR.
pub const DEPTH_MAX: usize = 64;

/// Whether no value in the text stands deeper than [`DEPTH_MAX`]. The text need not be valid JSON.
pub fn is_shallow(text: &[u8]) -> bool {
    let mut depth = 0usize;
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return false;
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' => {
                at += 1;
                while let Some(found) = memchr::memchr2(b'"', b'\\', text.get(at..).unwrap_or_default()) {
                    at += found;
                    if text[at] == b'"' {
                        break;
                    }
                    at += 2; // a backslash and what it escapes
                }
            }
            _ => {}
        }
        at += 1;
    }
    true
}

/// Reads each member of an object to `on`, its name unescaped; `on` says what is wrong with it.
pub fn members<'a, E>(
    text: &'a str,
    on: impl FnMut(Cow<'a, str>, &'a RawValue) -> Result<(), E>,
) -> Result<(), MembersError<E>> {
    if !text.starts_with('{') {
        return Err(MembersError::NotAnObject);
    }
    let mut refused = None;
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = Members { on, refused: &mut refused }.deserialize(&mut reader).and_then(|()| reader.end());
    match (refused, read) {
        (Some(refused), _) => Err(MembersError::Refused(refused)),
        (None, Ok(())) => Ok(()),
        (None, Err(error)) => Err(MembersError::Syntax(error)),
    }
}

/// Why an object could not be read.
#[derive(Debug)]
pub enum MembersError<E> {
    NotAnObject,
    Syntax(serde_json::Error),
    Refused(E),
}

struct Members<'r, F, E> {
    on: F,
    refused: &'r mut Option<E>,
}

impl<'de, E, F> DeserializeSeed<'de> for Members<'_, F, E>
where
    F: FnMut(Cow<'de, str>, &'de RawValue) -> Result<(), E>,
{
    type Value = ();
    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de, E, F> Visitor<'de> for Members<'_, F, E>
where
    F: FnMut(Cow<'de, str>, &'de RawValue) -> Result<(), E>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(name)) = map.next_key()? {
            let value: &'de RawValue = map.next_value()?;
            if let Err(refused) = (self.on)(name, value) {
                *self.refused = Some(refused);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

/// A string that is borrowed where it holds no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Text<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(TextVisitor)
    }
}

/// The elements of an array, each unparsed: at most `max`, or none where there are more.
pub fn elements(text: &str, max: usize) -> Result<Option<Vec<&RawValue>>, serde_json::Error> {
    struct Elements(usize);
    impl<'de> Visitor<'de> for Elements {
        type Value = Option<Vec<&'de RawValue>>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an array")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut found = Vec::new();
            while found.len() < self.0 {
                match seq.next_element()? {
                    Some(element) => found.push(element),
                    None => return Ok(Some(found)),
                }
            }
            let mut over = false;
            while seq.next_element::<IgnoredAny>()?.is_some() {
                over = true;
            }
            Ok(if over { None } else { Some(found) })
        }
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let found = serde::Deserializer::deserialize_seq(&mut reader, Elements(max))?;
    reader.end()?;
    Ok(found)
}

/// The strings of an array, and whether one of them holds a NUL, which a list cannot: it is left out. None where it is no
/// array of strings.
pub fn strings(text: &str) -> Option<(Strings, bool)> {
    struct Array<'a>(&'a mut Strings, &'a mut bool);
    impl<'de> Visitor<'de> for Array<'_> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("an array of strings")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
            while seq.next_element_seed(One(self.0, self.1))?.is_some() {}
            Ok(())
        }
    }
    /// One element, which goes from the line, or from where its escapes are read, right into the list.
    struct One<'a>(&'a mut Strings, &'a mut bool);
    impl<'de> DeserializeSeed<'de> for One<'_> {
        type Value = ();
        fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
            from.deserialize_str(self)
        }
    }
    impl Visitor<'_> for One<'_> {
        type Value = ();
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            f.write_str("a string")
        }
        fn visit_str<E>(self, text: &str) -> Result<(), E> {
            match text.contains('\0') {
                false => self.0.push(text.as_bytes()),
                true => *self.1 = true,
            }
            Ok(())
        }
    }
    let (mut found, mut nul) = (Strings::default(), false);
    let mut reader = serde_json::Deserializer::from_str(text);
    serde::Deserializer::deserialize_seq(&mut reader, Array(&mut found, &mut nul)).ok()?;
    reader.end().ok()?;
    found.shrink();
    Some((found, nul))
}

/// A string out of a value, if it is one.
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text>(raw.get()).ok().map(|text| text.0)
}

/// The fields of `params`, or of an object within them; each is taken by its name.
pub struct Fields<'a> {
    /// Name of the object within `params`, with a dot behind it; empty for `params` itself.
    within: &'static str,
    found: Vec<(&'static str, &'a RawValue)>,
}

impl<'a> Fields<'a> {
    /// Reads an object that may hold the accepted fields and no other, each once.
    pub fn of(
        within: &'static str,
        raw: Option<&'a RawValue>,
        accepted: &'static [&'static str],
    ) -> Result<Self, Fault> {
        let mut found: Vec<(&'static str, &'a RawValue)> = Vec::new();
        let Some(raw) = raw else { return Ok(Fields { within, found }) };
        let read = members(raw.get(), |name, value| {
            let Some(known) = accepted.iter().find(|known| **known == name) else {
                let name: String = name.chars().take(64).collect();
                let what = match accepted {
                    [] => "unknown field; none is accepted here".to_owned(),
                    _ => format!("unknown field; accepted are {}", accepted.join(", ")),
                };
                return Err(Fault::field(format!("{within}{name}"), what));
            };
            if found.iter().any(|(name, _)| name == known) {
                return Err(Fault::field(format!("{within}{known}"), "stands twice"));
            }
            found.push((known, value));
            Ok(())
        });
        match read {
            Ok(()) => Ok(Fields { within, found }),
            Err(MembersError::Refused(fault)) => Err(fault),
            Err(_) => Err(match within.strip_suffix('.') {
                Some(name) => Fault::field(name, "must be an object"),
                None => Fault::new(super::fault::Reason::InvalidParams, "params must be an object"),
            }),
        }
    }

    /// The value of a field; `null` is as good as absent.
    pub fn raw(&self, name: &str) -> Option<&'a RawValue> {
        self.found.iter().find(|(found, _)| *found == name).map(|(_, raw)| *raw).filter(|raw| raw.get() != "null")
    }

    /// INVALID_PARAMS about a field of this object.
    pub fn wrong(&self, name: &str, what: impl fmt::Display) -> Fault {
        Fault::field(format!("{}{name}", self.within), what)
    }

    pub fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, Fault> {
        self.raw(name).map(|raw| text(raw).ok_or_else(|| self.wrong(name, "must be a string"))).transpose()
    }

    /// A string that the kernel will take: without NUL.
    pub fn c_text(&self, name: &str) -> Result<Option<Cow<'a, str>>, Fault> {
        let text = self.text(name)?;
        if text.as_ref().is_some_and(|text| text.contains('\0')) {
            return Err(self.wrong(name, "must not hold a NUL character"));
        }
        Ok(text)
    }

    pub fn bool(&self, name: &str) -> Result<Option<bool>, Fault> {
        match self.raw(name).map(RawValue::get) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(self.wrong(name, "must be true or false")),
        }
    }

    pub fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, Fault> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let accepted = || {
            if *range.end() == i64::MAX {
                format!("must be an integer of at least {}", range.start())
            } else {
                format!("must be an integer from {} to {}", range.start(), range.end())
            }
        };
        match raw.get().parse::<i64>() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(self.wrong(name, accepted())),
        }
    }

    /// A number above 0 and at most `max`, fractions allowed, given in thousandths, rounded up.
    pub fn millis(&self, name: &str, max: u64) -> Result<Option<u64>, Fault> {
        let Some(raw) = self.raw(name) else { return Ok(None) };
        let number = number(raw).filter(|number| *number > 0.0 && *number * 1000.0 <= max as f64);
        match number {
            Some(number) => Ok(Some((number * 1000.0).ceil() as u64)),
            None => Err(self.wrong(name, format!("must be a number above 0 and at most {}", max as f64 / 1000.0))),
        }
    }

    /// One of the given words.
    pub fn word<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Fault> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match words.iter().find(|(word, _)| *word == text) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let words: Vec<_> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
                Err(self.wrong(name, format!("must be one of {}", words.join(", "))))
            }
        }
    }
}

/// A JSON number as a float.
pub fn number(raw: &RawValue) -> Option<f64> {
    let text = raw.get();
    if !text.starts_with(|c: char| c == '-' || c.is_ascii_digit()) {
        return None;
    }
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn depth_is_counted_outside_strings_only() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(is_shallow(nested(64).as_bytes()));
        assert!(!is_shallow(nested(65).as_bytes()));
        assert!(!is_shallow("[".repeat(100_000).as_bytes()));
        assert!(is_shallow(format!("\"{}\\\"{}\"", nested(65), nested(65)).as_bytes()));
        assert!(is_shallow(b"\"\\"));
        assert!(is_shallow(b"\"abc"));
    }

    #[test]
    fn fields_are_named_in_every_error() {
        let bad = |text, accepted| Fields::of("", Some(raw(text)), accepted).err().unwrap().message;
        assert_eq!(bad(r#"{"b":1}"#, &["a"]), "b: unknown field; accepted are a");
        assert_eq!(bad(r#"{"b":1}"#, &[]), "b: unknown field; none is accepted here");
        assert_eq!(bad(r#"{"a":1,"\u0061":1}"#, &["a"]), "a: stands twice");
        assert_eq!(bad("[1]", &["a"]), "params must be an object");
        let fields = Fields::of("limits.", Some(raw(r#"{"n":1.5,"s":"a\u0000","z":null}"#)), &["n", "s", "z"]).unwrap();
        assert_eq!(fields.integer("n", 0..=9).unwrap_err().message, "limits.n: must be an integer from 0 to 9");
        assert!(fields.c_text("s").is_err());
        assert_eq!(fields.integer("z", 0..=9), Ok(None));
        assert_eq!(fields.millis("n", 2000), Ok(Some(1500)));
        assert!(fields.millis("n", 1000).is_err());
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        for text in ["-1", "0", "1e308", "18446744073709551616", "1e400", "\"1\"", "true", "[1]"] {
            let text = format!(r#"{{"n":{text}}}"#);
            let Ok(raw) = serde_json::from_str::<&RawValue>(&text) else { continue };
            let fields = Fields::of("", Some(raw), &["n"]).unwrap();
            assert!(fields.integer("n", 1..=10).is_err(), "{text}");
            assert!(fields.millis("n", 10_000).is_err(), "{text}");
        }
    }

    #[test]
    fn strings_are_read_into_one_list() {
        let read = |text| strings(text).map(|(found, nul)| (found.iter().map(<[u8]>::to_vec).collect::<Vec<_>>(), nul));
        assert_eq!(read(r#"["a", "", "\u00e9\n"]"#), Some((vec![b"a".to_vec(), vec![], "é\n".into()], false)));
        assert_eq!(read("[]"), Some((vec![], false)));
        assert!(read(r#"["a\u0000b", "c"]"#).is_some_and(|(_, nul)| nul));
        for text in ["[1]", r#"["a",null]"#, r#"[["a"]]"#, r#"{"a":"b"}"#, r#""a""#, r#"["\ud800"]"#, "null"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn elements_are_bounded() {
        assert_eq!(elements("[1, 2]", 2).unwrap().unwrap().len(), 2);
        assert!(elements("[1, 2, 3]", 2).unwrap().is_none());
        assert!(elements("[1, 2", 2).is_err());
        assert!(elements("[1] 2", 2).is_err());
    }
}
