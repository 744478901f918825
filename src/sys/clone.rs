//! Starting a program by `clone(CLONE_VM | CLONE_VFORK)`, as posix_spawn does inside libc, with what it cannot do.
//!
//! Runs on a worker. Until its exec the child shares our memory and we stand still, so a start costs the same
//! however large we are. In return the child may not do anything that another thread could be in the middle of: it
//! makes raw system calls from the list in [`child`], on values that the parent prepared, and nothing else. It does
//! not allocate, lock, log or panic; no libc wrapper with a state of its own is called (`setuid` there would change
//! every thread of the parent).

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::libc;
use nix::unistd::Pid;

use crate::strings::Strings;

/// One raw system call of a child.
macro_rules! raw {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: a raw system call on values that the parent prepared and keeps alive; it touches nothing of libc
        // but errno, which is this thread's and the parent's in turn, never at once.
        unsafe { libc::syscall($number $(, $argument as c_long)*) }
    };
}

mod helper;
mod report;

use super::starter::{CAP_KILL, Header, Sets};

pub(super) use self::helper::help;
pub use self::helper::kill_all_of;
pub use self::report::Report;

/// Everything about a child, decided before it exists.
#[derive(Debug)]
pub struct Plan {
    /// Paths to try in order, as `execvp` does; none: the child is a trial, and ends with success before its exec.
    pub programs: Vec<CString>,
    /// The paths come from a search through PATH, so that none found is an answer of its own.
    pub searched: bool,
    pub argv: Strings,
    /// `NAME=VALUE` each.
    pub envp: Strings,
    /// Entered before the uid changes, for folders above it may be closed to that uid: a directory that we made, by its
    /// name in a folder that we hold, so that nothing on a path leads elsewhere.
    pub workspace: Option<(Folder, CString)>,
    /// Entered as the uid that the child has: nobody gets by us where that uid may not go.
    pub cwd: Option<CString>,
    /// Resource and value, soft and hard; RLIMIT_NPROC is `nproc`.
    pub limits: Vec<(u32, u64, u64)>,
    /// Set after the change of uid: before it, the new uid's count would make exec fail.
    pub nproc: Option<u64>,
    pub oom_score_adj: Option<CString>,
    pub nice: i32,
    pub umask: u32,
    pub identity: Option<Identity>,
    pub no_new_privs: bool,
    /// Our own uid has capabilities that are to stay ours.
    pub drop_capabilities: bool,
    /// It gets a session keyring of its own, and not the one of whoever started us.
    pub fresh_keyring: bool,
    /// Its input is a terminal, which becomes the one that controls it.
    pub terminal: bool,
    /// Signals whose dispositions may not be the default here; bit N-1 for signal N.
    pub signals: u64,
}

/// A folder that is held, and locked, as long as anybody may enter what is in it.
pub type Folder = Arc<Flock<OwnedFd>>;

/// A uid and gid to run as, with no other group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// A uid under which no process ever runs, and which no other uid's identity has. A process of ours that acts as
    /// `uid` has it as its real and saved uid: the kernel lets a process signal another whose real or saved uid is its
    /// own real or effective one, so nothing that runs under `uid` can signal, stop or trace it. It differs for each
    /// uid because that rule holds for us too: with one for all, `kill(-1)` as one uid would reach whatever we do as
    /// another.
    pub neutral: u32,
}

/// The step at which a command could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Pipes = 1,
    Fork,
    Session,
    Oom,
    Limits,
    Nice,
    Cwd,
    User,
    Privileges,
    Parent,
    Stdio,
    Signals,
    Resolve,
    Exec,
    Workspace,
    Terminal,
}

impl Stage {
    const ALL: [Stage; 16] = [
        Stage::Pipes,
        Stage::Fork,
        Stage::Session,
        Stage::Oom,
        Stage::Limits,
        Stage::Nice,
        Stage::Cwd,
        Stage::User,
        Stage::Privileges,
        Stage::Parent,
        Stage::Stdio,
        Stage::Signals,
        Stage::Resolve,
        Stage::Exec,
        Stage::Workspace,
        Stage::Terminal,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Pipes => "pipes",
            Stage::Fork => "fork",
            Stage::Session => "session",
            Stage::Oom => "oom_score_adj",
            Stage::Limits => "limits",
            Stage::Nice => "nice",
            Stage::Cwd => "cwd",
            Stage::User => "user",
            Stage::Privileges => "no_new_privs",
            Stage::Parent => "parent",
            Stage::Stdio => "stdio",
            Stage::Signals => "signals",
            Stage::Resolve => "resolve",
            Stage::Exec => "exec",
            Stage::Workspace => "workspace",
            Stage::Terminal => "terminal",
        }
    }
}

/// keyctl(2); libc has no names for its commands.
const KEYCTL_JOIN_SESSION_KEYRING: c_long = 1;

/// Bytes of the child's stack until its exec: a few frames without buffers.
const STACK_BYTES: usize = 64 * 1024;

/// The stack on which children run until their exec; one a thread, used again and again.
pub struct Stack(Vec<u128>);

impl Stack {
    pub fn new() -> Self {
        Stack(vec![0; STACK_BYTES / size_of::<u128>()])
    }
}

/// A child that has passed its exec, or a trial that has ended.
pub struct Cloned {
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

/// All that the child reads; borrowed from the parent, which stands still meanwhile.
struct Script<'a> {
    plan: &'a Plan,
    argv: Vec<*const c_char>,
    envp: Vec<*const c_char>,
    stdio: [RawFd; 3],
    parent: libc::pid_t,
    report: &'a Report,
}

/// Starts a child and returns after its exec. The caller's signals must all be blocked.
#[allow(clippy::disallowed_methods, reason = "a child whose exec failed has ended, and its number is told to nobody")]
pub fn clone_child(
    plan: &Plan,
    stdio: [RawFd; 3],
    stack: &mut Stack,
    report: &Report,
) -> Result<Cloned, (Stage, Errno)> {
    let pointers = |all: &Strings| {
        let mut pointers = Vec::with_capacity(all.count() + 1);
        pointers.extend(all.c_strings().map(CStr::as_ptr).chain([std::ptr::null()]));
        pointers
    };
    let script = Script {
        plan,
        argv: pointers(&plan.argv),
        envp: pointers(&plan.envp),
        stdio,
        parent: std::process::id() as libc::pid_t,
        report,
    };
    let mut pidfd: c_int = -1;
    let top = stack.0.as_mut_ptr_range().end.cast::<c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let script_pointer = (&raw const script).cast_mut().cast::<c_void>();
    // SAFETY: CLONE_VFORK suspends this thread until the child has called exec or has ended, so `script`, `stack` and
    // `pidfd` outlive every use the child makes of them; the stack is ours alone, 16-byte aligned and grows downwards
    // from `top`; `child` keeps to raw system calls, as this file's head says.
    let pid = unsafe { libc::clone(child, top, flags, script_pointer, &raw mut pidfd) };
    if pid < 0 {
        return Err((Stage::Fork, Errno::last()));
    }
    let pid = Pid::from_raw(pid);
    // SAFETY: the kernel has just stored a new descriptor for CLONE_PIDFD, and nobody else knows it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    let stage = report.stage.load(Ordering::Acquire);
    let Some(stage) = Stage::ALL.into_iter().find(|known| *known as i32 == stage) else {
        return Ok(Cloned { pid, pidfd });
    };
    // The child has reported and is on its way out: this wait is short, and names it.
    report.forget();
    let _ = nix::sys::wait::waitpid(pid, None);
    Err((stage, Errno::from_raw(report.errno.load(Ordering::Acquire))))
}

/// One raw system call of the child; a failure is told with its stage, and ends it.
macro_rules! step {
    ($script:expr, $stage:expr, $number:expr $(, $argument:expr)*) => {{
        let result = raw!($number $(, $argument)*);
        if result < 0 { fail($script, $stage) }
        result
    }};
}

/// Runs in the child, between clone and exec.
extern "C" fn child(script: *mut c_void) -> c_int {
    // SAFETY: the pointer is the parent's `Script`, alive and unchanged until our exec or end.
    let script = unsafe { &*script.cast::<Script>() };
    let plan = script.plan;
    let own_pid = step!(script, Stage::Fork, libc::SYS_getpid);
    script.report.pid.store(own_pid as i32, Ordering::Release);
    step!(script, Stage::Session, libc::SYS_setsid);
    if let Some(value) = &plan.oom_score_adj {
        let path = c"/proc/self/oom_score_adj".as_ptr();
        let file = step!(script, Stage::Oom, libc::SYS_openat, libc::AT_FDCWD, path, libc::O_WRONLY | libc::O_CLOEXEC);
        step!(script, Stage::Oom, libc::SYS_write, file, value.as_ptr(), value.count_bytes());
        step!(script, Stage::Oom, libc::SYS_close, file);
    }
    if let Some((folder, name)) = &plan.workspace {
        // Before the limits, of which one may forbid another descriptor; the exec closes this one.
        let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let workspace = step!(script, Stage::Cwd, libc::SYS_openat, folder.as_raw_fd(), name.as_ptr(), flags);
        step!(script, Stage::Cwd, libc::SYS_fchdir, workspace);
    }
    // Before the limits, one of which is about it.
    if plan.nice != 0 {
        step!(script, Stage::Nice, libc::SYS_setpriority, libc::PRIO_PROCESS, 0, plan.nice);
    }
    for &(resource, soft, hard) in &plan.limits {
        limit(script, resource, soft, hard);
    }
    step!(script, Stage::Session, libc::SYS_umask, plan.umask);
    let is_trial = plan.programs.is_empty();
    if is_trial {
        // A trial may hang in a file system, and is not to hold our listeners and the pipes of others meanwhile.
        step!(script, Stage::Stdio, libc::SYS_close_range, 0, libc::c_uint::MAX, 0);
    }
    if plan.fresh_keyring {
        // As our own uid, whose quota is not a client's to use up. A kernel without keyrings has none to leak, and one
        // that refuses leaves the empty one of this thread: see `sys::starter`.
        raw!(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0);
    }
    if let Some(identity) = plan.identity {
        act_as(script, identity);
    }
    // After the change of uid, which would clear it, and before anything that may hang; then a look whether the parent
    // was gone before it was set.
    step!(script, Stage::Parent, libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
    if step!(script, Stage::Parent, libc::SYS_getppid) != c_long::from(script.parent) {
        exit(1);
    }
    if let Some(cwd) = &plan.cwd {
        step!(script, Stage::Cwd, libc::SYS_chdir, cwd.as_ptr());
    }
    if is_trial {
        exit(0);
    }
    if plan.no_new_privs {
        step!(script, Stage::Privileges, libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    }
    for (to, from) in script.stdio.into_iter().enumerate() {
        step!(script, Stage::Stdio, libc::SYS_dup3, from, to, 0);
    }
    if plan.terminal {
        // A session of its own without a terminal: it takes this one, and becomes its foreground.
        step!(script, Stage::Terminal, libc::SYS_ioctl, 0, libc::TIOCSCTTY, 0);
    }
    // CLOEXEC, not closing: the parent's memory still counts on its descriptors, and errors are told by memory anyway.
    step!(script, Stage::Stdio, libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    reset_signals(script);
    if let Some(Identity { uid, .. }) = plan.identity {
        // From here on other processes of the uid can signal it, so what is left is short. No capability is needed, for
        // the uid is the effective one already; that stays as it is, and with it the parent-death signal.
        step!(script, Stage::User, libc::SYS_setresuid, uid, uid, uid);
    }
    if let Some(nproc) = plan.nproc {
        // After the real uid has changed: a limit that is there before, and less than what the uid has now, would make
        // exec fail.
        limit(script, libc::RLIMIT_NPROC, nproc, nproc);
    }
    if plan.drop_capabilities {
        // After everything that needs them. With no_new_privs an exec keeps what a file's capabilities and these have in
        // common.
        let header = Header::of_this_thread();
        step!(script, Stage::User, libc::SYS_capset, &raw const header, [Sets::default(); 2].as_ptr());
    }
    exec(script)
}

/// Takes on everything of an identity but the real uid: from here on files open as they do for the command, and nothing
/// that runs under its uid can signal, stop or trace this child, which shares our memory. A trial ends so. With our own
/// ids and only the file system's uid of the command it would keep CAP_SYS_PTRACE, which opens any /proc/PID/cwd, and
/// so say yes where no command can start.
fn act_as(script: &Script, Identity { uid, gid, neutral }: Identity) {
    if !script.plan.no_new_privs {
        // What a set-user-ID program or a file's capabilities could give. With no_new_privs they give nothing anyway,
        // and a program whose capabilities are out of bounds, like ping, would not even start.
        drop_bounding_set();
    }
    step!(script, Stage::User, libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>());
    step!(script, Stage::User, libc::SYS_setresgid, gid, gid, gid);
    // Who lacks a capability of this child can neither trace it nor open its memory, also where fs.suid_dumpable has
    // become 1 and the start of another command resets the flag of this memory for a moment. So one stays permitted
    // until the exec, out of bounds, for no_new_privs lets an exec keep what is permitted. Where that cannot be had, the
    // flag alone has to do.
    let kept = Sets { permitted: 1 << CAP_KILL, ..Sets::default() };
    let keeps = raw!(libc::SYS_prctl, libc::PR_CAPBSET_DROP, CAP_KILL, 0, 0, 0) == 0
        && raw!(libc::SYS_prctl, libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) == 0;
    step!(script, Stage::User, libc::SYS_setresuid, neutral, uid, neutral);
    let header = Header::of_this_thread();
    if !keeps || raw!(libc::SYS_capset, &raw const header, [kept, Sets::default()].as_ptr()) != 0 {
        step!(script, Stage::User, libc::SYS_capset, &raw const header, [Sets::default(); 2].as_ptr());
    }
    step!(script, Stage::User, libc::SYS_prctl, libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
}

/// Until the kernel knows no more of them.
fn drop_bounding_set() {
    for capability in 0..c_long::from(u64::BITS) {
        if raw!(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
            return;
        }
    }
}

/// Tries each path, as execvp does; but a folder that may not be looked into has no say in whether there is a program.
fn exec(script: &Script) -> ! {
    let searched = script.plan.searched;
    let mut told = None;
    for program in &script.plan.programs {
        // SAFETY: path and both arrays are NUL-terminated, prepared by the parent and alive; on success nothing of
        // this program is left to be unsafe.
        unsafe { libc::syscall(libc::SYS_execve, program.as_ptr(), script.argv.as_ptr(), script.envp.as_ptr()) };
        match Errno::last_raw() {
            libc::ENOENT | libc::ENOTDIR if searched => {}
            libc::EACCES if searched => {
                // SAFETY: as above; it only looks.
                let there = unsafe { libc::syscall(libc::SYS_faccessat, libc::AT_FDCWD, program.as_ptr(), libc::F_OK) };
                if there == 0 {
                    told.get_or_insert(libc::EACCES);
                }
            }
            errno => {
                told = Some(errno);
                break;
            }
        }
    }
    match told {
        Some(errno) => fail_with(script, Stage::Exec, errno),
        None => fail_with(script, Stage::Resolve, libc::ENOENT),
    }
}

fn limit(script: &Script, resource: u32, soft: u64, hard: u64) {
    let value = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    let none = std::ptr::null_mut::<libc::rlimit64>();
    step!(script, Stage::Limits, libc::SYS_prlimit64, 0, resource, &raw const value, none);
}

/// Every disposition to its default, then nothing blocked: what the daemon ignores must not leak into a command.
fn reset_signals(script: &Script) {
    /// `struct kernel_sigaction`: handler, flags, restorer, mask; all zero is SIG_DFL.
    const DEFAULT: [u64; 4] = [0; 4];
    const SET_BYTES: usize = 8;
    let fixed = 1 << (libc::SIGKILL - 1) | 1 << (libc::SIGSTOP - 1);
    for signal in 1..=64 {
        if (script.plan.signals & !fixed) >> (signal - 1) & 1 == 1 {
            let none = std::ptr::null_mut::<u64>();
            step!(script, Stage::Signals, libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), none, SET_BYTES);
        }
    }
    let empty = 0u64;
    let none = std::ptr::null_mut::<u64>();
    step!(script, Stage::Signals, libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const empty, none, SET_BYTES);
}

fn fail(script: &Script, stage: Stage) -> ! {
    fail_with(script, stage, Errno::last_raw())
}

fn fail_with(script: &Script, stage: Stage, errno: c_int) -> ! {
    script.report.errno.store(errno, Ordering::Release);
    script.report.stage.store(stage as i32, Ordering::Release);
    exit(127)
}

fn exit(code: c_int) -> ! {
    // SAFETY: ends this child without running anything of the parent's (no atexit, no destructors).
    unsafe { libc::_exit(code) }
}

/// Text for the child that holds no NUL: it was checked when it was read.
pub fn c_string(text: impl Into<Vec<u8>>) -> CString {
    CString::new(text).unwrap_or_else(|_| CStr::to_owned(c""))
}
