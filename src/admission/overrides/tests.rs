//! What is written is read, and nothing else is. `tests/state_file.rs` has it while a process is killed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::unistd::{Uid, mkfifo};

use super::*;

const FILE: &str = "limits.json";

struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("cofferdam-limits-{}-{test}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join(FILE)
    }

    fn copy(&self) -> PathBuf {
        self.0.join("limits.json.last-good")
    }

    /// Writes a file that is as private as ours.
    fn write(&self, text: &[u8]) {
        fs::write(self.file(), text).unwrap();
        fs::set_permissions(self.file(), fs::Permissions::from_mode(0o600)).unwrap();
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn some() -> Overrides {
    let mut some = Overrides::default();
    some.put(None, Resource::Sessions, Some(4)).unwrap();
    some.put(Some("uid:1000"), Resource::Commands, Some(-1)).unwrap();
    some.put(Some("ip:::1"), Resource::MemoryBytes, Some(0)).unwrap();
    some.put(Some("a \"name\"\n\u{0}"), Resource::Processes, Some(i64::MAX)).unwrap();
    some
}

#[test]
fn what_is_written_is_read() {
    let mut small = Overrides::default();
    assert_eq!(Overrides::decode(&small.encode()), Ok(small.clone()));
    small.put(None, Resource::Sessions, Some(4)).unwrap();
    small.put(Some("uid:1000"), Resource::Commands, Some(2)).unwrap();
    let text = r#"{"format":"cofferdam limits","version":1,"registered":{"sessions":4},"clients":{"uid:1000":{"commands":2}}}"#;
    assert_eq!(String::from_utf8(small.encode()).unwrap(), format!("{text}\n"));
    assert_eq!(Overrides::decode(&some().encode()), Ok(some()));
}

#[test]
fn a_file_that_is_torn_anywhere_is_refused() {
    let whole = some().encode();
    // Without its last byte, the end of the line, it is still whole.
    for end in 0..whole.len() - 1 {
        assert!(Overrides::decode(&whole[..end]).is_err(), "{end} bytes of {}", whole.len());
        let zeros: Vec<u8> = whole[..end].iter().copied().chain(std::iter::repeat(0)).take(whole.len()).collect();
        assert!(Overrides::decode(&zeros).is_err(), "zeros from {end}");
    }
}

#[test]
fn a_foreign_file_is_refused_with_its_reason() {
    let head = r#"{"format":"cofferdam limits","version":1"#;
    for (text, reason) in [
        ("".to_owned(), "is torn or none of ours: it holds no object"),
        ("[]".to_owned(), "it holds no object"),
        ("{}".to_owned(), "its format is not \"cofferdam limits\""),
        (r#"{"format":"other"}"#.to_owned(), "its format is not"),
        (r#"{"format":"cofferdam limits","version":2,"more":{}}"#.to_owned(), "this one reads version 1"),
        (format!(r#"{head}}}"#), "missing field `registered`"),
        (format!(r#"{head},"registered":{{}}}}"#), "missing field `clients`"),
        (format!(r#"{head},"registered":{{}},"clients":{{}},"more":1}}"#), "unknown field `more`"),
        (format!(r#"{head},"registered":{{"widgets":1}},"clients":{{}}}}"#), "no resource is named \"widgets\""),
        (format!(r#"{head},"registered":{{"sessions":1,"sessions":2}},"clients":{{}}}}"#), "sessions stands twice"),
        (format!(r#"{head},"registered":{{"sessions":-2}},"clients":{{}}}}"#), "-2 is no limit"),
        (format!(r#"{head},"registered":{{"sessions":1.5}},"clients":{{}}}}"#), "expected i64"),
        (format!(r#"{head},"registered":{{"sessions":null}},"clients":{{}}}}"#), "expected i64"),
        (format!(r#"{head},"registered":{{}},"clients":{{"a":{{}},"a":{{}}}}}}"#), "\"a\" stands twice"),
        (
            format!(r#"{head},"registered":{{}},"clients":{{"":{{"sessions":1}}}}}}"#),
            "a client's name has 1 to 255 bytes",
        ),
    ] {
        let refused = Overrides::decode(text.as_bytes()).unwrap_err();
        assert!(refused.contains(reason), "{text}: {refused}");
    }
}

#[test]
fn inv7_the_largest_state_fits_into_the_largest_file() {
    let mut largest = Overrides::default();
    for resource in Resource::ALL {
        largest.put(None, resource, Some(i64::MAX)).unwrap();
        for client in 0..CLIENTS_MAX {
            // Characters that JSON writes in six bytes.
            let name = format!("{client:04}{}", "\u{1}".repeat(CLIENT_BYTES_MAX - 4));
            largest.put(Some(&name), resource, Some(i64::MAX)).unwrap();
        }
    }
    let folder = Folder::new("largest");
    save(&folder.file(), &largest.encode()).unwrap();
    assert_eq!(load(&folder.file()).unwrap().overrides, largest);
    assert!(largest.put(Some("one more"), Resource::Sessions, Some(1)).is_err());
}

#[test]
fn the_file_is_private_and_has_a_copy() {
    let folder = Folder::new("private");
    assert_eq!(load(&folder.file()), Ok(Loaded { overrides: Overrides::default(), refused: None }));
    // What a process that was killed left half written is in nobody's way.
    fs::write(folder.0.join("limits.json.new"), "{").unwrap();
    save(&folder.file(), &some().encode()).unwrap();
    for path in [folder.file(), folder.copy()] {
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(load(&path), Ok(Loaded { overrides: some(), refused: None }));
    }
    assert_ne!(fs::metadata(folder.file()).unwrap().ino(), fs::metadata(folder.copy()).unwrap().ino());
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 2, "nothing else is left");
}

#[test]
fn the_last_good_copy_stands_in_for_a_file_that_is_refused() {
    let folder = Folder::new("stand-in");
    folder.write(b"{\"format\":");
    let refused = load(&folder.file()).unwrap_err().to_string();
    let expected = format!("{} is torn or none of ours: ", folder.file().display());
    assert!(
        refused.starts_with(&expected) && refused.contains("; there is no copy of it; mend it, or remove both"),
        "{refused}"
    );
    save(&folder.file(), &some().encode()).unwrap();
    folder.write(b"{\"format\":");
    let loaded = load(&folder.file()).unwrap();
    assert_eq!(loaded.overrides, some());
    assert!(loaded.refused.unwrap().to_string().starts_with(&expected));
    fs::write(folder.copy(), "also torn").unwrap();
    let refused = load(&folder.file()).unwrap_err().to_string();
    assert!(refused.contains(&format!(", and {} ", folder.copy().display())), "{refused}");
    // The next state that is saved mends both.
    save(&folder.file(), &some().encode()).unwrap();
    assert_eq!(load(&folder.file()), Ok(Loaded { overrides: some(), refused: None }));
}

fn refusal(path: &Path) -> String {
    load(path).unwrap_err().what
}

#[test]
fn what_another_could_have_written_is_refused() {
    let folder = Folder::new("foreign");
    folder.write(&some().encode());
    fs::set_permissions(folder.file(), fs::Permissions::from_mode(0o620)).unwrap();
    assert!(refusal(&folder.file()).starts_with("may be written by others: its mode is 0620"));
    if Uid::effective().is_root() {
        folder.write(&some().encode());
        chown(folder.file(), Some(65534), None).unwrap();
        assert!(refusal(&folder.file()).starts_with("belongs to the user 65534, not to 0"));
    } else {
        assert!(refusal(Path::new("/etc/passwd")).starts_with("belongs to the user 0, not to "));
    }
}

#[test]
fn what_is_no_file_is_refused_and_never_waited_for() {
    let folder = Folder::new("kinds");
    let target = folder.0.join("target");
    fs::write(&target, some().encode()).unwrap();
    symlink(&target, folder.file()).unwrap();
    assert!(refusal(&folder.file()).starts_with("is a link"));
    // A link is replaced, and what it leads to is left alone.
    save(&folder.file(), &Overrides::default().encode()).unwrap();
    assert_eq!(fs::read(&target).unwrap(), some().encode());
    assert!(load(&folder.file()).unwrap().overrides.is_empty());
    let fifo = folder.0.join("fifo");
    mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(refusal(&fifo).starts_with("is not a regular file"));
    assert!(refusal(&folder.0).starts_with("is not a regular file"));
    let large = folder.0.join("large");
    fs::File::create(&large).unwrap().set_len((16 << 20) + 1).unwrap();
    fs::set_permissions(&large, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(refusal(&large).starts_with("is over 16777216 bytes"));
}

#[test]
fn a_save_that_fails_names_its_step() {
    let folder = Folder::new("fails");
    let gone = folder.0.join("gone").join(FILE);
    let failed = save(&gone, b"{}\n").unwrap_err().to_string();
    let expected = format!("{}.new cannot be made: No such file or directory (os error 2)", gone.display());
    assert_eq!(failed, expected);
    fs::create_dir(folder.file()).unwrap();
    let failed = save(&folder.file(), b"{}\n").unwrap_err().to_string();
    assert!(failed.contains("limits.json.new cannot be renamed: Is a directory"), "{failed}");
}
