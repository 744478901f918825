//! Starting a program by `clone(CLONE_VM | CLONE_VFORK)`, as posix_spawn does inside libc, with what it cannot do.
//!
//! Runs on a worker. Until its exec the child shares our memory and we stand still, so a start costs the same
//! however large we are. In return the child may not do anything that another thread could be in the middle of: it
//! makes raw system calls from the list in [`child`], on values that the parent prepared, and nothing else. It does
//! not allocate, lock, log or panic; no libc wrapper with a state of its own is called (`setuid` there would change
//! every thread of the parent).

use std::ffi::{CStr, CString, c_char, c_int, c_long, c_void};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::unistd::Pid;

use crate::strings::Strings;

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
    /// Entered before the uid changes, for folders above it may be closed to that uid: a directory that we made.
    pub workspace: Option<CString>,
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
    /// Its input is a terminal, which becomes the one that controls it.
    pub terminal: bool,
    /// Signals whose dispositions may not be the default here; bit N-1 for signal N.
    pub signals: u64,
}

/// A uid and gid to run as, with no other group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
}

/// What the child says through the memory that it shares with us; another thread may read it while we stand still.
#[derive(Debug, Default)]
pub struct Report {
    pid: AtomicI32,
    stage: AtomicI32,
    errno: AtomicI32,
}

impl Report {
    /// The child, as soon as it runs; pinned until the thread that started it has reaped it or given it away.
    pub fn pid(&self) -> Option<Pid> {
        Some(self.pid.load(Ordering::Acquire)).filter(|pid| *pid > 0).map(Pid::from_raw)
    }
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
    let _ = nix::sys::wait::waitpid(pid, None);
    Err((stage, Errno::from_raw(report.errno.load(Ordering::Acquire))))
}

/// Kills every process of a uid, by a child that takes the uid on for that: whatever forks meanwhile is hit too.
#[allow(clippy::disallowed_methods, reason = "waits for one named child, which does a single thing and ends")]
pub fn kill_all_of(uid: u32) {
    let mut stack = Stack::new();
    let top = stack.0.as_mut_ptr_range().end.cast::<c_void>();
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let mut uid = uid;
    // SAFETY: as in `clone_child`: we stand still until the child has ended, so stack and uid outlive its use of them.
    let pid = unsafe { libc::clone(kill_as, top, flags, (&raw mut uid).cast::<c_void>()) };
    if pid > 0 {
        let _ = nix::sys::wait::waitpid(Pid::from_raw(pid), None);
    }
}

/// Runs in the child of [`kill_all_of`].
extern "C" fn kill_as(uid: *mut c_void) -> c_int {
    // SAFETY: the pointer is the parent's number, alive until our end.
    let uid = unsafe { *uid.cast::<u32>() };
    // SAFETY: a raw system call on plain numbers; libc's wrapper would change the parent's threads.
    let changed =
        unsafe { libc::syscall(libc::SYS_setresuid, c_long::from(uid), c_long::from(uid), c_long::from(uid)) };
    if changed == 0 && uid != 0 {
        // SAFETY: a raw system call on plain numbers; we are none but that uid by now, so it reaches nobody else.
        unsafe { libc::syscall(libc::SYS_kill, -1 as c_long, libc::SIGKILL as c_long) };
    }
    exit(0)
}

/// One raw system call; a failure is told with its stage, and ends the child.
macro_rules! step {
    ($script:expr, $stage:expr, $number:expr $(, $argument:expr)*) => {{
        // SAFETY: a raw system call on values that the parent prepared and keeps alive; it touches nothing of libc
        // but errno, which is this thread's and the parent's in turn, never at once.
        let result = unsafe { libc::syscall($number $(, $argument as c_long)*) };
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
    for &(resource, soft, hard) in &plan.limits {
        limit(script, resource, soft, hard);
    }
    if plan.nice != 0 {
        step!(script, Stage::Nice, libc::SYS_setpriority, libc::PRIO_PROCESS, 0, plan.nice);
    }
    step!(script, Stage::Session, libc::SYS_umask, plan.umask);
    if let Some(workspace) = &plan.workspace {
        step!(script, Stage::Cwd, libc::SYS_chdir, workspace.as_ptr());
    }
    if let Some(Identity { uid, gid }) = plan.identity {
        step!(script, Stage::User, libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>());
        step!(script, Stage::User, libc::SYS_setresgid, gid, gid, gid);
        step!(script, Stage::User, libc::SYS_setresuid, uid, uid, uid);
    }
    if let Some(cwd) = &plan.cwd {
        step!(script, Stage::Cwd, libc::SYS_chdir, cwd.as_ptr());
    }
    if let Some(nproc) = plan.nproc {
        limit(script, libc::RLIMIT_NPROC, nproc, nproc);
    }
    if plan.no_new_privs {
        step!(script, Stage::Privileges, libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    }
    // After the change of uid, which would clear it; then a look whether the parent was gone before it was set.
    step!(script, Stage::Parent, libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
    if step!(script, Stage::Parent, libc::SYS_getppid) != c_long::from(script.parent) {
        exit(1);
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
    if plan.programs.is_empty() {
        exit(0);
    }
    exec(script)
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
