//! What the reports of one command are known by: 64 bits that nobody guesses, made anew for each command. They stand in
//! the line to the shell and in no environment, so a command that makes up a report does not know them.
//!
//! Two, for the first is told while the command runs, where others of its session may read it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// The marks of one command.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Of the report that its input is open.
    pub begun: String,
    /// Of the report that it is over.
    pub over: String,
}

/// Makes marks: a keyed hash of a counter, by keys that the system has drawn at random.
#[derive(Debug, Default)]
pub struct Marker {
    keys: RandomState,
    made: u64,
}

impl Marker {
    pub fn mark(&mut self) -> Mark {
        Mark { begun: self.word(), over: self.word() }
    }

    fn word(&mut self) -> String {
        self.made += 1;
        word(self.keys.hash_one(self.made))
    }
}

/// Characters that mean nothing to a shell, six bits each.
const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// As short as it gets: bash reads its lines byte by byte.
fn word(bits: u64) -> String {
    (0..11).map(|at| char::from(LETTERS[(bits >> (6 * at) & 63) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bits_are_in_a_word() {
        assert_eq!(word(0), "AAAAAAAAAAA");
        assert_eq!(word(u64::MAX), "__________P");
        let all: std::collections::BTreeSet<String> = (0..64).map(|bit| word(1 << bit)).collect();
        assert_eq!(all.len(), 64);
    }

    #[test]
    fn no_mark_comes_twice_and_no_two_shells_have_the_same() {
        let (mut one, mut other) = (Marker::default(), Marker::default());
        let marks = (0..1000).flat_map(|_| [one.mark(), other.mark()]).flat_map(|mark| [mark.begun, mark.over]);
        let all: std::collections::BTreeSet<String> = marks.collect();
        assert_eq!(all.len(), 4000);
    }
}
