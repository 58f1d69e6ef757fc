//! Processes that tests start: none outlives its test, and nobody waits for
//! one for ever.

use std::io::{Cursor, Error, ErrorKind, Read, Result};
use std::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::personality::{self, Persona};
use nix::sys::prctl::{set_no_new_privs, set_pdeathsig};
use nix::sys::resource::Resource;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, getpid, getppid, setgid, setgroups, setuid};

use crate::{PATIENCE, eventually};

/// Has a command's process killed when the thread that starts it ends, which
/// the kernel does also when nothing can be cleaned up any more. A test's
/// processes are therefore started by the test's own thread.
#[allow(
    unsafe_code,
    reason = "what a child does before it becomes the program"
)]
pub fn tie(command: &mut Command) -> &mut Command {
    let parent = getpid();
    let ask = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        // Who died before the question was asked is told by this only.
        if getppid() == parent {
            Ok(())
        } else {
            Err(Error::from(ErrorKind::Interrupted))
        }
    };
    // SAFETY: between fork and exec the child makes two system calls, prctl(2)
    // and getppid(2), and takes neither memory nor locks: errors without a
    // message have none.
    unsafe { command.pre_exec(ask) }
}

/// Has a command run as this uid, its primary group of the same number, in one
/// more group. Only root can.
#[allow(
    unsafe_code,
    reason = "what a child does before it becomes the program"
)]
pub(crate) fn in_group(command: &mut Command, uid: u32, group: u32) -> &mut Command {
    let become_other = move || {
        setgroups(&[Gid::from_raw(group)])?;
        setgid(Gid::from_raw(uid))?;
        Ok(setuid(Uid::from_raw(uid))?)
    };
    // SAFETY: between fork and exec the child makes three system calls, and takes
    // neither memory nor locks.
    unsafe { command.pre_exec(become_other) }
}

/// Has a command's code lie where it lies each time (personality(2)).
#[allow(
    unsafe_code,
    reason = "what a child does before it becomes the program"
)]
pub(crate) fn in_place(command: &mut Command) -> &mut Command {
    let stay = || {
        let now = personality::get()?;
        personality::set(now | Persona::ADDR_NO_RANDOMIZE)?;
        Ok(())
    };
    // SAFETY: between fork and exec the child makes two system calls, and takes
    // neither memory nor locks.
    unsafe { command.pre_exec(stay) }
}

/// Has a process get no more than that of something, until it or somebody else wants that
/// it gets more.
///
/// # Errors
///
/// The kernel's, if there is no such process.
#[allow(unsafe_code, reason = "prlimit(2), which `nix` does not have")]
pub fn limit(process: Pid, resource: Resource, most: u64) -> Result<()> {
    let (process, resource) = (process.as_raw(), resource as libc::__rlimit_resource_t);
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: it writes one limit, and reads none where there is no address.
    let got = unsafe { libc::prlimit(process, resource, std::ptr::null(), &raw mut limit) };
    if got != 0 {
        return Err(Error::last_os_error());
    }
    limit.rlim_cur = most;
    // SAFETY: it reads one limit, and writes none where there is no address.
    match unsafe { libc::prlimit(process, resource, &raw const limit, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(Error::last_os_error()),
    }
}

/// Does something in a thread in which, and in whose processes, fdatasync(2) fails
/// (seccomp(2)).
///
/// # Panics
///
/// If the kernel has no filters, and as `act` does.
#[allow(unsafe_code, reason = "a system call that `nix` does not have")]
pub fn where_fdatasync_fails(act: impl FnOnce() + Send) {
    let refuse = || {
        let jump = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
        let statement = |code, k| jump(code, k, 0, 0);
        let mut filter = [
            // The number is the first word of what a filter sees of a call.
            statement((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0),
            jump(
                (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
                libc::SYS_fdatasync as u32,
                0,
                1,
            ),
            statement(
                (libc::BPF_RET | libc::BPF_K) as u16,
                libc::SECCOMP_RET_ERRNO | libc::EIO as u32,
            ),
            statement(
                (libc::BPF_RET | libc::BPF_K) as u16,
                libc::SECCOMP_RET_ALLOW,
            ),
        ];
        let program = libc::sock_fprog {
            len: filter.len() as u16,
            filter: filter.as_mut_ptr(),
        };
        set_no_new_privs()?;
        // SAFETY: the kernel copies the program and what it points to before it returns,
        // and both live that long.
        let done = unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                libc::SECCOMP_MODE_FILTER,
                &raw const program,
            )
        };
        nix::Error::result(done)
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            refuse().expect("filters");
            act();
        });
        let done = thread.join();
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// A running process, killed when it is dropped or the test's thread ends.
#[derive(Debug)]
pub struct Process {
    /// There until somebody has waited for its end.
    child: Option<Child>,
}

impl Process {
    /// Starts a command.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start(command: &mut Command) -> Process {
        let child = tie(command).spawn();
        let child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Process { child: Some(child) }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        pid(self.id())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("our child");
    }

    /// Kills it with SIGKILL and waits for its end, though it is not dropped yet.
    pub(crate) fn kill_now(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Gone already is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Somebody else has waited for its end.
    pub(crate) fn has_ended(&mut self) {
        self.child = None;
    }

    /// Waits for its end.
    pub fn ended(mut self) -> ExitStatus {
        let mut child = self.child.take().expect(UNTIL_THE_END);
        patiently(child.id(), || child.wait()).expect("our child")
    }

    /// Waits for its end and returns what it says on the pipes it was given.
    pub fn output(mut self) -> Output {
        let child = self.child.take().expect(UNTIL_THE_END);
        patiently(child.id(), || child.wait_with_output()).expect("our child")
    }
}

const UNTIL_THE_END: &str = "only whoever waits for its end takes it";

impl Deref for Process {
    type Target = Child;

    fn deref(&self) -> &Child {
        self.child.as_ref().expect(UNTIL_THE_END)
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Child {
        self.child.as_mut().expect(UNTIL_THE_END)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_now();
    }
}

/// Waits for what only comes when a process ends; kills one that does not.
fn patiently<T>(id: u32, wait: impl FnOnce() -> T) -> T {
    let (waiting, has_ended) = mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let is_late = has_ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout);
        if is_late {
            let _ = kill(pid(id), Signal::SIGKILL);
        }
        is_late
    });
    let outcome = wait();
    drop(waiting);
    let is_late = watch.join().expect("it only waits");
    assert!(!is_late, "process {id} did not end within {PATIENCE:?}");
    outcome
}

/// In what state the kernel has a task, by its folder in `/proc` (proc(5)).
pub fn state(task: &Path) -> Option<char> {
    let stat = std::fs::read_to_string(task.join("stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Waits until the kernel has the main thread of a process in one of these states.
pub(crate) fn wait_for_state(process: Pid, states: &[char]) {
    let task = Path::new("/proc").join(process.to_string());
    eventually("the state of a process", || {
        let state = state(&task).expect("it lives");
        states.contains(&state).then_some(())
    });
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).expect("a pid"))
}

/// What a process says, line by line.
#[derive(Debug)]
pub struct Lines<R> {
    from: R,
    /// Heard, but not handed out yet.
    heard: Vec<u8>,
}

impl<R: Read + AsFd> Lines<R> {
    /// The lines of a pipe.
    pub fn of(from: R) -> Lines<R> {
        let heard = Vec::new();
        Lines { from, heard }
    }

    /// The next line, without its end.
    ///
    /// # Errors
    ///
    /// `TimedOut` after [`PATIENCE`], `UnexpectedEof` when there are no more.
    pub fn line(&mut self) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let rest = self.heard.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.heard, rest);
                line.pop();
                return String::from_utf8(line).map_err(Error::other);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let left = PollTimeout::try_from(left).map_err(Error::other)?;
            let mut pipe = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
            match poll(&mut pipe, left) {
                Ok(0) => return Err(ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let mut bytes = [0; 4096];
            match self.from.read(&mut bytes)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                len => self.heard.extend_from_slice(&bytes[..len]),
            }
        }
    }

    /// All that comes after these lines.
    pub fn rest(self) -> impl Read {
        Cursor::new(self.heard).chain(self.from)
    }
}

/// The place in proc(5) of the thread of a process that has this name, as far as the kernel
/// keeps names; none if there is none yet.
///
/// # Panics
///
/// If the process is gone.
pub fn thread_named(process: Pid, name: &str) -> Option<PathBuf> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("it lives");
    let mut tasks = tasks.map(|task| task.expect("it lives").path());
    tasks.find(|task| {
        let comm = std::fs::read_to_string(task.join("comm"));
        comm.is_ok_and(|comm| comm.trim_end() == &name[..name.len().min(COMM_LEN_MAX)])
    })
}

/// What the kernel keeps of a thread's name (prctl(2), PR_SET_NAME).
const COMM_LEN_MAX: usize = 15;
