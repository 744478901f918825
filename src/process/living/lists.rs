//! The children of our threads, as the kernel lists them.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::is_of_own_session;
use crate::process::proc;

/// The children of one of our threads, as the kernel lists them.
#[derive(Debug)]
pub struct ChildList {
    pub tid: i32,
    is_main: bool,
    /// None: this kernel has no such lists, and proves nothing.
    file: Option<File>,
}

/// Bytes of a list that are read at once to prove something; a longer list proves nothing.
const SHORT_LIST_BYTES: usize = 1024;
/// More children than this holds are found in the next turn.
const LIST_BYTES_MAX: usize = 64 * 1024;

impl ChildList {
    pub fn of_main_thread() -> Self {
        let own = std::process::id() as i32;
        ChildList { tid: own, is_main: true, file: File::open(format!("/proc/{own}/task/{own}/children")).ok() }
    }

    pub fn of_this_thread() -> Self {
        let tid = nix::unistd::gettid().as_raw();
        ChildList { tid, is_main: false, file: File::open("/proc/thread-self/children").ok() }
    }

    /// Whether there is certainly none. One system call.
    pub fn is_empty(&self) -> bool {
        self.file.as_ref().is_some_and(|file| matches!(file.read_at(&mut [0; 16], 0), Ok(0)))
    }

    /// Whether there are certainly none but these. One system call.
    pub fn holds_only(&self, is_known: impl Fn(i32) -> bool) -> bool {
        let mut text = [0; SHORT_LIST_BYTES];
        let read = self.file.as_ref().and_then(|file| file.read_at(&mut text, 0).ok());
        read.is_some_and(|read| read < text.len() && proc::numbers(&text[..read]).all(is_known))
    }

    /// Whether the children of all threads stand in the main thread's list, for the kernel has none for each.
    pub fn is_of_all(&self) -> bool {
        self.is_main && self.file.is_none()
    }

    pub fn pids(&self) -> Vec<i32> {
        let Some(file) = &self.file else { return if self.is_main { children_by_parent() } else { Vec::new() } };
        let mut text = vec![0; LIST_BYTES_MAX];
        let mut read = 0;
        while let Ok(more) = file.read_at(&mut text[read..], read as u64) {
            read += more;
            if more == 0 || read == text.len() {
                break;
            }
        }
        proc::numbers(&text[..read]).collect()
    }
}

/// The children of all threads, where there are no lists: but for what has not left our own session yet, which is a child
/// of ours before its exec.
fn children_by_parent() -> Vec<i32> {
    let own = std::process::id() as i32;
    let is_child = |pid: &i32| proc::stat(*pid).is_some_and(|stat| stat.parent == own && !is_of_own_session(&stat));
    proc::all_pids().into_iter().filter(is_child).collect()
}
