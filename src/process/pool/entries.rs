//! Users, groups and subordinate ids of this host that lie in a range of uids, as its files name them. Pure but for
//! [`refuse`]; who asks a directory service for its users is told nothing here.

use super::{contains, shown};

/// How a file names ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The third field of a line is one.
    Entry,
    /// The second and third are the first of them and their number: subuid(5).
    Range,
}

const FILES: [(&str, Kind); 4] = [
    ("/etc/passwd", Kind::Entry),
    ("/etc/group", Kind::Entry),
    ("/etc/subuid", Kind::Range),
    ("/etc/subgid", Kind::Range),
];

/// Refuses ranges of which this host has given out a uid or a gid. A file that is not there names none.
pub fn refuse(ranges: &[(u32, u32)]) -> Result<(), String> {
    for (path, kind) in FILES {
        let text = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        for &range in ranges {
            if let Some((number, line)) = found(&text, kind, range) {
                return Err(format!(
                    "children.uid_base: line {number} of {path} has ids of {}, which the pool is to have for itself: \
                     \"{line}\"; set a uid_base whose {} ids nobody has, as 1900000000",
                    shown(range),
                    range.1
                ));
            }
        }
    }
    Ok(())
}

/// The first line that names an id of the range, and its number.
fn found(text: &str, kind: Kind, range: (u32, u32)) -> Option<(usize, &str)> {
    let overlaps = |line: &str| {
        let mut fields = line.split(':').skip(1);
        let (second, third) = (fields.next()?, fields.next()?.parse::<u32>().ok()?);
        Some(match kind {
            Kind::Entry => contains(range, third),
            Kind::Range => {
                let theirs = (second.parse().ok()?, third);
                third > 0 && range.1 > 0 && (contains(range, theirs.0) || contains(theirs, range.0))
            }
        })
    };
    let named = |line: &str| line.split(':').next().is_some_and(|name| !name.starts_with('#'));
    text.lines()
        .enumerate()
        .find(|(_, line)| named(line) && overlaps(line) == Some(true))
        .map(|(at, line)| (at + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inv18_users_and_groups_of_the_range_are_found_by_their_line() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\n#x:x:5000:1::/:/bin/sh\n+\nann:x:5000:100:,,,:/home/ann:/bin/sh\n";
        assert_eq!(found(passwd, Kind::Entry, (4000, 1001)), Some((4, "ann:x:5000:100:,,,:/home/ann:/bin/sh")));
        assert_eq!(found(passwd, Kind::Entry, (4000, 1000)), None);
        assert_eq!(found(passwd, Kind::Entry, (5001, 1000)), None);
        assert_eq!(found("adm:x:4:ann\n", Kind::Entry, (4, 1)), Some((1, "adm:x:4:ann")));
    }

    #[test]
    fn inv18_subordinate_ids_that_overlap_are_found() {
        let subuid = "ann:100000:65536\nbob:165536:65536\n1000:4294000000:5\nnone:1:0\n";
        assert_eq!(found(subuid, Kind::Range, (200_000, 4096)), Some((2, "bob:165536:65536")));
        assert_eq!(found(subuid, Kind::Range, (99_000, 1001)), Some((1, "ann:100000:65536")));
        assert_eq!(found(subuid, Kind::Range, (4_293_999_999, 10)), Some((3, "1000:4294000000:5")));
        for free in [(99_000, 1000), (231_072, 4096), (1, 5), (1_900_000_000, 4096)] {
            assert_eq!(found(subuid, Kind::Range, free), None, "{free:?}");
        }
    }
}
