//! From what a client asks for to a [`Plan`] for the child. Pure.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

use super::identity::search_path;
use super::workspace::Workspace;
use crate::protocol::limits::Limits;
use crate::protocol::request::Program;
use crate::strings::Strings;
use crate::sys::clone::{Folder, Identity, Plan, c_string};

/// What all children of this daemon have in common, settled at the start.
#[derive(Debug, Clone)]
pub struct Common {
    pub oom_score_adj: i32,
    pub nice: i32,
    pub umask: u32,
    pub no_new_privs: bool,
    /// Our own hard limits: without the capability a child cannot be given more.
    pub hard_limits: HardLimits,
    /// A core pattern that is a pipe runs its handler at a limit of 0, and not at 1.
    pub core_is_piped: bool,
    pub nproc: NprocRule,
    /// RLIMIT_NOFILE as it was before we raised our own; none: it was left alone.
    pub nofile_before: Option<(u64, u64)>,
    /// Signals that a child has to reset, as in [`Plan::signals`].
    pub signals: u64,
    /// Children keep what we were started with: see `Options::inherit` of the runtime.
    pub inherit: bool,
    /// As in [`Plan::drop_capabilities`].
    pub drop_capabilities: bool,
    /// Limits that no key names and that are not so already, as in [`Plan::limits`].
    pub fixed_limits: Vec<(u32, u64, u64)>,
}

/// The most that each limit can be set to here.
#[derive(Debug, Clone, Copy)]
pub struct HardLimits {
    pub cpu: u64,
    pub address_space: u64,
    pub nproc: u64,
    pub nofile: u64,
    pub fsize: u64,
    pub core: u64,
}

/// How the number of processes of a command becomes RLIMIT_NPROC, which counts the tasks of a uid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NprocRule {
    /// The uid is the session's alone.
    OfSession,
    /// The uid is shared: so many more than it has now.
    AboveUid(u32),
    /// The kernel exempts root.
    Exempt,
}

impl Common {
    /// The plan of a command; without a program, and so without an environment, of a trial whether one could start
    /// there. The session's private directory, if it has one, and the directory where the command runs.
    pub fn plan(
        &self,
        program: Option<&Program>,
        environment: Strings,
        (workspace, cwd): (Option<&Workspace>, &str),
        limits: &Limits,
        identity: Option<Identity>,
    ) -> Plan {
        let (workspace, cwd) = steps_to(workspace, cwd);
        let (programs, searched, argv) = program.map(|program| found(program, &environment)).unwrap_or_default();
        Plan {
            programs,
            searched,
            argv,
            envp: environment,
            workspace,
            cwd,
            limits: self.rlimits(limits),
            nproc: limits.nproc.map(|nproc| nproc.min(self.hard_limits.nproc)),
            oom_score_adj: (self.oom_score_adj != 0).then(|| c_string(self.oom_score_adj.to_string())),
            nice: self.nice,
            umask: self.umask,
            identity,
            no_new_privs: self.no_new_privs,
            drop_capabilities: self.drop_capabilities,
            fresh_keyring: !self.inherit,
            terminal: false,
            signals: self.signals,
        }
    }

    /// Soft and hard are the same, for a process may raise a soft limit; but CPU has a second between them, in which
    /// SIGXCPU names the limit before SIGKILL comes.
    fn rlimits(&self, limits: &Limits) -> Vec<(u32, u64, u64)> {
        let hard = &self.hard_limits;
        let mut all = Vec::with_capacity(5 + self.fixed_limits.len());
        all.extend_from_slice(&self.fixed_limits);
        if let (None, Some((soft, hard))) = (limits.nofile, self.nofile_before) {
            all.push((libc::RLIMIT_NOFILE, soft, hard));
        }
        if let Some(ms) = limits.cpu_ms {
            let seconds = ms.div_ceil(1000).max(1);
            all.push((libc::RLIMIT_CPU, seconds.min(hard.cpu), (seconds + 1).min(hard.cpu)));
        }
        let core = limits.core_bytes.map(|bytes| if bytes == 0 && self.core_is_piped { 1 } else { bytes });
        let same = [
            (libc::RLIMIT_AS, limits.address_space_bytes, hard.address_space),
            (libc::RLIMIT_NOFILE, limits.nofile, hard.nofile),
            (libc::RLIMIT_FSIZE, limits.fsize_bytes, hard.fsize),
            (libc::RLIMIT_CORE, core, hard.core),
        ];
        for (resource, value, hard) in same {
            if let Some(value) = value {
                all.push((resource, value.min(hard), value.min(hard)));
            }
        }
        all
    }
}

/// What every command has of the limits that no key names, whoever started us: resource, soft and hard.
const FIXED_LIMITS: [(u32, u64, u64); 10] = [
    // No command takes the processor from others by its priority.
    (libc::RLIMIT_RTPRIO, 0, 0),
    (libc::RLIMIT_NICE, 0, 0),
    (libc::RLIMIT_RTTIME, u64::MAX, u64::MAX),
    // As the kernel has them for its first process.
    (libc::RLIMIT_MEMLOCK, 8 << 20, 8 << 20),
    (libc::RLIMIT_MSGQUEUE, 819_200, 819_200),
    (libc::RLIMIT_STACK, 8 << 20, u64::MAX),
    (libc::RLIMIT_DATA, u64::MAX, u64::MAX),
    (libc::RLIMIT_RSS, u64::MAX, u64::MAX),
    (libc::RLIMIT_LOCKS, u64::MAX, u64::MAX),
    // About what it has on a host of 1 GiB; there it depends on the memory.
    (libc::RLIMIT_SIGPENDING, 4096, 4096),
];

/// The fixed limits as this host can give them: without the capability a child has no more than our hard limits. One
/// that the kernel does not know has no hard limit.
pub fn fixed_limits(own_hard: impl Fn(u32) -> Option<u64>, can_raise: bool) -> Vec<(u32, u64, u64)> {
    let given = |(resource, soft, hard): (u32, u64, u64)| {
        let own_hard = own_hard(resource)?;
        let most = if can_raise { u64::MAX } else { own_hard };
        Some((resource, soft.min(most), hard.min(most)))
    };
    FIXED_LIMITS.into_iter().filter_map(given).collect()
}
/// The longest name in any folder (NAME_MAX of Linux).
const NAME_BYTES_MAX: usize = 255;
/// Folders of a PATH that are looked into. One of 128 KiB could name 65,536, each of which takes a path here and an exec
/// in the child.
const FOLDERS_MAX: usize = 1024;

/// The paths to try, whether they come from a search, and the arguments.
fn found(program: &Program, environment: &Strings) -> (Vec<CString>, bool, Strings) {
    let argv = program.arguments();
    let name = argv.first().unwrap_or_default();
    let searched = !name.contains(&b'/');
    let programs = match searched {
        // In any folder it is too long: the kernel says so at the first.
        true if name.len() > NAME_BYTES_MAX => vec![c_string(name)],
        true => {
            let within = |folder: &[u8]| match folder {
                [] => c_string(name),
                _ => c_string([folder, b"/", name].concat()),
            };
            search_path(environment).split(|byte| *byte == b':').take(FOLDERS_MAX).map(within).collect()
        }
        false => vec![c_string(name)],
    };
    (programs, searched, argv)
}

/// How to get to a directory: first to the session's own, if it is there or below, and from there by the rest. Links in
/// the rest are the session's doing, so the rest is for the session's uid to follow.
fn steps_to(workspace: Option<&Workspace>, cwd: &str) -> (Option<(Folder, CString)>, Option<CString>) {
    let below = workspace.and_then(|workspace| Some((workspace, Path::new(cwd).strip_prefix(&workspace.path).ok()?)));
    match below {
        None => (None, Some(c_string(cwd))),
        Some((workspace, rest)) => {
            let rest = rest.as_os_str().as_bytes();
            let entered = (workspace.folder.clone(), workspace.name.clone());
            (Some(entered), (!rest.is_empty()).then(|| c_string(rest)))
        }
    }
}

/// A working directory as a command means it: below its session's where it is relative.
pub fn directory(base: &str, asked: Option<&str>) -> String {
    match asked {
        None => base.to_owned(),
        Some(asked) => Path::new(base).join(asked).to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    fn common(hard: u64) -> Common {
        Common {
            oom_score_adj: 500,
            nice: 0,
            umask: 0o77,
            no_new_privs: true,
            hard_limits: HardLimits {
                cpu: hard,
                address_space: hard,
                nproc: hard,
                nofile: hard,
                fsize: hard,
                core: hard,
            },
            core_is_piped: true,
            nproc: NprocRule::Exempt,
            nofile_before: None,
            signals: u64::MAX,
            inherit: false,
            drop_capabilities: false,
            fixed_limits: Vec::new(),
        }
    }

    #[test]
    fn inv14_only_the_workspace_is_entered_before_the_uid_changes() {
        let folder = File::open("/").map(OwnedFd::from).unwrap();
        let folder = Arc::new(Flock::lock(folder, FlockArg::LockShared).unwrap());
        let own = Workspace { path: "/w/s1".to_owned(), folder, name: c_string("s1") };
        let steps = |workspace, cwd| {
            let (workspace, cwd) = steps_to(workspace, cwd);
            let text = |path: Option<CString>| path.map(|path| path.into_string().unwrap());
            (text(workspace.map(|(_, name)| name)), text(cwd))
        };
        let both = |workspace: &str, cwd: &str| (Some(workspace.to_owned()), Some(cwd.to_owned()));
        assert_eq!(steps(None, "/root"), (None, Some("/root".into())));
        assert_eq!(steps(Some(&own), "/w/s1"), (Some("s1".into()), None));
        assert_eq!(steps(Some(&own), "/w/s1/link/x"), both("s1", "link/x"));
        assert_eq!(steps(Some(&own), "/w/s1/../s2"), both("s1", "../s2"));
        assert_eq!(steps(Some(&own), "/w/s10"), (None, Some("/w/s10".into())));
    }

    #[test]
    fn a_name_is_searched_and_a_path_is_not() {
        let environment = Strings::of(&[b"PATHS=/c", b"PATH=/a::b"]);
        let argv = |name: &str| Program::argv(&[name]);
        let (programs, searched, _) = found(&argv("x"), &environment);
        assert!(searched);
        assert_eq!(programs, [c_string("/a/x"), c_string("x"), c_string("b/x")]);
        let (programs, searched, _) = found(&argv("./x"), &environment);
        assert!(!searched);
        assert_eq!(programs, [c_string("./x")]);
    }

    #[test]
    fn inv7_a_search_takes_no_more_than_its_bound() {
        let folders = [b"PATH=/a", ":b".repeat(50_000).as_bytes()].concat();
        let environment = Strings::of(&[&folders]);
        let (programs, searched, _) = found(&Program::argv(&["x"]), &environment);
        assert_eq!((programs.len(), searched), (FOLDERS_MAX, true));
        let long = "x".repeat(100_000);
        let (programs, searched, _) = found(&Program::argv(&[&long]), &environment);
        assert_eq!((programs, searched), (vec![c_string(long)], true));
    }

    #[test]
    fn inv13_soft_is_hard_but_for_cpu_and_neither_passes_our_own() {
        let limits = Limits { cpu_ms: Some(1500), nofile: Some(100), core_bytes: Some(0), ..Limits::default() };
        assert_eq!(
            common(u64::MAX).rlimits(&limits),
            [(libc::RLIMIT_CPU, 2, 3), (libc::RLIMIT_NOFILE, 100, 100), (libc::RLIMIT_CORE, 1, 1)]
        );
        assert_eq!(common(50).rlimits(&limits)[1], (libc::RLIMIT_NOFILE, 50, 50));
    }

    #[test]
    fn inv14_limits_that_no_key_names_are_the_same_whoever_started_us() {
        let unlimited = fixed_limits(|_| Some(u64::MAX), false);
        assert_eq!(unlimited, FIXED_LIMITS);
        assert_eq!(fixed_limits(|_| Some(5), true), FIXED_LIMITS);
        let given = fixed_limits(|_| Some(5), false);
        assert!(given.contains(&(libc::RLIMIT_STACK, 5, 5)) && given.contains(&(libc::RLIMIT_RTPRIO, 0, 0)));
        assert!(fixed_limits(|_| None, true).is_empty());
        let common = Common { fixed_limits: vec![(libc::RLIMIT_RTPRIO, 0, 0)], ..common(9) };
        assert_eq!(common.rlimits(&Limits::default()), [(libc::RLIMIT_RTPRIO, 0, 0)]);
    }

    #[test]
    fn a_command_without_a_limit_of_descriptors_has_what_we_were_started_with() {
        let raised = Common { nofile_before: Some((64, 512)), ..common(512) };
        assert_eq!(raised.rlimits(&Limits::default()), [(libc::RLIMIT_NOFILE, 64, 512)]);
        let limits = Limits { nofile: Some(100), ..Limits::default() };
        assert_eq!(raised.rlimits(&limits), [(libc::RLIMIT_NOFILE, 100, 100)]);
        assert_eq!(common(512).rlimits(&Limits::default()), []);
    }
}
