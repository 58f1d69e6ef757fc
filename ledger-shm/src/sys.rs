//! The system calls on memory: map, commit, fault in, seal, sleep and wake.
//! Those on names are in `object`, those on sockets in `socket`.
#![allow(unsafe_code, reason = "system calls take raw addresses")]

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use nix::fcntl::{FallocateFlags, SealFlag};
use nix::sys::memfd::MFdFlags;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// The processor's own clock; 0 where it has none that this knows.
#[inline]
pub(crate) fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, and it reads no memory. Who asks has
    // seen that the kernel's own clock, in this process, is read with it.
    return unsafe { std::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    0
}

/// Maps `len` bytes of a shared object.
pub(crate) fn map_shared(
    fd: impl AsFd,
    len: NonZeroUsize,
    writable: bool,
) -> io::Result<NonNull<u8>> {
    let mut protection = ProtFlags::PROT_READ;
    protection.set(ProtFlags::PROT_WRITE, writable);
    // SAFETY: without MAP_FIXED the kernel picks an address that overlaps
    // no mapping of this process, so no existing reference is affected.
    let address =
        unsafe { nix::sys::mman::mmap(None, len, protection, MapFlags::MAP_SHARED, fd, 0) }?;
    match writable {
        true => advised(address.cast(), len.get(), MmapAdvise::MADV_DONTFORK),
        false => Ok(address.cast()),
    }
}

/// One private page that reads as zero in a fork's child (madvise(2),
/// MADV_WIPEONFORK).
pub(crate) fn map_wiped_on_fork(len: NonZeroUsize) -> io::Result<NonNull<u8>> {
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: as in `map_shared`: a fresh range of the kernel's choice.
    let address =
        unsafe { nix::sys::mman::mmap_anonymous(None, len, protection, MapFlags::MAP_PRIVATE) }?;
    advised(address.cast(), len.get(), MmapAdvise::MADV_WIPEONFORK)
}

/// A mapping that nobody has yet, with this advice; without it there is none.
fn advised(address: NonNull<u8>, len: usize, advice: MmapAdvise) -> io::Result<NonNull<u8>> {
    if let Err(error) = advise(address, len, advice) {
        // SAFETY: its callers have just mapped it, and handed it out to nobody.
        unsafe { unmap(address, len) };
        return Err(error);
    }
    Ok(address)
}

/// # Safety
///
/// The range was returned by `map_shared` in this process, and nothing
/// refers into it any more.
pub(crate) unsafe fn unmap(address: NonNull<u8>, len: usize) {
    // SAFETY: the caller's contract is munmap's.
    let outcome = unsafe { nix::sys::mman::munmap(address.cast::<c_void>(), len) };
    debug_assert_eq!(outcome, Ok(()), "munmap of our own mapping");
}

fn advise(address: NonNull<u8>, len: usize, advice: MmapAdvise) -> io::Result<()> {
    // SAFETY: the advices used here change neither the contents nor the
    // protection of the caller's mapping, only what fork and faults do.
    Ok(unsafe { nix::sys::mman::madvise(address.cast::<c_void>(), len, advice) }?)
}

/// Enters a range's pages into this process's page table (madvise(2),
/// MADV_POPULATE_READ and _WRITE), so that no later access faults. Kernels
/// before 5.14 cannot do that; there each page faults when it is first touched.
///
/// # Safety
///
/// The range lies inside one mapping of this process.
pub(crate) unsafe fn populate(address: NonNull<u8>, len: usize, writable: bool) -> io::Result<()> {
    let advice = if writable {
        libc::MADV_POPULATE_WRITE
    } else {
        libc::MADV_POPULATE_READ
    };
    // SAFETY: populating maps pages of the object; it changes no byte.
    match unsafe { libc::madvise(address.as_ptr().cast(), len, advice) } {
        0 => Ok(()),
        _ => match nix::Error::last() {
            nix::Error::EINVAL => Ok(()),
            error => Err(error.into()),
        },
    }
}

/// Commits the memory of an object, so that touching it later cannot fail.
pub(crate) fn commit(fd: impl AsFd, len: usize) -> io::Result<()> {
    let len = i64::try_from(len).map_err(io::Error::other)?;
    let commit = || nix::fcntl::fallocate(fd.as_fd(), FallocateFlags::empty(), 0, len);
    uninterrupted(|| Ok(commit()?))
}

/// Does something again, as often as a signal interrupts it.
///
/// # Errors
///
/// Those of what is done, but for that.
///
/// ```
/// use ledger_shm::uninterrupted;
///
/// // The standard library's tells its caller.
/// let names = uninterrupted(|| std::fs::read_dir("/dev/shm"))?;
/// # drop(names);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// An anonymous memory object of fixed size: sealed against shrinking and
/// growing, so that whoever may write it cannot raise SIGBUS in others.
pub(crate) fn create_sealed(name: &str, len: usize) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let fd = nix::sys::memfd::memfd_create(name, flags)?;
    let offset = i64::try_from(len).map_err(io::Error::other)?;
    uninterrupted(|| Ok(nix::unistd::ftruncate(&fd, offset)?))?;
    commit(&fd, len)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_ADD_SEALS(seals))?;
    Ok(fd)
}

/// Whether an object can neither shrink nor grow under its mappings.
pub(crate) fn is_sealed(fd: impl AsFd) -> bool {
    let needed = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    nix::fcntl::fcntl(fd.as_fd(), nix::fcntl::FcntlArg::F_GET_SEALS)
        .is_ok_and(|seals| SealFlag::from_bits_truncate(seals).contains(needed))
}

/// Whether another open file description refers to this file, be it only
/// through a mapping.
pub(crate) fn is_shared(fd: impl AsFd) -> io::Result<bool> {
    let lease = |kind: i32| {
        // SAFETY: the descriptor is live for the call, which takes an integer.
        let outcome = unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETLEASE, kind) };
        nix::errno::Errno::result(outcome)
    };
    match lease(libc::F_WRLCK) {
        Ok(_) => {
            lease(libc::F_UNLCK)?;
            Ok(false)
        }
        Err(nix::Error::EAGAIN) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Size and owner of an object.
pub(crate) fn size_and_owner(fd: impl AsFd) -> io::Result<(usize, u32, u32)> {
    let stat = nix::sys::stat::fstat(fd.as_fd())?;
    Ok((
        usize::try_from(stat.st_size).unwrap_or(0),
        stat.st_uid,
        stat.st_mode & 0o7777,
    ))
}

/// Sleeps while `word` holds `expected`, at most `timeout` (futex(2)).
///
/// Errors are of no consequence and not reported: whoever sleeps looks
/// again at what it waits for, and the word may be anybody's to write.
pub(crate) fn futex_wait(word: &AtomicU32, expected: u32, timeout: Duration) {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: the word and the timespec are live for the call, and a
    // shared FUTEX_WAIT reads both and writes neither.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &raw const timeout,
        );
    }
}

/// How many words one thread can sleep at (futex_waitv(2)).
pub(crate) const FUTEXES_MAX: usize = libc::FUTEX_WAITV_MAX as usize;

/// Sleeps while every word holds what is expected of it, at most `timeout`; for
/// ever without one. False if the kernel cannot do that, or may not here.
pub(crate) fn futex_wait_any(words: &[(&AtomicU32, u32)], timeout: Option<Duration>) -> bool {
    // SAFETY: it has integers only.
    let mut waiters: [libc::futex_waitv; FUTEXES_MAX] = unsafe { std::mem::zeroed() };
    for (waiter, (word, expected)) in waiters.iter_mut().zip(words) {
        waiter.val = u64::from(*expected);
        waiter.uaddr = word.as_ptr() as u64;
        // Shared, as FUTEX2_PRIVATE is not set.
        waiter.flags = libc::FUTEX2_SIZE_U32 as u32;
    }
    // Unlike futex(2) it takes the time at which to give up.
    let deadline = timeout.map(|timeout| {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or(TimeSpec::new(0, 0));
        *(now + TimeSpec::from_duration(timeout)).as_ref()
    });
    let deadline = deadline
        .as_ref()
        .map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the waiters, the words they name and the deadline are live for the
    // call, and the kernel only reads them.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            waiters.as_ptr(),
            words.len().min(FUTEXES_MAX),
            0,
            deadline,
            libc::CLOCK_MONOTONIC,
        )
    };
    let slept = [nix::Error::EAGAIN, nix::Error::EINTR, nix::Error::ETIMEDOUT];
    outcome >= 0 || slept.contains(&nix::Error::last())
}

/// Wakes at most `count` sleepers of `word`, in all processes.
pub(crate) fn futex_wake(word: &AtomicU32, count: i32) {
    // SAFETY: FUTEX_WAKE uses the address as a key and does not write it.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count);
    }
}

/// This process's effective uid.
pub(crate) fn own_uid() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[cfg(all(test, not(loom)))]
mod tests;
