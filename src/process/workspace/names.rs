//! The names of what we make in folders that may be others' too: what bears none of them is left alone. Pure.

use std::ffi::CStr;

use crate::ids::SessionId;

/// What the folder of a session's shell is named with.
pub const SHELL_PREFIX: &str = "sh-";
/// What every run's own folder is named with.
pub const PREFIX: &str = "cofferdam-";
/// What the folder is named with that takes in what a run removes. No session's and no run's name begins so.
pub const OUTGOING_PREFIX: &str = ".outgoing-";

/// Whether a name is one that we give to a run's folder: `cofferdam-0123456789abcdef`. Anything else that happens to
/// begin like it is somebody's.
pub fn is_run(name: &CStr) -> bool {
    let run = name.to_str().ok().and_then(|name| name.strip_prefix(PREFIX));
    run.is_some_and(is_run_id)
}

/// Whether a name is that of a run's folder for what it removes.
pub fn is_outgoing(name: &CStr) -> bool {
    let run = name.to_str().ok().and_then(|name| name.strip_prefix(OUTGOING_PREFIX));
    run.is_some_and(is_run_id)
}

fn is_run_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a name is one that we give to sessions' directories: `s12-0123456789abcdef`.
pub fn is_session(name: &CStr) -> bool {
    let whole = name.to_str().ok().map(|name| name.strip_prefix(SHELL_PREFIX).unwrap_or(name));
    let Some((session, run)) = whole.and_then(|name| name.split_once('-')) else { return false };
    SessionId::parse(session).is_some() && is_run_id(run)
}
