//! Lists of strings as a program is given them: each ended by NUL, all in one buffer. Pure.
//!
//! A `String` takes 24 bytes beside its text, and the allocator as many again; a client may send half a million of one
//! byte each. A list takes its text, and nothing for a string but the NUL.

use std::ffi::CStr;

/// Strings without NUL, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Strings {
    /// Each string with its NUL.
    bytes: Vec<u8>,
    count: usize,
}

/// The kernel's longest argument or variable, in bytes without its NUL (MAX_ARG_STRLEN of execve(2)).
pub const STRING_BYTES_MAX: usize = 128 * 1024 - 1;
/// Bytes of all arguments and variables of a program, each with its NUL and a pointer: a quarter of the stack of 8 MiB
/// that is usual, by the kernel's rule in execve(2).
pub const EXEC_BYTES_MAX: usize = 2 * 1024 * 1024;
/// What the kernel counts for a string beside its bytes.
pub const POINTER_BYTES: usize = 8;

impl Strings {
    /// A list of these, in a buffer that is just large enough.
    pub fn of(strings: &[&[u8]]) -> Strings {
        let bytes = strings.iter().map(|string| string.len() + 1).sum();
        let mut all = Strings { bytes: Vec::with_capacity(bytes), count: 0 };
        strings.iter().for_each(|string| all.push(string));
        all
    }

    /// Gives back what the buffer has beyond its strings.
    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    /// Appends a string, which holds no NUL.
    pub fn push(&mut self, string: &[u8]) {
        self.push_parts(&[string]);
    }

    /// Appends a string that is made of these parts.
    pub fn push_parts(&mut self, parts: &[&[u8]]) {
        debug_assert!(parts.iter().all(|part| !part.contains(&0)), "a NUL would end the string");
        parts.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.bytes.push(0);
        self.count += 1;
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.split_inclusive(|byte| *byte == 0).map(|string| &string[..string.len() - 1])
    }

    /// The same with the NULs.
    pub fn c_strings(&self) -> impl Iterator<Item = &CStr> {
        self.bytes
            .split_inclusive(|byte| *byte == 0)
            .map(|string| CStr::from_bytes_with_nul(string).unwrap_or_default())
    }

    pub fn first(&self) -> Option<&[u8]> {
        self.iter().next()
    }

    /// Bytes of the buffer and of a pointer to each string: what the kernel counts, and what is counted for a client.
    pub fn weight(&self) -> usize {
        self.bytes.len() + self.count * POINTER_BYTES
    }

    /// Whether the kernel refuses one of them by itself, or all of them together with so much beside.
    pub fn is_too_long_beside(&self, others: usize) -> bool {
        self.weight().saturating_add(others) > EXEC_BYTES_MAX || self.iter().any(|one| one.len() > STRING_BYTES_MAX)
    }
}

/// The name of a variable, which is `NAME=VALUE`.
pub fn name_of(variable: &[u8]) -> &[u8] {
    &variable[..memchr::memchr(b'=', variable).unwrap_or(variable.len())]
}

impl<'a> FromIterator<&'a [u8]> for Strings {
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(strings: I) -> Strings {
        let mut all = Strings::default();
        strings.into_iter().for_each(|string| all.push(string));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(strings: &[&str]) -> Strings {
        strings.iter().map(|string| string.as_bytes()).collect()
    }

    #[test]
    fn what_is_pushed_is_there_in_order() {
        for strings in [&[][..], &[""], &["", "", "a"], &["a", "", "bc"]] {
            let all = list(strings);
            assert_eq!(all.count(), strings.len());
            assert_eq!(all.iter().collect::<Vec<_>>(), strings.iter().map(|one| one.as_bytes()).collect::<Vec<_>>());
            assert!(all.c_strings().map(CStr::to_bytes).eq(all.iter()));
            assert_eq!(all.first(), strings.first().map(|one| one.as_bytes()));
        }
        let mut all = Strings::default();
        all.push_parts(&[b"A", b"=", b"b"]);
        assert_eq!(all, list(&["A=b"]));
    }

    #[test]
    fn a_list_weighs_what_the_kernel_counts() {
        assert_eq!(list(&[]).weight(), 0);
        assert_eq!(list(&["", "abc"]).weight(), 1 + 4 + 2 * 8);
        let longest = "x".repeat(STRING_BYTES_MAX);
        assert!(!list(&["a", &longest]).is_too_long_beside(0));
        assert!(list(&["a", &format!("{longest}x")]).is_too_long_beside(0));
        let all = list(&["a"; 1000]);
        assert!(!all.is_too_long_beside(EXEC_BYTES_MAX - all.weight()));
        assert!(all.is_too_long_beside(EXEC_BYTES_MAX - all.weight() + 1));
        assert!(all.is_too_long_beside(usize::MAX));
    }
}
