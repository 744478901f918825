//! What is wrong with a configuration: pure values, made by the reader, shown once to whoever starts the daemon.
//!
//! Each error is one line: where the value stands, its key, what was found, why it is refused and what is accepted.

use std::fmt;
use std::path::PathBuf;

/// Characters of a value that an error shows: enough to recognise it, never a screenful.
const FOUND_CHARS_MAX: usize = 80;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The file of this path.
    File(PathBuf),
    /// `--set group.key=JSON`
    Set,
    /// A flag of its own, as `--listen`.
    Flag(&'static str),
    /// Nowhere: the built-in value.
    Default,
}

/// One value that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where the value was written.
    pub origin: Origin,
    /// `group.key`; empty where the whole file is at fault.
    pub key: String,
    /// The value as written, shortened; empty where it says nothing.
    pub found: String,
    /// What is wrong with it, as a clause.
    pub reason: String,
    /// Empty where the reason says it all.
    pub accepted: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.origin, one_line(&self.key).as_str()) {
            (Origin::File(path), "") => write!(f, "{}: ", one_line(&path.to_string_lossy()))?,
            (Origin::File(path), key) => write!(f, "{}: {key}: ", one_line(&path.to_string_lossy()))?,
            (Origin::Set, "") => f.write_str("--set ")?,
            (Origin::Set, key) => write!(f, "--set {key}: ")?,
            // The flag stands for its key.
            (Origin::Flag(name), _) => write!(f, "{name}: ")?,
            (Origin::Default, key) => write!(f, "{key}: ")?,
        }
        if !self.found.is_empty() {
            write!(f, "{} ", self.found)?;
        }
        f.write_str(&self.reason)?;
        if !self.accepted.is_empty() {
            write!(f, "; accepted: {}", self.accepted)?;
        }
        Ok(())
    }
}

/// All that is wrong, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    /// One line an error, without a line end after the last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A text on one line: runs of white space as one space, no control characters.
pub(super) fn one_line(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    words.join(" ")
}

/// A value as an error shows it: on one line, and not much of it.
pub(super) fn shortened(text: &str) -> String {
    // Look at no more than can be shown: the value may be a megabyte.
    let line = one_line(&text.chars().take(4 * FOUND_CHARS_MAX).collect::<String>());
    if line.chars().count() <= FOUND_CHARS_MAX && text.chars().count() <= 4 * FOUND_CHARS_MAX {
        return line;
    }
    let kept: String = line.chars().take(FOUND_CHARS_MAX - 1).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_was_found() {
        let error = ConfigError {
            origin: Origin::File("a.json".into()),
            key: "rate.\nburst".into(),
            found: shortened("[\n  1,\n  2\n]"),
            reason: "is of the wrong type".into(),
            accepted: "an integer".into(),
        };
        assert_eq!(error.to_string(), "a.json: rate. burst: [ 1, 2 ] is of the wrong type; accepted: an integer");
        let two = ConfigErrors(vec![error.clone(), ConfigError { origin: Origin::Set, ..error }]);
        assert_eq!(two.to_string().lines().count(), 2);
        assert!(two.to_string().lines().nth(1).unwrap().starts_with("--set rate. burst: "));
    }

    #[test]
    fn a_long_value_is_shortened_at_a_character() {
        assert_eq!(shortened(&"x".repeat(80)), "x".repeat(80));
        assert_eq!(shortened(&"é".repeat(81)).chars().count(), 80);
        assert!(shortened(&" ".repeat(1 << 20)).ends_with('…'));
    }
}
